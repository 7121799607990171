"""Bundles inside other programs, with PyTorch only where the program brings it; docs/integrations has the rest."""
