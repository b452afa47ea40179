//! Fates of responses, as `truing respond` writes them in the column `fate`.

/// Fates of responses that nobody should be shown or asked about: there is no whole text, or it repeats
/// an earlier response, of which `truing prefer` says `duplicate`.
pub const UNUSABLE_FATES: [&str; 8] =
    ["failed", "not_sampled", "cut", "empty", "filtered", "tool_calls", "near_duplicate", "duplicate"];
