"""Files that a run writes while it trains: logs, checkpoints, the state to resume from."""
