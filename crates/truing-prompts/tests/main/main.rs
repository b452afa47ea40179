//! Templates on real prompts with known templates, and what must hold for any pool.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod duplicates;
mod pools;
mod real_templates;
mod selection;
mod support;
mod triplets;
