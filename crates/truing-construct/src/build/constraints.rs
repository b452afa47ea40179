//! Constraint expansion (report 4.1): constraints are added to prompts, so that a model learns to follow many at once.
//!
//! 1. Types are sampled so that all come up about as often, compatible ones only; values and wordings too
//!    ([`truing_reward::constraints`]).
//! 2. The writer puts the constraints into the prompt in its own words, or they are appended as they are.
//! 3. The checker says whether each is there and whether all make sense for the task; a program, whether each value
//!    of a rule is named.
//! 4. The writer answers, up to `responses` times, until a response fulfils every constraint: by rule where there is
//!    one, by the checker's answers to the checklist otherwise.
//!
//! A validated prompt is a row for `truing grpo` (rewards `ifeval` and `judge` with `protocol = "checklist"`),
//! whether it has a response or not; with one it is a row for `truing sft` too.

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_reward::checklist::{numbered, read_verdicts};
use truing_reward::constraints::{Constraint, ConstraintGroup, ConstraintType, columns, draw_types};
use truing_reward::verifiers::ifeval::{Locale, Mode, check_row};
use truing_run::RunError;
use truing_run::checks::require_counts;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::bounds::require_bounded;
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::responding::{Prompt, Response, VERDICTS, questions_of, respond};
use super::texts::{PromptText, prompt_text, tagged};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "constraints",
    about: "prompts with constraints that programs and checklists check, and responses that fulfil them",
    seeds: "prompts",
    asks: "the writer to add constraints and to answer, the checker to validate both",
    works_without_data: false,
    prepare,
};

const ADD: PromptText = prompt_text!("add_constraints");
const VALIDATE: PromptText = prompt_text!("validate_constraints");

const PROMPT: (&str, &str) = (
    "a prompt",
    "Your reply does not have the new prompt between <prompt> and </prompt>. Write only that, with the tags.",
);
/// The table `[constraints]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConstraintsConfig {
    /// Maximum constraints of a prompt. Each number from 1 comes up equally often.
    pub max_constraints: usize,
    /// Groups that types are sampled from: `length`, `format`, `content`, `language`, `position`, `structure`, `style`,
    /// `persona`. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ConstraintGroup>,
    /// Types that are not sampled, for instance `["format.json"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether each prompt has at least one constraint that a program checks, so that the reward `ifeval` can score it.
    pub with_rule: bool,
    /// Whether the writer puts the constraints into the prompt. If false, their sentences are appended.
    pub rephrase: bool,
    /// Whether the checker validates the prompts.
    pub validate: bool,
    /// Maximum responses of the writer to a prompt. 0 makes prompts alone.
    pub responses: usize,
}

impl Default for ConstraintsConfig {
    fn default() -> Self {
        Self {
            max_constraints: 4,
            groups: Vec::new(),
            exclude: Vec::new(),
            with_rule: true,
            rephrase: true,
            validate: true,
            responses: 3,
        }
    }
}

impl ConstraintsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid, or no type is left to be sampled.
    pub(super) fn check(&self) -> Result<(), RunError> {
        require_counts([("constraints.max_constraints", self.max_constraints)])?;
        require_bounded([
            ("constraints.max_constraints", self.max_constraints),
            ("constraints.responses", self.responses),
        ])?;
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() })
        };
        if let Some(unknown) = self.exclude.iter().find(|id| ConstraintType::find(id).is_none()) {
            let known: Vec<&str> = ConstraintType::all().map(|of_type| of_type.id).collect();
            return bad(
                "constraints.exclude",
                format!("`{unknown}`"),
                &format!("one of {}", known.join(", ")),
            );
        }
        let is_left =
            |locale| self.allowed(locale).iter().any(|of_type| !self.with_rule || of_type.is_rule());
        if ![Locale::En, Locale::Zh].into_iter().all(is_left) {
            let expected =
                "groups with a type that is left in both languages (one for programs, if `with_rule` is set)";
            return bad("constraints.groups", format!("{:?}", self.groups), expected);
        }
        Ok(())
    }

    /// The types that may be sampled.
    fn allowed(&self, locale: Locale) -> Vec<&'static ConstraintType> {
        let is_allowed = |of_type: &&'static ConstraintType| {
            (self.groups.is_empty() || self.groups.contains(&of_type.group))
                && !self.exclude.iter().any(|id| id == of_type.id)
        };
        ConstraintType::of(locale).filter(is_allowed).collect()
    }
}

/// The language of the rules for a prompt.
pub(super) fn locale_of(language: Language) -> Locale {
    match language {
        Language::En => Locale::En,
        Language::Zh => Locale::Zh,
    }
}

/// Units with the constraints that were sampled for each.
#[derive(Debug)]
struct ConstraintsJob {
    settings: ConstraintsConfig,
    units: Vec<Unit>,
    constraints: Vec<Vec<Constraint>>,
    targets: BTreeMap<String, usize>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.constraints.clone().unwrap_or_default();
    settings.check()?;
    if settings.responses > 1 {
        config.require_sampling(
            "above 0, or `constraints.responses` of 1: without sampling, every response is the same",
        )?;
    }
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut units, mut constraints) = (Vec::new(), Vec::new());
    for (place, seed) in seeds.iter().enumerate() {
        let drawn = match seed.dropped {
            Some(_) => Vec::new(),
            None => draw(&settings, Seed(config.seed), place, seed.language, &mut counts),
        };
        units.push(seed.unit(drawn.iter().map(|constraint| constraint.id.clone()).collect()));
        constraints.push(drawn);
    }
    let targets = targets(&settings, &units);
    Ok(Box::new(ConstraintsJob { settings, units, constraints, targets }))
}

/// Draws the constraints of one prompt; `counts` has how often each type came up.
pub(super) fn draw(
    settings: &ConstraintsConfig,
    seed: Seed,
    place: usize,
    language: Language,
    counts: &mut BTreeMap<&'static str, usize>,
) -> Vec<Constraint> {
    let locale = locale_of(language);
    let mut generator = seed.generator("constraints", &[place as u64]);
    let mut below = |n: usize| (generator.next_u64() % n.max(1) as u64) as usize;
    let n = 1 + below(settings.max_constraints);
    let types = draw_types(&settings.allowed(locale), n, settings.with_rule, counts, &mut below);
    types.iter().for_each(|of_type| *counts.entry(of_type.id).or_default() += 1);
    types.into_iter().map(|of_type| of_type.sample(locale, &mut below)).collect()
}

/// Every type that may be sampled, with an equal share of all constraints.
fn targets(settings: &ConstraintsConfig, units: &[Unit]) -> BTreeMap<String, usize> {
    let n_constraints: usize = units.iter().map(|unit| unit.kinds.len()).sum();
    let has = |language| units.iter().any(|unit| unit.dropped.is_none() && unit.language == language);
    let languages = [Language::En, Language::Zh].into_iter().filter(|&language| has(language));
    let mut ids: Vec<&str> =
        languages.flat_map(|language| settings.allowed(locale_of(language))).map(|one| one.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let share = n_constraints / ids.len().max(1);
    ids.into_iter().map(|id| (id.to_owned(), share)).collect()
}

impl ConstraintsJob {
    fn sentences(&self, idx: usize) -> String {
        numbered(self.constraints[idx].iter().map(|constraint| constraint.text.as_str()))
    }

    fn add_question(&self, idx: usize) -> String {
        let unit = &self.units[idx];
        let values = [("{prompt}", unit.text.as_str()), ("{constraints}", &self.sentences(idx))];
        ADD.fill(unit.language, &values)
    }

    fn validate_question(&self, idx: usize, prompt: &str) -> String {
        let unit = &self.units[idx];
        let n_questions = (self.constraints[idx].len() + 1).to_string();
        let values = [
            ("{original}", unit.text.as_str()),
            ("{prompt}", prompt),
            ("{constraints}", &self.sentences(idx)),
            ("{n_questions}", &n_questions),
        ];
        VALIDATE.fill(unit.language, &values)
    }

    /// Prompts with constraints; empty where a unit was dropped.
    fn write_prompts(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<String>, StageError> {
        let mut prompts = vec![String::new(); self.units.len()];
        let places = fates.open();
        if !self.settings.rephrase {
            for idx in places {
                let separator = if self.units[idx].language == Language::Zh { "" } else { " " };
                let texts: Vec<&str> =
                    self.constraints[idx].iter().map(|constraint| constraint.text.as_str()).collect();
                prompts[idx] = format!("{}\n\n{}", self.units[idx].text, texts.join(separator));
            }
            return Ok(prompts);
        }
        let question = |&idx: &usize| Question::new(self.add_question(idx), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "prompt").map(str::to_owned);
        let answers = asking.write("adding constraints to prompts", questions, PROMPT, read)?;
        fates.take("constraints", &places, answers, |idx, prompt| {
            prompts[idx] = prompt;
            Ok(())
        });
        Ok(prompts)
    }

    /// Drops prompts that lack a constraint or a value, or whose constraints make no sense for the task.
    fn validate(
        &self,
        prompts: &[String],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        const STEP: &str = "validation";
        for idx in fates.open() {
            let missing = missing_values(&self.constraints[idx], &prompts[idx], self.units[idx].language);
            if !missing.is_empty() {
                let dropped = Dropped::new(STEP, "the prompt does not name every value of its constraints");
                fates.drop_unit(idx, dropped.with_detail(missing.join(", ")));
            }
        }
        if !self.settings.validate {
            return Ok(());
        }
        let places = fates.open();
        let texts = places.iter().map(|&idx| self.validate_question(idx, &prompts[idx])).collect();
        let read = |at: usize, reply: &str| read_verdicts(reply, self.constraints[places[at]].len() + 1);
        let answers = asking.check("validating prompts", texts, VERDICTS, read)?;
        fates.take(STEP, &places, answers, |idx, verdicts| {
            let absent = self.constraints[idx].iter().zip(&verdicts).filter(|(_, is_there)| !**is_there);
            let absent: Vec<&str> = absent.map(|(constraint, _)| constraint.id.as_str()).collect();
            if !absent.is_empty() {
                let dropped = Dropped::new(STEP, "the checker does not find every constraint in the prompt");
                return Err(dropped.with_detail(absent.join(", ")));
            }
            match verdicts.last() {
                Some(true) => Ok(()),
                _ => Err(Dropped::new(STEP, "the checker finds that the constraints do not suit the task")),
            }
        });
        Ok(())
    }

    /// What is answered, and what its response has to fulfil.
    fn prompt<'a>(&'a self, idx: usize, text: &'a str) -> Prompt<'a> {
        Prompt { system: None, text, constraints: &self.constraints[idx] }
    }

    fn row(&self, idx: usize, prompt: &str, response: Response) -> BuiltRow {
        let mut columns = columns(&self.constraints[idx]);
        columns.insert("language".into(), json!(self.units[idx].language));
        columns.insert("seed_prompt".into(), json!(self.units[idx].text));
        let (response, no_response) = match response {
            Ok(response) => (Some(response), None),
            Err(reason) => (None, Some(reason)),
        };
        let prompt = prompt.to_owned();
        BuiltRow { prompt, response, no_response, has_reward_columns: true, columns, ..BuiltRow::default() }
    }
}

/// Values of rules that a prompt does not name.
pub(super) fn missing_values(constraints: &[Constraint], prompt: &str, language: Language) -> Vec<String> {
    constraints.iter().flat_map(|one| one.missing_args(prompt, locale_of(language))).collect()
}

/// The constraints of a row, as they were written.
pub(super) fn constraints_of(record: &Map<String, Value>) -> Result<Vec<Constraint>, String> {
    let written = record.get("constraints").cloned().unwrap_or_default();
    serde_json::from_value(written).map_err(|error| format!("`constraints` cannot be read: {error}"))
}

/// Checks a row with constraints: every value of a rule is named in the prompt, no two types conflict, and a response
/// follows every rule.
pub(super) fn recheck_constraints(record: &Map<String, Value>) -> Result<(), String> {
    let constraints = constraints_of(record)?;
    let prompt = record.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let language = match record.get("language").and_then(Value::as_str) {
        Some("zh") => Language::Zh,
        Some(_) => Language::En,
        None => Language::of(prompt),
    };
    let missing = missing_values(&constraints, prompt, language);
    if !missing.is_empty() {
        return Err(format!("the prompt does not name {}", missing.join(", ")));
    }
    let types: Vec<&ConstraintType> =
        constraints.iter().filter_map(|constraint| ConstraintType::find(&constraint.id)).collect();
    if types.len() < constraints.len() {
        return Err("a constraint is of an unknown type".into());
    }
    for (i, one) in types.iter().enumerate() {
        if let Some(other) = types[..i].iter().find(|other| other.conflicts_with(one)) {
            return Err(format!("`{}` conflicts with `{}`", other.id, one.id));
        }
    }
    let has_rules = constraints.iter().any(Constraint::is_rule);
    let Some(response) = record.get("response").and_then(Value::as_str).filter(|_| has_rules) else {
        return Ok(());
    };
    let verdicts = check_row(record, response, Mode::Strict).map_err(|error| error.to_string())?;
    match verdicts.iter().find(|(_, is_followed)| !is_followed) {
        Some((id, _)) => Err(format!("the response does not follow `{id}`")),
        None => Ok(()),
    }
}

impl Job for ConstraintsJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn targets(&self) -> BTreeMap<String, usize> {
        self.targets.clone()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let n = open.len() as u64;
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        let length = |idx: usize| self.units[idx].text.len() + self.sentences(idx).len();
        let has_questions = |idx: usize| usize::from(!questions_of(&self.constraints[idx]).is_empty());
        let rounds = self.settings.responses as u64;
        let mut calls = Vec::new();
        let mut add = |step, n_calls, max_calls, prompt_bytes| {
            if max_calls > 0 {
                calls.push(PlannedCalls { step, n_calls, max_calls, prompt_bytes });
            }
        };
        if self.settings.rephrase {
            add("adding constraints", n, n, sum(&|idx| self.add_question(idx).len()));
        }
        if self.settings.validate {
            let bytes = sum(&|idx| self.validate_question(idx, "").len() + length(idx));
            add("validating prompts", n, n, bytes);
        }
        let most = n.saturating_mul(rounds);
        add("answering", n.min(most), most, rounds.saturating_mul(sum(&length)));
        let n_checked = sum(&has_questions);
        // The response is not known; its tokens are those of the completions.
        let bytes = sum(&|idx| has_questions(idx) * (self.prompt(idx, "").checklist("").len() + length(idx)));
        let most = n_checked.saturating_mul(rounds);
        add("checking responses", n_checked.min(most), most, rounds.saturating_mul(bytes));
        calls
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let prompts = self.write_prompts(asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.validate(&prompts, asking, &mut fates)?;
        let places = 0..self.units.len();
        let asked: Vec<Prompt<'_>> = places.map(|idx| self.prompt(idx, &prompts[idx])).collect();
        let Some(responses) = respond(&asked, self.settings.responses, &fates, asking)? else {
            return Ok(None);
        };
        Ok(Some(fates.finish(|idx| Ok(self.row(idx, &prompts[idx], responses[idx].clone())))))
    }

    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        recheck_constraints(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_leave_no_type_are_refused() {
        let check = |config: ConstraintsConfig| config.check().map_err(|error| error.to_string());
        let default = ConstraintsConfig::default;
        assert_eq!(check(default()), Ok(()));
        let style = ConstraintsConfig { groups: vec![ConstraintGroup::Style], ..default() };
        let error = check(style.clone()).unwrap_err();
        assert!(error.starts_with("`constraints.groups` is [Style]"), "{error}");
        assert_eq!(check(ConstraintsConfig { with_rule: false, ..style }), Ok(()));
        let error = check(ConstraintsConfig { exclude: vec!["format.jsn".into()], ..default() }).unwrap_err();
        assert!(error.contains("`format.jsn`") && error.contains("format.json"), "{error}");
        assert!(check(ConstraintsConfig { max_constraints: 0, ..default() }).is_err());
        let error = check(ConstraintsConfig { responses: 1001, ..default() }).unwrap_err();
        assert_eq!(error, "`constraints.responses` is 1001: expected at most 1000");
    }

    #[test]
    fn the_check_of_a_row_finds_what_is_wrong() {
        let mut draw = |_: usize| 0;
        let of = |id: &str| ConstraintType::find(id).unwrap();
        let bullets = of("format.bullets").sample(Locale::En, &mut draw);
        let row = |constraints: &[Constraint], prompt: &str, response: &str| {
            let row = BuiltRow {
                prompt: prompt.into(),
                response: Some(response.into()),
                has_reward_columns: true,
                columns: columns(constraints),
                ..BuiltRow::default()
            };
            recheck_constraints(&row.record())
        };
        let one = std::slice::from_ref(&bullets);
        assert_eq!(row(one, "Name fruits in 2 bullet points.", "* fig\n* plum"), Ok(()));
        let error = row(one, "Name fruits in 2 bullet points.", "* fig").unwrap_err();
        assert_eq!(error, "the response does not follow `detectable_format:number_bullet_lists`");
        let error = row(one, "Name fruits in bullet points.", "* fig\n* plum").unwrap_err();
        assert_eq!(error, "the prompt does not name 2");
        let table = of("format.table").sample(Locale::En, &mut draw);
        let error =
            row(&[bullets.clone(), table], "Use 2 bullets and a table.", "* fig\n* plum").unwrap_err();
        assert_eq!(error, "`format.bullets` conflicts with `format.table`");
        let unknown = Constraint { id: "format.rhyme".into(), ..bullets };
        assert_eq!(row(&[unknown], "2", "x").unwrap_err(), "a constraint is of an unknown type");
    }
}
