"""The engine: config -> network -> training -> Dice -> predictions. Knows nothing of the driver."""

__version__ = "0.1.0"
