//! The search at work: parents, rounds of halving, refinement, and one evaluation on the held-out items.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use truing_eval::benchmarks::{Answers, Item, MetricInfo, MetricSummary, Scored, Scoring, summarise};
use truing_eval::comparison::{Finding, MetricComparison, compare_metric, holm_over_tasks};
use truing_eval::results::ItemRecord;
use truing_model::merge::{MergeError, MergePlan, MergeRecipe};
use truing_model::{Engine, ModelFiles};
use truing_run::RunError;
use truing_statistics::{Bootstrap, selection_optimism};
use truing_store::{Digest, atomic};
use truing_types::{Event, EventSink, Seed};

use super::candidates::{Candidate, first_candidates};
use super::config::Objective;
use super::plan::{MergeSearchInputs, MergeSearchPlan};
use crate::StageError;
use crate::evaluate::{AnswerLog, Asking, SubjectModel};

/// Folder of the candidates' answers.
const CANDIDATES: &str = "candidates";
/// First and smallest step of the refinement, in shares of a setting's range.
const FIRST_STEP: f64 = 0.1;
const LAST_STEP: f64 = 0.02;

/// Who is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contestant {
    /// The base model.
    Base,
    /// One of the models to merge, by its place.
    Parent(usize),
    /// A merge.
    Merge(Candidate),
}

/// A contestant on items of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbilityScore {
    /// The task.
    pub task: String,
    /// Its main metric.
    pub summary: MetricSummary,
}

/// A contestant on all search items that it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRow {
    /// Who.
    pub contestant: Contestant,
    /// In words.
    pub label: String,
    /// Items over all tasks.
    pub n_items: usize,
    /// The objective on these items.
    pub objective: f64,
    /// The main metric of each task.
    pub abilities: Vec<AbilityScore>,
}

/// The chosen merge on the held-out items, compared with one parent on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The parent, by its place.
    pub parent: usize,
    /// Whether the task is this parent's own.
    pub is_own: bool,
    /// The parent is the first, the merge the second.
    pub comparison: MetricComparison,
    /// What difference these items could have shown, in words.
    #[serde(default)]
    pub resolution: String,
}

/// What a search leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// The models that were merged.
    pub parents: Vec<String>,
    /// Task to the place of its own parent.
    pub own_parents: BTreeMap<String, usize>,
    /// All that was evaluated on search items, in the order of the last evaluation: base, parents, candidates.
    pub search: Vec<SearchRow>,
    /// The chosen merge, by its place in `search`.
    pub chosen: usize,
    /// Candidates that were compared on all search items.
    pub n_finalists: usize,
    /// The chosen merge compared with each parent on all search items.
    pub on_search: Vec<Confirmation>,
    /// Base, parents and the chosen merge on the held-out items.
    pub confirm: Vec<SearchRow>,
    /// The chosen merge compared with each parent there, corrected together.
    pub confirmations: Vec<Confirmation>,
    /// Expected amount by which the objective on the search items is too high because it was the reason for the choice.
    pub expected_optimism: Option<f64>,
}

impl SearchRecord {
    /// Objective on the search items less that on the others: what was lost.
    #[must_use]
    pub fn observed_loss(&self) -> Option<f64> {
        Some(self.search.get(self.chosen)?.objective - self.confirm.last()?.objective)
    }

    /// Tasks on which the merge is significantly worse than the task's own parent, on the held-out items.
    #[must_use]
    pub fn lost_abilities(&self) -> Vec<&str> {
        let is_worse = |one: &&Confirmation| one.is_own && one.comparison.finding() == Finding::FirstBetter;
        self.confirmations.iter().filter(is_worse).map(|one| one.comparison.task.as_str()).collect()
    }
}

/// Records of each task's items.
type Records = Vec<Vec<ItemRecord>>;

/// The search with what it works with.
pub(super) struct Search<'a> {
    pub(super) plan: &'a MergeSearchPlan,
    pub(super) inputs: &'a MergeSearchInputs,
    pub(super) stop: &'a AtomicBool,
    pub(super) events: &'a mut dyn EventSink,
    pub(super) scoring: Scoring<'a>,
}

/// A contestant with its records on the items of its last round.
struct Evaluated {
    contestant: Contestant,
    n_items: usize,
    records: Records,
    means: Vec<f64>,
}

impl Search<'_> {
    /// Runs to the end.
    pub(super) fn run<E: Engine + 'static>(&mut self) -> Result<SearchRecord, StageError> {
        let config = &self.plan.config;
        let known = self.evaluate_known::<E>()?;
        let own = self.own_parents(&known);
        let reference = self.reference(&known, &own);
        let (mut finalists, dropped) = self.halve::<E>(&known, &own)?;
        self.refine::<E>(&mut finalists, &reference)?;
        let Some(best) = finalists.first() else {
            return Err(RunError::BadSetting {
                key: "n_candidates",
                found: "no candidate".into(),
                expected: "methods with at least one merge".into(),
            }
            .into());
        };
        let chosen = best.contestant.clone();
        let expected_optimism = self.optimism(&finalists, &reference);
        let on_search = self.compare(self.parents(&known), best, &own);
        let evaluated = known.iter().chain(&finalists).chain(&dropped);
        let search = evaluated.map(|one| self.row(one, &reference)).collect();
        let (confirm, confirmations) = self.confirm::<E>(&known, &chosen, &own)?;
        let names = self.inputs.evaluation.tasks.iter().map(|task| task.config.name().to_owned());
        let record = SearchRecord {
            parents: config.models.iter().map(|model| model.model.clone()).collect(),
            own_parents: names.zip(own).collect(),
            search,
            chosen: known.len(),
            n_finalists: finalists.len(),
            on_search,
            confirm,
            confirmations,
            expected_optimism,
        };
        self.save(&record, &chosen)?;
        Ok(record)
    }

    /// Base and parents on all search items.
    fn evaluate_known<E: Engine + 'static>(&mut self) -> Result<Vec<Evaluated>, StageError> {
        let (config, split) = (&self.plan.config, &self.inputs.split);
        let base = (!config.base_model.is_empty()).then_some(Contestant::Base);
        let contestants = base.into_iter().chain((0..config.models.len()).map(Contestant::Parent));
        let mut known = Vec::new();
        for contestant in contestants {
            known.push(self.evaluate::<E>(contestant, &split.search)?);
        }
        Ok(known)
    }

    /// Successive halving: the last round is on all search items. Its candidates, best first, and those that were dropped before.
    fn halve<E: Engine + 'static>(
        &mut self,
        known: &[Evaluated],
        own: &[usize],
    ) -> Result<(Vec<Evaluated>, Vec<Evaluated>), StageError> {
        let (config, split) = (&self.plan.config, &self.inputs.split);
        let seed = Seed(config.seed);
        let mut candidates =
            first_candidates(&config.methods, config.models.len(), config.n_candidates, seed);
        let (mut finalists, mut dropped): (Vec<Evaluated>, Vec<Evaluated>) = (Vec::new(), Vec::new());
        for round in 0..config.n_rounds {
            let share = 0.5_f64.powi((config.n_rounds - 1 - round) as i32);
            let indices: Vec<Vec<usize>> = split
                .search
                .iter()
                .map(|indices| {
                    indices[..((indices.len() as f64 * share).ceil() as usize).min(indices.len())].to_vec()
                })
                .collect();
            let mut of_round: Vec<Evaluated> = Vec::new();
            for candidate in candidates.drain(..) {
                of_round.push(self.evaluate::<E>(Contestant::Merge(candidate), &indices)?);
            }
            // The parents on the same items, so that the tasks' differences are of one scale.
            let metrics = self.metrics();
            let parents = self.parents(known).iter();
            let means: Vec<Vec<f64>> =
                parents.map(|one| means_of(&one.records, &metrics, Some(&indices))).collect();
            self.sort(&mut of_round, &own_means(&means, own));
            if round + 1 == config.n_rounds {
                finalists = of_round;
                break;
            }
            let n_kept = of_round.len().div_ceil(2);
            dropped.extend(of_round.split_off(n_kept));
            candidates = of_round.into_iter().filter_map(|one| one.contestant.merge().cloned()).collect();
        }
        Ok((finalists, dropped))
    }

    /// Searches beside the best finalist that has settings, with smaller steps where nothing is better.
    fn refine<E: Engine + 'static>(
        &mut self,
        finalists: &mut Vec<Evaluated>,
        reference: &[f64],
    ) -> Result<(), StageError> {
        let split = &self.inputs.split;
        let (mut n_left, mut step) = (self.plan.config.n_refined, FIRST_STEP);
        while n_left > 0 && step >= LAST_STEP {
            let is_new =
                |one: &Candidate| !finalists.iter().any(|known| known.contestant.merge() == Some(one));
            let neighbours: Vec<Candidate> = finalists
                .iter()
                .filter_map(|known| known.contestant.merge())
                .map(|center| center.neighbours(step).into_iter().filter(is_new).take(n_left).collect())
                .find(|neighbours: &Vec<Candidate>| !neighbours.is_empty())
                .unwrap_or_default();
            let best = finalists.first().map(|best| best.contestant.clone());
            n_left -= neighbours.len();
            for candidate in neighbours {
                finalists.push(self.evaluate::<E>(Contestant::Merge(candidate), &split.search)?);
            }
            self.sort(finalists, reference);
            if finalists.first().map(|best| best.contestant.clone()) == best {
                step /= 2.0;
            }
        }
        Ok(())
    }

    /// Evaluates base, parents and the chosen merge once on items that decided nothing, and compares the merge with the parents.
    fn confirm<E: Engine + 'static>(
        &mut self,
        known: &[Evaluated],
        chosen: &Contestant,
        own: &[usize],
    ) -> Result<(Vec<SearchRow>, Vec<Confirmation>), StageError> {
        let split = &self.inputs.split;
        let mut confirmed: Vec<Evaluated> = Vec::new();
        for contestant in known.iter().map(|one| one.contestant.clone()).chain([chosen.clone()]) {
            confirmed.push(self.evaluate::<E>(contestant, &split.confirm)?);
        }
        let known = &confirmed[..known.len()];
        let reference = self.reference(known, own);
        let confirmations = match confirmed.last() {
            Some(merge) => self.compare(self.parents(known), merge, own),
            None => Vec::new(),
        };
        Ok((confirmed.iter().map(|one| self.row(one, &reference)).collect(), confirmations))
    }

    fn metrics(&self) -> Vec<MetricInfo> {
        self.inputs.evaluation.tasks.iter().filter_map(|task| task.main_metric()).collect()
    }

    /// Evaluates a contestant on items of each task, given by their places. What the log of its answers holds is not asked
    /// again, and its merge is made only where something is asked.
    fn evaluate<E: Engine + 'static>(
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

    fn label(&self, contestant: &Contestant) -> String {
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

    /// For each task the parent that was trained for it, or that has the highest score on the search items.
    fn own_parents(&self, known: &[Evaluated]) -> Vec<usize> {
        let config = &self.plan.config;
        let parents = self.parents(known);
        let of_task = |(task, planned): (usize, &crate::evaluate::PlannedTask)| {
            let named = config
                .models
                .iter()
                .position(|model| model.ability.as_deref() == Some(planned.config.name()));
            let best =
                (0..parents.len()).max_by(|a, b| parents[*a].means[task].total_cmp(&parents[*b].means[task]));
            named.or(best).unwrap_or(0)
        };
        self.inputs.evaluation.tasks.iter().enumerate().map(of_task).collect()
    }

    /// The parents among base and parents.
    fn parents<'k>(&self, known: &'k [Evaluated]) -> &'k [Evaluated] {
        &known[known.len() - self.plan.config.models.len()..]
    }

    fn reference(&self, known: &[Evaluated], own: &[usize]) -> Vec<f64> {
        let means: Vec<Vec<f64>> = self.parents(known).iter().map(|one| one.means.clone()).collect();
        own_means(&means, own)
    }

    /// What is maximised, of the tasks' means less those of their own parents.
    fn objective(&self, means: &[f64], reference: &[f64]) -> f64 {
        let differences = means.iter().zip(reference).map(|(mean, reference)| mean - reference);
        let found = match self.plan.config.objective {
            Objective::Mean => differences.sum::<f64>() / means.len() as f64,
            Objective::Worst => differences.fold(f64::INFINITY, f64::min),
        };
        // Without a score on a task there is nothing to choose it for.
        if found.is_nan() { f64::NEG_INFINITY } else { found }
    }

    /// The best first.
    fn sort(&self, candidates: &mut [Evaluated], reference: &[f64]) {
        candidates.sort_by(|a, b| {
            self.objective(&b.means, reference).total_cmp(&self.objective(&a.means, reference))
        });
    }

    /// The expected optimism of the choice among the finalists. Items of all tasks are drawn together.
    fn optimism(&self, finalists: &[Evaluated], reference: &[f64]) -> Option<f64> {
        let metrics = self.metrics();
        // [finalist][item] over all tasks, all on the same items.
        let scores: Vec<Vec<Option<f64>>> = finalists
            .iter()
            .map(|one| {
                let of_tasks = one.records.iter().zip(&metrics);
                of_tasks
                    .flat_map(|(records, metric)| records.iter().map(|record| item_value(record, metric)))
                    .collect()
            })
            .collect();
        let tasks: Vec<usize> = finalists.first().map_or_else(Vec::new, |one| {
            let of_tasks = one.records.iter().enumerate();
            of_tasks.flat_map(|(task, records)| std::iter::repeat_n(task, records.len())).collect()
        });
        let objective = |finalist: usize, drawn: &[usize]| {
            let mut sums = vec![(0.0, 0.0); metrics.len()];
            for &idx in drawn {
                if let Some(value) = scores[finalist][idx] {
                    let (sum, n) = &mut sums[tasks[idx]];
                    *sum += value;
                    *n += 1.0;
                }
            }
            let means: Vec<f64> = sums.into_iter().map(|(sum, n)| sum / n).collect();
            self.objective(&means, reference)
        };
        selection_optimism(scores.len(), tasks.len(), objective, &Bootstrap::default())
    }

    /// The merge compared with each parent on each task, corrected together.
    fn compare(&self, parents: &[Evaluated], merge: &Evaluated, own: &[usize]) -> Vec<Confirmation> {
        let mut found = Vec::new();
        for (task, metric) in self.metrics().iter().enumerate() {
            let name = self.inputs.evaluation.tasks[task].config.name();
            for (idx, parent) in parents.iter().enumerate() {
                let both = (&parent.records[task], &merge.records[task]);
                if let Some(mut comparison) =
                    compare_metric(name, metric, both.0, both.1, &Bootstrap::default())
                {
                    comparison.flips.clear();
                    let resolution = comparison.resolvable_text();
                    found.push(Confirmation {
                        parent: idx,
                        is_own: own[task] == idx,
                        comparison,
                        resolution,
                    });
                }
            }
        }
        holm_over_tasks(found.iter_mut().map(|one| &mut one.comparison));
        found
    }

    fn row(&self, one: &Evaluated, reference: &[f64]) -> SearchRow {
        let tasks = self.inputs.evaluation.tasks.iter().zip(&one.records).zip(self.metrics());
        let abilities = tasks
            .filter_map(|((task, records), metric)| {
                let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
                let summary = summarise(&scored, &[metric]).metrics.into_iter().next()?;
                Some(AbilityScore { task: task.config.name().to_owned(), summary })
            })
            .collect();
        SearchRow {
            contestant: one.contestant.clone(),
            label: self.label(&one.contestant),
            n_items: one.n_items,
            objective: self.objective(&one.means, reference),
            abilities,
        }
    }

    /// Writes `search.json`, the recipe of the chosen merge, and the merged model.
    fn save(&mut self, record: &SearchRecord, chosen: &Contestant) -> Result<(), StageError> {
        let config = &self.plan.config;
        let folder = &config.output_dir;
        atomic::write_json(&folder.join(super::RECORD), record)?;
        if let Some(candidate) = chosen.merge() {
            let recipe = config.merge_recipe(candidate)?;
            let merged = folder.join(super::MODEL);
            let as_toml = toml::to_string_pretty(&recipe).unwrap_or_default();
            atomic::write(&folder.join(super::MERGE_RECIPE), as_toml.as_bytes())?;
            open_model(&merged, Some(&recipe), self.stop, &mut *self.events)?;
        }
        Ok(())
    }
}

impl Contestant {
    fn merge(&self) -> Option<&Candidate> {
        match self {
            Self::Merge(candidate) => Some(candidate),
            Self::Base | Self::Parent(_) => None,
        }
    }

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
fn open_model(
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
fn item_value(record: &ItemRecord, metric: &MetricInfo) -> Option<f64> {
    use truing_eval::benchmarks::Aggregation;
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

/// The mean of each task; over the first items alone where `places` has fewer. Not a number where none has a score.
fn means_of(records: &Records, metrics: &[MetricInfo], indices: Option<&[Vec<usize>]>) -> Vec<f64> {
    let of_task = |(task, (records, metric)): (usize, (&Vec<ItemRecord>, &MetricInfo))| {
        let n = indices.map_or(records.len(), |indices| indices[task].len().min(records.len()));
        mean(records[..n].iter().filter_map(|record| item_value(record, metric)))
    };
    records.iter().zip(metrics).enumerate().map(of_task).collect()
}

/// The mean of each task's own parent.
fn own_means(parents: &[Vec<f64>], own: &[usize]) -> Vec<f64> {
    own.iter().enumerate().map(|(task, parent)| parents[*parent][task]).collect()
}
