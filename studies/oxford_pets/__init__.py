"""Cats and dogs (Oxford-IIIT Pet): three classes, an Xception-style U-Net, Dice loss."""
