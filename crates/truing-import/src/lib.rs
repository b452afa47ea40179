//! Recipes from the YAML of TRL, axolotl, LLaMA-Factory and verl, and merges from that of mergekit ([`merge_recipe`]).
//!
//! [`import`] makes a recipe of a file and lists what became of each key: nothing is left out silently. Where a tool's
//! default is not truing's, the recipe says it, so that it trains as the file would. [`counterpart`] is the answer for
//! one key, for the error about a key that a recipe does not have.
//!
//! The rules that are not obvious:
//!
//! - **Rows of a step.** The tools count rows: `per_device_train_batch_size` x `gradient_accumulation_steps` x
//!   processes ([`Options::processes`], which no file has). Where the tool packs, a row is a pack, as in truing.
//!   Where it does not, the recipe has `packing = "none"`, one sample a pack, so that a step has the same samples.
//! - **Length of pairs.** `max_length` of truing counts a prompt with both responses, so it is twice that of the tool.
//! - **Paths.** The tools read them relative to the folder in which they run. They are looked for there, then beside
//!   the YAML and in the three folders above it, and written relative to the recipe.

mod answer;
mod axolotl;
mod data;
mod error;
mod grpo;
mod interpolation;
mod job;
mod keys;
mod llama_factory;
mod mergekit;
mod recipe;
mod report;
mod stages;
mod tables;
mod training;
mod trl;
mod verl;
mod yaml;

use std::path::{Path, PathBuf};

pub use error::{ImportError, Place};
pub use keys::{Counterpart, Meaning, Tool, counterpart, is_known, keys_of};
pub use mergekit::{ImportedMerge, merge_recipe};
pub use report::{Finding, Imported, Kind};

use job::Job;
use yaml::{Node, Value};

/// A trainer of TRL, which its files do not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceStage {
    /// `trl sft`.
    Sft,
    /// `trl dpo`.
    Dpo,
    /// `trl kto`.
    Kto,
    /// ORPO.
    Orpo,
    /// CPO, of which SimPO is a loss.
    Cpo,
    /// `trl reward`.
    Reward,
    /// `trl grpo`.
    Grpo,
    /// `trl rloo`.
    Rloo,
}

impl SourceStage {
    /// All of them with their names on a command line.
    pub const ALL: [(&'static str, Self); 8] = [
        ("sft", Self::Sft),
        ("dpo", Self::Dpo),
        ("kto", Self::Kto),
        ("orpo", Self::Orpo),
        ("cpo", Self::Cpo),
        ("reward", Self::Reward),
        ("grpo", Self::Grpo),
        ("rloo", Self::Rloo),
    ];

    /// The stage with this name on a command line.
    #[must_use]
    pub fn from_option(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, stage)| stage)
    }
}

/// What the file does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The tool. Default: the one whose keys the file has.
    pub tool: Option<Tool>,
    /// The trainer, for files of TRL. Default: the one whose keys the file has.
    pub stage: Option<SourceStage>,
    /// The number of processes that the tool trained on.
    pub processes: u64,
    /// The folder of the YAML. What is not in the working folder is looked for there, and in the folders above it.
    pub yaml_folder: PathBuf,
    /// The folder in which the tool ran: its paths are relative to it.
    pub working_folder: PathBuf,
    /// The folder that the recipe will be in: its paths are relative to it. This and the two above are absolute.
    pub recipe_folder: PathBuf,
    /// The folder that `~` stands for.
    pub home: Option<PathBuf>,
}

/// Makes a recipe of the YAML `text`, which is at `path`. Apart from `dataset_info.json` of LLaMA-Factory no file is
/// read; paths are looked up.
///
/// ```
/// use truing_import::{Options, import};
///
/// let yaml = "base_model: org/model\nlearning_rate: 1e-5\nsequence_len: 1024\n\
///     datasets:\n  - path: train.jsonl\n    type: chat_template\n";
/// let folder = std::path::PathBuf::from("/no/such/folder");
/// let options = Options {
///     tool: None,
///     stage: None,
///     processes: 1,
///     yaml_folder: folder.clone(),
///     working_folder: folder.clone(),
///     recipe_folder: folder,
///     home: None,
/// };
/// let imported = import(yaml, "axolotl.yaml".as_ref(), &options).unwrap();
/// assert!(imported.recipe.contains("learning_rate = 1e-5"));
/// assert!(imported.recipe.contains("max_length = 1024  # sequence_len"));
/// ```
///
/// # Errors
/// When the text is not YAML, the tool or its trainer cannot be detected, a value does not fit, or the file asks for
/// something that truing does not do, such as pretraining.
pub fn import(text: &str, path: &Path, options: &Options) -> Result<Imported, ImportError> {
    let mut root = yaml::read(text, path)?;
    let Value::Table(_) = &root.value else {
        let reason = "expected keys with values (`key: value`)".to_owned();
        return Err(ImportError::Yaml { path: path.to_path_buf(), place: root.place, reason });
    };
    let tool = match options.tool {
        Some(tool) => tool,
        None => {
            tool_of(&root).map_err(|found| ImportError::UnknownTool { path: path.to_path_buf(), found })?
        }
    };
    if matches!(tool, Tool::Verl | Tool::LlamaFactory) {
        root = interpolation::resolve(root, path)?;
    }
    let mut job = Job::new(tool, path, options, &root);
    let stage = match tool {
        Tool::Trl => trl::import(&mut job)?,
        Tool::Axolotl => axolotl::import(&mut job)?,
        Tool::LlamaFactory => llama_factory::import(&mut job)?,
        Tool::Verl => verl::import(&mut job)?,
    };
    job.take_the_rest()?;
    let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    let command = stages::command(stage);
    let header = [
        format!("Made by `truing import` from {name}, a file of {tool}. Run it with `{command}`."),
        "The comments name the keys and defaults that the values come from.".to_owned(),
    ];
    let recipe = job.recipe.text(&header, job.order());
    let processes = (tool != Tool::Verl).then(|| options.processes.max(1));
    Ok(Imported { tool, stage, command, processes, recipe, findings: job.into_findings() })
}

/// Keys that only one tool has.
const TELLING: &[(Tool, &[&str])] = &[
    (Tool::Verl, &["actor_rollout_ref", "algorithm", "critic"]),
    (
        Tool::Axolotl,
        &[
            "base_model",
            "sequence_len",
            "micro_batch_size",
            "num_epochs",
            "sample_packing",
            "val_set_size",
            "adapter",
        ],
    ),
    (
        Tool::LlamaFactory,
        &[
            "stage",
            "finetuning_type",
            "cutoff_len",
            "template",
            "dataset_dir",
            "lora_target",
            "lora_rank",
            "pref_beta",
            "pref_loss",
        ],
    ),
    (
        Tool::Trl,
        &[
            "dataset_name",
            "use_peft",
            "num_generations",
            "loss_type",
            "lora_target_modules",
            "dataset_text_field",
            "beta",
            "max_length",
            "reward_funcs",
        ],
    ),
];

/// The tool with most of the telling keys; if there is none, the candidates.
fn tool_of(root: &Node) -> Result<Tool, Vec<Tool>> {
    let mut counts: Vec<(usize, Tool)> = TELLING
        .iter()
        .map(|(tool, keys)| (keys.iter().filter(|key| root.get(key).is_some()).count(), *tool))
        .collect();
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    match (counts[0], counts[1]) {
        ((0, _), _) => Err(Vec::new()),
        ((first, tool), (second, other)) if first == second => Err(vec![tool, other]),
        ((_, tool), _) => Ok(tool),
    }
}
