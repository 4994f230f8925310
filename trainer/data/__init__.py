"""Data sets of images, masks and arrays: found, paired, read, surveyed, transformed; no torch."""
