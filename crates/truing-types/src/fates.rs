//! Fates of responses, as `truing respond` writes them in the column `fate`.

/// Fates of responses that are not shown to annotators or judges: the text is missing or incomplete, or repeats an
/// earlier response (`truing prefer` writes `duplicate` for these).
pub const UNUSABLE_FATES: [&str; 8] =
    ["failed", "not_sampled", "cut", "empty", "filtered", "tool_calls", "near_duplicate", "duplicate"];
