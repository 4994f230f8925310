"""The driver: command line, study, slots, launchers, results."""
