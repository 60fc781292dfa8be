"""The data-parallel training loop and its checks."""
