"""The commands of `rml-data`: prepares data folders, and looks at them before training."""
