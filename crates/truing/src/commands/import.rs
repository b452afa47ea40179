//! `truing import`: a recipe from the YAML of TRL, axolotl, LLaMA-Factory or verl, with a list of what became of each
//! key.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use truing_import::{ImportError, Imported, Kind, Options, SourceStage};

use super::merge::is_of_mergekit;
use crate::Context;
use crate::outcome::{Outcome, WithHint};

/// Arguments of `truing import`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The YAML file of the other tool.
    file: PathBuf,
    /// The tool. Default: found by the keys of the file.
    #[arg(long)]
    tool: Option<Tool>,
    /// The trainer, for files of TRL, which do not name it. Default: found by the keys of the file.
    #[arg(long)]
    stage: Option<Stage>,
    /// The number of processes that the tool trained on; a step has the rows of all. verl's files have them already.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    processes: u64,
    /// The folder in which the tool ran: paths in the file are relative to it. Default: this folder; what is not there
    /// is looked for beside the file and above it.
    #[arg(long, value_name = "FOLDER")]
    working_folder: Option<PathBuf>,
    /// The recipe to write; an existing file is not replaced. Default: the recipe is printed.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object with the recipe and the lists.
    #[arg(long)]
    json: bool,
}

/// A tool whose files are read.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tool {
    /// TRL.
    Trl,
    /// axolotl.
    Axolotl,
    /// LLaMA-Factory.
    LlamaFactory,
    /// verl.
    Verl,
}

impl From<Tool> for truing_import::Tool {
    fn from(tool: Tool) -> Self {
        match tool {
            Tool::Trl => Self::Trl,
            Tool::Axolotl => Self::Axolotl,
            Tool::LlamaFactory => Self::LlamaFactory,
            Tool::Verl => Self::Verl,
        }
    }
}

/// A trainer of TRL.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stage {
    /// `trl sft`.
    Sft,
    /// `trl dpo`.
    Dpo,
    /// `trl kto`.
    Kto,
    /// TRL's `ORPOTrainer`.
    Orpo,
    /// TRL's `CPOTrainer`, also with the SimPO loss.
    Cpo,
    /// `trl reward`.
    Reward,
    /// `trl grpo`.
    Grpo,
    /// `trl rloo`.
    Rloo,
}

impl From<Stage> for SourceStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Sft => Self::Sft,
            Stage::Dpo => Self::Dpo,
            Stage::Kto => Self::Kto,
            Stage::Orpo => Self::Orpo,
            Stage::Cpo => Self::Cpo,
            Stage::Reward => Self::Reward,
            Stage::Grpo => Self::Grpo,
            Stage::Rloo => Self::Rloo,
        }
    }
}

/// Makes the recipe, prints or writes it, and says what became of the keys. A key that the tool does not have is a
/// finding: it may be a slip.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    let imported = import(arguments, context)?;
    if let Some(output) = &arguments.output {
        write(output, &imported.recipe)?;
    }
    let printer = &context.printer;
    if arguments.json {
        printer.json(&imported.to_json())?;
    } else {
        if arguments.output.is_none() {
            printer.text(&imported.recipe)?;
        }
        printer.note(&imported);
        if let Some(output) = &arguments.output {
            printer.note(format_args!(
                "\nwritten to {0}; run it with `{1} {0}`",
                output.display(),
                imported.command
            ));
        }
    }
    let has_unknown = imported.of(Kind::Unknown).next().is_some();
    if has_unknown && printer.is_quiet() {
        // Said in the notes too, which `--quiet` leaves out.
        let keys: Vec<String> = imported.of(Kind::Unknown).map(|key| format!("`{}`", key.key)).collect();
        printer.warning(format_args!("unknown keys: {}", keys.join(", ")));
    }
    Ok(if has_unknown { Outcome::Finding } else { Outcome::Fine })
}

fn import(arguments: &Arguments, context: &Context) -> anyhow::Result<Imported> {
    let file = &arguments.file;
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let Ok(text) = String::from_utf8(bytes) else { bail!("{} is not UTF-8 text", file.display()) };
    let working_folder = match &arguments.working_folder {
        Some(folder) => absolute(folder)?,
        None => std::env::current_dir()?,
    };
    let recipe_folder = match &arguments.output {
        Some(output) => folder_of(output)?,
        None => std::env::current_dir()?,
    };
    let options = Options {
        tool: arguments.tool.map(Into::into),
        stage: arguments.stage.map(Into::into),
        processes: arguments.processes,
        yaml_folder: folder_of(file)?,
        working_folder,
        recipe_folder,
        home: context.environment.home.clone(),
    };
    let imported = truing_import::import(&text, file, &options);
    match &imported {
        Err(ImportError::UnknownTool { .. }) if is_of_mergekit(&text) => {
            imported.hint(|| format!("`truing merge {}` merges by a file of mergekit", file.display()))
        }
        Err(ImportError::UnknownTool { .. }) => {
            imported.hint(|| "`--tool trl`, `axolotl`, `llama-factory` or `verl` names it".into())
        }
        Err(ImportError::UnknownStage { .. }) => {
            imported.hint(|| "`--stage` names the trainer: `--stage sft` for a file of `trl sft`".into())
        }
        _ => Ok(imported?),
    }
}

/// The folder of a file, absolute.
fn folder_of(file: &Path) -> anyhow::Result<PathBuf> {
    let path = absolute(file)?;
    Ok(path.parent().map_or_else(|| path.clone(), Path::to_path_buf))
}

/// Writes a file that is not there yet.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists already; expected another output", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("creating {}", path.display())),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        write(&path, "a = 1\n").unwrap();
        let error = write(&path, "a = 2\n").unwrap_err().to_string();
        assert!(error.ends_with("recipe.toml exists already; expected another output"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a = 1\n");
    }

    #[test]
    fn the_names_on_the_command_line_are_those_of_the_library() {
        for tool in Tool::value_variants() {
            let name = tool.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(truing_import::Tool::from_option(&name), Some((*tool).into()));
        }
        for stage in Stage::value_variants() {
            let name = stage.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(SourceStage::from_option(&name), Some((*stage).into()));
        }
    }
}
