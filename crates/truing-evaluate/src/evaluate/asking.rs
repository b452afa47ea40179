//! Who is asked: the model in this process, a model on a server, a reward model, the judge.

use std::ops::ControlFlow;

use truing_ask::OpenChatModel;
use truing_eval::benchmarks::{Answer, Ask, LogLikelihood, Prompt, Request};
use truing_generate::LocalChat;
use truing_model::{Engine, EngineOptions, HeadKind, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_predict::{
    Continuations, LikelihoodOptions, RewardScorer, log_likelihoods, rolling_log_likelihoods,
};
use truing_run::{RunError, model};
use truing_text::{RenderOptions, SpecialTokens};
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, Conversation, EventSink, Message, Role,
    SamplingOptions, Seed, Unscored, UnscoredReason,
};

use super::config::EvaluateConfig;
use crate::StageError;

/// The model that is evaluated.
pub(super) enum Subject<E: Engine> {
    /// In this process.
    Local(Box<LocalChat<E>>),
    /// On a server.
    Server(OpenChatModel),
    /// A model with a scalar head.
    Reward(Box<RewardScorer<E>>),
}

impl<E: Engine> Subject<E> {
    /// Loads the model in this process.
    pub(super) fn load(
        files: &ModelFiles,
        render: &RenderOptions,
        n_threads: usize,
        marks: &[truing_types::ReasoningMark],
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        if files.spec.head != HeadKind::LanguageModel {
            let scorer = RewardScorer::open(&files.path, render.clone(), n_threads, events)?;
            return Ok(Self::Reward(Box::new(scorer)));
        }
        let renderer = model::renderer(files, render.clone())?;
        let options = EngineOptions::with_threads(n_threads, Seed(0));
        let frozen = TrainableSpec::frozen();
        let phase = "loading the model";
        let engine: E = model::announce_and_load(files, &frozen, &options, &Solo::groups(), phase, events)?;
        let chat = LocalChat::new(engine, renderer)?.with_reasoning_marks(marks);
        Ok(Self::Local(Box::new(chat)))
    }
}

/// How prompts are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Showing<'a> {
    pub(super) config: &'a EvaluateConfig,
    pub(super) is_chat: bool,
}

impl Showing<'_> {
    fn conversation(&self, prompt: &Prompt) -> Conversation {
        let mut conversation = prompt.conversation(self.config.fewshot_as_multiturn);
        if let Some(system) = &self.config.system_instruction {
            match conversation.messages.first_mut().filter(|first| first.role == Role::System) {
                Some(first) => first.content = format!("{system}\n\n{}", first.content),
                None => conversation.messages.insert(0, Message::new(Role::System, system.clone())),
            }
        }
        conversation
    }

    fn sampling(&self, sampling: &SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            max_new_tokens: self.config.max_new_tokens.unwrap_or(sampling.max_new_tokens),
            temperature: self.config.temperature.unwrap_or(sampling.temperature),
            seed: sampling.seed.wrapping_add(self.config.seed),
            ..sampling.clone()
        }
    }
}

/// Gets each answer as it arrives, with the place of its request.
pub(super) type OnAnswer<'a> = &'a mut dyn FnMut(usize, Answer) -> ControlFlow<()>;

impl<E: Engine> Subject<E> {
    /// Asks the model. Answers arrive in any order; after a break, or a stop of the process, some do not.
    pub(super) fn ask(
        &mut self,
        requests: &[&Request],
        showing: Showing<'_>,
        on_answer: OnAnswer<'_>,
    ) -> Result<(), StageError> {
        match self {
            Self::Reward(scorer) => ask_rewards(scorer, requests, on_answer),
            Self::Server(open) => {
                ask_texts(requests, showing, on_answer, &mut |chats, _, on_result| {
                    open.model.chat_all(chats, on_result);
                });
                Ok(())
            }
            Self::Local(chat) => {
                ask_texts(requests, showing, on_answer, &mut |chats, texts, on_result| {
                    match showing.is_chat || texts.is_empty() {
                        true => chat.chat_all(chats, on_result),
                        false => chat.complete_all(texts, on_result),
                    };
                });
                ask_likelihoods(chat, requests, showing, on_answer)
            }
        }
    }
}

/// Asks the judge.
pub(super) fn ask_judge(judge: &OpenChatModel, requests: &[&Request], on_answer: OnAnswer<'_>) {
    let chats: Vec<(usize, ChatRequest)> = requests
        .iter()
        .enumerate()
        .filter_map(|(request_idx, request)| match &request.ask {
            Ask::Generate { prompt, sampling } => Some((
                request_idx,
                ChatRequest { conversation: prompt.conversation(false), sampling: sampling.clone() },
            )),
            _ => None,
        })
        .collect();
    let (request_indices, chats): (Vec<usize>, Vec<ChatRequest>) = chats.into_iter().unzip();
    judge.model.chat_all(&chats, &mut |idx, result| match answer_of(result, UnscoredReason::JudgeFailed) {
        Some(answer) => on_answer(request_indices[idx], answer),
        None => ControlFlow::Break(()),
    });
}

/// An answer of a chat model; nothing where it was not asked.
fn answer_of(result: &ChatResult, reason: UnscoredReason) -> Option<Answer> {
    match result {
        Ok(reply) => Some(Answer::Reply(ChatReply::clone(reply))),
        Err(ChatError::BrokenOff | ChatError::NotAsked(_)) => None,
        Err(error) => {
            let reason = match (error.is_permanent(), reason) {
                (true, UnscoredReason::JudgeFailed) => UnscoredReason::JudgeRefused,
                _ => reason,
            };
            Some(Answer::Failed(Unscored::new(reason, error.to_string())))
        }
    }
}

/// What asks conversations, or, without a chat template, raw texts.
type AskAll<'a> = &'a mut dyn FnMut(
    &[ChatRequest],
    &[(String, SamplingOptions)],
    &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
);

fn ask_texts(requests: &[&Request], showing: Showing<'_>, on_answer: OnAnswer<'_>, ask_all: AskAll<'_>) {
    let (mut chat_indices, mut chats) = (Vec::new(), Vec::new());
    let (mut text_indices, mut texts) = (Vec::new(), Vec::new());
    for (request_idx, request) in requests.iter().enumerate() {
        let Ask::Generate { prompt, sampling } = &request.ask else { continue };
        match prompt {
            Prompt::Completion(prompt) if !showing.is_chat => {
                text_indices.push(request_idx);
                texts.push((prompt.text(), showing.sampling(sampling)));
            }
            prompt => {
                chat_indices.push(request_idx);
                let conversation = showing.conversation(prompt);
                chats.push(ChatRequest { conversation, sampling: showing.sampling(sampling) });
            }
        }
    }
    let mut flow = ControlFlow::Continue(());
    let mut hand_on = |request_indices: &[usize], idx: usize, result: &ChatResult| {
        flow = match answer_of(result, UnscoredReason::Failed) {
            Some(answer) => on_answer(request_indices[idx], answer),
            None => ControlFlow::Break(()),
        };
        flow
    };
    if !chats.is_empty() {
        ask_all(&chats, &[], &mut |idx, result| hand_on(&chat_indices, idx, result));
    }
    if !texts.is_empty() {
        ask_all(&[], &texts, &mut |idx, result| hand_on(&text_indices, idx, result));
    }
}

fn ask_likelihoods<E: Engine>(
    chat: &mut LocalChat<E>,
    requests: &[&Request],
    showing: Showing<'_>,
    on_answer: OnAnswer<'_>,
) -> Result<(), StageError> {
    let (mut request_indices, mut items) = (Vec::new(), Vec::new());
    let (mut text_indices, mut texts) = (Vec::new(), Vec::new());
    for (request_idx, request) in requests.iter().enumerate() {
        match &request.ask {
            Ask::LogLikelihood { context, .. } => {
                let options = request.ask.continuations(showing.is_chat);
                let context = match context {
                    Prompt::Completion(prompt) if !showing.is_chat => prompt.text(),
                    prompt => chat.renderer().prompt_text(&showing.conversation(prompt))?,
                };
                request_indices.push(request_idx);
                items.push(Continuations { context, options });
            }
            Ask::Rolling { text } => {
                text_indices.push(request_idx);
                texts.push(text.as_str());
            }
            Ask::Generate { .. } | Ask::Reward { .. } => {}
        }
    }
    let tokenizer = chat.renderer().tokenizer().clone();
    let adds_bos = showing.config.add_bos_token.unwrap_or(!showing.is_chat && tokenizer.adds_bos());
    let options = LikelihoodOptions {
        add_bos_token: adds_bos,
        special: if showing.is_chat { SpecialTokens::Parse } else { SpecialTokens::AsText },
    };
    // A few at a time, so that answers are kept as they come.
    for (request_indices, items) in request_indices.chunks(AT_A_TIME).zip(items.chunks(AT_A_TIME)) {
        let engine = chat.engine_mut()?;
        let go_on = &mut |_| ControlFlow::Continue(());
        let found = log_likelihoods(engine, &tokenizer, items, options, go_on)?.unwrap_or_default();
        for (request_idx, found) in request_indices.iter().zip(found) {
            if on_answer(*request_idx, likelihoods(&found)).is_break() {
                return Ok(());
            }
        }
    }
    for (request_indices, texts) in text_indices.chunks(AT_A_TIME).zip(texts.chunks(AT_A_TIME)) {
        let engine = chat.engine_mut()?;
        let go_on = &mut |_| ControlFlow::Continue(());
        let found = rolling_log_likelihoods(engine, &tokenizer, texts, go_on)?.unwrap_or_default();
        for (request_idx, found) in request_indices.iter().zip(found) {
            if on_answer(*request_idx, likelihoods(&[found])).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Items whose likelihoods are computed before they are kept.
const AT_A_TIME: usize = 8;

fn likelihoods(found: &[truing_predict::Likelihood]) -> Answer {
    let one = |found: &truing_predict::Likelihood| LogLikelihood {
        sum: found.log_prob,
        n_tokens: found.n_tokens,
        is_greedy: found.is_greedy,
    };
    Answer::LogLikelihoods(found.iter().map(one).collect())
}

fn ask_rewards<E: Engine>(
    scorer: &mut RewardScorer<E>,
    requests: &[&Request],
    on_answer: OnAnswer<'_>,
) -> Result<(), StageError> {
    for (request_idx, request) in requests.iter().enumerate() {
        let Ask::Reward { prompt, responses } = &request.ask else { continue };
        let responses: Vec<[Message; 1]> =
            responses.iter().map(|response| [Message::new(Role::Assistant, response.clone())]).collect();
        let asked: Vec<(&Conversation, &[Message])> =
            responses.iter().map(|response| (prompt, &response[..])).collect();
        let rewards: Result<Vec<f64>, String> = scorer.score(&asked)?.into_iter().collect();
        let answer = match rewards {
            Ok(rewards) => Answer::Rewards(rewards),
            Err(reason) => Answer::Failed(Unscored::new(UnscoredReason::Failed, reason)),
        };
        if on_answer(request_idx, answer).is_break() {
            break;
        }
    }
    Ok(())
}

/// What ends an evaluation: every further request would fail. `key` is the setting of the model that was asked.
pub(super) fn refusal(key: &'static str, name: &str, reason: &str) -> StageError {
    StageError::Run(RunError::BadSetting {
        key,
        found: format!("{name}: {reason}"),
        expected: "a working model; the answers so far are saved, and the same command continues".into(),
    })
}
