//! What happens between a head's products and its logits: rows divided by their norm, a soft cap. With `s_v` the
//! inverse norm of row `w_v` (1 where rows are not normalised) and `c` the cap:
//!
//! ```text
//! y_v   = s_v (w_v · hidden),   z_v = c tanh(y_v / c)
//! d_y_v = d_z_v (1 - tanh(y_v / c)²)
//! d_hidden = Σ_v d_y_v s_v w_v
//! d_w_v    = Σ_rows d_y_v s_v hidden - s_v² w_v Σ_rows d_y_v y_v
//! ```
//!
//! Baichuan 2 divides rows by their norm (arXiv 2309.10305, section 2.4); Gemma 2 caps logits (arXiv 2408.00118).

use crate::parallel::ELEMENTS_PER_ITEM;
use crate::simd::bf16_value;
use crate::soft_cap::{soft_cap_backward_in_place, soft_cap_forward_in_place};
use crate::weight::Weight;
use rayon::prelude::*;

/// A head `[vocab, h]`, and what its logits are made of.
#[derive(Clone, Copy, Debug)]
pub struct LinearHead<'a> {
    /// `[vocab, h]`, and with it the number format of the products.
    pub weight: Weight<'a>,
    /// The inverse Euclidean norm of each row `[vocab]` ([`inverse_row_norms`]), where logits are products with rows of
    /// norm 1. The gradient of the weight includes that through the norm.
    pub inverse_norms: Option<&'a [f32]>,
    /// Logits become `cap tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
}

impl<'a, W: Into<Weight<'a>>> From<W> for LinearHead<'a> {
    fn from(weight: W) -> Self {
        Self { weight: weight.into(), inverse_norms: None, soft_cap: None }
    }
}

/// `1 / max(norm, 1e-12)` of each row of `weight` `[n, width]`, as PyTorch's `normalize`.
///
/// Panics when a length does not fit.
#[must_use]
pub fn inverse_row_norms(weight: &[f32], width: usize) -> Vec<f32> {
    assert!(width > 0 && weight.len().is_multiple_of(width), "inverse_row_norms: weight is [n, width]");
    let rows_per_item = (ELEMENTS_PER_ITEM / width).max(1);
    let inverse = |row: &[f32]| {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        (1.0 / squares.sqrt().max(1e-12)) as f32
    };
    let mut norms = vec![0.0; weight.len() / width];
    norms.par_chunks_mut(rows_per_item).zip(weight.par_chunks(rows_per_item * width)).for_each(
        |(norms, rows)| {
            norms.iter_mut().zip(rows.chunks_exact(width)).for_each(|(norm, row)| *norm = inverse(row));
        },
    );
    norms
}

/// `values` `[n, width]` times a number for each row.
fn scale_rows(values: &mut [f32], width: usize, factors: &[f32]) {
    let rows_per_item = (ELEMENTS_PER_ITEM / width.max(1)).max(1);
    let rows = values.par_chunks_mut(rows_per_item * width).zip(factors.par_chunks(rows_per_item));
    rows.for_each(|(rows, factors)| {
        for (row, factor) in rows.chunks_exact_mut(width).zip(factors) {
            row.iter_mut().for_each(|x| *x *= factor);
        }
    });
}

impl LinearHead<'_> {
    /// Whether logits are the products themselves.
    pub(crate) fn is_plain(&self) -> bool {
        self.inverse_norms.is_none() && self.soft_cap.is_none()
    }

    /// Panics where there is not a norm for each of `vocab` rows.
    pub(crate) fn check(&self, vocab: usize) {
        assert!(
            self.inverse_norms.is_none_or(|norms| norms.len() == vocab),
            "linear_log_probs: inverse_norms are [vocab]"
        );
    }

    /// Turns products `[vocab, width]` into logits, and keeps what the cap is applied to where there is room for it.
    pub(crate) fn forward(&self, products: &mut [f32], width: usize, kept: &mut [f32]) {
        if let Some(norms) = self.inverse_norms {
            scale_rows(products, width, norms);
        }
        if !kept.is_empty() {
            kept.copy_from_slice(products);
        }
        if let Some(cap) = self.soft_cap {
            soft_cap_forward_in_place(products, cap);
        }
    }

    /// Turns the gradient at the logits `[vocab, width]` into that at the products, up to the `factors` `[width]` of
    /// each column; `kept` is what [`forward`](Self::forward) kept. Where rows are normalised, returns
    /// `s_v² Σ factor d_y_v y_v` of each row.
    pub(crate) fn backward(
        &self,
        gradient: &mut [f32],
        width: usize,
        kept: &[f32],
        factors: &[f32],
    ) -> Option<Vec<f32>> {
        if let Some(cap) = self.soft_cap {
            soft_cap_backward_in_place(kept, cap, gradient);
        }
        let norms = self.inverse_norms?;
        let mut along = vec![0.0; norms.len()];
        let rows = along.par_iter_mut().zip(gradient.par_chunks(width).zip(kept.par_chunks(width)));
        rows.zip(norms).for_each(|((along, (gradient, kept)), norm)| {
            let products = gradient.iter().zip(kept).zip(factors).map(|((d, y), factor)| d * y * factor);
            *along = norm * norm * products.sum::<f32>();
        });
        scale_rows(gradient, width, norms);
        Some(along)
    }

    /// Takes `along_v w_v` off each row of the weight's gradient `[vocab, h]`.
    pub(crate) fn take_along(&self, along: &[f32], h: usize, d_weight: &mut [f32]) {
        let rows = d_weight.par_chunks_mut(h).zip(along);
        match self.weight {
            Weight::F32(weight) => rows.zip(weight.par_chunks(h)).for_each(|((d_row, along), row)| {
                d_row.iter_mut().zip(row).for_each(|(d, w)| *d -= along * w);
            }),
            Weight::Bf16(weight) => {
                let halves = weight.halves().par_chunks(2 * weight.stride());
                rows.zip(halves).for_each(|((d_row, along), row)| {
                    d_row.iter_mut().zip(row).for_each(|(d, &w)| *d -= along * bf16_value(w));
                });
            }
        }
    }

    /// Turns products of single rows `[n_rows, vocab]` into logits: for decoding, where each row is computed alone.
    ///
    /// Panics when a length does not fit.
    pub fn finish_rows(&self, products: &mut [f32]) {
        if let Some(norms) = self.inverse_norms {
            assert!(
                products.len().is_multiple_of(norms.len().max(1)),
                "finish_rows: products are [n_rows, vocab]"
            );
            for row in products.chunks_exact_mut(norms.len().max(1)) {
                row.iter_mut().zip(norms).for_each(|(product, norm)| *product *= norm);
            }
        }
        if let Some(cap) = self.soft_cap {
            soft_cap_forward_in_place(products, cap);
        }
    }
}
