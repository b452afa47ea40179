//! The search at work: parents, rounds of halving, refinement, and one evaluation on the held-out items.

use truing_eval::benchmarks::{Scored, summarise};
use truing_eval::comparison::{compare_metric, holm_over_tasks};
use truing_eval::results::ItemRecord;
use truing_model::Engine;
use truing_run::RunError;
use truing_statistics::{Bootstrap, selection_optimism};
use truing_store::atomic;
use truing_types::Seed;

use super::candidates::{Candidate, first_candidates};
use super::config::Objective;
use super::evaluator::{Evaluated, Evaluator, item_value, means_of, open_model};
use super::plan::{MergeSearchInputs, MergeSearchPlan};
use super::record::{AbilityScore, Confirmation, Contestant, SearchRecord, SearchRow};
use crate::StageError;
use crate::evaluate::PlannedTask;

/// First and smallest step of the refinement, in shares of a setting's range.
const FIRST_STEP: f64 = 0.1;
const LAST_STEP: f64 = 0.02;

/// The search with what it works with.
pub(super) struct Search<'a> {
    pub(super) plan: &'a MergeSearchPlan,
    pub(super) inputs: &'a MergeSearchInputs,
    pub(super) evaluator: Evaluator<'a>,
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
            known.push(self.evaluator.evaluate::<E>(contestant, &split.search)?);
        }
        Ok(known)
    }

    /// Successive halving: the last round is on all search items. Its candidates, best first, and those that were
    /// dropped before.
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
                of_round.push(self.evaluator.evaluate::<E>(Contestant::Merge(candidate), &indices)?);
            }
            // The parents on the same items, so that the tasks' differences are of one scale.
            let metrics = self.evaluator.metrics();
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
                finalists.push(self.evaluator.evaluate::<E>(Contestant::Merge(candidate), &split.search)?);
            }
            self.sort(finalists, reference);
            if finalists.first().map(|best| best.contestant.clone()) == best {
                step /= 2.0;
            }
        }
        Ok(())
    }

    /// Evaluates base, parents and the chosen merge once on items that decided nothing, and compares the merge with the
    /// parents.
    fn confirm<E: Engine + 'static>(
        &mut self,
        known: &[Evaluated],
        chosen: &Contestant,
        own: &[usize],
    ) -> Result<(Vec<SearchRow>, Vec<Confirmation>), StageError> {
        let split = &self.inputs.split;
        let mut confirmed: Vec<Evaluated> = Vec::new();
        for contestant in known.iter().map(|one| one.contestant.clone()).chain([chosen.clone()]) {
            confirmed.push(self.evaluator.evaluate::<E>(contestant, &split.confirm)?);
        }
        let known = &confirmed[..known.len()];
        let reference = self.reference(known, own);
        let confirmations = match confirmed.last() {
            Some(merge) => self.compare(self.parents(known), merge, own),
            None => Vec::new(),
        };
        Ok((confirmed.iter().map(|one| self.row(one, &reference)).collect(), confirmations))
    }

    /// For each task the parent that was trained for it, or that has the highest score on the search items.
    fn own_parents(&self, known: &[Evaluated]) -> Vec<usize> {
        let config = &self.plan.config;
        let parents = self.parents(known);
        let of_task = |(task, planned): (usize, &PlannedTask)| {
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

    /// The expected optimism of the choice among the finalists. Items of all tasks are resampled together.
    fn optimism(&self, finalists: &[Evaluated], reference: &[f64]) -> Option<f64> {
        let metrics = self.evaluator.metrics();
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
        for (task, metric) in self.evaluator.metrics().iter().enumerate() {
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
        let tasks = self.inputs.evaluation.tasks.iter().zip(&one.records).zip(self.evaluator.metrics());
        let abilities = tasks
            .filter_map(|((task, records), metric)| {
                let scored: Vec<Scored<'_>> = records.iter().map(ItemRecord::scored).collect();
                let summary = summarise(&scored, &[metric]).metrics.into_iter().next()?;
                Some(AbilityScore { task: task.config.name().to_owned(), summary })
            })
            .collect();
        SearchRow {
            contestant: one.contestant.clone(),
            label: self.evaluator.label(&one.contestant),
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
            open_model(&merged, Some(&recipe), self.evaluator.stop, &mut *self.evaluator.events)?;
        }
        Ok(())
    }
}

/// The mean of each task's own parent.
fn own_means(parents: &[Vec<f64>], own: &[usize]) -> Vec<f64> {
    own.iter().enumerate().map(|(task, parent)| parents[*parent][task]).collect()
}
