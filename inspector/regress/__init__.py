"""Baselines, comparison and row states. `inspect diff` runs here: no torch, no pandas until it prints."""
