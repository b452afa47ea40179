//! The coverage page of a prompt selection: what was kept, what was dropped and why, and what the pool covers before
//! and after. Made from the files of [`truing_run::selection::PromptDecision`] and its neighbours in the run folder.
//!
//! The decisions are read twice, line by line: once to count every row and to draw which ones are shown, once to fetch
//! the text of those. So memory and page stay small however large the pool is; every figure is over all rows, every
//! list says which rows it shows.

mod charts;
mod page;
mod record;
mod tally;

use std::path::Path;

use truing_run::selection::{PromptDecision, SelectionSummary};
use truing_store::atomic;

use crate::ReportError;

pub use record::{CoverageLimits, CoverageRecord};

/// Whether the folder is that of a prompt selection.
pub(crate) fn is_selection(folder: &Path) -> bool {
    [SelectionSummary::FILE_NAME, PromptDecision::FILE_NAME].iter().all(|name| folder.join(name).is_file())
}

/// Reads the selection in `folder` and writes its page to `page`, whole or not at all.
///
/// # Errors
/// When the folder holds no selection, a file of it cannot be understood, or the page cannot be written.
pub fn write_coverage(folder: &Path, page: &Path) -> Result<(), ReportError> {
    let html = render_coverage(&CoverageRecord::read(folder, &CoverageLimits::default())?)?;
    Ok(atomic::write(page, html.as_bytes())?)
}

/// The page of a selection.
///
/// # Errors
/// Only through a fault of ours.
pub fn render_coverage(record: &CoverageRecord) -> Result<String, ReportError> {
    page::render(record)
}
