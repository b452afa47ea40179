//! `truing chat`: a conversation on the terminal. Lines from a pipe work as well, one turn a line.

use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use rustyline::DefaultEditor;
use rustyline::config::Configurer as _;
use rustyline::error::ReadlineError;
use truing_types::{ChatModel, ChatRequest, Conversation, FinishReason, Message, Role, SamplingOptions};

use super::model::ModelArguments;
use super::sampling::SamplingArguments;
use crate::Context;
use crate::interrupt::{self, ReplyInterrupt};
use crate::outcome::Outcome;
use crate::printer::Printer;

/// A little variety, as one expects of a conversation.
const DEFAULT_TEMPERATURE: f32 = 0.6;

/// Arguments of `truing chat`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// System prompt.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Neither read nor write the file with the lines of earlier chats.
    #[arg(long)]
    no_history: bool,
}

const HELP: &str = "\
/reset          forget the conversation, keep the system message
/system TEXT    set the system message and forget the conversation; without TEXT there is none
/seed N         draw with another seed
/quit           leave (or Ctrl-D); Ctrl-C stops a reply";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// A turn of the user.
    Turn(&'a str),
    /// Nothing but white space.
    Empty,
    Reset,
    System(&'a str),
    Seed(u64),
    Help,
    Quit,
    /// A command that there is not, or an argument it cannot take.
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return if line.is_empty() { Self::Empty } else { Self::Turn(line) };
        };
        let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, argument.trim()) {
            ("reset", "") => Self::Reset,
            ("system", text) => Self::System(text),
            ("seed", number) => number.parse().map_or(Self::Unknown(line), Self::Seed),
            ("help" | "?", "") => Self::Help,
            ("quit" | "exit" | "q", "") => Self::Quit,
            _ => Self::Unknown(line),
        }
    }
}

/// Lines of history that are kept.
const MAX_HISTORY: usize = 1000;
/// Their file in the cache folder. The editor makes it readable by its owner alone.
const HISTORY_FILE: &str = "chat_history";

/// Where the turns come from.
enum Input {
    /// A terminal, with line editing and history. A paste that the terminal marks is one turn, however long.
    Editor { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    /// A pipe, one turn per line.
    Pipe(io::Lines<io::StdinLock<'static>>),
}

impl Input {
    fn open(keeps_history: bool, context: &Context) -> anyhow::Result<Self> {
        if !(context.printer.stdout_is_terminal() && io::IsTerminal::is_terminal(&io::stdin())) {
            return Ok(Self::Pipe(io::stdin().lock().lines()));
        }
        let mut editor = Box::new(DefaultEditor::new()?);
        editor.set_max_history_size(MAX_HISTORY)?;
        editor.set_auto_add_history(true);
        let cache = context.environment.model_cache.as_ref().filter(|_| keeps_history);
        let history = cache.map(|cache| cache.join(HISTORY_FILE));
        if let Some(path) = history.as_ref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            context.printer.note(format_args!("{} cannot be read: {error}", path.display()));
        }
        Ok(Self::Editor { editor, history })
    }

    /// The next line; `None` at the end of the input. Ctrl-C on a terminal gives an empty line.
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Pipe(lines) => Ok(lines.next().transpose()?),
            Self::Editor { editor, .. } => match editor.readline("> ") {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
                Err(ReadlineError::Eof) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Self::Editor { editor, history: Some(path) } = self {
            // A history that cannot be kept is no reason to fail a conversation that has ended.
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(path);
        }
    }
}

/// Loads the model and talks until the input ends.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let mut sampling = arguments.sampling.options(DEFAULT_TEMPERATURE)?;
    let model = arguments.model.open(arguments.sampling.decoding_weights(), context)?;
    let model = model.with_prompt_lookup(arguments.sampling.n_drafted());
    let interrupt = interrupt::for_replies();
    let printer = context.printer;
    let mut conversation = Conversation::default();
    set_system(&mut conversation, arguments.system.as_deref().unwrap_or(""));
    printer.note("/help lists the commands, /quit leaves");
    let mut input = Input::open(!arguments.no_history, context)?;
    loop {
        let Some(line) = input.next()? else { return Ok(Outcome::Fine) };
        match Line::parse(&line) {
            Line::Turn(text) => {
                conversation.messages.push(Message::new(Role::User, text));
                reply(&model, &mut conversation, &sampling, &interrupt, printer)?;
            }
            Line::Empty => {}
            Line::Reset => conversation.messages.retain(|message| message.role == Role::System),
            Line::System(text) => {
                conversation.messages.clear();
                set_system(&mut conversation, text);
            }
            Line::Seed(seed) => sampling.seed = seed,
            Line::Help => printer.note(HELP),
            Line::Quit => return Ok(Outcome::Fine),
            Line::Unknown(text) => printer.note(format_args!("`{text}` is not a command; /help lists them")),
        }
    }
}

fn set_system(conversation: &mut Conversation, text: &str) {
    if !text.is_empty() {
        conversation.messages.insert(0, Message::new(Role::System, text));
    }
}

/// Streams the next turn and adds it to the conversation, also if it was interrupted.
fn reply(
    model: &dyn ChatModel,
    conversation: &mut Conversation,
    sampling: &SamplingOptions,
    interrupt: &ReplyInterrupt,
    printer: Printer,
) -> anyhow::Result<()> {
    let request = ChatRequest { conversation: conversation.clone(), sampling: sampling.clone() };
    let mut written = Ok(());
    let running = interrupt.begin();
    let reply = model.chat(&request, &mut |text| {
        written = printer.text(text);
        if written.is_err() || running.is_interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    drop(running);
    written?;
    match reply {
        Ok(reply) => {
            printer.line("")?;
            match reply.finish_reason {
                FinishReason::Length => printer.note("(cut off at --max-new-tokens)"),
                FinishReason::Cancelled => printer.note("(interrupted)"),
                FinishReason::ContentFilter | FinishReason::Refusal | FinishReason::ToolCalls => {
                    printer.note("(the model gave no answer)");
                }
                FinishReason::EndOfTurn | FinishReason::StopText => {}
            }
            // The template decides whether earlier reasoning is shown to the model.
            let turn = Message::new(Role::Assistant, reply.text);
            conversation.messages.push(Message { reasoning_content: reply.reasoning, ..turn });
        }
        Err(error) => {
            // The turn that could not be answered is taken back, so that the conversation can continue.
            conversation.messages.pop();
            printer.print_error(&anyhow::Error::new(error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_turns_or_commands() {
        for (line, expected) in [
            ("hello there \n", Line::Turn("hello there")),
            ("  ", Line::Empty),
            ("/reset", Line::Reset),
            ("/system  be brief ", Line::System("be brief")),
            ("/system", Line::System("")),
            ("/seed 12", Line::Seed(12)),
            ("/seed x", Line::Unknown("/seed x")),
            ("/q", Line::Quit),
            ("/rest", Line::Unknown("/rest")),
        ] {
            assert_eq!(Line::parse(line), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_history_is_readable_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(HISTORY_FILE);
        // As an earlier version, or another program, may have left it.
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut editor = DefaultEditor::new().unwrap();
        editor.add_history_entry("first line\nsecond line").unwrap();
        drop(Input::Editor { editor: Box::new(editor), history: Some(path.clone()) });
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = DefaultEditor::new().unwrap();
        again.load_history(&path).unwrap();
        assert_eq!(again.history().iter().collect::<Vec<_>>(), ["first line\nsecond line"]);
    }

    #[test]
    fn an_unanswerable_turn_is_taken_back() {
        struct Refuses;
        impl ChatModel for Refuses {
            fn chat(
                &self,
                _: &ChatRequest,
                _: &mut dyn FnMut(&str) -> ControlFlow<()>,
            ) -> Result<truing_types::ChatReply, truing_types::ChatError> {
                Err(truing_types::ChatError::BadRequest("too long".into()))
            }
        }
        let mut conversation = Conversation::default();
        conversation.messages.push(Message::new(Role::User, "x"));
        let interrupt = ReplyInterrupt::default();
        let printer = Printer::new(true, true);
        reply(&Refuses, &mut conversation, &SamplingOptions::default(), &interrupt, printer).unwrap();
        assert!(conversation.messages.is_empty());
    }
}
