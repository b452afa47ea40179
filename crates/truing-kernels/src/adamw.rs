//! AdamW: one pass over a parameter, its gradient and both moments.
//!
//! Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), in the arrangement of
//! `torch.optim.AdamW`, with g the scaled gradient and t the step:
//!
//! ```text
//! p <- p (1 - lr · weight_decay)
//! m <- m + (1 - beta1)(g - m)
//! v <- beta2 v + (1 - beta2) g²
//! p <- p - lr / (1 - beta1^t) · m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//! ```
//!
//! The scalars of a step are computed in f64, the elements in f32.

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::{SimdLevel, simd_fn};
use rayon::prelude::*;

/// What one optimizer step needs to know besides the slices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamwStep {
    /// Learning rate of this step, after the schedule.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay; 0 for norms and biases.
    pub weight_decay: f32,
    /// The gradient is multiplied by this first: one over the loss's denominator, times the clip factor.
    pub gradient_scale: f32,
    /// Number of this step, from 1.
    pub step: u64,
}

struct Scalars {
    decay: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
    gradient_scale: f32,
}

impl Scalars {
    fn new(step: &AdamwStep) -> Self {
        let (lr, beta1, beta2) =
            (f64::from(step.learning_rate), f64::from(step.beta1), f64::from(step.beta2));
        let t = step.step as f64;
        Scalars {
            decay: (1.0 - lr * f64::from(step.weight_decay)) as f32,
            beta1_rest: (1.0 - beta1) as f32,
            beta2: step.beta2,
            beta2_rest: (1.0 - beta2) as f32,
            step_size: (-lr / (1.0 - beta1.powf(t))) as f32,
            root_correction: (1.0 - beta2.powf(t)).sqrt() as f32,
            epsilon: step.epsilon,
            gradient_scale: step.gradient_scale,
        }
    }
}

simd_fn! {
    fn update<S>(simd, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], scalars: &Scalars) {
        let decay = simd.splat(scalars.decay);
        let beta1_rest = simd.splat(scalars.beta1_rest);
        let beta2 = simd.splat(scalars.beta2);
        let beta2_rest = simd.splat(scalars.beta2_rest);
        let step_size = simd.splat(scalars.step_size);
        let root_correction = simd.splat(scalars.root_correction);
        let epsilon = simd.splat(scalars.epsilon);
        let gradient_scale = simd.splat(scalars.gradient_scale);
        let moments = m.chunks_mut(S::LANES).zip(v.chunks_mut(S::LANES));
        for ((p, g), (m, v)) in p.chunks_mut(S::LANES).zip(g.chunks(S::LANES)).zip(moments) {
            let gradient = simd.mul(simd.load_or(g, 0.0), gradient_scale);
            let first = simd.load_or(m, 0.0);
            let first = simd.fma(simd.sub(gradient, first), beta1_rest, first);
            let second = simd.mul(simd.load_or(v, 0.0), beta2);
            let second = simd.fma(simd.mul(gradient, beta2_rest), gradient, second);
            let root = simd.add(simd.div(simd.sqrt(second), root_correction), epsilon);
            let decayed = simd.mul(simd.load_or(p, 0.0), decay);
            simd.store_some(p, simd.fma(simd.div(first, root), step_size, decayed));
            simd.store_some(m, first);
            simd.store_some(v, second);
        }
    }
}

/// One AdamW step on one parameter. Panics when the four lengths differ or `step.step` is 0.
pub fn adamw(
    parameter: &mut [f32],
    gradient: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
    step: &AdamwStep,
) {
    let n = parameter.len();
    assert!(
        gradient.len() == n && first_moment.len() == n && second_moment.len() == n,
        "adamw: parameter, gradient and moments have one length"
    );
    assert!(step.step > 0, "adamw: steps count from 1");
    let level = SimdLevel::current();
    let scalars = Scalars::new(step);
    if n <= ELEMENTS_PER_ITEM {
        return update(level, parameter, gradient, first_moment, second_moment, &scalars);
    }
    parameter
        .par_chunks_mut(ELEMENTS_PER_ITEM)
        .zip(gradient.par_chunks(ELEMENTS_PER_ITEM))
        .zip(
            first_moment
                .par_chunks_mut(ELEMENTS_PER_ITEM)
                .zip(second_moment.par_chunks_mut(ELEMENTS_PER_ITEM)),
        )
        .for_each(|((p, g), (m, v))| update(level, p, g, m, v, &scalars));
}
