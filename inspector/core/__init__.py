"""What every room stands on: errors, the log, files, settings, names. No torch."""
