//! Checks of what an engine is asked, from the specification alone: the same on every engine.

use truing_types::{ExcludedTokens, PackedBatch, TokenId};

use super::{EngineError, HeadGradient, HeadRequest, HostTopLogProbs, TopLogProbs};
use crate::{DecoderSpec, HeadKind, ModelSpec};

/// Refuses tokens outside the vocabulary.
///
/// # Errors
/// When there is one; the error names the first.
pub fn check_tokens(tokens: &[TokenId], vocab_size: usize) -> Result<(), EngineError> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(EngineError::TokenOutOfRange { token, vocab_size }),
        None => Ok(()),
    }
}

/// Refuses excluded tokens that are not there, and an exclusion of all.
///
/// # Errors
/// In either case.
pub fn check_excluded(excluded: &ExcludedTokens, vocab_size: usize) -> Result<(), EngineError> {
    match excluded.ranges().last() {
        Some(last) if last.end as usize > vocab_size => {
            Err(EngineError::TokenOutOfRange { token: last.end - 1, vocab_size })
        }
        _ if excluded.len() == vocab_size => {
            Err(EngineError::Unsupported("every token of the vocabulary is excluded".into()))
        }
        _ => Ok(()),
    }
}

/// Refuses what needs a language model of a model with another head.
///
/// # Errors
/// When the head is not a language model's.
pub fn check_language_model(spec: &DecoderSpec) -> Result<(), EngineError> {
    match spec.head {
        HeadKind::LanguageModel => Ok(()),
        head @ HeadKind::Score { .. } => Err(EngineError::WrongHead { head }),
    }
}

/// Refuses sequences of lengths at which the rotary frequencies would be others than are computed.
fn check_length(spec: &DecoderSpec, n_tokens: usize) -> Result<(), EngineError> {
    match spec.longest_sequence() {
        Some(n_positions) if n_tokens > n_positions => {
            Err(EngineError::SequenceTooLong { n_tokens, n_positions })
        }
        _ => Ok(()),
    }
}

/// Refuses extensions of running sequences, before any of their caches changes. `caches` has the length and the
/// capacity of each cache, `tokens` what is appended to it.
///
/// # Errors
/// When the model is no language model, there are not as many lists of tokens as caches, a list is empty, a cache has
/// no room for its list, a sequence becomes longer than the rotary frequencies are computed for, or a token lies
/// outside the vocabulary.
pub fn check_extensions(
    spec: &DecoderSpec,
    caches: impl ExactSizeIterator<Item = (usize, usize)>,
    tokens: &[&[TokenId]],
) -> Result<(), EngineError> {
    check_language_model(spec)?;
    if caches.len() != tokens.len() {
        let reason = format!("tokens for {} sequences, but {} sequences", tokens.len(), caches.len());
        return Err(EngineError::Unsupported(reason));
    }
    for ((n_cached, capacity), new) in caches.zip(tokens) {
        if new.is_empty() {
            return Err(EngineError::Unsupported("a sequence is extended by no token".into()));
        }
        let needed = n_cached + new.len();
        if needed > capacity {
            return Err(EngineError::CacheFull { capacity, needed });
        }
        check_length(spec, needed)?;
        check_tokens(new, spec.vocab_size)?;
    }
    Ok(())
}

/// The values of log-probabilities, for engines that read them on the host.
///
/// # Errors
/// When another engine has left them in the memory of its device.
pub fn on_host(top: &TopLogProbs) -> Result<&HostTopLogProbs, EngineError> {
    let reason = "the reference's log-probabilities are in the memory of another device";
    top.host().ok_or_else(|| EngineError::Unsupported(reason.into()))
}

/// Refuses top tokens of other rows, or outside the vocabulary.
///
/// # Errors
/// In either case.
pub fn check_top(top: &HostTopLogProbs, n_rows: usize, vocab_size: usize) -> Result<(), EngineError> {
    check_tokens(&top.tokens, vocab_size)?;
    if top.tokens.len() == n_rows * top.k {
        return Ok(());
    }
    Err(EngineError::ShapeMismatch {
        name: "the tokens".into(),
        expected: vec![n_rows, top.k],
        found: vec![top.tokens.len()],
    })
}

/// Refuses packs that the model cannot read.
///
/// # Errors
/// When a token lies outside the vocabulary, or a sequence is longer than the rotary frequencies are computed for; of
/// an encoder also when a text is longer than its positions, or a sequence continues another one.
pub fn check_batch(spec: &ModelSpec, batch: &PackedBatch) -> Result<(), EngineError> {
    check_tokens(batch.tokens(), spec.vocab_size())?;
    if let ModelSpec::Decoder(spec) = spec {
        check_length(spec, batch.longest_sequence())?;
    }
    if let ModelSpec::Encoder(spec) = spec {
        let (n_tokens, n_positions) = (batch.longest_sequence(), spec.max_position_embeddings);
        if n_tokens > n_positions {
            return Err(EngineError::SequenceTooLong { n_tokens, n_positions });
        }
        if batch.prefixes().iter().any(Option::is_some) {
            let reason = "an encoder's sequence cannot continue another one";
            return Err(EngineError::Unsupported(reason.into()));
        }
    }
    Ok(())
}

/// Refuses what the model cannot answer.
///
/// # Errors
/// When the model has no such head, or a token lies outside the vocabulary.
pub fn check_request(spec: &ModelSpec, request: &HeadRequest<'_>) -> Result<(), EngineError> {
    match request {
        HeadRequest::Vectors { .. } => Ok(()),
        HeadRequest::LogProbs { targets, excluded, .. } => {
            let spec = spec.decoder()?;
            check_tokens(&targets.tokens, spec.vocab_size)?;
            check_excluded(excluded, spec.vocab_size)?;
            check_language_model(spec)
        }
        HeadRequest::Scores { .. } => match spec.decoder()?.head {
            HeadKind::Score { .. } => Ok(()),
            head @ HeadKind::LanguageModel => Err(EngineError::WrongHead { head }),
        },
    }
}

/// Refuses gradients of another size than the answer; an empty one is zero.
///
/// # Errors
/// When a list is of another size; the error names it.
pub fn check_gradient(
    spec: &ModelSpec,
    request: &HeadRequest<'_>,
    gradient: &HeadGradient,
) -> Result<(), EngineError> {
    let n_rows = request.rows().len();
    let check = |name: &str, d: &[f32], width: usize| match d.len() {
        0 => Ok(()),
        found if found == n_rows * width => Ok(()),
        found => Err(EngineError::ShapeMismatch {
            name: format!("the gradient of the {name}"),
            expected: vec![n_rows, width],
            found: vec![found],
        }),
    };
    match (request, spec) {
        (HeadRequest::LogProbs { .. }, _) => {
            check("log-probabilities", &gradient.log_probs, 1)?;
            check("KL divergences", &gradient.kl, 1)
        }
        (HeadRequest::Scores { .. }, _) => match spec.decoder()?.head {
            HeadKind::Score { n_outputs } => check("scores", &gradient.scores, n_outputs),
            HeadKind::LanguageModel => Ok(()),
        },
        (HeadRequest::Vectors { .. }, ModelSpec::Encoder(spec)) => {
            check("vectors", &gradient.vectors, spec.width())
        }
        (HeadRequest::Vectors { .. }, ModelSpec::Decoder(spec)) => {
            check("vectors", &gradient.vectors, spec.hidden_size)
        }
    }
}
