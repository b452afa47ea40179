//! The reference's log-probabilities: computed once, kept beside the runs under a digest of model and data.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use truing_data::{
    DataError, LongSamplePolicy, Packing, PackingStrategy, ResponseBatch, ResponseDataset, ResponseGroup,
};
use truing_model::{Adapters, Engine};
use truing_run::RunError;
use truing_run::ranks::{gather_dealt, on_first_rank};
use truing_run::record::{break_if_alone, is_any_stopped};
use truing_store::{Digest, StoreError, atomic};
use truing_train::segments;
use truing_types::{Event, EventSink, Groups, Seed, dealt};

use crate::StageError;

/// Folder beside the runs that all of them share.
const FOLDER: &str = "reference_log_probs";

/// Where log-probabilities are looked for and put.
pub(super) struct Cache<'a> {
    pub(super) run: &'a Path,
    /// Digests of the model's files.
    pub(super) models: &'a [String],
    /// Tokens of a pack.
    pub(super) budget: u32,
    pub(super) groups: &'a Groups,
}

impl Cache<'_> {
    /// Summed log-probability of each response, by group; `None` when it was stopped.
    pub(super) fn log_probs<E: Engine>(
        &self,
        engine: &mut E,
        data: &ResponseDataset,
        events: &mut dyn EventSink,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Vec<f64>>>, StageError> {
        let digest = Digest::of_bytes(format!("{}\n{}", self.models.join(" "), data.digest()).as_bytes());
        let folder = self.run.parent().unwrap_or(self.run).join(FOLDER);
        let path = folder.join(format!("{digest}.json"));
        let kept = on_first_rank(&*self.groups.world, || -> Result<_, StageError> {
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
        on_first_rank(&*self.groups.world, || -> Result<(), StageError> {
            fs::create_dir_all(&folder).map_err(|source| RunError::Write { path: folder.clone(), source })?;
            let json = serde_json::to_vec(&found)
                .map_err(|source| StoreError::Json { path: path.clone(), source })?;
            Ok(atomic::write(&path, &json)?)
        })?;
        Ok(Some(found))
    }

    /// Each sequence group computes the packs that are dealt to it.
    fn compute<E: Engine>(
        &self,
        engine: &mut E,
        data: &ResponseDataset,
        events: &mut dyn EventSink,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Vec<f64>>>, StageError> {
        let (world, of_data) = (&*self.groups.world, &*self.groups.data);
        let lengths = data.lengths();
        let visits: Vec<u32> = (0..lengths.len() as u32).collect();
        let strategy = PackingStrategy::BestFitDecreasing;
        let packs = Packing::of_epoch(&lengths, &visits, self.budget, strategy, Seed(0), 0)?.packs;
        let phase = "asking the reference".to_owned();
        events.emit(Event::PhaseStarted { phase, total: Some(lengths.len() as u64) });
        let mut mine = Vec::new();
        let mut n_done = 0;
        for pack in dealt(packs.len(), of_data).map(|place| &packs[place]) {
            if break_if_alone(stop, world.world_size()).is_break() {
                return Ok(None);
            }
            mine.push(summed_log_probs(engine, data, pack)?);
            n_done += pack.len() as u64;
            events.emit(Event::Progress { done: n_done, note: String::new() });
        }
        engine.join_others()?;
        events.emit(Event::PhaseFinished);
        if is_any_stopped(stop, world)? {
            return Ok(None);
        }
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); lengths.len()];
        for (pack, sums) in packs.iter().zip(gather_dealt(of_data, mine)?) {
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
        Err(source) => return Err(RunError::Read { path: path.to_path_buf(), source }.into()),
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
pub(super) fn summed_log_probs<E: Engine>(
    engine: &mut E,
    data: &ResponseDataset,
    groups: &[u32],
) -> Result<Vec<f64>, StageError> {
    let ResponseBatch { batch, .. } = data.batch(groups)?;
    let targets = batch.targets();
    let device = engine.upload(&batch)?;
    let hidden = segments::forward_only(engine, &device, Adapters::Enabled)?;
    let log_probs = engine.log_probs(&hidden, &targets)?.log_probs;
    let mut weighted =
        targets.weights.iter().zip(&log_probs).map(|(&weight, &p)| f64::from(weight) * f64::from(p));
    let counts = groups.iter().flat_map(|&group| n_targets(&data.groups()[group as usize]));
    Ok(counts.map(|n| weighted.by_ref().take(n).sum()).collect())
}

/// Each prompt with a response to another prompt: what KTO estimates the policy's KL on (Ethayarajh et al. 2024, arXiv
/// 2402.01306, section 4.1). Groups keep their indices; a response is cut where the budget demands it.
pub(super) fn mismatched(data: &ResponseDataset, budget: u32) -> Result<ResponseDataset, DataError> {
    let groups = data.groups();
    let mut builder = ResponseDataset::builder(budget, LongSamplePolicy::Truncate);
    for (group, other) in groups.iter().zip(of_other_prompts(groups)) {
        builder.push(ResponseGroup { responses: groups[other].responses.clone(), ..group.clone() });
    }
    Ok(builder.finish()?.0)
}

/// For each group the index of one with another prompt: of the next run of groups that share a prompt, the group at the
/// same place in its run. The verdicts of a pair stand side by side, so that a chosen response is followed by a chosen
/// one. Where all groups share one prompt it is the next group.
fn of_other_prompts(groups: &[ResponseGroup]) -> Vec<usize> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for run in groups.chunk_by(|a, b| a.prefix == b.prefix) {
        let start = runs.last().map_or(0, |last| last.end);
        runs.push(start..start + run.len());
    }
    if runs.len() < 2 {
        return (0..groups.len()).map(|i| (i + 1) % groups.len()).collect();
    }
    let is_same = |a: &Range<usize>, b: &Range<usize>| groups[a.start].prefix == groups[b.start].prefix;
    let mut others = Vec::with_capacity(groups.len());
    for (i, run) in runs.iter().enumerate() {
        // Neighbours differ. Only the first run may share the prompt of the last; the second then does not.
        let next = &runs[(i + 1) % runs.len()];
        let next = if is_same(next, run) { &runs[1] } else { next };
        others.extend((0..run.len()).map(|place| next.start + place % next.len()));
    }
    others
}

/// Cuts a list of groups where the tokens of a part would pass the budget: mismatched groups have other lengths than
/// those that the packs were made for.
pub(super) fn within_budget<'a>(
    data: &ResponseDataset,
    groups: &'a [u32],
    budget: u32,
) -> impl Iterator<Item = &'a [u32]> {
    let mut ends = Vec::new();
    let mut n_tokens = 0;
    for (i, &group) in groups.iter().enumerate() {
        let more = data.groups()[group as usize].n_tokens();
        if i > 0 && n_tokens + more > budget as usize {
            ends.push(i);
            n_tokens = 0;
        }
        n_tokens += more;
    }
    ends.push(groups.len());
    let mut start = 0;
    ends.into_iter().map(move |end| &groups[std::mem::replace(&mut start, end)..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_data::TokenizedResponse;
    use truing_types::RowOrigin;

    /// A group for each prompt and response, both of one token.
    fn groups(of: &[(u32, u32)]) -> Vec<ResponseGroup> {
        let group = |&(prompt, response): &(u32, u32)| {
            let sequence = TokenizedResponse {
                tokens: vec![prompt, response],
                loss_weights: vec![0.0, 1.0],
                ..TokenizedResponse::default()
            };
            ResponseGroup::new(vec![sequence], None, RowOrigin { source: "a".into(), line: 1 })
        };
        of.iter().map(group).collect()
    }

    #[test]
    fn a_mismatched_response_is_to_another_prompt() {
        // Chosen (10 and more) and rejected (20 and more) of each prompt side by side, as pairs become verdicts.
        let side_by_side = groups(&[(1, 10), (1, 20), (2, 11), (2, 21), (3, 12), (3, 22)]);
        assert_eq!(
            of_other_prompts(&side_by_side),
            [2, 3, 4, 5, 0, 1],
            "chosen after chosen, rejected after rejected"
        );
        let one_after_the_other = groups(&[(1, 10), (2, 11), (3, 12), (1, 20), (2, 21), (3, 22)]);
        assert_eq!(of_other_prompts(&one_after_the_other), [1, 2, 3, 4, 5, 0]);
        // The same responses are used in any order of the rows.
        let used = |groups: &[ResponseGroup]| {
            let mut used: Vec<u32> =
                of_other_prompts(groups).iter().map(|&other| groups[other].responses[0].tokens[0]).collect();
            used.sort_unstable();
            used
        };
        assert_eq!(used(&side_by_side), used(&one_after_the_other));
        for of in [
            &[(1, 10), (2, 11), (1, 12)][..],
            &[(1, 10), (1, 11), (1, 12), (2, 13), (1, 14)],
            &[(1, 10), (1, 11), (2, 12)],
        ] {
            let groups = groups(of);
            for (i, other) in of_other_prompts(&groups).into_iter().enumerate() {
                assert_ne!(groups[i].prefix, groups[other].prefix, "{of:?} at {i}");
            }
        }
        assert_eq!(of_other_prompts(&groups(&[(1, 10), (1, 11)])), [1, 0], "there is no other prompt");
        assert_eq!(of_other_prompts(&groups(&[(1, 10)])), [0]);
        assert!(of_other_prompts(&[]).is_empty());
    }

    #[test]
    fn parts_stay_within_the_budget() {
        let mut builder = ResponseDataset::builder(10, LongSamplePolicy::Error);
        builder.begin_source("a", 1.0);
        groups(&[(1, 10), (2, 11), (3, 12), (4, 13), (5, 14)])
            .into_iter()
            .for_each(|group| builder.push(group));
        let data = builder.finish().unwrap().0;
        let parts: Vec<&[u32]> = within_budget(&data, &[0, 1, 2, 3, 4], 5).collect();
        assert_eq!(parts, [&[0, 1][..], &[2, 3], &[4]]);
        assert_eq!(within_budget(&data, &[3, 1], 1).collect::<Vec<_>>(), [&[3][..], &[1]]);
    }
}
