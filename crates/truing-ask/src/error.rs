use std::path::PathBuf;

use truing_client::ClientError;
use truing_generate::GenerateError;
use truing_prompts::labels::LabelSetError;
use truing_run::RunError;

/// A model that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its settings, files or weights.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A model that is asked, or its cache.
    #[error(transparent)]
    Client(Box<ClientError>),
    /// A local model that does not decode.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A label set that contradicts itself.
    #[error("{}: {source}", path.display())]
    LabelSet {
        /// Its file.
        path: PathBuf,
        /// The dimension or label that is wrong.
        source: Box<LabelSetError>,
    },
    /// Golden pairs or critic cases that cannot be used.
    #[error("{}:{line}: {problem}", path.display())]
    Examples {
        /// Their file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// A model that is asked and refuses everything.
    #[error(
        "the model `{name}` refuses every request: {reason}; its replies so far are kept, run the same \
         command to continue"
    )]
    Refused {
        /// Its name.
        name: String,
        /// Why, in the server's words.
        reason: String,
    },
}

impl From<ClientError> for AskError {
    fn from(source: ClientError) -> Self {
        Self::Client(Box::new(source))
    }
}
