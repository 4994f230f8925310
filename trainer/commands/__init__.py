"""What `rmldnn` does: run a config, serve, predict, export, plot."""
