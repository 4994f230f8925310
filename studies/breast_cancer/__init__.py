"""Lesions in breast ultrasound (BUSI): a search over optimizer, learning rate and loss."""
