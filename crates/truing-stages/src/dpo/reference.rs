//! The reference's log-probabilities: computed once, kept beside the runs under a digest of model and data.

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
use truing_types::{Communicator, Event, EventSink, Seed, dealt};

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

/// Each prompt with the response of the group after it (of the first, for the last): what KTO takes the policy's KL
/// on. Groups keep their places; a response is cut where the budget demands it.
pub(super) fn mismatched(data: &ResponseDataset, budget: u32) -> Result<ResponseDataset, DataError> {
    let groups = data.groups();
    let mut builder = ResponseDataset::builder(budget, LongSamplePolicy::Truncate);
    for (i, group) in groups.iter().enumerate() {
        let next = &groups[(i + 1) % groups.len()];
        builder.push(ResponseGroup { responses: next.responses.clone(), ..group.clone() });
    }
    Ok(builder.finish()?.0)
}
