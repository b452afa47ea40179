//! `truing inspect`: what a conversation, a data set or a model holds, before any work is done with it.

mod conversation;
mod data;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use truing_data::{Render, SourceConfig};
use truing_stages::recipe;
use truing_text::{ChatRenderer, WithoutLoss};

use super::model as models;
use crate::Context;
use crate::outcome::Outcome;
use crate::rendering::render_options;

/// Arguments of `truing inspect`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// What can be looked at.
#[derive(Debug, Subcommand)]
enum What {
    /// Show how one row becomes tokens: special tokens, tokens with loss, warnings.
    #[command(after_help = "Example: truing inspect conversation --data quickstart/train.jsonl --row 2")]
    Conversation(conversation::Arguments),
    /// Show statistics of a dataset: lengths, tokens with loss, packing, invalid rows.
    #[command(after_help = "Example: truing inspect data --data quickstart/train.jsonl --max-length 1024")]
    Data(data::Arguments),
    /// Show a model directory or .gguf file: architecture, tensors, tokenizer, chat template.
    #[command(after_help = "Example: truing inspect model runs/tiny/model")]
    Model(model::Arguments),
}

/// Rows as a recipe's `[[data]]` would name them.
#[derive(Debug, Args)]
struct SourceArguments {
    /// A file or folder of rows, in any format that training takes, or a data set of the Hugging Face hub
    /// (`org/name:split`).
    #[arg(long, short, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Format of the rows, if it cannot be detected from the first rows.
    #[arg(long, value_name = "NAME")]
    format: Option<String>,
    /// Mapping of a column of the format to a field, for instance `prompt=question` or `completion=instances.0.output`.
    #[arg(long = "column", value_name = "COLUMN=FIELD", value_parser = parse_column)]
    columns: Vec<(String, String)>,
    /// Builds the prompt from several fields, for instance "{instruction}\n\n{instances.0.input}".
    #[arg(long, value_name = "TEXT")]
    prompt_template: Option<String>,
    /// Render a prompt and a completion given as strings as a chat, not as raw text.
    #[arg(long)]
    chat: bool,
}

fn parse_column(argument: &str) -> Result<(String, String), String> {
    match argument.split_once('=') {
        Some((column, field)) if !column.is_empty() && !field.is_empty() => Ok((column.into(), field.into())),
        _ => Err("expected COLUMN=FIELD".into()),
    }
}

impl SourceArguments {
    /// The sources; data sets of the hub by the folder that they are found in.
    fn sources(&self, context: &Context) -> anyhow::Result<Vec<SourceConfig>> {
        let find = |path: &PathBuf| -> anyhow::Result<PathBuf> {
            let mut path = path.clone();
            recipe::find_source(&mut path, Path::new(""), &mut |name| models::find_data(name, context))?;
            Ok(path)
        };
        let paths = self.data.iter().map(find).collect::<anyhow::Result<Vec<PathBuf>>>()?;
        let sources = paths.iter().map(|path| SourceConfig {
            format: self.format.clone(),
            columns: self.columns.iter().cloned().collect::<BTreeMap<_, _>>(),
            prompt_template: self.prompt_template.clone(),
            render: self.chat.then_some(Render::Chat),
            ..SourceConfig::new(path)
        });
        Ok(sources.collect())
    }
}

/// The model's tokenizer and template, with the options of training; rows without loss are shown, not refused.
fn renderer(model: &Path) -> anyhow::Result<ChatRenderer> {
    let renderer = ChatRenderer::load(model, render_options())
        .with_context(|| format!("the tokenizer of `{}`", model.display()))?;
    Ok(renderer.with_rows_without_loss(WithoutLoss::Keep))
}

/// A share as `12.3 %`.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Looks and prints.
pub(crate) fn run(arguments: &Arguments, context: &mut Context) -> anyhow::Result<Outcome> {
    match &arguments.what {
        What::Conversation(arguments) => conversation::run(arguments, context),
        What::Data(arguments) => data::run(arguments, context),
        What::Model(arguments) => model::run(arguments, context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_at_the_first_equals_sign() {
        assert_eq!(parse_column("prompt=a=b"), Ok(("prompt".into(), "a=b".into())));
        assert!(parse_column("prompt").is_err());
        assert!(parse_column("=x").is_err());
    }
}
