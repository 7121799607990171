"""Bundles inside other programs, without PyTorch; docs/integrations.md has the rest."""
