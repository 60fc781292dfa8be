"""What it takes to serve a language model: memory and bounds of time on a device, batch by batch."""
