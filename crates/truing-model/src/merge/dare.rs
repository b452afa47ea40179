//! DARE (Yu et al. 2023, arXiv 2311.03099): each entry of a delta is kept with the probability `density`, and the rest is
//! rescaled so that the delta keeps its size. `dare_linear` adds the deltas as task arithmetic does, `dare_ties` elects signs.
//!
//! The paper divides by the density (`rescale = "keep_probability"`), so that the expectation is the whole delta. mergekit
//! scales to the sum of magnitudes instead (`"l1"`).
//!
//! Whether an entry is kept follows from the seed, the tensor's name, the model's number and the row alone.

use rand_chacha::rand_core::Rng;
use truing_types::Seed;

use super::sparsity::{DeltaRows, Sparsity};

/// A draw is below this times a probability with that probability.
pub(super) const DRAWS: f64 = 4_294_967_296.0;

/// Random numbers for the rows of one tensor.
#[derive(Debug, Clone)]
pub(super) struct RowDraws {
    seed: Seed,
    purpose: String,
}

impl RowDraws {
    pub(super) fn new(seed: Seed, tensor: &str) -> Self {
        Self { seed, purpose: format!("merge {tensor}") }
    }

    /// The generator of a model's row.
    pub(super) fn of_row(&self, model: usize, row: usize) -> impl Rng + use<> {
        self.seed.generator(&self.purpose, &[model as u64, row as u64])
    }
}

/// Keeps entries at random.
pub(super) struct Dare {
    pub(super) density: f64,
    /// Divide by the density.
    pub(super) rescales: bool,
    pub(super) draws: RowDraws,
}

impl Sparsity for Dare {
    fn factors(&self, rows: DeltaRows<'_>, factors: &mut [f64]) {
        let kept = if self.rescales { 1.0 / self.density } else { 1.0 };
        let limit = (self.density * DRAWS) as u64;
        for (row, factors) in factors.chunks_exact_mut(rows.width).enumerate() {
            let mut generator = self.draws.of_row(rows.model, rows.first_row + row);
            for factor in factors {
                *factor = if u64::from(generator.next_u32()) < limit { kept } else { 0.0 };
            }
        }
    }
}
