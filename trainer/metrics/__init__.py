"""Scores of predictions: pixel counts, Dice, distances, intervals by bootstrap."""
