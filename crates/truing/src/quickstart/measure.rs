//! What is measured of a model: held-out loss, choices by log-likelihood, and greedy answers.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_data::{OnBadRow, SourceConfig, read_rows};
use truing_eval::checks::{BadItem, Check, read_items};
use truing_eval::held_out::sums_of_samples;
use truing_eval::pipeline::{Evaluation, GradedAnswer, OpenAnswer};
use truing_generate::LocalChat;
use truing_model::{Engine, EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_predict::{Continuations, LikelihoodOptions, log_likelihoods};
use truing_reward::verifiers::ifeval::{Ifeval, IfevalConfig};
use truing_reward::{Completion, RewardFunction};
use truing_run::ranks::gather_dealt;
use truing_run::record::{break_if_alone, is_any_stopped};
use truing_run::{RunError, model};
use truing_stages::StageError;
use truing_text::ChatRenderer;
use truing_train::{Sft, TrainError, gradients};
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, Communicator, Conversation, Event, EventSink, Message,
    PackedBatch, Role, RowOrigin, SamplingOptions, Seed, TokenizedSample, dealt,
};

use super::{QuickstartError, Work};

/// Most tokens of an answer that a program grades; more than this is a model that does not stop.
const MAX_ANSWER_TOKENS: usize = 64;
/// Most tokens of an answer that people read.
const MAX_OPEN_TOKENS: usize = 128;
/// Tokens of the packs that the held-out loss is measured on.
const HELD_OUT_PACK_TOKENS: usize = 1024;
/// Files below the quickstart's folder.
pub(super) const HELD_OUT: &str = "data/heldout.jsonl";
const CHECKS: &str = "data/checks.jsonl";
const INSTRUCTIONS: &str = "data/heldout_instructions.jsonl";
const KNOWLEDGE: &str = "data/knowledge.jsonl";
const OPEN_QUESTIONS: &str = "data/open_questions.jsonl";
/// Names of the sets.
const INSTRUCTION_SET: &str = "instructions followed";
const KNOWLEDGE_SET: &str = "general knowledge";
/// Names of the phases, before the name of the model.
pub(super) const HELD_OUT_LOSS: &str = "held-out loss";
pub(super) const KNOWLEDGE_PHASE: &str = KNOWLEDGE_SET;
pub(super) const ANSWERS: &str = "answers";

/// A prompt with instructions that a program can check, as in IFEval.
#[derive(Debug, Clone)]
struct Instructions {
    id: String,
    prompt: String,
    columns: Map<String, Value>,
    origin: RowOrigin,
}

/// A question with options, answered by the log-likelihood of each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    id: String,
    context: String,
    options: Vec<String>,
    answer: usize,
}

/// A question that no program grades.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenQuestion {
    id: String,
    messages: Vec<Message>,
}

/// Everything that a model is asked.
#[derive(Debug)]
pub(super) struct Tests {
    checks: Vec<Check>,
    instructions: Vec<Instructions>,
    choices: Vec<Choice>,
    open_questions: Vec<OpenQuestion>,
}

/// An answer, as ranks exchange it.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Answered {
    Graded(GradedAnswer),
    Open(OpenAnswer),
}

/// One request of a model, and what becomes of the reply.
enum Asked<'a> {
    Check(&'a Check),
    Instructions(&'a Instructions),
    Open(&'a OpenQuestion),
}

impl Tests {
    /// Reads the files of the quickstart's folder.
    pub(super) fn read(folder: &Path) -> Result<Self, QuickstartError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|source| RunError::Read { path, source })
        };
        let path = folder.join(INSTRUCTIONS);
        let rows: Vec<Map<String, Value>> = read_items(&path, &read(INSTRUCTIONS)?)?;
        let mut instructions = Vec::with_capacity(rows.len());
        for (idx, columns) in rows.into_iter().enumerate() {
            let Some(prompt) = columns.get("prompt").and_then(Value::as_str).map(str::to_owned) else {
                let reason = "`prompt` is missing, expected a text".into();
                return Err(BadItem { path, line: idx + 1, reason }.into());
            };
            let origin = RowOrigin { source: path.to_string_lossy().into(), line: idx as u64 + 1 };
            instructions.push(Instructions { id: format!("instructions-{idx}"), prompt, columns, origin });
        }
        let path = folder.join(KNOWLEDGE);
        let choices: Vec<Choice> = read_items(&path, &read(KNOWLEDGE)?)?;
        if let Some(idx) = choices.iter().position(|choice| choice.answer >= choice.options.len()) {
            let reason = "`answer` is not the index of an option".into();
            return Err(BadItem { path, line: idx + 1, reason }.into());
        }
        Ok(Self {
            checks: read_items(&folder.join(CHECKS), &read(CHECKS)?)?,
            instructions,
            choices,
            open_questions: read_items(&folder.join(OPEN_QUESTIONS), &read(OPEN_QUESTIONS)?)?,
        })
    }

    /// Options of all choices.
    pub(super) fn n_options(&self) -> usize {
        self.choices.iter().map(|choice| choice.options.len()).sum()
    }

    /// Answers that a model has to write.
    pub(super) fn n_answers(&self) -> usize {
        self.checks.len() + self.instructions.len() + self.open_questions.len()
    }

    fn asked(&self) -> Vec<Asked<'_>> {
        let checks = self.checks.iter().map(Asked::Check);
        let instructions = self.instructions.iter().map(Asked::Instructions);
        checks.chain(instructions).chain(self.open_questions.iter().map(Asked::Open)).collect()
    }
}

impl Asked<'_> {
    fn request(&self) -> ChatRequest {
        let conversation = |messages: Vec<Message>| Conversation { messages, tools: Vec::new() };
        let (conversation, max_new_tokens) = match self {
            Self::Check(check) => (check.conversation(), MAX_ANSWER_TOKENS),
            Self::Instructions(asked) => {
                (conversation(vec![Message::new(Role::User, asked.prompt.clone())]), MAX_ANSWER_TOKENS)
            }
            Self::Open(question) => (conversation(question.messages.clone()), MAX_OPEN_TOKENS),
        };
        let sampling = SamplingOptions { max_new_tokens, ..SamplingOptions::default() };
        ChatRequest { conversation, sampling }
    }

    fn answered(&self, reply: &ChatReply) -> Answered {
        match self {
            Self::Check(check) => Answered::Graded(check.grade(&reply.text)),
            Self::Instructions(asked) => Answered::Graded(asked.grade(reply)),
            Self::Open(question) => Answered::Open(OpenAnswer {
                id: question.id.clone(),
                prompt: truing_eval::checks::text_of(&question.messages),
                answer: reply.text.clone(),
            }),
        }
    }
}

impl Instructions {
    /// Right is what the strict check of IFEval passes, all instructions of the prompt.
    fn grade(&self, reply: &ChatReply) -> GradedAnswer {
        let prompt =
            Conversation { messages: vec![Message::new(Role::User, self.prompt.clone())], tools: Vec::new() };
        let completion = Completion {
            prompt: &prompt,
            text: &reply.text,
            n_tokens: reply.n_completion_tokens,
            finish_reason: reply.finish_reason,
            columns: &self.columns,
            origin: &self.origin,
        };
        let scores = Ifeval(IfevalConfig::default()).score(&[completion]);
        let names = self.columns.get("instruction_id_list").and_then(Value::as_array);
        let names: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
        GradedAnswer {
            id: self.id.clone(),
            set: INSTRUCTION_SET.into(),
            about: names.join(", "),
            prompt: self.prompt.clone(),
            expected: "every instruction of the prompt".into(),
            answer: reply.text.clone(),
            is_right: scores.first().is_some_and(|score| score.as_ref().is_ok_and(|&score| score >= 1.0)),
        }
    }
}

impl Work<'_> {
    /// Measures a model; `None` when it was stopped. Packs and questions are distributed over the ranks. `of` is the
    /// model in words, after what is measured.
    pub(super) fn measure<E: Engine>(
        &mut self,
        label: &str,
        of: &str,
        path: &Path,
        tests: &Tests,
    ) -> Result<Option<Evaluation>, QuickstartError> {
        let files = ModelFiles::open(path).map_err(RunError::from)?;
        let renderer = model::renderer(&files, self.quickstart.render.clone())?;
        let frozen = TrainableSpec::frozen();
        let options = EngineOptions::with_threads((self.look_at_machine)().n_threads, Seed(0));
        let mut engine: E = model::load_engine(&files, &frozen, &options, &Solo::groups(), &mut |_| ())?;
        let mut evaluation = Evaluation { label: label.to_owned(), ..Evaluation::default() };
        let is_done = self.measure_loss(&mut engine, &renderer, of, &mut evaluation)?
            && self.choose(&mut engine, &renderer, &tests.choices, of, &mut evaluation)?;
        if !is_done {
            return Ok(None);
        }
        let chat = LocalChat::new(engine, renderer).map_err(StageError::from)?;
        Ok(self.ask(&chat, tests, of, &mut evaluation)?.then_some(evaluation))
    }

    /// The loss of the held-out conversations; false when it was stopped.
    fn measure_loss<E: Engine>(
        &mut self,
        engine: &mut E,
        renderer: &ChatRenderer,
        of: &str,
        evaluation: &mut Evaluation,
    ) -> Result<bool, QuickstartError> {
        let communicator = &*self.groups.data;
        let packs = held_out_packs(&self.quickstart.folder.join(HELD_OUT), renderer)?;
        let mine: Vec<&[TokenizedSample]> =
            dealt(packs.len(), communicator).map(|place| packs[place].as_slice()).collect();
        let packs = mine
            .iter()
            .map(|samples| PackedBatch::from_samples(samples.iter()))
            .collect::<Result<Vec<_>, _>>();
        let packs = packs.map_err(StageError::from)?;
        let total = Some(packs.iter().map(|pack| pack.n_tokens() as u64).sum());
        let phase = format!("{HELD_OUT_LOSS} {of}");
        self.events.emit(Event::PhaseStarted { phase, total });
        let mut n_done = 0;
        let mut sizes: Vec<u64> = packs.iter().rev().map(|pack| pack.n_tokens() as u64).collect();
        let steps: Vec<Vec<PackedBatch>> = packs.into_iter().map(|pack| vec![pack]).collect();
        let (events, stop) = (&mut self.events, self.stop);
        let mut by_pack: Vec<Vec<(f64, f64)>> = Vec::with_capacity(steps.len());
        let measures = gradients::evaluate(engine, &steps, &Sft, communicator, &mut |outputs| {
            // A step is one pack.
            for output in outputs {
                let samples = mine.get(by_pack.len()).copied().unwrap_or_default();
                let weights = samples.iter().map(|sample| sample.loss_weights.as_slice());
                by_pack.push(sums_of_samples(weights, &output.tokens.log_probs));
            }
            n_done += sizes.pop().unwrap_or_default();
            events.emit(Event::Progress { done: n_done, note: String::new() });
            break_if(stop, communicator)
        });
        let measures = match measures {
            Ok(measures) => measures,
            Err(TrainError::BrokenOff) => return Ok(false),
            Err(error) => return Err(StageError::from(error).into()),
        };
        self.events.emit(Event::PhaseFinished);
        evaluation.heldout_loss = Some(measures.loss);
        evaluation.heldout_accuracy = measures.means.get("mean_token_accuracy").copied();
        evaluation.n_heldout_tokens = measures.n_loss_tokens;
        let sums = gather_dealt(communicator, by_pack)?.into_iter().flatten();
        evaluation.heldout_items = sums
            .filter(|&(_, weight): &(f64, f64)| weight > 0.0)
            .map(|(loss, weight)| (weight, loss / weight))
            .collect();
        Ok(true)
    }

    /// The option that the model finds most likely, of each item; false when it was stopped.
    fn choose<E: Engine>(
        &mut self,
        engine: &mut E,
        renderer: &ChatRenderer,
        choices: &[Choice],
        of: &str,
        evaluation: &mut Evaluation,
    ) -> Result<bool, QuickstartError> {
        let communicator = &*self.groups.data;
        let mine: Vec<&Choice> = dealt(choices.len(), communicator).map(|place| &choices[place]).collect();
        let asked: Vec<Continuations> = mine
            .iter()
            .map(|choice| Continuations { context: choice.context.clone(), options: choice.options.clone() })
            .collect();
        let total = Some(asked.iter().map(|item| item.options.len() as u64).sum());
        self.events.emit(Event::PhaseStarted { phase: format!("{KNOWLEDGE_PHASE} {of}"), total });
        let (events, stop) = (&mut self.events, self.stop);
        let options = LikelihoodOptions::default();
        let found = log_likelihoods(engine, renderer.tokenizer(), &asked, options, &mut |done| {
            events.emit(Event::Progress { done, note: String::new() });
            break_if(stop, communicator)
        })?;
        let Some(found) = found else { return Ok(false) };
        self.events.emit(Event::PhaseFinished);
        let answers = mine.iter().zip(found).map(|(choice, likelihoods)| {
            let best = (0..likelihoods.len())
                .max_by(|&a, &b| likelihoods[a].log_prob.total_cmp(&likelihoods[b].log_prob))
                .unwrap_or_default();
            let text = |idx: usize| choice.options.get(idx).map_or("", |text| text.trim()).to_owned();
            GradedAnswer {
                id: choice.id.clone(),
                set: KNOWLEDGE_SET.into(),
                about: "the most likely of four continuations".into(),
                prompt: choice.context.clone(),
                expected: text(choice.answer),
                answer: text(best),
                is_right: best == choice.answer,
            }
        });
        evaluation.answers.extend(gather_dealt(communicator, answers.collect())?);
        Ok(true)
    }

    /// Greedy answers to everything else; false when it was stopped.
    fn ask(
        &mut self,
        chat: &dyn ChatModel,
        tests: &Tests,
        of: &str,
        evaluation: &mut Evaluation,
    ) -> Result<bool, QuickstartError> {
        let communicator = &*self.groups.data;
        let all = tests.asked();
        let mine: Vec<&Asked<'_>> = dealt(all.len(), communicator).map(|place| &all[place]).collect();
        let requests: Vec<ChatRequest> = mine.iter().map(|asked| asked.request()).collect();
        let total = Some(requests.len() as u64);
        self.events.emit(Event::PhaseStarted { phase: format!("{ANSWERS} {of}"), total });
        let (events, stop) = (&mut self.events, self.stop);
        let mut n_done = 0;
        let replies = chat.chat_all(&requests, &mut |_, _| {
            n_done += 1;
            events.emit(Event::Progress { done: n_done, note: String::new() });
            break_if(stop, communicator)
        });
        let mut answers = Vec::with_capacity(mine.len());
        for (asked, reply) in mine.iter().zip(replies) {
            match reply {
                Ok(reply) => answers.push(asked.answered(&reply)),
                Err(ChatError::BrokenOff) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.events.emit(Event::PhaseFinished);
        if is_any_stopped(stop, communicator).map_err(RunError::from)? {
            return Ok(false);
        }
        for answered in gather_dealt(communicator, answers)? {
            match answered {
                Answered::Graded(answer) => evaluation.answers.push(answer),
                Answered::Open(answer) => evaluation.open_answers.push(answer),
            }
        }
        Ok(true)
    }
}

fn break_if(stop: &AtomicBool, communicator: &dyn Communicator) -> ControlFlow<()> {
    break_if_alone(stop, communicator.world_size())
}

/// The samples of each pack.
fn held_out_packs(path: &Path, renderer: &ChatRenderer) -> Result<Vec<Vec<TokenizedSample>>, StageError> {
    let mut packs = Vec::new();
    let mut pack: Vec<TokenizedSample> = Vec::new();
    for row in read_rows(&SourceConfig::new(path), OnBadRow::Error)? {
        let (row, origin) = row?;
        let sample = renderer.training(&row, origin)?.sample;
        let n_tokens = pack.iter().map(|sample| sample.tokens.len()).sum::<usize>();
        if !pack.is_empty() && n_tokens + sample.tokens.len() > HELD_OUT_PACK_TOKENS {
            packs.push(std::mem::take(&mut pack));
        }
        pack.push(sample);
    }
    if !pack.is_empty() {
        packs.push(pack);
    }
    Ok(packs)
}
