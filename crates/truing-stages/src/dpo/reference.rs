//! The reference's log-probabilities: computed once, kept beside the runs under a digest of model and data.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_cpu::CpuEngine;
use truing_data::{
    DataError, LongSamplePolicy, Packing, PackingStrategy, ResponseBatch, ResponseDataset, ResponseGroup,
};
use truing_model::Engine;
use truing_store::{Digest, StoreError, atomic};
use truing_train::segments;
use truing_types::{Communicator, Event, EventSink, Seed, TokenId, dealt};

use crate::StageError;
use crate::ranks::{gather_dealt, on_first_rank};
use crate::training::record::{break_if_alone, is_any_stopped};

/// Folder beside the runs that all of them share.
const FOLDER: &str = "reference_log_probs";

/// Where log-probabilities are looked for and put.
pub(super) struct Cache<'a> {
    pub(super) run: &'a Path,
    /// Digests of the model's files.
    pub(super) models: &'a [String],
    /// Tokens of a pack.
    pub(super) budget: u32,
    pub(super) communicator: &'a dyn Communicator,
}

impl Cache<'_> {
    /// Summed log-probability of each response, by group; `None` when it was stopped.
    pub(super) fn log_probs(
        &self,
        engine: &mut CpuEngine,
        data: &ResponseDataset,
        events: &mut dyn EventSink,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Vec<f64>>>, StageError> {
        let digest = Digest::of_bytes(format!("{}\n{}", self.models.join(" "), data.digest()).as_bytes());
        let folder = self.run.parent().unwrap_or(self.run).join(FOLDER);
        let path = folder.join(format!("{digest}.json"));
        let kept = on_first_rank(self.communicator, || {
            let kept = read(&path, data, events)?;
            if kept.is_some() {
                let note = format!("the reference's log-probabilities are in {}", path.display());
                events.emit(Event::Note(note));
            }
            Ok(kept)
        })?;
        if kept.is_some() {
            return Ok(kept);
        }
        let Some(found) = self.compute(engine, data, events, stop)? else { return Ok(None) };
        on_first_rank(self.communicator, || {
            fs::create_dir_all(&folder)
                .map_err(|source| StageError::Write { path: folder.clone(), source })?;
            let json = serde_json::to_vec(&found)
                .map_err(|source| StoreError::Json { path: path.clone(), source })?;
            Ok(atomic::write(&path, &json)?)
        })?;
        Ok(Some(found))
    }

    /// Each rank computes the packs that are dealt to it.
    fn compute(
        &self,
        engine: &mut CpuEngine,
        data: &ResponseDataset,
        events: &mut dyn EventSink,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Vec<f64>>>, StageError> {
        let lengths = data.lengths();
        let visits: Vec<u32> = (0..lengths.len() as u32).collect();
        let strategy = PackingStrategy::BestFitDecreasing;
        let packs = Packing::of_epoch(&lengths, &visits, self.budget, strategy, Seed(0), 0)?.packs;
        let phase = "asking the reference".to_owned();
        events.emit(Event::PhaseStarted { phase, total: Some(lengths.len() as u64) });
        let mut mine = Vec::new();
        let mut n_done = 0;
        for pack in dealt(packs.len(), self.communicator).map(|place| &packs[place]) {
            if break_if_alone(stop, self.communicator.world_size()).is_break() {
                return Ok(None);
            }
            mine.push(summed_log_probs(engine, data, pack)?);
            n_done += pack.len() as u64;
            events.emit(Event::Progress { done: n_done, note: String::new() });
        }
        events.emit(Event::PhaseFinished);
        if is_any_stopped(stop, self.communicator)? {
            return Ok(None);
        }
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); lengths.len()];
        for (pack, sums) in packs.iter().zip(gather_dealt(self.communicator, mine)?) {
            let mut sums = sums.into_iter();
            for &group in pack {
                let n_responses = data.groups()[group as usize].responses.len();
                found[group as usize] = sums.by_ref().take(n_responses).collect();
            }
        }
        Ok(Some(found))
    }
}

/// What was kept. What cannot be read or does not fit the data is computed again, with a warning.
fn read(
    path: &Path,
    data: &ResponseDataset,
    events: &mut dyn EventSink,
) -> Result<Option<Vec<Vec<f64>>>, StageError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StageError::Read { path: path.to_path_buf(), source }),
    };
    let fits = |found: &Vec<Vec<f64>>| {
        found.len() == data.groups().len()
            && found.iter().zip(data.groups()).all(|(found, group)| found.len() == group.responses.len())
    };
    let reason = match serde_json::from_slice::<Vec<Vec<f64>>>(&bytes) {
        Ok(found) if fits(&found) => return Ok(Some(found)),
        Ok(_) => "it is of other data".to_owned(),
        Err(error) => error.to_string(),
    };
    events.emit(Event::Warning(format!("{} is computed again: {reason}", path.display())));
    Ok(None)
}

/// Targets of each response of a group. A sequence's first token is one only where a prefix goes before it.
pub(super) fn n_targets(group: &ResponseGroup) -> impl Iterator<Item = usize> + '_ {
    let n_skipped = usize::from(group.prefix.is_empty());
    group.responses.iter().map(move |response| {
        response.loss_weights.iter().skip(n_skipped).filter(|&&weight| weight != 0.0).count()
    })
}

/// Summed log-probability of each response of some groups, under the engine's present weights.
pub(super) fn summed_log_probs(
    engine: &mut CpuEngine,
    data: &ResponseDataset,
    groups: &[u32],
) -> Result<Vec<f64>, StageError> {
    let ResponseBatch { batch, .. } = data.batch(groups)?;
    let targets = batch.targets();
    let device = engine.upload(&batch)?;
    let hidden = segments::forward_only(engine, &device)?;
    let log_probs = engine.log_probs(&hidden, &targets)?.log_probs;
    let mut weighted =
        targets.weights.iter().zip(&log_probs).map(|(&weight, &p)| f64::from(weight) * f64::from(p));
    let counts = groups.iter().flat_map(|&group| n_targets(&data.groups()[group as usize]));
    Ok(counts.map(|n| weighted.by_ref().take(n).sum()).collect())
}

/// Each prompt with the response to another prompt: what KTO takes the policy's KL on (Ethayarajh et al. 2024, section 4.2).
/// Groups keep their places; a response is cut where the budget demands it.
///
/// The n-th row of a prompt gets the n-th row of the prompt that first occurs after it (the first one after the last). So
/// the responses that serve are as often wanted and unwanted as those of the data, whether the rows of a prompt are
/// neighbours or far apart. With a single prompt there are no others: its rows then exchange their responses.
pub(super) fn mismatched(data: &ResponseDataset, budget: u32) -> Result<ResponseDataset, DataError> {
    let groups = data.groups();
    let mut place_of_prompt: HashMap<&[TokenId], usize> = HashMap::new();
    // The rows of each prompt, prompts in the order of their first row.
    let mut prompts: Vec<Vec<usize>> = Vec::new();
    let mut places = Vec::with_capacity(groups.len());
    for (i, group) in groups.iter().enumerate() {
        let prompt = *place_of_prompt.entry(&group.prefix).or_insert(prompts.len());
        if prompt == prompts.len() {
            prompts.push(Vec::new());
        }
        places.push((prompt, prompts[prompt].len()));
        prompts[prompt].push(i);
    }
    let mut builder = ResponseDataset::builder(budget, LongSamplePolicy::Truncate);
    for (group, &(prompt, place)) in groups.iter().zip(&places) {
        let others = &prompts[(prompt + 1) % prompts.len()];
        let place = if prompts.len() == 1 { place + 1 } else { place };
        let responses = groups[others[place % others.len()]].responses.clone();
        builder.push(ResponseGroup { responses, ..group.clone() });
    }
    Ok(builder.finish()?.0)
}

/// Samples in their order, cut into packs of at most `budget` tokens, or of one sample.
pub(super) fn cut(lengths: &[u32], samples: &[u32], budget: u64) -> Vec<Vec<u32>> {
    let mut packs: Vec<Vec<u32>> = Vec::new();
    let mut n_tokens = 0;
    for &sample in samples {
        let length = u64::from(lengths[sample as usize]);
        match packs.last_mut() {
            Some(pack) if n_tokens + length <= budget => {
                pack.push(sample);
                n_tokens += length;
            }
            _ => {
                packs.push(vec![sample]);
                n_tokens = length;
            }
        }
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_data::TokenizedResponse;
    use truing_types::RowOrigin;

    /// `(prompt, response)` rows, one response each.
    fn data(rows: &[(TokenId, TokenId)]) -> ResponseDataset {
        let mut builder = ResponseDataset::builder(100, LongSamplePolicy::Error);
        for (line, &(prompt, response)) in (1..).zip(rows) {
            let origin = RowOrigin { source: "t".into(), line };
            let response = TokenizedResponse {
                tokens: vec![prompt, response],
                loss_weights: vec![0.0, 1.0],
                ..TokenizedResponse::default()
            };
            builder.push(ResponseGroup::new(vec![response], None, origin));
        }
        builder.finish().unwrap().0
    }

    fn rows(data: &ResponseDataset) -> Vec<(TokenId, TokenId)> {
        data.groups().iter().map(|group| (group.prefix[0], group.responses[0].tokens[0])).collect()
    }

    /// Prompts 1 to 4; wanted responses 11 to 14, unwanted 21 to 24.
    #[test]
    fn the_mismatched_response_is_of_another_prompt_in_any_order_of_rows() {
        let as_pairs: Vec<_> = (1..5).flat_map(|p| [(p, 10 + p), (p, 20 + p)]).collect();
        let wanted_first: Vec<_> = (1..5).map(|p| (p, 10 + p)).chain((1..5).map(|p| (p, 20 + p))).collect();
        let mut both: Vec<Vec<(TokenId, TokenId)>> = [as_pairs, wanted_first]
            .iter()
            .map(|order| {
                let mismatched = mismatched(&data(order), 100).unwrap();
                for (&(prompt, _), (same_prompt, response)) in order.iter().zip(rows(&mismatched)) {
                    assert_eq!(prompt, same_prompt, "groups keep their places");
                    assert_ne!(response % 10, prompt, "the response is to another prompt");
                }
                rows(&mismatched)
            })
            .collect();
        let n_wanted = |rows: &[(TokenId, TokenId)]| rows.iter().filter(|row| row.1 < 20).count();
        assert_eq!([n_wanted(&both[0]), n_wanted(&both[1])], [4, 4], "as in the data, half are wanted");
        both.iter_mut().for_each(|rows| rows.sort_unstable());
        assert_eq!(both[0], both[1], "the reference point is taken on the same rows");
    }

    #[test]
    fn prompts_of_unequal_numbers_of_rows_and_a_single_prompt_are_served() {
        let uneven = mismatched(&data(&[(1, 11), (1, 12), (1, 13), (2, 21)]), 100).unwrap();
        assert_eq!(rows(&uneven), [(1, 21), (1, 21), (1, 21), (2, 11)]);
        let single = mismatched(&data(&[(1, 11), (1, 12)]), 100).unwrap();
        assert_eq!(rows(&single), [(1, 12), (1, 11)]);
    }

    #[test]
    fn packs_are_cut_at_the_budget() {
        let lengths = [5, 9, 2, 3, 30];
        assert_eq!(cut(&lengths, &[0, 2, 3, 1, 4, 2], 10), [vec![0, 2, 3], vec![1], vec![4], vec![2]]);
        assert!(cut(&lengths, &[], 10).is_empty());
    }
}
