"""What `import hpo` offers in Python: a search, and a study that is there."""
