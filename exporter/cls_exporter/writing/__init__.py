"""The files beside the graph, and how a bundle appears whole or not at all."""
