//! `truing inspect conversation`: one row as the model reads it, token by token.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use truing_data::{OnBadRow, Remark, Rows, read_rows};
use truing_text::{ChatRenderer, RenderedSample};
use truing_types::{RowOrigin, TrainingRow};

use super::{SourceArguments, percent, renderer};
use crate::Context;
use crate::commands::model::ModelArguments;
use crate::outcome::{Outcome, WithHint};
use crate::printer::{Printer, Style};
use crate::table::{Align, Table};

/// Arguments of `truing inspect conversation`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    source: SourceArguments,
    /// The row at this line of the file (row number for Parquet and JSON lists). Default: the first valid row.
    #[arg(long, short, value_name = "N")]
    row: Option<u64>,
    /// Show where a sample is truncated at this length.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// List every token with its id and loss weight.
    #[arg(long)]
    tokens: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A row as the model reads it.
#[derive(Debug, Serialize)]
struct View {
    origin: String,
    format: Option<&'static str>,
    n_tokens: usize,
    n_loss_tokens: usize,
    end_of_turn: Option<EndOfTurn>,
    truncation: Option<Truncation>,
    notes: Vec<String>,
    text: String,
    tokens: Vec<Token>,
}

/// The token at which generation stops, and whether the model learns to write it.
#[derive(Debug, Serialize)]
struct EndOfTurn {
    id: u32,
    token: String,
    n_occurrences: usize,
    n_with_loss: usize,
}

/// What a limit on the length cuts off.
#[derive(Debug, Serialize)]
struct Truncation {
    max_length: usize,
    n_tokens_lost: usize,
    n_loss_tokens_lost: usize,
}

#[derive(Debug, Serialize)]
struct Token {
    id: u32,
    text: String,
    weight: f32,
    is_special: bool,
    #[serde(skip)]
    bytes: std::ops::Range<usize>,
}

/// How a token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Read, not trained on.
    Plain,
    /// Learnt.
    Loss,
    /// A special token that is read.
    Special,
    /// A special token that is trained on.
    SpecialLoss,
}

impl Kind {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::Dim,
            Self::Loss => Style::Green,
            Self::Special => Style::Cyan,
            Self::SpecialLoss => Style::Yellow,
        }
    }

    fn carries_loss(self) -> bool {
        matches!(self, Self::Loss | Self::SpecialLoss)
    }
}

impl Token {
    fn kind(&self) -> Kind {
        match (self.is_special, self.weight != 0.0) {
            (false, false) => Kind::Plain,
            (false, true) => Kind::Loss,
            (true, false) => Kind::Special,
            (true, true) => Kind::SpecialLoss,
        }
    }
}

/// Finds the row, renders it, prints it.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let renderer = renderer(&arguments.model.find(context)?)?;
    let Found { row, origin, format, remarks } = find_row(arguments, context)?;
    let rendered = renderer.training(&row, origin)?;
    let mut view = View::of(&renderer, rendered, format, arguments.max_length);
    view.notes.extend(remarks);
    if arguments.json {
        context.printer.json(&view)?;
    } else {
        print(&view, arguments, context.printer)?;
    }
    Ok(Outcome::Fine)
}

/// The row that is shown.
struct Found {
    row: TrainingRow,
    origin: RowOrigin,
    format: Option<&'static str>,
    /// What its reader has remarked.
    remarks: Vec<String>,
}

/// What the reader has remarked about the row that it handed out last.
fn remarks_of_last(rows: &Rows) -> Vec<String> {
    let text = |(remark, message): &(Remark, Option<usize>)| match message {
        Some(message) => format!("message {message}: {remark}"),
        None => remark.to_string(),
    };
    rows.remarks_of_last().iter().map(text).collect()
}

fn find_row(arguments: &Arguments, context: &Context) -> anyhow::Result<Found> {
    let (mut last, mut bad) = (0, None);
    for source in arguments.source.sources(context)? {
        let mut rows = read_rows(&source, OnBadRow::Skip)?;
        loop {
            let Some(found) = rows.next() else { break };
            let (row, origin) = found?;
            last = last.max(origin.line);
            if arguments.row.is_none_or(|wanted| wanted == origin.line) {
                let remarks = remarks_of_last(&rows);
                return Ok(Found { row, origin, format: rows.format().map(|format| format.name), remarks });
            }
        }
        let is_wanted = |line| arguments.row.is_none_or(|wanted| wanted == line);
        bad = bad.or_else(|| rows.skipped().rows.iter().find(|row| is_wanted(row.origin.line)).cloned());
    }
    match (bad, arguments.row) {
        (Some(bad), _) => Err(bad).context("the row is bad"),
        (None, Some(row)) => Err(anyhow::anyhow!("there is no row {row}"))
            .hint(|| format!("the last row is {last}; empty lines are counted but hold no row")),
        (None, None) => bail!("there is no row"),
    }
}

impl View {
    fn of(
        renderer: &ChatRenderer,
        rendered: RenderedSample,
        format: Option<&'static str>,
        max_length: Option<usize>,
    ) -> Self {
        let pieces = renderer.pieces(&rendered.sample).into_iter().zip(rendered.ranges).enumerate();
        let tokens: Vec<Token> = pieces
            .map(|(i, (piece, bytes))| Token {
                id: piece.id,
                text: piece.text,
                // A first token has no predecessor and is never a target.
                weight: if i == 0 { 0.0 } else { piece.loss_weight },
                is_special: piece.is_special,
                bytes,
            })
            .collect();
        let n_with_loss = |tokens: &[Token]| tokens.iter().filter(|token| token.weight != 0.0).count();
        let end_of_turn = renderer.end_of_turn().map(|id| {
            let occurrences = || tokens.iter().filter(|token| token.id == id);
            EndOfTurn {
                id,
                token: renderer.tokenizer().token_display(id),
                n_occurrences: occurrences().count(),
                n_with_loss: occurrences().filter(|token| token.weight != 0.0).count(),
            }
        });
        let truncation = max_length.map(|max_length| {
            let lost = tokens.get(max_length..).unwrap_or_default();
            Truncation { max_length, n_tokens_lost: lost.len(), n_loss_tokens_lost: n_with_loss(lost) }
        });
        Self {
            origin: rendered.sample.origin.to_string(),
            format,
            n_tokens: tokens.len(),
            n_loss_tokens: n_with_loss(&tokens),
            end_of_turn,
            truncation,
            notes: rendered.notes.iter().map(ToString::to_string).collect(),
            text: rendered.text,
            tokens,
        }
    }

    /// The text in runs of one kind, cut at `max_length`: the number of the first token, the kind, the text. Text
    /// comes from the byte ranges, because a token may be a part of a character.
    fn runs(&self) -> Vec<(usize, Kind, String)> {
        let cut = self.truncation.as_ref().map_or(usize::MAX, |truncation| truncation.max_length);
        let mut runs: Vec<(usize, Kind, String)> = Vec::new();
        let mut shown = 0;
        for (i, token) in self.tokens.iter().enumerate() {
            let text = if token.bytes.is_empty() {
                // Added to the text, as an end token is to a completion.
                token.text.as_str()
            } else {
                let start = token.bytes.start.min(shown).max(shown.min(token.bytes.end));
                shown = shown.max(token.bytes.end);
                self.text.get(start..token.bytes.end).unwrap_or(&token.text)
            };
            match runs.last_mut() {
                Some((_, kind, run)) if *kind == token.kind() && i != cut => run.push_str(text),
                _ => runs.push((i, token.kind(), text.to_owned())),
            }
        }
        runs
    }
}

fn print(view: &View, arguments: &Arguments, printer: Printer) -> anyhow::Result<()> {
    let share = view.n_loss_tokens as f64 / view.n_tokens.max(1) as f64;
    let format = view.format.map_or(String::new(), |format| format!(", {format}"));
    printer.line(printer.styled(Style::Bold, format!("{}{format}", view.origin)))?;
    printer.line(format!(
        "{} tokens, {} with loss ({})",
        view.n_tokens,
        view.n_loss_tokens,
        percent(share)
    ))?;
    printer.line("")?;
    printer.line(coloured(view, printer))?;
    if !view.text.ends_with('\n') {
        printer.line("")?;
    }
    printer.line(legend(printer))?;
    if let Some(end) = &view.end_of_turn {
        let EndOfTurn { id, token, n_occurrences, n_with_loss } = end;
        printer.line(format!("end of turn: `{token}` ({id}), {n_with_loss} of {n_occurrences} with loss"))?;
    }
    if let Some(Truncation { max_length, n_tokens_lost, n_loss_tokens_lost }) = &view.truncation {
        printer.line(match n_tokens_lost {
            0 => format!("fits into {max_length} tokens"),
            _ => printer.styled(
                Style::Red,
                format!(
                    "cut at {max_length} tokens: {n_tokens_lost} are lost, {n_loss_tokens_lost} with loss"
                ),
            ),
        })?;
    }
    for note in &view.notes {
        printer.line(printer.styled(Style::Yellow, format!("note: {note}")))?;
    }
    if arguments.tokens {
        printer.line("")?;
        let columns =
            [("", Align::Right), ("id", Align::Right), ("loss", Align::Right), ("token", Align::Left)];
        let mut table = Table::new(&columns);
        for (i, token) in view.tokens.iter().enumerate() {
            let special = if token.is_special { "  (special)" } else { "" };
            let text = format!("{:?}{special}", token.text);
            table.row([i.to_string(), token.id.to_string(), token.weight.to_string(), text]);
        }
        for line in table.lines() {
            printer.line(line)?;
        }
    }
    Ok(())
}

/// Without colours, brackets are around what carries loss.
fn coloured(view: &View, printer: Printer) -> String {
    let has_colours = has_colours(printer);
    let cut = view.truncation.as_ref().map_or(usize::MAX, |truncation| truncation.max_length);
    let mut text = String::new();
    let mut is_in_loss = false;
    for (first, kind, run) in view.runs() {
        if first == cut {
            text.push_str(&printer.styled(Style::Red, "✂"));
        }
        if !has_colours && kind.carries_loss() != is_in_loss {
            is_in_loss = kind.carries_loss();
            text.push(if is_in_loss { '⟦' } else { '⟧' });
        }
        text.push_str(&printer.styled(kind.style(), visible(&run)));
    }
    if is_in_loss {
        text.push('⟧');
    }
    text
}

fn has_colours(printer: Printer) -> bool {
    !printer.styled(Style::Dim, "").is_empty()
}

fn legend(printer: Printer) -> String {
    if !has_colours(printer) {
        return "⟦carries loss⟧".to_owned();
    }
    let kinds = [
        (Kind::Loss, "carries loss"),
        (Kind::SpecialLoss, "special, carries loss"),
        (Kind::Special, "special"),
        (Kind::Plain, "read only"),
    ];
    kinds.map(|(kind, name)| printer.styled(kind.style(), name)).join("  ")
}

/// Control characters as escapes, so that data cannot command the terminal.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, weight: f32, is_special: bool, bytes: std::ops::Range<usize>) -> Token {
        Token { id: 0, text: text.into(), weight, is_special, bytes }
    }

    fn view(text: &str, tokens: Vec<Token>, max_length: Option<usize>) -> View {
        let truncation =
            max_length.map(|max_length| Truncation { max_length, n_tokens_lost: 1, n_loss_tokens_lost: 1 });
        View {
            origin: "a.jsonl:1".into(),
            format: None,
            n_tokens: tokens.len(),
            n_loss_tokens: 0,
            end_of_turn: None,
            truncation,
            notes: Vec::new(),
            text: text.into(),
            tokens,
        }
    }

    #[test]
    fn a_character_of_several_tokens_is_shown_once() {
        let tokens = vec![
            token("a", 0.0, false, 0..1),
            token("<0xC3>", 1.0, false, 1..3),
            token("<0xA9>", 1.0, false, 1..3),
            token("</s>", 1.0, true, 3..3),
        ];
        let view = view("aé", tokens, None);
        let runs: Vec<_> = view.runs().into_iter().map(|(_, kind, text)| (kind, text)).collect();
        let expected = [(Kind::Plain, "a"), (Kind::Loss, "é"), (Kind::SpecialLoss, "</s>")]
            .map(|(k, t)| (k, t.to_owned()));
        assert_eq!(runs, expected);
        assert_eq!(coloured(&view, Printer::new(true, true)), "a⟦é</s>⟧");
    }

    #[test]
    fn text_between_tokens_is_shown_and_the_cut_is_marked() {
        let tokens =
            vec![token("a", 1.0, false, 0..1), token("b", 1.0, false, 2..3), token("c", 1.0, false, 3..4)];
        let view = view("a bc", tokens, Some(2));
        assert_eq!(coloured(&view, Printer::new(true, true)), "⟦a b✂c⟧");
    }

    #[test]
    fn data_cannot_command_the_terminal() {
        assert_eq!(visible("a\x1b[31m\n\tb\u{9b}"), "a\\u{1b}[31m\n\tb\\u{9b}");
    }
}
