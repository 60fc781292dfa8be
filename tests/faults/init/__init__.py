"""Planted faults of initialisation, each a mistake that people make, and clean models."""
