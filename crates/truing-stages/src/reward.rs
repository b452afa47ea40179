//! The reward model (report 2.1, Eq. 1): a scalar head, Bradley-Terry on pairs, a squared error to normalised absolute
//! scores. Both sides of a pair lie in one pack, and the prompt that they share is computed once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{ResponseBatch, ResponseDataset};
use truing_eval::reward::{Normalisation, ScoreNormaliser, diagnose, pair_accuracies};
use truing_model::{Engine, HeadOutput};
use truing_run::samples::{Compared, ResponseOptions};
use truing_run::{Ended, RunError, model};
use truing_train::{MseDenominator, Reward, RewardPack, RewardPair};
use truing_types::{BatchError, StageName};

use crate::responses::ResponseInputs;
use crate::training::setup::Opened;
use crate::training::{
    self, DecoderStage, EvaluationFindings, Split, TrainingConfig, TrainingPlan, Workload,
};
use crate::{PlanContext, RunContext, StageError, TrainedModel};

/// The table `[reward_model]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewardModelConfig {
    /// Weight of the squared error to absolute scores (alpha of Eq. 1; the report states no value). 0 is plain
    /// Bradley-Terry.
    pub mse_coefficient: f64,
    /// Denominator of the squared error.
    pub mse_denominator: MseOver,
    /// Weight of the squared sum of a pair's rewards, which keeps their mean near 0 (TRL's key).
    pub center_rewards_coefficient: f64,
    /// Use the margins of the rows.
    pub use_margins: bool,
    /// Normalisation of absolute scores, for each source. It is saved with the model.
    pub score_normaliser: Normalisation,
    /// Compute a score as the weighted sum of several aspects, for instance `{ helpfulness = 0.7, correctness = 0.3 }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aspect_weights: BTreeMap<String, f64>,
    /// Pairs that are made of a ranking.
    pub compared: Compared,
    /// Maximum responses per prompt. A random sample is used if there are more. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_responses: Option<usize>,
}

/// What the squared error is a mean over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MseOver {
    /// The number of pairs, as in Eq. 1. A response counts in each of its pairs, k - 1 times in a ranking of k.
    #[default]
    Pairs,
    /// The number of responses that have a score.
    Scored,
}

impl Default for RewardModelConfig {
    fn default() -> Self {
        Self {
            mse_coefficient: 0.1,
            mse_denominator: MseOver::default(),
            center_rewards_coefficient: 0.0,
            use_margins: true,
            score_normaliser: Normalisation::default(),
            aspect_weights: BTreeMap::new(),
            compared: Compared::All,
            max_responses: None,
        }
    }
}

impl RewardModelConfig {
    fn objective(&self) -> Reward {
        Reward {
            mse_coefficient: self.mse_coefficient,
            centring_coefficient: self.center_rewards_coefficient,
            mse_denominator: match self.mse_denominator {
                MseOver::Pairs => MseDenominator::AllPairs,
                MseOver::Scored => MseDenominator::Scored,
            },
        }
    }

    fn check(&self) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        match self {
            c if !not_negative(c.mse_coefficient) => {
                bad("reward_model.mse_coefficient", c.mse_coefficient.to_string(), "0 or more")
            }
            c if !not_negative(c.center_rewards_coefficient) => {
                let found = c.center_rewards_coefficient.to_string();
                bad("reward_model.center_rewards_coefficient", found, "0 or more")
            }
            Self { max_responses: Some(most), .. } if *most < 2 => bad(
                "reward_model.max_responses",
                most.to_string(),
                "at least 2: a comparison needs two responses",
            ),
            c if c.aspect_weights.values().any(|weight| !weight.is_finite()) => {
                bad("reward_model.aspect_weights", "not finite".into(), "numbers")
            }
            _ => Ok(()),
        }
    }
}

/// Training of a reward model. `stop` is looked at after every pack.
#[derive(Debug)]
pub struct RewardModelStage;

impl DecoderStage for RewardModelStage {
    const NAME: StageName = StageName::RewardModel;
    type Inputs = ResponseInputs;

    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<ResponseInputs, StageError> {
        config.check_stage(StageName::RewardModel)?;
        let settings = config.reward_model.clone().unwrap_or_default();
        settings.check()?;
        let responses = ResponseOptions {
            single_verdicts: false,
            compared: settings.compared,
            max_responses: settings.max_responses,
            keep_scored: settings.mse_coefficient > 0.0,
            aspect_weights: settings.aspect_weights.into_iter().collect(),
            seed: config.seed,
        };
        let render = context.render.clone();
        let mut inputs = ResponseInputs::load(config, Opened::AnyHead, &responses, render, context.events)?;
        inputs.model = inputs.model.with_score_head();
        let is_adapter = config.saves_adapter();
        model::warn_without_padding(&inputs.model, &inputs.renderer, is_adapter, context.events);
        Ok(inputs)
    }

    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &ResponseInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        let settings = plan.config.reward_model.clone().unwrap_or_default();
        let workload = RewardModel {
            objective: settings.objective(),
            normaliser: ScoreNormaliser::fit(settings.score_normaliser, &inputs.train),
            settings,
        };
        training::run::<E, _, _>(plan, inputs, workload, &mut context)
    }
}

struct RewardModel {
    settings: RewardModelConfig,
    objective: Reward,
    normaliser: ScoreNormaliser,
}

impl<E: Engine> Workload<E> for RewardModel {
    type Inputs = ResponseInputs;
    type Objective = Reward;

    fn objective(&self) -> &Reward {
        &self.objective
    }

    fn pack(
        &mut self,
        data: &ResponseDataset,
        _side: Split,
        samples: &[u32],
    ) -> Result<RewardPack, BatchError> {
        let ResponseBatch { batch, sequences } = data.batch(samples)?;
        let (mut pairs, mut scores): (Vec<RewardPair>, Vec<Option<f32>>) = Default::default();
        for &sample in samples {
            let group = &data.groups()[sample as usize];
            let source = data.source_of(sample as usize).map_or("", |source| &*source.name);
            let worst = group.responses.iter().map(|response| response.rank).max().unwrap_or(0);
            let margin = if self.settings.use_margins { group.margin.unwrap_or(0.0) } else { 0.0 };
            for (better, worse) in group.pairs() {
                // A row's margin is between its best and its worst.
                let n_ranks = group.responses[worse].rank - group.responses[better].rank;
                let share = f64::from(n_ranks) / f64::from(worst.max(1));
                let first = scores.len();
                pairs.push(RewardPair {
                    chosen: first + better,
                    rejected: first + worse,
                    margin: (margin * share) as f32,
                });
            }
            let normalised = group
                .responses
                .iter()
                .map(|response| response.score.map(|score| self.normaliser.normalise(source, score) as f32));
            scores.extend(normalised);
        }
        Ok(RewardPack { batch, sequences, pairs, scores })
    }

    fn kept(&self, _pack: &RewardPack, output: &HeadOutput) -> Vec<f32> {
        output.scores.clone()
    }

    fn evaluation_findings(
        &self,
        data: &ResponseDataset,
        _loss: f64,
        answered: &[(Vec<u32>, Vec<f32>)],
    ) -> EvaluationFindings {
        let found = diagnose(data, answered, &self.normaliser);
        EvaluationFindings {
            metrics: found.metrics(),
            diagnostics: Some(found),
            held_out: Some(pair_accuracies(data, answered)),
            ..EvaluationFindings::default()
        }
    }

    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, StageError> {
        Ok(vec![(ScoreNormaliser::FILE_NAME.to_owned(), self.normaliser.to_json()?)])
    }
}
