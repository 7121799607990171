"""A traced model becomes a graph that computes the CLS row only."""
