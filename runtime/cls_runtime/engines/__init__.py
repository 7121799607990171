"""Inference engines. Only the modules of this package import one, and only when it is used."""
