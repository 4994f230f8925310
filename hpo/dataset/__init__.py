"""The user's data folder: its parts found, surveyed, hashed and split; its masks understood."""
