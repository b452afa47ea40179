//! The final norm and the head: token log-probabilities, divergences from a reference, scores, and vectors. Logits
//! are made for some rows at a time, and are gone before the next.

use std::ops::Range;

use truing_model::engine::checks::{check_request, check_top, on_host};
use truing_model::{
    EngineError, HeadGradient, HeadOutput, HeadRequest, HostTopLogProbs, Reference, TokenLogProbs,
    TopLogProbs,
};
use truing_types::{ExcludedTokens, TargetTokens, TokenId};

use crate::decoder::Decoder;
use crate::divergence::Compared;
use crate::error::TorchError;
use crate::ffi::{Dtype, Tensor};
use crate::inner::Inner;
use crate::logit_rule::LogitRule;
use crate::parameters::Parameters;

/// Logits that are in memory at once.
pub(crate) const LOGITS_AT_ONCE: usize = 1 << 24;

/// The rows that a head works on.
struct Rows {
    indices: Tensor,
    /// The hidden states of the rows `[n_rows, hidden]`.
    chosen: Tensor,
    /// Their final norm, in the format that is computed in.
    normed: Tensor,
}

/// The language-model head for some rows: matrix, temperature, and the tokens that take no part.
struct VocabularyHead<'a> {
    parameters: &'a Parameters,
    head: usize,
    vocab_size: usize,
    /// Final norm of the rows, divided by the temperature.
    normed: Tensor,
    /// `[1, vocab]`.
    excluded: Option<Tensor>,
    /// How logits are made of the products.
    rule: LogitRule,
}

/// The inverse of the temperature, where it is not 1.
fn scaled(x: &Tensor, temperature: f32) -> Result<Tensor, TorchError> {
    if temperature == 1.0 { x.alias() } else { x.scaled(temperature.recip()) }
}

impl<'a> VocabularyHead<'a> {
    fn new(
        parameters: &'a Parameters,
        decoder: &Decoder,
        normed: &Tensor,
        temperature: f32,
        excluded: &ExcludedTokens,
    ) -> Result<Self, TorchError> {
        let vocab_size = decoder.spec.vocab_size;
        let excluded = if excluded.is_empty() {
            None
        } else {
            let mask: Vec<bool> = (0..vocab_size).map(|token| excluded.contains(token as TokenId)).collect();
            Some(Tensor::from_bool(parameters.torch, &mask, &[1, vocab_size], parameters.device)?)
        };
        let normed = scaled(normed, temperature)?;
        let rule = LogitRule::new(parameters, decoder, temperature)?;
        Ok(Self { parameters, head: decoder.head, vocab_size, normed, excluded, rule })
    }

    /// Parts of the rows whose logits are made at once.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n_rows, n_each) = (self.normed.size(0), (LOGITS_AT_ONCE / self.vocab_size).max(1));
        (0..n_rows).step_by(n_each).map(move |start| start..n_rows.min(start + n_each))
    }

    /// Logits of some rows in single precision; those of excluded tokens are minus infinity.
    fn logits(&self, rows: Range<usize>) -> Result<Tensor, TorchError> {
        let head = self.parameters.weight(self.head).t()?;
        let logits = self.rule.forward(self.normed.rows(rows)?.mm_f32(&head)?)?;
        if let Some(excluded) = &self.excluded {
            logits.fill_where(excluded, f32::NEG_INFINITY)?;
        }
        Ok(logits)
    }

    /// Adds the matrix's gradient; the gradient at the final norm of some rows, from that at their logits.
    fn backward(&self, rows: Range<usize>, logits: &Tensor, d_logits: Tensor) -> Result<Tensor, TorchError> {
        let (d_products, along) = self.rule.backward(logits, d_logits, self.excluded.as_ref())?;
        let d_products = d_products.to(self.parameters.dtype)?;
        self.parameters.add_gradient_product(self.head, &d_products.t()?, &self.normed.rows(rows)?)?;
        if let Some(along) = along
            && self.parameters.has_gradient(self.head)
        {
            let taken = self.parameters.value(self.head).mul(&along)?;
            self.parameters.add_gradient(self.head, &taken.neg()?)?;
        }
        d_products.mm_f32(self.parameters.weight(self.head))
    }

    /// Numbers on the host, as a tensor `[rows, k]` on the device.
    fn indices(&self, tokens: &[TokenId], k: usize) -> Result<Tensor, TorchError> {
        let numbers: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        Tensor::from_i64(
            self.parameters.torch,
            &numbers,
            &[tokens.len() / k.max(1), k],
            self.parameters.device,
        )
    }

    /// The same for numbers.
    fn numbers(&self, values: &[f32], k: usize) -> Result<Tensor, TorchError> {
        let shape = [values.len() / k.max(1), k];
        Tensor::from_f32(self.parameters.torch, values, &shape, self.parameters.device)
    }
}

/// What the language-model head is asked.
struct LogProbRequest<'a> {
    targets: &'a TargetTokens,
    temperature: f32,
    excluded: &'a ExcludedTokens,
    reference: Option<&'a Reference>,
}

impl<'a> LogProbRequest<'a> {
    fn of(request: &'a HeadRequest<'_>) -> Option<Self> {
        match request {
            HeadRequest::LogProbs { targets, temperature, excluded, reference } => {
                Some(Self { targets, temperature: *temperature, excluded, reference: reference.as_ref() })
            }
            HeadRequest::Scores { .. } | HeadRequest::Vectors { .. } => None,
        }
    }

    /// Answers for all rows; with a gradient also the gradient at the final norm `[n_rows, hidden]`.
    fn run(
        &self,
        head: &VocabularyHead<'_>,
        gradient: Option<&HeadGradient>,
    ) -> Result<(HeadOutput, Option<Tensor>), EngineError> {
        let mut output = HeadOutput { tokens: TokenLogProbs::with_len(0), ..HeadOutput::default() };
        let mut d_parts = Vec::new();
        for rows in head.parts() {
            let logits = head.logits(rows.clone())?;
            let log_probs = logits.log_softmax()?;
            let probabilities = log_probs.exp()?;
            let tokens = head.indices(&self.targets.tokens[rows.clone()], 1)?;
            self.answer(&mut output.tokens, head, &rows, [&log_probs, &probabilities, &tokens])?;
            let compared = self.compare(head, &logits, &rows)?;
            if let Some(compared) = &compared {
                output.kl.extend(compared.values.to_f32()?.into_iter().map(|kl| kl.max(0.0)));
            }
            let Some(gradient) = gradient else { continue };
            let d = match &gradient.log_probs[..] {
                [] => None,
                d => Some(head.numbers(&d[rows.clone()], 1)?),
            };
            let d_logits = match &d {
                None => probabilities.zeros_like(&probabilities.shape())?,
                Some(d) => {
                    let d_logits = probabilities.mul(&d.neg()?)?;
                    d_logits.scatter_add_columns(&tokens, d)?;
                    d_logits
                }
            };
            if let (Some(compared), d @ [_, ..]) = (&compared, &gradient.kl[..]) {
                let d = compared.gradient.mul(&head.numbers(&d[rows.clone()], 1)?)?;
                d_logits.scatter_add_columns(&compared.tokens, &d)?;
            }
            d_parts.push(head.backward(rows, &logits, d_logits)?);
        }
        let parts: Vec<&Tensor> = d_parts.iter().collect();
        let d_normed = if parts.is_empty() { None } else { Some(Tensor::cat(&parts, 0)?) };
        Ok((output, d_normed))
    }

    /// Log-probabilities, entropies and most likely tokens of some rows.
    fn answer(
        &self,
        results: &mut TokenLogProbs,
        head: &VocabularyHead<'_>,
        rows: &Range<usize>,
        [log_probs, probabilities, tokens]: [&Tensor; 3],
    ) -> Result<(), TorchError> {
        results.log_probs.extend(log_probs.gather_columns(tokens)?.to_f32()?);
        let parts = probabilities.mul(log_probs)?;
        if let Some(excluded) = &head.excluded {
            // 0 times minus infinity.
            parts.fill_where(excluded, 0.0)?;
        }
        results.entropies.extend(parts.sum(1, false)?.neg()?.to_f32()?);
        let likeliest = log_probs.argmax()?.to_i64()?;
        let targets = &self.targets.tokens[rows.clone()];
        results
            .is_argmax
            .extend(likeliest.iter().zip(targets).map(|(&likeliest, &token)| likeliest == i64::from(token)));
        Ok(())
    }

    /// The divergence from the reference at some rows.
    fn compare(
        &self,
        head: &VocabularyHead<'_>,
        logits: &Tensor,
        rows: &Range<usize>,
    ) -> Result<Option<Compared>, EngineError> {
        let Some(Reference { top, divergence }) = self.reference else { return Ok(None) };
        let HostTopLogProbs { k, tokens, log_probs } = on_host(top)?;
        let part = rows.start * k..rows.end * k;
        let tokens = head.indices(&tokens[part.clone()], *k)?;
        let reference = head.numbers(&log_probs[part], *k)?;
        Ok(Some(Compared::new(*divergence, logits, tokens, &reference)?))
    }
}

impl Inner {
    /// Refuses what the model or this engine cannot answer.
    pub(crate) fn check_request(&self, request: &HeadRequest<'_>) -> Result<(), EngineError> {
        check_request(&self.spec, request)?;
        match request {
            HeadRequest::LogProbs { reference: Some(Reference { top, .. }), targets, .. } => {
                check_top(on_host(top)?, targets.rows.len(), self.spec.vocab_size())
            }
            _ => Ok(()),
        }
    }

    fn rows(&self, decoder: &Decoder, hidden: &Tensor, rows: &[u32]) -> Result<Rows, EngineError> {
        let numbers: Vec<i64> = rows.iter().map(|&row| i64::from(row)).collect();
        let indices =
            Tensor::from_i64(self.parameters.torch, &numbers, &[rows.len()], self.parameters.device)?;
        let chosen = hidden.select(0, &indices)?;
        let normed = decoder.final_norm.forward(&self.parameters, &chosen)?;
        Ok(Rows { indices, chosen, normed })
    }

    pub(crate) fn head(&self, hidden: &Tensor, request: &HeadRequest<'_>) -> Result<HeadOutput, EngineError> {
        if let Some(request) = self.vector_request(request)? {
            let vectors = self.vectors(hidden, &request)?.answer.to_f32()?;
            return Ok(HeadOutput { vectors, ..HeadOutput::default() });
        }
        let decoder = self.body.decoder()?;
        let rows = self.rows(decoder, hidden, request.rows())?;
        match LogProbRequest::of(request) {
            Some(asked) => Ok(asked.run(&self.vocabulary(decoder, &rows, &asked)?, None)?.0),
            None => {
                let scores = self.scores(decoder, &rows.normed)?.to_f32()?;
                Ok(HeadOutput { scores, ..HeadOutput::default() })
            }
        }
    }

    pub(crate) fn head_backward(
        &self,
        hidden: &Tensor,
        request: &HeadRequest<'_>,
        gradient: &HeadGradient,
    ) -> Result<(HeadOutput, Tensor), EngineError> {
        if let Some(request) = self.vector_request(request)? {
            return self.vectors_backward(hidden, &request, &gradient.vectors);
        }
        let decoder = self.body.decoder()?;
        let rows = self.rows(decoder, hidden, request.rows())?;
        let (output, d_normed) = match LogProbRequest::of(request) {
            Some(asked) => {
                let head = self.vocabulary(decoder, &rows, &asked)?;
                let (output, d_normed) = asked.run(&head, Some(gradient))?;
                (output, d_normed.map(|d| scaled(&d, asked.temperature)).transpose()?)
            }
            None => self.scores_backward(decoder, &rows.normed, &gradient.scores)?,
        };
        let n_tokens = hidden.size(0);
        let d_hidden = match d_normed {
            None => hidden.zeros_like(&hidden.shape())?,
            Some(d_normed) => {
                let d_chosen = decoder.final_norm.backward(&self.parameters, &rows.chosen, &d_normed)?;
                d_chosen.scatter_rows(&rows.indices, n_tokens)?
            }
        };
        Ok((output, d_hidden))
    }

    fn vocabulary(
        &self,
        decoder: &Decoder,
        rows: &Rows,
        asked: &LogProbRequest<'_>,
    ) -> Result<VocabularyHead<'_>, TorchError> {
        VocabularyHead::new(&self.parameters, decoder, &rows.normed, asked.temperature, asked.excluded)
    }

    /// The score head `[n_rows, n_outputs]`, in single precision.
    fn scores(&self, decoder: &Decoder, normed: &Tensor) -> Result<Tensor, TorchError> {
        normed.to(Dtype::F32)?.mm(&self.parameters.value(decoder.head).t()?)
    }

    fn scores_backward(
        &self,
        decoder: &Decoder,
        normed: &Tensor,
        d_scores: &[f32],
    ) -> Result<(HeadOutput, Option<Tensor>), TorchError> {
        let scores = self.scores(decoder, normed)?;
        let output = HeadOutput { scores: scores.to_f32()?, ..HeadOutput::default() };
        if d_scores.is_empty() {
            return Ok((output, None));
        }
        let Parameters { torch, device, .. } = self.parameters;
        let d_scores = Tensor::from_f32(torch, d_scores, &scores.shape(), device)?;
        let normed = normed.to(Dtype::F32)?;
        self.parameters.add_gradient_product(decoder.head, &d_scores.t()?, &normed)?;
        Ok((output, Some(d_scores.mm(self.parameters.value(decoder.head))?)))
    }

    /// Logits of some rows `[n_rows, vocab]`, all at once.
    pub(crate) fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Vec<f32>, EngineError> {
        let decoder = self.body.decoder()?;
        let rows = self.rows(decoder, hidden, rows)?;
        let none = ExcludedTokens::none();
        let head = VocabularyHead::new(&self.parameters, decoder, &rows.normed, 1.0, &none)?;
        Ok(head.logits(0..rows.normed.size(0))?.to_f32()?)
    }

    pub(crate) fn top_log_probs(
        &self,
        hidden: &Tensor,
        rows: &[u32],
        temperature: f32,
        excluded: &ExcludedTokens,
        k: usize,
    ) -> Result<TopLogProbs, EngineError> {
        let decoder = self.body.decoder()?;
        let rows = self.rows(decoder, hidden, rows)?;
        let head = VocabularyHead::new(&self.parameters, decoder, &rows.normed, temperature, excluded)?;
        let k = k.clamp(1, decoder.spec.vocab_size - excluded.len());
        let mut top = HostTopLogProbs { k, ..HostTopLogProbs::default() };
        for part in head.parts() {
            let [highest, tokens] = head.logits(part)?.top_k(k)?;
            let (tokens, log_probs) = (tokens.to_i64()?, highest.log_softmax()?.to_f32()?);
            for (tokens, log_probs) in tokens.chunks(k).zip(log_probs.chunks(k)) {
                // libtorch leaves the order of equals open.
                let mut row: Vec<(i64, f32)> =
                    tokens.iter().copied().zip(log_probs.iter().copied()).collect();
                row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                top.tokens.extend(row.iter().map(|&(token, _)| token as TokenId));
                top.log_probs.extend(row.iter().map(|&(_, log_prob)| log_prob));
            }
        }
        Ok(top.into())
    }

    pub(crate) fn log_probs_of(
        &self,
        hidden: &Tensor,
        rows: &[u32],
        temperature: f32,
        tokens: &TopLogProbs,
    ) -> Result<TopLogProbs, EngineError> {
        let asked = on_host(tokens)?;
        check_top(asked, rows.len(), self.spec.vocab_size())?;
        let decoder = self.body.decoder()?;
        let rows = self.rows(decoder, hidden, rows)?;
        let none = ExcludedTokens::none();
        let head = VocabularyHead::new(&self.parameters, decoder, &rows.normed, temperature, &none)?;
        let (k, mut log_probs) = (asked.k, Vec::with_capacity(asked.tokens.len()));
        for part in head.parts() {
            let tokens = head.indices(&asked.tokens[part.start * k..part.end * k], k)?;
            log_probs.extend(head.logits(part)?.gather_columns(&tokens)?.log_softmax()?.to_f32()?);
        }
        Ok(HostTopLogProbs { k, tokens: asked.tokens.clone(), log_probs }.into())
    }
}
