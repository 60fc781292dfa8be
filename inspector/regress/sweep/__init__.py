"""Counting many models for a regression table."""
