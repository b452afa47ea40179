//! `truing annotate`: pages on which people rank, rate, mark, edit and label responses; their status and outputs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use truing_annotate::{
    AnnotateConfig, AnnotateError, Measured, NewLink, OpenedProject, Project, Records, Role, ServeOptions,
    Status, StoredProject, serve, write_outputs,
};
use truing_data::DataError;
use truing_run::recipe::place_of;
use truing_statistics::BootstrapEstimate;
use truing_store::StoreError;
use truing_types::counted;

use crate::asking::SystemClock;
use crate::outcome::{Outcome, WithHint};
use crate::printer::one_sentence;
use crate::table::{Align, Table};
use crate::{Context, interrupt};

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 16;

/// What is done with a project.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the pages of a project; the first start makes a link for each person.
    #[command(after_help = "Example: truing annotate serve recipes/annotate.toml --port 8010")]
    Serve(ServeArguments),
    /// Print progress, annotators, agreement and the calibration of judges.
    #[command(after_help = "Example: truing annotate status runs/annotate")]
    Status(StatusArguments),
    /// Write the training data of a project: preferences, ranked groups, edited responses, labels.
    #[command(after_help = "Example: truing annotate export runs/annotate --output data/annotated")]
    Export(ExportArguments),
}

/// Arguments of `truing annotate serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Address to listen on. What is sent to other machines is not encrypted: put a proxy with TLS before it.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8010)]
    port: u16,
    /// Make a new link for this person, or for `owner`; the old one ends. May be given several times.
    #[arg(long = "new-link", value_name = "NAME")]
    new_links: Vec<String>,
}

/// Arguments of `truing annotate status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The project's folder.
    folder: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `truing annotate export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The project's folder.
    folder: PathBuf,
    /// Folder for the files. Default: the project's.
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(command: &Command, context: &mut Context) -> anyhow::Result<Outcome> {
    match command {
        Command::Serve(arguments) => run_serve(arguments, context),
        Command::Status(arguments) => run_status(arguments, context),
        Command::Export(arguments) => run_export(arguments, context),
    }
}

fn run_serve(arguments: &ServeArguments, context: &Context) -> anyhow::Result<Outcome> {
    // The recipe in the folder is read from anywhere.
    let path = std::path::absolute(&arguments.recipe)?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = AnnotateConfig::from_toml(&text, &path)?;
    let address = SocketAddr::new(arguments.host, arguments.port);
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))
        .hint(|| "choose another --port, or 0 for a free one".into())?;
    let address = listener.local_addr()?;
    let stop = interrupt::stop_flag("Stopping: answers that are on their way are stored");
    let clock = Arc::new(SystemClock::new(&stop));
    let files = files_of(&config);
    let opened = Project::open(config, &arguments.new_links, &mut random_token, clock);
    let OpenedProject { project, links, warnings } =
        opened.map_err(|error| at_its_place(error, &files, &text, &path))?;
    warnings.iter().for_each(|warning| context.printer.warning(warning));
    print_links(&links, address, context)?;
    project.keep_links()?;
    context.printer.line(format!(
        "listening on http://{address} ({}, {})",
        counted(project.items().n_plain as u64, "item", "items"),
        counted(project.config().annotator.len() as u64, "annotator", "annotators")
    ))?;
    serve(listener, project, &ServeOptions::default())?;
    Ok(Outcome::Fine)
}

/// The files that a recipe names, by their settings.
fn files_of(config: &AnnotateConfig) -> Vec<(String, PathBuf)> {
    let single = [
        ("guidelines", config.guidelines.clone()),
        ("gold.path", config.gold.as_ref().map(|known| known.path.clone())),
        ("attention.path", config.attention.as_ref().map(|known| known.path.clone())),
    ];
    let single = single.into_iter().filter_map(|(setting, path)| Some((setting.to_owned(), path?)));
    let data = config.data.iter().enumerate();
    let data =
        data.map(|(idx, source)| (format!("data.{idx}.path"), source.in_folder(&config.data_dir).path));
    single.chain(data).collect()
}

/// Puts before an error of a setting, or of a file that a setting names, where the recipe has it.
fn at_its_place(error: AnnotateError, files: &[(String, PathBuf)], text: &str, path: &Path) -> anyhow::Error {
    let (key, unread) = match &error {
        AnnotateError::Run(error) => (error.setting(), error.unread_path()),
        AnnotateError::Data(DataError::Io { path, .. } | DataError::UnsupportedFile { path, .. })
        | AnnotateError::Store(StoreError::Io { path, .. }) => (None, Some(path.as_path())),
        _ => (None, None),
    };
    if let Some(key) = key {
        return anyhow::anyhow!("{}: {error}", place_of(key, text, path, &[]));
    }
    let named = unread.and_then(|unread| files.iter().find(|(_, path)| path == unread));
    let place = named.map(|(setting, _)| format!("{}: `{setting}`", place_of(setting, text, path, &[])));
    let error = anyhow::Error::from(error);
    match place {
        Some(place) => anyhow::anyhow!("{place}: {}", one_sentence(&error)),
        None => error,
    }
}

fn print_links(links: &[NewLink], address: SocketAddr, context: &Context) -> anyhow::Result<()> {
    for NewLink { name, role, token } in links {
        let (page, role) = match role {
            Role::Annotator => ("", "annotator"),
            Role::Adjudicator => ("", "adjudicator"),
            Role::Owner => ("status", "status page"),
        };
        context.printer.line(format!("{name} ({role}): http://{address}/{page}?token={token}"))?;
    }
    if !links.is_empty() {
        context.printer.note("the links are shown this once; `--new-link NAME` makes another one");
    }
    Ok(())
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A JSON result with the number of entries that are not used in it.
#[derive(Serialize)]
struct WithStray<'a, T> {
    #[serde(flatten)]
    found: &'a T,
    /// Entries about items that the data does not have, or whose text has changed since.
    n_stray: usize,
}

fn warn_of_stray(records: &Records, context: &Context) {
    if let Some(warning) = records.stray_warning() {
        context.printer.warning(warning);
    }
}

fn run_status(arguments: &StatusArguments, context: &Context) -> anyhow::Result<Outcome> {
    let StoredProject { config, items, records } = StoredProject::read(&arguments.folder)?;
    let status = Status::of(&items, &records.by_item, &config);
    warn_of_stray(&records, context);
    if arguments.json {
        context.printer.json(&WithStray { found: &status, n_stray: records.n_stray })?;
    } else {
        print_status(&status, context)?;
    }
    Ok(Outcome::Fine)
}

fn print_status(status: &Status, context: &Context) -> anyhow::Result<()> {
    let printer = context.printer;
    let progress = status.progress;
    printer.line(format_args!(
        "{} of {} complete, {} begun; {} and {} of annotators; {} in dispute, {} decided",
        progress.n_complete,
        counted(progress.n_items as u64, "item", "items"),
        progress.n_started,
        counted(progress.n_answers as u64, "answer", "answers"),
        counted(progress.n_skips as u64, "skip", "skips"),
        progress.n_disputed,
        progress.n_adjudicated
    ))?;
    if progress.n_need_annotator > 0 {
        printer.line(format_args!(
            "{} another annotator: too many left them to others",
            counted(progress.n_need_annotator as u64, "item needs", "items need")
        ))?;
    }
    let judges = (!status.judges.is_empty()).then(|| judges_table(status));
    for table in [Some(people_table(status)), Some(agreement_table(status)), judges].into_iter().flatten() {
        printer.line("")?;
        for line in table.lines() {
            printer.line(line)?;
        }
    }
    printer.line("")?;
    if !status.doubtful_items.is_empty() {
        printer.line(format_args!(
            "most annotators answered otherwise than expected: {}",
            status.doubtful_items.join(", ")
        ))?;
    }
    Ok(printer.line(format_args!(
        "`further`: items until the 95 % interval is {} wide (`target_interval`)",
        status.target_interval
    ))?)
}

fn people_table(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("annotator", Align::Left),
        ("answers", Align::Right),
        ("skips", Align::Right),
        ("gold right", Align::Right),
        ("checks failed", Align::Right),
        ("seconds", Align::Right),
        ("competence", Align::Right),
    ]);
    for one in &status.annotators {
        table.row([
            if one.has_left { format!("{} (left)", one.name) } else { one.name.clone() },
            one.n_answers.to_string(),
            one.n_skips.to_string(),
            format!("{} of {}", one.n_gold_right, one.n_gold),
            format!("{} of {}", one.n_attention_failed, one.n_attention),
            number(one.median_secs),
            number(one.competence),
        ]);
    }
    table
}

fn agreement_table(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("question", Align::Left),
        ("agreement", Align::Left),
        ("value", Align::Right),
        ("items", Align::Right),
        ("further", Align::Right),
    ]);
    for Measured { question, aspect, statistic, estimate, undefined, n_resampled, n_further_items } in
        &status.agreement
    {
        table.row([
            aspect.as_ref().map_or_else(|| question.clone(), |aspect| format!("{question}, {aspect}")),
            (*statistic).to_owned(),
            undefined.map_or_else(|| with_interval(estimate.as_ref()), |why| format!("- ({why})")),
            estimate.map_or_else(String::new, |found| {
                let is_sample = *n_resampled < found.n_units;
                let sample =
                    if is_sample { format!(" (interval from {n_resampled})") } else { String::new() };
                format!("{}{sample}", found.n_units)
            }),
            n_further_items.map_or_else(|| "-".into(), |n| n.to_string()),
        ]);
    }
    table
}

fn judges_table(status: &Status) -> Table {
    let mut table = Table::new(&[
        ("question", Align::Left),
        ("judge = people", Align::Right),
        ("kappa", Align::Right),
        ("rank correlation", Align::Right),
    ]);
    for one in &status.judges {
        table.row([
            one.question.clone(),
            one.agreement.map_or_else(|| "-".into(), |found| format!("{:.2} of {}", found.share, found.n)),
            number(one.agreement.and_then(|found| found.kappa)),
            with_interval(one.rank_correlation.as_ref()),
        ]);
    }
    table
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.2}"))
}

fn with_interval(estimate: Option<&BootstrapEstimate>) -> String {
    estimate.map_or_else(
        || "-".into(),
        |found| format!("{:.2} [{:.2}, {:.2}]", found.value, found.interval.low, found.interval.high),
    )
}

fn run_export(arguments: &ExportArguments, context: &Context) -> anyhow::Result<Outcome> {
    let StoredProject { config, items, records } = StoredProject::read(&arguments.folder)?;
    let folder = arguments.output.as_deref().unwrap_or(&arguments.folder);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let counts = write_outputs(folder, &items, &records.by_item, &config)?;
    warn_of_stray(&records, context);
    if arguments.json {
        context.printer.json(&WithStray { found: &counts, n_stray: records.n_stray })?;
        return Ok(Outcome::Fine);
    }
    context.printer.line(format_args!(
        "{}: {}, {}, {}, {} of {}",
        folder.display(),
        counted(counts.n_pairs as u64, "pair", "pairs"),
        counted(counts.n_ranked as u64, "ranked group", "ranked groups"),
        counted(counts.n_sft as u64, "edited response", "edited responses"),
        counted(counts.n_labels as u64, "row with labels", "rows with labels"),
        counted(counts.n_items as u64, "complete item", "complete items")
    ))?;
    let unusable = "cannot be trained on: equal texts in different ranks, or an empty one before another";
    let contradicting = "no scores: the ratings are in another order than the ranks";
    for (n, one, many, why) in [
        (counts.n_unusable, "order", "orders", unusable),
        (counts.n_contradicting, "pair has", "pairs have", contradicting),
        (counts.n_tied_labels, "label question", "label questions", "without a majority"),
    ] {
        if n > 0 {
            context.printer.note(format_args!("{} {why}", counted(n as u64, one, many)));
        }
    }
    Ok(Outcome::Fine)
}
