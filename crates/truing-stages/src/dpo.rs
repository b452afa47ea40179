//! Preference optimisation without a reward model: DPO and its family, and KTO on single verdicts. The reference's
//! log-probabilities are computed once, before the first update, and kept by digest.

mod reference;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{ResponseBatch, ResponseDataset};
use truing_model::Engine;
use truing_run::samples::{Compared, ResponseOptions};
use truing_run::{Ended, RunError};
use truing_train::{Preference, PreferenceLoss, PreferencePack, ResponsePair};
use truing_types::{BatchError, StageName};

use crate::responses::ResponseInputs;
use crate::training::setup::Opened;
use crate::training::{
    self, ComingPacks, DecoderStage, RunStart, Split, TrainingConfig, TrainingInputs as _, TrainingPlan,
    Workload, setup,
};
use crate::{PlanContext, RunContext, StageError, TrainedModel};

/// The table `[preference]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceConfig {
    /// The loss. Names follow TRL.
    #[serde(alias = "loss_type")]
    #[schemars(extend("x-aliases" = ["loss_type"]))]
    pub loss: PreferenceLoss,
    /// Strength of the constraint to the reference model (SimPO needs 2 or more); in ORPO the weight of the odds-ratio
    /// term.
    pub beta: f64,
    /// Assumed fraction of flipped labels (`sigmoid`, `robust`).
    pub label_smoothing: f64,
    /// Target margin of SimPO.
    pub simpo_gamma: f64,
    /// Weight of the mean negative log-likelihood of the chosen response, added to the loss (RPO).
    pub rpo_alpha: f64,
    /// KTO: weight of desirable responses.
    pub desirable_weight: f64,
    /// KTO: weight of undesirable responses.
    pub undesirable_weight: f64,
    /// Pairs that are made of a ranking.
    pub compared: Compared,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        let objective = Preference::default();
        Self {
            loss: objective.loss,
            beta: objective.beta,
            label_smoothing: objective.label_smoothing,
            simpo_gamma: objective.gamma,
            rpo_alpha: objective.nll_coefficient,
            desirable_weight: objective.desirable_weight,
            undesirable_weight: objective.undesirable_weight,
            compared: Compared::BestAndWorst,
        }
    }
}

impl PreferenceConfig {
    fn objective(&self) -> Preference {
        Preference {
            loss: self.loss,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            gamma: self.simpo_gamma,
            nll_coefficient: self.rpo_alpha,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
            kto_baseline: 0.0,
        }
    }

    fn responses(&self) -> ResponseOptions {
        ResponseOptions {
            single_verdicts: self.loss.is_unpaired(),
            compared: self.compared,
            ..ResponseOptions::default()
        }
    }

    fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: f64, expected: &str| {
            Err(RunError::BadSetting { key, found: found.to_string(), expected: expected.to_owned() }.into())
        };
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        match self {
            c if !(c.beta.is_finite() && c.beta > 0.0) => bad("preference.beta", c.beta, "a number above 0"),
            c if !(0.0..0.5).contains(&c.label_smoothing) => {
                bad("preference.label_smoothing", c.label_smoothing, "0 or more and less than 0.5")
            }
            c if !not_negative(c.simpo_gamma) => bad("preference.simpo_gamma", c.simpo_gamma, "0 or more"),
            c if !not_negative(c.rpo_alpha) => bad("preference.rpo_alpha", c.rpo_alpha, "0 or more"),
            c if !not_negative(c.desirable_weight) => {
                bad("preference.desirable_weight", c.desirable_weight, "0 or more")
            }
            c if !not_negative(c.undesirable_weight) => {
                bad("preference.undesirable_weight", c.undesirable_weight, "0 or more")
            }
            _ => Ok(()),
        }
    }
}

/// Preference optimisation without a reward model: DPO and its variants. `stop` is looked at after every pack.
#[derive(Debug)]
pub struct DpoStage;

impl DecoderStage for DpoStage {
    const NAME: StageName = StageName::Dpo;
    type Inputs = ResponseInputs;

    fn check(config: &TrainingConfig) -> Result<(), StageError> {
        config.check_stage(StageName::Dpo)?;
        let settings = config.preference.clone().unwrap_or_default();
        settings.check()?;
        setup::check(config)?;
        let responses = settings.responses();
        setup::check_sources(config, |source| responses.check_source(source))
    }

    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<ResponseInputs, StageError> {
        Self::check(config)?;
        let responses = config.preference.clone().unwrap_or_default().responses();
        let render = context.render.clone();
        ResponseInputs::load(config, Opened::LanguageModel, &responses, render, context.events)
    }

    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &ResponseInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        let settings = plan.config.preference.clone().unwrap_or_default();
        let workload = DirectPreference {
            objective: settings.objective(),
            budget: plan.config.max_length,
            train: Known::default(),
            eval: Known::default(),
        };
        training::run::<E, _, _>(plan, inputs, workload, &mut context)
    }
}

/// What is known of one side of the data before the first step.
#[derive(Debug, Default)]
struct Known {
    /// Summed log-probability of each response under the reference, by group.
    reference: Vec<Vec<f64>>,
    /// For KTO: each prompt with a response to another prompt, and its log-probability under the reference.
    mismatched: Option<(ResponseDataset, Vec<Vec<f64>>)>,
}

struct DirectPreference {
    objective: Preference,
    /// Tokens of a pack when only looking.
    budget: u32,
    train: Known,
    eval: Known,
}

impl DirectPreference {
    fn known(&self, split: Split) -> &Known {
        match split {
            Split::Train => &self.train,
            Split::Evaluation => &self.eval,
        }
    }
}

impl<E: Engine> Workload<E> for DirectPreference {
    type Inputs = ResponseInputs;
    type Objective = Preference;

    fn objective(&self) -> &Preference {
        &self.objective
    }

    fn begin(
        &mut self,
        engine: &mut E,
        inputs: &ResponseInputs,
        run: RunStart<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        if !self.objective.loss.uses_reference() {
            return Ok(ControlFlow::Continue(()));
        }
        let models: Vec<String> = inputs
            .record()
            .files
            .iter()
            .filter(|file| file.role == "model")
            .map(|file| file.blake3.to_string())
            .collect();
        let RunStart { folder, groups, events, stop, .. } = run;
        let cache = reference::Cache { run: folder, models: &models, budget: self.budget, groups };
        let is_unpaired = self.objective.loss.is_unpaired();
        let sides = [(Some(&inputs.train), &mut self.train), (inputs.eval.as_ref(), &mut self.eval)];
        for (data, known) in sides {
            let Some(data) = data else { continue };
            let Some(found) = cache.log_probs(engine, data, events, stop)? else {
                return Ok(ControlFlow::Break(()));
            };
            known.reference = found;
            if is_unpaired {
                let mismatched = reference::mismatched(data, self.budget)?;
                let Some(found) = cache.log_probs(engine, &mismatched, events, stop)? else {
                    return Ok(ControlFlow::Break(()));
                };
                known.mismatched = Some((mismatched, found));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// KTO's reference point: the mean log-ratio of the step's mismatched responses, 0 or more.
    fn prepare(
        &mut self,
        engine: &mut E,
        _data: &ResponseDataset,
        coming: ComingPacks<'_>,
    ) -> Result<ControlFlow<()>, StageError> {
        let ComingPacks { split, packs, groups, .. } = coming;
        let Some((mismatched, reference)) = &self.known(split).mismatched else {
            return Ok(ControlFlow::Continue(()));
        };
        let (mut sum, mut n) = (0.0, 0.0);
        let parts =
            packs.iter().flat_map(|samples| reference::within_budget(mismatched, samples, self.budget));
        for samples in parts {
            let policy = reference::summed_log_probs(engine, mismatched, samples)?;
            let of_reference = samples.iter().flat_map(|&group| &reference[group as usize]);
            sum += policy.iter().zip(of_reference).map(|(policy, reference)| policy - reference).sum::<f64>();
            n += policy.len() as f64;
        }
        engine.join_others()?;
        let mut totals = [sum, n];
        groups.data.all_reduce_sum_f64(&mut totals)?;
        self.objective.kto_baseline = (totals[0] / totals[1].max(1.0)).max(0.0);
        Ok(ControlFlow::Continue(()))
    }

    fn pack(
        &mut self,
        data: &ResponseDataset,
        split: Split,
        samples: &[u32],
    ) -> Result<PreferencePack, BatchError> {
        let ResponseBatch { batch, .. } = data.batch(samples)?;
        let known = self.known(split);
        let (mut n_targets, mut pairs, mut verdicts, mut reference) = Default::default();
        collect(data, samples, known, &mut n_targets, &mut pairs, &mut verdicts, &mut reference);
        Ok(PreferencePack { batch, n_targets, pairs, verdicts, reference_log_probs: reference })
    }

    fn derive_metrics(&self, prefix: &str, values: &mut BTreeMap<String, f64>) {
        let of = |name: &str| values.get(&format!("{prefix}rewards/{name}")).copied();
        if let (Some(chosen), Some(rejected)) = (of("chosen"), of("rejected")) {
            values.insert(format!("{prefix}rewards/margins"), chosen - rejected);
        }
        if self.objective.loss.is_unpaired() {
            values.insert(format!("{prefix}kl"), self.objective.kto_baseline);
        }
    }
}

/// Fills in what a pack knows of its responses, group by group.
fn collect(
    data: &ResponseDataset,
    samples: &[u32],
    known: &Known,
    n_targets: &mut Vec<usize>,
    pairs: &mut Vec<ResponsePair>,
    verdicts: &mut Vec<bool>,
    reference: &mut Vec<f64>,
) {
    for &sample in samples {
        let group = &data.groups()[sample as usize];
        let first = n_targets.len();
        n_targets.extend(reference::n_targets(group));
        let pair = |(better, worse)| ResponsePair { chosen: first + better, rejected: first + worse };
        pairs.extend(group.pairs().into_iter().map(pair));
        verdicts.extend(group.responses.iter().filter_map(|response| response.is_desirable));
        if let Some(of_group) = known.reference.get(sample as usize) {
            reference.extend(of_group);
        }
    }
}
