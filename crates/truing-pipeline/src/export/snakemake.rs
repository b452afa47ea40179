//! A pipeline as a Snakefile: one rule a stage.
//!
//! The outputs of rules are stamps and not the results. Snakemake removes the outputs of a rule before it runs it; a
//! result in the store must not go because a file was touched.

use std::fmt::Write as _;
use std::path::Path;

use super::{Files, StageNeeds, quoted, recipe_file, unique_names, way};
use crate::{Pipeline, PipelinePlan};

/// Where the stamps are, in the folder of the recipe.
const STAMPS: &str = ".truing/snakemake";
/// Bytes of Snakemake's `mem_mb`.
const MEGABYTE: u64 = 1_000_000;

/// A Snakefile that lies in `folder` (absolute), with the needs of each stage by its index. The program that it calls is
/// `truing`, or that of `snakemake --config truing=PROGRAM`.
#[must_use]
pub fn snakefile(pipeline: &Pipeline, plan: &PipelinePlan, needs: &[StageNeeds], folder: &Path) -> String {
    let recipe = recipe_file(pipeline);
    let names = unique_names(pipeline, |name| format!("stage_{}", name.replace('-', "_")));
    let mut text = header(&recipe, &way(folder, &pipeline.folder));
    let stamp = |stage: usize| {
        let path = format!("{STAMPS}/{}/{}.done", pipeline.name, pipeline.stages[stage].name);
        quoted(&without_wildcards(&path))
    };
    let is_needed = |idx: usize| pipeline.stages.iter().any(|stage| stage.upstream.contains(&idx));
    let last = (0..pipeline.stages.len()).filter(|&idx| !is_needed(idx)).map(stamp);
    text.push_str(&list("rule all", "input", last));
    for &idx in &pipeline.order {
        let stage = &pipeline.stages[idx];
        let files = Files::of(pipeline, plan, idx);
        let inside = files.inside.iter().map(|path| quoted(&without_wildcards(path)));
        let upstream = stage.upstream.iter().map(|&needed| stamp(needed));
        let elsewhere =
            files.elsewhere.iter().map(|path| format!("lambda wildcards: existing({})", quoted(path)));
        text.push('\n');
        let inputs = inside.chain(upstream).chain(elsewhere);
        text.push_str(&list(&format!("rule {}", names[idx]), "input", inputs));
        let StageNeeds { threads, memory_bytes } = needs[idx];
        let _ = write!(text, "    output:\n        touch({}),\n    threads: {threads}\n", stamp(idx));
        if let Some(bytes) = memory_bytes {
            let _ = write!(text, "    resources:\n        mem_mb={},\n", bytes.div_ceil(MEGABYTE));
        }
        let _ = write!(
            text,
            "    shell:\n        \"{{TRUING:q}} --threads {{threads}} pipeline apply {{RECIPE:q}} --only={}\"\n",
            stage.name
        );
    }
    text
}

fn header(recipe: &str, folder: &Path) -> String {
    let (shown, folder) = (recipe.replace(['\n', '\r'], " "), quoted(&folder.to_string_lossy()));
    format!(
        "# Written by `truing pipeline export {shown} --format snakemake`. Export again when stages are added or removed.\n\
         # A rule's output is a stamp: the results are in the store. A stage whose result is there already runs nothing.\n\
         # `snakemake --config truing=PROGRAM` names the program; an absolute path, or one that PATH finds.\n\
         import os\n\n\
         workdir: os.path.join(workflow.basedir, {folder})\n\n\
         TRUING = config.get(\"truing\", \"truing\")\n\
         RECIPE = {}\n\n\n\
         def existing(path):\n    \
             \"\"\"The path, where something is there: people may have yet to make it, or another machine has it.\"\"\"\n    \
             return [path] if os.path.exists(path) else []\n\n\n",
        quoted(recipe)
    )
}

/// A head with one keyword and its values, one a line.
fn list(head: &str, keyword: &str, values: impl Iterator<Item = String>) -> String {
    let mut text = format!("{head}:\n    {keyword}:\n");
    for value in values {
        let _ = writeln!(text, "        {value},");
    }
    text
}

/// A path in which braces are no wildcards.
fn without_wildcards(path: &str) -> String {
    path.replace('{', "{{").replace('}', "}}")
}
