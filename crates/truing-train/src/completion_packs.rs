//! Packs of GRPO's completions: how groups become packs, and the log-probabilities of policy and reference on them.

use std::borrow::Cow;

use truing_model::{Adapters, Engine, EngineError, HeadRequest, TopLogProbs};
use truing_types::{BatchError, ExcludedTokens, PackedBatch, RowOrigin, TokenId};

use crate::segments;
use crate::{PolicyPack, PolicyPackKind};

/// The distribution that completions are sampled from, and that learns: the model's at a temperature, over the tokens
/// that can be sampled.
#[derive(Debug, Clone)]
pub struct SampledPolicy {
    /// Divides the logits.
    pub temperature: f32,
    /// Tokens that are never sampled.
    pub excluded: ExcludedTokens,
}

/// A completion to be packed.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Tokens of the prompt.
    pub prompt: &'a [TokenId],
    /// Tokens of the completion.
    pub completion: &'a [TokenId],
    /// The prompt's row.
    pub origin: &'a RowOrigin,
    /// Index in the step's list of completions.
    pub idx: usize,
    /// Completions of one prompt have the same.
    pub group: usize,
}

/// A pack and the completions in it, in the order of their targets.
#[derive(Debug, Clone)]
pub struct CompletionPack {
    /// The tokens.
    pub batch: PackedBatch,
    /// `(index in the step's list, number of targets)`.
    pub completions: Vec<(usize, usize)>,
}

/// Packs completions in their order, each pack within `budget` tokens where that is possible at all. With
/// `share_prompts` a prompt stands once in a pack for all its completions there.
///
/// # Errors
/// When a sequence has no token.
pub fn pack(
    sequences: &[Sequence<'_>],
    budget: usize,
    share_prompts: bool,
) -> Result<Vec<CompletionPack>, BatchError> {
    let mut packs = Vec::new();
    let mut start = 0;
    while start < sequences.len() {
        let (mut end, mut n_tokens, mut group) = (start, 0, None);
        while let Some(next) = sequences.get(end) {
            let is_shared = share_prompts && group == Some(next.group);
            let cost = next.completion.len() + if is_shared { 0 } else { next.prompt.len() };
            if end > start && n_tokens + cost > budget {
                break;
            }
            n_tokens += cost;
            group = Some(next.group);
            end += 1;
        }
        packs.push(one_pack(&sequences[start..end], share_prompts)?);
        start = end;
    }
    Ok(packs)
}

/// The groups of a step, as far as the sizes of its packs depend on them.
#[derive(Debug, Clone, Copy)]
pub struct GroupSizes {
    /// Groups of the step.
    pub n_groups: usize,
    /// Completions of a group.
    pub n_completions: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of a completion.
    pub completion: usize,
}

/// Tokens of the largest pack that [`pack`] makes of a step whose groups are all of these sizes.
#[must_use]
pub fn largest_pack(sizes: GroupSizes, budget: usize, share_prompts: bool) -> usize {
    let (mut largest, mut n_tokens, mut group) = (0, 0, None);
    for place in 0..sizes.n_groups * sizes.n_completions {
        let own = Some(place / sizes.n_completions);
        let cost = |group| sizes.completion + if share_prompts && group == own { 0 } else { sizes.prompt };
        if n_tokens > 0 && n_tokens + cost(group) > budget {
            (n_tokens, group) = (0, None);
        }
        n_tokens += cost(group);
        group = own;
        largest = largest.max(n_tokens);
    }
    largest
}

/// Tokens, loss weights, the row, and the prompt's place in the pack.
type Part = (Vec<TokenId>, Vec<f32>, RowOrigin, Option<usize>);

fn one_pack(sequences: &[Sequence<'_>], share_prompts: bool) -> Result<CompletionPack, BatchError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut prefix: Option<(usize, usize)> = None;
    for sequence in sequences {
        let (prompt, completion) = (sequence.prompt, sequence.completion);
        if share_prompts {
            let place = match prefix {
                Some((group, place)) if group == sequence.group => place,
                _ => {
                    parts.push((prompt.to_vec(), vec![0.0; prompt.len()], sequence.origin.clone(), None));
                    parts.len() - 1
                }
            };
            prefix = Some((sequence.group, place));
            let weights = vec![1.0; completion.len()];
            parts.push((completion.to_vec(), weights, sequence.origin.clone(), Some(place)));
        } else {
            let mut weights = vec![0.0; prompt.len()];
            weights.resize(prompt.len() + completion.len(), 1.0);
            parts.push(([prompt, completion].concat(), weights, sequence.origin.clone(), None));
        }
    }
    let batch = PackedBatch::with_prefixes(
        parts
            .iter()
            .map(|(tokens, weights, origin, prefix)| (&tokens[..], &weights[..], origin.clone(), *prefix)),
    )?;
    let completions = sequences.iter().map(|sequence| (sequence.idx, sequence.completion.len())).collect();
    Ok(CompletionPack { batch, completions })
}

/// The reference's most likely tokens at every target of a pack.
///
/// # Errors
/// As the engine fails.
pub fn top_log_probs<E: Engine>(
    engine: &mut E,
    pack: &PackedBatch,
    policy: &SampledPolicy,
    k: usize,
    adapters: Adapters,
) -> Result<TopLogProbs, EngineError> {
    let batch = engine.upload(pack)?;
    let hidden = segments::forward_only(engine, &batch, adapters)?;
    engine.top_log_probs(&hidden, &pack.targets().rows, policy.temperature, &policy.excluded, k)
}

/// The log-probabilities of the same tokens under this engine's model at every target of a pack.
///
/// # Errors
/// As the engine fails.
pub fn log_probs_of<E: Engine>(
    engine: &mut E,
    pack: &PackedBatch,
    temperature: f32,
    tokens: &TopLogProbs,
    adapters: Adapters,
) -> Result<TopLogProbs, EngineError> {
    let batch = engine.upload(pack)?;
    let hidden = segments::forward_only(engine, &batch, adapters)?;
    engine.log_probs_of(&hidden, &pack.targets().rows, temperature, tokens)
}

/// Log-probabilities of every target of a pack, and the KL from a reference where one is given.
///
/// # Errors
/// As the engine fails.
pub fn log_probs<E: Engine>(
    engine: &mut E,
    pack: &PackedBatch,
    policy: &SampledPolicy,
    reference: Option<&TopLogProbs>,
    adapters: Adapters,
) -> Result<(Vec<f32>, Vec<f32>), EngineError> {
    let batch = engine.upload(pack)?;
    let hidden = segments::forward_only(engine, &batch, adapters)?;
    let request = HeadRequest::LogProbs {
        targets: Cow::Owned(pack.targets()),
        temperature: policy.temperature,
        excluded: policy.excluded.clone(),
        reference: reference.cloned().map(Into::into),
    };
    let output = engine.head(&hidden, &request)?;
    Ok((output.tokens.log_probs, output.kl))
}

/// A pack of fine-tuning data with the reference's top tokens.
#[must_use]
pub fn ptx_pack(batch: PackedBatch, reference: TopLogProbs) -> PolicyPack {
    PolicyPack {
        kind: PolicyPackKind::Ptx,
        completions: vec![0; batch.targets().rows.len()],
        batch,
        advantages: Vec::new(),
        old_log_probs: Vec::new(),
        reference_log_probs: Vec::new(),
        importance_weights: Vec::new(),
        reference: Some(reference),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_pack_is_as_large_as_planned() {
        let origin = RowOrigin { source: "a.jsonl".into(), line: 1 };
        for (n_groups, n_completions, n_prompt, n_completion, budget) in [
            (4, 64, 96, 8, 200),
            (4, 64, 96, 8, 2048),
            (1, 8, 96, 12, 150),
            (3, 5, 10, 7, 64),
            (2, 2, 50, 50, 20),
        ] {
            for share_prompts in [true, false] {
                let (prompt, completion) = (vec![1; n_prompt], vec![2; n_completion]);
                let sequences: Vec<Sequence<'_>> = (0..n_groups * n_completions)
                    .map(|idx| Sequence {
                        prompt: &prompt,
                        completion: &completion,
                        origin: &origin,
                        idx,
                        group: idx / n_completions,
                    })
                    .collect();
                let packs = pack(&sequences, budget, share_prompts).unwrap();
                let found = packs.iter().map(|pack| pack.batch.n_tokens()).max();
                let sizes =
                    GroupSizes { n_groups, n_completions, prompt: n_prompt, completion: n_completion };
                assert_eq!(Some(largest_pack(sizes, budget, share_prompts)), found, "{sizes:?}");
            }
        }
    }
}
