"""`cls-serve`: bundles behind HTTP, for clients that people already have. Needs the extra `serve`."""
