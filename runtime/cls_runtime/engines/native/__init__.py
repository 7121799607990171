"""Our own kernels: the library of the distribution cls-export-native, and the weights in a bundle that it reads."""
