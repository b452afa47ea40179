//! Multi-layer activation checkpointing (report 2.2): the decoder runs in segments of k layers, of which only
//! the last few keep their activations; of the others only the input is kept and the inside is computed again
//! on the way back. Which k and how many are kept is the [planner](crate::planner)'s choice.

use std::ops::Range;

use truing_model::{Adapters, Engine, EngineError, SaveActivations};

/// How the layers are cut into segments, and which segments keep their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPlan {
    /// Layers of the model.
    pub n_layers: usize,
    /// Layers of a segment (k of the report); the last segment is shorter where k does not divide the layers.
    pub layers_per_segment: usize,
    /// Number of last segments that keep their activations. At least one: the backward of the very last
    /// follows its forward at once, so computing it twice would save nothing.
    pub n_kept: usize,
    /// Whether recomputed segments keep their layers' attention results, so that only the rest is computed
    /// again. It pays where sequences are long.
    pub keeps_attention: bool,
}

impl SegmentPlan {
    /// The plan that computes nothing twice: one segment, kept.
    #[must_use]
    pub fn keep_everything(n_layers: usize) -> Self {
        Self { n_layers, layers_per_segment: n_layers.max(1), n_kept: 1, keeps_attention: false }
    }

    /// Plain k-layer checkpointing: only the last segment is kept.
    #[must_use]
    pub fn checkpoint(n_layers: usize, layers_per_segment: usize) -> Self {
        Self {
            n_layers,
            layers_per_segment: layers_per_segment.clamp(1, n_layers.max(1)),
            n_kept: 1,
            keeps_attention: false,
        }
    }

    /// Number of segments.
    #[must_use]
    pub fn n_segments(&self) -> usize {
        self.n_layers.div_ceil(self.layers_per_segment)
    }

    /// The layers of one segment.
    #[must_use]
    pub fn layers(&self, segment_idx: usize) -> Range<usize> {
        let start = segment_idx * self.layers_per_segment;
        start..(start + self.layers_per_segment).min(self.n_layers)
    }

    /// Number of first segments whose inside is computed again in the backward pass.
    #[must_use]
    pub fn n_recomputed(&self) -> usize {
        self.n_segments() - self.n_kept.clamp(1, self.n_segments())
    }

    /// Number of layers that run forward twice.
    #[must_use]
    pub fn n_recomputed_layers(&self) -> usize {
        self.n_recomputed() * self.layers_per_segment
    }

    /// Number of layers whose activations are all alive at the end of the forward pass.
    #[must_use]
    pub fn n_kept_layers(&self) -> usize {
        self.n_layers - self.n_recomputed_layers()
    }

    fn save(&self, segment_idx: usize) -> SaveActivations {
        match (segment_idx < self.n_recomputed(), self.keeps_attention) {
            (true, false) => SaveActivations::Input,
            (true, true) => SaveActivations::InputAndAttention,
            (false, _) => SaveActivations::Everything,
        }
    }
}

/// Embedding and all segments with the adapters; returns the last hidden states and what the backward needs.
///
/// # Errors
/// As the engine fails.
pub fn forward<E: Engine>(
    engine: &mut E,
    batch: &E::Batch,
    plan: &SegmentPlan,
) -> Result<(E::Hidden, Vec<E::Saved>), EngineError> {
    let mut hidden = engine.embed(batch)?;
    let mut saved = Vec::with_capacity(plan.n_segments());
    for segment_idx in 0..plan.n_segments() {
        let (layers, save) = (plan.layers(segment_idx), plan.save(segment_idx));
        let (output, of_segment) = engine.segment_forward(batch, layers, hidden, save, Adapters::Enabled)?;
        hidden = output;
        saved.push(of_segment);
    }
    Ok((hidden, saved))
}

/// The same without anything saved, where there will be no backward.
///
/// # Errors
/// As the engine fails.
pub fn forward_only<E: Engine>(
    engine: &mut E,
    batch: &E::Batch,
    adapters: Adapters,
) -> Result<E::Hidden, EngineError> {
    let hidden = engine.embed(batch)?;
    let all_layers = 0..engine.spec().n_layers();
    Ok(engine.segment_forward(batch, all_layers, hidden, SaveActivations::Nothing, adapters)?.0)
}

/// All segments backward in reverse order, then the embedding. What a segment saved is freed as it is used.
///
/// # Errors
/// As the engine fails.
pub fn backward<E: Engine>(
    engine: &mut E,
    batch: &E::Batch,
    mut saved: Vec<E::Saved>,
    d_hidden: E::Hidden,
) -> Result<(), EngineError> {
    let mut gradient = d_hidden;
    while let Some(of_segment) = saved.pop() {
        gradient = engine.segment_backward(batch, of_segment, gradient)?;
    }
    engine.embed_backward(batch, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_every_layer_once_in_order_and_the_last_may_be_short() {
        for n_layers in 1..40 {
            for k in 1..=n_layers {
                let plan = SegmentPlan::checkpoint(n_layers, k);
                let layers: Vec<usize> = (0..plan.n_segments()).flat_map(|s| plan.layers(s)).collect();
                assert_eq!(layers, (0..n_layers).collect::<Vec<_>>());
                assert!((0..plan.n_segments()).all(|s| !plan.layers(s).is_empty()));
            }
        }
        let plan = SegmentPlan::checkpoint(30, 8);
        assert_eq!((plan.n_segments(), plan.layers(3)), (4, 24..30));
        assert_eq!((plan.n_recomputed(), plan.n_recomputed_layers(), plan.n_kept_layers()), (3, 24, 6));
    }

    #[test]
    fn only_the_last_segments_keep_their_activations() {
        let plan = SegmentPlan { n_layers: 30, layers_per_segment: 4, n_kept: 3, keeps_attention: false };
        let kept: Vec<bool> =
            (0..plan.n_segments()).map(|s| plan.save(s) == SaveActivations::Everything).collect();
        assert_eq!(kept, [false, false, false, false, false, true, true, true]);
        assert_eq!((plan.n_recomputed_layers(), plan.n_kept_layers()), (20, 10));
        let everything = SegmentPlan::keep_everything(30);
        assert_eq!((everything.n_segments(), everything.n_recomputed_layers()), (1, 0));
    }
}
