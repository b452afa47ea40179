//! Use of tools (report 4.5), after BUTTON (arXiv 2410.12952): from the bottom up, atomic tasks, a task composed of
//! them and the tools that it needs; then from the top down, a conversation of a simulated user, assistant and tools.
//!
//! 1. The writer writes atomic tasks for a scenario and composes them by a [`CallPattern`].
//! 2. The writer defines tools with JSON schemas, and the state of the world. A program reads the schemas.
//! 3. The writer plays the user, the assistant and the tools in turn. A call must fit its tool's schema, and every
//!    argument must come from somewhere: the user's turns, earlier results, or the schema's own values. A call is
//!    answered once: the same call gives the same result again.
//! 4. A program compares the calls with the pattern, the checker verifies the conversation.

mod button;
mod config;
mod definitions;
mod episode;
mod grounding;

use std::collections::BTreeMap;

use rand_chacha::rand_core::Rng;
use serde_json::{Map, Value, json};
use truing_reward::checklist::read_verdicts;
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::responding::VERDICTS;
use super::texts::{PromptText, prompt_text, tagged};
use config::SCENARIOS;
pub use config::{CallPattern, ToolsConfig, ToolsFormat};
use definitions::{Call, Tool, read_tools};
use episode::{Episode, Next, check_messages};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "tools",
    about: "conversations with tool calls in a simulated world, arguments traced to their sources",
    seeds: "scenarios or tasks; without data the writer makes tasks",
    asks: "the writer for tasks, tools and each turn, the checker to verify conversations",
    works_without_data: true,
    prepare,
};

const TASK: PromptText = prompt_text!("tool_task");
const DEFINE: PromptText = prompt_text!("define_tools");
const USER: PromptText = prompt_text!("simulate_user");
const ASSISTANT: PromptText = prompt_text!("simulate_assistant");
const TOOL: PromptText = prompt_text!("simulate_tool");
const REVIEW: PromptText = prompt_text!("review_tools");

const TASK_FORM: (&str, &str) = (
    "atomic tasks and a composed task",
    "Your reply lacks the atomic tasks between <atomic> and </atomic>, two or more, one on each line, or the composed \
     task between <task> and </task>. Write both, with the tags.",
);
const TOOLS_FORM: (&str, &str) = (
    "tools and a state in JSON",
    "Your reply lacks the JSON list of tools between <tools> and </tools>, or the JSON object with the state between \
     <state> and </state>. Write both, with the tags.",
);
const USER_FORM: (&str, &str) = (
    "a message of the user",
    "Your reply has neither a message between <message> and </message> nor <done/>. The first message of a \
     conversation is needed. Write one of both.",
);
const ASSISTANT_FORM: (&str, &str) = (
    "calls or an answer",
    "Your reply has neither a JSON list of calls, each with a name and an object of arguments, between <call> and \
     </call>, nor an answer between <final> and </final>. Write one of both.",
);
const RESULT_FORM: (&str, &str) = (
    "a result in JSON",
    "Your reply lacks the JSON of the result between <result> and </result>, or the state between <state> and </state> \
     is no JSON. Write both as JSON.",
);

/// Verdicts on a conversation.
const N_VERDICTS: usize = 5;

const COMPOSING: &str = "task";
const DEFINING: &str = "tools";
const SIMULATION: &str = "conversation";
const REVIEWING: &str = "review";

/// Units with the pattern of each.
#[derive(Debug)]
struct ToolsJob {
    settings: ToolsConfig,
    units: Vec<Unit>,
    patterns: Vec<CallPattern>,
}

/// What the assistant does.
enum Step {
    Calls { thought: String, calls: Vec<Call> },
    Answer(String),
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.tools.clone().unwrap_or_default();
    settings.check()?;
    config.require_sampling("above 0: without sampling, tasks of one scenario are alike")?;
    let n_patterns = settings.patterns.len();
    let (mut units, mut patterns, mut n_used) = (Vec::new(), Vec::new(), 0);
    for seed in seeds {
        let pattern = settings.patterns[n_used % n_patterns];
        n_used += usize::from(seed.dropped.is_none());
        units.push(seed.unit(vec![pattern.code().to_owned()]));
        patterns.push(pattern);
    }
    let drawn = Seed(config.seed).generator("tool scenarios", &[]).next_u64();
    let first = (drawn % SCENARIOS.len() as u64) as usize;
    let n_new = if config.data.is_empty() { config.n_rows.unwrap_or(0) } else { 0 };
    for row in 0..n_new {
        let pattern = settings.patterns[row % n_patterns];
        let language = settings.languages[row / n_patterns % settings.languages.len()];
        units.push(Unit {
            text: SCENARIOS[(first + row) % SCENARIOS.len()][language as usize].to_owned(),
            language,
            source: None,
            kept: Map::new(),
            kinds: vec![pattern.code().to_owned()],
            dropped: None,
        });
        patterns.push(pattern);
    }
    Ok(Box::new(ToolsJob { settings, units, patterns }))
}

/// The JSON between some tags, perhaps in a fence.
fn tagged_json(reply: &str, tag: &str) -> Option<Value> {
    let text = tagged(reply, tag)?;
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let inner = inner.map_or(text, |rest| rest.trim_start_matches("json"));
    serde_json::from_str(inner.trim()).ok()
}

/// What a reply of the assistant does; calls come before an answer beside them.
fn read_step(reply: &str) -> Option<Step> {
    if reply.contains("<call>") {
        let calls = Call::list(&tagged_json(reply, "call")?)?;
        let thought = tagged(reply, "why").unwrap_or_default().to_owned();
        return Some(Step::Calls { thought, calls });
    }
    tagged(reply, "final").map(|text| Step::Answer(text.to_owned()))
}

/// What is wrong with a conversation, by the first verdict that is a no.
fn reason_of(verdicts: &[bool]) -> Option<&'static str> {
    let reasons = [
        "the user's messages are not natural, or not about the task",
        "a call is not needed, or one is missing",
        "a result is not what such a tool gives",
        "an answer is not what the results say",
        "the task is not fulfilled at the end",
    ];
    Some(reasons[verdicts.iter().position(|is_yes| !is_yes)?])
}

fn bare(tools: &[Tool]) -> String {
    json!(tools.iter().map(Tool::bare).collect::<Vec<_>>()).to_string()
}

impl ToolsJob {
    fn task_question(&self, idx: usize) -> Question {
        let unit = &self.units[idx];
        // Only the bundled scenarios come up again.
        let n_before = if unit.source.is_none() { idx / SCENARIOS.len() } else { 0 };
        let variant = (n_before + 1).to_string();
        let values = [
            ("{scenario}", unit.text.as_str()),
            ("{pattern}", self.patterns[idx].about(unit.language)),
            ("{variant}", &variant),
        ];
        Question::new(TASK.fill(unit.language, &values), idx as u64)
    }

    /// Fills a text about a conversation.
    fn question(&self, text: &PromptText, idx: usize, episode: &Episode) -> String {
        let language = self.units[idx].language;
        let call = episode.pending().map_or_else(String::new, |call| {
            json!({"name": call.name, "arguments": call.arguments}).to_string()
        });
        let values = [
            ("{task}", episode.task.as_str()),
            ("{atomic}", &episode.atomic_tasks.join("\n")),
            ("{pattern}", self.patterns[idx].about(language)),
            ("{tools}", &bare(&episode.tools)),
            ("{state}", &episode.state.to_string()),
            ("{transcript}", &episode.transcript()),
            ("{call}", &call),
            ("{max_calls}", &self.settings.max_parallel_calls.to_string()),
        ];
        text.fill(language, &values)
    }

    /// Open units whose turn it is.
    fn whose(next: Next, episodes: &[Episode], fates: &Fates) -> Vec<usize> {
        fates.open().into_iter().filter(|&idx| episodes[idx].next == next).collect()
    }

    fn compose(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<Episode>, StageError> {
        let mut episodes: Vec<Episode> = self.units.iter().map(|_| Episode::default()).collect();
        let places = fates.open();
        let questions = places.iter().map(|&idx| self.task_question(idx)).collect();
        let read = |_: usize, reply: &str| {
            let lines = tagged(reply, "atomic")?.lines().map(str::trim).filter(|line| !line.is_empty());
            let atomic: Vec<String> = lines.map(str::to_owned).collect();
            let task = tagged(reply, "task")?.to_owned();
            (atomic.len() >= 2).then_some((atomic, task))
        };
        let answers = asking.write("writing tasks", questions, TASK_FORM, read)?;
        fates.take(COMPOSING, &places, answers, |idx, (atomic_tasks, task)| {
            episodes[idx].atomic_tasks = atomic_tasks;
            episodes[idx].task = task;
            Ok(())
        });
        Ok(episodes)
    }

    fn define(
        &self,
        episodes: &mut [Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let question = |&idx: &usize| Question::new(self.question(&DEFINE, idx, &episodes[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| {
            let state = tagged_json(reply, "state").filter(Value::is_object)?;
            Some((tagged_json(reply, "tools")?, state))
        };
        let answers = asking.write("defining tools", questions, TOOLS_FORM, read)?;
        fates.take(DEFINING, &places, answers, |idx, (tools, state)| {
            episodes[idx].tools = read_tools(&tools).map_err(|reason| Dropped::new(DEFINING, reason))?;
            episodes[idx].state = state;
            Ok(())
        });
        Ok(())
    }

    /// The next message of each user whose turn it is, or the end.
    fn play_users(
        &self,
        episodes: &mut [Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = Self::whose(Next::User, episodes, fates);
        let question = |&idx: &usize| Question::new(self.question(&USER, idx, &episodes[idx]), 0);
        let questions = places.iter().map(question).collect();
        let is_first: Vec<bool> = places.iter().map(|&idx| episodes[idx].turns.is_empty()).collect();
        let read = |at: usize, reply: &str| match tagged(reply, "message") {
            Some(text) => Some(Some(text.to_owned())),
            None => (reply.contains("<done/>") && !is_first[at]).then_some(None),
        };
        let answers = asking.write("playing the user", questions, USER_FORM, read)?;
        fates.take(SIMULATION, &places, answers, |idx, message| {
            match message {
                Some(text) => episodes[idx].say(text),
                None => episodes[idx].next = Next::Nobody,
            }
            Ok(())
        });
        Ok(())
    }

    /// The next calls or answer of each assistant whose turn it is.
    fn play_assistants(
        &self,
        episodes: &mut [Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let ToolsConfig { max_steps, max_parallel_calls, max_user_turns, .. } = self.settings;
        for idx in Self::whose(Next::Assistant, episodes, fates) {
            if episodes[idx].n_steps() >= max_steps {
                fates.drop_unit(idx, Dropped::new(SIMULATION, "more turns than `tools.max_steps`"));
            }
        }
        let places = Self::whose(Next::Assistant, episodes, fates);
        let question = |&idx: &usize| Question::new(self.question(&ASSISTANT, idx, &episodes[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| read_step(reply);
        let answers = asking.write("playing the assistant", questions, ASSISTANT_FORM, read)?;
        fates.take(SIMULATION, &places, answers, |idx, step| match step {
            Step::Calls { calls, .. } if calls.len() > max_parallel_calls => {
                Err(Dropped::new(SIMULATION, "more calls in a turn than `tools.max_parallel_calls`"))
            }
            Step::Calls { thought, calls } => episodes[idx].call(thought, calls),
            Step::Answer(text) => {
                episodes[idx].answer(text, max_user_turns);
                Ok(())
            }
        });
        Ok(())
    }

    /// The results of calls that were not answered before, one of each conversation at a time.
    fn play_tools(
        &self,
        episodes: &mut [Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = Self::whose(Next::Tool, episodes, fates);
        let question = |&idx: &usize| Question::new(self.question(&TOOL, idx, &episodes[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| {
            let result = tagged_json(reply, "result")?;
            match reply.contains("<state>") {
                true => Some((result, Some(tagged_json(reply, "state")?))),
                false => Some((result, None)),
            }
        };
        let answers = asking.write("playing the tools", questions, RESULT_FORM, read)?;
        fates.take(SIMULATION, &places, answers, |idx, (result, state)| {
            episodes[idx].add_result(result, state);
            Ok(())
        });
        Ok(())
    }

    /// Plays all conversations side by side until all have ended. Each pass is at least a turn of every open one.
    fn simulate(
        &self,
        episodes: &mut [Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        while fates.open().into_iter().any(|idx| episodes[idx].next != Next::Nobody) {
            self.play_users(episodes, asking, fates)?;
            if asking.is_stopped() {
                return Ok(());
            }
            self.play_assistants(episodes, asking, fates)?;
            if asking.is_stopped() {
                return Ok(());
            }
            self.play_tools(episodes, asking, fates)?;
            if asking.is_stopped() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Drops conversations of another pattern, and those that the checker objects to.
    fn review(
        &self,
        episodes: &[Episode],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        for idx in fates.open() {
            let n_calls = episodes[idx].n_calls();
            if !self.patterns[idx].fits(&n_calls) {
                let detail = format!("turns with {n_calls:?} calls");
                let dropped =
                    Dropped::new(SIMULATION, "the calls are not of the pattern").with_detail(detail);
                fates.drop_unit(idx, dropped);
            }
        }
        let places = fates.open();
        let texts = places.iter().map(|&idx| self.question(&REVIEW, idx, &episodes[idx])).collect();
        let read = |_: usize, reply: &str| read_verdicts(reply, N_VERDICTS);
        let answers = asking.check("reviewing conversations", texts, VERDICTS, read)?;
        fates.take(REVIEWING, &places, answers, |_, verdicts| {
            reason_of(&verdicts).map_or(Ok(()), |reason| Err(Dropped::new(REVIEWING, reason)))
        });
        Ok(())
    }

    fn row(&self, idx: usize, episode: &Episode) -> Built {
        let unit = &self.units[idx];
        let mut messages = episode.messages();
        let text =
            |message: Option<Value>| message.and_then(|one| one["content"].as_str().map(str::to_owned));
        let response = text(messages.pop());
        let prompt = if messages.is_empty() { None } else { text(Some(messages.remove(0))) };
        let (Some(prompt), Some(response)) = (prompt, response) else {
            return Err(Dropped::new(SIMULATION, "the conversation has no two turns"));
        };
        Ok(BuiltRow {
            prompt,
            between: messages,
            response: Some(response),
            columns: Map::from_iter([
                ("tools".to_owned(), episode.tools.iter().map(Tool::described).collect()),
                ("pattern".to_owned(), json!(self.patterns[idx])),
                ("scenario".to_owned(), json!(unit.text)),
                ("atomic_tasks".to_owned(), json!(episode.atomic_tasks)),
                ("task".to_owned(), json!(episode.task)),
            ]),
            ..BuiltRow::default()
        })
    }
}

impl Job for ToolsJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The patterns equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        let patterns = &self.settings.patterns;
        let share = Fates::of(&self.units).open().len() / patterns.len();
        patterns.iter().map(|pattern| (pattern.code().to_owned(), share)).collect()
    }

    /// A conversation needs at least a message, two turns with calls, an answer, and the user's end.
    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let (n, settings) = (open.len() as u64, &self.settings);
        let (users, steps) = (settings.max_user_turns as u64, settings.max_steps as u64);
        // Conversations are not known; what is sent of them comes on top.
        let empty = Episode::default();
        let sum = |of: &dyn Fn(usize) -> usize| open.iter().map(|&idx| of(idx) as u64).sum::<u64>();
        let about = |text: &PromptText| sum(&|idx| self.question(text, idx, &empty).len());
        let max_results = steps.saturating_mul(settings.max_parallel_calls as u64);
        let planned = |step, at_least: u64, at_most: u64, bytes: u64| PlannedCalls {
            step,
            n_calls: n.saturating_mul(at_least.min(at_most)),
            max_calls: n.saturating_mul(at_most),
            prompt_bytes: bytes.saturating_mul(at_most),
        };
        vec![
            planned("writing tasks", 1, 1, sum(&|idx| self.task_question(idx).text.len())),
            planned("defining tools", 1, 1, about(&DEFINE)),
            planned("playing the user", 2, users, about(&USER)),
            planned("playing the assistant", 3, steps, about(&ASSISTANT)),
            planned("playing the tools", 2, max_results, about(&TOOL)),
            planned("reviewing conversations", 1, 1, about(&REVIEW)),
        ]
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut fates = Fates::of(&self.units);
        let mut episodes = self.compose(asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.define(&mut episodes, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.simulate(&mut episodes, asking, &mut fates)?;
        if asking.is_stopped() {
            return Ok(None);
        }
        self.review(&episodes, asking, &mut fates)?;
        Ok(Some(fates.finish(|idx| self.row(idx, &episodes[idx]))))
    }

    /// Every call is checked again from the turns and tools that are written.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let pattern = CallPattern::find(text("pattern")).ok_or("the pattern is unknown")?;
        let tools = read_tools(record.get("tools").ok_or("there are no tools")?)?;
        let turn = |role: &str, text: &str| json!({"role": role, "content": text});
        let between = record.get("between").and_then(Value::as_array).into_iter().flatten().cloned();
        let mut messages = vec![turn("user", text("prompt"))];
        messages.extend(between);
        messages.push(turn("assistant", text("response")));
        check_messages(&messages, &tools, pattern)
    }

    fn layout(
        &self,
        turns: Vec<Value>,
        mut columns: Map<String, Value>,
        unit: &Unit,
    ) -> (Vec<Value>, Map<String, Value>) {
        if self.settings.format == ToolsFormat::Messages {
            return (turns, columns);
        }
        let tools = columns.remove("tools").unwrap_or_default();
        let parallel = CallPattern::ParallelThenSequential.code();
        let is_parallel = columns.get("pattern").and_then(Value::as_str) == Some(parallel);
        (button::turns(&turns, &tools, is_parallel, unit.language), columns)
    }
}

#[cfg(test)]
mod tests {
    use truing_ask::pas::Language;
    use truing_run::PromptSource;

    use super::*;

    #[test]
    fn scenarios_of_data_are_asked_about_once_and_bundled_ones_again_as_further_variants() {
        let n = SCENARIOS.len() + 1;
        let variant = |source: Option<PromptSource>| {
            let unit = Unit {
                text: "renting a canoe".into(),
                language: Language::En,
                source,
                kept: Map::new(),
                kinds: Vec::new(),
                dropped: None,
            };
            let (units, patterns) = (vec![unit; n], vec![CallPattern::Sequential; n]);
            let job = ToolsJob { settings: ToolsConfig::default(), units, patterns };
            job.task_question(n - 1).text
        };
        assert!(variant(None).contains("this is variant 2."));
        let source = PromptSource { path: "a.jsonl".into(), line: 30 };
        assert!(variant(Some(source)).contains("this is variant 1."));
    }

    #[test]
    fn steps_are_calls_or_an_answer() {
        let calls = |reply: &str| match read_step(reply) {
            Some(Step::Calls { thought, calls }) => Some((thought, calls.len())),
            _ => None,
        };
        let one = "<why>Look.</why>\n<call>```json\n[{\"name\": \"find\", \"arguments\": {}}]\n```</call>";
        assert_eq!(calls(one), Some(("Look.".to_owned(), 1)));
        let both = "<call>[{\"name\": \"a\"}, {\"name\": \"b\"}]</call><final>Done.</final>";
        assert_eq!(calls(both), Some((String::new(), 2)));
        assert!(matches!(read_step("<final>Four.</final>"), Some(Step::Answer(text)) if text == "Four."));
        for reply in
            ["", "Four.", "<call>[]</call>", "<call>find()</call><final>Four.</final>", "<call>[{\"na"]
        {
            assert!(read_step(reply).is_none(), "{reply}");
        }
    }
}
