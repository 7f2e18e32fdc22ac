"""The processes in which contenders are timed; see `protocol`.

`protocol`, `equations` and `jax_worker` need nothing but the standard library, NumPy and JAX: they
also run where Residua is not installed, as the package `workers`.
"""
