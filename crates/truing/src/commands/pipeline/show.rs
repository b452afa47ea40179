//! What is printed of a pipeline.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use truing_pipeline::{Applied, Pipeline, PipelinePlan, PlannedStage, State};

use crate::Context;
use crate::printer::{Style, clean_path};
use crate::table::{Align, Table};
use crate::units;

/// Digits of a key that are shown.
const N_DIGITS: usize = 10;
/// Figures of a result in a table.
const N_FIGURES: usize = 3;

fn state(stage: &PlannedStage) -> &'static str {
    match stage.state {
        State::UpToDate => "up to date",
        State::InStore => "in store",
        State::InRemote if stage.changes.is_empty() => "up to date (remote)",
        State::InRemote => "in remote",
        State::ToRun => "to run",
        State::ToContinue => "to continue",
        State::Waiting { .. } => "waiting",
        State::Blocked { .. } => "blocked",
    }
}

/// Why a stage is in its state: the most direct reason, and how many more there are.
pub(super) fn reason(stage: &PlannedStage) -> String {
    let of_changes = || match stage.changes.as_slice() {
        [] => String::new(),
        [only] => only.to_string(),
        [first, more @ ..] => format!("{first}, and {} more", more.len()),
    };
    let text = match &stage.state {
        State::Waiting { file, message } => {
            let asked = message.as_ref().map(|message| format!(": {message}"));
            format!("for {}{}", clean_path(file), asked.unwrap_or_default())
        }
        State::Blocked { by } => format!("by {by}"),
        _ => of_changes(),
    };
    match &stage.remark {
        Some(remark) => format!("{text} ({remark})"),
        None => text,
    }
}

fn key(stage: &PlannedStage) -> String {
    stage.key.map_or_else(|| "-".to_owned(), |key| key.to_string()[..N_DIGITS].to_owned())
}

/// The stages in the order in which they run.
fn in_order<'a>(pipeline: &'a Pipeline, plan: &'a PipelinePlan) -> impl Iterator<Item = &'a PlannedStage> {
    pipeline.order.iter().map(|&idx| &plan.stages[idx])
}

pub(super) fn plan(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    predicted: &BTreeMap<String, Value>,
    context: &Context,
) -> anyhow::Result<()> {
    let columns =
        [("stage", Align::Left), ("state", Align::Left), ("key", Align::Left), ("why", Align::Left)];
    let mut table = Table::new(&columns);
    for stage in in_order(pipeline, plan) {
        table.row([stage.name.clone(), state(stage).to_owned(), key(stage), reason(stage)]);
    }
    print(&table, context)?;
    if !predicted.is_empty() {
        context.printer.line("")?;
    }
    for (stage, text) in predicted {
        let text = text.as_str().unwrap_or_default();
        context.printer.line(format_args!("{stage}: {text}"))?;
    }
    context.printer.line("")?;
    let n_runs = plan.stages.iter().filter(|stage| is_to_run(&stage.state)).count();
    let n_fetched = plan.stages.iter().filter(|stage| stage.state == State::InRemote).count();
    let fetched = if n_fetched == 0 { String::new() } else { format!(", {n_fetched} to fetch") };
    let summary = format!("{n_runs} of {} stages to run{fetched}", plan.stages.len());
    Ok(context.printer.line(context.printer.styled(Style::Bold, summary))?)
}

fn is_to_run(state: &State) -> bool {
    matches!(state, State::ToRun | State::ToContinue)
}

pub(super) fn plan_json(pipeline: &Pipeline, plan: &PipelinePlan) -> Value {
    let stages: Vec<Value> = pipeline.order.iter().map(|&idx| stage_json(pipeline, plan, idx)).collect();
    json!({ "pipeline": pipeline.name, "store": pipeline.store, "stages": stages })
}

fn stage_json(pipeline: &Pipeline, plan: &PipelinePlan, idx: usize) -> Value {
    let (own, stage) = (&pipeline.stages[idx], &plan.stages[idx]);
    let needs: Vec<&str> = own.upstream.iter().map(|&idx| plan.stages[idx].name.as_str()).collect();
    let mut fields = json!({
        "stage": stage.name, "uses": own.uses, "needs": needs, "key": stage.key,
        "why": reason(stage), "changes": stage.changes, "result": stage.done.as_ref().or(stage.in_remote.as_ref()),
    });
    if let (Some(fields), Ok(Value::Object(state))) =
        (fields.as_object_mut(), serde_json::to_value(&stage.state))
    {
        fields.extend(state);
    }
    fields
}

pub(super) fn status(pipeline: &Pipeline, plan: &PipelinePlan, context: &Context) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        ("stage", Align::Left),
        ("state", Align::Left),
        ("size", Align::Right),
        ("time", Align::Right),
        ("memory", Align::Right),
        ("figures", Align::Left),
    ]);
    for stage in in_order(pipeline, plan) {
        let (mut size, mut time, mut memory, mut figures) = Default::default();
        if let Some(done) = stage.done.as_ref().or(stage.in_remote.as_ref()) {
            size = units::bytes(done.outputs.values().map(|output| output.bytes).sum());
            time = units::duration(done.seconds);
            memory = done.peak_bytes.map_or_else(String::new, units::bytes);
            let shown = done.figures.iter().take(N_FIGURES).map(|(name, value)| format!("{name} {value:.4}"));
            figures = shown.collect::<Vec<_>>().join(", ");
        }
        table.row([stage.name.clone(), state(stage).to_owned(), size, time, memory, figures]);
    }
    print(&table, context)
}

pub(super) fn why(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    idx: usize,
    context: &Context,
) -> anyhow::Result<()> {
    let (stage, printer) = (&plan.stages[idx], context.printer);
    printer.line(format_args!("{}: {}", stage.name, state(stage)))?;
    printer.line(format_args!(
        "key: {}",
        stage.key.map_or_else(|| "not known yet".to_owned(), |key| key.to_string())
    ))?;
    if let State::Waiting { .. } | State::Blocked { .. } = stage.state {
        printer.line(format_args!("waits {}", reason(stage)))?;
    }
    if stage.changes.is_empty() {
        printer.line("nothing differs from the lock file")?;
    }
    for change in &stage.changes {
        printer.line(format_args!("  {change}"))?;
    }
    if let Some(remark) = &stage.remark {
        printer.line(remark)?;
    }
    let follow: Vec<&str> =
        pipeline.downstream(idx).into_iter().map(|idx| plan.stages[idx].name.as_str()).collect();
    let follow = if follow.is_empty() { "nothing".to_owned() } else { follow.join(", ") };
    Ok(printer.line(format_args!("depends on it: {follow}"))?)
}

pub(super) fn why_json(pipeline: &Pipeline, plan: &PipelinePlan, idx: usize) -> Value {
    let follow: Vec<&str> =
        pipeline.downstream(idx).into_iter().map(|idx| plan.stages[idx].name.as_str()).collect();
    let mut fields = stage_json(pipeline, plan, idx);
    fields["dependents"] = json!(follow);
    fields
}

/// How a pipeline ended. Failures are printed as the command's error.
pub(super) fn applied(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    applied: &Applied,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = context.printer;
    for (stage, file) in &applied.waiting {
        let planned = plan.stages.iter().find(|planned| planned.name == *stage);
        let message = planned.and_then(|planned| match &planned.state {
            State::Waiting { message, .. } => message.clone(),
            _ => None,
        });
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        printer.line(format_args!("{stage} waits for {}{message}", clean_path(file)))?;
    }
    for remark in plan.stages.iter().filter_map(|stage| Some((&stage.name, stage.remark.as_ref()?))) {
        printer.warning(format_args!("{}: {}", remark.0, remark.1));
    }
    let (n_ran, n_reused) = (applied.ran.len(), applied.reused.len());
    let n_up_to_date = applied.up_to_date.len();
    let n_fetched = applied.fetched.len();
    let fetched = if n_fetched == 0 { String::new() } else { format!("{n_fetched} from the remote, ") };
    printer
        .line(format_args!("{n_ran} ran, {n_reused} from the store, {fetched}{n_up_to_date} up to date"))?;
    if n_ran + n_reused + n_fetched > 0 {
        printer.line(format_args!("results  {}", clean_path(&pipeline.links())))?;
    }
    Ok(())
}

fn print(table: &Table, context: &Context) -> anyhow::Result<()> {
    for line in table.lines() {
        context.printer.line(line)?;
    }
    Ok(())
}
