"""Trains a network: the loop over epochs, an epoch, a step, its CUDA graph."""
