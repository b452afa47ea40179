//! SLERP: along the great circle between two tensors, taken as vectors (Shoemake 1985).
//!
//! With `theta` the angle between `a` (the base model's tensor) and `b`: `W = sin((1 - t) theta) / sin(theta) a + sin(t theta)
//! / sin(theta) b`. Where the two are within about 1.8 degrees of one line (`|cos theta| > 0.9995`) it is `(1 - t) a + t b`, as
//! in mergekit: `sin(theta)` is then near 0.

use super::rule::{Block, Figures, Rule, Sums};

/// Cosines beyond this are interpolated linearly.
const LARGEST_COSINE: f64 = 0.9995;
/// A tensor with a smaller norm counts as one without a direction.
const SMALLEST_NORM: f64 = 1e-8;

pub(super) struct Slerp {
    t: f64,
    cosine: f64,
    coefficients: [f64; 2],
}

impl Slerp {
    pub(super) fn new(t: f64) -> Self {
        Self { t, cosine: 0.0, coefficients: [1.0 - t, t] }
    }

    fn is_linear(&self) -> bool {
        self.cosine.abs() > LARGEST_COSINE
    }
}

impl Rule for Slerp {
    fn n_passes(&self) -> usize {
        1
    }

    fn measure(&self, _: usize, block: &Block<'_>) -> Sums {
        let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
        for (&a, &b) in block.base.iter().zip(block.models[0]) {
            let (a, b) = (f64::from(a), f64::from(b));
            aa += a * a;
            bb += b * b;
            ab += a * b;
        }
        Sums { values: vec![aa, bb, ab], counts: Vec::new() }
    }

    fn finish_pass(&mut self, _: usize, sums: &Sums) {
        let [aa, bb, ab] = sums.values[..] else { return };
        let norm = |square: f64| Some(square.sqrt()).filter(|norm| *norm > SMALLEST_NORM).unwrap_or(1.0);
        self.cosine = (ab / norm(aa) / norm(bb)).clamp(-1.0, 1.0);
        if !self.is_linear() {
            let theta = self.cosine.acos();
            let t = self.t;
            self.coefficients = [((1.0 - t) * theta).sin(), (t * theta).sin()].map(|sine| sine / theta.sin());
        }
    }

    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        let [of_a, of_b] = self.coefficients;
        for ((merged, &a), &b) in merged.iter_mut().zip(block.base).zip(block.models[0]) {
            *merged = (of_a * f64::from(a) + of_b * f64::from(b)) as f32;
        }
        Sums::default()
    }

    fn figures(&self, _: usize, _: &Sums) -> Figures {
        Figures { cosine: Some(self.cosine), is_linear: Some(self.is_linear()), ..Figures::default() }
    }
}
