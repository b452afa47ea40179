//! How likely a model finds given continuations of a text: the measure behind multiple choice by log-likelihood and
//! perplexity.
//!
//! Texts become tokens as lm-evaluation-harness does it (`TemplateLM._encode_pair`): white space at the end of the
//! context belongs to the continuation, and the continuation's tokens are those of the whole text beyond the context's
//! own. An empty context is the tokenizer's beginning-of-text token, or its end-of-text token where it has none. What
//! is longer than the model's context loses its beginning.

use std::ops::{ControlFlow, Range};

use truing_model::{Adapters, Engine, HeadRequest, SaveActivations, top_log_probs};
use truing_run::RunError;
use truing_text::{SpecialTokens, Tokenizer};
use truing_train::segments;
use truing_types::{ExcludedTokens, PackedBatch, RowOrigin, TokenId};

/// Tokens of a pack.
const BUDGET: usize = 2048;

/// A text and its possible continuations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuations {
    /// The text before.
    pub context: String,
    /// What may follow, each directly after the context: it begins with its own space.
    pub options: Vec<String>,
}

/// What the model says of one continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Natural logarithm of its probability, given the context: the sum over its tokens.
    pub log_prob: f64,
    /// Its tokens.
    pub n_tokens: usize,
    /// Whether each of its tokens is the most likely one at its place.
    pub is_greedy: bool,
}

/// How texts become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LikelihoodOptions {
    /// Begin every context with the tokenizer's beginning-of-text token. Off, as in lm-evaluation-harness.
    pub add_bos_token: bool,
    /// What special tokens in the texts are. Contexts that a chat template has written need
    /// [`SpecialTokens::Parse`].
    pub special: SpecialTokens,
}

impl Default for LikelihoodOptions {
    fn default() -> Self {
        Self { add_bos_token: false, special: SpecialTokens::AsText }
    }
}

/// Tokens of one continuation with those before it.
struct Encoded {
    item: usize,
    option: usize,
    context: Vec<TokenId>,
    continuation: Vec<TokenId>,
}

/// Computes the log-likelihood of every option of every item, by item and option. A context is computed once for all of
/// its options that fit into a pack with it. The results do not depend on what else is asked: bit for bit where the
/// engine guarantees that. `on_progress` gets the number of continuations done, and may break off; the result is then
/// `None`.
///
/// # Errors
/// When a continuation has no token, or the engine fails.
pub fn log_likelihoods<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    items: &[Continuations],
    options: LikelihoodOptions,
    on_progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<Likelihood>>>, RunError> {
    let max_tokens = engine.spec().decoder()?.max_position_embeddings;
    let mut encoded = Vec::new();
    for (item, asked) in items.iter().enumerate() {
        for (option, text) in asked.options.iter().enumerate() {
            let (mut context, continuation) = encode_pair(tokenizer, &asked.context, text, options)?;
            if continuation.is_empty() {
                return Err(RunError::BadSetting {
                    key: "options",
                    found: format!("`{text}` after `{}`", asked.context),
                    expected: "a continuation of at least one token".into(),
                });
            }
            // The last token is predicted, but predicts nothing.
            let n_before = (max_tokens + 1).saturating_sub(continuation.len()).max(1);
            context.drain(..context.len().saturating_sub(n_before));
            encoded.push(Encoded { item, option, context, continuation });
        }
    }
    score(engine, &encoded, items.len(), on_progress)
}

/// How likely whole texts are: the log-likelihood of each, all of its tokens scored once. A text that is longer than
/// the model's context is cut into windows as lm-evaluation-harness cuts it: each window is as long as the context, and
/// its tokens follow the last token of the window before it and whatever of that still fits. The first token follows
/// the beginning-of-text token, or the end-of-text token where there is none.
///
/// # Errors
/// When a text has no token, or the engine fails.
pub fn rolling_log_likelihoods<E: Engine>(
    engine: &mut E,
    tokenizer: &Tokenizer,
    texts: &[&str],
    on_progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Likelihood>>, RunError> {
    let max_tokens = engine.spec().decoder()?.max_position_embeddings;
    let first: Vec<TokenId> = tokenizer.bos().or(tokenizer.eos()).into_iter().collect();
    let mut encoded = Vec::new();
    for (item, text) in texts.iter().enumerate() {
        let tokens = tokenizer.encode(text, SpecialTokens::AsText)?;
        if tokens.is_empty() || first.is_empty() {
            let found =
                if tokens.is_empty() { "a text without tokens" } else { "a tokenizer without end token" };
            let expected = "a text of at least one token".into();
            return Err(RunError::BadSetting { key: "text", found: found.into(), expected });
        }
        for (option, window) in windows(&tokens, max_tokens).into_iter().enumerate() {
            let before = window.context.unwrap_or(0..0);
            let context = if window.predicted.start == 0 { first.clone() } else { tokens[before].to_vec() };
            encoded.push(Encoded { item, option, context, continuation: tokens[window.predicted].to_vec() });
        }
    }
    let found = score(engine, &encoded, texts.len(), on_progress)?;
    let whole = |windows: Vec<Likelihood>| Likelihood {
        log_prob: windows.iter().map(|window| window.log_prob).sum(),
        n_tokens: windows.iter().map(|window| window.n_tokens).sum(),
        is_greedy: windows.iter().all(|window| window.is_greedy),
    };
    Ok(found.map(|found| found.into_iter().map(whole).collect()))
}

/// A token of a text, as the model sees it after the tokens before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// The token.
    pub token: TokenId,
    /// Its log-probability: temperature 1, over all tokens that can be sampled.
    pub log_prob: f32,
    /// Its place among all tokens by probability, from 1.
    pub rank: usize,
    /// The most likely tokens with their log-probabilities, the likeliest first.
    pub top: Vec<(TokenId, f32)>,
}

/// Rows of logits that are on the host at a time.
const ROWS_AT_A_TIME: usize = 64;

/// Finds out how likely each token of a text but the first is after those before it, in steps: a layer, or some rows of
/// the head. The caller can run other work on the engine in between.
pub struct PromptScoring<E: Engine> {
    tokens: Vec<TokenId>,
    n_top: usize,
    excluded: ExcludedTokens,
    batch: E::Batch,
    /// After the layers so far.
    hidden: Option<E::Hidden>,
    n_layers_done: usize,
    found: Vec<PromptToken>,
}

impl<E: Engine> PromptScoring<E> {
    /// Begins with a text, with the `n_top` most likely tokens wanted at each place. `excluded` takes no part.
    ///
    /// # Errors
    /// When the text has no token, or the engine fails.
    pub fn new(
        engine: &mut E,
        tokens: Vec<TokenId>,
        n_top: usize,
        excluded: ExcludedTokens,
    ) -> Result<Self, RunError> {
        let origin = RowOrigin { source: "prompt".into(), line: 0 };
        let weights = vec![0.0; tokens.len()];
        let batch = PackedBatch::new([(&tokens[..], &weights[..], origin)])?;
        let batch = engine.upload(&batch)?;
        let hidden = Some(engine.embed(&batch)?);
        Ok(Self { tokens, n_top, excluded, batch, hidden, n_layers_done: 0, found: Vec::new() })
    }

    /// Does the next step; the result `[n_tokens - 1]` once all are done.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn step(&mut self, engine: &mut E) -> Result<Option<Vec<PromptToken>>, RunError> {
        let n_layers = engine.spec().decoder()?.n_layers;
        if self.n_layers_done < n_layers
            && let Some(hidden) = self.hidden.take()
        {
            let layers = self.n_layers_done..self.n_layers_done + 1;
            let save = SaveActivations::Nothing;
            let (hidden, _) = engine.segment_forward(&self.batch, layers, hidden, save, Adapters::Enabled)?;
            self.hidden = Some(hidden);
            self.n_layers_done += 1;
            return Ok(None);
        }
        let n_rows = self.tokens.len() - 1;
        let done = self.found.len();
        if done < n_rows
            && let Some(hidden) = &self.hidden
        {
            let rows: Vec<u32> = (done..n_rows.min(done + ROWS_AT_A_TIME)).map(|row| row as u32).collect();
            let mut logits = engine.logits(hidden, &rows)?;
            let vocab_size = engine.spec().vocab_size();
            for (&row, logits) in rows.iter().zip(logits.chunks_exact_mut(vocab_size)) {
                self.excluded.mask(logits);
                self.found.push(prompt_token(logits, self.tokens[row as usize + 1], self.n_top));
            }
        }
        Ok((self.found.len() == n_rows).then(|| std::mem::take(&mut self.found)))
    }
}

/// A token at its place, from the logits there.
fn prompt_token(logits: &[f32], token: TokenId, n_top: usize) -> PromptToken {
    let own = logits[token as usize];
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    PromptToken {
        token,
        log_prob: (f64::from(own) - highest - total.ln()) as f32,
        rank: 1 + logits.iter().filter(|&&logit| logit > own).count(),
        top: top_log_probs(logits, n_top),
    }
}

/// A part of a text and what it is predicted from; `None`: from the beginning of the text.
struct Window {
    context: Option<Range<usize>>,
    predicted: Range<usize>,
}

fn windows(tokens: &[TokenId], max_tokens: usize) -> Vec<Window> {
    let first = tokens.len().min(max_tokens);
    let mut windows = vec![Window { context: None, predicted: 0..first }];
    let mut n_done = first;
    while n_done < tokens.len() {
        let end = (n_done + max_tokens).min(tokens.len());
        // The input ends one token before what it predicts, and is as long as the context.
        let start = end.saturating_sub(max_tokens + 1);
        windows.push(Window { context: Some(start..n_done), predicted: n_done..end });
        n_done = end;
    }
    windows
}

/// Scores all continuations: by item, in the order of its options.
fn score<E: Engine>(
    engine: &mut E,
    encoded: &[Encoded],
    n_items: usize,
    on_progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<Likelihood>>>, RunError> {
    let mut found: Vec<Vec<Likelihood>> = (0..n_items).map(|_| Vec::new()).collect();
    let mut start = 0;
    while start < encoded.len() {
        let pack = &encoded[start..start + n_in_pack(&encoded[start..])];
        for (one, likelihood) in pack.iter().zip(score_pack(engine, pack)?) {
            debug_assert_eq!(found[one.item].len(), one.option);
            found[one.item].push(likelihood);
        }
        start += pack.len();
        if on_progress(start as u64).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// Tokens of the context and of the continuation.
fn encode_pair(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
    options: LikelihoodOptions,
) -> Result<(Vec<TokenId>, Vec<TokenId>), RunError> {
    let before = context.trim_end();
    let continuation = format!("{}{continuation}", &context[before.len()..]);
    let bos = tokenizer.bos().or(tokenizer.eos());
    if before.is_empty() {
        let tokens = tokenizer.encode(&continuation, options.special)?;
        return Ok((bos.into_iter().collect(), tokens));
    }
    let first = bos.filter(|_| options.add_bos_token);
    let of_context: Vec<TokenId> =
        first.into_iter().chain(tokenizer.encode(before, options.special)?).collect();
    let mut whole: Vec<TokenId> = first
        .into_iter()
        .chain(tokenizer.encode(&format!("{before}{continuation}"), options.special)?)
        .collect();
    let continuation = whole.split_off(of_context.len().min(whole.len()));
    Ok((of_context, continuation))
}

/// How many of the continuations fit into a pack, one at least. Those of one context share it.
fn n_in_pack(encoded: &[Encoded]) -> usize {
    let (mut n_tokens, mut shared): (usize, Option<&Encoded>) = (0, None);
    for (n, one) in encoded.iter().enumerate() {
        let is_shared = shared.is_some_and(|first| shares_context(first, one));
        let cost = one.continuation.len() + if is_shared { 0 } else { one.context.len() };
        if n > 0 && n_tokens + cost > BUDGET {
            return n;
        }
        n_tokens += cost;
        if !is_shared {
            shared = Some(one);
        }
    }
    encoded.len()
}

fn shares_context(first: &Encoded, second: &Encoded) -> bool {
    first.item == second.item && first.context == second.context
}

fn score_pack<E: Engine>(engine: &mut E, pack: &[Encoded]) -> Result<Vec<Likelihood>, RunError> {
    let origin = RowOrigin { source: "continuations".into(), line: 0 };
    let mut parts: Vec<(&[TokenId], Vec<f32>, Option<usize>)> = Vec::new();
    let mut shared: Option<(usize, &Encoded)> = None;
    for one in pack {
        let place = match shared {
            Some((place, first)) if shares_context(first, one) => place,
            _ => {
                parts.push((&one.context, vec![0.0; one.context.len()], None));
                let place = parts.len() - 1;
                shared = Some((place, one));
                place
            }
        };
        parts.push((&one.continuation, vec![1.0; one.continuation.len()], Some(place)));
    }
    let batch = PackedBatch::with_prefixes(
        parts.iter().map(|(tokens, weights, prefix)| (*tokens, &weights[..], origin.clone(), *prefix)),
    )?;
    let device = engine.upload(&batch)?;
    let hidden = segments::forward_only(engine, &device, Adapters::Enabled)?;
    let targets = batch.targets();
    let output = engine.head(&hidden, &HeadRequest::log_probs(&targets))?.tokens;
    let mut start = 0;
    let likelihoods = pack.iter().map(|one| {
        let range = start..start + one.continuation.len();
        start = range.end;
        Likelihood {
            log_prob: output.log_probs[range.clone()].iter().map(|&log_prob| f64::from(log_prob)).sum(),
            n_tokens: range.len(),
            is_greedy: output.is_argmax[range].iter().all(|&is_argmax| is_argmax),
        }
    });
    Ok(likelihoods.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `lm_eval.utils.get_rolling_token_windows` with a context of one token, made disjoint.
    #[test]
    fn windows_are_those_of_lm_evaluation_harness() {
        let tokens: Vec<TokenId> = (0..10).collect();
        let found = |max_tokens: usize| -> Vec<(Option<Range<usize>>, Range<usize>)> {
            windows(&tokens, max_tokens)
                .into_iter()
                .map(|window| (window.context, window.predicted))
                .collect()
        };
        assert_eq!(found(20), [(None, 0..10)]);
        assert_eq!(found(10), [(None, 0..10)]);
        assert_eq!(found(4), [(None, 0..4), (Some(3..4), 4..8), (Some(5..8), 8..10)]);
        assert_eq!(found(9), [(None, 0..9), (Some(0..9), 9..10)]);
    }
}
