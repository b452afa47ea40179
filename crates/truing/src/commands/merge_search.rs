//! `truing merge search`: what was tried, what was chosen, and what is left of it on items that decided nothing.

use std::path::Path;

use serde_json::json;
use truing_eval::benchmarks::MetricSummary;
use truing_eval::comparison::{Finding, cannot_be_resolved};
use truing_evaluate::merge_search::{
    Confirmation, MERGE_RECIPE, MODEL, MergeSearchOutcome, MergeSearchStage, RECORD, SearchRecord, SearchRow,
};
use truing_stages::StageError;
use truing_statistics::Interval;
use truing_types::counted;

use super::evaluate::p_value;
use super::judging;
use super::stage::{RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::{Style, clean_path};
use crate::table::{Align, Table};

/// Candidates that are printed; all of them are in the record.
const N_CANDIDATES: usize = 8;

impl StageCommand for MergeSearchStage {
    const KIND: RunKind = RunKind {
        stopping: "stopping: all answers are kept; run the same command to continue",
        stopped: "stopped; run the same command to continue; stored answers are reused",
        continues: true,
        trains: false,
    };

    fn announce(plan: &Self::Plan, context: &Context) {
        super::plan::announce_differences(plan, context);
    }

    fn advice(error: &StageError, folder: &Path) -> Option<String> {
        judging::advice(error, folder, None)
    }

    fn finish(
        outcome: MergeSearchOutcome,
        _: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let MergeSearchOutcome { folder, record } = &outcome;
        let lost = record.lost_abilities();
        let exit = if lost.is_empty() { Outcome::Fine } else { Outcome::Finding };
        let printer = context.printer;
        if as_json {
            printer.json(&json!({
                "status": "finished", "folder": folder, "model": folder.join(MODEL), "lost_abilities": lost,
                "record": record,
            }))?;
            return Ok(exit);
        }
        let n_known = record.chosen;
        let shown = &record.search[..record.search.len().min(n_known + N_CANDIDATES)];
        printer.line(printer.styled(Style::Bold, "search items"))?;
        print_rows(shown, record, context)?;
        let n_more = record.search.len() - shown.len();
        if n_more > 0 {
            printer.line(format_args!("{n_more} more candidates are in {RECORD}"))?;
        }
        printer.line("")?;
        printer.line(printer.styled(Style::Bold, "held-out items"))?;
        print_rows(&record.confirm, record, context)?;
        printer.line("")?;
        for confirmation in &record.confirmations {
            printer.line(sentence(confirmation, record))?;
        }
        printer.line("")?;
        print_optimism(record, context)?;
        print_verdict(record, context)?;
        printer.line("")?;
        for (name, file) in [("model", MODEL), ("recipe", MERGE_RECIPE), ("record", RECORD)] {
            printer.line(format_args!("{name:<7} {}", clean_path(&folder.join(file))))?;
        }
        Ok(exit)
    }
}

fn print_rows(rows: &[SearchRow], record: &SearchRecord, context: &Context) -> anyhow::Result<()> {
    let tasks: Vec<&String> = record.own_parents.keys().collect();
    let mut columns = vec![("", Align::Left)];
    columns.extend(tasks.iter().map(|task| (task.as_str(), Align::Left)));
    columns.extend([("objective", Align::Right), ("items", Align::Right)]);
    let mut table = Table::new(&columns);
    for row in rows {
        let score = |task: &&String| {
            let found = row.abilities.iter().find(|ability| ability.task == **task);
            found.map_or_else(|| "-".to_owned(), |ability| value(&ability.summary))
        };
        let mut cells = vec![row.label.clone()];
        cells.extend(tasks.iter().map(score));
        cells.extend([format!("{:+.3}", row.objective), row.n_items.to_string()]);
        table.row(cells);
    }
    for line in table.lines() {
        context.printer.line(line)?;
    }
    Ok(())
}

fn value(summary: &MetricSummary) -> String {
    let Some(value) = summary.value else { return "-".to_owned() };
    let interval = summary
        .interval
        .map_or_else(String::new, |Interval { low, high }| format!(" ({low:.3} to {high:.3})"));
    format!("{value:.3}{interval}")
}

/// The merge and one parent on one task.
fn sentence(confirmation: &Confirmation, record: &SearchRecord) -> String {
    let comparison = &confirmation.comparison;
    let own = if confirmation.is_own { "its own parent" } else { "parent" };
    let name = Path::new(&record.parents[confirmation.parent]);
    let parts: Vec<_> = name.components().rev().take(2).collect();
    let name: std::path::PathBuf = parts.into_iter().rev().collect();
    let finding = match comparison.finding() {
        Finding::FirstBetter => "the merge is worse",
        Finding::SecondBetter => "the merge is better",
        Finding::Unresolved => "no significant difference",
    };
    let interval = comparison
        .interval()
        .map_or_else(String::new, |Interval { low, high }| format!(" ({low:+.3} to {high:+.3})"));
    let resolvable = comparison.resolvable_text();
    format!(
        "{}, merge minus {own} {}: {:+.3}{interval}, p (Holm) {}, {finding}; {resolvable}",
        comparison.task,
        name.display(),
        comparison.difference.estimate.mean,
        p_value(comparison.p_adjusted.unwrap_or(comparison.p_value)),
    )
}

/// What the held-out items say of the abilities, and what they could not have said.
fn print_verdict(record: &SearchRecord, context: &Context) -> anyhow::Result<()> {
    let lost = record.lost_abilities();
    context.printer.line(match lost.is_empty() {
        true => {
            "no ability is shown to be lost: the merge is not significantly worse than the parent of any task"
                .into()
        }
        false => format!(
            "lost: the merge is significantly worse than the task's own parent on {}",
            lost.join(", ")
        ),
    })?;
    for one in record.confirmations.iter().filter(|one| one.is_own) {
        let comparison = &one.comparison;
        let could = match comparison.resolvable {
            Some(smallest) => format!("a loss below {smallest:.3} would not have been found"),
            None => cannot_be_resolved(comparison.n),
        };
        let items = counted(comparison.n as u64, "held-out item", "held-out items");
        context.printer.line(format_args!("  {}, {items}: {could}", comparison.task))?;
    }
    Ok(())
}

fn print_optimism(record: &SearchRecord, context: &Context) -> anyhow::Result<()> {
    let (Some(chosen), Some(confirmed)) = (record.search.get(record.chosen), record.confirm.last()) else {
        return Ok(());
    };
    let expected = record.expected_optimism.map_or_else(String::new, |optimism| {
        format!("; of that {optimism:+.3} is expected of the best of {}", record.n_finalists)
    });
    context.printer.line(format_args!(
        "objective of the chosen merge: {:+.3} on the search items, {:+.3} on the held-out items, difference \
         {:+.3}{expected}",
        chosen.objective,
        confirmed.objective,
        chosen.objective - confirmed.objective,
    ))?;
    Ok(())
}
