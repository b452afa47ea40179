//! The final norm and the head: token log-probabilities, the exact KL from a reference, scores, and vectors.

use truing_kernels::{
    AttentionSpan, Divergence, DivergenceKind, LogProbRows, ReferenceRows,
    linear_log_probs_divergence_backward, linear_log_probs_divergence_forward, linear_log_probs_of,
    linear_top_log_probs, scatter_add_rows, spans_of,
};
use truing_model::engine::checks::{check_request, check_top, on_host};
use truing_model::{
    Divergence as ModelDivergence, EngineError, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs,
    Pooling, Reference, TokenLogProbs, TopLogProbs,
};
use truing_types::ExcludedTokens;

use crate::encoder::pooling;
use crate::inner::{Body, Inner};
use crate::scores::{scores, scores_backward};
use crate::ulysses::PackRows;

impl Inner {
    /// Refuses what the model cannot answer.
    pub(crate) fn check_request(&self, request: &HeadRequest<'_>) -> Result<(), EngineError> {
        check_request(&self.spec, request)?;
        match request {
            HeadRequest::LogProbs { reference: Some(Reference { top, .. }), targets, .. } => {
                check_top(on_host(top)?, targets.rows.len(), self.spec.vocab_size())
            }
            _ => Ok(()),
        }
    }

    /// What is asked about rows `[n_tokens, hidden]`, which are those of `rows`; vectors are about all rows of the
    /// pack.
    pub(crate) fn head(
        &mut self,
        hidden: &[f32],
        rows: &PackRows,
        request: &HeadRequest<'_>,
    ) -> Result<HeadOutput, EngineError> {
        if let Some(request) = VectorRequest::of(request) {
            let (vectors, _) = self.vectors(hidden, rows, &request)?;
            return Ok(HeadOutput { vectors, ..HeadOutput::default() });
        }
        let Self { parameters, pool, body, .. } = self;
        let decoder = body.decoder()?;
        let (chosen, mut normed) = decoder.normed_rows(parameters, pool, hidden, request.rows());
        let mut output = HeadOutput::default();
        if let HeadRequest::LogProbs { targets, temperature, excluded, reference } = request {
            truing_kernels::scale(&mut normed, temperature.recip());
            let HeadOutput { tokens, kl, .. } = &mut output;
            *tokens = TokenLogProbs::with_len(targets.rows.len());
            linear_log_probs_divergence_forward(
                &normed,
                parameters.weight(decoder.head),
                &targets.tokens,
                excluded.ranges(),
                rows_of(tokens),
                divergence(reference.as_ref(), kl, &[]),
            );
        } else {
            output.scores = scores(&normed, &parameters.values[decoder.head], decoder.spec.hidden_size);
        }
        pool.give(chosen);
        pool.give(normed);
        Ok(output)
    }

    pub(crate) fn head_backward(
        &mut self,
        hidden: Vec<f32>,
        pack_rows: &PackRows,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Vec<f32>), EngineError> {
        if let Some(request) = VectorRequest::of(request) {
            return self.vectors_backward(hidden, pack_rows, &request, &gradient.vectors);
        }
        let Self { parameters, pool, body, .. } = self;
        let decoder = body.decoder()?;
        let width = decoder.spec.hidden_size;
        let rows = request.rows();
        let (chosen, mut normed) = decoder.normed_rows(parameters, pool, &hidden, rows);
        let mut d_normed = pool.take(rows.len(), width);
        let mut output = HeadOutput::default();
        if let HeadRequest::LogProbs { targets, temperature, excluded, reference } = request {
            let (weight, d_head) = parameters.weight_and_gradient(decoder.head);
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
                divergence(reference.as_ref(), kl, &gradient.kl),
                &mut d_normed,
                d_head,
            );
            truing_kernels::scale(&mut d_normed, temperature.recip());
        } else {
            let d_head = &mut parameters.gradients[decoder.head];
            let d_head = if d_head.is_empty() { None } else { Some(&mut d_head[..]) };
            let weight = &parameters.values[decoder.head];
            output.scores = scores(&normed, weight, width);
            scores_backward(&normed, weight, width, &gradient.scores, &mut d_normed, d_head);
        }
        let mut d_chosen = normed;
        decoder.final_norm_backward(parameters, &chosen, &d_normed, &mut d_chosen);
        let mut d_hidden = hidden;
        truing_kernels::fill(&mut d_hidden, 0.0);
        scatter_add_rows(&d_chosen, width, rows, &mut d_hidden);
        for buffer in [chosen, d_normed, d_chosen] {
            pool.give(buffer);
        }
        Ok((output, d_hidden))
    }

    /// Vectors before and after the normalisation: what is answered `[n_sequences, width]`, and the pooled hidden
    /// states `[n_sequences, hidden]`. Sequences may cross ranks, so every rank pools the rows of all.
    fn vectors(
        &mut self,
        hidden: &[f32],
        rows: &PackRows,
        request: &VectorRequest,
    ) -> Result<(Vec<f32>, Vec<f32>), EngineError> {
        let Self { parameters, pool, body, group, .. } = self;
        let (normed, hidden_size) = match body {
            Body::Encoder(encoder) => {
                (encoder.final_norm(parameters, pool, hidden), encoder.spec.hidden_size)
            }
            Body::Decoder(decoder) => {
                (decoder.final_norm(parameters, pool, hidden), decoder.spec.hidden_size)
            }
        };
        let normed = group.all_rows(pool, rows, normed, hidden_size)?;
        let pooled = pooling::pool(&normed, &request.spans, hidden_size, request.pooling);
        pool.give(normed);
        let mut vectors = self.outputs(&pooled);
        if request.is_normalized {
            pooling::normalize(&mut vectors, self.vector_width());
        }
        Ok((vectors, pooled))
    }

    /// What the output layer makes of pooled vectors; without a layer the same.
    fn outputs(&self, pooled: &[f32]) -> Vec<f32> {
        match self.body.encoder().and_then(|encoder| encoder.output.as_ref()) {
            Some(output) => output.forward(&self.parameters, pooled, self.spec.hidden_size()),
            None => pooled.to_vec(),
        }
    }

    fn vectors_backward(
        &mut self,
        hidden: Vec<f32>,
        rows: &PackRows,
        request: &VectorRequest,
        d_vectors: &[f32],
    ) -> Result<(HeadOutput, Vec<f32>), EngineError> {
        let (vectors, pooled) = self.vectors(&hidden, rows, request)?;
        let hidden_size = self.spec.hidden_size();
        let mut d_vectors = match d_vectors {
            [] => vec![0.0; vectors.len()],
            given => given.to_vec(),
        };
        if request.is_normalized {
            pooling::normalize_backward(&self.outputs(&pooled), self.vector_width(), &mut d_vectors);
        }
        let Self { parameters, pool, body, group, .. } = self;
        let d_pooled = match body.encoder().and_then(|encoder| encoder.output.as_ref()) {
            Some(output) => output.backward(parameters, &pooled, hidden_size, &d_vectors),
            None => d_vectors,
        };
        let mut d_normed = group.take(pool, rows.n_pack, hidden_size);
        pooling::pool_backward(&d_pooled, &request.spans, hidden_size, request.pooling, &mut d_normed);
        let d_own = &d_normed[rows.own.start * hidden_size..rows.own.end * hidden_size];
        let d_hidden = match body {
            Body::Encoder(encoder) => encoder.final_norm_backward(parameters, pool, &hidden, d_own),
            Body::Decoder(decoder) => {
                let mut d_hidden = pool.take(rows.own.len(), hidden_size);
                decoder.final_norm_backward(parameters, &hidden, d_own, &mut d_hidden);
                d_hidden
            }
        };
        pool.give(d_normed);
        pool.give(hidden);
        Ok((HeadOutput { vectors, ..HeadOutput::default() }, d_hidden))
    }

    /// Length of a vector.
    fn vector_width(&self) -> usize {
        match &self.body {
            Body::Encoder(encoder) => encoder.spec.width(),
            Body::Decoder(decoder) => decoder.spec.hidden_size,
        }
    }

    pub(crate) fn top_log_probs(
        &mut self,
        hidden: &[f32],
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        let Self { parameters, pool, body, .. } = self;
        let decoder = body.decoder()?;
        let (chosen, mut normed) = decoder.normed_rows(parameters, pool, hidden, rows);
        truing_kernels::scale(&mut normed, temperature.recip());
        let k = k.clamp(1, decoder.spec.vocab_size - excluded.len());
        let weight = parameters.weight(decoder.head);
        let (tokens, log_probs) =
            linear_top_log_probs(&normed, weight, decoder.spec.hidden_size, excluded.ranges(), k);
        pool.give(chosen);
        pool.give(normed);
        Ok(HostTopLogProbs { k, tokens, log_probs }.into())
    }

    pub(crate) fn log_probs_of(
        &mut self,
        hidden: &[f32],
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        let top = on_host(tokens)?;
        check_top(top, rows.len(), self.spec.vocab_size())?;
        let HostTopLogProbs { k, tokens, .. } = top;
        let Self { parameters, pool, body, .. } = self;
        let decoder = body.decoder()?;
        let (chosen, mut normed) = decoder.normed_rows(parameters, pool, hidden, rows);
        truing_kernels::scale(&mut normed, temperature.recip());
        let weight = parameters.weight(decoder.head);
        let log_probs = linear_log_probs_of(&normed, weight, decoder.spec.hidden_size, tokens, *k);
        pool.give(chosen);
        pool.give(normed);
        Ok(HostTopLogProbs { k: *k, tokens: tokens.clone(), log_probs }.into())
    }
}

/// A [`HeadRequest::Vectors`] as the pooling wants it.
struct VectorRequest {
    spans: Vec<AttentionSpan>,
    pooling: Pooling,
    is_normalized: bool,
}

impl VectorRequest {
    fn of(request: &HeadRequest<'_>) -> Option<Self> {
        match request {
            HeadRequest::Vectors { cumulative_lengths, pooling, is_normalized } => Some(Self {
                spans: spans_of(cumulative_lengths),
                pooling: *pooling,
                is_normalized: *is_normalized,
            }),
            HeadRequest::LogProbs { .. } | HeadRequest::Scores { .. } => None,
        }
    }
}

/// The kernel's arguments for a reference; `kl` is made as long as its rows.
fn divergence<'a>(
    reference: Option<&'a Reference>,
    kl: &'a mut Vec<f32>,
    d_kl: &'a [f32],
) -> Option<Divergence<'a>> {
    let Reference { top, divergence } = reference?;
    let HostTopLogProbs { k, tokens, log_probs } = top.host()?;
    kl.resize(tokens.len() / (*k).max(1), 0.0);
    let kind = match *divergence {
        ModelDivergence::ReverseKl => DivergenceKind::ReverseKl,
        ModelDivergence::ForwardKl => DivergenceKind::ForwardKl,
        ModelDivergence::JensenShannon { beta } => DivergenceKind::JensenShannon(beta),
    };
    Some(Divergence { reference: ReferenceRows { k: *k, tokens, log_probs }, kind, kl, d_kl })
}

fn rows_of(results: &mut TokenLogProbs) -> LogProbRows<'_> {
    LogProbRows {
        log_probs: &mut results.log_probs,
        entropies: &mut results.entropies,
        is_argmax: &mut results.is_argmax,
    }
}
