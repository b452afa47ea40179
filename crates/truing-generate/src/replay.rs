//! Completions whose tokens were sampled elsewhere, on a server for instance: their end and their text are those that
//! this process would give them.

use std::sync::Arc;

use truing_model::SampledToken;
use truing_text::Tokenizer;
use truing_types::{SamplingOptions, TokenId};

use crate::GenerateError;
use crate::batch::SampledIds;
use crate::job::{Job, SampledCompletion};
use crate::running::Running;

/// A completion as this process would have given it.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Tokens after its end are left out: what was sampled after an end token or a stop text did not decide what came
    /// before.
    pub completion: SampledCompletion,
    /// Whether it has ended by an end token, a stop text or its length; otherwise more tokens would have been sampled.
    pub is_ended: bool,
}

/// Takes tokens one by one, as [`DecodingLoop`](crate::DecodingLoop) does that samples them.
///
/// # Errors
/// When an option lies outside its range, or there is no token.
pub fn replay(
    tokenizer: &Tokenizer,
    prompt: &[TokenId],
    sampled: &[SampledToken],
    options: &Arc<SamplingOptions>,
    ids: &SampledIds,
    context_length: usize,
) -> Result<Replayed, GenerateError> {
    let options = Arc::clone(options);
    let job = Job { prompt: prompt.to_vec(), n_samples: 1, options, ..Job::default() };
    let mut running = Running::new(tokenizer, &job, (0, 0), (), job.sampler(0)?)?;
    for &token in sampled {
        if running.is_over(context_length) {
            break;
        }
        running.take_in(Some(token), &ids.end);
    }
    let is_ended = running.is_over(context_length);
    Ok(Replayed { completion: running.finish()?, is_ended })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use truing_text::SpecialTokens;
    use truing_types::FinishReason;

    fn check(stop: &[&str], max_new_tokens: usize, end: &[TokenId], expected: (&str, FinishReason, bool)) {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny");
        let tokenizer = Tokenizer::from_dir(&fixture).unwrap();
        let tokens = tokenizer.encode("one two three", SpecialTokens::Parse).unwrap();
        let token = |&token: &TokenId| SampledToken { token, log_prob: -1.0, sampling_log_prob: -0.5 };
        let sampled: Vec<SampledToken> = tokens.iter().map(token).collect();
        let stop = stop.iter().map(ToString::to_string).collect();
        let options = Arc::new(SamplingOptions { max_new_tokens, stop, ..SamplingOptions::default() });
        let ids = SampledIds { end: end.into(), ..SampledIds::default() };
        let Replayed { completion, is_ended } =
            replay(&tokenizer, &[1, 2], &sampled, &options, &ids, 100).unwrap();
        assert_eq!((completion.text.as_str(), completion.finish_reason, is_ended), expected);
        assert_eq!(completion.log_probs, vec![-1.0; completion.tokens.len()]);
        assert_eq!(completion.tokens, tokens[..completion.tokens.len()]);
    }

    #[test]
    fn it_ends_where_it_would_have_ended_here() {
        check(&[], 100, &[], ("one two three", FinishReason::Length, false));
        check(&["two"], 100, &[], ("one ", FinishReason::StopText, true));
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny");
        let tokenizer = Tokenizer::from_dir(&fixture).unwrap();
        let tokens = tokenizer.encode("one two three", SpecialTokens::Parse).unwrap();
        let first = tokenizer.decode(&tokens[..1], true).unwrap();
        check(&[], 1, &[], (&first, FinishReason::Length, true));
        check(&[], 100, &tokens[..1], ("", FinishReason::EndOfTurn, true));
    }
}
