//! What all runs share: the recipe, the machine, the folder with its record and its resume, the work of several ranks,
//! the report on the rows that were read, models on disk, and the record of a selection that the report reads.
//!
//! No stage is known here.

pub mod checks;
pub mod folder;
pub mod inputs;
pub mod model;
pub mod ranks;
pub mod recipe;
pub mod record;
pub mod resume;
pub mod rollouts;
pub mod rows;
pub mod samples;
pub mod selection;
pub mod settings;
pub mod source_names;

mod error;
mod machine;
mod row_report;
mod start;

pub use error::{AsRunError, RunError};
pub use machine::{Machine, Probe};
pub use recipe::{Recipe, RecipeError, RecipePlace};
pub use row_report::{DataReport, Noted, Notes, SkippedRow, unread_parts, write_skipped};
pub use rows::PromptSource;
pub use start::{Ended, Start, TrainedModel};
