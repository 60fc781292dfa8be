"""What the command line and Python share: a model in, a `Report` out. One file a command."""
