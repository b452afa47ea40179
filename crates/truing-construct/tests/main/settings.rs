//! Settings: which of them decide what, and which values are refused.

use std::path::Path;

use truing_construct::label::{LabelConfig, LabelStage};
use truing_construct::pas::{PasConfig, PasStage};
use truing_construct::pas_evaluate::{PasEvaluateConfig, PasEvaluateStage};
use truing_construct::quality::{QualityConfig, QualityStage};
use truing_construct::select::SelectConfig;
use truing_run::recipe::Scope;
use truing_stages::Recipe;
use truing_stages::embed::train::EmbedTrainConfig;
use truing_stages::grpo::GrpoConfig;
use truing_stages::training::TrainingConfig;

use crate::setup::{self, check_before_data, refused};
use crate::{pairs, pas_evaluations};

/// Changes that decide nothing, those that decide only what a finished run leaves behind, and those that decide its
/// steps.
struct Changes<'a> {
    nothing: &'a [&'a str],
    outcome: &'a [&'a str],
    results: &'a [&'a str],
}

fn check<R: Recipe>(read: impl Fn(&[String]) -> R, changes: &Changes<'_>) {
    assert_eq!(R::unknown_declarations(), [""; 0]);
    let before = read(&[]);
    for (changes, resumes, is_equal) in
        [(changes.nothing, true, true), (changes.outcome, true, false), (changes.results, false, false)]
    {
        for change in changes {
            let after = read(&[(*change).to_owned()]);
            let is_same = |scope| before.decisive(scope) == after.decisive(scope);
            assert_eq!(is_same(Scope::Resume), resumes, "{change}: whether a run can be resumed");
            assert_eq!(is_same(Scope::Content), is_equal, "{change}: whether the outcome is the same");
        }
    }
}

#[test]
fn every_recipe_knows_the_settings_that_decide_its_results() {
    let places = ["output_dir=x", "data_dir=elsewhere", "data.0.path=elsewhere/rows.jsonl"];
    let machine =
        ["model_name_or_path=x", "threads=1", "memory_gib=0.5", "save_steps=7", "save_total_limit=9"];
    let trained = [&places[..], &machine, &["keep_best=true", "layers_per_segment=2"]].concat();
    let saved = [
        "max_steps=9",
        "num_train_epochs=9",
        "eval_steps=7",
        "eval_on_start=true",
        "save_dtype=f16",
        "load_best_model_at_end=true",
    ];
    let saved = [&saved[..], &["merge_adapter=true"]].concat();
    let path = Path::new("recipes/r.toml");
    let data = "[[data]]\npath = \"rows.jsonl\"\n";
    let recipe = format!("stage = \"sft\"\nchat_template = \"c.jinja\"\n{data}");
    check(
        |changes| TrainingConfig::from_toml(&recipe, path, changes).unwrap(),
        &Changes {
            nothing: &[&trained[..], &["logging_steps=9", "chat_template=elsewhere/c.jinja"]].concat(),
            outcome: &saved,
            results: &[
                "seed=9",
                "learning_rate=9",
                "data.0.path=other.jsonl",
                "data.0.weight=2",
                "chat_template=other.jinja",
                "lora.rank=3",
                "max_length=9",
            ],
        },
    );
    let recipe = "stage = \"classifier\"\nclassifier.label_set = \"labels.toml\"\n";
    check(
        |changes| TrainingConfig::from_toml(recipe, path, changes).unwrap(),
        &Changes {
            nothing: &["classifier.label_set=elsewhere/labels.toml"],
            outcome: &[],
            results: &["classifier.label_set=other.toml"],
        },
    );
    let reward = "stage = \"grpo\"\nreward_model = { model_name_or_path = \"reward/model\" }\n";
    let judge = "[judge.model.server]\nbase_url = \"http://a/v1\"\nmodel = \"m\"\n";
    check(
        |changes| GrpoConfig::from_toml(&format!("{reward}{data}{judge}"), path, changes).unwrap(),
        &Changes {
            nothing: &[
                &trained[..],
                &["reward_model.model_name_or_path=elsewhere/model", "generation_batch_size=2"],
                &["judge.model.server.base_url=http://b/v1", "judge.model.server.timeout_secs=3"],
                &["judge.model.cache=c", "judge.model.mode=record", "keep_rollouts=false"],
            ]
            .concat(),
            outcome: &[&saved[..], &["eval_temperature=1", "eval_num_generations=2"]].concat(),
            results: &[
                "seed=9",
                "beta=0.5",
                "reward_model.weight=2",
                "judge.model.server.model=n",
                "judge.model.server.extra.top_k=1",
                "algorithm=dapo",
            ],
        },
    );
    check(
        |changes| {
            EmbedTrainConfig::from_toml("stage = \"embed\"\ntrain_data = \"t.jsonl\"", path, changes).unwrap()
        },
        &Changes {
            nothing: &[
                &machine[..],
                &["output_dir=x", "train_data=y", "data_dir=w", "eval_data=z", "logging_steps=9"],
            ]
            .concat(),
            outcome: &["max_steps=9", "eval_steps=7", "eval_on_start=false", "save_dtype=f16"],
            results: &["seed=9", "loss=multiple_negatives_ranking", "batch_size=3"],
        },
    );
    check(
        |changes| SelectConfig::from_toml(&format!("stage = \"select\"\n{data}"), path, changes).unwrap(),
        &Changes {
            nothing: &[&places[..], &["threads=1", "embedding.model_name_or_path=x", "embedding.vectors=y"]]
                .concat(),
            outcome: &[],
            results: &["seed=9", "selection.target_size=9", "embedding.max_tokens=8", "map.max_points=9"],
        },
    );
    let judged = format!(
        "{data}[[judge]]\nname = \"a\"\n[judge.model.server]\nbase_url = \"http://a/v1\"\nmodel = \"m\"\n"
    );
    let of_judge =
        ["judge.0.model.server.base_url=http://b/v1", "judge.0.model.cache=c", "corrections=c.jsonl"];
    check(
        |changes| LabelConfig::from_toml(&format!("stage = \"label\"\n{judged}"), path, changes).unwrap(),
        &Changes {
            nothing: &[&places[..], &of_judge].concat(),
            outcome: &["min_confidence=0.9", "judge.0.weight=2"],
            results: &[
                "seed=9",
                "n_votes=9",
                "judge.0.model.server.model=n",
                "per_dimension=true",
                "temperature=0.1",
            ],
        },
    );
    check(
        |changes| QualityConfig::from_toml(&format!("stage = \"quality\"\n{judged}"), path, changes).unwrap(),
        &Changes {
            nothing: &[&places[..], &of_judge[..2]].concat(),
            outcome: &["prior_deviation=9"],
            results: &["seed=9", "n_anchors=9", "judge.0.model.server.model=n", "calls=separate"],
        },
    );
    check(
        |changes| PasConfig::from_toml(&pairs::RECIPE.replace("prompts", "rows"), path, changes).unwrap(),
        &Changes {
            nothing: &[&places[..], &["generator.server.base_url=http://b/v1", "generator.cache=c"]].concat(),
            outcome: &["max_failures_in_a_row=9"],
            results: &[
                "seed=9",
                "critic=false",
                "max_regenerations=9",
                "generator.server.model=n",
                "min_score=1",
            ],
        },
    );
    check(
        |changes| {
            PasEvaluateConfig::from_toml(&pas_evaluations::RECIPE.replace("prompts", "rows"), path, changes)
                .unwrap()
        },
        &Changes {
            nothing: &[&places[..], &["target.server.base_url=http://b/v1"]].concat(),
            outcome: &["max_failures_in_a_row=9"],
            results: &["seed=9", "temperature=1", "target.server.model=n", "max_complement_tokens=9"],
        },
    );
}

#[test]
fn settings_out_of_range_are_refused_before_the_data_is_read() {
    let folder = setup::folder();
    let folder = folder.path();
    let judge = "[[judge]]\n[judge.model.server]\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n";
    let asked = |stage: &str| {
        format!("stage = \"{stage}\"\noutput_dir = \"run\"\n[[data]]\npath = \"missing.jsonl\"\n{judge}")
    };
    let own =
        ["n_votes=0", "min_confidence=2", "temperature=-1", "dimensions=[\"none\"]", "judge.0.weight=0"];
    for change in own {
        let found = refused::<LabelStage>(&asked("label"), folder, change);
        let key = change.split('=').next().unwrap().replace(".0.", ".");
        assert!(found.starts_with(&format!("`{key}` is ")), "{change}: {found}");
    }
    check_before_data::<QualityStage>(&asked("quality"), folder, &["n_anchors=0", "prior_deviation=0"]);
    let pairs = pairs::RECIPE.replace("prompts.jsonl", "missing.jsonl");
    check_before_data::<PasStage>(
        &pairs,
        folder,
        &["n_examples=0", "temperature=-1", "max_prompt_characters=0"],
    );
    let evaluated = pas_evaluations::RECIPE.replace("prompts.jsonl", "missing.jsonl");
    check_before_data::<PasEvaluateStage>(&evaluated, folder, &["max_new_tokens=0", "temperature=-1"]);
}
