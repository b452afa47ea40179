use crate::setup;
use crate::setup::Cpu;
use std::fs;
use std::path::Path;
use truing_ask::labels::load_label_set;
use truing_ask::pas::{CriticCases, GoldenPairs};
use truing_construct::build::BuildConfig;
use truing_construct::label::LabelConfig;
use truing_construct::pas::PasConfig;
use truing_construct::pas_evaluate::{PasEvaluateConfig, PasEvaluateInputs, PasEvaluatePlan};
use truing_construct::prefer::PreferConfig;
use truing_construct::quality::QualityConfig;
use truing_construct::respond::RespondConfig;
use truing_construct::select::SelectConfig;
use truing_evaluate::evaluate::EvaluateConfig;
use truing_evaluate::merge_search::MergeSearchConfig;
use truing_model::merge::MergeRecipe;
use truing_stages::classifier::{ClassifierConfig, ClassifierPlan, ClassifierStage};
use truing_stages::distill::DistillStage;
use truing_stages::dpo::DpoStage;
use truing_stages::embed::train::EmbedTrainConfig;
use truing_stages::grpo::GrpoConfig;
use truing_stages::recipe::{read_toml, reference_of, stage_of};
use truing_stages::reward::RewardModelStage;
use truing_stages::training::{TrainingConfig, TrainingPlan};
use truing_stages::{Recipe, Stage, StageError};
use truing_train::cluster::ClusterConfig;
use truing_types::{Silent, StageName};

/// A row for each of the layouts that a recipe can name.
fn rows_for(format: Option<&str>) -> String {
    let row = match format {
        Some("prompt_completion") => r#"{"question": "1 + N?", "answer": "It is N.\n#### N"}"#,
        Some("alpaca") => r#"{"instruction": "Say N.", "instances": [{"input": "", "output": "N"}]}"#,
        Some("sharegpt") => {
            r#"{"conversations": [{"from": "human", "value": "Say N."}, {"from": "gpt", "value": "N"}]}"#
        }
        _ => {
            r#"{"messages": [{"role": "user", "content": "Say N."}, {"role": "assistant", "content": "N"}]}"#
        }
    };
    (0..60).map(|i| row.replace('N', &i.to_string()) + "\n").collect()
}

const PAIRS: &str = r#"{"prompt": "Say N.", "chosen": "N", "rejected": "no"}"#;

/// Every recipe parses, prints as itself, and plans on rows of its own layout.
#[test]
fn every_recipe_that_comes_with_truing_parses_and_plans() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut n_recipes = 0;
    for entry in fs::read_dir(recipes).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        n_recipes += 1;
        // A project of annotation is no stage; the tests of truing-annotate open it.
        if path.file_name().is_some_and(|name| name == "annotate.toml") {
            continue;
        }
        // A merge has no run, and so no stage.
        if path.file_name().is_some_and(|name| name == "merge.toml") {
            let recipe: MergeRecipe = read_toml(&text, &path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(recipe.check().unwrap_or_else(|error| panic!("{error}")), Vec::<String>::new());
            continue;
        }
        // A pipeline has several stages; the tests of truing read those.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pipeline_")) {
            continue;
        }
        // A cluster is what a recipe is planned for.
        if path.file_name().is_some_and(|name| name == "cluster_h100.toml") {
            let cluster: ClusterConfig = read_toml(&text, &path).unwrap_or_else(|error| panic!("{error}"));
            cluster.check().unwrap_or_else(|error| panic!("{error}"));
            continue;
        }
        let stage = stage_of(&text, &path).unwrap();
        if stage == StageName::Build {
            let config = BuildConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = BuildConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            continue;
        }
        if stage == StageName::Label {
            let config = LabelConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = LabelConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            load_label_set(config.label_set.as_deref()).unwrap();
            continue;
        }
        if stage == StageName::Quality {
            let config =
                QualityConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                QualityConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            continue;
        }
        if stage == StageName::Pas {
            let config = PasConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = PasConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            GoldenPairs::load(config.golden_pairs.as_deref()).unwrap();
            CriticCases::load(config.critic_cases.as_deref()).unwrap();
            continue;
        }
        if stage == StageName::Respond {
            let config =
                RespondConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                RespondConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            continue;
        }
        if stage == StageName::Prefer {
            let config = PreferConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = PreferConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            config.check().unwrap();
            continue;
        }
        if stage == StageName::PasEvaluate {
            let config =
                PasEvaluateConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                PasEvaluateConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            let inputs = PasEvaluateInputs::load(&config, &mut Silent).unwrap();
            assert_eq!(PasEvaluatePlan::resolve(config, &inputs).unwrap().n_verifiable, 84);
            continue;
        }
        if stage == StageName::Select {
            let config = SelectConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = SelectConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            continue;
        }
        if stage == StageName::Grpo {
            let config = GrpoConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed = GrpoConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            continue;
        }
        if stage == StageName::MergeSearch {
            let config =
                MergeSearchConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                MergeSearchConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            continue;
        }
        if stage == StageName::Evaluate {
            let config =
                EvaluateConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                EvaluateConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            continue;
        }
        if stage == StageName::Embed {
            let config =
                EmbedTrainConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
            let printed =
                EmbedTrainConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
            assert_eq!(printed, config);
            continue;
        }
        let mut config =
            TrainingConfig::from_toml(&text, &path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let printed = TrainingConfig::from_toml(&config.to_toml(), Path::new("printed.toml"), &[]).unwrap();
        assert_eq!(printed, config);

        if config.distillation.is_some() {
            assert!(plan_of_distillation(config) > 0, "{}", path.display());
            continue;
        }
        if let Some(classifier) = config.classifier.clone() {
            assert!(plan_of_classifier(config, &classifier) > 0, "{}", path.display());
            continue;
        }
        let is_preference = config.preference.is_some() || config.reward_model.is_some();
        let folder = setup::folder();
        config.model_name_or_path = folder.path().join("model").to_string_lossy().into_owned();
        config.data_dir = folder.path().join("data");
        // The tiny model's context.
        config.max_length = config.max_length.min(2048);
        for source in config.data.iter_mut().chain(&mut config.eval_data) {
            // Rows are written plain, whatever the compression of the real file.
            let name = source.path.file_name().unwrap().to_string_lossy().replace(".gz", "");
            source.path = name.into();
            let rows = match is_preference {
                true => (0..60).map(|i| PAIRS.replace('N', &i.to_string()) + "\n").collect(),
                false => rows_for(source.format.as_deref()),
            };
            if is_preference {
                source.format = None;
            }
            fs::create_dir_all(&config.data_dir).unwrap();
            fs::write(config.data_dir.join(&source.path), rows).unwrap();
        }
        let n_steps = match (&config.preference, &config.reward_model) {
            (Some(_), _) => steps_of::<DpoStage>(config),
            (_, Some(_)) => steps_of::<RewardModelStage>(config),
            _ => setup::plan(config).map(|(plan, _)| plan.n_steps),
        };
        assert!(n_steps.unwrap_or_else(|error| panic!("{}: {error}", path.display())) > 0);
    }
    assert!(n_recipes >= 9);
}

/// A recipe in the documentation: a block of TOML that says its stage.
#[test]
fn the_recipes_of_the_documentation_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut n_recipes = 0;
    for path in pages.chain([root.join("README.md")]).filter(|path| path.is_file()) {
        let page = fs::read_to_string(&path).unwrap();
        let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for text in blocks.filter(|text| text.lines().any(|line| line.starts_with("stage = "))) {
            n_recipes += 1;
            let parsed = match stage_of(text, &path).unwrap() {
                StageName::Select => SelectConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Build => BuildConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Label => LabelConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Quality => QualityConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Pas => PasConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Respond => RespondConfig::from_toml(text, &path, &[]).map(drop),
                StageName::PasEvaluate => PasEvaluateConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Prefer => PreferConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Evaluate => EvaluateConfig::from_toml(text, &path, &[]).map(drop),
                StageName::MergeSearch => MergeSearchConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Embed => EmbedTrainConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Grpo => GrpoConfig::from_toml(text, &path, &[]).map(drop),
                StageName::Classifier
                | StageName::Sft
                | StageName::Distill
                | StageName::Dpo
                | StageName::RewardModel => TrainingConfig::from_toml(text, &path, &[]).map(drop),
            };
            parsed.unwrap_or_else(|error| panic!("{error}"));
        }
    }
    assert!(n_recipes >= 3, "{n_recipes}");
}

/// Steps on prompts with the text that the teacher reads.
fn plan_of_distillation(mut config: TrainingConfig) -> u64 {
    let folder = setup::folder();
    config.model_name_or_path = folder.path().join("model").to_string_lossy().into_owned();
    config.data_dir = folder.path().to_path_buf();
    let column = config.distillation.as_ref().and_then(|one| one.teacher.privileged_column.clone()).unwrap();
    let rows = (0..60).map(|i| format!("{{\"prompt\": \"Say {i}.\", \"{column}\": \"Be brief.\"}}\n"));
    fs::write(folder.path().join("rows.jsonl"), rows.collect::<String>()).unwrap();
    config.data.iter_mut().for_each(|source| source.path = "rows.jsonl".into());
    steps_of::<DistillStage>(config).unwrap()
}

/// Steps on rows that have the recipe's columns.
fn plan_of_classifier(mut config: TrainingConfig, settings: &ClassifierConfig) -> u64 {
    let folder = setup::folder();
    config.model_name_or_path = folder.path().join("model").to_string_lossy().into_owned();
    config.data_dir = folder.path().join("data");
    fs::create_dir_all(&config.data_dir).unwrap();
    let row = |i: usize| {
        let mut row = serde_json::Map::from_iter([("prompt".to_owned(), format!("Say {i}.").into())]);
        row.extend(settings.group_column.iter().map(|column| (column.clone(), (i / 3).into())));
        row.extend(settings.columns.values().map(|column| (column.clone(), ["a", "b"][i % 2].into())));
        row.extend(settings.scores.values().map(|column| (column.clone(), i.into())));
        row.extend(settings.confidences.values().map(|column| (column.clone(), 0.75.into())));
        serde_json::Value::Object(row).to_string() + "\n"
    };
    for source in &mut config.data {
        source.path = source.path.file_name().unwrap().to_string_lossy().replace(".gz", "").into();
        let rows: String = (0..60).map(row).collect();
        fs::write(config.data_dir.join(&source.path), rows).unwrap();
    }
    let inputs = setup::load::<ClassifierStage>(&config, &mut Silent).unwrap();
    match ClassifierStage::plan::<Cpu>(config, &inputs, &setup::MACHINE).unwrap() {
        ClassifierPlan::Decoder(plan) => plan.n_steps,
        ClassifierPlan::Encoder { .. } => panic!("the tiny model is a decoder"),
    }
}

fn steps_of<S: Stage<Config = TrainingConfig, Plan = TrainingPlan>>(
    config: TrainingConfig,
) -> Result<u64, StageError> {
    let inputs = setup::load::<S>(&config, &mut Silent)?;
    Ok(S::plan::<Cpu>(config, &inputs, &setup::MACHINE)?.n_steps)
}

/// The recipes plan on the real files they were written for, where those are at hand.
#[test]
fn the_recipes_plan_on_their_real_data() {
    let Ok(shared) = std::env::var("TRUING_TEST_SHARED") else {
        println!("skipped: TRUING_TEST_SHARED does not name a folder with data/");
        return;
    };
    for name in ["gsm8k", "self_instruct", "multi_turn"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../recipes/{name}.toml"));
        let folder = setup::folder();
        let overrides = [
            format!("data_dir={shared}/data"),
            format!("model_name_or_path={}", folder.path().join("model").display()),
            // The tiny model's tokens are bytes.
            "long_samples=drop".to_owned(),
        ];
        let config =
            TrainingConfig::from_toml(&fs::read_to_string(&path).unwrap(), &path, &overrides).unwrap();
        let (plan, _) = setup::plan(config).unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {} steps, utilisation {:.4}", plan.n_steps, plan.packing().utilisation);
        assert!(plan.packing().utilisation > 0.95);
    }
}

/// `TRUING_WRITE_REFERENCE=1 cargo test -p truing-construct` writes the page anew.
#[test]
fn the_reference_of_recipes_is_fresh() {
    let sections = [
        reference_of::<TrainingConfig>("Training: SFT, preferences, reward models, classifiers"),
        reference_of::<GrpoConfig>("Reinforcement learning"),
        reference_of::<SelectConfig>("Prompt selection"),
        reference_of::<LabelConfig>("Labels"),
        reference_of::<QualityConfig>("Quality scores"),
        reference_of::<RespondConfig>("Responses"),
        reference_of::<PasConfig>("Prompt augmentation: pairs"),
        reference_of::<PasEvaluateConfig>("Prompt augmentation: evaluation"),
        reference_of::<PreferConfig>("Preference data"),
        reference_of::<BuildConfig>("Data for abilities"),
        reference_of::<EmbedTrainConfig>("Embedding models"),
        reference_of::<EvaluateConfig>("Evaluation"),
        reference_of::<MergeSearchConfig>("Search for a merge"),
    ];
    let fresh = format!("{REFERENCE_HEAD}{}", sections.concat());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes.md");
    if std::env::var_os("TRUING_WRITE_REFERENCE").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let differing = "docs/recipes.md is not what the settings say: TRUING_WRITE_REFERENCE=1 writes it anew";
    assert!(fs::read_to_string(&path).unwrap_or_default() == fresh, "{differing}");
}

const REFERENCE_HEAD: &str = "\
# Recipe reference

Every key of every recipe: its type, its default and its meaning. This page is generated from the program's settings.

A recipe is a TOML file. Keys without a table come first, then tables such as `[lora]` and `[[data]]`. Relative paths
are relative to the recipe's folder. `--set key=value` overrides a setting for one run, `--set data.0.path=...` a
setting of the first entry of a list. Unknown keys are errors that name the nearest known key. The last column says
what may differ between a run and its `--resume`; all other settings affect the results and must not change.
";
