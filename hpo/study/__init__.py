"""The commands of `rml-study`, one module each, and what they share."""
