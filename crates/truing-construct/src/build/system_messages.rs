//! System messages (report 4.1): instructions that hold for a whole conversation, made of components, with
//! constraints among them.
//!
//! 1. A kind of assistant and constraints are sampled for each seed prompt, kinds and types about equally often.
//! 2. The writer writes the components: task, workflow, output, rules (the constraints embedded in them) and an
//!    opening. They are put together in this order, in one of a few layouts.
//! 3. The writer evolves the message `evolutions` times: more specific, without contradictions.
//! 4. The checker filters: is each part there, is each constraint demanded, does nothing contradict, can the seed
//!    prompt be answered under it? A program looks for the rules' values.
//! 5. The writer answers the seed prompt under the message, as in [`super::constraints`].

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use truing_ask::pas::Language;
use truing_reward::checklist::{numbered, read_verdicts};
use truing_reward::constraints::{Constraint, ConstraintGroup, columns};
use truing_run::RunError;
use truing_run::checks::require_given;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::bounds::require_bounded;
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::constraints::{ConstraintsConfig, draw, missing_values, recheck_constraints};
use super::inputs::SeedRow;
use super::responding::{Prompt, Response, VERDICTS, questions_of, respond};
use super::texts::{PromptText, prompt_text, tagged};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "system_messages",
    about: "system messages of components with constraints, and responses that keep to them",
    seeds: "prompts of users",
    asks: "the writer to write and evolve messages and to answer, the checker to filter and to check",
    works_without_data: false,
    prepare,
};

const WRITE: PromptText = prompt_text!("write_system");
const EVOLVE: PromptText = prompt_text!("evolve_system");
const FILTER: PromptText = prompt_text!("filter_system");

/// The components, by their tags, in their order.
const COMPONENTS: [&str; 5] = ["task", "workflow", "output", "rules", "opening"];
/// Headings of the components in a message with headings.
const HEADINGS: [[&str; 5]; 2] = [
    ["Task", "How to proceed", "Output", "Rules", "Opening"],
    ["任务", "工作流程", "输出要求", "规则", "开场"],
];
/// Questions of the filter that are the same for every message: those of `filter_system`.
const N_FIXED_QUESTIONS: usize = 4;

const PARTS: (&str, &str) = (
    "the five components",
    "Your reply lacks a component. Write all five between their tags: <task>, <workflow>, <output>, <rules>, \
     <opening>.",
);
const MESSAGE: (&str, &str) = (
    "a system message",
    "Your reply does not have the message between <system> and </system>. Write only that, with the tags.",
);

/// A kind of assistant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SystemKind {
    /// A person or figure that the assistant plays.
    RolePlay,
    /// A service with a procedure of several steps.
    Workflow,
    /// A tool whose output other programs or forms take.
    OutputForm,
    /// A service with rules on what it must not do or reveal.
    Safety,
}

impl SystemKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::RolePlay, Self::Workflow, Self::OutputForm, Self::Safety];

    fn code(self) -> &'static str {
        ["role_play", "workflow", "output_form", "safety"][self as usize]
    }

    fn about(self, language: Language) -> &'static str {
        let about = match language {
            Language::En => [
                "a person or figure that the assistant plays throughout",
                "a service that works through a procedure of several steps",
                "a tool whose replies have a fixed form, because people or programs process them further",
                "a service with rules on what it must refuse, must not reveal, and says instead",
            ],
            Language::Zh => [
                "助手始终扮演的一个人物或角色",
                "按若干步骤的流程办事的服务",
                "回复有固定形式、供人或程序进一步处理的工具",
                "对拒绝什么、不透露什么、改说什么有明确规定的服务",
            ],
        };
        about[self as usize]
    }
}

/// The table `[system_messages]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SystemMessagesConfig {
    /// Kinds of assistants: `role_play`, `workflow`, `output_form`, `safety`.
    pub kinds: Vec<SystemKind>,
    /// How often a message is evolved.
    pub evolutions: usize,
    /// Maximum constraints of a message. Each number from 1 comes up equally often.
    pub max_constraints: usize,
    /// Groups that types of constraints are sampled from. Default: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ConstraintGroup>,
    /// Types of constraints that are not sampled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether each message has at least one constraint that a program checks.
    pub with_rule: bool,
    /// Maximum responses of the writer to a prompt. 0 makes prompts alone.
    pub responses: usize,
}

impl Default for SystemMessagesConfig {
    fn default() -> Self {
        Self {
            kinds: SystemKind::ALL.to_vec(),
            evolutions: 1,
            max_constraints: 3,
            groups: Vec::new(),
            exclude: vec!["content.constrained_response".into(), "format.two_responses".into()],
            with_rule: true,
            responses: 3,
        }
    }
}

impl SystemMessagesConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid, or no type of constraint is left to be sampled.
    pub(super) fn check(&self) -> Result<(), RunError> {
        require_given(!self.kinds.is_empty(), "system_messages.kinds", "at least one kind")?;
        require_bounded([
            ("system_messages.evolutions", self.evolutions),
            ("system_messages.max_constraints", self.max_constraints),
            ("system_messages.responses", self.responses),
        ])?;
        self.of_constraints().check()
    }

    /// The settings of the constraints that are sampled.
    fn of_constraints(&self) -> ConstraintsConfig {
        ConstraintsConfig {
            max_constraints: self.max_constraints,
            groups: self.groups.clone(),
            exclude: self.exclude.clone(),
            with_rule: self.with_rule,
            ..ConstraintsConfig::default()
        }
    }
}

/// What is sampled for a unit.
#[derive(Debug)]
struct Drawn {
    kind: SystemKind,
    constraints: Vec<Constraint>,
    /// Whether the components have headings.
    has_headings: bool,
}

/// Units with what was sampled for each.
#[derive(Debug)]
struct SystemMessagesJob {
    settings: SystemMessagesConfig,
    units: Vec<Unit>,
    drawn: Vec<Drawn>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.system_messages.clone().unwrap_or_default();
    settings.check()?;
    if settings.responses > 1 {
        config.require_sampling(
            "above 0, or `system_messages.responses` of 1: without sampling, every response is the same",
        )?;
    }
    let (of_constraints, seed) = (settings.of_constraints(), Seed(config.seed));
    let (mut counts, mut n_begun) = (BTreeMap::new(), 0);
    let (mut units, mut drawn) = (Vec::new(), Vec::new());
    for (place, row) in seeds.iter().enumerate() {
        let kind = settings.kinds[n_begun % settings.kinds.len()];
        let constraints = match row.dropped {
            Some(_) => Vec::new(),
            None => draw(&of_constraints, seed, place, row.language, &mut counts),
        };
        n_begun += usize::from(row.dropped.is_none());
        let kinds =
            std::iter::once(kind.code().to_owned()).chain(constraints.iter().map(|one| one.id.clone()));
        units.push(row.unit(kinds.collect()));
        let has_headings = seed.generator("system layout", &[place as u64]).next_u64() % 2 == 1;
        drawn.push(Drawn { kind, constraints, has_headings });
    }
    Ok(Box::new(SystemMessagesJob { settings, units, drawn }))
}

/// Puts the components together.
fn assemble(components: &[String; 5], language: Language, has_headings: bool) -> String {
    let part = |(heading, text): (&&str, &String)| match has_headings {
        true => format!("## {heading}\n{text}"),
        false => text.clone(),
    };
    HEADINGS[language as usize].iter().zip(components).map(part).collect::<Vec<_>>().join("\n\n")
}

/// The components of a reply; `None` where one is missing.
fn read_components(reply: &str) -> Option<[String; 5]> {
    let texts: Vec<String> =
        COMPONENTS.iter().map(|tag| tagged(reply, tag).map(str::to_owned)).collect::<Option<_>>()?;
    texts.try_into().ok()
}

impl SystemMessagesJob {
    fn sentences(&self, idx: usize) -> String {
        numbered(self.drawn[idx].constraints.iter().map(|constraint| constraint.text.as_str()))
    }

    /// Fills a text about a message; `message` is empty before the first.
    fn question(&self, text: &PromptText, idx: usize, message: &str) -> String {
        let (unit, drawn) = (&self.units[idx], &self.drawn[idx]);
        let n_questions = (drawn.constraints.len() + N_FIXED_QUESTIONS).to_string();
        let values = [
            ("{kind}", drawn.kind.about(unit.language)),
            ("{prompt}", unit.text.as_str()),
            ("{constraints}", &self.sentences(idx)),
            ("{system}", message),
            ("{n_questions}", &n_questions),
        ];
        text.fill(unit.language, &values)
    }

    /// Messages of written components; empty where a unit was dropped.
    fn write(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<String>, StageError> {
        let mut messages = vec![String::new(); self.units.len()];
        let places = fates.open();
        let questions = places.iter().map(|&idx| Question::new(self.question(&WRITE, idx, ""), 0)).collect();
        let read = |_: usize, reply: &str| read_components(reply);
        let answers = asking.write("writing system messages", questions, PARTS, read)?;
        fates.take("components", &places, answers, |idx, components| {
            messages[idx] = assemble(&components, self.units[idx].language, self.drawn[idx].has_headings);
            Ok(())
        });
        Ok(messages)
    }

    /// Rewrites every message once.
    fn evolve(
        &self,
        messages: &mut [String],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let question = |&idx: &usize| Question::new(self.question(&EVOLVE, idx, &messages[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "system").map(str::to_owned);
        let answers = asking.write("evolving system messages", questions, MESSAGE, read)?;
        fates.take("evolution", &places, answers, |idx, message| {
            messages[idx] = message;
            Ok(())
        });
        Ok(())
    }

    /// Drops messages that lack a part, a constraint or a value, contradict themselves, or do not fit their prompt.
    fn filter(
        &self,
        messages: &[String],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        const STEP: &str = "filter";
        for idx in fates.open() {
            let missing =
                missing_values(&self.drawn[idx].constraints, &messages[idx], self.units[idx].language);
            if !missing.is_empty() {
                let dropped = Dropped::new(STEP, "the message does not name every value of its constraints");
                fates.drop_unit(idx, dropped.with_detail(missing.join(", ")));
            }
        }
        let places = fates.open();
        let texts = places.iter().map(|&idx| self.question(&FILTER, idx, &messages[idx])).collect();
        let n_questions = |at: usize| self.drawn[places[at]].constraints.len() + N_FIXED_QUESTIONS;
        let read = |at: usize, reply: &str| read_verdicts(reply, n_questions(at));
        let answers = asking.check("filtering system messages", texts, VERDICTS, read)?;
        fates.take(STEP, &places, answers, |_, verdicts| match verdicts.iter().position(|is_yes| !is_yes) {
            None => Ok(()),
            Some(first) => {
                let reason = match first {
                    0 => "a component is missing",
                    1 => "the message contradicts itself",
                    2 => "the prompt cannot be answered under the message",
                    3 => "the message answers the prompt, or is not about its kind of assistant",
                    _ => "the checker does not find every constraint in the message",
                };
                Err(Dropped::new(STEP, reason))
            }
        });
        Ok(())
    }

    fn row(&self, idx: usize, message: &str, response: Response) -> BuiltRow {
        let (unit, drawn) = (&self.units[idx], &self.drawn[idx]);
        let mut columns = columns(&drawn.constraints);
        columns.insert("language".into(), json!(unit.language));
        columns.insert("system_kind".into(), json!(drawn.kind));
        let (response, no_response) = match response {
            Ok(response) => (Some(response), None),
            Err(reason) => (None, Some(reason)),
        };
        BuiltRow {
            system: Some(message.to_owned()),
            prompt: unit.text.clone(),
            response,
            no_response,
            has_reward_columns: true,
            columns,
            ..BuiltRow::default()
        }
    }
}

impl Job for SystemMessagesJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The kinds of assistants equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        let kinds = &self.settings.kinds;
        let share = Fates::of(&self.units).open().len() / kinds.len();
        kinds.iter().map(|kind| (kind.code().to_owned(), share)).collect()
    }

    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let (n, evolutions, rounds) =
            (open.len() as u64, self.settings.evolutions as u64, self.settings.responses as u64);
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        // The messages are not known; their tokens are those of the completions.
        let bytes = |text: &PromptText| sum(&|idx| self.question(text, idx, "").len());
        let prompt = |idx: usize| Prompt {
            system: None,
            text: &self.units[idx].text,
            constraints: &self.drawn[idx].constraints,
        };
        let has_questions = |idx: usize| usize::from(!questions_of(&self.drawn[idx].constraints).is_empty());
        let n_checked = sum(&has_questions);
        let checked = sum(&|idx| has_questions(idx) * prompt(idx).checklist("").len());
        let answered = sum(&|idx| self.units[idx].text.len());
        let n_evolved = n.saturating_mul(evolutions);
        let (most_answers, most_checks) = (n.saturating_mul(rounds), n_checked.saturating_mul(rounds));
        let steps = [
            ("writing messages", n, n, bytes(&WRITE)),
            ("evolving messages", n_evolved, n_evolved, bytes(&EVOLVE).saturating_mul(evolutions)),
            ("filtering messages", n, n, bytes(&FILTER)),
            ("answering", n.min(most_answers), most_answers, answered.saturating_mul(rounds)),
            ("checking responses", n_checked.min(most_checks), most_checks, checked.saturating_mul(rounds)),
        ];
        PlannedCalls::of_steps(steps)
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let mut messages = self.write(asking, &mut fates)?;
        for _ in 0..self.settings.evolutions {
            if asking.is_stopped() {
                return Ok(None);
            }
            self.evolve(&mut messages, asking, &mut fates)?;
        }
        if asking.is_stopped() {
            return Ok(None);
        }
        self.filter(&messages, asking, &mut fates)?;
        let parts = self.units.iter().zip(&self.drawn).zip(&messages);
        let prompts: Vec<Prompt<'_>> = parts
            .map(|((unit, drawn), message)| Prompt {
                system: Some(message),
                text: &unit.text,
                constraints: &drawn.constraints,
            })
            .collect();
        let Some(responses) = respond(&prompts, self.settings.responses, &fates, asking)? else {
            return Ok(None);
        };
        Ok(Some(fates.finish(|idx| Ok(self.row(idx, &messages[idx], responses[idx].clone())))))
    }

    /// The constraints are those of the message, not of the user's prompt.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let message = record.get("system").cloned().ok_or("there is no system message")?;
        let mut record = record.clone();
        record.insert("prompt".into(), message);
        recheck_constraints(&record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_put_together_with_and_without_headings() {
        let reply = COMPONENTS.map(|tag| format!("<{tag}>\nThe {tag}.\n</{tag}>")).join("\n");
        let components = read_components(&reply).unwrap();
        let plain = assemble(&components, Language::En, false);
        assert_eq!(plain, "The task.\n\nThe workflow.\n\nThe output.\n\nThe rules.\n\nThe opening.");
        let headed = assemble(&components, Language::Zh, true);
        assert!(headed.starts_with("## 任务\nThe task.\n\n## 工作流程\n"), "{headed}");
        assert_eq!(read_components(&reply.replace("</rules>", "")), None);
        assert_eq!(read_components(""), None);
    }

    #[test]
    fn settings_that_leave_nothing_to_draw_are_refused() {
        let default = SystemMessagesConfig::default;
        assert!(default().check().is_ok());
        assert!(SystemMessagesConfig { kinds: Vec::new(), ..default() }.check().is_err());
        let style = SystemMessagesConfig { groups: vec![ConstraintGroup::Style], ..default() };
        assert!(style.check().is_err());
        for kind in SystemKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.code());
        }
    }
}
