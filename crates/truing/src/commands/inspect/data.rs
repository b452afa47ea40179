//! `truing inspect data`: a data set in numbers, as training would see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use truing_data::{
    Dataset, DatasetBuilder, LengthHistogram, LengthSummary, LongSamplePolicy, MAX_LISTED_ROWS, OnBadRow,
    Packing, PackingReport, PackingStrategy, SourceConfig, SourceStatistics, describe_unread, epoch_order,
    read_rows,
};
use truing_stages::Notes;
use truing_text::ChatRenderer;
use truing_types::{Event, EventSink, RowOrigin, Seed, TrainingRow};

use super::{SourceArguments, percent, renderer};
use crate::Context;
use crate::commands::model::ModelArguments;
use crate::outcome::Outcome;
use crate::printer::{Printer, Style};
use crate::progress;
use crate::table::{Align, Table};
use crate::units::count;

/// Rows rendered at a time, on all threads.
const ROWS_AT_A_TIME: usize = 2048;
/// Bad rows printed without `--json`.
const MAX_PRINTED_ROWS: usize = 20;
/// Characters of the longest bar.
const BAR_WIDTH: f64 = 40.0;

/// Arguments of `truing inspect data`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    source: SourceArguments,
    /// Maximum tokens of a sample, and token budget of a pack.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(2..))]
    max_length: u32,
    /// Random seed of the order of samples.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A data set in numbers.
#[derive(Debug, Serialize)]
struct Findings {
    sources: Vec<Source>,
    lengths: LengthSummary,
    histogram: LengthHistogram,
    n_long: usize,
    n_tokens_lost_by_truncation: u64,
    n_without_loss: usize,
    packing: PackingReport,
    notes: Notes,
    n_bad_rows: u64,
    bad_rows: Vec<String>,
    /// Files of folders that are not read.
    unread: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Source {
    format: Option<&'static str>,
    n_bad_rows: u64,
    loss_share: f64,
    #[serde(flatten)]
    statistics: SourceStatistics,
}

/// What is gathered while rows go by.
#[derive(Debug, Default)]
struct Gathered {
    lengths: Vec<u32>,
    notes: Notes,
    formats: Vec<(Option<&'static str>, u64)>,
    n_bad_rows: u64,
    bad_rows: Vec<String>,
    /// Rows that could be read and not rendered.
    unrendered: BTreeSet<(Arc<str>, u64)>,
    /// Files of folders that are not read.
    unread: Vec<String>,
}

/// Reads, renders, packs and counts.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let renderer = renderer(&arguments.model.find(context)?)?;
    let sources = arguments.source.sources(context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut builder = Dataset::builder(arguments.max_length, LongSamplePolicy::Truncate);
    let mut gathered = Gathered::default();
    gathered.read(&sources, &renderer, &mut builder, events.as_mut())?;
    drop(events);
    let (dataset, long) = match builder.finish() {
        Ok(finished) => finished,
        Err(error) => {
            print_bad_rows(gathered.n_bad_rows, &gathered.bad_rows, context.printer)?;
            return Err(error.into());
        }
    };
    let seed = Seed(arguments.seed);
    let visits = epoch_order(dataset.sources(), seed, 0);
    let strategy = PackingStrategy::BestFitDecreasing;
    let packing = Packing::of_epoch(&dataset.lengths(), &visits, arguments.max_length, strategy, seed, 0)?;
    let sources = dataset.source_statistics().into_iter().zip(gathered.formats);
    let findings = Findings {
        sources: sources
            .map(|(statistics, (format, n_bad_rows))| Source {
                format,
                n_bad_rows,
                loss_share: statistics.loss_share(),
                statistics,
            })
            .collect(),
        lengths: LengthSummary::of(&gathered.lengths),
        histogram: LengthHistogram::of(&gathered.lengths),
        n_long: long.n_long,
        n_tokens_lost_by_truncation: long.n_tokens_lost,
        n_without_loss: long.n_without_loss,
        packing: packing.report,
        notes: gathered.notes,
        n_bad_rows: gathered.n_bad_rows,
        bad_rows: gathered.bad_rows,
        unread: gathered.unread,
    };
    if arguments.json {
        context.printer.json(&findings)?;
    } else {
        print(&findings, context.printer)?;
    }
    Ok(if findings.n_bad_rows == 0 { Outcome::Fine } else { Outcome::Finding })
}

impl Gathered {
    fn read(
        &mut self,
        sources: &[SourceConfig],
        renderer: &ChatRenderer,
        builder: &mut DatasetBuilder,
        events: &mut dyn EventSink,
    ) -> anyhow::Result<()> {
        events.emit(Event::PhaseStarted { phase: "reading the data".into(), total: None });
        for source in sources {
            builder.begin_source(source.path.to_string_lossy(), source.weight);
            let n_bad_before = self.n_bad_rows;
            let mut rows = read_rows(source, OnBadRow::Skip)?;
            loop {
                let chunk: Vec<_> = rows.by_ref().take(ROWS_AT_A_TIME).collect::<Result<_, _>>()?;
                if chunk.is_empty() {
                    break;
                }
                self.take(&chunk, renderer, builder);
                let n_rows = self.lengths.len() as u64;
                events.emit(Event::Progress { done: n_rows, note: format!("{n_rows} rows") });
            }
            let skipped = rows.skipped();
            self.n_bad_rows += skipped.n_rows;
            for row in &skipped.rows {
                self.list_bad(row);
            }
            let unrendered = &self.unrendered;
            let is_unrendered =
                |origin: &RowOrigin| unrendered.contains(&(origin.source.clone(), origin.line));
            self.notes.add_remarks(&rows, is_unrendered);
            self.unread.extend(rows.unread().iter().map(|file| file.display().to_string()));
            self.formats.push((rows.format().map(|format| format.name), self.n_bad_rows - n_bad_before));
        }
        events.emit(Event::PhaseFinished);
        Ok(())
    }

    fn take(
        &mut self,
        rows: &[(TrainingRow, RowOrigin)],
        renderer: &ChatRenderer,
        builder: &mut DatasetBuilder,
    ) {
        for ((_, origin), rendered) in rows.iter().zip(renderer.training_many(rows)) {
            match rendered {
                Ok(rendered) => {
                    self.lengths.push(rendered.sample.tokens.len() as u32);
                    for note in &rendered.notes {
                        self.notes.add(note.without_message_number(), &rendered.sample.origin);
                    }
                    builder.push(&rendered.sample);
                }
                Err(error) => {
                    self.n_bad_rows += 1;
                    self.unrendered.insert((origin.source.clone(), origin.line));
                    self.list_bad(&crate::printer::one_sentence(&error.into()));
                }
            }
        }
    }

    fn list_bad(&mut self, reason: &dyn std::fmt::Display) {
        if self.bad_rows.len() < MAX_LISTED_ROWS {
            self.bad_rows.push(reason.to_string());
        }
    }
}

fn print(findings: &Findings, printer: Printer) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("format", Align::Left),
        ("samples", Align::Right),
        ("bad rows", Align::Right),
        ("tokens", Align::Right),
        ("with loss", Align::Right),
        ("share", Align::Right),
    ]);
    for Source { format, n_bad_rows, loss_share, statistics } in &findings.sources {
        table.row([
            statistics.name.clone(),
            format.unwrap_or("unknown").to_owned(),
            count(statistics.n_samples as u64),
            count(*n_bad_rows),
            count(statistics.n_tokens),
            count(statistics.n_loss_tokens),
            percent(*loss_share),
        ]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    let lengths = &findings.lengths;
    printer.line("")?;
    printer.line(format!(
        "lengths in tokens: shortest {}, median {}, mean {:.1}, 95 % up to {}, longest {}",
        lengths.min, lengths.median, lengths.mean, lengths.percentile_95, lengths.max
    ))?;
    for line in bars(&findings.histogram) {
        printer.line(line)?;
    }
    let packing = &findings.packing;
    printer.line("")?;
    printer.line(format!(
        "packed into {} tokens: {}, {} of the room used; a padded batch would use {}",
        packing.budget,
        match packing.n_packs as u64 {
            1 => "1 pack".to_owned(),
            n => format!("{} packs", count(n)),
        },
        printer.styled(Style::Bold, percent(packing.utilisation)),
        percent(packing.padded_utilisation)
    ))?;
    if findings.n_long > 0 {
        let (n_long, n_lost) = (findings.n_long as u64, findings.n_tokens_lost_by_truncation);
        let text = format!(
            "{} longer than {} tokens; truncating {} loses {}",
            if n_long == 1 { "1 sample is".to_owned() } else { format!("{} samples are", count(n_long)) },
            packing.budget,
            if n_long == 1 { "it" } else { "them" },
            if n_lost == 1 { "1 token".to_owned() } else { format!("{} tokens", count(n_lost)) }
        );
        printer.line(printer.styled(Style::Yellow, text))?;
    }
    if findings.n_without_loss > 0 {
        let text = match findings.n_without_loss as u64 {
            1 => "1 sample carries no loss and would be left out".to_owned(),
            n => format!("{} samples carry no loss and would be left out", count(n)),
        };
        printer.line(printer.styled(Style::Yellow, text))?;
    }
    if let Some(text) = describe_unread(&findings.unread) {
        printer.line(printer.styled(Style::Yellow, format!("note: {text}")))?;
    }
    for (note, noted) in findings.notes.iter() {
        let text = format!("note: {note} ({noted})");
        printer.line(printer.styled(Style::Yellow, text))?;
    }
    print_bad_rows(findings.n_bad_rows, &findings.bad_rows, printer)
}

fn print_bad_rows(n_bad_rows: u64, rows: &[String], printer: Printer) -> anyhow::Result<()> {
    if n_bad_rows == 0 {
        return Ok(());
    }
    printer.line("")?;
    let heading =
        if n_bad_rows == 1 { "1 bad row".to_owned() } else { format!("{} bad rows", count(n_bad_rows)) };
    printer.line(printer.styled(Style::Red, heading))?;
    for row in rows.iter().take(MAX_PRINTED_ROWS) {
        printer.line(format!("  {row}"))?;
    }
    let n_more = n_bad_rows - rows.len().min(MAX_PRINTED_ROWS) as u64;
    if n_more > 0 {
        printer.line(format!("  and {} more; --json lists the first {MAX_LISTED_ROWS}", count(n_more)))?;
    }
    Ok(())
}

/// A line for each bin: its lengths, a bar, its number of samples.
fn bars(histogram: &LengthHistogram) -> Vec<String> {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let first = histogram.counts.iter().position(|&n| n > 0).unwrap_or(0);
    let digits = (histogram.counts.len() as u64 * u64::from(histogram.bin_width)).to_string().len();
    let width = u64::from(histogram.bin_width);
    let bins = histogram.counts.iter().enumerate().skip(first);
    bins.map(|(i, &n)| {
        let start = i as u64 * width;
        let eighths = (n as f64 / most * BAR_WIDTH * 8.0).round() as usize;
        let mut bar = "█".repeat(eighths / 8);
        // What is there is seen: at least an eighth.
        if let Some(rest) = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8) {
            bar.push_str(if n > 0 && eighths == 0 { "▏" } else { rest });
        }
        format!("{start:>digits$} to {:>digits$}  {bar} {}", start + width - 1, count(n))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_begin_at_the_first_length_and_show_what_is_rare() {
        let histogram = LengthHistogram { bin_width: 50, counts: vec![0, 800, 400, 1] };
        let lines = bars(&histogram);
        assert_eq!(lines[0], format!(" 50 to  99  {} 800", "█".repeat(40)));
        assert_eq!(lines[1], format!("100 to 149  {} 400", "█".repeat(20)));
        assert_eq!(lines[2], "150 to 199  ▏ 1");
    }
}
