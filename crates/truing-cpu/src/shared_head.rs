//! The head in a sequence group: each rank computes the rows of a request that it holds, and gets the results of all,
//! in the request's order. Callers see what one rank would see. A rank that is alone copies nothing.

use std::borrow::Cow;

use truing_model::engine::checks::{check_top, on_host};
use truing_model::{
    EngineError, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs, Reference, TokenLogProbs,
    TopLogProbs,
};
use truing_types::{CommunicationError, ExcludedTokens, TargetTokens};

use crate::engine::Hidden;
use crate::inner::Inner;
use crate::ulysses::{PackRows, SequenceGroup};

/// Which of the rows that a request names this rank holds.
struct SharedRows {
    group: SequenceGroup,
    /// The rank that holds each row of the request.
    owners: Vec<usize>,
    /// Places in the request of the rows that are held here.
    mine: Vec<usize>,
    /// Those rows, counted from the first row that is held here.
    local: Vec<u32>,
}

impl SharedRows {
    fn new(group: &SequenceGroup, rows: &PackRows, requested: &[u32]) -> Self {
        let starts: Vec<usize> =
            (0..group.size()).map(|rank| group.rows_of(rank, rows.n_pack).start).collect();
        let owner = |&row: &u32| starts.partition_point(|&start| start <= row as usize) - 1;
        let owners: Vec<usize> = requested.iter().map(owner).collect();
        let mine: Vec<usize> = (0..owners.len()).filter(|&i| owners[i] == group.rank()).collect();
        let local = mine.iter().map(|&i| requested[i] - rows.own.start as u32).collect();
        Self { group: group.clone(), owners, mine, local }
    }

    /// Of `values` `[n_rows, width]` the rows that are held here. An empty list stays empty.
    fn pick<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let width = values.len() / self.owners.len().max(1);
        self.mine.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
    }

    /// The part of a request that this rank answers.
    fn request<'a>(&'a self, request: &HeadRequest<'a>) -> Result<HeadRequest<'a>, EngineError> {
        Ok(match request {
            HeadRequest::LogProbs { targets, temperature, excluded, reference } => HeadRequest::LogProbs {
                targets: Cow::Owned(TargetTokens {
                    rows: self.local.clone(),
                    tokens: self.pick(&targets.tokens),
                    weights: self.pick(&targets.weights),
                }),
                temperature: *temperature,
                excluded: excluded.clone(),
                reference: reference.as_ref().map(|reference| self.reference(reference)).transpose()?,
            },
            HeadRequest::Scores { .. } => HeadRequest::Scores { rows: Cow::Borrowed(&self.local) },
            vectors @ HeadRequest::Vectors { .. } => vectors.clone(),
        })
    }

    fn reference(&self, reference: &Reference) -> Result<Reference, EngineError> {
        let HostTopLogProbs { k, tokens, log_probs } = on_host(&reference.top)?;
        let top = HostTopLogProbs { k: *k, tokens: self.pick(tokens), log_probs: self.pick(log_probs) };
        Ok(Reference { top: top.into(), divergence: reference.divergence })
    }

    fn gradient(&self, gradient: &HeadGradient) -> HeadGradient {
        HeadGradient {
            log_probs: self.pick(&gradient.log_probs),
            kl: self.pick(&gradient.kl),
            scores: self.pick(&gradient.scores),
            vectors: gradient.vectors.clone(),
        }
    }

    /// The answer of all ranks to the whole request.
    fn output(&self, own: HeadOutput) -> Result<HeadOutput, EngineError> {
        let HeadOutput { tokens, kl, scores, vectors } = own;
        let is_argmax: Vec<u32> = tokens.is_argmax.iter().map(|&is_argmax| u32::from(is_argmax)).collect();
        Ok(HeadOutput {
            tokens: TokenLogProbs {
                log_probs: self.gather(&tokens.log_probs)?,
                entropies: self.gather(&tokens.entropies)?,
                is_argmax: self.gather_words(&is_argmax)?.into_iter().map(|word| word != 0).collect(),
            },
            kl: self.gather(&kl)?,
            scores: self.gather(&scores)?,
            vectors,
        })
    }

    /// Numbers of every row of the request `[n_rows, width]`, from those of the rows that are held here.
    fn gather(&self, own: &[f32]) -> Result<Vec<f32>, CommunicationError> {
        let words: Vec<u32> = own.iter().map(|number| number.to_bits()).collect();
        Ok(self.gather_words(&words)?.into_iter().map(f32::from_bits).collect())
    }

    fn gather_words(&self, own: &[u32]) -> Result<Vec<u32>, CommunicationError> {
        let by_rank = self.group.all_words(own)?;
        let n_words: usize = by_rank.iter().map(Vec::len).sum();
        let width = n_words / self.owners.len().max(1);
        let mut rows: Vec<_> = by_rank.iter().map(|words| words.chunks_exact(width.max(1))).collect();
        let mut all = Vec::with_capacity(n_words);
        for &owner in &self.owners {
            all.extend(rows[owner].next().into_iter().flatten());
        }
        Ok(all)
    }
}

impl Inner {
    pub(crate) fn head_on_ranks(
        &mut self,
        hidden: &Hidden,
        request: &HeadRequest<'_>,
    ) -> Result<HeadOutput, EngineError> {
        if self.group.is_alone() || matches!(request, HeadRequest::Vectors { .. }) {
            return self.head(&hidden.values, &hidden.rows, request);
        }
        let shared = SharedRows::new(&self.group, &hidden.rows, request.rows());
        let own = self.head(&hidden.values, &hidden.rows, &shared.request(request)?)?;
        shared.output(own)
    }

    pub(crate) fn head_backward_on_ranks(
        &mut self,
        hidden: Vec<f32>,
        rows: &PackRows,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Vec<f32>), EngineError> {
        if self.group.is_alone() || matches!(request, HeadRequest::Vectors { .. }) {
            return self.head_backward(hidden, rows, request, gradient);
        }
        let shared = SharedRows::new(&self.group, rows, request.rows());
        let (request, gradient) = (shared.request(request)?, shared.gradient(gradient));
        let (own, d_hidden) = self.head_backward(hidden, rows, &request, &gradient)?;
        Ok((shared.output(own)?, d_hidden))
    }

    pub(crate) fn top_log_probs_on_ranks(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        if self.group.is_alone() {
            return self.top_log_probs(&hidden.values, rows, temperature, excluded, k);
        }
        let shared = SharedRows::new(&self.group, &hidden.rows, rows);
        let own = self.top_log_probs(&hidden.values, &shared.local, temperature, excluded, k)?;
        let HostTopLogProbs { k, tokens, log_probs } = on_host(&own)?;
        let (tokens, log_probs) = (shared.gather_words(tokens)?, shared.gather(log_probs)?);
        Ok(HostTopLogProbs { k: *k, tokens, log_probs }.into())
    }

    pub(crate) fn log_probs_of_on_ranks(
        &mut self,
        hidden: &Hidden,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        if self.group.is_alone() {
            return self.log_probs_of(&hidden.values, rows, temperature, tokens);
        }
        let all = on_host(tokens)?;
        check_top(all, rows.len(), self.spec.vocab_size())?;
        let shared = SharedRows::new(&self.group, &hidden.rows, rows);
        let own = HostTopLogProbs { k: all.k, tokens: shared.pick(&all.tokens), log_probs: Vec::new() };
        let own = self.log_probs_of(&hidden.values, &shared.local, temperature, &own.into())?;
        let log_probs = shared.gather(&on_host(&own)?.log_probs)?;
        Ok(HostTopLogProbs { k: all.k, tokens: all.tokens.clone(), log_probs }.into())
    }

    pub(crate) fn logits_on_ranks(&mut self, hidden: &Hidden, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        let Self { parameters, body, pool, group, .. } = self;
        let decoder = body.decoder()?;
        decoder.prepare_head(parameters);
        if group.is_alone() {
            return Ok(decoder.logits(parameters, pool, &hidden.values, rows));
        }
        let shared = SharedRows::new(group, &hidden.rows, rows);
        Ok(shared.gather(&decoder.logits(parameters, pool, &hidden.values, &shared.local))?)
    }
}
