"""Batches of a data set, on the device where the network is: copied there, augmented there."""
