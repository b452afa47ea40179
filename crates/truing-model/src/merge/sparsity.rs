//! Which entries of a model's delta are kept: what TIES, DARE, DELLA and Breadcrumbs differ in.

/// Whole rows of one model's delta.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaRows<'a> {
    /// The number of the model, which random choices depend on.
    pub(super) model: usize,
    /// The first of the rows.
    pub(super) first_row: usize,
    /// Values of a row.
    pub(super) width: usize,
    /// The entries, in f32.
    pub(super) values: &'a [f32],
}

/// A rule for which entries of a delta are kept.
pub(super) trait Sparsity: Send + Sync {
    /// Ranks, from 0 at the smallest, of the magnitudes that the rule needs to know, of a tensor of `n_values`.
    fn ranks(&self, _n_values: u64) -> Vec<u64> {
        Vec::new()
    }

    /// Takes the magnitudes of those ranks.
    fn set_magnitudes(&mut self, _magnitudes: &[f32]) {}

    /// What each entry is multiplied by: 0 where it is dropped.
    fn factors(&self, rows: DeltaRows<'_>, factors: &mut [f64]);
}
