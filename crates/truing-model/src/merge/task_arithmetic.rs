//! Task arithmetic (Ilharco et al. 2022, arXiv 2212.04089), and the frame of all methods that add up deltas from a base:
//! `W = W_0 + lambda sum_i w_i s_i`, with `s_i` the delta of a model after its small or random entries were dropped. With
//! `normalize` the sum is divided by `sum_i w_i`.
//!
//! Deltas are taken and added in f64 and rounded once: a single model with weight 1 comes out bit for bit.

use super::Rescale;
use super::ranks::{self, RankSearch};
use super::rule::{Block, Figures, Rule, Sums, share};
use super::sparsity::{DeltaRows, Sparsity};
use super::ties::merge_elected;

/// Weight sums smaller than this are not divided by, as in mergekit.
const SMALLEST_DIVISOR: f64 = 1e-8;
/// Sums of magnitudes smaller than this are not scaled to, as in mergekit.
const SMALLEST_SUM: f64 = 1e-7;

/// A model's delta.
pub(super) struct Delta {
    pub(super) weight: f64,
    /// Which entries are kept; all where there is no rule.
    pub(super) sparsity: Option<Box<dyn Sparsity>>,
}

/// What is the same for all models.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaOptions {
    pub(super) lambda: f64,
    pub(super) normalize: bool,
    pub(super) rescale: Rescale,
    pub(super) elects_sign: bool,
    pub(super) n_values: usize,
}

pub(super) struct DeltaMerge {
    deltas: Vec<Delta>,
    options: DeltaOptions,
    searches: Vec<RankSearch>,
    /// For each model what kept entries are multiplied by.
    scales: Vec<f64>,
    n_rank_passes: usize,
}

impl DeltaMerge {
    pub(super) fn new(deltas: Vec<Delta>, options: DeltaOptions) -> Self {
        let ranks = |delta: &Delta| {
            delta.sparsity.as_ref().map_or_else(Vec::new, |rule| rule.ranks(options.n_values as u64))
        };
        let searches: Vec<RankSearch> = deltas.iter().map(|delta| RankSearch::new(&ranks(delta))).collect();
        let needs_ranks = searches.iter().any(|search| search.n_counts(0) > 0);
        let n_rank_passes = if needs_ranks { ranks::N_PASSES } else { 0 };
        Self { scales: vec![1.0; deltas.len()], deltas, options, searches, n_rank_passes }
    }

    /// A model's delta in f32, in whose order entries are kept.
    fn rounded(block: &Block<'_>, model: usize) -> Vec<f32> {
        (0..block.len()).map(|place| block.delta(model, place) as f32).collect()
    }

    /// A model's delta with dropped entries at 0, not yet scaled, and how many are kept.
    fn sparse(&self, block: &Block<'_>, model: usize) -> (Vec<f64>, u64) {
        let mut values: Vec<f64> = (0..block.len()).map(|place| block.delta(model, place)).collect();
        let Some(rule) = &self.deltas[model].sparsity else {
            let n_kept = values.len() as u64;
            return (values, n_kept);
        };
        let rounded: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        let mut factors = vec![0.0; values.len()];
        let rows = DeltaRows { model, first_row: block.first_row, width: block.width, values: &rounded };
        rule.factors(rows, &mut factors);
        values.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
        (values, factors.iter().filter(|factor| **factor != 0.0).count() as u64)
    }

    fn count_ranks(&self, pass: usize, block: &Block<'_>) -> Sums {
        let mut sums = Sums::default();
        for (model, search) in self.searches.iter().enumerate() {
            let start = sums.counts.len();
            sums.counts.resize(start + search.n_counts(pass), 0);
            if sums.counts.len() > start {
                let values = Self::rounded(block, model);
                search.count(pass, values.iter().copied(), &mut sums.counts[start..]);
            }
        }
        sums
    }
}

impl Rule for DeltaMerge {
    fn n_passes(&self) -> usize {
        self.n_rank_passes + usize::from(self.options.rescale == Rescale::L1)
    }

    fn measure(&self, pass: usize, block: &Block<'_>) -> Sums {
        if pass < self.n_rank_passes {
            return self.count_ranks(pass, block);
        }
        let magnitude = |values: &[f64]| values.iter().map(|value| value.abs()).sum::<f64>();
        let mut sums = Sums::default();
        for model in 0..self.deltas.len() {
            let whole: f64 = (0..block.len()).map(|place| block.delta(model, place).abs()).sum();
            let kept = self.deltas[model].sparsity.as_ref().map(|_| magnitude(&self.sparse(block, model).0));
            sums.values.extend([whole, kept.unwrap_or(whole)]);
        }
        sums
    }

    fn finish_pass(&mut self, pass: usize, sums: &Sums) {
        if pass >= self.n_rank_passes {
            for (scale, pair) in self.scales.iter_mut().zip(sums.values.chunks_exact(2)) {
                let is_tiny = pair.iter().any(|sum| *sum < SMALLEST_SUM);
                *scale = if is_tiny { 1.0 } else { pair[0] / pair[1] };
            }
            return;
        }
        let mut start = 0;
        for (search, delta) in self.searches.iter_mut().zip(&mut self.deltas) {
            let n_counts = search.n_counts(pass);
            search.finish(pass, &sums.counts[start..start + n_counts]);
            start += n_counts;
            if let (true, Some(rule)) = (pass + 1 == self.n_rank_passes, &mut delta.sparsity) {
                rule.set_magnitudes(&search.magnitudes().collect::<Vec<_>>());
            }
        }
    }

    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        let mut sum = vec![0.0; merged.len()];
        let mut counts = Vec::new();
        let mut parts = Vec::new();
        for (model, delta) in self.deltas.iter().enumerate() {
            let (mut values, n_kept) = self.sparse(block, model);
            counts.push(n_kept);
            let scale = self.scales[model];
            if self.options.elects_sign {
                values.iter_mut().for_each(|value| *value *= scale);
                parts.push((delta.weight, values));
            } else {
                let factor = delta.weight * scale;
                sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += factor * value);
            }
        }
        let mut lambda = self.options.lambda;
        if self.options.elects_sign {
            counts.extend(merge_elected(block, &parts, self.options.normalize, &mut sum));
        } else if self.options.normalize {
            let divisor: f64 = self.deltas.iter().map(|delta| delta.weight).sum();
            lambda /= if divisor.abs() < SMALLEST_DIVISOR { 1.0 } else { divisor };
        }
        for ((merged, base), sum) in merged.iter_mut().zip(block.base).zip(&sum) {
            *merged = (f64::from(*base) + lambda * sum) as f32;
        }
        Sums { values: Vec::new(), counts }
    }

    fn figures(&self, n_values: usize, sums: &Sums) -> Figures {
        let (kept, signs) = sums.counts.split_at(self.deltas.len().min(sums.counts.len()));
        let is_sparse = self.deltas.iter().any(|delta| delta.sparsity.is_some());
        let kept = kept.iter().filter(|_| is_sparse).map(|kept| share(*kept, n_values as u64)).collect();
        let sign_conflicts = match *signs {
            [places, conflicts] => Some(share(conflicts, places)),
            _ => None,
        };
        Figures { kept, sign_conflicts, ..Figures::default() }
    }
}
