//! The CPU engine: layers, segments, heads and KV cache out of kernels.
