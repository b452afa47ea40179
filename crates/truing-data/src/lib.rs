//! File formats, mixing, packing.
