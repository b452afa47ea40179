//! How likely a model finds given continuations of a text: the measure behind multiple choice by log-likelihood and
//! perplexity.
//!
//! Texts become tokens as lm-evaluation-harness does it (`TemplateLM._encode_pair`): white space at the end of the context
//! belongs to the continuation, and the continuation's tokens are those of the whole text beyond the context's own. An
//! empty context is the tokenizer's beginning-of-text token, or its end-of-text token where it has none. What is longer
//! than the model's context loses its beginning.

use std::ops::ControlFlow;

use truing_model::{Adapters, Engine, HeadRequest};
use truing_run::RunError;
use truing_text::{SpecialTokens, Tokenizer};
use truing_train::segments;
use truing_types::{PackedBatch, RowOrigin, TokenId};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LikelihoodOptions {
    /// Begin every context with the tokenizer's beginning-of-text token. Off, as in lm-evaluation-harness.
    pub add_bos_token: bool,
}

/// Tokens of one continuation with those before it.
struct Encoded {
    item: usize,
    option: usize,
    context: Vec<TokenId>,
    continuation: Vec<TokenId>,
}

/// Computes the log-likelihood of every option of every item, by item and option. A context is computed once for all of
/// its options that fit into a pack with it. The results do not depend on what else is asked: bit for bit where the engine
/// guarantees that. `on_progress` gets the number of continuations done, and may break off; the result is then `None`.
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
    let mut found: Vec<Vec<Likelihood>> =
        items.iter().map(|item| Vec::with_capacity(item.options.len())).collect();
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
        let tokens = tokenizer.encode(&continuation, SpecialTokens::AsText)?;
        return Ok((bos.into_iter().collect(), tokens));
    }
    let first = bos.filter(|_| options.add_bos_token);
    let of_context: Vec<TokenId> =
        first.into_iter().chain(tokenizer.encode(before, SpecialTokens::AsText)?).collect();
    let mut whole: Vec<TokenId> = first
        .into_iter()
        .chain(tokenizer.encode(&format!("{before}{continuation}"), SpecialTokens::AsText)?)
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
