"""Planted faults of initialisation, and clean models."""
