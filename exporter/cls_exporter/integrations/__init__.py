"""Bundles inside programs that bring PyTorch anyway; docs/integrations.md has the rest."""
