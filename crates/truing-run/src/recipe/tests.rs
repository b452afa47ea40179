//! Tests of `recipe.rs`.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Example {
    stage: Option<StageName>,
    learning_rate: f64,
    #[schemars(extend("x-decides" = "length"))]
    max_steps: Option<u64>,
    #[schemars(extend("x-decides" = "nothing"))]
    output_dir: PathBuf,
    #[schemars(extend("x-decides" = "outcome"))]
    name: Option<String>,
    data: Vec<Source>,
    lora: Option<Lora>,
    kind: Option<Kind>,
    named: BTreeMap<String, Source>,
}

/// Alternatives, with settings in one of them.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Plain,
    Model(Model),
}

#[derive(Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Model {
    #[schemars(extend("x-decides" = "content"))]
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "name"))]
    program: Option<String>,
    temperature: f64,
}

#[derive(Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Source {
    #[schemars(extend("x-decides" = "name_and_content"))]
    path: String,
    weight: f64,
}

#[derive(Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Lora {
    #[serde(alias = "r")]
    #[schemars(extend("x-aliases" = ["r"], "x-decides" = "nothing"))]
    rank: usize,
}

impl Recipe for Example {
    const STAGES: &'static [StageName] = &[StageName::Sft, StageName::Dpo];
    fn stage(&self) -> StageName {
        self.stage.unwrap_or(StageName::Sft)
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        self.output_dir = folder.join(&self.output_dir);
    }

    fn find_models<E>(&mut self, _: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        Ok(())
    }
}

const TEXT: &str =
    "stage = \"sft\"\nlearning_rate = 1e-5\noutput_dir = \"runs/a\"\n\n[[data]]\npath = \"a.jsonl\"\n";

fn read(text: &str, overrides: &[&str]) -> Result<Example, String> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    parse(text, Path::new("recipes/r.toml"), &overrides).map_err(|error| error.to_string())
}

#[test]
fn a_setting_s_place_is_its_override_its_line_or_the_file() {
    let text = "max_length = 4\n[lora]\nrank = 0\n\n[[reward]]\nname = \"a\"\n[[reward]]\nname = \"b\"\n";
    let (path, overrides) = (Path::new("r.toml"), ["lora={rank=1}".to_owned(), "seed=3".to_owned()]);
    for (key, overrides, expected) in [
        ("max_length", &overrides[..], "r.toml:1"),
        ("lora.rank", &[], "r.toml:3"),
        ("lora.rank", &overrides, "--set lora={rank=1}"),
        ("lora.alpha", &[], "r.toml:2"),
        ("seed", &overrides, "--set seed=3"),
        ("seeds", &overrides, "r.toml"),
        ("data", &[], "r.toml"),
        ("reward", &[], "r.toml:5"),
        // Which of the tables is meant is not known.
        ("reward.sources", &[], "r.toml"),
    ] {
        assert_eq!(place_of(key, text, path, overrides).to_string(), expected, "{key}");
    }
}

#[test]
fn all_unknown_keys_are_told_with_their_lines() {
    let text = "stage = \"sft\"\nlerning_rate = 1.0\nmax_steps = 3\nbf16 = true\n[[data]]\npaht = \"x\"\n";
    let error = read_recipe::<Example>(text, Path::new("r.toml")).unwrap_err();
    let RecipeError::UnknownKeys { errors } = &error else { panic!("{error}") };
    assert_eq!(errors.len(), 3);
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "3 unknown keys:");
    assert!(
        lines[1]
            .starts_with("r.toml:2: unknown key `lerning_rate`; the nearest known key is `learning_rate`")
    );
    assert!(lines[2].starts_with("r.toml:4: unknown key `bf16`: "), "{text}");
    assert!(lines[3].starts_with("r.toml:6: unknown key `paht`; the nearest known key is `path`"), "{text}");
}

#[test]
fn overrides_are_typed_and_lie_on_top_of_the_file() {
    let example = read(
        TEXT,
        &["learning_rate=2e-4", "name=plain text", "data.0.weight=3", "lora.rank=8", "output_dir=here"],
    );
    let example = example.unwrap();
    assert_eq!((example.learning_rate, example.name.as_deref()), (2e-4, Some("plain text")));
    assert_eq!((example.data[0].weight, example.lora), (3.0, Some(Lora { rank: 8 })));
    assert_eq!(read(TEXT, &["lora.rank=8", "lora.r=4"]).unwrap().lora, Some(Lora { rank: 4 }), "an alias");
    assert_eq!(example.output_dir, Path::new("here"), "an override's path is not the recipe's");
    assert_eq!(read(TEXT, &[]).unwrap().output_dir, Path::new("recipes/runs/a"));
    assert_eq!(read(TEXT, &["name=x", "name="]).unwrap().name, None);
    let lists = read(TEXT, &["data=[{path = \"b\"}, {path = \"c\"}]"]).unwrap();
    assert_eq!(lists.data.len(), 2);
}

#[test]
fn the_printed_recipe_reads_as_itself() {
    let example = read(TEXT, &["lora.rank=8"]).unwrap();
    let again: Example = toml::from_str(&example.to_toml()).unwrap();
    assert_eq!(example, again);
}

#[test]
fn settings_decide_what_their_schema_declares() {
    let example = read(
        TEXT,
        &[
            "lora.rank=8",
            "data.0.path=far/away/a.jsonl",
            "name=x",
            "max_steps=7",
            "kind={model = {path = \"m\", temperature = 0.5}}",
            "named={first = {path = \"b/c.jsonl\"}}",
        ],
    );
    let example = example.unwrap();
    let resumed = "stage = \"sft\"\nlearning_rate = 1e-5\ndata = [{path = \"a.jsonl\", weight = 0.0}]\nlora = {}\n\
                   kind = {model = {temperature = 0.5}}\nnamed = {first = {path = \"c.jsonl\", weight = 0.0}}\n";
    assert_eq!(example.decisive(Scope::Resume), toml::from_str(resumed).unwrap());
    let whole = format!("name = \"x\"\nmax_steps = 7\n{resumed}");
    assert_eq!(example.decisive(Scope::Content), toml::from_str(&whole).unwrap());
    assert_eq!(example.decisive(Scope::Length), toml::from_str("max_steps = 7").unwrap());
    let program = |path: &str| {
        let kind = format!("kind={{model = {{program = \"{path}\", temperature = 0.5}}}}");
        read(TEXT, &[&kind]).unwrap()
    };
    for scope in [Scope::Resume, Scope::Content] {
        let found = program("/opt/env/bin/python3.12").decisive(scope);
        assert_eq!(
            found["kind"]["model"]["program"].as_str(),
            Some("python3.12"),
            "a program without its folder"
        );
        assert_eq!(found, program("python3.12").decisive(scope));
    }
    assert!(!program("/bin/python3").input_settings().iter().any(|input| input.setting.ends_with("program")));
    let plain = read(TEXT, &["kind=plain"]).unwrap().decisive(Scope::Resume);
    assert_eq!(plain["kind"].as_str(), Some("plain"), "an alternative without settings is kept");
}

#[test]
fn settings_that_name_inputs_are_found_wherever_they_are() {
    let example = read(
        TEXT,
        &["kind={model = {path = \"m\", temperature = 0.5}}", "named={first = {path = \"b/c.jsonl\"}}"],
    );
    let found = example.unwrap().input_settings();
    let input = |setting: &str, path: &str, name_decides| InputSetting {
        setting: setting.to_owned(),
        path: path.into(),
        name_decides,
    };
    let expected = [
        input("data.0.path", "a.jsonl", true),
        input("kind.model.path", "m", false),
        input("named.first.path", "b/c.jsonl", true),
    ];
    assert_eq!(found, expected);
    let keys = ["data", "0", "path"].map(str::to_owned);
    assert_eq!(line_of_key(TEXT, &keys), Some(6));
}

#[test]
fn an_unknown_declaration_is_found() {
    #[derive(JsonSchema)]
    struct Misspelled {
        #[expect(dead_code, reason = "only its schema is read")]
        #[schemars(extend("x-decides" = "nothin"))]
        path: String,
    }
    let mut found = Vec::new();
    decisive::unknown_declarations(&schema_of::<Vec<Misspelled>>(), "list", &mut found);
    assert_eq!(found, ["list.path"]);
    assert!(Example::unknown_declarations().is_empty());
}

#[test]
fn a_recipe_says_its_stage_and_is_run_by_its_command() {
    for (text, expected) in [
        (
            "learning_rate = 1\n[preference]\n",
            "recipes/r.toml: missing key `stage`; add this line at the top: stage = \"dpo\"",
        ),
        ("name = \"a\"\n", "recipes/r.toml: missing key `stage`; add this line at the top: stage = \"sft\""),
        (
            "learning_rate = 1\nmodel_name_or_path = \"m\"\n",
            "recipes/r.toml: missing key `stage`; add this line at the top: stage = \"sft\"",
        ),
        (
            "num_generations = 3\nstage = \"grpo\"\n",
            "recipes/r.toml:2: this is a recipe of stage \"grpo\"; run it with `truing grpo`",
        ),
        (
            "stage = \"ppo\"\n",
            "recipes/r.toml:1: unknown stage \"ppo\": expected one of \"build\", \"merge_search\", \"pas\", \
             \"pas_evaluate\", \"respond\", \"prefer\", \"evaluate\", \"select\", \"embed\", \"label\", \
             \"quality\", \"grpo\", \"classifier\", \"distill\", \"dpo\", \"reward_model\", \"sft\"",
        ),
    ] {
        assert_eq!(read(text, &[]).unwrap_err(), expected);
    }
    for (text, expected) in [
        (
            "[stages.sft]\nuses = \"sft\"\n",
            "recipes/r.toml: this is the recipe of a pipeline; run `truing pipeline plan recipes/r.toml`",
        ),
        (
            "method = \"linear\"\noutput_dir = \"m\"\n[[models]]\nmodel = \"a\"\n",
            "recipes/r.toml: this is the recipe of a merge; run `truing merge recipes/r.toml`",
        ),
    ] {
        assert_eq!(read(text, &[]).unwrap_err(), expected);
        assert_eq!(stage_of(text, Path::new("recipes/r.toml")).unwrap_err().to_string(), expected);
    }
    assert_eq!(
        read(TEXT, &["stage=grpo"]).unwrap_err(),
        "--set stage=grpo: this is a recipe of stage \"grpo\"; run it with `truing grpo`"
    );
    assert_eq!(read(TEXT, &["stage=dpo"]).unwrap().stage, Some(StageName::Dpo));
    assert_eq!(stage_of("stage = \"select\"\n[selection]\n", Path::new("r.toml")), Ok(StageName::Select));
}

#[test]
fn a_file_of_one_kind_is_refused_as_another() {
    let read = |text: &str| {
        read_kind::<Model>(text, Path::new("r.toml"), FileKind::Merge).map_err(|error| error.to_string())
    };
    for (text, expected) in [
        (
            "path = \"a\"\nstage = \"dpo\"\n",
            "r.toml:2: this is a recipe of stage \"dpo\"; run it with `truing dpo`",
        ),
        ("selection = {}\n", "r.toml: this is a recipe of stage \"select\"; run it with `truing select`"),
        (
            "hosts = 2\n",
            "r.toml: this is the description of a cluster; run `truing plan --cluster r.toml --model MODEL`",
        ),
    ] {
        assert_eq!(read(text).unwrap_err(), expected);
    }
    // With a key of its own the others are mistakes in it.
    let of_merge = read("method = 1\nhosts = 2\n").unwrap_err();
    assert!(of_merge.starts_with("2 unknown keys:\nr.toml:1: unknown key `method`"), "{of_merge}");
    assert_eq!(read("temperature = 0.5\n").unwrap().temperature, 0.5);
}

#[test]
fn mistakes_name_line_key_and_the_nearest_known_key() {
    for (text, overrides, expected) in [
        (
            "stage = \"sft\"\nlearning_rate = 1\nlerning_rate = 2\n",
            &[][..],
            "recipes/r.toml:3: unknown key `lerning_rate`; the nearest known key is `learning_rate`",
        ),
        (
            "stage = \"sft\"\n[[data]]\npath = \"a\"\n\n[[data]]\nwieght = 1\n",
            &[],
            "recipes/r.toml:6: unknown key `wieght`; the nearest known key is `weight`",
        ),
        ("stage = \"dpo\"\n[lora]\nzzz = 1\n", &[], "recipes/r.toml:3: unknown key `zzz`"),
        (
            "stage = \"sft\"\nper_device_train_batch_size = 8\n",
            &[],
            "recipes/r.toml:2: unknown key `per_device_train_batch_size`: a key of TRL and LLaMA-Factory; in truing a \
             step is counted in packs: `packs_per_step` or `tokens_per_step`",
        ),
        (
            "stage = \"sft\"\nlearning_rate = \"fast\"\n",
            &[],
            "recipes/r.toml:2: invalid type: string \"fast\", expected a number",
        ),
        (
            TEXT,
            &["name=x", "lora.rnk=3"],
            "--set lora.rnk=3: unknown key `rnk`; the nearest known key is `rank`",
        ),
        (TEXT, &["lora.rnk="], "--set lora.rnk=: unknown key `rnk`; the nearest known key is `rank`"),
        (TEXT, &["learning_rate"], "--set learning_rate: expected `key=value`"),
        (
            TEXT,
            &["data.4.weight=1"],
            "--set data.4.weight=1: `4` is not an entry of the list `data`, which has 1: the last is `data.0`",
        ),
        (
            TEXT,
            &["data.path=b"],
            "--set data.path=b: `path` is not an entry of the list `data`, which has 1: the last is `data.0`",
        ),
        (
            TEXT,
            &["data=[]", "data.0.path=b"],
            "--set data.0.path=b: `data` is an empty list; `--set 'data=[{ path = \"b\" }]'` gives it an entry",
        ),
        (
            TEXT,
            &["learning_rate.x=1"],
            "--set learning_rate.x=1: `x` cannot be looked up in `learning_rate`, which is not a table",
        ),
    ] {
        assert_eq!(read(text, overrides).unwrap_err(), expected);
    }
    assert!(read("learning_rate = = 2\n", &[]).unwrap_err().starts_with("recipes/r.toml:1: "));
}

/// A section that several recipes share: without defaults of its own.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Section {
    #[serde(alias = "lr")]
    #[schemars(extend("x-aliases" = ["lr"]))]
    learning_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_steps: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Sectioned {
    stage: StageName,
    seed: u64,
    #[serde(flatten)]
    section: Section,
    lora: Option<Lora>,
}

impl Default for Sectioned {
    fn default() -> Self {
        let section = Section { learning_rate: 0.5, max_steps: None };
        Self { stage: StageName::Sft, seed: 7, section, lora: None }
    }
}

impl Recipe for Sectioned {
    const STAGES: &'static [StageName] = &[StageName::Sft];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        Path::new("")
    }

    fn resolve_paths(&mut self, _: &Path) {}

    fn find_models<E>(&mut self, _: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        Ok(())
    }
}

#[test]
fn a_shared_section_has_the_defaults_of_its_recipe() {
    let read = |text: &str, overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let text = format!("stage = \"sft\"\n{text}");
        parse::<Sectioned>(&text, Path::new("r.toml"), &overrides).map_err(|error| error.to_string())
    };
    let section = |text: &str, overrides: &[&str]| {
        let Section { learning_rate, max_steps } = read(text, overrides).unwrap().section;
        (learning_rate, max_steps)
    };
    assert_eq!(section("", &[]), (0.5, None));
    assert_eq!(section("max_steps = 3\n[lora]\nr = 4\n", &[]), (0.5, Some(3)));
    assert_eq!(section("lr = 2\n", &[]), (2.0, None), "an alias, and a whole number for a float");
    assert_eq!(section("lr = 2\nmax_steps = 3\n", &["learning_rate=", "max_steps="]), (0.5, None));
    assert_eq!(section("", &["lr=3"]), (3.0, None));
    let whole = read("lr = 2\n", &[]).unwrap();
    assert_eq!(parse::<Sectioned>(&whole.to_toml(), Path::new("r.toml"), &[]), Ok(whole));
    for (text, expected) in [
        (
            "seed = 1\nmax_steps = \"many\"\n",
            "r.toml:3: invalid type: string \"many\", expected a whole number of 0 or more",
        ),
        (
            "max_steps = 4\nseed = -1\n",
            "r.toml:3: invalid value: integer `-1`, expected a whole number of 0 or more",
        ),
        ("max_stepz = 4\n", "r.toml:2: unknown key `max_stepz`; the nearest known key is `max_steps`"),
        ("lr = 1\nlearning_rate = 2\n", "r.toml:3: duplicate field `learning_rate`"),
        ("learning_rate = 1\nseed = 2\nlr = 2\n", "r.toml:4: duplicate field `learning_rate`"),
        (
            "[lora]\nrank = 1.5\n",
            "r.toml:3: invalid type: floating point `1.5`, expected a whole number of 0 or more",
        ),
    ] {
        assert_eq!(read(text, &[]).unwrap_err(), expected);
    }
    let schema = recipe_schema_of::<Sectioned>();
    assert_eq!(schema["properties"]["learning_rate"]["default"], 0.5);
}
