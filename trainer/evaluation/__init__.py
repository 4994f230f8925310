"""Evaluates a network on a data set: losses, scores, prediction files."""
