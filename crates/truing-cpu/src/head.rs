//! The final norm and the head: token log-probabilities, the exact KL from a reference, and scores.

use truing_kernels::{
    Divergence, LogProbRows, ReferenceRows, Write, linear_log_probs_divergence_backward,
    linear_log_probs_divergence_forward, linear_top_log_probs, rms_norm_backward, scatter_add_rows,
};
use truing_model::{HeadGradient, HeadOutput, HeadRequest, TokenLogProbs, TopLogProbs};
use truing_types::ExcludedTokens;

use crate::engine::Inner;

impl Inner {
    pub(crate) fn head(&mut self, hidden: &[f32], request: &HeadRequest<'_>) -> HeadOutput {
        let (chosen, mut normed) = self.normed_rows(hidden, request.rows());
        let weight = &self.parameters.values[self.head];
        let mut output = HeadOutput::default();
        match request {
            HeadRequest::Scores { .. } => output.scores = scores(&normed, weight, self.spec.hidden_size),
            HeadRequest::LogProbs { targets, temperature, excluded, reference } => {
                truing_kernels::scale(&mut normed, temperature.recip());
                let HeadOutput { tokens, kl, .. } = &mut output;
                *tokens = TokenLogProbs::with_len(targets.rows.len());
                linear_log_probs_divergence_forward(
                    &normed,
                    weight,
                    &targets.tokens,
                    excluded.ranges(),
                    rows_of(tokens),
                    divergence(*reference, kl, &[]),
                );
            }
        }
        self.pool.give(chosen);
        self.pool.give(normed);
        output
    }

    pub(crate) fn head_backward(
        &mut self,
        hidden: Vec<f32>,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> (HeadOutput, Vec<f32>) {
        let width = self.spec.hidden_size;
        let rows = request.rows();
        let (chosen, mut normed) = self.normed_rows(&hidden, rows);
        let mut d_normed = self.pool.take(rows.len(), width);
        let mut output = HeadOutput::default();
        let d_head = &mut self.parameters.gradients[self.head];
        let d_head = if d_head.is_empty() { None } else { Some(&mut d_head[..]) };
        let weight = &self.parameters.values[self.head];
        match request {
            HeadRequest::Scores { .. } => {
                output.scores = scores(&normed, weight, width);
                scores_backward(&normed, weight, width, &gradient.scores, &mut d_normed, d_head);
            }
            HeadRequest::LogProbs { targets, temperature, excluded, reference } => {
                truing_kernels::scale(&mut normed, temperature.recip());
                let HeadOutput { tokens, kl, .. } = &mut output;
                *tokens = TokenLogProbs::with_len(rows.len());
                linear_log_probs_divergence_backward(
                    &normed,
                    weight,
                    &targets.tokens,
                    excluded.ranges(),
                    &gradient.log_probs,
                    rows_of(tokens),
                    divergence(*reference, kl, &gradient.kl),
                    &mut d_normed,
                    d_head,
                );
                truing_kernels::scale(&mut d_normed, temperature.recip());
            }
        }
        let mut d_chosen = normed;
        let d_weight = &mut self.parameters.gradients[self.final_norm];
        rms_norm_backward(
            &chosen,
            &self.parameters.values[self.final_norm],
            self.spec.rms_norm_eps,
            &d_normed,
            &mut d_chosen,
            Write::Overwrite,
            if d_weight.is_empty() { None } else { Some(d_weight) },
        );
        let mut d_hidden = hidden;
        truing_kernels::fill(&mut d_hidden, 0.0);
        scatter_add_rows(&d_chosen, width, rows, &mut d_hidden);
        for buffer in [chosen, d_normed, d_chosen] {
            self.pool.give(buffer);
        }
        (output, d_hidden)
    }

    pub(crate) fn top_log_probs(
        &mut self,
        hidden: &[f32],
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> TopLogProbs {
        let (chosen, mut normed) = self.normed_rows(hidden, rows);
        truing_kernels::scale(&mut normed, temperature.recip());
        let k = k.clamp(1, self.spec.vocab_size - excluded.len());
        let weight = &self.parameters.values[self.head];
        let (tokens, log_probs) =
            linear_top_log_probs(&normed, weight, self.spec.hidden_size, excluded.ranges(), k);
        self.pool.give(chosen);
        self.pool.give(normed);
        TopLogProbs { k, tokens, log_probs }
    }
}

/// The kernel's question about a reference; `kl` is made as long as its rows.
fn divergence<'a>(
    reference: Option<&'a TopLogProbs>,
    kl: &'a mut Vec<f32>,
    d_kl: &'a [f32],
) -> Option<Divergence<'a>> {
    let TopLogProbs { k, tokens, log_probs } = reference?;
    kl.resize(tokens.len() / (*k).max(1), 0.0);
    Some(Divergence { reference: ReferenceRows { k: *k, tokens, log_probs }, kl, d_kl })
}

/// `hidden` `[n_rows, width]` times the head's rows `[n_outputs, width]`, summed in double precision:
/// `[n_rows, n_outputs]`.
pub(crate) fn scores(hidden: &[f32], weight: &[f32], width: usize) -> Vec<f32> {
    let dot = |row: &[f32], weight: &[f32]| {
        row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32
    };
    let rows = hidden.chunks_exact(width);
    rows.flat_map(|row| weight.chunks_exact(width).map(move |weight| dot(row, weight))).collect()
}

/// `d_hidden[i] = sum_k d_scores[i, k] w[k]`, `d_w[k] += sum_i d_scores[i, k] hidden[i]`.
pub(crate) fn scores_backward(
    hidden: &[f32],
    weight: &[f32],
    width: usize,
    d_scores: &[f32],
    d_hidden: &mut [f32],
    d_weight: Option<&mut [f32]>,
) {
    let n_outputs = weight.len() / width;
    for (i, d_row) in d_hidden.chunks_exact_mut(width).enumerate() {
        for (k, weight) in weight.chunks_exact(width).enumerate() {
            let d_score = d_scores.get(i * n_outputs + k).copied().unwrap_or_default();
            let parts = d_row.iter_mut().zip(weight);
            if k == 0 {
                parts.for_each(|(d, w)| *d = d_score * w);
            } else {
                parts.for_each(|(d, w)| *d += d_score * w);
            }
        }
    }
    if let Some(d_weight) = d_weight {
        for (row, d_scores) in hidden.chunks_exact(width).zip(d_scores.chunks_exact(n_outputs)) {
            for (d_weight, &d_score) in d_weight.chunks_exact_mut(width).zip(d_scores) {
                d_weight.iter_mut().zip(row).for_each(|(d, x)| *d += d_score * x);
            }
        }
    }
}

fn rows_of(results: &mut TokenLogProbs) -> LogProbRows<'_> {
    LogProbRows {
        log_probs: &mut results.log_probs,
        entropies: &mut results.entropies,
        is_argmax: &mut results.is_argmax,
    }
}
