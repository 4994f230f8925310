"""What is decided and checked before anything is built: config, data and network together."""
