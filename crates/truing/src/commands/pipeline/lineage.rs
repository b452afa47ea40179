//! `truing pipeline lineage`: where a row came from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use truing_data::parse_row;
use truing_model::ModelFiles;
use truing_pipeline::{Lineage, Reader, Record, RowAddress, Trace, TracedRow};
use truing_run::Recipe as _;
use truing_stages::training::TrainingConfig;
use truing_text::{ChatRenderer, WithoutLoss};
use truing_types::RowOrigin;

use super::Opened;
use super::host::ProgramHost;
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::{Printer, Style};
use crate::rendering::render_options;

/// Fields of a row that are not repeated: texts, and what is followed anyway.
const NOT_SHOWN: [&str; 12] = [
    "id",
    "source",
    "origin",
    "messages",
    "prompt",
    "conversations",
    "text",
    "chosen",
    "rejected",
    "tools",
    "complement",
    "raw",
];
/// Longest text of a field that is shown, in characters.
const MAX_TEXT: usize = 60;
/// Facts of a row that are shown.
const MAX_FACTS: usize = 14;
/// Records of a row that are shown.
const MAX_RECORDS: usize = 6;
/// The kind of stage whose samples can be rendered here.
const RENDERED: &str = "sft";

/// Arguments of `truing pipeline lineage`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pipeline's recipe, a TOML file.
    recipe: PathBuf,
    /// The stage that left the row or reads it. With `/FILE` an output of it, a file's name, or a setting that names a
    /// file; otherwise its first output with rows, or its data.
    #[arg(value_name = "STAGE[/FILE]")]
    place: String,
    /// The row: its line, counted from 1, or its `id` (`id=7` where the id is a number).
    row: String,
    /// Of a row that a stage of kind `sft` reads: also show its tokens, or those of this range, counted from 0.
    #[arg(long, value_name = "FROM..TO", num_args = 0..=1, require_equals = true, default_missing_value = "..")]
    tokens: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Tokens of a row as a stage renders it.
#[derive(Debug, Serialize)]
struct Tokens {
    n_tokens: usize,
    n_loss_tokens: usize,
    from: usize,
    to: usize,
    tokens: Vec<Token>,
}

/// A token of a row.
#[derive(Debug, Serialize)]
struct Token {
    id: u32,
    text: String,
    loss_weight: f32,
    /// The turn that its text is in, counted from 0; none of what the template adds.
    turn: Option<usize>,
}

/// Follows the row and prints what it was made of.
pub(super) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<Outcome> {
    let host = ProgramHost::new(context, None);
    let opened = Opened::open(&arguments.recipe, &host)?;
    let lineage = Lineage::open(&opened.pipeline, &opened.plan, &opened.store, &opened.digests, &host)?;
    let (stage, file) = match arguments.place.split_once('/') {
        Some((stage, file)) => (stage, Some(file)),
        None => (arguments.place.as_str(), None),
    };
    let mut trace = lineage.trace(RowAddress { stage, file, row: &arguments.row })?;
    opened.save_digests(&host);
    let tokens = arguments.tokens.as_ref().map(|range| tokens(range, &trace, &opened)).transpose()?;
    let printer = context.printer;
    if arguments.json {
        let mut shown = json!(trace);
        if let Some(tokens) = &tokens {
            shown["tokens"] = json!(tokens);
        }
        printer.json(&shown)?;
        return Ok(Outcome::Fine);
    }
    name_stages(&mut trace, &opened);
    if trace.n_with_id > 1 {
        printer.note(format_args!("{} rows have this id; this is the first", trace.n_with_id));
    }
    let mut depth = 0;
    if let Some(Reader { stage, uses, setting, records, n_records_left_out }) = &trace.reader {
        printer.line(printer.styled(Style::Bold, format!("{stage} ({uses}) reads it as {setting}")))?;
        print_records(records, *n_records_left_out, 1, printer)?;
        if let Some(tokens) = &tokens {
            print_tokens(tokens, printer)?;
        }
        depth = 1;
    }
    print_row(&trace.row, depth, printer)?;
    Ok(Outcome::Fine)
}

/// Names results by their stages: a model that a stage left is a long path in a row.
fn name_stages(trace: &mut Trace, opened: &Opened) {
    let stages = opened.plan.stages.iter();
    let folders: Vec<(String, &str)> = stages
        .filter_map(|stage| {
            let folder = opened.store.run_folder(stage.key?);
            Some((format!("{}/", folder.to_string_lossy()), stage.name.as_str()))
        })
        .collect();
    let records = trace.reader.iter_mut().flat_map(|reader| &mut reader.records);
    records.for_each(|record| name_in_fields(&mut record.row, &folders));
    name_in_row(&mut trace.row, &folders);
}

fn name_in_row(row: &mut TracedRow, folders: &[(String, &str)]) {
    let own = row.row.iter_mut().chain(row.records.iter_mut().map(|record| &mut record.row));
    own.for_each(|fields| name_in_fields(fields, folders));
    row.from.iter_mut().for_each(|from| name_in_row(from, folders));
}

fn name_in_fields(fields: &mut Map<String, Value>, folders: &[(String, &str)]) {
    fields.values_mut().for_each(|value| name_in_value(value, folders));
}

fn name_in_value(value: &mut Value, folders: &[(String, &str)]) {
    match value {
        Value::String(text) => {
            let named = folders
                .iter()
                .find_map(|(folder, stage)| Some(format!("{stage}/{}", text.strip_prefix(folder.as_str())?)));
            if let Some(named) = named {
                *text = named;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| name_in_value(value, folders)),
        Value::Object(fields) => name_in_fields(fields, folders),
        _ => {}
    }
}

fn indented(depth: usize, text: &str, printer: Printer) -> anyhow::Result<()> {
    Ok(printer.line(format!("{}{}", "  ".repeat(depth), one_line(text)))?)
}

/// A text of a row on one line: data does not command the terminal.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn print_row(row: &TracedRow, depth: usize, printer: Printer) -> anyhow::Result<()> {
    let file = match &row.stage {
        Some(stage) => format!("{stage}/{}", row.file),
        None => row.file.clone(),
    };
    let kind = row.uses.as_ref().map_or_else(String::new, |uses| format!(" ({uses})"));
    let id = row.id.as_ref().map_or_else(String::new, |id| format!("  id {id}"));
    let head = one_line(&format!("{file}:{}{kind}{id}", row.line));
    printer.line(format!("{}{}", "  ".repeat(depth), printer.styled(Style::Bold, head)))?;
    match &row.row {
        Some(fields) => print_facts(fields, depth + 1, printer)?,
        None => indented(depth + 1, "this line holds no row", printer)?,
    }
    print_records(&row.records, row.n_records_left_out, depth + 1, printer)?;
    for from in &row.from {
        print_row(from, depth + 1, printer)?;
    }
    match &row.note {
        Some(note) => indented(depth + 1, &format!("not followed further: {note}"), printer),
        None => Ok(()),
    }
}

/// Prints the first records. `n_left_out` are not among them, for they are too many.
fn print_records(
    records: &[Record],
    n_left_out: usize,
    depth: usize,
    printer: Printer,
) -> anyhow::Result<()> {
    for Record { file, line, row } in records.iter().take(MAX_RECORDS) {
        let facts = facts(row).join(", ");
        let facts = if facts.is_empty() { String::new() } else { format!("  {facts}") };
        indented(depth, &format!("{file}:{line}{facts}"), printer)?;
    }
    match (records.len().saturating_sub(MAX_RECORDS) + n_left_out, n_left_out) {
        (0, _) => Ok(()),
        (more, 0) => indented(depth, &format!("and {more} more; `--json` has all"), printer),
        (more, _) => {
            indented(depth, &format!("and {more} more; `--json` has the first {}", records.len()), printer)
        }
    }
}

fn print_facts(fields: &Map<String, Value>, depth: usize, printer: Printer) -> anyhow::Result<()> {
    let facts = facts(fields).join(", ");
    if facts.is_empty() { Ok(()) } else { indented(depth, &facts, printer) }
}

/// The short values of a row, with their names.
fn facts(fields: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str())) {
        add_facts(name, value, &mut found);
    }
    if found.len() > MAX_FACTS {
        let more = found.len() - MAX_FACTS;
        found.truncate(MAX_FACTS);
        found.push(format!("and {more} more"));
    }
    found
}

fn add_facts(name: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.chars().count() <= MAX_TEXT => found.push(format!("{name} {text}")),
        Value::Number(_) | Value::Bool(_) => found.push(format!("{name} {value}")),
        Value::Object(fields) => {
            let inner =
                fields.iter().filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str()) && *name != "content");
            for (inner, value) in inner {
                add_facts(&format!("{name}.{inner}"), value, found);
            }
        }
        Value::Array(list) if list.len() == 1 => add_facts(name, &list[0], found),
        Value::Array(list) if !list.is_empty() => found.push(format!("{name} ({} entries)", list.len())),
        _ => {}
    }
}

/// Renders the row as the stage that reads it does.
fn tokens(range: &str, trace: &Trace, opened: &Opened) -> anyhow::Result<Tokens> {
    let reader = trace.reader.as_ref().filter(|reader| reader.uses == RENDERED);
    let Some(reader) = reader else {
        bail!("`--tokens` needs a row that a stage of kind `{RENDERED}` reads: expected that stage as STAGE");
    };
    let stage = opened.pipeline.stage_index(&reader.stage)?;
    let text = opened.plan.recipe(stage, &opened.store);
    let text = text.with_context(|| format!("stage `{}` has no key yet", reader.stage))?;
    let config = TrainingConfig::from_toml(&text, Path::new("recipe.toml"), &[])?;
    let number = |list: &str| reader.setting.strip_prefix(list)?.strip_suffix(".path")?.parse::<usize>().ok();
    let of_data = number("data.").and_then(|number| config.data.get(number));
    let source = of_data.or_else(|| config.eval_data.get(number("eval_data.")?));
    let source = source.with_context(|| format!("`{}` is no training data", reader.setting))?;
    let fields = trace.row.row.as_ref().context("the line holds no row")?;
    let origin = RowOrigin { source: trace.row.path.to_string_lossy().into(), line: trace.row.line };
    let row = parse_row(&serde_json::to_vec(fields)?, source, origin.clone())?;
    let renderer = renderer(&config)?;
    let rendered = renderer.training(&row, origin)?;
    let turns = turns(fields, &rendered.text);
    let pieces = renderer.pieces(&rendered.sample).into_iter().zip(&rendered.ranges).enumerate();
    let mut all: Vec<Token> = pieces
        .map(|(place, (piece, bytes))| Token {
            id: piece.id,
            text: piece.text,
            // A first token has no predecessor and is never a target.
            loss_weight: if place == 0 { 0.0 } else { piece.loss_weight },
            turn: turns.iter().position(|turn| {
                turn.as_ref().is_some_and(|turn| bytes.start < turn.end && turn.start < bytes.end)
            }),
        })
        .collect();
    let n_tokens = all.len();
    let n_loss_tokens = all.iter().filter(|token| token.loss_weight != 0.0).count();
    let (from, to) = token_range(range, n_tokens)?;
    all.truncate(to);
    Ok(Tokens { n_tokens, n_loss_tokens, from, to, tokens: all.split_off(from) })
}

/// The model's tokenizer and template, and the recipe's own template.
fn renderer(config: &TrainingConfig) -> anyhow::Result<ChatRenderer> {
    let files = ModelFiles::open(config.model_name_or_path.as_ref())?;
    let renderer = truing_run::model::renderer(&files, render_options())?;
    let renderer = match &config.chat_template {
        Some(path) => {
            let template = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            renderer.with_template(&template)?
        }
        None => renderer,
    };
    Ok(renderer.with_rows_without_loss(WithoutLoss::Keep))
}

/// Where the contents of the turns are in the rendered text; `None` where a template changes them.
fn turns(fields: &Map<String, Value>, text: &str) -> Vec<Option<std::ops::Range<usize>>> {
    let messages = fields.get("messages").and_then(Value::as_array).into_iter().flatten();
    let mut end = 0;
    let find = |message: &Value| {
        let content = message.get("content")?.as_str()?.trim();
        let begin = end + text.get(end..)?.find(content).filter(|_| !content.is_empty())?;
        end = begin + content.len();
        Some(begin..end)
    };
    messages.map(find).collect()
}

/// `FROM..TO` of so many tokens; either may be left out.
fn token_range(range: &str, n_tokens: usize) -> anyhow::Result<(usize, usize)> {
    let problem =
        || format!("`--tokens={range}`: expected `FROM..TO`, numbers of 0 to {n_tokens} in this order");
    let (from, to) = range.split_once("..").with_context(problem)?;
    let number = |text: &str, default: usize| match text.trim() {
        "" => Ok(default),
        text => text.parse::<usize>().with_context(problem),
    };
    let (from, to) = (number(from, 0)?, number(to, n_tokens)?);
    if from > to || to > n_tokens {
        bail!("{}", problem());
    }
    Ok((from, to))
}

/// The tokens in runs of one turn.
fn print_tokens(tokens: &Tokens, printer: Printer) -> anyhow::Result<()> {
    let Tokens { n_tokens, n_loss_tokens, from, tokens, .. } = tokens;
    indented(1, &format!("{n_tokens} tokens, {n_loss_tokens} with loss"), printer)?;
    let mut place = *from;
    for run in tokens.chunk_by(|one, other| one.turn == other.turn) {
        let end = place + run.len();
        let turn = run[0].turn.map_or_else(|| "template".to_owned(), |turn| format!("turn {turn}"));
        let n_with_loss = run.iter().filter(|token| token.loss_weight != 0.0).count();
        let text: String = run.iter().map(|token| token.text.as_str()).collect();
        indented(2, &format!("{place}..{end}  {turn}, {n_with_loss} with loss: {text}"), printer)?;
        place = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_tokens_are_read_and_checked() {
        let range = |text| token_range(text, 8).map_err(|error| error.to_string());
        assert_eq!((range(".."), range("2..5"), range("3..")), (Ok((0, 8)), Ok((2, 5)), Ok((3, 8))));
        for bad in ["5", "5..2", "0..9", "a..b"] {
            assert!(range(bad).unwrap_err().contains("expected `FROM..TO`, numbers of 0 to 8"), "{bad}");
        }
    }

    #[test]
    fn turns_are_found_in_their_order() {
        let fields: Map<String, Value> = serde_json::from_str(
            r#"{"messages": [{"content": "a"}, {"content": " b "}, {"content": "a"}, {"content": "gone"}]}"#,
        )
        .unwrap();
        assert_eq!(turns(&fields, "<a><b><a>"), [Some(1..2), Some(4..5), Some(7..8), None]);
    }

    #[test]
    fn results_are_named_by_their_stages() {
        let folders = [("/store/runs/0123/run/".to_owned(), "sft")];
        let mut row = serde_json::json!({
            "model": "/store/runs/0123/run/model", "responses": [{"model": "/store/runs/0123/run/model"}],
            "judge": "/store/runs/0456/run/model", "text": "see /store/runs/0123/run/model",
        });
        let expected = serde_json::json!({
            "model": "sft/model", "responses": [{"model": "sft/model"}],
            "judge": "/store/runs/0456/run/model", "text": "see /store/runs/0123/run/model",
        });
        name_in_value(&mut row, &folders);
        assert_eq!(row, expected);
    }

    #[test]
    fn facts_are_the_short_values_of_a_row() {
        let row = serde_json::json!({
            "id": 7, "model": "m", "score": 0.5, "text": "not shown", "decision": {"outcome": "kept"},
            "responses": [{"content": "long", "seed": 3}], "verdicts": [1, 2], "source": {"path": "a", "line": 1},
        });
        let expected =
            ["model m", "score 0.5", "decision.outcome kept", "responses.seed 3", "verdicts (2 entries)"];
        assert_eq!(facts(row.as_object().unwrap()), expected);
    }
}
