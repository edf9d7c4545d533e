"""Stage one: train a feature extractor without labels, or with those of another task."""
