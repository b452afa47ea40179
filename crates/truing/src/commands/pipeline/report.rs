//! `truing pipeline report`: one page for a whole pipeline. `apply` writes it too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use truing_pipeline::{Applied, Pipeline, PipelinePlan, PlannedStage, State, Store};
use truing_report::{
    PipelineRecord, PipelineStageFate, PipelineStageRecord, PipelineStageState, write_pipeline,
};
use truing_store::atomic;
use truing_store::paths::relative_to;

use super::host::ProgramHost;
use super::{Arguments, Opened, show};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;

/// The page, in the folder of links to the results. No stage has such a name.
const PAGE: &str = "report.html";
/// What the last `apply` did, in the same folder.
const APPLIED: &str = "applied.json";
const FORMAT_VERSION: u32 = 1;

/// Arguments of `truing pipeline report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Output file. Default: `pipeline-out/PIPELINE/report.html` beside the recipe.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans the pipeline, and writes the page.
pub(super) fn run(arguments: &ReportArguments, context: &Context) -> anyhow::Result<Outcome> {
    let opened = Opened::open(&arguments.shared.recipe, &ProgramHost::new(context, None))?;
    let page = arguments.output.clone().unwrap_or_else(|| opened.pipeline.links().join(PAGE));
    write(&opened, &page)?;
    if arguments.shared.json {
        context.printer.json(&json!({ "page": clean_path(&page) }))?;
    } else {
        context.printer.line(clean_path(&page))?;
    }
    Ok(Outcome::Fine)
}

/// Records what `apply` did, and writes the page anew. Where all was up to date and the page is there, it stays. A page
/// that cannot be written does not spoil the results: it is a warning.
pub(super) fn after_apply(
    recipe: &Path,
    host: &ProgramHost<'_>,
    applied: &Applied,
    context: &Context,
) -> Option<PathBuf> {
    let written = || -> anyhow::Result<Option<PathBuf>> {
        let opened = Opened::open(recipe, host)?;
        let page = opened.pipeline.links().join(PAGE);
        let is_unchanged = applied.up_to_date.len() == opened.plan.stages.len();
        if is_unchanged && page.is_file() {
            return Ok(None);
        }
        if !is_unchanged {
            let record = AppliedRecord::new(applied, &opened.plan);
            atomic::write_json(&opened.pipeline.links().join(APPLIED), &record)?;
        }
        write(&opened, &page)?;
        Ok(Some(page))
    };
    written().unwrap_or_else(|error| {
        context.printer.warning(format_args!("the page of the pipeline was not written: {error:#}"));
        None
    })
}

fn write(opened: &Opened, page: &Path) -> anyhow::Result<()> {
    let Opened { pipeline, store, plan, .. } = opened;
    let absolute = std::path::absolute(page).with_context(|| clean_path(page))?;
    let folder = absolute.parent().context("expected the path of a file")?;
    fs::create_dir_all(folder).with_context(|| clean_path(folder))?;
    Ok(write_pipeline(&record(pipeline, plan, store, folder), page)?)
}

/// What the last `apply` did that did anything.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct AppliedRecord {
    format_version: u32,
    /// When it ended, as local time.
    ended: String,
    stages: BTreeMap<String, AppliedStage>,
}

/// What became of a stage.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct AppliedStage {
    /// Its key at that time.
    key: Option<String>,
    fate: Fate,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    Ran,
    Reused,
    UpToDate,
    Failed,
}

impl AppliedRecord {
    fn new(applied: &Applied, plan: &PipelinePlan) -> Self {
        let key = |stage: &str| {
            let planned = plan.stages.iter().find(|planned| planned.name == stage);
            planned.and_then(|planned| planned.key).map(|key| key.to_string())
        };
        let lists = [
            (Fate::Ran, &applied.ran),
            (Fate::Reused, &applied.reused),
            (Fate::UpToDate, &applied.up_to_date),
        ];
        let mut stages: BTreeMap<String, AppliedStage> = BTreeMap::new();
        for (fate, names) in lists {
            stages.extend(
                names.iter().map(|name| (name.clone(), AppliedStage { key: key(name), fate, reason: None })),
            );
        }
        stages.extend(applied.failed.iter().map(|(name, reason)| {
            let stage = AppliedStage { key: key(name), fate: Fate::Failed, reason: Some(reason.clone()) };
            (name.clone(), stage)
        }));
        let ended = jiff::ZonedDateTime::now().datetime().strftime("%Y-%m-%d %H:%M").to_string();
        Self { format_version: FORMAT_VERSION, ended, stages }
    }

    /// That of a folder of links; `None` where there is none of this version.
    fn read(links: &Path) -> Option<Self> {
        let record: Self = serde_json::from_slice(&fs::read(links.join(APPLIED)).ok()?).ok()?;
        (record.format_version == FORMAT_VERSION).then_some(record)
    }

    /// What became of a stage, if it had the key that it has now.
    fn of(&self, stage: &PlannedStage) -> Option<&AppliedStage> {
        let key = stage.key.map(|key| key.to_string());
        self.stages.get(&stage.name).filter(|applied| applied.key == key)
    }
}

/// The pipeline as its page shows it; `folder` is that of the page, absolute.
fn record(pipeline: &Pipeline, plan: &PipelinePlan, store: &Store, folder: &Path) -> PipelineRecord {
    let applied = AppliedRecord::read(&pipeline.links());
    let place = |stage: usize| pipeline.order.iter().position(|&idx| idx == stage);
    let stages = pipeline.order.iter().map(|&idx| {
        let (stage, planned) = (&pipeline.stages[idx], &plan.stages[idx]);
        let applied = applied.as_ref().and_then(|applied| applied.of(planned));
        PipelineStageRecord {
            name: stage.name.clone(),
            uses: stage.uses.clone(),
            needs: stage.upstream.iter().filter_map(|&needed| place(needed)).collect(),
            ..stage_record(pipeline, planned, applied, store, folder)
        }
    });
    PipelineRecord {
        name: pipeline.name.clone(),
        recipe: clean_path(pipeline.path()),
        stages: stages.collect(),
        applied: applied.as_ref().map(|applied| applied.ended.clone()).unwrap_or_default(),
    }
}

/// State and result of a stage.
fn stage_record(
    pipeline: &Pipeline,
    planned: &PlannedStage,
    applied: Option<&AppliedStage>,
    store: &Store,
    folder: &Path,
) -> PipelineStageRecord {
    let mut record = PipelineStageRecord {
        state: match &planned.state {
            State::UpToDate => PipelineStageState::UpToDate,
            State::InStore => PipelineStageState::InStore,
            State::ToRun => PipelineStageState::ToRun,
            State::ToContinue => PipelineStageState::ToContinue,
            State::Waiting { .. } => PipelineStageState::Waiting,
            State::Blocked { .. } => PipelineStageState::Blocked,
        },
        reason: show::reason(planned),
        key: planned.key.map(|key| key.to_string()),
        fate: applied.and_then(|applied| match applied.fate {
            Fate::Ran => Some(PipelineStageFate::Ran),
            Fate::Reused => Some(PipelineStageFate::Reused),
            Fate::UpToDate => Some(PipelineStageFate::UpToDate),
            Fate::Failed => None,
        }),
        ..PipelineStageRecord::default()
    };
    let has_result = matches!(planned.state, State::UpToDate | State::InStore);
    if let Some(AppliedStage { fate: Fate::Failed, reason: Some(reason), .. }) =
        applied.filter(|_| !has_result)
    {
        record.state = PipelineStageState::Failed;
        record.reason.clone_from(reason);
    }
    if let (Some(done), Some(key)) = (&planned.done, planned.key) {
        let run = store.run_folder(key);
        let said = Said::read(&run.with_file_name("stdout.txt"));
        record.link = Some(link(pipeline, &planned.name, &run, folder));
        record.folder = Some(run);
        record.figures = done.figures.clone();
        record.figures.extend(said.counts);
        record.seconds = Some(done.seconds);
        record.peak_bytes = done.peak_bytes;
        record.bytes = Some(done.outputs.values().map(|output| output.bytes).sum());
        (record.cost, record.n_calls) = (said.cost, said.n_calls);
    }
    record
}

/// A link from the folder of the page to a run: through the folder of links where that leads to it, so that the two
/// can be moved or served together.
fn link(pipeline: &Pipeline, stage: &str, run: &Path, folder: &Path) -> String {
    let named = pipeline.links().join(stage);
    let is_same = match (named.canonicalize(), run.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    url(&relative_to(folder, if is_same { &named } else { run }))
}

/// A relative path as a URL.
fn url(path: &Path) -> String {
    let mut url = String::new();
    for (number, part) in path.iter().enumerate() {
        if number > 0 {
            url.push('/');
        }
        for byte in part.to_string_lossy().bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    url.push(char::from(byte))
                }
                _ => {
                    let _ = write!(url, "%{byte:02X}");
                }
            }
        }
    }
    url
}

/// What a stage printed at its end, as far as the page shows it.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// The counts of its summary.
    counts: BTreeMap<String, f64>,
    cost: Option<f64>,
    n_calls: Option<u64>,
}

impl Said {
    /// Nothing where there is no such file, or it is not the object that stages print.
    fn read(stdout: &Path) -> Self {
        let text = fs::read(stdout).ok();
        let said: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        said.map(|said| Self::of(&said)).unwrap_or_default()
    }

    fn of(said: &Value) -> Self {
        let summary = said.get("summary").and_then(Value::as_object);
        let counts = summary.into_iter().flatten().filter(|(name, _)| name.starts_with("n_"));
        let calls: Vec<u64> = ["n_calls", "n_replies"]
            .into_iter()
            .map(|name| numbers_of(said, name))
            .find(|found| !found.is_empty())
            .unwrap_or_default();
        Self {
            counts: counts.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect(),
            cost: summary.and_then(|summary| summary.get("cost")).and_then(Value::as_f64),
            n_calls: (!calls.is_empty()).then(|| calls.iter().sum()),
        }
    }
}

/// The counts of a name, wherever they are.
fn numbers_of(value: &Value, name: &str) -> Vec<u64> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, value)| match value.as_u64().filter(|_| key == name) {
                Some(number) => vec![number],
                None => numbers_of(value, name),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(|value| numbers_of(value, name)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_urls() {
        assert_eq!(url(Path::new("../a b/ä#?/c.html")), "../a%20b/%C3%A4%23%3F/c.html");
        assert_eq!(url(Path::new("javascript:alert(1)")), "javascript%3Aalert%281%29");
    }

    #[test]
    fn counts_calls_and_cost_are_found_in_what_stages_print() {
        let said = json!({
            "status": "finished",
            "summary": {
                "n_prompts": 40, "cost": 1.5, "warnings": [],
                "samplers": [{ "n_replies": 30, "n_tokens": 9 }, { "n_replies": 12 }],
            },
        });
        let expected =
            Said { counts: [("n_prompts".to_owned(), 40.0)].into(), cost: Some(1.5), n_calls: Some(42) };
        assert_eq!(Said::of(&said), expected);
        let judged = json!({ "summary": { "n_pairs": 3 }, "judges": [{ "n_calls": 5 }, { "n_calls": 6 }] });
        assert_eq!(Said::of(&judged).n_calls, Some(11));
        assert_eq!(Said::of(&json!([1])), Said::default());
    }
}
