//! Response reversal (report 4.1): a fine text becomes the response, and a model writes the prompt that it answers,
//! with the text's own properties as constraints.
//!
//! 1. The checker scores the text as a response; poor texts are dropped.
//! 2. Programs measure the text: which rules of [`truing_reward::constraints`] it fulfils, each as strictly as it can
//!    be. Up to `max_constraints` compatible ones are sampled, so that a prompt never demands what its response does
//!    not have.
//! 3. The writer writes the prompt. The checker, as an inspector, scores it and lists what is missing; a program adds
//!    the values that the prompt does not name, and whether it quotes the text. The writer writes it again until
//!    nothing is missing, at most `max_rounds` times.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_reward::checklist::numbered;
use truing_reward::constraints::{Constraint, ConstraintType, columns, draw_types};
use truing_run::RunError;
use truing_run::checks::require_counts;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::Asking;
use super::bounds::{require_bounded, require_scores};
use super::builder::{BuilderInfo, Built, BuiltRow, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::constraints::{locale_of, missing_values, recheck_constraints};
use super::inputs::SeedRow;
use super::prompt_writing::{Draft, PromptWriting, quotes, unit_of_text};
use super::texts::{PromptText, prompt_text};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "reversal",
    about: "prompts for given texts, with the texts' own properties as constraints",
    seeds: "texts (`text`, or another field by `columns = { prompt = \"body\" }`)",
    asks: "the checker to score texts and to inspect prompts, the writer to write prompts",
    works_without_data: false,
    prepare,
};

const REVERSE: PromptText = prompt_text!("reverse");
const REVERSE_AGAIN: PromptText = prompt_text!("reverse_again");
const INSPECT: PromptText = prompt_text!("inspect");

/// The table `[reversal]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReversalConfig {
    /// Shorter texts are dropped.
    pub min_characters: usize,
    /// Minimum score of a text as a response, from 1 to 10. 1 asks for no score.
    pub min_quality: f64,
    /// Maximum measured properties that a prompt demands.
    pub max_constraints: usize,
    /// Minimum score of a prompt, from 1 to 10, besides that nothing is missing.
    pub min_score: f64,
    /// Maximum times that a prompt is written.
    pub max_rounds: usize,
}

impl Default for ReversalConfig {
    fn default() -> Self {
        Self { min_characters: 200, min_quality: 7.0, max_constraints: 3, min_score: 8.0, max_rounds: 3 }
    }
}

impl ReversalConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(super) fn check(&self) -> Result<(), RunError> {
        require_counts([("reversal.max_rounds", self.max_rounds)])?;
        require_bounded([
            ("reversal.max_rounds", self.max_rounds),
            ("reversal.max_constraints", self.max_constraints),
        ])?;
        require_scores([("reversal.min_quality", self.min_quality), ("reversal.min_score", self.min_score)])
    }
}

/// Units with the measured properties of each.
#[derive(Debug)]
struct ReversalJob {
    settings: ReversalConfig,
    units: Vec<Unit>,
    constraints: Vec<Vec<Constraint>>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.reversal.clone().unwrap_or_default();
    settings.check()?;
    let (mut units, mut constraints) = (Vec::new(), Vec::new());
    for (place, seed) in seeds.iter().enumerate() {
        let reason = "shorter than `reversal.min_characters`";
        let mut unit = unit_of_text(seed, settings.min_characters, reason);
        let measured = match unit.dropped {
            Some(_) => Vec::new(),
            None => measure(seed, settings.max_constraints, Seed(config.seed), place),
        };
        unit.kinds = measured.iter().map(|constraint| constraint.id.clone()).collect();
        units.push(unit);
        constraints.push(measured);
    }
    Ok(Box::new(ReversalJob { settings, units, constraints }))
}

/// Samples up to `n` compatible constraints that a text fulfils.
fn measure(seed: &SeedRow, n: usize, run: Seed, place: usize) -> Vec<Constraint> {
    let locale = locale_of(seed.language);
    let mut generator = run.generator("reversal", &[place as u64]);
    let mut below = |n: usize| (generator.next_u64() % n.max(1) as u64) as usize;
    let measured: Vec<(&'static ConstraintType, Constraint)> = ConstraintType::of(locale)
        .filter_map(|of_type| Some((of_type, of_type.measured(&seed.text, locale, &mut below)?)))
        .collect();
    let types: Vec<&'static ConstraintType> = measured.iter().map(|(of_type, _)| *of_type).collect();
    let drawn = draw_types(&types, n, false, &BTreeMap::new(), &mut below);
    let is_drawn = |of_type: &ConstraintType| drawn.iter().any(|one| one.id == of_type.id);
    measured.into_iter().filter(|(of_type, _)| is_drawn(of_type)).map(|(_, constraint)| constraint).collect()
}

impl ReversalJob {
    fn properties(&self, idx: usize) -> String {
        numbered(self.constraints[idx].iter().map(|constraint| constraint.text.as_str()))
    }

    fn row(&self, idx: usize, draft: &Draft) -> BuiltRow {
        let unit = &self.units[idx];
        let mut columns = columns(&self.constraints[idx]);
        columns.insert("language".into(), json!(unit.language));
        columns.extend(draft.quality.map(|quality| ("quality".to_owned(), json!(quality))));
        columns.insert("prompt_score".into(), json!(draft.score));
        columns.insert("n_rounds".into(), json!(draft.n_rounds));
        BuiltRow {
            prompt: draft.prompt.clone(),
            response: Some(draft.response.clone()),
            columns,
            ..BuiltRow::default()
        }
    }
}

impl PromptWriting for ReversalJob {
    const STEP: &'static str = "reversal";
    const PHASES: [&'static str; 2] = ["writing prompts", "inspecting prompts"];

    fn prompt_question(&self, idx: usize, draft: &Draft) -> String {
        let unit = &self.units[idx];
        let missing = numbered(draft.problems.iter().flatten().map(String::as_str));
        let values = [
            ("{text}", unit.text.as_str()),
            ("{constraints}", &self.properties(idx)),
            ("{prompt}", &draft.prompt),
            ("{missing}", &missing),
        ];
        let text = if draft.problems.is_some() { REVERSE_AGAIN } else { REVERSE };
        text.fill(unit.language, &values)
    }

    fn inspection_question(&self, idx: usize, draft: &Draft) -> String {
        let unit = &self.units[idx];
        let values = [
            ("{text}", unit.text.as_str()),
            ("{constraints}", &self.properties(idx)),
            ("{prompt}", &draft.prompt),
        ];
        INSPECT.fill(unit.language, &values)
    }

    /// What the inspector lists, and what a program finds, in the language of the prompt.
    fn problems(&self, idx: usize, draft: &Draft, listed: &[String]) -> Vec<String> {
        let (unit, prompt, score) = (&self.units[idx], &draft.prompt, draft.score);
        let mut problems = listed.to_vec();
        let unnamed = missing_values(&self.constraints[idx], prompt, unit.language);
        let is_chinese = unit.language == Language::Zh;
        if !unnamed.is_empty() {
            problems.push(match is_chinese {
                true => format!("提示词没有写明：{}", unnamed.join("、")),
                false => format!("The prompt does not name: {}", unnamed.join(", ")),
            });
        }
        if quotes(prompt, &unit.text) {
            let quoted =
                if is_chinese { "提示词引用了原文。" } else { "The prompt quotes the text." };
            problems.push(quoted.into());
        }
        if problems.is_empty() && score < self.settings.min_score {
            problems.push(match is_chinese {
                true => format!("提示词只得到{score}分，满分10分。"),
                false => format!("The prompt was given a score of {score} of 10."),
            });
        }
        problems
    }
}

impl Job for ReversalJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let ReversalConfig { min_quality, max_rounds, .. } = self.settings;
        let open: Vec<usize> = Fates::of(&self.units).open();
        // The prompts themselves are not known; their tokens are those of the completions.
        let draft = |_| Draft { problems: Some(Vec::new()), ..Draft::default() };
        let scoring = self.scoring_calls(min_quality, &open).into_iter();
        scoring.chain(self.prompt_calls(max_rounds, &open, draft)).collect()
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let ReversalConfig { min_quality, max_rounds, .. } = self.settings;
        let mut fates = Fates::of(&self.units);
        let reason = "the text's score is below `reversal.min_quality`";
        let mut drafts = self.begin(min_quality, reason, asking, &mut fates)?;
        self.write_prompts(max_rounds, &mut drafts, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        let reason = "the prompt is still incomplete after `reversal.max_rounds`";
        Ok(Some(fates.finish(|idx| Ok(self.row(idx, Self::finished(&drafts[idx], reason)?)))))
    }

    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        recheck_constraints(record)?;
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        match quotes(text("prompt"), text("response")) {
            true => Err("the prompt quotes thirteen words of the text".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_run::PromptSource;

    const TEXT: &str = "Bees find flowers by colour and by scent. A bee that has found many flowers flies home and \
        dances. The dance shows the others where the flowers are.\n\n* The angle shows the direction.\n\
        * The length shows the distance.\n";

    fn seed(text: &str) -> SeedRow {
        SeedRow {
            text: text.into(),
            language: Language::of(text),
            columns: Map::new(),
            kept: Map::new(),
            source: PromptSource { path: "texts.jsonl".into(), line: 1 },
            dropped: None,
        }
    }

    #[test]
    fn a_text_is_asked_for_what_it_has() {
        let measured = measure(&seed(TEXT), 20, Seed(1), 0);
        let ids: Vec<&str> = measured.iter().map(|one| one.id.as_str()).collect();
        assert!(ids.contains(&"format.bullets") && ids.contains(&"language.no_comma"), "{ids:?}");
        assert!(measured.iter().all(|constraint| constraint.is_followed_by(TEXT) == Some(true)));
        let bullets = measured.iter().find(|constraint| constraint.id == "format.bullets").unwrap();
        assert_eq!(bullets.args["num_bullets"], 2);
        assert_eq!(measure(&seed(TEXT), 2, Seed(1), 0).len(), 2);
    }

    #[test]
    fn problems_are_in_the_language_of_the_prompt() {
        let problems = |text: &str, prompt: &str, score: f64| {
            let constraint = ConstraintType::find("format.bullets").unwrap();
            let seed = seed(text);
            let constraint = constraint.sample(locale_of(seed.language), &mut |_| 0);
            let (units, constraints) = (vec![seed.unit(Vec::new())], vec![vec![constraint]]);
            let job = ReversalJob { settings: ReversalConfig::default(), units, constraints };
            job.problems(0, &Draft { prompt: prompt.into(), score, ..Draft::default() }, &[])
        };
        let chinese = "蜜蜂靠颜色和气味找到花。";
        assert_eq!(problems(chinese, "请介绍蜜蜂。", 9.0), ["提示词没有写明：2"]);
        assert_eq!(problems(chinese, "请用2个要点介绍蜜蜂。", 5.0), ["提示词只得到5分，满分10分。"]);
        let quoting =
            "2 points: A bee that has found many flowers flies home and dances. The dance shows more.";
        assert_eq!(problems(TEXT, quoting, 9.0), ["The prompt quotes the text."]);
        assert_eq!(problems(TEXT, "Explain bees in bullets.", 9.0), ["The prompt does not name: 2"]);
        assert!(problems(TEXT, "Explain bees in 2 bullets.", 9.0).is_empty());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let default = ReversalConfig::default;
        assert!(default().check().is_ok());
        let error = ReversalConfig { min_score: 11.0, ..default() }.check().unwrap_err().to_string();
        assert_eq!(error, "`reversal.min_score` is 11: expected a score from 1 to 10");
        assert!(ReversalConfig { max_rounds: 0, ..default() }.check().is_err());
    }
}
