"""The weights of our own kernels: a checkpoint as layers of products and norms, in float32 and in int8."""
