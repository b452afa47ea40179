//! A pipeline as a workflow of Argo: one container a stage, on a volume that holds the folder of the recipe and the
//! store.

use std::fmt::Write as _;

use super::{StageNeeds, quoted, recipe_file, unique_names};
use crate::Pipeline;
use crate::recipe::Kind;

/// The longest name that Kubernetes takes for a label.
const MAX_NAME: usize = 63;
/// Letters of a stage's name that are kept in that of its template, which has a prefix and perhaps a number.
const MAX_STAGE: usize = 48;
const MIB: u64 = 1 << 20;

/// Where containers run and what they see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesOptions {
    /// The image with `truing` on its path.
    pub image: String,
    /// The claim of the volume with the recipe's folder.
    pub volume_claim: String,
    /// Where the recipe's folder is in the containers.
    pub mount: String,
}

/// An Argo `Workflow` (`argoproj.io/v1alpha1`), with the needs of each stage by its index.
#[must_use]
pub fn argo_workflow(pipeline: &Pipeline, needs: &[StageNeeds], options: &KubernetesOptions) -> String {
    let recipe = recipe_file(pipeline);
    let names = unique_names(pipeline, |name| label(&format!("stage-{}", shortened(name, MAX_STAGE))));
    let generated = format!("{}-", label(&shortened(&pipeline.name, MAX_STAGE)));
    let mut text = format!(
        "# Written by `truing pipeline export {} --format kubernetes`.\n\
         # The volume holds the recipe's folder and the store. A stage whose result is in the store runs nothing.\n\
         apiVersion: argoproj.io/v1alpha1\n\
         kind: Workflow\n\
         metadata:\n  generateName: {}\n\
         spec:\n  entrypoint: pipeline\n  volumes:\n    - name: pipeline\n      persistentVolumeClaim:\n        \
         claimName: {}\n  templates:\n    - name: pipeline\n      dag:\n        failFast: false\n        tasks:\n",
        recipe.replace(['\n', '\r'], " "),
        quoted(&generated),
        quoted(&options.volume_claim),
    );
    for &idx in &pipeline.order {
        let name = quoted(&names[idx]);
        let _ = write!(text, "          - name: {name}\n            template: {name}\n");
        let upstream: Vec<String> =
            pipeline.stages[idx].upstream.iter().map(|&needed| quoted(&names[needed])).collect();
        if !upstream.is_empty() {
            let _ = writeln!(text, "            dependencies: [{}]", upstream.join(", "));
        }
    }
    for &idx in &pipeline.order {
        text.push_str(&template(pipeline, idx, &names[idx], needs[idx], options));
    }
    text
}

/// The container of a stage.
fn template(
    pipeline: &Pipeline,
    stage: usize,
    name: &str,
    needs: StageNeeds,
    options: &KubernetesOptions,
) -> String {
    let own = &pipeline.stages[stage];
    let threads = needs.threads.to_string();
    let only = format!("--only={}", own.name);
    let recipe = recipe_file(pipeline);
    let arguments = ["--threads", &threads, "pipeline", "apply", &recipe, &only].map(quoted).join(", ");
    let memory = needs.memory_bytes.map(|bytes| format!("{}Mi", bytes.div_ceil(MIB)));
    let memory = memory.map(|memory| format!(", memory: {}", quoted(&memory))).unwrap_or_default();
    format!(
        "    - name: {}\n\
         {}      container:\n        \
         image: {}\n        \
         workingDir: {mount}\n        \
         command: [\"truing\"]\n        \
         args: [{arguments}]\n        \
         resources:\n          \
         requests: {{cpu: {}{memory}}}\n        \
         volumeMounts:\n          \
         - name: pipeline\n            \
         mountPath: {mount}\n",
        quoted(name),
        retries(&own.kind),
        quoted(&options.image),
        quoted(&threads),
        mount = quoted(&options.mount),
    )
}

/// When a container is started again. A stage that was stopped or killed continues on the volume; a gate whose file is
/// not there ends with status 75, and is looked at again for a week.
fn retries(kind: &Kind) -> String {
    let (limit, expression, wait) = match kind {
        Kind::Gate(_) => ("2016", "asInt(lastRetry.exitCode) == 75", "5m"),
        _ => ("2", "lastRetry.status == 'Error' || asInt(lastRetry.exitCode) in [130, 137, 143]", "30s"),
    };
    format!(
        "      retryStrategy:\n        \
         limit: {}\n        \
         retryPolicy: Always\n        \
         expression: {}\n        \
         backoff:\n          \
         duration: {}\n",
        quoted(limit),
        quoted(expression),
        quoted(wait)
    )
}

fn shortened(text: &str, n_characters: usize) -> String {
    text.chars().take(n_characters).collect()
}

/// A name of lower-case letters, digits and dashes that begins and ends with a letter or digit (RFC 1123).
fn label(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = text.chars().map(plain).take(MAX_NAME).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "pipeline".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_kubernetes() {
        assert_eq!(label("stage-SFT_seed-2"), "stage-sft-seed-2");
        assert_eq!(label("-ä-"), "pipeline");
        assert_eq!(label(&"a".repeat(100)).len(), 63);
    }
}
