//! Model Stock (Jang et al. 2024, arXiv 2403.19522): how far the mean of N fine-tuned models is to be trusted follows from the
//! angle between their deltas `d_i = W_i - W_0`.
//!
//! `c` is the mean of `cos(d_i, d_j)` over pairs, `t = N c / (1 + (N - 1) c)`, and `W = t mean_i(W_i) + (1 - t) W_0`. One
//! `t` for each tensor, or with `row_wise` for each row of a matrix (a vector is one row).
//!
//! For `c < 0` the formula leaves what it was derived for: `t` is negative and tends to minus infinity as `c` comes to `-1 / (N -
//! 1)`, which moves the model away from the mean of its updates, without bound. `t` is 0 there, the base model, and the
//! report says for which share. A delta of 0 has the cosine 0 to all others.

use super::gram::{Gram, inner_products};
use super::rule::{Block, Figures, Rule, Sums, share};

pub(super) struct ModelStock {
    is_row_wise: bool,
    /// c and t of the tensor.
    angle: Angle,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Angle {
    cosine: f64,
    ratio: f64,
    is_guarded: bool,
}

impl ModelStock {
    pub(super) fn new(is_row_wise: bool) -> Self {
        Self { is_row_wise, angle: Angle::default() }
    }
}

fn angle(gram: Gram<'_>) -> Angle {
    let (mut sum, mut n_pairs) = (0.0, 0);
    for i in 0..gram.n {
        for j in i + 1..gram.n {
            let norms = gram.get(i, i).sqrt() * gram.get(j, j).sqrt();
            let cosine = if norms > 0.0 { gram.get(i, j) / norms } else { 0.0 };
            sum += cosine.clamp(-1.0, 1.0);
            n_pairs += 1;
        }
    }
    let cosine = sum / f64::from(n_pairs.max(1));
    let n = gram.n as f64;
    let is_guarded = cosine < 0.0;
    let ratio = if is_guarded { 0.0 } else { n * cosine / (1.0 + (n - 1.0) * cosine) };
    Angle { cosine, ratio, is_guarded }
}

fn mix(block: &Block<'_>, places: std::ops::Range<usize>, ratio: f64, merged: &mut [f32]) {
    let share = ratio / block.models.len() as f64;
    for place in places {
        let sum: f64 = (0..block.models.len()).map(|model| block.delta(model, place)).sum();
        merged[place] = (f64::from(block.base[place]) + share * sum) as f32;
    }
}

impl Rule for ModelStock {
    fn n_passes(&self) -> usize {
        usize::from(!self.is_row_wise)
    }

    fn measure(&self, _: usize, block: &Block<'_>) -> Sums {
        Sums { values: inner_products(block, true, 0..block.len()), counts: Vec::new() }
    }

    fn finish_pass(&mut self, _: usize, sums: &Sums) {
        let n = (0..).find(|n| n * (n + 1) / 2 >= sums.values.len()).unwrap_or(0);
        self.angle = angle(Gram { n, products: &sums.values });
    }

    fn merge(&self, block: &Block<'_>, merged: &mut [f32]) -> Sums {
        if !self.is_row_wise {
            mix(block, 0..block.len(), self.angle.ratio, merged);
            return Sums::default();
        }
        let (mut cosines, mut ratios, mut n_guarded) = (0.0, 0.0, 0);
        let n_rows = block.len() / block.width;
        for row in 0..n_rows {
            let places = row * block.width..(row + 1) * block.width;
            let products = inner_products(block, true, places.clone());
            let angle = angle(Gram { n: block.models.len(), products: &products });
            mix(block, places, angle.ratio, merged);
            cosines += angle.cosine;
            ratios += angle.ratio;
            n_guarded += u64::from(angle.is_guarded);
        }
        Sums { values: vec![cosines, ratios], counts: vec![n_guarded, n_rows as u64] }
    }

    fn figures(&self, _: usize, sums: &Sums) -> Figures {
        let (cosine, ratio, guarded) = match (&sums.values[..], &sums.counts[..]) {
            ([cosines, ratios], [n_guarded, n_rows]) => {
                let mean = |sum: f64| sum / (*n_rows).max(1) as f64;
                (mean(*cosines), mean(*ratios), share(*n_guarded, *n_rows))
            }
            _ => (self.angle.cosine, self.angle.ratio, f64::from(u8::from(self.angle.is_guarded))),
        };
        Figures {
            cosine: Some(cosine),
            ratio: Some(ratio),
            share_guarded: Some(guarded),
            ..Figures::default()
        }
    }
}
