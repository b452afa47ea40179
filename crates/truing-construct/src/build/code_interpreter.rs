//! Code interpreter (report 4.5): conversations in which an assistant works in a Python notebook, with a simulated
//! user, a solver, a verifier, and a depth-first search that backtracks where a branch ends.
//!
//! 1. A CSV file is made from the seed, for the kinds of tasks that have one. The writer asks a question with one
//!    answer. With `[[data]]` the rows are questions with reference answers.
//! 2. The verifier: the checker writes a program of its own that answers the question. The last line that it prints in
//!    the sandbox is the reference.
//! 3. The solver: the writer writes a cell or the answer. Cells run in the sandbox; an error is shown to the writer,
//!    who corrects it. A branch that ends without the reference is removed (`search.rs`).
//! 4. The writer plays the user and asks a further question, up to `max_user_turns`. If that one is not solved, the
//!    conversation ends before it.
//! 5. The checker reviews the conversation.
//!
//! No process waits for a model: with each new cell a notebook is run again from its first cell, twice, so that its
//! outputs depend on its cells alone (`truing_reward::notebook`). `max_cells` and `max_steps` bound the cost.

mod config;
mod conversation;
mod replies;
mod running;
mod search;
mod tables;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Map, Value, json};
use truing_reward::checklist::read_verdicts;
use truing_reward::notebook::{Notebook, NotebookRunner};
use truing_stages::StageError;
use truing_types::Seed;

use super::asking::{Asking, Question};
use super::builder::{BuilderInfo, Built, BuiltRow, Dropped, Fates, Job, PlannedCalls, Unit};
use super::config::BuildConfig;
use super::inputs::SeedRow;
use super::responding::VERDICTS;
use super::texts::{PromptText, prompt_text, tagged};
pub use config::{CodeInterpreterConfig, InterpreterKind};
use conversation::{Conversation, Next, check_messages, python_tool, shown};
use replies::{Step, first_cell, last_line, read_step};
use search::{Cell, Search};
use tables::DataFile;
use tasks::{Beginning, given_tasks, new_tasks};

/// How the builder is listed.
pub(super) const INFO: BuilderInfo = BuilderInfo {
    name: "code_interpreter",
    about: "conversations with a Python notebook that runs in the sandbox, answers verified",
    seeds: "questions with an `answer`; without data the writer makes tasks",
    asks: "the writer for questions, cells and answers, the checker for independent solutions and a review",
    works_without_data: true,
    prepare,
};

const TASK: PromptText = prompt_text!("interpreter_task");
const FOLLOW_UP: PromptText = prompt_text!("interpreter_follow_up");
const SOLUTION: PromptText = prompt_text!("interpreter_solution");
const STEP: PromptText = prompt_text!("interpreter_step");
const REVIEW: PromptText = prompt_text!("review_interpreter");

const QUESTION_FORM: (&str, &str) = (
    "a question",
    "Your reply lacks the message between <question> and </question>. Write it, with the tags.",
);
const SOLUTION_FORM: (&str, &str) = (
    "a program",
    "Your reply has no program. Write the whole program in one fence that begins with ```python.",
);
const STEP_FORM: (&str, &str) = (
    "a cell or an answer",
    "Your reply has neither a cell in a fence that begins with ```python, nor an answer between <final> and </final> \
     with a last line `Answer: ...`. Write one of both.",
);

/// Verdicts on a conversation.
const N_VERDICTS: usize = 4;
const ASKING: &str = "question";
const REFERENCE: &str = "reference";
const SOLVING: &str = "solution";
const REVIEWING: &str = "review";

/// Units with what each conversation begins with.
#[derive(Debug)]
struct InterpreterJob {
    settings: CodeInterpreterConfig,
    units: Vec<Unit>,
    beginnings: Vec<Beginning>,
    /// The runner of the cells, kept for the check of the rows.
    runner: Mutex<Option<NotebookRunner>>,
}

fn prepare(config: &BuildConfig, seeds: &[SeedRow]) -> Result<Box<dyn Job>, StageError> {
    let settings = config.code_interpreter.clone().unwrap_or_default();
    settings.check()?;
    config.require_sampling("above 0: without sampling, a second branch is the first one again")?;
    let (units, beginnings) = match config.data.is_empty() {
        true => new_tasks(&settings, config.n_rows.unwrap_or(0), Seed(config.seed)),
        false => given_tasks(&settings, seeds),
    };
    Ok(Box::new(InterpreterJob { settings, units, beginnings, runner: Mutex::new(None) }))
}

/// What is wrong with a conversation, by the first verdict that is a no.
fn reason_of(verdicts: &[bool]) -> Option<&'static str> {
    let reasons = [
        "a question is not clear, or its answer is not determined",
        "a cell does not serve the question, or is not explained",
        "an error is not explained and corrected",
        "an answer is not what the outputs show",
    ];
    Some(reasons[verdicts.iter().position(|is_yes| !is_yes)?])
}

impl InterpreterJob {
    /// Fills a text about a conversation.
    fn text(&self, text: &PromptText, idx: usize, conversation: &Conversation) -> String {
        let (unit, beginning) = (&self.units[idx], &self.beginnings[idx]);
        let (kind, number) = match beginning {
            Beginning::New { kind, number, .. } => (kind.about(unit.language), number + 1),
            Beginning::Row { .. } => ("", 1),
        };
        let values = [
            ("{kind}", kind),
            ("{topic}", unit.text.as_str()),
            ("{variant}", &number.to_string()),
            ("{file}", &conversation.file_note(unit.language)),
            ("{question}", &conversation.questions()),
            ("{transcript}", &conversation.transcript()),
        ];
        text.fill(unit.language, &values)
    }

    /// Open units whose next event is this one.
    fn whose(next: Next, conversations: &[Conversation], fates: &Fates) -> Vec<usize> {
        fates.open().into_iter().filter(|&idx| conversations[idx].next == next).collect()
    }

    /// Ends a conversation before its last question, or drops its unit if that was the first.
    fn give_up(idx: usize, conversations: &mut [Conversation], fates: &mut Fates, dropped: Dropped) {
        let conversation = &mut conversations[idx];
        if conversation.exchanges.len() > 1 {
            conversation.exchanges.pop();
            conversation.next = Next::Nothing;
        } else {
            fates.drop_unit(idx, dropped);
        }
    }

    /// The first question of every conversation.
    fn begin(&self, asking: &mut Asking<'_>, fates: &mut Fates) -> Result<Vec<Conversation>, StageError> {
        let mut conversations = vec![Conversation::default(); self.units.len()];
        let mut places = Vec::new();
        for idx in fates.open() {
            match &self.beginnings[idx] {
                Beginning::Row { reference } => {
                    conversations[idx].ask(self.units[idx].text.clone(), Some(reference.clone()));
                }
                Beginning::New { file, .. } => {
                    conversations[idx].file.clone_from(file);
                    places.push(idx);
                }
            }
        }
        let question = |&idx: &usize| Question::new(self.text(&TASK, idx, &conversations[idx]), idx as u64);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| tagged(reply, "question").map(str::to_owned);
        let answers = asking.write("asking questions", questions, QUESTION_FORM, read)?;
        fates.take(ASKING, &places, answers, |idx, question| {
            conversations[idx].ask(question, None);
            Ok(())
        });
        Ok(conversations)
    }

    /// A further question of every conversation that continues.
    fn ask_further(
        &self,
        conversations: &mut [Conversation],
        asking: &mut Asking<'_>,
        fates: &Fates,
    ) -> Result<(), StageError> {
        let places = Self::whose(Next::Question, conversations, fates);
        let question = |&idx: &usize| Question::new(self.text(&FOLLOW_UP, idx, &conversations[idx]), 0);
        let questions = places.iter().map(question).collect();
        let read = |_: usize, reply: &str| match tagged(reply, "question") {
            Some(text) => Some(Some(text.to_owned())),
            None => reply.contains("<done/>").then_some(None),
        };
        let answers = asking.write("asking further questions", questions, QUESTION_FORM, read)?;
        for (idx, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(Some(question)) => conversations[idx].ask(question, None),
                Ok(None) | Err(_) => conversations[idx].next = Next::Nothing,
            }
        }
        Ok(())
    }

    /// Reference answers of the last questions that have none: what an independent program prints last.
    fn find_references(
        &self,
        conversations: &mut [Conversation],
        runner: &mut NotebookRunner,
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let lacks = |conversation: &Conversation| {
            conversation.exchanges.last().is_some_and(|exchange| exchange.reference.is_none())
        };
        let mut problems: BTreeMap<usize, String> = BTreeMap::new();
        for round in 0..self.settings.max_references as u64 {
            let mut places = Self::whose(Next::Step, conversations, fates);
            places.retain(|&idx| lacks(&conversations[idx]));
            let question =
                |&idx: &usize| Question::new(self.text(&SOLUTION, idx, &conversations[idx]), round);
            let questions = places.iter().map(question).collect();
            let read = |_: usize, reply: &str| first_cell(reply).map(|(_, code)| code);
            let answers = asking.answer("solving independently", questions, SOLUTION_FORM, read)?;
            if asking.is_stopped() {
                return Ok(());
            }
            let (mut solved, mut notebooks) = (Vec::new(), Vec::new());
            for (idx, answer) in places.into_iter().zip(answers) {
                match answer {
                    Ok(code) => {
                        solved.push(idx);
                        notebooks.push(Notebook { cells: vec![code], files: conversations[idx].files() });
                    }
                    Err(reason) => {
                        problems.insert(idx, reason);
                    }
                }
            }
            let Some(ran) = self.run(runner, &notebooks, asking)? else { return Ok(()) };
            for (idx, ran) in solved.into_iter().zip(ran) {
                match (last_line(ran), conversations[idx].exchanges.last_mut()) {
                    (Ok(line), Some(exchange)) => exchange.reference = Some(line),
                    (Err(problem), _) => {
                        problems.insert(idx, problem);
                    }
                    (Ok(_), None) => {}
                }
            }
        }
        for idx in Self::whose(Next::Step, conversations, fates) {
            if lacks(&conversations[idx]) {
                let reason = problems.remove(&idx).unwrap_or_else(|| "no independent solution".into());
                Self::give_up(idx, conversations, fates, Dropped::new(REFERENCE, reason));
            }
        }
        Ok(())
    }

    /// Solves the last questions side by side, one step of each at a time, until every search has ended.
    fn solve(
        &self,
        conversations: &mut [Conversation],
        runner: &mut NotebookRunner,
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        loop {
            let places = Self::whose(Next::Step, conversations, fates);
            if places.is_empty() {
                return Ok(());
            }
            let mut question = |&idx: &usize| {
                let n_before = conversations[idx].search().map_or(0, Search::begin);
                Question::new(self.text(&STEP, idx, &conversations[idx]), n_before as u64)
            };
            let questions = places.iter().map(&mut question).collect();
            let answers = asking
                .write("writing cells and answers", questions, STEP_FORM, |_, reply| read_step(reply))?;
            if asking.is_stopped() {
                return Ok(());
            }
            self.take_steps(&places, answers, conversations, runner, asking)?;
            if asking.is_stopped() {
                return Ok(());
            }
            for idx in places {
                let Some(search) = conversations[idx].search() else { continue };
                match search.settle(&self.settings) {
                    Ok(()) if search.answer().is_some() => conversations[idx].next = Next::Question,
                    Ok(()) => {}
                    Err(problem) => {
                        Self::give_up(idx, conversations, fates, Dropped::new(SOLVING, problem));
                    }
                }
            }
        }
    }

    /// Adds answers to the conversations, and runs cells.
    fn take_steps(
        &self,
        places: &[usize],
        answers: Vec<Result<Step, String>>,
        conversations: &mut [Conversation],
        runner: &mut NotebookRunner,
        asking: &Asking<'_>,
    ) -> Result<(), StageError> {
        let settings = &self.settings;
        let (mut cells, mut notebooks) = (Vec::new(), Vec::new());
        for (&idx, answer) in places.iter().zip(answers) {
            let conversation = &mut conversations[idx];
            let has_room = conversation.search().is_some_and(|search| search.has_room(settings));
            let problem = match answer {
                Ok(Step::Answer(text)) => {
                    conversation.answer(text);
                    continue;
                }
                Ok(Step::Cell { thought, code }) if has_room => {
                    notebooks.push(conversation.notebook_with(&code));
                    cells.push((idx, thought, code));
                    continue;
                }
                Ok(Step::Cell { .. }) => "more cells than `code_interpreter.max_cells`".to_owned(),
                Err(reason) => reason,
            };
            if let Some(search) = conversation.search() {
                search.abandon(problem);
            }
        }
        let Some(ran) = self.run(runner, &notebooks, asking)? else { return Ok(()) };
        for ((idx, thought, code), ran) in cells.into_iter().zip(ran) {
            let conversation = &mut conversations[idx];
            let ran = ran.and_then(|outputs| conversation.output_of_new(outputs));
            let Some(search) = conversation.search() else { continue };
            match ran {
                Ok(new) => {
                    let cell = Cell { thought, code, output: shown(&new), is_error: new.is_error };
                    search.add(cell, settings);
                }
                Err(error) => search.abandon(format!("a cell cannot be kept: {error}")),
            }
        }
        Ok(())
    }

    /// Drops the conversations that the checker objects to.
    fn review(
        &self,
        conversations: &[Conversation],
        asking: &mut Asking<'_>,
        fates: &mut Fates,
    ) -> Result<(), StageError> {
        let places = fates.open();
        let texts = places.iter().map(|&idx| self.text(&REVIEW, idx, &conversations[idx])).collect();
        let read = |_: usize, reply: &str| read_verdicts(reply, N_VERDICTS);
        let answers = asking.check("reviewing conversations", texts, VERDICTS, read)?;
        fates.take(REVIEWING, &places, answers, |_, verdicts| {
            reason_of(&verdicts).map_or(Ok(()), |reason| Err(Dropped::new(REVIEWING, reason)))
        });
        Ok(())
    }

    fn row(&self, idx: usize, conversation: &Conversation) -> Built {
        let mut messages = conversation.messages();
        let text =
            |message: Option<Value>| message.and_then(|one| one["content"].as_str().map(str::to_owned));
        let response = text(messages.pop());
        let prompt = if messages.is_empty() { None } else { text(Some(messages.remove(0))) };
        let (Some(prompt), Some(response)) = (prompt, response) else {
            return Err(Dropped::new(SOLVING, "the conversation has no two turns"));
        };
        let references = conversation.exchanges.iter().map(|exchange| json!(exchange.reference));
        let n_errors = conversation.cells().filter(|cell| cell.is_error).count();
        let mut columns = Map::from_iter([
            ("tools".to_owned(), json!([python_tool()])),
            ("topic".to_owned(), json!(self.units[idx].text)),
            ("files".to_owned(), json!(conversation.files())),
            ("answers".to_owned(), references.collect()),
            ("n_cells".to_owned(), json!(conversation.cells().count())),
            ("n_errors".to_owned(), json!(n_errors)),
            ("n_abandoned".to_owned(), json!(conversation.n_abandoned())),
        ]);
        if let Beginning::New { kind, .. } = &self.beginnings[idx] {
            columns.insert("kind".into(), json!(kind));
        }
        Ok(BuiltRow { prompt, between: messages, response: Some(response), columns, ..BuiltRow::default() })
    }
}

impl Job for InterpreterJob {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The kinds of new tasks equally often.
    fn targets(&self) -> BTreeMap<String, usize> {
        let is_new = self.beginnings.iter().any(|one| matches!(one, Beginning::New { .. }));
        let kinds: &[InterpreterKind] = if is_new { &self.settings.kinds } else { &[] };
        let share = Fates::of(&self.units).open().len() / kinds.len().max(1);
        kinds.iter().map(|kind| (kind.code().to_owned(), share)).collect()
    }

    /// A question needs at least a cell and an answer.
    fn calls(&self) -> Vec<PlannedCalls> {
        let open: Vec<usize> = Fates::of(&self.units).open();
        let is_new = |idx: &usize| u64::from(matches!(self.beginnings[*idx], Beginning::New { .. }));
        let (n, n_new) = (open.len() as u64, open.iter().map(is_new).sum::<u64>());
        let CodeInterpreterConfig { max_user_turns, max_steps, max_references, .. } = self.settings;
        let (turns, steps, references) = (max_user_turns as u64, max_steps as u64, max_references as u64);
        let n_further = n.saturating_mul(turns - 1);
        // Of a conversation only the file is known; what is sent of its turns comes on top.
        let bytes = |text: &PromptText| {
            let known = |idx: &usize| {
                let mut conversation = Conversation::default();
                if let Beginning::New { file, .. } = &self.beginnings[*idx] {
                    conversation.file.clone_from(file);
                }
                self.text(text, *idx, &conversation).len() as u64
            };
            open.iter().map(known).max().unwrap_or(0)
        };
        let planned = |step, n_calls: u64, max_calls: u64, text: &PromptText| PlannedCalls {
            step,
            n_calls,
            max_calls,
            prompt_bytes: bytes(text).saturating_mul(max_calls),
        };
        let n_independent = (n_new + n_further).saturating_mul(references);
        let n_steps = n.saturating_mul(turns).saturating_mul(steps);
        let calls = [
            planned("asking questions", n_new, n_new, &TASK),
            planned("asking further questions", n_further, n_further, &FOLLOW_UP),
            planned("solving independently", n_new + n_further, n_independent, &SOLUTION),
            planned("writing cells and answers", (2 * n).saturating_mul(turns).min(n_steps), n_steps, &STEP),
            planned("reviewing conversations", n, n, &REVIEW),
        ];
        calls.into_iter().filter(|one| one.max_calls > 0).collect()
    }

    fn build(&self, asking: &mut Asking<'_>) -> Result<Option<Vec<Built>>, StageError> {
        let mut runner = self.new_runner(asking)?;
        let mut fates = Fates::of(&self.units);
        let mut conversations = self.begin(asking, &mut fates)?;
        for turn in 0..self.settings.max_user_turns {
            if turn > 0 && !asking.is_stopped() {
                self.ask_further(&mut conversations, asking, &fates)?;
            }
            if asking.is_stopped() {
                return Ok(None);
            }
            self.find_references(&mut conversations, &mut runner, asking, &mut fates)?;
            if asking.is_stopped() {
                return Ok(None);
            }
            self.solve(&mut conversations, &mut runner, asking, &mut fates)?;
        }
        if asking.is_stopped() {
            return Ok(None);
        }
        self.review(&conversations, asking, &mut fates)?;
        if let Ok(mut kept) = self.runner.lock() {
            *kept = Some(runner);
        }
        Ok(Some(fates.finish(|idx| self.row(idx, &conversations[idx]))))
    }

    /// All cells are run once more, from the turns and files that are written.
    fn recheck(&self, record: &Map<String, Value>) -> Result<(), String> {
        let turn = |role: &str, key: &str| json!({"role": role, "content": record.get(key)});
        let between = record.get("between").and_then(Value::as_array).into_iter().flatten().cloned();
        let mut messages = vec![turn("user", "prompt")];
        messages.extend(between);
        messages.push(turn("assistant", "response"));
        let files = record.get("files").and_then(Value::as_object).ok_or("there is no list of files")?;
        let answers = record.get("answers").and_then(Value::as_array).ok_or("there are no answers")?;
        let mut runner = self.runner.lock().map_err(|_| "the runner of the cells has failed")?;
        let runner = runner.as_mut().ok_or("there is no runner for the cells")?;
        check_messages(&messages, files, answers, runner)
    }

    /// Appends the description of the file to the first turn of the user. Screening sees the question alone, because
    /// the descriptions of all rows are alike.
    fn layout(
        &self,
        mut turns: Vec<Value>,
        columns: Map<String, Value>,
        unit: &Unit,
    ) -> (Vec<Value>, Map<String, Value>) {
        let files = columns.get("files").and_then(Value::as_object).into_iter().flatten();
        for (name, text) in files {
            let (name, text) = (name.clone(), text.as_str().unwrap_or_default().to_owned());
            let note = DataFile { name, text }.note(unit.language);
            if let Some(first) = turns.first_mut() {
                let question = first["content"].as_str().unwrap_or_default();
                first["content"] = json!(format!("{question}\n\n{note}"));
            }
        }
        (turns, columns)
    }
}
