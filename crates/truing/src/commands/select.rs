//! `truing select`: from a pool of prompts to the chosen ones, as a recipe says.

use std::path::Path;

use serde_json::{Value, json};
use truing_construct::select::{SelectPlan, SelectReport, SelectStage};

use super::stage::{RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::Style;
use crate::table::{Align, Table};

/// Lines of the template table that are shown; all of it is in the run's folder.
const N_TEMPLATE_LINES: usize = 40;

impl StageCommand for SelectStage {
    const KIND: RunKind =
        RunKind { stopping: "stopping at the end of this part", trains: false, ..RunKind::TRAINING };

    fn print_plan(plan: &SelectPlan, context: &Context) -> anyhow::Result<()> {
        for (number, part) in plan.parts().iter().enumerate() {
            context.printer.line(format_args!("{}. {part}", number + 1))?;
        }
        Ok(())
    }

    fn plan_json(plan: &SelectPlan) -> Value {
        json!({ "parts": plan.parts() })
    }

    /// Each part announces itself.
    fn announce(_: &SelectPlan, _: &Context) {}

    fn finish(
        report: SelectReport,
        folder: &Path,
        as_json: bool,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let page = folder.join("coverage.html");
        truing_report::write_coverage(folder, &page)?;
        show(&report, &page, as_json, context)
    }
}

fn show(report: &SelectReport, page: &Path, as_json: bool, context: &Context) -> anyhow::Result<Outcome> {
    let (printer, summary) = (&context.printer, &report.summary);
    if as_json {
        printer.json(&json!({
            "status": "finished",
            "selected": report.selected,
            "page": page,
            "n_rows": summary.n_rows,
            "n_kept": summary.n_kept,
            "n_tasks": summary.n_tasks,
            "layers": summary.layers,
            "n_templates": report.n_templates,
            "n_triplets": report.n_triplets,
        }))?;
        return Ok(Outcome::Fine);
    }
    printer.line(printer.styled(Style::Bold, "templates"))?;
    for line in report.template_table.lines().take(N_TEMPLATE_LINES) {
        printer.line(line)?;
    }
    printer.line("")?;
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("threshold", Align::Right),
        ("dropped", Align::Right),
        ("left", Align::Right),
    ]);
    let mut left = summary.n_rows;
    for layer in &summary.layers {
        left = left.saturating_sub(layer.n_dropped);
        let threshold = layer.threshold.map_or_else(String::new, |threshold| format!("{threshold:.3}"));
        table.row([layer.layer.to_string(), threshold, layer.n_dropped.to_string(), left.to_string()]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    printer.line("")?;
    for note in &summary.notes {
        printer.line(note)?;
    }
    printer.line(format_args!("kept      {} of {} prompts", summary.n_kept, summary.n_rows))?;
    if summary.n_tasks > 0 {
        printer.line(format_args!("tasks     {}", summary.n_tasks))?;
    }
    printer.line(format_args!("selected  {}", report.selected.display()))?;
    printer.line(format_args!("coverage  {}", page.display()))?;
    Ok(Outcome::Fine)
}
