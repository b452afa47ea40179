//! Sampling on the host, for engines whose logits are there.

use rayon::prelude::*;
use truing_types::ExcludedTokens;

use super::{EngineError, SampleStep};
use crate::sampling::SampledToken;

/// Samples a token for each step from its row of `logits` `[n_rows, vocab_size]`, of those that are not excluded, on
/// the threads of the current pool. `None` where the row is not a distribution.
///
/// # Errors
/// When a step's row does not exist.
pub fn sample_rows(
    logits: &[f32],
    vocab_size: usize,
    excluded: &ExcludedTokens,
    steps: &mut [SampleStep<'_>],
) -> Result<Vec<Option<SampledToken>>, EngineError> {
    let n_rows = logits.len() / vocab_size.max(1);
    if let Some(step) = steps.iter().find(|step| step.row >= n_rows) {
        return Err(EngineError::Unsupported(format!("row {} of logits with {n_rows} rows", step.row)));
    }
    let sample = |step: &mut SampleStep<'_>| {
        let row = &logits[step.row * vocab_size..(step.row + 1) * vocab_size];
        if excluded.is_empty() {
            return step.sampler.sample_after(row, step.history, step.allowed);
        }
        let mut row = row.to_vec();
        excluded.mask(&mut row);
        step.sampler.sample_after(&row, step.history, step.allowed)
    };
    Ok(steps.par_iter_mut().map(sample).collect())
}
