//! A decoder's forward for running sequences: the keys and values of earlier tokens come from caches, and nothing is
//! kept for a backward.

use truing_types::TokenId;

use crate::attention::Spans;
use crate::cache::KvCache;
use crate::decoder::Decoder;
use crate::error::TorchError;
use crate::ffi::Tensor;
use crate::layer::Layer;
use crate::logit_rule::LogitRule;
use crate::parameters::Parameters;
use crate::rotary::AllAngles;

/// Longest piece of a prompt that is read at once; bounds the memory of a long prompt.
pub(crate) const PREFILL_TOKENS: usize = 512;

/// The tokens after which logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogitRows {
    /// The last of each sequence.
    Last,
    /// All.
    All,
}

impl Decoder {
    /// Several new tokens of one sequence, piece by piece; the logits after the last one `[1, vocab]`.
    pub(crate) fn read_prompt(
        &mut self,
        parameters: &Parameters,
        cache: &mut KvCache,
        tokens: &[TokenId],
    ) -> Result<Tensor, TorchError> {
        let n_before = cache.n_cached;
        let mut logits = None;
        for piece in tokens.chunks(PREFILL_TOKENS) {
            let read = self.extend(parameters, &mut [&mut *cache], &[piece], LogitRows::Last);
            if read.is_err() {
                cache.n_cached = n_before;
            }
            logits = Some(read?);
        }
        logits.ok_or_else(|| TorchError::Arguments { operator: "extend", reason: "no token".into() })
    }

    /// Some new tokens for each cache, in the order of the caches; logits in single precision, after each cache's last
    /// token `[n_caches, vocab]`, or after every token `[n_tokens, vocab]`.
    pub(crate) fn extend(
        &mut self,
        parameters: &Parameters,
        caches: &mut [&mut KvCache],
        tokens: &[&[TokenId]],
        rows: LogitRows,
    ) -> Result<Tensor, TorchError> {
        let Parameters { torch, device, .. } = *parameters;
        let n_new: Vec<usize> = tokens.iter().map(|tokens| tokens.len()).collect();
        let positions: Vec<u32> = caches
            .iter()
            .zip(&n_new)
            .flat_map(|(cache, n_new)| cache.n_cached as u32..(cache.n_cached + n_new) as u32)
            .collect();
        let angles = self.rotary.angles(torch, device, &positions)?;
        let spans = caches.iter().zip(&n_new).map(|(cache, &n_new)| (n_new, cache.n_cached + n_new));
        let spans = Spans::new(torch, device, spans)?;
        let numbers: Vec<i64> = tokens.iter().copied().flatten().map(|&token| i64::from(token)).collect();
        let mut hidden =
            self.embed(parameters, &Tensor::from_i64(torch, &numbers, &[numbers.len()], device)?)?;
        for (cache, &n_new) in caches.iter_mut().zip(&n_new) {
            cache.reserve(n_new)?;
        }
        for (idx, layer) in self.layers.iter().enumerate() {
            hidden = layer.extend(parameters, &angles, &spans, &hidden, caches, (idx, &n_new))?;
        }
        caches.iter_mut().zip(&n_new).for_each(|(cache, n_new)| cache.n_cached += n_new);
        if rows == LogitRows::Last {
            let ends = n_new.iter().scan(0, |end, n_new| {
                *end += n_new;
                Some(*end as i64 - 1)
            });
            let last: Vec<i64> = ends.collect();
            hidden = hidden.select(0, &Tensor::from_i64(torch, &last, &[last.len()], device)?)?;
        }
        let normed = self.final_norm.forward(parameters, &hidden)?;
        let products = normed.mm_f32(&parameters.weight(self.head).t()?)?;
        LogitRule::new(parameters, self, 1.0)?.forward(products)
    }
}

impl Layer {
    /// The block with the number `layer` for `n_new` tokens of each cache; `x` `[n_tokens, hidden]`.
    fn extend(
        &self,
        parameters: &Parameters,
        angles: &AllAngles,
        spans: &Spans,
        x: &Tensor,
        caches: &[&mut KvCache],
        (layer, n_new): (usize, &[usize]),
    ) -> Result<Tensor, TorchError> {
        let [q, k, v] = self.project(parameters, x)?;
        let [q, k] = self.turned(parameters, angles, [&q, &k])?;
        let (mut keys, mut values) = (Vec::with_capacity(caches.len()), Vec::with_capacity(caches.len()));
        let mut start = 0;
        for (cache, &n_new) in caches.iter().zip(n_new) {
            let rows = start..start + n_new;
            start += n_new;
            cache.append(layer, &k.rows(rows.clone())?, &v.rows(rows)?)?;
            let [of_cache, values_of_cache] = cache.first(layer, cache.n_cached + n_new)?;
            keys.push(of_cache);
            values.push(values_of_cache);
        }
        let all = |parts: &[Tensor]| Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0);
        let attended = self.attention.forward(spans, &q, &all(&keys)?, &all(&values)?)?;
        let (x_mid, _) = self.add_attention(parameters, x, &attended.output)?;
        Ok(self.feed_forward(parameters, &x_mid)?.0)
    }
}
