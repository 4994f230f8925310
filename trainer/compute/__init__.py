"""Where a run computes: device, memory, how many processes."""
