//! Pipelines as workflows of other programs, which then decide where and when each stage runs: a Snakefile, or a
//! workflow of Argo for Kubernetes.
//!
//! A step of such a workflow is `truing pipeline apply RECIPE --only STAGE`. So keys, the store and the lock file
//! decide there too what has to be done: a step whose result is in the store is a no-op, whatever the other program
//! thinks of the times of files.

mod kubernetes;
mod snakemake;

pub use kubernetes::{KubernetesOptions, argo_workflow};
pub use snakemake::snakefile;

use crate::recipe::Kind;
use crate::{Pipeline, PipelinePlan};

/// What a stage needs of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageNeeds {
    /// Threads.
    pub threads: usize,
    /// Memory in bytes; `None` where it is not known.
    pub memory_bytes: Option<u64>,
}

/// The file of the recipe, relative to its folder. It does not begin with a dash: that would be an option.
fn recipe_file(pipeline: &Pipeline) -> String {
    let file = pipeline.path().file_name().unwrap_or_default().to_string_lossy();
    if file.starts_with('-') { format!("./{file}") } else { file.into_owned() }
}

/// A text between double quotes, as Python and YAML read it.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What a stage reads that no stage makes, each path once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Files {
    /// Below the recipe's folder, relative to it; the recipe itself is the first.
    inside: Vec<String>,
    /// Elsewhere, such as models in a cache, and files that people have yet to make. They need not be there.
    elsewhere: Vec<String>,
}

impl Files {
    fn of(pipeline: &Pipeline, plan: &PipelinePlan, stage: usize) -> Self {
        let own = &pipeline.stages[stage];
        let is_gate = matches!(own.kind, Kind::Gate(_));
        let mut files = Self { inside: vec![recipe_file(pipeline)], elsewhere: Vec::new() };
        let recipe = own.recipe.iter().map(|recipe| recipe.path.as_path());
        for path in recipe.chain(plan.stages[stage].files()) {
            let (list, path) = match path.strip_prefix(&pipeline.folder) {
                Ok(below) if !is_gate => (&mut files.inside, below),
                Ok(below) => (&mut files.elsewhere, below),
                Err(_) => (&mut files.elsewhere, path),
            };
            let path = path.to_string_lossy().into_owned();
            if !list.contains(&path) {
                list.push(path);
            }
        }
        files
    }
}

/// Names made of stages' names by `plain`, with a number behind those that would be the same.
fn unique_names(pipeline: &Pipeline, plain: impl Fn(&str) -> String) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for stage in &pipeline.stages {
        let wanted = plain(&stage.name);
        let numbered = (2..).map(|number| format!("{wanted}{number}"));
        let free = std::iter::once(wanted.clone()).chain(numbered).find(|name| !names.contains(name));
        names.push(free.expect("numbers do not end"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted() {
        assert_eq!(quoted("a \"b\"\\\n"), "\"a \\\"b\\\"\\\\\\n\"");
    }
}
