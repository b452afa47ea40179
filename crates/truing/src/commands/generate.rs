//! `truing generate`: continues prompts, one from the command line or a file, or many as JSON lines.

use std::fs;
use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use truing_types::{
    ChatModel, ChatReply, ChatRequest, Conversation, FinishReason, Message, Role, SamplingOptions,
};

use super::model::{ModelArguments, OpenModel};
use super::sampling::SamplingArguments;
use crate::Context;
use crate::interrupt::{self, ReplyInterrupt};
use crate::outcome::{Outcome, WithHint};
use crate::printer::Printer;

/// The most likely tokens, unless asked otherwise.
const DEFAULT_TEMPERATURE: f32 = 0.0;

/// Arguments of `truing generate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The prompt. Without it and without --file, prompts are read from standard input as JSON Lines, each with
    /// `prompt` (a string) or `messages` (a conversation).
    #[arg(conflicts_with = "file")]
    prompt: Option<String>,
    /// Read prompts from a file: JSON Lines if its name ends in `.jsonl`, otherwise the whole file is one prompt.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Use the prompt as it is, without the chat template.
    #[arg(long)]
    raw: bool,
    /// System prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Print one JSON object per reply, when it is complete.
    #[arg(long)]
    json: bool,
}

/// One prompt, as a JSON line may give it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    /// `{"prompt": "..."}`.
    Text {
        /// The text.
        prompt: String,
    },
    /// `{"messages": [...]}`.
    Messages(Conversation),
}

impl Prompt {
    /// The text, or that of the last turn of a user.
    pub(super) fn last_user_text(&self) -> Option<&str> {
        match self {
            Self::Text { prompt } => Some(prompt),
            Self::Messages(conversation) => {
                let turn = conversation.messages.iter().rev().find(|turn| turn.role == Role::User)?;
                Some(&turn.content)
            }
        }
    }
}

/// A reply on one line.
#[derive(Debug, Serialize)]
struct JsonReply<'a> {
    index: usize,
    text: &'a str,
    /// The reasoning before the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    /// Calls of the prompt's tools.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [serde_json::Value],
    finish_reason: FinishReason,
    n_prompt_tokens: usize,
    n_new_tokens: usize,
}

/// Loads the model and answers every prompt in order.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let sampling = arguments.sampling.options(DEFAULT_TEMPERATURE)?;
    let (prompts, are_many) = read_prompts(arguments.prompt.as_deref(), arguments.file.as_deref())?;
    let model = arguments.model.open(arguments.sampling.decoding_weights(), context)?;
    let model = model.with_prompt_lookup(arguments.sampling.n_drafted());
    let interrupt = interrupt::for_replies();
    let as_json = arguments.json || are_many;
    for (index, prompt) in prompts.iter().enumerate() {
        let reply = answer(
            &model,
            arguments,
            prompt,
            &sampling,
            &interrupt,
            (!as_json).then_some(context.printer),
        )
        .with_context(|| if are_many { format!("prompt {}", index + 1) } else { "the prompt".into() })?;
        if as_json {
            let line = JsonReply {
                index,
                text: &reply.text,
                reasoning: reply.reasoning.as_deref(),
                tool_calls: &reply.tool_calls,
                finish_reason: reply.finish_reason,
                n_prompt_tokens: reply.n_prompt_tokens,
                n_new_tokens: reply.tokens.len(),
            };
            context.printer.line(serde_json::to_string(&line)?)?;
        } else {
            context.printer.line("")?;
        }
        if reply.finish_reason == FinishReason::Cancelled {
            return Ok(Outcome::Interrupted);
        }
    }
    let drafts = model.draft_counts();
    if drafts.n_drafted > 0 {
        let (accepted, drafted) = (drafts.n_accepted, drafts.n_drafted);
        context.printer.note(format_args!("accepted {accepted} of {drafted} drafted tokens"));
    }
    Ok(Outcome::Fine)
}

/// One reply, streamed where a printer is given.
fn answer(
    model: &OpenModel,
    arguments: &Arguments,
    prompt: &Prompt,
    sampling: &SamplingOptions,
    interrupt: &ReplyInterrupt,
    printer: Option<Printer>,
) -> anyhow::Result<ChatReply> {
    let mut written = Ok(());
    let running = interrupt.begin();
    let mut on_text = |text: &str| {
        written = printer.map_or(Ok(()), |printer| printer.text(text));
        if written.is_err() || running.is_interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let reply = match (prompt, arguments.raw) {
        (Prompt::Text { prompt }, true) => model.complete(prompt, sampling, &mut on_text)?.reply,
        (Prompt::Messages(_), true) => {
            anyhow::bail!("`--raw` takes texts (`prompt`), but this line has `messages`")
        }
        (prompt, false) => {
            let conversation = with_system(prompt, arguments.system.as_deref());
            model.chat(&ChatRequest { conversation, sampling: sampling.clone() }, &mut on_text)?
        }
    };
    drop(running);
    written?;
    Ok(reply)
}

fn with_system(prompt: &Prompt, system: Option<&str>) -> Conversation {
    let mut conversation = match prompt {
        Prompt::Text { prompt } => {
            Conversation { messages: vec![Message::new(Role::User, prompt.as_str())], tools: Vec::new() }
        }
        Prompt::Messages(conversation) => conversation.clone(),
    };
    if let Some(system) = system {
        conversation.messages.insert(0, Message::new(Role::System, system));
    }
    conversation
}

/// The prompts, and whether they came as JSON lines: the text, or those of a file, or else of standard input.
pub(super) fn read_prompts(prompt: Option<&str>, file: Option<&Path>) -> anyhow::Result<(Vec<Prompt>, bool)> {
    let name_of = |path: &Path| path.display().to_string();
    match (prompt, file) {
        (Some(prompt), _) => Ok((vec![Prompt::Text { prompt: prompt.to_owned() }], false)),
        (None, Some(path)) if path.extension().is_some_and(|extension| extension == "jsonl") => {
            let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((parse_lines(io::BufReader::new(file), &name_of(path))?, true))
        }
        (None, Some(path)) => {
            let prompt =
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((vec![Prompt::Text { prompt }], false))
        }
        (None, None) => Ok((parse_lines(io::stdin().lock(), "standard input")?, true)),
    }
}

fn parse_lines(lines: impl BufRead, name: &str) -> anyhow::Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for (idx, line) in lines.lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if !line.trim().is_empty() {
            let prompt = serde_json::from_str(&line)
                .map_err(|_| anyhow::anyhow!("{name}:{}: no prompt", idx + 1))
                .hint(|| {
                    "each line is {\"prompt\": \"...\"} or {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}]}"
                        .into()
                })?;
            prompts.push(prompt);
        }
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_texts_or_conversations() {
        let text = "{\"prompt\": \"a\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n";
        let prompts = parse_lines(text.as_bytes(), "in").unwrap();
        assert_eq!(prompts[0], Prompt::Text { prompt: "a".into() });
        assert_eq!(with_system(&prompts[1], Some("s")).messages.len(), 2);
        let error = parse_lines("{\"prompt\": \"a\"}\nnonsense\n".as_bytes(), "in").unwrap_err();
        assert_eq!(error.to_string(), "in:2: no prompt");
    }
}
