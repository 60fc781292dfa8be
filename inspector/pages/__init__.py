"""The page of `inspect report`."""
