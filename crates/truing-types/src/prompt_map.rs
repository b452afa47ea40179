//! Where the prompts of a selection lie on a plane: made from their vectors, written by the selection, read by the
//! report.

use serde::{Deserialize, Serialize};

/// One way to lay the prompts out on a plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// `PCA`, `t-SNE`.
    pub name: String,
    /// How it was made, and how far it can be trusted, in a sentence.
    pub about: String,
    /// Where each prompt of the map lies.
    pub points: Vec<[f32; 2]>,
}

/// Prompts on a plane.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptMap {
    /// Which prompts are shown, in a sentence.
    pub sampling: String,
    /// The prompts, by the number of their row in the pool.
    pub ids: Vec<u64>,
    /// Points in the order of `ids`.
    pub projections: Vec<Projection>,
}

impl PromptMap {
    /// Name of the file in the run folder.
    pub const FILE_NAME: &'static str = "map.json";
}
