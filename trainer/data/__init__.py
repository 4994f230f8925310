"""Images and masks: found, paired, read, surveyed, transformed. No torch in this package."""
