"""The commands of `rml-data`: prepare a data folder, check one before training."""
