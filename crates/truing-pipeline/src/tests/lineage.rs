//! Rows of pipelines followed back and forward. The stages here write rows with links, as those of the program do.

mod limits;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use serde_json::{Value, json};
use toml::Table;

use super::{run_command, settle};
use crate::{
    Applied, ApplyOptions, Cause, Digests, Host, Impact, Job, JobEnd, JobReport, Lineage, LockFile,
    ModelCard, NamedOutput, Notice, Pipeline, PipelinePlan, RowAddress, Selector, StageKind, Store,
    TracedRow, Work, apply, impact, write_without,
};

/// Rows of the file from outside: the second line is empty.
const ROWS: &str = concat!(
    r#"{"id": "q0", "license": "mit"}"#,
    "\n\n",
    r#"{"id": "q1", "license": "mit", "is_bad": true}"#,
    "\n",
    r#"{"id": "q2", "license": "nc"}"#,
    "\n",
    r#"{"id": "q3", "license": "mit"}"#,
    "\n",
);

/// A selection, two teachers, training, and an evaluation; people correct what the teachers said.
const PIPELINE: &str = r#"
[stages.pick]
uses = "select"
with = { from = ["rows.jsonl"] }

[stages.ask]
uses = "respond"
with = { from = ["${stages.pick.selected}"] }

[stages.train]
uses = "sft"
with = { from = ["${stages.ask.responses}"] }

[stages.people]
uses = "gate"
needs = ["ask"]
with = { file = "people.jsonl" }

[stages.second]
uses = "sft"
with = { from = ["${stages.people.file}", "${stages.train.model}"] }

[stages.measure]
uses = "evaluate"
with = { from = ["${stages.train.model}"] }
"#;

const fn output(name: &'static str, path: &'static str) -> NamedOutput {
    NamedOutput { name, path }
}

const SELECT: &[NamedOutput] =
    &[output("selected", "selected.jsonl"), output("decisions", "decisions.jsonl")];
const RESPOND: &[NamedOutput] =
    &[output("responses", "responses.jsonl"), output("candidates", "candidates.jsonl")];
const TRAIN: &[NamedOutput] = &[output("model", "model")];
const EVALUATE: &[NamedOutput] = &[output("results", "results.json")];

/// A program with stages that write rows.
struct Rows {
    kinds: Vec<StageKind>,
}

impl Rows {
    fn new() -> Self {
        let kind = |name, outputs| StageKind { name, outputs, settle };
        Self {
            kinds: vec![
                kind("select", SELECT),
                kind("respond", RESPOND),
                kind("sft", TRAIN),
                kind("evaluate", EVALUATE),
            ],
        }
    }
}

/// The rows of a file with their lines.
fn rows_of(path: &Path) -> Vec<(usize, Value)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(place, line)| (place + 1, serde_json::from_str(line).unwrap())).collect()
}

fn write_rows(path: &Path, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, lines).unwrap();
}

fn select(from: &Path, folder: &Path) {
    let (mut selected, mut decisions) = (Vec::new(), Vec::new());
    for (line, row) in rows_of(from) {
        let is_kept = row.get("is_bad").is_none();
        let outcome = if is_kept { "kept" } else { "dropped" };
        decisions.push(json!({
            "id": decisions.len(), "origin": {"source": from, "line": line}, "fine_cluster": line,
            "decision": {"outcome": outcome},
        }));
        if is_kept {
            selected.push(row);
        }
    }
    write_rows(&folder.join("selected.jsonl"), &selected);
    write_rows(&folder.join("decisions.jsonl"), &decisions);
}

fn respond(from: &Path, folder: &Path) {
    let (mut responses, mut candidates) = (Vec::new(), Vec::new());
    for (line, row) in rows_of(from) {
        let (id, source) = (&row["id"], json!({"path": from, "line": line}));
        let said = |model: &str| json!({"content": format!("{model} on {id}"), "model": model});
        let both = [said("teacher-a"), said("teacher-b")];
        for one in &both {
            let messages = [
                json!({"role": "user", "content": "?"}),
                json!({"role": "assistant", "content": one["content"]}),
            ];
            responses.push(json!({"messages": messages, "id": id, "model": one["model"], "source": source}));
        }
        candidates.push(json!({"id": id, "responses": both, "source": source}));
    }
    write_rows(&folder.join("responses.jsonl"), &responses);
    write_rows(&folder.join("candidates.jsonl"), &candidates);
}

impl Host for Rows {
    fn kinds(&self) -> &[StageKind] {
        &self.kinds
    }

    fn program(&self) -> &str {
        "rows 1"
    }

    fn find_model(&self, name: &str) -> Result<PathBuf, Cause> {
        Ok(name.into())
    }

    fn find_data(&self, _: &str) -> Result<Option<PathBuf>, Cause> {
        Ok(None)
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn run(&self, job: &Job<'_>) -> Result<JobEnd, Cause> {
        let Work::Recipe { kind, path } = job.work else { return run_command(job) };
        let recipe: Table = toml::from_str(&fs::read_to_string(path)?)?;
        let from = PathBuf::from(recipe["from"][0].as_str().unwrap());
        fs::create_dir_all(job.folder)?;
        match kind.as_str() {
            "select" => select(&from, job.folder),
            "respond" => respond(&from, job.folder),
            "sft" => {
                fs::create_dir(job.folder.join("model"))?;
                fs::write(job.folder.join("model/config.json"), rows_of(&from).len().to_string())?;
            }
            _ => {
                let interval = json!({"low": 0.4, "high": 0.6});
                let name = json!({"name": "acc", "filter": "none"});
                let metric = json!({"metric": name, "value": 0.5, "interval": interval, "n": 10});
                let results = json!([{"task": "sums", "summary": {"metrics": [metric]}}]);
                fs::write(job.folder.join("results.json"), results.to_string())?;
            }
        }
        Ok(JobEnd::Finished(JobReport {
            figures: [("loss".to_owned(), 0.25)].into(),
            ..JobReport::default()
        }))
    }

    fn notice(&self, _: &Notice<'_>) {}
}

/// A pipeline with its plan.
struct Opened {
    pipeline: Pipeline,
    plan: PipelinePlan,
    store: Store,
    digests: Digests,
    host: Rows,
}

impl Opened {
    fn of(recipe: &Path) -> Self {
        let host = Rows::new();
        let pipeline = Pipeline::read(Path::new(recipe.file_name().unwrap()), recipe, &host).unwrap();
        let store = Store::at(&pipeline.store);
        let digests = Digests::open(&store.digests_path());
        let lock = LockFile::read(&pipeline.lock_path()).unwrap();
        let plan = PipelinePlan::new(&pipeline, &store, &lock, &digests, &host).unwrap();
        Self { pipeline, plan, store, digests, host }
    }

    fn apply(recipe: &Path) -> Applied {
        let Self { pipeline, plan, store, digests, host } = Self::of(recipe);
        let stop = AtomicBool::new(false);
        let options = ApplyOptions { jobs: 1, stop: &stop };
        apply(&pipeline, &plan, &store, &digests, &host, options).unwrap()
    }

    fn lineage(&self) -> Lineage<'_> {
        Lineage::open(&self.pipeline, &self.plan, &self.store, &self.digests, &self.host).unwrap()
    }

    /// The text of an output.
    fn text(&self, stage: &str, file: &str) -> String {
        let idx = self.pipeline.stage_index(stage).unwrap();
        let folder = self.store.run_folder(self.plan.stages[idx].key.unwrap());
        fs::read_to_string(folder.join(file)).unwrap()
    }
}

/// A folder with the pipeline, applied.
fn applied() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("one");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("rows.jsonl"), ROWS).unwrap();
    let corrected = json!({"id": "q2", "annotators": ["eve"], "messages": []});
    let other = json!({"id": "q0", "annotators": ["ann"], "messages": []});
    write_rows(&root.join("people.jsonl"), &[corrected, other]);
    let recipe = root.join("pipe.toml");
    fs::write(&recipe, PIPELINE).unwrap();
    let done = Opened::apply(&recipe);
    assert_eq!(done.ran, ["pick", "ask", "train", "second", "measure"], "{done:?}");
    (folder, recipe)
}

/// Names of stages in the order of the alphabet: a recipe that was written has its tables in that order.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// A row and those that it was made of, each first parent after the other.
fn way(row: &TracedRow) -> Vec<String> {
    let stage = row.stage.as_ref().map(|stage| format!("{stage}/")).unwrap_or_default();
    let own = format!("{stage}{}:{}", row.file, row.line);
    std::iter::once(own).chain(row.from.first().map(way).unwrap_or_default()).collect()
}

fn impact_of(opened: &Opened, selector: &str) -> Impact {
    impact(&opened.lineage(), &[Selector::parse(selector).unwrap()]).unwrap()
}

/// What falls of each file: rows that match, fall and change.
fn counts(impact: &Impact) -> Vec<String> {
    let hit = impact.files.iter().filter(|file| file.n_matching + file.n_removed + file.n_changed > 0);
    hit.map(|file| {
        let stage = file.stage.as_deref().unwrap_or("outside");
        format!("{stage}/{} {} {} {}", file.file, file.n_matching, file.n_removed, file.n_changed)
    })
    .collect()
}

#[test]
fn a_training_row_is_followed_back_to_the_file_from_outside() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    for _ in 0..2 {
        // The second time the indexes are there.
        let lineage = opened.lineage();
        let trace = lineage.trace(RowAddress { stage: "train", file: None, row: "4" }).unwrap();
        let reader = trace.reader.unwrap();
        assert_eq!((&*reader.stage, &*reader.uses, &*reader.setting), ("train", "sft", "from.0"));
        let row = trace.row;
        assert_eq!(way(&row), ["ask/responses:4", "pick/selected:2", "rows.jsonl:4"]);
        assert_eq!((row.id.as_deref(), row.from[0].from[0].id.as_deref()), (Some("q2"), Some("q2")));
        // Of the candidates of the prompt the one that the row has.
        let [record] = row.records.as_slice() else { panic!("{:?}", row.records) };
        assert_eq!((&*record.file, record.line), ("candidates.jsonl", 2));
        let responses = record.row["responses"].as_array().unwrap();
        assert_eq!((responses.len(), &responses[0]["model"]), (1, &json!("teacher-b")));
        let [decision] = row.from[0].records.as_slice() else { panic!("{:?}", row.from[0].records) };
        assert_eq!((decision.line, &decision.row["fine_cluster"]), (3, &json!(4)));
        assert_eq!(row.from[0].from[0].note, None);
    }
    let indexes = fs::read_dir(opened.store.root().join("lineage")).unwrap().count();
    assert!(indexes >= 4, "{indexes} indexes");
}

#[test]
fn rows_are_named_by_file_and_id_and_those_of_people_are_found_by_their_id() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let lineage = opened.lineage();
    let trace = |stage, file, row| lineage.trace(RowAddress { stage, file, row });
    let by_id = trace("ask", Some("candidates"), "q3").unwrap();
    assert_eq!(way(&by_id.row), ["ask/candidates:3", "pick/selected:3", "rows.jsonl:5"]);
    assert!(by_id.reader.is_none());
    assert_eq!(trace("ask", Some("responses.jsonl"), "id=q0").unwrap().n_with_id, 2);
    let of_people = trace("second", Some("from.0"), "1").unwrap();
    assert_eq!(way(&of_people.row), ["people/file:1", "ask/candidates:2", "pick/selected:2", "rows.jsonl:4"]);
    for (stage, file, row, expected) in [
        (
            "ask",
            Some("respones"),
            "1",
            "it has no file `respones`: expected `ask/FILE` with one of `candidates`, `responses`, `from.0`",
        ),
        ("ask", None, "7", "responses.jsonl:7 holds no row: expected a line of 1 to 6, or `id=ID`"),
        ("pick", Some("from.0"), "2", "rows.jsonl:2 holds no row"),
        ("ask", None, "id=q9", "has no row with `id` q9"),
        ("asks", None, "1", "pipe.toml has no stage `asks`: the nearest name is `ask`"),
    ] {
        let error = trace(stage, file, row).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_folder_that_was_moved_is_followed_all_the_same() {
    let (folder, recipe) = applied();
    let moved = folder.path().join("two");
    fs::rename(recipe.parent().unwrap(), &moved).unwrap();
    let opened = Opened::of(&moved.join("pipe.toml"));
    let trace = opened.lineage().trace(RowAddress { stage: "ask", file: None, row: "1" }).unwrap();
    assert_eq!(way(&trace.row), ["ask/responses:1", "pick/selected:1", "rows.jsonl:1"]);
}

#[test]
fn what_falls_with_a_licence_is_what_was_made_of_its_rows() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let found = impact_of(&opened, "license=nc");
    let expected = [
        "outside/rows.jsonl 1 1 0",
        "pick/decisions 0 1 0",
        "pick/selected 1 1 0",
        "ask/candidates 0 1 0",
        "ask/responses 0 2 0",
        "people/file 0 1 0",
    ];
    assert_eq!(counts(&found), expected);
    assert_eq!(found.runs_again, ["pick", "ask", "train", "people", "second", "measure"]);
    let models: Vec<(&str, u64, u64, usize)> = found
        .models
        .iter()
        .map(|model| (&*model.stage, model.n_removed, model.n_rows, model.from.len()))
        .collect();
    assert_eq!(models, [("train", 2, 6, 0), ("second", 1, 2, 1)]);
    let response = found.rows.iter().find(|row| row.file == "responses").unwrap();
    assert_eq!((response.line, response.made_of.as_deref()), (3, Some("pick/selected:2")));
    let nothing = impact_of(&opened, "license=gpl");
    assert!(counts(&nothing).is_empty() && nothing.runs_again.is_empty() && nothing.models.is_empty());
    let whole = impact_of(&opened, "source=rows");
    assert_eq!(whole.files.iter().find(|file| file.file == "selected").unwrap().share, 1.0);
}

#[test]
fn a_pipeline_without_a_licence_is_one_command() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let found = impact_of(&opened, "license=nc");
    let without = recipe.with_file_name("without.toml");
    let written = write_without(&opened.lineage(), &found, &without).unwrap();
    // What people made of the rows is removed from their file: they do not run again.
    let removed: Vec<u64> = written.filtered.iter().map(|file| file.n_removed).collect();
    assert_eq!(removed, [1, 1]);
    let kept = fs::read_to_string(&written.filtered[0].copy).unwrap();
    assert_eq!(
        kept,
        ROWS.lines().filter(|line| !line.contains("nc")).map(|line| format!("{line}\n")).collect::<String>()
    );
    assert_eq!(rows_of(&written.removed).len(), found.rows.len());
    let applied = Opened::apply(&without);
    assert_eq!(sorted(applied.ran), ["ask", "measure", "pick", "second", "train"]);
    let after = Opened::of(&without);
    assert!(!after.text("ask", "responses.jsonl").contains("q2"));
    assert_eq!(after.text("second", "model/config.json"), "1");
    assert!(Opened::apply(&recipe).ran.is_empty(), "the first pipeline is as it was");
    // The recipe is replaced, but no file that was not written for this.
    write_without(&opened.lineage(), &found, &without).unwrap();
    for (path, expected) in [
        (recipe.clone(), "exists already"),
        (recipe.with_file_name("other.txt"), "expected the name of a new recipe"),
        (
            recipe.parent().unwrap().with_file_name("other.toml"),
            "because paths of the recipe are relative to it",
        ),
    ] {
        let error = write_without(&opened.lineage(), &found, &path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let nothing = impact_of(&opened, "license=gpl");
    let error = write_without(&opened.lineage(), &nothing, &without).unwrap_err().to_string();
    assert!(error.contains("there is nothing to write"), "{error}");
}

#[test]
fn without_a_teacher_only_what_read_its_responses_runs_again() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let found = impact_of(&opened, "teacher=teacher-b");
    // Prompts lose one of two responses; the people's rows were made of such prompts.
    assert_eq!(counts(&found), ["ask/candidates 3 0 3", "ask/responses 3 3 0", "people/file 0 0 2"]);
    assert_eq!(found.runs_again, ["train", "second", "measure"]);
    assert!(found.remarks[0].starts_with("2 rows of people/file were made of rows that lose responses"));
    let without = recipe.with_file_name("without.toml");
    let written = write_without(&opened.lineage(), &found, &without).unwrap();
    let [filtered] = written.filtered.as_slice() else { panic!("{:?}", written.filtered) };
    let text = fs::read_to_string(&filtered.copy).unwrap();
    assert!(!text.contains("teacher-b") && text.contains("teacher-a"), "{text}");
    let applied = Opened::apply(&without);
    assert_eq!(sorted(applied.reused), ["ask", "people", "pick"]);
    assert_eq!(sorted(applied.ran), ["measure", "second", "train"]);
    let after = Opened::of(&without);
    assert_eq!(after.text("train", "model/config.json"), "3");
}

#[test]
fn the_rows_of_an_annotator_are_removed_from_the_file_of_a_gate() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let found = impact_of(&opened, "annotator=eve");
    assert_eq!(
        (counts(&found), &found.runs_again),
        (vec!["people/file 1 1 0".to_owned()], &vec!["second".to_owned()])
    );
    let without = recipe.with_file_name("without.toml");
    write_without(&opened.lineage(), &found, &without).unwrap();
    assert_eq!(Opened::apply(&without).ran, ["second"]);
    assert_eq!(Opened::of(&without).text("second", "model/config.json"), "1");
}

#[test]
fn a_card_says_what_a_model_was_made_of_and_what_was_measured() {
    let (_folder, recipe) = applied();
    let opened = Opened::of(&recipe);
    let card = ModelCard::of(&opened.lineage(), "train", None).unwrap();
    assert_eq!(card.license, None, "the rows have two licences");
    let stages: Vec<&str> = card.stages.iter().map(|stage| &*stage.stage).collect();
    assert_eq!(stages, ["pick", "ask", "train"]);
    assert_eq!((card.data[0].n_rows, card.data[0].licenses["mit"]), (4, 3));
    let text = ModelCard::of(&opened.lineage(), "train", Some("mit")).unwrap().to_markdown();
    for expected in [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlicense: \"mit\"\n",
        "model-index:\n- name: \"pipe-train\"\n  results:\n  - task:\n      type: text-generation\n",
        "    - type: \"acc\"\n      name: \"acc, 95 % interval 0.4000 to 0.6000, 10 items\"\n      value: 0.5\n",
        "| rows.jsonl | 4 | mit (3), nc (1) | pick |",
        "| sums | acc | 0.5000 | 0.4000 to 0.6000 | 10 |",
        "| train | sft | ",
    ] {
        assert!(text.contains(expected), "no `{expected}` in\n{text}");
    }
    let unmeasured = ModelCard::of(&opened.lineage(), "second", None).unwrap().to_markdown();
    assert!(unmeasured.contains("No stage of the pipeline evaluates this model."), "{unmeasured}");
    let error = ModelCard::of(&opened.lineage(), "ask", None).unwrap_err().to_string();
    assert!(error.contains("stage `ask` has left no `model`"), "{error}");
}

/// A recipe that is not applied, beside the folder `data` of two files.
fn with_folder(recipe: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.toml");
    fs::create_dir(folder.path().join("data")).unwrap();
    let rows = [json!({"id": "a0", "license": "nc"}), json!({"id": "a1", "license": "mit"})];
    write_rows(&folder.path().join("data/a.jsonl"), &rows);
    write_rows(&folder.path().join("data/b.jsonl"), &[json!({"id": "b0", "license": "gpl"})]);
    fs::write(&path, recipe).unwrap();
    Opened::of(&path).store.create().unwrap();
    (folder, path)
}

#[test]
fn a_folder_is_copied_anew_and_never_over_what_is_read() {
    let (_folder, recipe) = with_folder("[stages.pick]\nuses = \"select\"\nwith = { from = [\"data\"] }\n");
    let opened = Opened::of(&recipe);
    let without = recipe.with_file_name("without.toml");
    for (license, kept) in [("nc", ["a1", "b0"]), ("gpl", ["a0", "a1"])] {
        let found = impact_of(&opened, &format!("license={license}"));
        write_without(&opened.lineage(), &found, &without).unwrap();
        let written: Table = toml::from_str(&fs::read_to_string(&without).unwrap()).unwrap();
        let copy = PathBuf::from(written["stages"]["pick"]["with"]["from"][0].as_str().unwrap());
        assert_eq!(copy.file_name().unwrap(), "data", "rows may be named after the folder");
        let rows = ["a.jsonl", "b.jsonl"].iter().flat_map(|name| rows_of(&copy.join(name)));
        let ids: Vec<String> = rows.map(|(_, row)| row["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids, kept, "without {license}");
    }
    let own = Opened::of(&without);
    let found = impact_of(&own, "license=mit");
    let error = write_without(&own.lineage(), &found, &without).unwrap_err().to_string();
    assert!(error.contains("would be replaced: expected another name"), "{error}");
}

#[test]
fn a_command_reads_the_copy_or_nothing_is_written() {
    for (argument, expected) in
        [("data/a.jsonl", Some("")), ("--rows=./data/a.jsonl", Some("--rows=")), ("", None)]
    {
        let (_folder, recipe) = with_folder(&format!(
            "[stages.clean]\nuses = \"command\"\n[stages.clean.with]\ncommand = [\"clean\", \"{argument}\"]\n\
             inputs = [\"data/a.jsonl\"]\noutputs = {{ rows = \"rows.jsonl\" }}\n"
        ));
        let opened = Opened::of(&recipe);
        let found = impact_of(&opened, "license=nc");
        let without = recipe.with_file_name("without.toml");
        let written = write_without(&opened.lineage(), &found, &without);
        let Some(option) = expected else {
            let error = written.unwrap_err().to_string();
            assert!(error.contains("no argument of its `command` names it"), "{error}");
            assert!(!without.exists());
            continue;
        };
        let copy = written.unwrap().filtered[0].copy.display().to_string();
        let recipe: Table = toml::from_str(&fs::read_to_string(&without).unwrap()).unwrap();
        let with = &recipe["stages"]["clean"]["with"];
        assert_eq!(with["command"][1].as_str(), Some(format!("{option}{copy}").as_str()));
        assert_eq!(with["inputs"][0].as_str(), Some(copy.as_str()));
    }
}

/// Two stages that do the same have one key, and leave one file. The second is read.
const TWINS: &str = r#"
[stages.one]
uses = "respond"
with = { from = ["rows.jsonl"] }

[stages.two]
uses = "respond"
with = { from = ["rows.jsonl"] }

[stages.train]
uses = "sft"
with = { from = ["${stages.two.responses}"] }
"#;

#[test]
fn of_stages_of_one_key_the_one_that_is_read_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("pipe.toml");
    fs::write(folder.path().join("rows.jsonl"), ROWS).unwrap();
    fs::write(&recipe, TWINS).unwrap();
    Opened::apply(&recipe);
    let opened = Opened::of(&recipe);
    let trace = opened.lineage().trace(RowAddress { stage: "train", file: None, row: "3" });
    assert_eq!(way(&trace.unwrap().row)[0], "two/responses:3");
    let found = impact_of(&opened, "teacher=teacher-a");
    assert_eq!(found.runs_again, ["train"]);
    let models: Vec<(u64, u64)> = found.models.iter().map(|model| (model.n_removed, model.n_rows)).collect();
    assert_eq!(models, [(4, 8)]);
}

#[test]
fn rows_that_cannot_be_followed_are_a_remark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.toml");
    let recipe = "[stages.copy]\nuses = \"command\"\n[stages.copy.with]\n\
                  command = [\"cp\", \"rows.jsonl\", \"${output}/rows.jsonl\"]\ninputs = [\"rows.jsonl\"]\n\
                  outputs = { rows = \"rows.jsonl\" }\n";
    write_rows(&folder.path().join("rows.jsonl"), &[json!({"license": "nc"}), json!({"text": "?"})]);
    fs::write(&path, recipe).unwrap();
    Opened::apply(&path);
    let opened = Opened::of(&path);
    let found = impact_of(&opened, "license=nc");
    let [remark, ..] = found.remarks.as_slice() else { panic!("no remark") };
    assert!(remark.starts_with("1 row of copy/rows cannot be followed back"), "{remark}");
    // Where nothing falls above, nothing needs to be followed.
    assert!(impact_of(&opened, "license=gpl").remarks.is_empty());
}
