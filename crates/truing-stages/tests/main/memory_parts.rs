//! The parts of the predicted memory, as `plan.json` and the printed plan give them, sum to the predicted peak.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use truing_stages::classifier::{ClassifierPlan, ClassifierStage};
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedStage;
use truing_stages::grpo::GrpoStage;
use truing_stages::reward::RewardModelStage;
use truing_stages::sft::SftStage;
use truing_stages::training::RunPlan as _;
use truing_stages::{Recipe, Stage, StagePlan};
use truing_train::Amount;
use truing_types::Silent;

use crate::setup::{self, Cpu, MACHINE};
use crate::{classifiers, distillations, embeddings, policies, preferences};

const EMBED: &str = "stage = \"embed\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\n\
                     train_data = \"triplets.jsonl\"\n";

fn plan<S: Stage>(recipe: &str, folder: &Path, overrides: &[&str]) -> S::Plan {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = <S::Config as Recipe>::from_toml(recipe, &folder.join("recipe.toml"), &overrides).unwrap();
    let inputs = setup::load::<S>(&config, &mut Silent).unwrap();
    let plan = S::plan::<Cpu>(config, &inputs, &MACHINE).unwrap();
    // The printed plan has the parts, then the peak.
    let mut sum = 0;
    let rows = StagePlan::table(&plan);
    let peak = rows.iter().find_map(|row| match row.amount {
        Amount::Bytes(bytes) if row.name == "peak" => Some(bytes),
        Amount::Bytes(bytes) => {
            sum += bytes;
            None
        }
        _ => None,
    });
    assert_eq!(peak, Some(sum), "{rows:?}");
    plan
}

/// Checks a `plan.json`; the names of the parts that are held.
fn parts(plan: &Value) -> BTreeSet<String> {
    let parts = plan["parts"].as_array().unwrap();
    let bytes = |part: &Value| part["bytes"].as_u64().unwrap();
    assert_eq!(Some(parts.iter().map(bytes).sum()), plan["peak_bytes"].as_u64(), "{plan}");
    let held = parts.iter().filter(|part| bytes(part) > 0);
    held.map(|part| part["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_parts_sum_to_the_peak_where_a_decoder_is_trained() {
    let folder = setup::folder();
    for overrides in [&[][..], &["layers_per_segment=1"], &["lora={}"]] {
        let held = parts(&plan::<SftStage>(setup::RECIPE, folder.path(), overrides).to_json());
        assert!(held.contains("activations"), "{held:?}");
    }
    let folder = preferences::folder();
    let recipe = preferences::RECIPE;
    parts(&plan::<DpoStage>(recipe, folder.path(), &["stage=dpo"]).to_json());
    parts(&plan::<RewardModelStage>(recipe, folder.path(), &["stage=reward_model"]).to_json());
}

#[test]
fn the_parts_sum_to_the_peak_of_a_classifier_and_an_embedding_model() {
    for model in classifiers::BOTH {
        let folder = model.folder();
        classifiers::write(folder.path(), &classifiers::rows(model));
        let held = match plan::<ClassifierStage>(classifiers::RECIPE, folder.path(), &classifiers::ALL) {
            ClassifierPlan::Encoder { run, .. } => parts(&run.to_json()),
            ClassifierPlan::Decoder(plan) => parts(&plan.to_json()),
        };
        assert!(held.contains("activations") && held.contains("other"), "{held:?}");
    }
    let folder = embeddings::folder();
    embeddings::write_triplets(&folder.path().join("triplets.jsonl"), 20, 2);
    parts(&plan::<EmbedStage>(EMBED, folder.path(), &[]).run.to_json());
}

#[test]
fn the_parts_sum_to_the_peak_of_a_policy_at_whichever_moment_it_is() {
    let folder = policies::folder();
    let held =
        |overrides: &[&str]| parts(&plan::<GrpoStage>(policies::RECIPE, folder.path(), overrides).to_json());
    let training = held(&["max_tokens_per_pack=2048"]);
    assert!(training.contains("activations") && training.contains("reference model"), "{training:?}");
    let generating = held(&[
        "kl_top_k=1",
        "layers_per_segment=1",
        "num_generations=64",
        "prompts_per_step=8",
        "generation_batch_size=1000",
        "max_completion_length=200",
    ]);
    assert!(generating.contains("KV cache") && !generating.contains("activations"), "{generating:?}");
}

#[test]
fn the_parts_sum_to_the_peak_of_a_distillation_at_whichever_moment_it_is() {
    let folder = distillations::folder();
    let held = |overrides: &[&str]| {
        parts(&plan::<DistillStage>(distillations::RECIPE, folder.path(), overrides).to_json())
    };
    assert!(held(&[]).contains("teacher"));
    let sampling = held(&[
        "max_length=431",
        "layers_per_segment=1",
        "distillation.kl_top_k=1",
        "distillation.num_generations=32",
        "distillation.generation_batch_size=1000",
    ]);
    assert!(sampling.contains("during sampling, in place of activations"), "{sampling:?}");
}
