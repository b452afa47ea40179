//! `truing pas`: prompt augmentation. Makes training pairs, trains the complement model, writes complements, adds them
//! to data, and measures what they change.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use truing_ask::pas::{Complementer, LastUserText, NoUserText};
use truing_construct::pas::{Fate, PasOutcome, PasPlan, PasStage, PasSummary};
use truing_construct::pas_evaluate::{
    Compared, Difference, PasEvaluateOutcome, PasEvaluatePlan, PasEvaluateStage, PasEvaluateSummary,
};
use truing_model::DecodingWeights;
use truing_stages::sft::SftStage;
use truing_stages::{RunError, StageError, StagePlan};
use truing_store::atomic;
use truing_types::Event;

use super::generate::read_prompts;
use super::judging;
use super::model::ModelArguments;
use super::output::check_is_no_input;
use super::pas_serve;
use super::stage::{self, RunKind, StageCommand};
use crate::outcome::{Outcome, WithHint};
use crate::printer::clean_path;
use crate::table::{Align, Table};
use crate::{Context, interrupt, progress};

/// Rows of a file whose complements are asked for together.
const ROWS_OF_A_CHUNK: usize = 512;
/// The width of a name in a table, where categories have none.
const ALL: &str = "all";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make training pairs: complements for a pool of prompts, written and reviewed by language models.
    #[command(after_help = "Examples:\
                            \n  truing pas build recipes/pas.toml --plan\
                            \n  truing pas build recipes/pas.toml --set critic=false")]
    Build(stage::Arguments),
    /// Train the complement model on pairs (SFT).
    #[command(after_help = "Example: truing pas train recipes/pas_sft.toml")]
    Train(stage::Arguments),
    /// Write the complement of one or many prompts.
    #[command(after_help = "Examples:\
                            \n  truing pas complete --model runs/pas_sft/model \"Why is the sky blue?\"\
                            \n  truing pas complete --model runs/pas_sft/model --file prompts.jsonl > \
                            complements.jsonl")]
    Complete(CompleteArguments),
    /// Append complements to the last user turn of SFT or RL rows; nothing else of a row changes.
    #[command(
        after_help = "Example: truing pas apply --model runs/pas_sft/model --data train.jsonl -o train_pas.jsonl"
    )]
    Apply(ApplyArguments),
    /// Measure what complements change: replies with and without, checked by programs and compared by a judge.
    #[command(after_help = "Examples:\
                            \n  truing pas evaluate recipes/pas_evaluate.toml --plan\
                            \n  truing pas evaluate recipes/pas_evaluate.toml --json")]
    Evaluate(stage::Arguments),
    /// Run a proxy before an OpenAI-compatible server that appends complements to prompts.
    #[command(
        after_help = "Example: truing pas serve --upstream http://127.0.0.1:8000 --model runs/pas_sft/model"
    )]
    Serve(pas_serve::Arguments),
}

/// The complement model of a command.
#[derive(Debug, Args)]
pub(crate) struct ComplementerArguments {
    /// The complement model: a model directory, a .gguf file, or a name on the Hugging Face hub.
    #[arg(long, short, value_name = "PATH|NAME")]
    model: String,
    /// Maximum tokens of a complement; a longer one is a failure.
    #[arg(long, value_name = "N", default_value_t = Complementer::MAX_NEW_TOKENS)]
    max_new_tokens: usize,
}

impl ComplementerArguments {
    fn open(&self, context: &Context) -> anyhow::Result<Complementer> {
        anyhow::ensure!(self.max_new_tokens > 0, "`--max-new-tokens` is 0, expected at least 1");
        let model = ModelArguments { model: self.model.clone() }.open(DecodingWeights::F32, context)?;
        Ok(Complementer::new(Box::new(model), self.max_new_tokens))
    }
}

/// Arguments of `truing pas complete`.
#[derive(Debug, Args)]
pub(crate) struct CompleteArguments {
    /// The prompt. Without it and without --file, prompts are read from standard input as JSON Lines, each with
    /// `prompt` (a string) or `messages` (a conversation, whose last user turn counts).
    #[arg(conflicts_with = "file")]
    prompt: Option<String>,
    /// Read prompts from a file: JSON Lines if its name ends in `.jsonl`, otherwise the whole file is one prompt.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    complementer: ComplementerArguments,
    /// A search result that the answer will be based on; the complement asks for nothing else. May be given several
    /// times.
    #[arg(long, value_name = "TEXT")]
    search_result: Vec<String>,
    /// Print one JSON object per prompt, with `prompt` and `complement`, or `error`. JSON Lines are always answered so.
    #[arg(long)]
    json: bool,
}

/// Arguments of `truing pas apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    #[command(flatten)]
    complementer: ComplementerArguments,
    /// JSON Lines of rows with `prompt`, `messages`, `conversations` or `question`.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Output file.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Print the counts as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command, context: &mut Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Build(arguments) => stage::run::<PasStage>(arguments, context),
        Command::Train(arguments) => stage::run::<SftStage>(arguments, context),
        Command::Complete(arguments) => complete(arguments, context),
        Command::Apply(arguments) => apply(arguments, context),
        Command::Evaluate(arguments) => stage::run::<PasEvaluateStage>(arguments, context),
        Command::Serve(arguments) => pas_serve::run(arguments, context),
    }
}

fn complete(arguments: &CompleteArguments, context: &Context) -> anyhow::Result<Outcome> {
    let (prompts, are_many) = read_prompts(arguments.prompt.as_deref(), arguments.file.as_deref())?;
    let texts: Vec<String> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let text = prompt.last_user_text();
            text.map(str::to_owned).with_context(|| format!("prompt {} has no turn of a user", i + 1))
        })
        .collect::<anyhow::Result<_>>()?;
    let results: Vec<&str> = arguments.search_result.iter().map(String::as_str).collect();
    let complementer = arguments.complementer.open(context)?;
    let as_json = arguments.json || are_many;
    let mut has_failed = false;
    for text in &texts {
        let complement = complementer.complement_within(text, &results);
        match (complement, as_json) {
            (Ok(complement), true) => {
                context.printer.line(json!({ "prompt": text, "complement": complement }))?;
            }
            (Ok(complement), false) => context.printer.line(complement)?,
            (Err(error), true) => {
                has_failed = true;
                context.printer.line(json!({ "prompt": text, "error": error.to_string() }))?;
            }
            (Err(error), false) => return Err(error).context("no complement"),
        }
    }
    Ok(if has_failed { Outcome::Finding } else { Outcome::Fine })
}

/// What became of the rows of a file.
#[derive(Debug, Default)]
struct Applied {
    n_rows: usize,
    n_complemented: usize,
    /// Rows that keep their text, by reason.
    kept: BTreeMap<String, usize>,
}

fn apply(arguments: &ApplyArguments, context: &Context) -> anyhow::Result<Outcome> {
    let path = &arguments.data;
    check_is_no_input(&arguments.output, [path.as_path()])?;
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rows = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let found = match line.trim() {
            "" => None,
            row => match LastUserText::find(row) {
                Err(error @ NoUserText::NotAnObject(_)) => {
                    return Err(anyhow::anyhow!("{}:{}: {error}", path.display(), i + 1))
                        .hint(|| "each line is one JSON object, for example {\"prompt\": \"...\"}".into());
                }
                found => Some(found),
            },
        };
        rows.push((line, found));
    }
    let complementer = arguments.complementer.open(context)?;
    let stop = interrupt::stop_flag("stopping: nothing is written");
    let mut writer = atomic::Writer::new(&arguments.output)?;
    let mut applied = Applied::default();
    let mut events = progress::for_this_terminal(&context.printer);
    events.emit(Event::PhaseStarted { phase: "writing complements".into(), total: Some(rows.len() as u64) });
    for (i, chunk) in rows.chunks(ROWS_OF_A_CHUNK).enumerate() {
        let mut done = (i * ROWS_OF_A_CHUNK) as u64;
        let mut on_done = || {
            done += 1;
            events.emit(Event::Progress { done, note: String::new() });
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let lines = applied.chunk(chunk, &complementer, &mut on_done);
        if is_stopped(&stop) {
            return Ok(Outcome::Interrupted);
        }
        writer
            .write_all(lines.as_bytes())
            .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    }
    events.emit(Event::PhaseFinished);
    writer.commit()?;
    let Applied { n_rows, n_complemented, kept } = applied;
    if arguments.json {
        context.printer.json(&json!({ "n_rows": n_rows, "n_complemented": n_complemented, "kept": kept }))?;
    } else {
        context.printer.line(format_args!("{n_complemented} of {n_rows} rows have a complement"))?;
        for (reason, n) in &kept {
            context.printer.line(format_args!("{n} are kept as they are: {reason}"))?;
        }
        context.printer.line(clean_path(&arguments.output))?;
    }
    Ok(if n_complemented == 0 { Outcome::Finding } else { Outcome::Fine })
}

fn is_stopped(stop: &Arc<AtomicBool>) -> bool {
    stop.load(Ordering::Relaxed)
}

/// A line with its end, and what is found in it; `None` for a blank line.
type Row<'a> = (&'a str, Option<Result<LastUserText, NoUserText>>);

impl Applied {
    /// The lines of some rows with their complements.
    fn chunk(
        &mut self,
        rows: &[Row<'_>],
        complementer: &Complementer,
        on_done: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> String {
        let prompts: Vec<&str> =
            rows.iter().filter_map(|(_, found)| Some(found.as_ref()?.as_ref().ok()?.text.as_str())).collect();
        let mut complements = complementer.complement_all(&prompts, on_done).into_iter();
        let mut lines = String::new();
        for (line, found) in rows {
            self.n_rows += usize::from(found.is_some());
            let complement = match found {
                None => None,
                Some(Err(error)) => Some(Err(error.to_string())),
                Some(Ok(found)) => complements.next().map(|complement| match complement {
                    Ok(complement) => Ok((found, complement)),
                    Err(error) => Err(error.to_string()),
                }),
            };
            match complement {
                Some(Ok((found, complement))) => {
                    self.n_complemented += 1;
                    let start = line.len() - line.trim_start().len();
                    lines.push_str(&line[..start]);
                    lines.push_str(&found.appended(&line[start..], &complement));
                }
                Some(Err(reason)) => {
                    *self.kept.entry(reason).or_default() += 1;
                    lines.push_str(line);
                }
                None => lines.push_str(line),
            }
        }
        lines
    }
}

/// What to do about a folder that holds another run. The same command continues a run, so nothing else is advised.
fn advice(error: &StageError) -> Option<String> {
    let is_other_run = matches!(
        error,
        StageError::Run(
            RunError::RecipeChanged { .. } | RunError::InputsChanged { .. } | RunError::FileChanged { .. },
        )
    );
    is_other_run.then(|| {
        "`--set output_dir=...` starts another run; a `cache` that names `replies.sqlite` of the first one \
         lets it use the replies that were paid for"
            .to_owned()
    })
}

impl StageCommand for PasStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &PasPlan, context: &Context) {
        context.printer.note(plan.summary());
        judging::announce_tokens(plan.prompt_tokens, plan.completion_tokens, context);
    }

    fn advice(error: &StageError, _: &Path) -> Option<String> {
        advice(error)
    }

    fn finish(outcome: PasOutcome, _: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
        let PasOutcome { pairs, fates, summary } = outcome;
        if as_json {
            let fields = json!({ "status": "finished", "summary": summary, "pairs": pairs, "fates": fates });
            context.printer.json(&fields)?;
        } else {
            print_pairs(&summary, context)?;
            context.printer.line(format_args!("pairs  {}", clean_path(&pairs)))?;
            context.printer.line(format_args!("fates  {}", clean_path(&fates)))?;
        }
        Ok(judging::outcome(2 * summary.n_pairs < summary.n_chosen))
    }
}

fn print_pairs(summary: &PasSummary, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let mut table = Table::new(&[("fate", Align::Left), ("prompts", Align::Right)]);
    let named = [
        (Fate::Accepted, "accepted"),
        (Fate::Corrected, "corrected by the critic"),
        (Fate::NotReviewed, "not reviewed"),
        (Fate::NoCriticVerdict, "no verdict of the critic"),
        (Fate::Capped, "rejected every time"),
    ];
    for (fate, name) in named {
        if let Some(n) = summary.fates.get(&fate) {
            table.row([name.to_owned(), n.to_string()]);
        }
    }
    for (reason, n) in &summary.dropped {
        table.row([format!("dropped: {reason}"), n.to_string()]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line(format_args!(
        "{} pairs in {} categories of {} prompts; {} complements were written again",
        summary.n_pairs,
        summary.categories.len(),
        summary.n_prompts,
        summary.n_regenerations
    ))?;
    Ok(())
}

impl StageCommand for PasEvaluateStage {
    const KIND: RunKind = judging::KIND;

    fn announce(plan: &PasEvaluatePlan, context: &Context) {
        context.printer.note(plan.summary());
    }

    fn advice(error: &StageError, _: &Path) -> Option<String> {
        advice(error)
    }

    fn finish(
        outcome: PasEvaluateOutcome,
        _: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let PasEvaluateOutcome { results, summary } = outcome;
        if as_json {
            context.printer.json(&json!({ "status": "finished", "summary": summary, "results": results }))?;
        } else {
            print_evidence(&summary, context)?;
            context.printer.line(format_args!("results  {}", clean_path(&results)))?;
        }
        let n_failed = summary.failures.values().sum::<usize>();
        Ok(judging::outcome(2 * n_failed > summary.n_prompts))
    }
}

fn percent(share: Difference) -> String {
    format!("{:.1} ({:.1} to {:.1})", 100.0 * share.value, 100.0 * share.low, 100.0 * share.high)
}

fn print_evidence(summary: &PasEvaluateSummary, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let rows = || {
        let all = std::iter::once((ALL, &summary.overall));
        all.chain(summary.categories.iter().map(|(name, compared)| (name.as_str(), compared)))
    };
    let right = Align::Right;
    if summary.overall.verified.is_some() {
        let mut table = Table::new(&[
            ("% follow every instruction", Align::Left),
            ("prompts", right),
            ("without", right),
            ("with complement", right),
            ("difference (95 %)", right),
            ("gained, lost", right),
            ("p (McNemar)", right),
        ]);
        for (name, Compared { verified, .. }) in rows() {
            let Some(found) = verified else { continue };
            table.row([
                name.to_owned(),
                found.n.to_string(),
                format!("{:.1}", 100.0 * found.without.value),
                format!("{:.1}", 100.0 * found.with.value),
                percent(found.difference),
                format!("{}, {}", found.n_gained, found.n_lost),
                format!("{:.3}", found.p_value),
            ]);
        }
        table.lines().into_iter().try_for_each(|line| printer.line(line))?;
    }
    if summary.overall.judged.is_some() {
        let mut table = Table::new(&[
            ("compared by the judge", Align::Left),
            ("better", right),
            ("same", right),
            ("worse", right),
            ("win rate, % (95 %)", right),
        ]);
        for (name, Compared { judged, .. }) in rows() {
            let Some(found) = judged else { continue };
            table.row([
                name.to_owned(),
                found.n_good.to_string(),
                found.n_same.to_string(),
                found.n_bad.to_string(),
                found.win_rate.map_or_else(|| "-".to_owned(), percent),
            ]);
        }
        table.lines().into_iter().try_for_each(|line| printer.line(line))?;
    }
    printer.line(format_args!(
        "{} prompts, {} of them without a usable complement",
        summary.n_prompts, summary.n_without_complement
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest};

    /// Writes "Be brief." for every prompt but those that say "fail".
    struct Brief;

    impl ChatModel for Brief {
        fn chat(
            &self,
            request: &ChatRequest,
            _: &mut dyn FnMut(&str) -> ControlFlow<()>,
        ) -> Result<ChatReply, ChatError> {
            match request.conversation.messages[0].content.contains("\nfail\n") {
                true => Err(ChatError::Failed("no".into())),
                false => Ok(ChatReply { text: "Be \"brief\".".into(), ..ChatReply::default() }),
            }
        }
    }

    #[test]
    fn rows_get_complements_or_stay_as_they_are() {
        let lines = [
            " {\"prompt\": \"a\", \"n\": 1.50}\r\n",
            "\n",
            "{\"x\": [], \"prompt\": \"fail\"}\n",
            "{\"text\": \"a\"}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"z\": 1, \"a\": 2}",
        ];
        let found = |line: &&'static str| {
            let row = line.trim();
            (*line, (!row.is_empty()).then(|| LastUserText::find(row)))
        };
        let rows: Vec<Row<'_>> = lines.iter().map(found).collect();
        let mut applied = Applied::default();
        let complementer = Complementer::new(Box::new(Brief), 20);
        let text = applied.chunk(&rows, &complementer, &mut || ControlFlow::Continue(()));
        let expected = [
            " {\"prompt\": \"a\\nBe \\\"brief\\\".\", \"n\": 1.50}\r\n",
            lines[1],
            lines[2],
            lines[3],
            "{\"messages\": [{\"role\": \"user\", \"content\": \"b\\nBe \\\"brief\\\".\"}], \"z\": 1, \"a\": 2}",
        ];
        assert_eq!(text, expected.concat());
        assert_eq!((applied.n_rows, applied.n_complemented), (4, 2));
        assert_eq!(applied.kept.values().sum::<usize>(), 2);
        assert!(applied.kept.contains_key("the model failed: no"), "{:?}", applied.kept);
    }
}
