"""CUDA kernels, each beside the plain torch reference that takes the same arguments. Importing this imports neither."""
