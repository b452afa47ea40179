//! The options of an evaluation without a recipe, in our words and in those of lm-evaluation-harness.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use truing_evaluate::evaluate::{EvaluateConfig, TaskConfig};
use truing_stages::Recipe as _;

use crate::Context;
use crate::commands::model::find;
use crate::commands::recipe_arguments::no_recipe;

/// An evaluation without a recipe.
#[derive(Debug, Args)]
pub(super) struct Quick {
    /// Without a recipe: the model, a path or a name.
    #[arg(long, short, value_name = "PATH|NAME", conflicts_with = "recipe")]
    model: Option<String>,
    /// Without a recipe: a benchmark and the file or folder with its items. May be given several times.
    #[arg(long = "task", visible_alias = "tasks", value_name = "NAME=PATH", conflicts_with = "recipe")]
    tasks: Vec<String>,
    /// Without a recipe: output folder.
    #[arg(long, short, visible_alias = "output_path", value_name = "FOLDER", conflicts_with = "recipe")]
    output: Option<PathBuf>,
    /// Seeds with which each item is answered; useful only with sampling (`--temperature`).
    #[arg(long, value_name = "N", conflicts_with = "recipe")]
    seeds: Option<usize>,
    /// Sampling temperature of answers. Default: the benchmark's own.
    #[arg(long, value_name = "T", conflicts_with = "recipe")]
    temperature: Option<f32>,
    /// Only the first items of each task: so many, or below 1 that share of them.
    #[arg(long, value_name = "N|SHARE", conflicts_with = "recipe")]
    limit: Option<f64>,
    /// Solved examples before each question, from `--shots`.
    #[arg(long, visible_alias = "num_fewshot", value_name = "N", conflicts_with = "recipe")]
    num_fewshot: Option<usize>,
    /// A benchmark and the file with its solved examples. May be given several times.
    #[arg(long, value_name = "NAME=PATH", conflicts_with = "recipe")]
    shots: Vec<String>,
    /// Whether prompts are shown through the chat template. Default: if the model has one.
    #[arg(
        long, visible_alias = "apply_chat_template", value_name = "true|false", num_args = 0..=1,
        default_missing_value = "true", conflicts_with = "recipe"
    )]
    apply_chat_template: Option<bool>,
    /// Keep what was asked and answered (lm-evaluation-harness). It is always kept.
    #[arg(long, visible_alias = "log_samples", conflicts_with = "recipe")]
    log_samples: bool,
    /// With `--model hf`, `pretrained=MODEL` (lm-evaluation-harness). The same as `--model MODEL`.
    #[arg(long, visible_alias = "model_args", value_name = "pretrained=MODEL", conflicts_with = "recipe")]
    model_args: Option<String>,
    /// Size of a batch (lm-evaluation-harness). Left out: the program chooses it, and results do not depend on it.
    #[arg(long, visible_alias = "batch_size", value_name = "N", conflicts_with = "recipe")]
    batch_size: Option<String>,
}

/// Names that lm-evaluation-harness has for a model of Hugging Face in its own process.
const HARNESS_MODELS: [&str; 5] = ["hf", "hf-auto", "huggingface", "vllm", "sglang"];

impl Quick {
    /// The settings that the options mean.
    pub(super) fn config(&self, context: &Context) -> anyhow::Result<EvaluateConfig> {
        let (Some(model), false) = (self.model()?, self.tasks.is_empty()) else {
            return Err(no_recipe(
                "truing evaluate recipes/evaluate.toml, or: truing evaluate --model PATH --task gsm8k=test.jsonl",
            ));
        };
        let named = |text: &str| -> anyhow::Result<(String, PathBuf)> {
            let (name, path) = text.split_once('=').with_context(|| {
                format!(
                    "`{text}`: expected NAME=PATH, such as gsm8k=test.jsonl: the files of benchmarks are not \
                     part of this program; several are written `--tasks gsm8k=a.jsonl,arc=b.jsonl`"
                )
            })?;
            Ok((name.to_owned(), path.into()))
        };
        let mut config = EvaluateConfig {
            output_dir: self.output.clone().unwrap_or_else(|| "runs/evaluate".into()),
            seeds: self.seeds.unwrap_or(1),
            temperature: self.temperature,
            limit: self.limit,
            num_fewshot: self.num_fewshot,
            apply_chat_template: self.apply_chat_template,
            ..EvaluateConfig::default()
        };
        if self.log_samples {
            context.printer.note("`--log-samples` changes nothing: what was asked and answered is kept");
        }
        if let Some(size) = &self.batch_size {
            context.printer.note(format_args!(
                "`--batch-size {size}` is left out: the program chooses it, and results do not depend on it"
            ));
        }
        config.model.model_name_or_path = Some(find(model, context)?);
        for text in self.tasks.iter().flat_map(|text| text.split(',')) {
            let (name, path) = named(text)?;
            config.task.push(TaskConfig { name, path, ..TaskConfig::default() });
        }
        for text in &self.shots {
            let (name, path) = named(text)?;
            match config.task.iter_mut().find(|task| task.name == name) {
                Some(task) => task.shots_path = Some(path),
                None => bail!("`--shots {text}`: no `--task` is called `{name}`"),
            }
        }
        config.fill_in();
        Ok(config)
    }

    /// The model that the options name: itself, or in the way of lm-evaluation-harness.
    fn model(&self) -> anyhow::Result<Option<&str>> {
        let harness = self.model.as_deref().filter(|model| HARNESS_MODELS.contains(model));
        match (harness, &self.model_args) {
            (None, None) => Ok(self.model.as_deref()),
            (Some(harness), None) => {
                bail!("`--model {harness}` names no model: expected `--model PATH`, a path or a name")
            }
            (_, Some(arguments)) => match arguments.split_once('=') {
                Some(("pretrained", model)) if !model.contains([',', '=']) && harness.is_some() => {
                    Ok(Some(model))
                }
                _ => bail!(
                    "`--model_args {arguments}`: expected `--model PATH`, or `--model hf --model_args \
                     pretrained=PATH`; an adapter is given as the model itself, a server in a recipe \
                     (`[model.server]`), and a model's number format is that of its files"
                ),
            },
        }
    }
}
