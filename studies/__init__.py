"""Ready-made studies."""
