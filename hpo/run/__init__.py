"""A search while it runs: session, slots' threads, one trial from start to end, final test."""
