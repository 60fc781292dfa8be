"""Reports: what every command returns, and one file a format that writes it."""
