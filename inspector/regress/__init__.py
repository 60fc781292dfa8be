"""Baselines, comparison and row states. `inspect diff` runs here: no torch, no pandas."""
