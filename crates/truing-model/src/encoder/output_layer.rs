//! The folder of the output layer and the names of its parameters.

/// Folder of an encoder's output layer in a sentence-transformers directory. Its parameters are called by the folder, a
/// dot, and their name in the folder's file.
pub const OUTPUT_LAYER: &str = "2_Dense";

/// The name that a parameter has in the output layer's own file, where it is one of that layer's.
#[must_use]
pub fn in_output_layer(name: &str) -> Option<&str> {
    name.strip_prefix(OUTPUT_LAYER)?.strip_prefix('.')
}
