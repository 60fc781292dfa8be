"""Counting: a model becomes a trace, a trace becomes a report."""
