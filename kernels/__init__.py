"""CUDA kernels, each beside the plain torch reference that says what it computes.

    patch_rows       pictures -> rows of the tower's patch product
    add_layer_norm   residual + delta, and its LayerNorm
    compile          a `.cu` file -> a kernel that runs on torch's current stream

A reference and its kernel take the same arguments; `tests/kernels/` holds them against each other.
Importing this package imports neither torch nor CuPy.
"""
