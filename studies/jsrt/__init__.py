"""Lungs, heart and clavicles in chest X-rays (JSRT): six classes, FCNs and a light U-Net."""
