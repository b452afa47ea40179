//! Everything that can be wrong with a model's files.

use std::path::PathBuf;

/// A model that could not be found, read or written. Every message names the file, and the field or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A file that ends too early.
    #[error("{}: the file ends inside {what}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
    },
    /// A file that contradicts its own format.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// GGUF metadata without a key that is needed.
    #[error("{}: metadata has no `{key}` ({expected})", path.display())]
    MissingMetadata {
        /// The GGUF file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// GGUF metadata of another type than the key should have.
    #[error("{}: metadata `{key}` is {found}, expected {expected}", path.display())]
    WrongMetadata {
        /// The GGUF file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A tensor stored in a format that is not read here.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; readable are {readable}", path.display())]
    UnsupportedDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its stored type.
        dtype: String,
        /// The types that are read.
        readable: &'static str,
    },
    /// A tensor that the file does not hold.
    #[error("{}: there is no tensor `{tensor}`", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
}
