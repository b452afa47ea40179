//! Passthrough: the tensors of one model, as they are or multiplied by `scale`. With slices of several models it stacks
//! their layers.

use super::rule::{Block, Rule, Sums};

pub(super) struct Passthrough {
    pub(super) scale: f64,
}

impl Rule for Passthrough {
    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        merged.copy_from_slice(block.models[0]);
        if self.scale != 1.0 {
            merged.iter_mut().for_each(|value| *value = (f64::from(*value) * self.scale) as f32);
        }
        Sums::default()
    }
}
