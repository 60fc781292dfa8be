"""The version of inspector: part of every report and of every key of the cache."""

__version__ = "0.1.0"
