//! Which model, where it is found, and how it comes into memory.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use truing_generate::LocalChat;
use truing_model::sources::{
    self, DEFAULT_MODEL, DatasetReference, DownloadProgress, FindOptions, FoundModel, ModelOrigin,
};
use truing_model::{DecodingWeights, EngineOptions, ModelError, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_text::RenderOptions;
use truing_types::{Event, EventSink, Seed};

use super::merge;
use crate::Context;
use crate::local_engine::LocalEngine;
use crate::outcome::WithHint;
use crate::progress;
use crate::units;

/// The hub, where HF_ENDPOINT names no other.
pub(crate) const DEFAULT_HUB: &str = "https://huggingface.co";

/// The model of a command.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// A model directory, a .gguf file, or a name on the Hugging Face hub. A path takes precedence; a name is looked up
    /// in the caches, then downloaded.
    #[arg(long, short, value_name = "PATH|NAME", default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
}

impl ModelArguments {
    /// Finds the model, fetching it where need be.
    pub(crate) fn find(&self, context: &Context) -> anyhow::Result<PathBuf> {
        find(&self.model, context)
    }
}

/// A model that one can talk to.
pub(crate) type OpenModel = LocalChat<LocalEngine>;

impl ModelArguments {
    /// Finds and loads the model for talking: nothing in it learns, so no gradient takes memory. Templates that
    /// print the date get today's.
    pub(crate) fn open(&self, weights: DecodingWeights, context: &Context) -> anyhow::Result<OpenModel> {
        let files = open(&self.find(context)?)?;
        let now = jiff::ZonedDateTime::now().datetime();
        let options = RenderOptions { now: Some(now), ..RenderOptions::default() };
        let renderer = truing_stages::model::renderer(&files, options)?;
        let frozen = TrainableSpec::frozen();
        let engine = load_engine(context, &files, &frozen)?;
        Ok(LocalChat::new(engine, renderer)?.with_decoding_weights(weights))
    }
}

/// Finds a model by path or name, fetching it where need be. A recipe of a merge is the model that it makes, merged
/// first where it is not there.
pub(crate) fn find(reference: &str, context: &Context) -> anyhow::Result<PathBuf> {
    Ok(find_by(sources::find_model, reference, context)?.path)
}

/// Finds a model for a plan. Of a model of the hub that is not here, configuration, tokenizer and the headers of the
/// weights are fetched; then `lacks_weights` is set.
pub(crate) fn find_to_plan(
    reference: &str,
    lacks_weights: &mut bool,
    context: &Context,
) -> anyhow::Result<PathBuf> {
    let found = find_by(sources::find_model_to_plan, reference, context)?;
    if matches!(found.origin, ModelOrigin::Headers { .. }) {
        *lacks_weights = true;
        context.printer.note(format_args!("{reference}: without the weights, which a run fetches"));
    }
    Ok(found.path)
}

/// How models are looked for.
type Find = fn(&str, &FindOptions, &mut dyn FnMut(DownloadProgress<'_>)) -> Result<FoundModel, ModelError>;

fn find_by(find: Find, reference: &str, context: &Context) -> anyhow::Result<FoundModel> {
    let local = |path| FoundModel { path, origin: ModelOrigin::Local };
    if merge::is_recipe(Path::new(reference)) {
        return merge::made(Path::new(reference), context).map(local);
    }
    // A local path needs neither cache nor network, unless it is an adapter whose base is a name.
    if Path::new(reference).exists() && !sources::names_base_of_hub(Path::new(reference)) {
        return Ok(local(reference.into()));
    }
    let options = find_options(context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut fetching = Fetching { file: None, phase: "fetching the model", events: events.as_mut() };
    let found = find(reference, &options, &mut |progress| fetching.show(progress))?;
    fetching.finish();
    if found.path.extension().is_some_and(|extension| extension == "gguf") {
        let origin = match &found.origin {
            ModelOrigin::Package { package } => format!("of the Python package `{package}`"),
            _ => "in the cache".to_owned(),
        };
        context.printer.note(format_args!(
            "{reference}: quantized weights, the GGUF file {} {origin}",
            found.path.file_name().unwrap_or_default().to_string_lossy()
        ));
    }
    Ok(found)
}

/// Finds the config.json of a model of the hub, fetching that file alone where need be.
pub(crate) fn find_config(reference: &str, context: &Context) -> anyhow::Result<PathBuf> {
    let options = find_options(context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut fetching = Fetching { file: None, phase: "fetching config.json", events: events.as_mut() };
    let found = sources::find_config(reference, &options, &mut |progress| fetching.show(progress))?;
    fetching.finish();
    Ok(found)
}

/// Finds a data set of the hub, fetching it where need be; `None` where the text is not the name of one.
pub(crate) fn find_data(name: &str, context: &Context) -> anyhow::Result<Option<PathBuf>> {
    let Some(reference) = DatasetReference::parse(name) else { return Ok(None) };
    let options = find_options(context)?;
    let mut events = progress::for_this_terminal(&context.printer);
    let mut fetching = Fetching { file: None, phase: "fetching the data set", events: events.as_mut() };
    let found = sources::find_dataset(&reference, &options, &mut |progress| fetching.show(progress))?;
    fetching.finish();
    Ok(Some(found))
}

/// Where models and data sets are looked for, and how.
fn find_options(context: &Context) -> anyhow::Result<FindOptions> {
    let environment = &context.environment;
    let cache = environment
        .model_cache
        .clone()
        .context("no cache folder is known for models and data sets")
        .hint(|| "set TRUING_CACHE or HOME".into())?;
    let endpoint = environment.hub_endpoint.clone().unwrap_or_else(|| DEFAULT_HUB.into());
    let mut options = FindOptions::new(cache, endpoint.trim_end_matches('/'));
    options.hugging_face_cache.clone_from(&environment.hugging_face_cache);
    options.hub_token.clone_from(&environment.hub_token);
    options.is_offline = environment.is_offline;
    if let Some(python) = environment.find_program(&["python3", "python"]) {
        options.python = python;
    }
    Ok(options)
}

/// Shows a download as one phase.
struct Fetching<'a> {
    file: Option<String>,
    phase: &'static str,
    events: &'a mut dyn EventSink,
}

impl Fetching<'_> {
    fn show(&mut self, progress: DownloadProgress<'_>) {
        if self.file.is_none() {
            let phase = self.phase.to_owned();
            self.events.emit(Event::PhaseStarted { phase, total: progress.total_bytes });
        }
        self.file = Some(progress.file.to_owned());
        let note = match progress.total_bytes {
            Some(total) => {
                format!("{}, {} of {}", progress.file, units::bytes(progress.done_bytes), units::bytes(total))
            }
            None => format!("{}, {}", progress.file, units::bytes(progress.done_bytes)),
        };
        self.events.emit(Event::Progress { done: progress.done_bytes, note });
    }

    fn finish(self) {
        if self.file.is_some() {
            self.events.emit(Event::PhaseFinished);
        }
    }
}

/// Loads the weights into the engine.
pub(crate) fn load_engine(
    context: &Context,
    files: &ModelFiles,
    trainable: &TrainableSpec,
) -> anyhow::Result<LocalEngine> {
    let mut events = progress::for_this_terminal(&context.printer);
    truing_stages::model::announce(files, trainable, events.as_mut());
    let total = files.spec.parameters().len() as u64;
    events.emit(Event::PhaseStarted { phase: "loading the model".into(), total: Some(total) });
    let options = EngineOptions::with_threads(context.n_threads, Seed(0));
    let on_tensor = &mut |done| events.emit(Event::Progress { done, note: String::new() });
    let groups = Solo::groups();
    let engine = truing_stages::model::load_engine(files, trainable, &options, &groups, on_tensor)?;
    events.emit(Event::PhaseFinished);
    Ok(engine)
}

/// Opens the files, with a hint where there are none.
pub(crate) fn open(path: &Path) -> anyhow::Result<ModelFiles> {
    Ok(ModelFiles::open(path)?)
}
