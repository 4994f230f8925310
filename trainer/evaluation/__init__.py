"""Evaluates a network on a set, and writes its predictions."""
