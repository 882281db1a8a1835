"""Access to NVIDIA GPUs: driver, context, streams, memory and arrays. The only package that uses pycuda."""
