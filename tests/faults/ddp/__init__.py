"""Planted faults of data-parallel training, by what they are about: each trains, most without a word, and
none trains right."""
