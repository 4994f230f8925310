"""The user's data folder: found, surveyed, hashed, split; what its masks can tell."""
