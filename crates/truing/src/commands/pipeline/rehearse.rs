//! `truing pipeline rehearse`: the whole recipe on small models and few rows, in a folder of its own, so that wrong
//! paths, formats, templates, tools and memory plans are found before the real run is paid for.

mod host;
mod models;
mod rows;
mod server;
mod shrink;
mod stand_in;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Args;
use serde_json::{Value as Json, json};
use toml::{Table, Value};
use truing_pipeline::{
    Applied, ApplyOptions, Digests, LockFile, Pipeline, PipelineError, PipelinePlan, Store, apply,
};
use truing_types::with_causes;

use super::Arguments;
use super::host::{Prediction, ProgramHost};
use crate::commands::stages;
use crate::outcome::{FINDING, FINE, Outcome};
use crate::printer::{Style, clean_path};
use crate::table::{Align, Table as PrintedTable};
use crate::{Context, interrupt, units};

use host::{Extent, RehearsalHost};

/// Kinds of stages whose models have another head than the one that they begin with, or are none to generate with.
const NEW_HEADS: [&str; 3] = ["reward_model", "classifier", "embed"];

/// Arguments of `truing pipeline rehearse`.
#[derive(Debug, Args)]
pub(crate) struct RehearseArguments {
    #[command(flatten)]
    shared: Arguments,
    /// Also run stages of kind `command`. Without it their programs and files are looked for, and stages that need them
    /// are not tried.
    #[arg(long)]
    with_commands: bool,
    /// Also send one request to each model on a server. Without it no server is contacted.
    #[arg(long)]
    with_servers: bool,
    /// Do not plan the real run of each stage: for large data, whose rows a plan reads.
    #[arg(long)]
    without_plans: bool,
    /// Keep the folder of the rehearsal, with the recipes, logs and results of the stages.
    #[arg(long)]
    keep: bool,
}

/// How a stage fared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Fine,
    /// It failed for these reasons, each with its place in the recipe.
    Failed(Vec<String>),
    /// It was not tried.
    NotTried(String),
}

/// What the real run of a stage would need.
struct Predicted {
    said: Json,
    /// Why it cannot run.
    problem: Option<String>,
}

/// A stage of the rehearsed pipeline.
#[derive(Debug, Clone)]
struct Rehearsed {
    stage: String,
    uses: String,
    fate: Fate,
    seconds: f64,
    remarks: Vec<String>,
    /// What the real run would need.
    predicted: Option<Json>,
}

/// Runs the command.
pub(super) fn run(arguments: &RehearseArguments, context: &Context) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("truing-rehearsal-").tempdir()?;
    let ended = rehearse(arguments, folder.path(), context);
    if arguments.keep {
        context.printer.note(format_args!("the rehearsal is in {}", clean_path(&folder.keep())));
    }
    ended
}

fn rehearse(arguments: &RehearseArguments, folder: &Path, context: &Context) -> anyhow::Result<Outcome> {
    let program = ProgramHost::new(context, None);
    let pipeline = super::read(&arguments.shared.recipe, &program)?;
    let stop = interrupt::stop_flag("stopping the rehearsal");
    let extent = Extent { runs_commands: arguments.with_commands, asks_servers: arguments.with_servers };
    let host = RehearsalHost::new(&program, context, folder, extent, stop.clone())?;
    let trial = pipeline.clone().with_results_in(folder);
    let store = Store::at(&trial.store);
    let digests = remembered(&pipeline, &store)?;
    let mut fates = BTreeMap::new();
    let (trial, plan) = plan_what_can_be(trial, &store, &digests, &host, &mut fates)?;
    let applied = apply(&trial, &plan, &store, &digests, &host, ApplyOptions { jobs: 1, stop: &stop })?;
    if applied.is_interrupted {
        return Ok(Outcome::Interrupted);
    }
    add_fates(&applied, &host, &pipeline, &mut fates);
    let shown = Shown { pipeline: &trial, plan: &plan, store: &store, host: &host };
    let predicted = match arguments.without_plans {
        true => BTreeMap::new(),
        false => shown.predictions(&program, arguments.shared.json)?,
    };
    for (stage, predicted) in &predicted {
        let is_failed = matches!(fates.get(stage), Some(Fate::Failed(_)));
        if let Some(problem) = predicted.problem.as_ref().filter(|_| !is_failed) {
            let place = pipeline.place_of_setting(stage, &[]);
            fates.insert(stage.clone(), Fate::Failed(vec![format!("{place}: stage `{stage}`: {problem}")]));
        }
    }
    let rehearsed = pipeline.order.iter().map(|&idx| {
        let stage = &pipeline.stages[idx];
        let tried = host.tried(&stage.name);
        let fate = match fates.get(&stage.name) {
            Some(Fate::Failed(reasons)) => {
                Fate::Failed(reasons.iter().map(|reason| shown.with_real_names(reason)).collect())
            }
            Some(fate) => fate.clone(),
            None => Fate::Fine,
        };
        Rehearsed {
            stage: stage.name.clone(),
            uses: stage.uses.clone(),
            fate,
            seconds: tried.seconds,
            remarks: tried.remarks,
            predicted: predicted.get(&stage.name).map(|predicted| predicted.said.clone()),
        }
    });
    let rehearsed: Vec<Rehearsed> = rehearsed.collect();
    print(&rehearsed, &pipeline, host.server.n_requests(), arguments.shared.json, context)?;
    let has_failed = rehearsed.iter().any(|stage| matches!(stage.fate, Fate::Failed(_)));
    Ok(if has_failed { Outcome::Finding } else { Outcome::Fine })
}

/// Digests with those that the real store remembers, so that large data is not read again.
fn remembered(pipeline: &Pipeline, store: &Store) -> anyhow::Result<Digests> {
    fs::create_dir_all(store.root())?;
    let known = Store::at(&pipeline.store).digests_path();
    if known.is_file() {
        fs::copy(known, store.digests_path())?;
    }
    Ok(Digests::open(&store.digests_path()))
}

/// Plans the pipeline. A stage with a mistake, and those that need it, are left out, so that all mistakes are found at
/// once.
fn plan_what_can_be(
    mut pipeline: Pipeline,
    store: &Store,
    digests: &Digests,
    host: &RehearsalHost<'_>,
    fates: &mut BTreeMap<String, Fate>,
) -> Result<(Pipeline, PipelinePlan), PipelineError> {
    loop {
        let error = match PipelinePlan::new(&pipeline, store, &LockFile::default(), digests, host) {
            Ok(plan) => return Ok((pipeline, plan)),
            Err(error) => error,
        };
        let stage = error.stage().and_then(|stage| pipeline.stage_index(stage).ok());
        let Some(idx) = stage else { return Err(error) };
        let name = pipeline.stages[idx].name.clone();
        for dependent in pipeline.downstream(idx) {
            fates.insert(pipeline.stages[dependent].name.clone(), Fate::NotTried(format!("it needs {name}")));
        }
        fates.insert(name, Fate::Failed(vec![with_causes(&error)]));
        pipeline = pipeline.without(idx);
    }
}

/// Adds what became of the stages that were planned. Those that are fine are left out.
fn add_fates(
    applied: &Applied,
    host: &RehearsalHost<'_>,
    pipeline: &Pipeline,
    fates: &mut BTreeMap<String, Fate>,
) {
    for (stage, reason) in &applied.failed {
        let tried = host.tried(stage);
        let fate = match tried.skipped {
            Some(why) => Fate::NotTried(why),
            None if tried.problems.is_empty() => {
                let place = pipeline.place_of_setting(stage, &[]);
                Fate::Failed(vec![format!("{place}: stage `{stage}`: {reason}")])
            }
            None => Fate::Failed(
                tried
                    .problems
                    .iter()
                    .map(|problem| {
                        let place = pipeline.place_of_setting(stage, &problem.keys);
                        format!("{place}: stage `{stage}`: {}", problem.text)
                    })
                    .collect(),
            ),
        };
        fates.insert(stage.clone(), fate);
    }
    for (stage, by) in &applied.not_run {
        fates.insert(stage.clone(), Fate::NotTried(format!("it needs {by}")));
    }
    for (stage, file) in &applied.waiting {
        fates.insert(stage.clone(), Fate::NotTried(format!("it waits for {}", clean_path(file))));
    }
}

/// A planned rehearsal, shown with the names of the real pipeline.
struct Shown<'a> {
    pipeline: &'a Pipeline,
    plan: &'a PipelinePlan,
    store: &'a Store,
    host: &'a RehearsalHost<'a>,
}

impl Shown<'_> {
    /// The folder of a stage's run in the rehearsal.
    fn run_folder(&self, idx: usize) -> Option<String> {
        let key = self.plan.stages[idx].key?;
        Some(self.store.run_folder(key).to_string_lossy().into_owned())
    }

    /// A text with the real names of models and stages in the place of paths of the rehearsal.
    fn with_real_names(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (idx, stage) in self.plan.stages.iter().enumerate() {
            if let Some(folder) = self.run_folder(idx) {
                text = text.replace(&folder, &format!("${{stages.{}}}", stage.name));
            }
        }
        for (small, real) in self.host.models.pairs() {
            text = text.replace(&*small.to_string_lossy(), &real.to_string_lossy());
        }
        text
    }

    /// What the real runs of the stages would need: planned with the real models and data. What other stages make is
    /// that of the rehearsal, so that time and steps are not those of the real run; the text says so.
    fn predictions(
        &self,
        program: &ProgramHost<'_>,
        as_json: bool,
    ) -> anyhow::Result<BTreeMap<String, Predicted>> {
        let text_of = |path: &Path| path.to_string_lossy().into_owned();
        let mut models: BTreeMap<String, String> =
            self.host.models.pairs().iter().map(|(small, real)| (text_of(small), text_of(real))).collect();
        let mut predicted = BTreeMap::new();
        for &idx in &self.pipeline.order {
            let (stage, Some(text)) = (&self.pipeline.stages[idx], self.plan.recipe(idx, self.store)) else {
                continue;
            };
            let made_by = |recipe: &Table| {
                let text = recipe.to_string();
                let is_read = |upstream: &usize| {
                    self.run_folder(*upstream).is_some_and(|folder| text.contains(&folder))
                };
                stage.upstream.iter().copied().find(is_read)
            };
            let mut recipe: Table = toml::from_str(&text)?;
            let rehearsed = recipe.clone();
            replace_paths(&mut recipe, &models);
            // The model that this stage makes is of the kind of the one that it begins with, unless its head is new.
            if let Some((folder, first)) = self.run_folder(idx).zip(first_model(&recipe))
                && !NEW_HEADS.contains(&stage.uses.as_str())
            {
                models.insert(format!("{folder}/{}", stages::MODEL.path), first);
            }
            // A merge reads the weights that stages before it have saved. The models that those begin with are no
            // substitute: they may be quantised, and one of them may be the start of several.
            if stage.uses == super::merge::KIND.name && made_by(&rehearsed).is_some() {
                recipe = rehearsed;
            }
            let made_by = made_by(&recipe).map(|upstream| self.pipeline.stages[upstream].name.as_str());
            let prediction = program.prediction(&stage.uses, &toml::to_string_pretty(&recipe)?, as_json)?;
            predicted.insert(stage.name.clone(), self.predicted(prediction, made_by));
        }
        Ok(predicted)
    }

    /// A prediction in the words of the real pipeline. `made_by` made a part of its inputs in the rehearsal.
    fn predicted(&self, prediction: Prediction, made_by: Option<&str>) -> Predicted {
        let Prediction { mut said, status } = prediction;
        let reason = said["reason"].as_str().or_else(|| said.as_str()).unwrap_or("it has no plan");
        let reason = self.with_real_names(reason);
        let problem = match (status.and_then(|status| u8::try_from(status).ok()), made_by) {
            (Some(FINE), _) => None,
            (Some(FINDING), _) => Some(format!("the real run does not fit: {reason}")),
            // What a rehearsal makes may be too little to plan with.
            (_, Some(_)) => None,
            (_, None) => Some(format!("the real run cannot be planned: {reason}")),
        };
        match (&mut said, made_by) {
            (Json::Object(fields), Some(stage)) => {
                drop(fields.insert("inputs_of_rehearsal".into(), stage.into()))
            }
            (Json::String(text), Some(stage)) => {
                *text = format!("{reason} (with what {stage} made in the rehearsal)");
            }
            (Json::String(text), None) => *text = reason,
            _ => {}
        }
        Predicted { said, problem }
    }
}

/// Replaces texts that are one of the paths.
fn replace_paths(table: &mut Table, paths: &BTreeMap<String, String>) {
    fn replace(value: &mut Value, paths: &BTreeMap<String, String>) {
        match value {
            Value::String(text) => {
                if let Some(other) = paths.get(text.as_str()) {
                    other.clone_into(text);
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|entry| replace(entry, paths)),
            Value::Table(table) => replace_paths(table, paths),
            _ => {}
        }
    }
    for (_, value) in table.iter_mut() {
        replace(value, paths);
    }
}

/// The model that a stage begins with: its own, or the first of a merge.
fn first_model(recipe: &Table) -> Option<String> {
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
    let first = |key: &str| recipe.get(key)?.as_array()?.first()?.as_table();
    text(recipe, "model_name_or_path")
        .or_else(|| text(recipe, "base_model"))
        .or_else(|| text(first("models")?, "model"))
        .or_else(|| text(first("slices")?.get("sources")?.as_array()?.first()?.as_table()?, "model"))
}

fn print(
    rehearsed: &[Rehearsed],
    pipeline: &Pipeline,
    n_requests: usize,
    as_json: bool,
    context: &Context,
) -> anyhow::Result<()> {
    let printer = &context.printer;
    if as_json {
        let stages: Vec<Json> = rehearsed.iter().map(stage_json).collect();
        let fields = json!({ "pipeline": pipeline.name, "stages": stages, "stand_in_requests": n_requests });
        return printer.json(&fields);
    }
    let columns =
        [("stage", Align::Left), ("kind", Align::Left), ("rehearsal", Align::Left), ("time", Align::Right)];
    let mut table = PrintedTable::new(&columns);
    for stage in rehearsed {
        let (fate, time) = match &stage.fate {
            Fate::Fine => ("ok".to_owned(), units::duration(stage.seconds)),
            Fate::Failed(_) => ("failed".to_owned(), units::duration(stage.seconds)),
            Fate::NotTried(why) => (format!("not tried: {why}"), String::new()),
        };
        table.row([stage.stage.clone(), stage.uses.clone(), fate, time]);
    }
    for line in table.lines() {
        printer.line(line)?;
    }
    let remarks =
        rehearsed.iter().flat_map(|stage| stage.remarks.iter().map(move |text| (&stage.stage, text)));
    print_part("remarks", remarks.map(|(stage, text)| format!("{stage}: {text}")), context)?;
    // Of a stage that failed the plan says the same once more.
    let tried = rehearsed.iter().filter(|stage| !matches!(stage.fate, Fate::Failed(_)));
    let predicted = tried.filter_map(|stage| Some((&stage.stage, stage.predicted.as_ref()?.as_str()?)));
    print_part("the real run", predicted.map(|(stage, text)| format!("{stage}: {text}")), context)?;
    let errors = rehearsed.iter().filter_map(|stage| match &stage.fate {
        Fate::Failed(reasons) => Some(reasons.iter().cloned()),
        _ => None,
    });
    print_part("to be corrected", errors.flatten(), context)?;
    let n_of = |is: fn(&Fate) -> bool| rehearsed.iter().filter(|stage| is(&stage.fate)).count();
    let (n_fine, n_failed) = (n_of(|fate| *fate == Fate::Fine), n_of(|fate| matches!(fate, Fate::Failed(_))));
    let n_not_tried = rehearsed.len() - n_fine - n_failed;
    printer.line("")?;
    let summary = format!("{n_fine} ok, {n_failed} failed, {n_not_tried} not tried");
    Ok(printer.line(printer.styled(Style::Bold, summary))?)
}

/// Prints lines below a heading; nothing where there are none.
fn print_part(heading: &str, lines: impl Iterator<Item = String>, context: &Context) -> anyhow::Result<()> {
    let mut has_heading = false;
    for line in lines {
        if !has_heading {
            context.printer.line("")?;
            context.printer.line(context.printer.styled(Style::Bold, heading))?;
            has_heading = true;
        }
        context.printer.line(format_args!("  {line}"))?;
    }
    Ok(())
}

fn stage_json(stage: &Rehearsed) -> Json {
    let none: &[String] = &[];
    let (state, errors, reason) = match &stage.fate {
        Fate::Fine => ("ok", none, None),
        Fate::Failed(reasons) => ("failed", reasons.as_slice(), None),
        Fate::NotTried(why) => ("not_tried", none, Some(why)),
    };
    json!({
        "stage": stage.stage, "uses": stage.uses, "state": state, "errors": errors, "reason": reason,
        "seconds": stage.seconds, "remarks": stage.remarks, "predicted": stage.predicted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_rehearsal_become_real_ones() {
        let mut recipe: Table = toml::from_str(
            "model_name_or_path = \"/trial/models/0/m\"\nn = 1\n[[data]]\npath = \"/trial/models/0/m/x\"\n",
        )
        .unwrap();
        let paths = [("/trial/models/0/m".to_owned(), "/models/m".to_owned())].into();
        replace_paths(&mut recipe, &paths);
        assert_eq!(recipe["model_name_or_path"].as_str(), Some("/models/m"));
        assert_eq!(recipe["data"][0]["path"].as_str(), Some("/trial/models/0/m/x"), "whole texts only");
        assert_eq!(first_model(&recipe).as_deref(), Some("/models/m"));
    }

    #[test]
    fn a_stage_begins_with_its_model_or_with_the_first_of_a_merge() {
        let first = |text: &str| first_model(&toml::from_str(text).unwrap());
        let models = "models = [{ model = \"a\" }, { model = \"b\" }]\n";
        assert_eq!(first(models).as_deref(), Some("a"));
        assert_eq!(first(&format!("base_model = \"base\"\n{models}")).as_deref(), Some("base"));
        assert_eq!(first("slices = [{ sources = [{ model = \"c\" }] }]").as_deref(), Some("c"));
        assert_eq!(first("n = 1"), None);
    }
}
