"""The engine: config -> network -> training -> Dice -> predictions. No driver here."""

__version__ = "0.1.0"
