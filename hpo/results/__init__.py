"""What a study leaves: best model, list of trials, artifacts, provenance."""
