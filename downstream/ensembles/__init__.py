"""Ensembles of stage two: what several classifiers gain over their best one, and what they cost."""
