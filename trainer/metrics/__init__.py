"""Scores of predictions: pixel counts, Dice, distances, bootstrap. Few need torch."""
