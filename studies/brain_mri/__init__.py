"""Lower-grade gliomas in brain MRI (LGG, from TCGA): RESUNET, Dice loss."""
