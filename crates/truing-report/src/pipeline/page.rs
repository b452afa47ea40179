//! The page of a pipeline: what `templates/pipeline.html` is filled with.

use askama::Template;
use serde_json::Value;

use super::abilities::{self, Abilities};
use super::figures::{self, MainFigure, StageResult};
use super::layout::{self, Direction, Line};
use super::policy::{self, PolicySection};
use super::text::{bytes, duration, shortened};
use super::{PipelineRecord, PipelineStageFate, PipelineStageRecord, PipelineStageState};
use crate::ReportError;
use crate::evaluation::text::grouped;
use crate::html::json_for_script;

/// The widest drawing that is laid out from left to right; a wider one goes down the page.
const MAX_WIDTH: f64 = 1300.0;
/// The size of a stage's box, and that for narrow screens: two of them stand side by side on a phone.
const BOX: [f64; 2] = [212.0, 70.0];
const NARROW_BOX: [f64; 2] = [156.0, 70.0];
/// Left and right of the text in a box.
const ROOM: f64 = 24.0;
/// Width of a letter of a stage's name and of the lines below it, on average.
const LETTERS: [f64; 2] = [8.4, 6.3];
/// Digits of a key that are shown.
const N_DIGITS: usize = 10;

/// `templates/pipeline.html`.
#[derive(Template)]
#[template(path = "pipeline.html")]
struct Page<'a> {
    record: &'a PipelineRecord,
    summary: String,
    facts: Vec<(&'static str, String)>,
    drawings: Vec<GraphDrawing>,
    rows: Vec<StageRow<'a>>,
    problems: Vec<String>,
    abilities: Abilities,
    policies: Vec<PolicySection>,
    charts_json: String,
}

/// A drawing of the graph, and where it is shown.
struct GraphDrawing {
    class: &'static str,
    width: f64,
    height: f64,
    /// The size of a box.
    size: [f64; 2],
    lines: Vec<Line>,
    nodes: Vec<GraphNode>,
}

impl GraphDrawing {
    /// The narrowest that it can be read; below, it scrolls.
    fn least_width(&self) -> String {
        format!("{:.0}", 0.8 * self.width)
    }
}

/// A box of the graph.
struct GraphNode {
    x: f64,
    y: f64,
    /// The element that it leads to.
    target: String,
    class: &'static str,
    /// The whole text, for the pointer.
    title: String,
    name: String,
    state: String,
    figure: String,
}

/// A stage in the table.
struct StageRow<'a> {
    stage: &'a PipelineStageRecord,
    figure: MainFigure,
    /// Names of the stages that it needs.
    needs: String,
    key: String,
    fate: &'static str,
    time: String,
    memory: String,
    size: String,
    cost: String,
    calls: String,
    /// The page of its run, where it has one.
    report: Option<String>,
}

impl StageRow<'_> {
    fn state(&self) -> &'static str {
        self.stage.state.words()
    }

    fn mark(&self) -> &'static str {
        self.stage.state.mark()
    }

    fn class(&self) -> &'static str {
        self.stage.state.class()
    }
}

pub(super) fn render(record: &PipelineRecord) -> Result<String, ReportError> {
    let results: Vec<StageResult> = record.stages.iter().map(figures::read).collect();
    let mut drawn: Vec<Value> = Vec::new();
    let policies = policies(record, &results, &mut drawn);
    let problems = record.stages.iter().zip(&results).filter_map(|(stage, result)| {
        Some(format!("{}: its record cannot be read: {}", stage.name, result.problem.as_ref()?))
    });
    let page = Page {
        record,
        summary: summary(record),
        facts: facts(record),
        drawings: drawings(record, &results),
        problems: problems.collect(),
        rows: record.stages.iter().zip(&results).map(|(stage, result)| row(record, stage, result)).collect(),
        abilities: abilities::of_pipeline(record),
        policies,
        charts_json: json_for_script(&Value::Array(drawn)),
    };
    Ok(page.render()?)
}

fn policies(record: &PipelineRecord, results: &[StageResult], drawn: &mut Vec<Value>) -> Vec<PolicySection> {
    let mut sections = Vec::new();
    for (number, (stage, result)) in record.stages.iter().zip(results).enumerate() {
        if let Some(run) = result.run.as_ref().filter(|run| run.kind == "grpo") {
            sections.push(policy::section(number, &stage.name, run, drawn));
        }
    }
    sections
}

/// How far the pipeline is, in a sentence.
fn summary(record: &PipelineRecord) -> String {
    let n_done = record.stages.iter().filter(|stage| stage.state.has_result()).count();
    let count = |state| record.stages.iter().filter(|stage| stage.state == state).count();
    let others = [
        PipelineStageState::ToRun,
        PipelineStageState::ToContinue,
        PipelineStageState::Failed,
        PipelineStageState::Waiting,
        PipelineStageState::Blocked,
    ];
    let others: Vec<String> = others
        .into_iter()
        .filter(|&state| count(state) > 0)
        .map(|state| format!("{} {}", count(state), state.words()))
        .collect();
    let rest = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    format!("{n_done} of {} stages have results{rest}.", record.stages.len())
}

/// Sums over the stages, and what the last run of the pipeline did.
fn facts(record: &PipelineRecord) -> Vec<(&'static str, String)> {
    let mut facts = vec![("recipe", record.recipe.clone())];
    let of_fate = |fate| record.stages.iter().filter(|stage| stage.fate == Some(fate)).count();
    if record.stages.iter().any(|stage| stage.fate.is_some()) {
        facts.push((
            "last applied",
            format!(
                "{}{} ran, {} from the store, {} up to date",
                if record.applied.is_empty() { String::new() } else { format!("{}: ", record.applied) },
                of_fate(PipelineStageFate::Ran),
                of_fate(PipelineStageFate::Reused),
                of_fate(PipelineStageFate::UpToDate)
            ),
        ));
    }
    let seconds: Vec<f64> = record.stages.iter().filter_map(|stage| stage.seconds).collect();
    if !seconds.is_empty() {
        facts.push(("time of all results", duration(seconds.iter().sum())));
    }
    if let Some(peak) = record.stages.iter().filter_map(|stage| stage.peak_bytes).max() {
        facts.push(("largest peak memory", bytes(peak)));
    }
    let size: u64 = record.stages.iter().filter_map(|stage| stage.bytes).sum();
    if size > 0 {
        facts.push(("size of all outputs", bytes(size)));
    }
    let costs: Vec<f64> = record.stages.iter().filter_map(|stage| stage.cost).collect();
    if !costs.is_empty() {
        facts.push(("cost of calls", format!("{:.2}", costs.iter().sum::<f64>())));
    }
    facts
}

/// The graph for wide screens, from left to right where that is not too wide, and for narrow ones down the page. Stages
/// none of which needs another stand in one column everywhere.
fn drawings(record: &PipelineRecord, results: &[StageResult]) -> Vec<GraphDrawing> {
    let needs: Vec<Vec<usize>> = record.stages.iter().map(|stage| stage.needs.clone()).collect();
    let draw = |direction, size, class| {
        let layout::Drawing { width, height, corners, lines } = layout::draw(&needs, direction, size);
        let nodes = record.stages.iter().zip(results).zip(corners);
        let nodes = nodes.map(|((stage, result), corner)| node(stage, result, corner, size)).collect();
        GraphDrawing { class, width: width.ceil(), height: height.ceil(), size, lines, nodes }
    };
    let wide = draw(Direction::Right, BOX, "wide");
    match layout::n_layers(&needs) {
        0 | 1 => vec![draw(Direction::Right, BOX, "only")],
        _ if wide.width > MAX_WIDTH => {
            vec![draw(Direction::Down, BOX, "wide"), draw(Direction::Down, NARROW_BOX, "narrow")]
        }
        _ => vec![wide, draw(Direction::Down, NARROW_BOX, "narrow")],
    }
}

fn node(
    stage: &PipelineStageRecord,
    result: &StageResult,
    [x, y]: [f64; 2],
    [width, _]: [f64; 2],
) -> GraphNode {
    let PipelineStageRecord { name, uses, state, reason, .. } = stage;
    let figure = match &result.figure {
        Some(figure) => figure.line(),
        None => reason.clone(),
    };
    let state_line = format!("{uses} · {}", state.words());
    let [n_name, n_line] = LETTERS.map(|letter| ((width - ROOM) / letter) as usize);
    let [x, y] = [x, y].map(|place| (10.0 * place).round() / 10.0);
    GraphNode {
        x,
        y,
        target: format!("stage-{name}"),
        class: state.class(),
        title: format!("{name}: {state_line}\n{figure}"),
        name: shortened(&format!("{} {name}", state.mark()), n_name),
        state: shortened(&state_line, n_line),
        figure: shortened(&figure, n_line),
    }
}

fn row<'a>(record: &PipelineRecord, stage: &'a PipelineStageRecord, result: &StageResult) -> StageRow<'a> {
    let needs = stage.needs.iter().filter_map(|&needed| record.stages.get(needed));
    let report = stage.folder.as_ref().zip(stage.link.as_ref()).and_then(|(folder, link)| {
        let page = ["report.html", "coverage.html"].into_iter().find(|page| folder.join(page).is_file())?;
        Some(format!("{link}/{page}"))
    });
    StageRow {
        stage,
        figure: result.figure.clone().unwrap_or_default(),
        needs: needs.map(|needed| needed.name.as_str()).collect::<Vec<_>>().join(", "),
        key: stage.key.as_deref().unwrap_or_default().chars().take(N_DIGITS).collect(),
        fate: stage.fate.map_or("", PipelineStageFate::words),
        time: stage.seconds.map_or_else(String::new, duration),
        memory: stage.peak_bytes.map_or_else(String::new, bytes),
        size: stage.bytes.map_or_else(String::new, bytes),
        cost: stage.cost.map_or_else(String::new, |cost| format!("{cost:.2}")),
        calls: stage.n_calls.map_or_else(String::new, |n| grouped(usize::try_from(n).unwrap_or(usize::MAX))),
        report,
    }
}
