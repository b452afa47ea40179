//! A pipeline as a Snakefile: one rule a stage.
//!
//! The outputs of rules are stamps and not the results. Snakemake removes the outputs of a rule before it runs it; a
//! result in the store must not go because a file was touched.

use std::fmt::Write as _;
use std::path::Path;

use truing_store::Digest;
use truing_store::paths::relative_to;

use super::{Files, StageNeeds, quoted, recipe_file, unique_names};
use crate::{Pipeline, PipelinePlan};

/// Where the stamps are, in the folder of the recipe.
const STAMPS: &str = ".truing/snakemake";
/// Bytes of Snakemake's `mem_mb`.
const MEGABYTE: u64 = 1_000_000;
/// Digits of the digest of a name.
const N_DIGITS: usize = 8;

/// A Snakefile that lies in `folder` (absolute), with the needs of each stage by its index. The program that it calls
/// is `truing`, or that of `snakemake --config truing=PROGRAM`.
#[must_use]
pub fn snakefile(pipeline: &Pipeline, plan: &PipelinePlan, needs: &[StageNeeds], folder: &Path) -> String {
    let recipe = recipe_file(pipeline);
    let names = unique_names(pipeline, |name| format!("stage_{}", name.replace('-', "_")));
    let mut text = header(&recipe, &relative_to(folder, &pipeline.folder));
    let stamps = stamps(&pipeline.name);
    let stamp = |stage: usize| quoted(&format!("{stamps}/{}.done", pipeline.stages[stage].name));
    let is_needed = |idx: usize| pipeline.stages.iter().any(|stage| stage.upstream.contains(&idx));
    let last = (0..pipeline.stages.len()).filter(|&idx| !is_needed(idx)).map(stamp);
    text.push_str(&list("rule all", "input", last));
    for &idx in &pipeline.order {
        let stage = &pipeline.stages[idx];
        let files = Files::of(pipeline, plan, idx);
        let inside = files.inside.iter().filter(is_nameable).map(|path| quoted(path));
        let upstream = stage.upstream.iter().map(|&needed| stamp(needed));
        let elsewhere = files.elsewhere.iter().filter(is_nameable);
        let elsewhere = elsewhere.map(|path| format!("lambda wildcards: existing({})", quoted(path)));
        text.push('\n');
        let inputs = inside.chain(upstream).chain(elsewhere);
        text.push_str(&list(&format!("rule {}", names[idx]), "input", inputs));
        for path in files.inside.iter().chain(&files.elsewhere).filter(|path| !is_nameable(path)) {
            let _ = writeln!(text, "        # Not watched, for its braces: {}", quoted(path));
        }
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
        "# Written by `truing pipeline export {shown} --format snakemake`. Export again for other stages.\n\
         # A rule's output is a stamp: the results are in the store. A stage whose result is there runs nothing.\n\
         # `snakemake --config truing=PROGRAM` names the program; an absolute path, or one that PATH finds.\n\
         import os\n\n\
         workdir: os.path.join(workflow.basedir, {folder})\n\n\
         TRUING = config.get(\"truing\", \"truing\")\n\
         RECIPE = {}\n\n\n\
         def existing(path):\n    \
             \"\"\"The path, where something is there: people may have yet to make it.\"\"\"\n    \
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

/// Whether Snakemake can name a path: it takes what stands between braces for a wildcard.
fn is_nameable(path: &&String) -> bool {
    !path.contains(['{', '}'])
}

/// The folder with the stamps of a pipeline. Its name may hold what means something in outputs of rules; then a digest
/// keeps it apart from others.
fn stamps(pipeline: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    if pipeline.chars().all(is_plain) {
        return format!("{STAMPS}/{pipeline}");
    }
    let plain: String = pipeline.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    format!("{STAMPS}/{plain}-{}", &Digest::of_bytes(pipeline.as_bytes()).to_string()[..N_DIGITS])
}
