//! Evaluates a contestant: opens its model, merged first where it is a merge, logs its answers in a folder of their
//! own, and scores them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use truing_eval::benchmarks::{Aggregation, Answers, Item, MetricInfo, Scoring};
use truing_eval::results::ItemRecord;
use truing_model::merge::{MergeError, MergePlan, MergeRecipe};
use truing_model::{Engine, ModelFiles};
use truing_run::RunError;
use truing_store::Digest;
use truing_types::{Event, EventSink};

use super::plan::{MergeSearchInputs, MergeSearchPlan};
use super::record::Contestant;
use crate::StageError;
use crate::evaluate::{AnswerLog, Asking, SubjectModel};

/// Folder of the candidates' answers.
const CANDIDATES: &str = "candidates";

/// Records of each task's items.
pub(super) type Records = Vec<Vec<ItemRecord>>;

/// A contestant with its records on the items of its last round.
pub(super) struct Evaluated {
    pub(super) contestant: Contestant,
    pub(super) n_items: usize,
    pub(super) records: Records,
    pub(super) means: Vec<f64>,
}

/// What contestants are evaluated with.
pub(super) struct Evaluator<'a> {
    pub(super) plan: &'a MergeSearchPlan,
    pub(super) inputs: &'a MergeSearchInputs,
    pub(super) stop: &'a AtomicBool,
    pub(super) events: &'a mut dyn EventSink,
    pub(super) scoring: Scoring<'a>,
}

impl Evaluator<'_> {
    /// Evaluates a contestant on items of each task, given by their places. What the log of its answers holds is not
    /// asked again, and its merge is made only where something is asked.
    pub(super) fn evaluate<E: Engine + 'static>(
        &mut self,
        contestant: Contestant,
        indices: &[Vec<usize>],
    ) -> Result<Evaluated, StageError> {
        let config = &self.plan.config;
        let recipe = match &contestant {
            Contestant::Merge(candidate) => Some(config.merge_recipe(candidate)?),
            Contestant::Base | Contestant::Parent(_) => None,
        };
        let name = contestant.folder_name(recipe.as_ref())?;
        let label = self.label(&contestant);
        self.events.emit(Event::Note(format!("evaluating {label}")));
        let folder = config.output_dir.join(CANDIDATES).join(name);
        let merged = folder.join("model");
        let path: PathBuf = match &contestant {
            Contestant::Base => PathBuf::from(&config.base_model),
            Contestant::Parent(idx) => PathBuf::from(&config.models[*idx].model),
            Contestant::Merge(_) => merged.clone(),
        };
        std::fs::create_dir_all(&folder)
            .map_err(|source| RunError::Write { path: folder.clone(), source })?;
        let answered = self.ask::<E>(&folder, &path, recipe.as_ref(), indices)?;
        let records = self.score(indices, &answered);
        // The weights can be made again; the answers stay.
        if recipe.is_some() && merged.exists() {
            std::fs::remove_dir_all(&merged)
                .map_err(|source| RunError::Write { path: merged.clone(), source })?;
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(StageError::Stopped);
        }
        let means = means_of(&records, &self.metrics(), None);
        Ok(Evaluated { contestant, n_items: indices.iter().map(Vec::len).sum(), records, means })
    }

    /// Answers of a model to the items of each task, logged in `folder`.
    fn ask<E: Engine + 'static>(
        &mut self,
        folder: &Path,
        model: &Path,
        recipe: Option<&MergeRecipe>,
        indices: &[Vec<usize>],
    ) -> Result<Vec<Vec<Answers>>, StageError> {
        let evaluation = self.plan.config.evaluation(folder.to_path_buf(), model);
        let stop = self.stop;
        let mut open = |events: &mut dyn EventSink| open_model(model, recipe, stop, events);
        let mut asking = Asking::<E>::new(
            &evaluation,
            self.plan.n_threads,
            &self.inputs.evaluation,
            SubjectModel::Made(&mut open),
            AnswerLog::open(folder)?,
            self.stop,
            &mut *self.events,
        );
        let mut answered = Vec::new();
        for (task, indices) in self.inputs.evaluation.tasks.iter().zip(indices) {
            match asking.task(task, indices)?.and_then(|mut of_seeds| of_seeds.pop()) {
                Some(answers) => answered.push(answers),
                None => return Err(StageError::Stopped),
            }
        }
        Ok(answered)
    }

    /// The answers to the items of each task, scored.
    fn score(&self, indices: &[Vec<usize>], answered: &[Vec<Answers>]) -> Records {
        let mut records: Records = Vec::new();
        for ((task, indices), answers) in self.inputs.evaluation.tasks.iter().zip(indices).zip(answered) {
            let items: Vec<&Item> = indices.iter().map(|&idx| &task.loaded.items[idx]).collect();
            let pairs: Vec<(&Item, &Answers)> = items.iter().copied().zip(answers).collect();
            let scores = task.benchmark.get().score(&pairs, &task.options, &self.scoring);
            let of_items = items.into_iter().zip(answers.iter().cloned()).zip(scores);
            records.push(
                of_items
                    .map(|((item, answers), score)| ItemRecord {
                        item: item.clone(),
                        seed: 0,
                        answers,
                        score,
                    })
                    .collect(),
            );
        }
        records
    }

    /// The main metric of each task.
    pub(super) fn metrics(&self) -> Vec<MetricInfo> {
        self.inputs.evaluation.tasks.iter().filter_map(|task| task.main_metric()).collect()
    }

    /// A contestant in words.
    pub(super) fn label(&self, contestant: &Contestant) -> String {
        let name = |path: &str| {
            let path = Path::new(path);
            let parts: Vec<_> = path.components().rev().take(2).collect();
            let parts: Vec<String> =
                parts.into_iter().rev().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            parts.join("/")
        };
        match contestant {
            Contestant::Base => format!("base {}", name(&self.plan.config.base_model)),
            Contestant::Parent(parent_idx) => {
                format!("parent {}", name(&self.plan.config.models[*parent_idx].model))
            }
            Contestant::Merge(candidate) => candidate.label(),
        }
    }
}

impl Contestant {
    /// Name of the folder with its answers. `recipe` is that of a merge.
    fn folder_name(&self, recipe: Option<&MergeRecipe>) -> Result<String, RunError> {
        Ok(match self {
            Self::Base => "base".to_owned(),
            Self::Parent(parent_idx) => format!("parent-{parent_idx}"),
            Self::Merge(candidate) => {
                let bytes = serde_json::to_vec(&recipe)
                    .map_err(|source| RunError::Json { name: "the recipe of a merge", source })?;
                let digest: String = Digest::of_bytes(&bytes).to_string().chars().take(12).collect();
                format!("{}-{digest}", candidate.method)
            }
        })
    }
}

/// Opens a model, merged first where it is not there.
pub(super) fn open_model(
    path: &Path,
    recipe: Option<&MergeRecipe>,
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<ModelFiles, StageError> {
    if let Some(recipe) = recipe
        && !path.exists()
    {
        let plan = MergePlan::new(recipe.clone())?;
        events.emit(Event::PhaseStarted { phase: "merging".into(), total: Some(plan.n_tensors() as u64) });
        let done = &mut |done| events.emit(Event::Progress { done, note: String::new() });
        match plan.run(path, stop, done) {
            Err(MergeError::Interrupted) => return Err(StageError::Stopped),
            merged => merged?,
        };
        events.emit(Event::PhaseFinished);
    }
    Ok(ModelFiles::open(path).map_err(RunError::from)?)
}

/// An item's score on a scale from 0 to 1 where the metric has bounds, larger for better.
pub(super) fn item_value(record: &ItemRecord, metric: &MetricInfo) -> Option<f64> {
    let measure = record.score.measures.get(&metric.key())?.as_ref().ok()?;
    let value = (measure.weight != 0.0).then(|| measure.value / measure.weight)?;
    let is_likelihood = matches!(metric.aggregation, Aggregation::Perplexity | Aggregation::Bits);
    let scaled = match metric.range {
        Some([low, high]) if high > low && !is_likelihood => (value - low) / (high - low),
        _ => value,
    };
    Some(if metric.higher_is_better || is_likelihood { scaled } else { -scaled })
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for value in values {
        sum += value;
        n += 1.0;
    }
    sum / n
}

/// The mean of each task; over the first items alone where `indices` has fewer. Not a number where none has a score.
pub(super) fn means_of(
    records: &Records,
    metrics: &[MetricInfo],
    indices: Option<&[Vec<usize>]>,
) -> Vec<f64> {
    let of_task = |(task, (records, metric)): (usize, (&Vec<ItemRecord>, &MetricInfo))| {
        let n = indices.map_or(records.len(), |indices| indices[task].len().min(records.len()));
        mean(records[..n].iter().filter_map(|record| item_value(record, metric)))
    };
    records.iter().zip(metrics).enumerate().map(of_task).collect()
}
