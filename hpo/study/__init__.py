"""The commands of `rml-study`, one module for each group."""
