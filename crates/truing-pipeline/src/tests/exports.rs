//! Single stages of a plan, and pipelines as workflows of other programs.

use super::Workshop;
use crate::{
    ApplyOptions, KubernetesOptions, PipelineError, StageNeeds, apply_only, argo_workflow, snakefile,
};

const RECIPE: &str = "[pipeline]\nname = \"a {b}\"\n\
                      [stages.mix-1]\nuses = \"mix\"\nwith = { value = 1, from = [\"rows {1}.txt\"] }\n\
                      [stages.mix_1]\nuses = \"mix\"\nneeds = [\"review\"]\n\
                      with = { from = [\"${stages.mix-1.out}\"] }\n\
                      [stages.review]\nuses = \"gate\"\nwith = { file = \"answers.txt\" }\n";

fn workshop() -> Workshop {
    let workshop = Workshop::new(RECIPE);
    workshop.write("rows {1}.txt", "one");
    workshop
}

/// Applies one stage; what ran, or the error.
fn apply_stage(workshop: &Workshop, stage: &str) -> Result<Vec<String>, PipelineError> {
    let (pipeline, plan, store, digests) = workshop.plan()?;
    let idx = pipeline.stage_index(stage)?;
    let options = ApplyOptions { jobs: 1, stop: &workshop.stop };
    apply_only(&pipeline, &plan, &store, &digests, &workshop.fake, options, idx)?;
    Ok(workshop.fake.take_ran())
}

#[test]
fn one_stage_runs_alone_and_needs_its_inputs() {
    let workshop = workshop();
    let error = apply_stage(&workshop, "mix_1").unwrap_err().to_string();
    assert!(error.contains("pipe.toml:6: stage `mix_1`: it needs the result of stage"), "{error}");
    assert_eq!(apply_stage(&workshop, "mix-1").unwrap(), ["mix-1"]);
    assert_eq!(apply_stage(&workshop, "mix-1").unwrap(), [""; 0], "its result is there");
    let error = apply_stage(&workshop, "mix_1").unwrap_err().to_string();
    assert!(error.ends_with("stage `review`, which is not there: run that stage first"), "{error}");
    workshop.write("answers.txt", "good");
    assert_eq!(apply_stage(&workshop, "mix_1").unwrap(), ["mix_1"]);
    let named: Vec<String> = workshop.lock().pipelines["a {b}"].keys().cloned().collect();
    assert_eq!(named, ["mix-1", "mix_1"], "the stages that were asked for");
    assert_eq!(apply_stage(&workshop, "review").unwrap(), [""; 0]);
    assert_eq!(workshop.apply(1).1, [""; 0], "all results are there");
}

#[test]
fn other_stages_than_the_one_do_not_run() {
    let workshop = Workshop::new(
        "[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n[stages.b]\nuses = \"mix\"\nwith = { value = 2 }\n",
    );
    assert_eq!(apply_stage(&workshop, "b").unwrap(), ["b"]);
    assert_eq!(workshop.states(), ["a to_run new", "b up_to_date"]);
}

const NEEDS: [StageNeeds; 3] = [
    StageNeeds { threads: 2, memory_bytes: Some(1_500_000_001) },
    StageNeeds { threads: 2, memory_bytes: None },
    StageNeeds { threads: 1, memory_bytes: None },
];

#[test]
fn a_snakefile_has_a_rule_for_each_stage() {
    let workshop = workshop();
    let (pipeline, plan, _, _) = workshop.plan().unwrap();
    let text = snakefile(&pipeline, &plan, &NEEDS, &workshop.path("workflows"));
    let begin = text.find("workdir:").unwrap();
    // What would be a wildcard in an output, is none here.
    let digest = truing_store::Digest::of_bytes(b"a {b}").to_string();
    let stamps = format!(".truing/snakemake/a__b_-{}", &digest[..8]);
    let expected = r#"workdir: os.path.join(workflow.basedir, "..")

TRUING = config.get("truing", "truing")
RECIPE = "pipe.toml"


def existing(path):
    """The path, where something is there: people may have yet to make it."""
    return [path] if os.path.exists(path) else []


rule all:
    input:
        "STAMPS/mix_1.done",

rule stage_mix_1:
    input:
        "pipe.toml",
        # Not watched, for its braces: "rows {1}.txt"
    output:
        touch("STAMPS/mix-1.done"),
    threads: 2
    resources:
        mem_mb=1501,
    shell:
        "{TRUING:q} --threads {threads} pipeline apply {RECIPE:q} --only=mix-1"

rule stage_review:
    input:
        "pipe.toml",
        lambda wildcards: existing("answers.txt"),
    output:
        touch("STAMPS/review.done"),
    threads: 1
    shell:
        "{TRUING:q} --threads {threads} pipeline apply {RECIPE:q} --only=review"

rule stage_mix_12:
    input:
        "pipe.toml",
        "STAMPS/mix-1.done",
        "STAMPS/review.done",
    output:
        touch("STAMPS/mix_1.done"),
    threads: 2
    shell:
        "{TRUING:q} --threads {threads} pipeline apply {RECIPE:q} --only=mix_1"
"#;
    assert_eq!(text[begin..], expected.replace("STAMPS", &stamps));
}

#[test]
fn files_elsewhere_need_not_be_there_for_snakemake() {
    let elsewhere = tempfile::tempdir().unwrap();
    let rows = elsewhere.path().join("rows.txt");
    std::fs::write(&rows, "one").unwrap();
    let workshop = Workshop::new(&format!(
        "[stages.a]\nuses = \"mix\"\nwith = {{ from = [\"{0}\", \"{0}\"] }}\n",
        rows.display()
    ));
    let (pipeline, plan, _, _) = workshop.plan().unwrap();
    let text = snakefile(&pipeline, &plan, &NEEDS[..1], &workshop.path(""));
    let line = format!("        lambda wildcards: existing(\"{}\"),\n", rows.display());
    assert_eq!(text.matches(&line).count(), 1, "{text}");
    assert!(text.contains("workdir: os.path.join(workflow.basedir, \".\")\n"), "{text}");
}

#[test]
fn a_workflow_of_argo_has_a_container_for_each_stage() {
    let pipeline = workshop().pipeline().unwrap();
    let options = KubernetesOptions {
        image: "registry/truing:1".into(),
        volume_claim: "runs".into(),
        mount: "/work".into(),
    };
    let text = argo_workflow(&pipeline, &NEEDS, &options);
    for expected in [
        "apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nmetadata:\n  generateName: \"a--b-\"\n",
        "        claimName: \"runs\"\n",
        "          - name: \"stage-mix-1\"\n            template: \"stage-mix-1\"\n          - name: \"stage-review\"\n",
        "            template: \"stage-mix-12\"\n            dependencies: [\"stage-mix-1\", \"stage-review\"]\n",
        "        args: [\"--threads\", \"2\", \"pipeline\", \"apply\", \"pipe.toml\", \"--only=mix_1\"]\n",
        "          requests: {cpu: \"2\", memory: \"1431Mi\"}\n",
        "          requests: {cpu: \"1\"}\n",
        "        expression: \"asInt(lastRetry.exitCode) == 75\"\n",
        "            mountPath: \"/work\"\n",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert_eq!(text.matches("    container:").count(), 3);
    assert_eq!(text.matches("image: \"registry/truing:1\"").count(), 3);
}
