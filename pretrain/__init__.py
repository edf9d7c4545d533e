"""Stage one: train a feature extractor without labels."""
