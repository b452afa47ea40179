//! Completions with a single verdict.

mod kto;

use truing_types::UnpairedRow;

use super::Format;

/// Every format of single verdicts, in the order in which they are tried on a row.
pub static UNPAIRED_FORMATS: &[Format<UnpairedRow>] = &[kto::FORMAT];
