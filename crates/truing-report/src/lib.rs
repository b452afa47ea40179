//! Charts, TensorBoard events and one self-contained HTML page from a run directory.
