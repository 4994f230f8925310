"""The built-in demo: a search on synthetic breast ultrasound, where no data is at hand."""
