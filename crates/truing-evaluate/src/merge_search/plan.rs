//! What a search evaluates, known before the first merge.

use std::path::Path;

use rand_chacha::rand_core::Rng as _;
use truing_eval::comparison::resolution;
use truing_model::ModelFiles;
use truing_model::merge::MergePlan;
use truing_run::{Machine, RunError};
use truing_train::{Amount, PlanRow};
use truing_types::{Seed, counted};

use super::candidates::first_candidates;
use super::config::MergeSearchConfig;
use crate::evaluate::{EvaluateInputs, PlannedTask, resolution_row};
use crate::{PlanContext, StageError, StagePlan};

/// Places of the items of each task, in the order in which they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Those that candidates are compared on.
    pub search: Vec<Vec<usize>>,
    /// Those that decide nothing.
    pub confirm: Vec<Vec<usize>>,
}

/// Everything a plan looks at.
#[derive(Debug)]
pub struct MergeSearchInputs {
    /// The benchmarks, and how models are asked.
    pub evaluation: EvaluateInputs,
    /// Which items are searched on.
    pub split: Split,
}

impl MergeSearchInputs {
    pub(super) fn load(
        config: &MergeSearchConfig,
        context: &mut PlanContext<'_>,
    ) -> Result<Self, StageError> {
        config.check()?;
        let first = Path::new(&config.models[0].model);
        let evaluation = EvaluateInputs::load(&config.evaluation(config.output_dir.clone(), first), context)?;
        let base = Some(&config.base_model).filter(|base| !base.is_empty());
        for model in config.models.iter().map(|model| &model.model).chain(base) {
            ModelFiles::open(Path::new(model)).map_err(RunError::from)?;
        }
        // Every method can merge these models: found before anything is evaluated.
        let seed = Seed(config.seed);
        for candidate in first_candidates(&config.methods, config.models.len(), config.methods.len(), seed) {
            MergePlan::new(config.merge_recipe(&candidate)?)?;
        }
        let split = Split::of(&evaluation.tasks, config.search_share, seed);
        for (task, (search, confirm)) in evaluation.tasks.iter().zip(split.search.iter().zip(&split.confirm))
        {
            if search.is_empty() || confirm.is_empty() {
                return Err(RunError::BadSetting {
                    key: "search_share",
                    found: format!(
                        "{}, which leaves {} items of {} to search on and {} to confirm",
                        config.search_share,
                        search.len(),
                        task.config.name(),
                        confirm.len()
                    ),
                    expected: "a share that leaves items for both".into(),
                }
                .into());
            }
        }
        Ok(Self { evaluation, split })
    }
}

impl Split {
    /// Clusters of items are assigned as a whole, in an order shuffled with the seed.
    fn of(tasks: &[PlannedTask], share: f64, seed: Seed) -> Self {
        let (mut search, mut confirm) = (Vec::new(), Vec::new());
        for (number, task) in tasks.iter().enumerate() {
            let items = &task.loaded.items;
            let mut clusters: Vec<(&str, Vec<usize>)> = Vec::new();
            let mut indices = std::collections::HashMap::new();
            for (idx, item) in items.iter().enumerate() {
                let name = item.cluster.as_deref().unwrap_or(&item.id);
                let at = *indices.entry(name).or_insert(clusters.len());
                match clusters.get_mut(at) {
                    Some((_, members)) => members.push(idx),
                    None => clusters.push((name, vec![idx])),
                }
            }
            let mut generator = seed.generator("search split", &[number as u64]);
            let mut keyed: Vec<(u64, Vec<usize>)> =
                clusters.into_iter().map(|(_, members)| (generator.next_u64(), members)).collect();
            keyed.sort_by_key(|(key, _)| *key);
            let wanted = share * items.len() as f64;
            let (mut of_search, mut of_confirm) = (Vec::new(), Vec::new());
            for (_, members) in keyed {
                match (of_search.len() as f64) < wanted {
                    true => of_search.extend(members),
                    false => of_confirm.extend(members),
                }
            }
            search.push(of_search);
            confirm.push(of_confirm);
        }
        Self { search, confirm }
    }
}

/// What will be evaluated.
#[derive(Debug)]
pub struct MergeSearchPlan {
    /// The settings.
    pub config: MergeSearchConfig,
    /// Threads to compute with.
    pub n_threads: usize,
    rows: Vec<PlanRow>,
    summary: String,
}

impl MergeSearchPlan {
    pub(super) fn resolve(config: MergeSearchConfig, inputs: &MergeSearchInputs, machine: &Machine) -> Self {
        let n_models = config.models.len();
        let candidates =
            first_candidates(&config.methods, n_models, config.n_candidates, Seed(config.seed)).len();
        let n_known = n_models + usize::from(!config.base_model.is_empty());
        let total = |indices: &[Vec<usize>]| indices.iter().map(Vec::len).sum::<usize>();
        let (n_search, n_confirm) = (total(&inputs.split.search), total(&inputs.split.confirm));
        // A candidate of the next round is asked only for the items that it has not seen.
        let (mut n_items, mut n_left, mut seen) = (0, candidates, 0);
        for round in 0..config.n_rounds {
            let share = 0.5_f64.powi((config.n_rounds - 1 - round) as i32);
            let of_round: usize = inputs
                .split
                .search
                .iter()
                .map(|indices| (indices.len() as f64 * share).ceil() as usize)
                .sum();
            n_items += n_left * (of_round - seen);
            seen = of_round;
            if round + 1 < config.n_rounds {
                n_left = n_left.div_ceil(2);
            }
        }
        n_items += config.n_refined * n_search + n_known * n_search + (n_known + 1) * n_confirm;
        let mut rows = vec![
            PlanRow::new("candidates of the first round", Amount::Count(candidates as u64)),
            PlanRow::new("candidates on all search items", Amount::Count((n_left + config.n_refined) as u64)),
            PlanRow::new("answers, at most", Amount::Count(n_items as u64)),
        ];
        for (task, confirm) in inputs.evaluation.tasks.iter().zip(&inputs.split.confirm) {
            let name = task.config.name();
            rows.push(PlanRow::new(format!("{name}: items"), Amount::Count(task.loaded.items.len() as u64)));
            rows.push(PlanRow::new(format!("{name}: held-out items"), Amount::Count(confirm.len() as u64)));
            let held_out = resolution(confirm.iter().map(|idx| &task.loaded.items[*idx]));
            let what = format!("{name}: smallest difference from a parent that these can show");
            rows.push(resolution_row(what, task.main_metric().as_ref(), &held_out));
        }
        let summary = format!(
            "search for a merge of {} on {}",
            counted(n_models as u64, "model", "models"),
            inputs.evaluation.tasks.iter().map(|task| task.config.name()).collect::<Vec<_>>().join(", ")
        );
        Self { n_threads: machine.n_threads, config, rows, summary }
    }
}

impl StagePlan for MergeSearchPlan {
    fn table(&self) -> Vec<PlanRow> {
        self.rows.clone()
    }

    fn summary(&self) -> String {
        self.summary.clone()
    }
}
