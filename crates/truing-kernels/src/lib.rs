//! The operations on plain slices, forward and backward side by side.
