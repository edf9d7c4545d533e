"""Supervised heads on features that are computed once: many small problems solved together."""
