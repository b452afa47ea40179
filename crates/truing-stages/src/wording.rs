//! Numbers in sentences.

pub(crate) use truing_types::counted;
