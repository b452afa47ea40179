//! DELLA (Deep et al. 2024, arXiv 2406.11617): as DARE, but the larger entries of a row are kept with larger probability.
//!
//! An entry whose magnitude has rank r among the w of its row, counted from 0 at the smallest (a vector is one row), is kept
//! with probability `p = density - epsilon + 2 epsilon r / (w - 1)`, the density in a row of one. The paper divides kept
//! entries by their own `p` (`rescale = "keep_probability"`), mergekit scales to the sum of magnitudes (`"l1"`). Of equal
//! magnitudes the first has the lower rank.

use rand_chacha::rand_core::Rng;

use super::dare::{DRAWS, RowDraws};
use super::sparsity::{DeltaRows, Sparsity};

/// Keeps entries at random, large ones rather than small ones.
pub(super) struct Della {
    pub(super) density: f64,
    pub(super) epsilon: f64,
    /// Divide by the probability.
    pub(super) rescales: bool,
    pub(super) draws: RowDraws,
}

impl Sparsity for Della {
    fn factors(&self, rows: DeltaRows<'_>, factors: &mut [f64]) {
        let mut order: Vec<u64> = Vec::with_capacity(rows.width);
        let last = (rows.width - 1) as f64;
        for (row, factors) in factors.chunks_exact_mut(rows.width).enumerate() {
            let values = &rows.values[row * rows.width..(row + 1) * rows.width];
            order.clear();
            let keys = values.iter().enumerate();
            order.extend(keys.map(|(place, value)| u64::from(value.abs().to_bits()) << 32 | place as u64));
            order.sort_unstable();
            for (rank, key) in order.iter().enumerate() {
                let height = if last > 0.0 { rank as f64 / last } else { 0.5 };
                factors[(key & 0xffff_ffff) as usize] =
                    self.density - self.epsilon + 2.0 * self.epsilon * height;
            }
            let mut generator = self.draws.of_row(rows.model, rows.first_row + row);
            for factor in factors {
                let probability = *factor;
                let is_kept = f64::from(generator.next_u32()) < probability * DRAWS;
                *factor = match (is_kept, self.rescales) {
                    (false, _) => 0.0,
                    (true, false) => 1.0,
                    (true, true) => 1.0 / probability,
                };
            }
        }
    }
}
