"""Sharded training on many devices, simulated: torch.distributed's own code on a fake process group."""
