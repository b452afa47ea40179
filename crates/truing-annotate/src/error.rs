//! Errors of annotation projects.

use std::path::PathBuf;

use truing_data::DataError;
use truing_run::RunError;
use truing_store::StoreError;
use truing_types::RowOrigin;

use crate::answer_problem::AnswerProblem;

/// A project that cannot be opened, served or exported.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// A setting, or the recipe.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file of the project.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Rows of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A row that is no item.
    #[error("{origin}: `{field}` is {found}; expected {expected}")]
    BadItem {
        /// File and line.
        origin: RowOrigin,
        /// The field.
        field: String,
        /// What it is.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A line of the journal that cannot be read.
    #[error("{}:{line}: {reason}", path.display())]
    BadJournal {
        /// The journal.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A stored answer that does not fit the questions of the recipe.
    #[error("{}:{line}: {problem}; the questions of the recipe or the items have changed since", path.display())]
    OtherQuestions {
        /// The journal.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What does not fit.
        problem: AnswerProblem,
    },
    /// An answer whose write or fsync failed before: nothing more is taken, for what is on the disk is not known.
    #[error("`{}` could not be written before; start the server again", path.display())]
    JournalBroken {
        /// The journal.
        path: PathBuf,
    },
    /// Two people with one token.
    #[error("`{first}` and `{second}` have the same token")]
    SameToken {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A name that nobody has.
    #[error("nobody is called `{0}`: expected an annotator, an adjudicator or `owner`")]
    UnknownPerson(String),
    /// A new token for someone whose token the recipe gives.
    #[error("the recipe has the token of `{0}`: change it there")]
    TokenInRecipe(String),
    /// The system refuses: a socket, a thread, or randomness.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
