//! What the commands share that ask judges: `truing label` and `truing quality`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use truing_stages::StageError;
use truing_stages::agreement::Agreement;
use truing_stages::chat::{ChatModelConfig, OpenChatModel};
use truing_train::PlanRow;
use truing_types::EventSink;

use super::plan;
use crate::outcome::{Hinted, Outcome};
use crate::{Context, asking, interrupt, progress};

/// What is done with a recipe. The recipe itself is the command's own argument: clap tells that it is there by its
/// arguments alone, not by those of a struct around it.
#[derive(Debug, Args)]
pub(crate) struct JudgeArguments {
    /// Print the cost and call no model.
    #[arg(long)]
    plan: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

/// What will be asked.
pub(crate) struct Questions {
    /// The plan as lines, and in one sentence.
    pub(crate) rows: Vec<PlanRow>,
    pub(crate) summary: String,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

/// Says what it will cost, asks the judges, says how it ended. `work` gives its files' main one, a summary and how it
/// ended, unless it was stopped; `what` is what that file holds.
pub(crate) fn run<'a, Summary: Serialize>(
    arguments: &JudgeArguments,
    questions: &Questions,
    judges: impl Iterator<Item = &'a ChatModelConfig>,
    what: &str,
    work: impl FnOnce(
        Vec<OpenChatModel>,
        &mut dyn EventSink,
        &AtomicBool,
    ) -> Result<Option<(PathBuf, Summary, Outcome)>, StageError>,
    print: impl FnOnce(&Summary, &Context) -> anyhow::Result<()>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if arguments.plan {
        return plan::show_rows(questions.rows.clone(), &questions.summary, arguments.json, context);
    }
    let printer = context.printer;
    printer.note(&questions.summary);
    printer.note(format_args!(
        "about {} tokens of prompts and at most {} of replies, less what is in the cache",
        questions.prompt_tokens, questions.completion_tokens
    ));
    let stop = interrupt::stop_flag(
        "stopping: replies that come within 5 s are kept; run the same command to continue",
    )?;
    let mut events = progress::for_this_terminal(&printer);
    let judges = open(judges, &stop, events.as_mut(), context)?;
    let found = work(judges, events.as_mut(), &stop).map_err(with_advice)?;
    drop(events);
    match found {
        Some((path, summary, outcome)) => {
            if arguments.json {
                printer.json(&finished(what, &path, &summary))?;
            } else {
                print(&summary, context)?;
                printer.line(format_args!("{what}  {}", path.display()))?;
            }
            Ok(outcome)
        }
        None => {
            if arguments.json {
                printer.json(&json!({ "status": "interrupted" }))?;
            } else {
                printer.line("stopped; run the same command to continue; all replies that came are kept")?;
            }
            Ok(Outcome::Interrupted)
        }
    }
}

/// How a run ended whose judges left so much unanswered: its file is there, but it is no success where a judge left half of its
/// calls, or more.
pub(crate) fn outcome(is_half_unanswered: bool) -> Outcome {
    if is_half_unanswered { Outcome::Finding } else { Outcome::Fine }
}

/// What to do where the folder is of another run.
fn with_advice(error: StageError) -> anyhow::Error {
    match error {
        StageError::RecipeChanged { .. }
        | StageError::InputsChanged { .. }
        | StageError::FileChanged { .. } => {
            let hint = "`--set output_dir=...` starts another run; `--set judge.0.model.cache=FOLDER/replies.sqlite` lets \
                        it use the replies that the first one paid for"
                .to_owned();
            anyhow::Error::new(Hinted { source: error.into(), hint })
        }
        error => error.into(),
    }
}

fn finished(what: &str, path: &Path, summary: &impl Serialize) -> serde_json::Value {
    let mut told = json!({ "status": "finished", "summary": summary });
    told[what] = json!(path);
    told
}

fn open<'a>(
    judges: impl Iterator<Item = &'a ChatModelConfig>,
    stop: &Arc<AtomicBool>,
    events: &mut dyn EventSink,
    context: &Context,
) -> anyhow::Result<Vec<OpenChatModel>> {
    judges.map(|judge| Ok(judge.open(&asking::surroundings(judge, stop, context)?, events)?)).collect()
}

/// Gives a judge the name that was typed, for the summary, and finds its model where it is one in this process.
pub(crate) fn prepare(
    name: &mut Option<String>,
    model: &mut ChatModelConfig,
    context: &Context,
) -> anyhow::Result<()> {
    name.get_or_insert(model.name());
    asking::find_model(model, context)
}

/// Two judges on one dimension.
pub(crate) fn print_agreement(
    [first, second, dimension]: [&str; 3],
    agreement: &Agreement,
    context: &Context,
) -> anyhow::Result<()> {
    let kappa = share(agreement.kappa);
    context.printer.line(format_args!(
        "{first} and {second} on {dimension}: agreement {:.2} on {} items, Cohen's kappa {kappa}",
        agreement.share, agreement.n
    ))?;
    Ok(())
}

/// A share, or a dash where there is none.
pub(crate) fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"))
}
