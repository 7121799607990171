"""Bundles inside other programs, with PyTorch only where the program brings it; docs/integrations/README.md has the rest."""
