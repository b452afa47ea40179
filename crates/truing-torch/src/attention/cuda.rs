//! Attention on a GPU: all sequences in one call. It has not run on a GPU yet (docs/gpu.md); without one, tests check
//! that libtorch accepts the arguments.

use super::{Attended, AttentionShape, Spans};
use crate::error::TorchError;
use crate::ffi::{Argument, Tensor};
use crate::operators::{
    EFFICIENT_ATTENTION, EFFICIENT_ATTENTION_BACKWARD, FLASH_ATTENTION, FLASH_ATTENTION_BACKWARD, exactly,
};
use Argument::{Bool, Float, Int, None as Nothing, Tensor as Of};

/// `custom_mask_type` of the memory-efficient kernels.
const MASK_NONE: i64 = 0;
const MASK_CAUSAL_FROM_BOTTOM_RIGHT: i64 = 2;

/// Widths of heads that the kernels take are multiples of this; others are filled up with zeros, which change no
/// product.
const WIDTH_STEP: usize = 8;

/// `[n, heads, head_dim]` with heads filled up with zeros.
fn filled(x: &Tensor) -> Result<Tensor, TorchError> {
    let (n, heads, width) = (x.size(0), x.size(1), x.size(2));
    if width.is_multiple_of(WIDTH_STEP) {
        return x.alias();
    }
    let wide = x.zeros_like(&[n, heads, width.next_multiple_of(WIDTH_STEP)])?;
    wide.narrow(2, 0, width)?.copy_from(x)?;
    Ok(wide)
}

impl AttentionShape {
    /// Without what [`filled`] has added.
    fn cut(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        if x.size(2) == self.head_dim { x.alias() } else { x.narrow(2, 0, self.head_dim)?.contiguous() }
    }

    /// FlashAttention's window: keys to the left and to the right of a query's own; none is `None`.
    fn flash_window(&self) -> [Argument<'static>; 2] {
        match self.window {
            Some(window) => [Int(window as i64 - 1), Int(0)],
            None => [Nothing, Nothing],
        }
    }

    pub(super) fn forward_flash(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        let [left, right] = self.flash_window();
        let results = FLASH_ATTENTION.call(
            q.torch(),
            &[
                Of(&filled(&self.heads(q)?)?),
                Of(&filled(&self.heads(k)?)?),
                Of(&filled(&self.heads(v)?)?),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Bool(self.is_causal),
                Bool(false),
                Float(self.scale()),
                left,
                right,
                Nothing,
                Nothing,
            ],
        )?;
        let [output, log_sum_exp, generator, unused, _] = exactly(&FLASH_ATTENTION, results)?;
        let output = Self::flat(&self.cut(&output)?)?;
        Ok(Attended { output, state: vec![log_sum_exp, generator, unused] })
    }

    pub(super) fn backward_flash(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        let [log_sum_exp, generator, unused] = &attended.state[..] else {
            return Err(FLASH_ATTENTION_BACKWARD.refuse("the forward pass was another kernel's"));
        };
        let [left, right] = self.flash_window();
        let results = FLASH_ATTENTION_BACKWARD.call(
            q.torch(),
            &[
                Of(&filled(&self.heads(d_output)?)?),
                Of(&filled(&self.heads(q)?)?),
                Of(&filled(&self.heads(k)?)?),
                Of(&filled(&self.heads(v)?)?),
                Of(&filled(&self.heads(&attended.output)?)?),
                Of(log_sum_exp),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Bool(self.is_causal),
                Of(generator),
                Of(unused),
                Float(self.scale()),
                left,
                right,
            ],
        )?;
        let [d_q, d_k, d_v]: [Tensor; 3] = exactly(&FLASH_ATTENTION_BACKWARD, results)?;
        Ok([Self::flat(&self.cut(&d_q)?)?, Self::flat(&self.cut(&d_k)?)?, Self::flat(&self.cut(&d_v)?)?])
    }

    /// `[n, heads, head_dim]` as a batch of one.
    fn batch_of_one(x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[1, x.size(0), x.size(1), x.size(2)])
    }

    /// A batch of one as `[n, heads, head_dim]`.
    fn only(x: &Tensor) -> Result<Tensor, TorchError> {
        x.reshape(&[x.size(1), x.size(2), x.size(3)])
    }

    fn efficient_mask(&self) -> (i64, Argument<'static>) {
        let kind = if self.is_causal { MASK_CAUSAL_FROM_BOTTOM_RIGHT } else { MASK_NONE };
        (kind, self.window.map_or(Nothing, |window| Int(window as i64)))
    }

    pub(super) fn forward_efficient(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Attended, TorchError> {
        let (mask, window) = self.efficient_mask();
        let results = EFFICIENT_ATTENTION.call(
            q.torch(),
            &[
                Of(&Self::batch_of_one(&filled(&self.heads(q)?)?)?),
                Of(&Self::batch_of_one(&filled(&self.repeated(k)?)?)?),
                Of(&Self::batch_of_one(&filled(&self.repeated(v)?)?)?),
                Nothing,
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Float(0.0),
                Int(mask),
                Bool(true),
                Float(self.scale()),
                Nothing,
                window,
            ],
        )?;
        let [output, log_sum_exp, seed, offset] = exactly(&EFFICIENT_ATTENTION, results)?;
        let output = Self::flat(&self.cut(&Self::only(&output)?)?)?;
        Ok(Attended { output, state: vec![log_sum_exp, seed, offset] })
    }

    pub(super) fn backward_efficient(
        &self,
        spans: &Spans,
        cumulative: &[Tensor; 2],
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        d_output: &Tensor,
    ) -> Result<[Tensor; 3], TorchError> {
        let [log_sum_exp, seed, offset] = &attended.state[..] else {
            return Err(EFFICIENT_ATTENTION_BACKWARD.refuse("the forward pass was another kernel's"));
        };
        let (mask, window) = self.efficient_mask();
        let results = EFFICIENT_ATTENTION_BACKWARD.call(
            q.torch(),
            &[
                Of(&Self::batch_of_one(&filled(&self.heads(d_output)?)?)?),
                Of(&Self::batch_of_one(&filled(&self.heads(q)?)?)?),
                Of(&Self::batch_of_one(&filled(&self.repeated(k)?)?)?),
                Of(&Self::batch_of_one(&filled(&self.repeated(v)?)?)?),
                Nothing,
                Of(&Self::batch_of_one(&filled(&self.heads(&attended.output)?)?)?),
                Of(&cumulative[0]),
                Of(&cumulative[1]),
                Int(spans.longest[0] as i64),
                Int(spans.longest[1] as i64),
                Of(log_sum_exp),
                Float(0.0),
                Of(seed),
                Of(offset),
                Int(mask),
                Bool(false),
                Float(self.scale()),
                Nothing,
                window,
                Bool(false),
            ],
        )?;
        let [d_q, d_k, d_v, _] = exactly(&EFFICIENT_ATTENTION_BACKWARD, results)?;
        let only = |d: &Tensor| self.cut(&Self::only(d)?);
        let (d_q, d_k, d_v) = (only(&d_q)?, only(&d_k)?, only(&d_v)?);
        Ok([Self::flat(&d_q)?, self.summed(&d_k)?, self.summed(&d_v)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::operators::tests::torch;

    #[test]
    fn heads_of_other_widths_are_filled_up_and_cut() {
        let Some(torch) = torch() else { return };
        let shape = AttentionShape {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 3,
            is_causal: true,
            window: None,
            given_scale: None,
            soft_cap: None,
        };
        let values: Vec<f32> = (1..=12).map(|value| value as f32).collect();
        let heads = Tensor::from_f32(torch, &values, &[2, 2, 3], Device::Cpu).unwrap();
        let wide = filled(&heads).unwrap();
        assert_eq!(wide.shape(), [2, 2, 8]);
        let first = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0];
        assert_eq!(wide.to_f32().unwrap()[..9], first);
        let again = shape.cut(&wide).unwrap();
        assert_eq!((again.shape(), again.to_f32().unwrap()), (vec![2, 2, 3], values));
        let wide_enough = Tensor::from_f32(torch, &[1.0; 16], &[1, 2, 8], Device::Cpu).unwrap();
        assert_eq!(filled(&wide_enough).unwrap().shape(), [1, 2, 8]);
    }
}
