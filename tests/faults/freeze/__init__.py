"""Planted faults of freezing, and clean models, by what they are about."""
