//! The recipe that comes with truing, its documentation, and recipes that are wrong.

use std::fs;
use std::path::Path;

use truing_annotate::{AnnotateConfig, ItemKind, Items};

use crate::setup::{TestClock, Workshop};

const QUESTION: &str = "[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n";

#[test]
fn the_recipe_that_comes_with_truing_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/annotate.toml");
    let config = AnnotateConfig::from_toml(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    config.check().unwrap();
    assert!(config.guidelines.as_ref().is_some_and(|path| path.is_file()));
    let items = Items::load(&config).unwrap();
    assert!(items.n_plain >= 4, "{}", items.n_plain);
    assert!(!items.of_kind(ItemKind::Gold).is_empty() && !items.of_kind(ItemKind::Attention).is_empty());
    let printed = AnnotateConfig::from_toml(&config.to_toml(), Path::new("printed.toml")).unwrap();
    assert_eq!(printed, config);
}

/// Every key of the settings has a row in the documentation.
#[test]
fn the_documentation_names_every_key() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/annotate.md");
    let page = fs::read_to_string(page).unwrap();
    let config = serde_json::to_value(schemars::schema_for!(AnnotateConfig)).unwrap();
    let tables = config["$defs"].as_object().unwrap();
    let own = ["KnownItems", "Adjudication", "PersonConfig", "Question"].map(|name| &tables[name]);
    for table in own.into_iter().chain([&config]) {
        for key in table["properties"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("| `{key}` |")), "docs/annotate.md has no row of `{key}`");
        }
    }
}

#[test]
fn tokens_are_not_written_to_the_folder() {
    let workshop = Workshop::new(QUESTION, &[serde_json::json!({"prompt": "x", "responses": ["a", "b"]})]);
    drop(workshop.start());
    for entry in fs::read_dir(workshop.path("project")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!fs::read_to_string(&path).unwrap().contains("the-token-of"), "{}", path.display());
    }
}

/// What the recipe with these keys and questions says when it is opened.
fn check(more: &str, expected: &str) {
    let items = [serde_json::json!({"id": 1, "prompt": "x", "responses": ["a", "b"]})];
    let workshop = Workshop::new(more, &items);
    let path = workshop.path("recipe.toml");
    let opened = match AnnotateConfig::from_toml(&fs::read_to_string(&path).unwrap(), &path) {
        Ok(_) => workshop.open(TestClock::begin().0).map(drop),
        Err(error) => Err(error),
    };
    let error = opened.expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}\nexpected: {expected}");
    assert!(!workshop.path("project").exists(), "nothing is begun");
}

#[test]
fn wrong_recipes_are_refused_by_key() {
    let question = |more: &str| format!("[[question]]\nname = \"q\"\n{more}\n");
    for (more, expected) in [
        (
            format!("overlapp = 1\n{QUESTION}"),
            "recipe.toml:6: unknown key `overlapp`; the nearest known key is `overlap`",
        ),
        (String::new(), "missing setting `question`"),
        (
            format!("overlap = 3\n{QUESTION}"),
            "`overlap` is 3: expected at most the number of [[annotator]] tables",
        ),
        (format!("overlap = 0\n{QUESTION}"), "`overlap` is 0: expected at least 1"),
        (format!("lease_secs = 0\n{QUESTION}"), "`lease_secs` is 0"),
        (format!("target_interval = 0.0\n{QUESTION}"), "`target_interval` is 0: expected a number above 0"),
        (
            format!("gold = {{ path = \"g\", share = 1.5 }}\n{QUESTION}"),
            "`gold.share` is 1.5: expected a share",
        ),
        (
            format!("adjudication = {{ max_scale_difference = -1 }}\n{QUESTION}"),
            "`adjudication.max_scale_difference` is -1: expected 0 or more",
        ),
        (format!("{QUESTION}{QUESTION}"), "`question.name` is `q` twice: expected different names"),
        (question("annotation_type = \"rank\""), "unknown variant `rank`"),
        (question("annotation_type = \"label\""), "(question `q`): expected at least two labels"),
        (
            question("annotation_type = \"scale\"\nmin = 5"),
            "from 5 to 5 (question `q`): expected `min` below `max`",
        ),
        (question("annotation_type = \"spans\"\nlabels = [\"a\", \"a\"]"), "expected different labels"),
        (question("annotation_type = \"pairwise\"\nlevels = \"ordinal\""), "unknown key `levels`"),
    ] {
        check(&more, expected);
    }
}

/// What a recipe with a change of its people says.
fn check_people(change: impl FnOnce(&mut AnnotateConfig), expected: &str) {
    let items = [serde_json::json!({"prompt": "x", "responses": ["a", "b"]})];
    let mut config = Workshop::new(QUESTION, &items).config();
    change(&mut config);
    let error = config.check().unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}\nexpected: {expected}");
}

#[test]
fn wrong_names_and_tokens_are_refused_by_their_own_key() {
    let short = || Some("short".to_owned());
    let of_5 = "is a token of 5 characters: ";
    check_people(|config| config.owner_token = short(), &format!("`owner_token` {of_5}"));
    check_people(|config| config.annotator[1].token = short(), &format!("`annotator.token` {of_5}"));
    check_people(|config| config.adjudicator[0].token = short(), &format!("`adjudicator.token` {of_5}"));
    check_people(|config| config.annotator[0].name = "owner".into(), "`annotator.name` is \"owner\": ");
    check_people(|config| config.adjudicator[0].name = " ".into(), "`adjudicator.name` is \" \": ");
    check_people(|config| config.adjudicator[0].name = "ana".into(), "`adjudicator.name` is `ana` twice: ");
}

#[test]
fn wrong_items_are_refused_by_line() {
    let row = |id: &str| serde_json::json!({"id": id, "prompt": "x", "responses": ["a", "b"]});
    let workshop = Workshop::new(QUESTION, &[row("1"), row("2"), row("1")]);
    let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
    assert!(error.contains("items.jsonl:3: `id` is `1`; expected another `id` than that of "), "{error}");
    assert!(error.contains("items.jsonl:1"), "{error}");
    let without = serde_json::json!({"id": 2, "responses": ["a", "b"]});
    for (rows, line) in [(vec![row("1"), without.clone()], 2), (vec![without], 1)] {
        workshop.write_rows("items.jsonl", &rows);
        let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
        assert!(error.contains(&format!("items.jsonl:{line}: `prompt` is missing")), "{error}");
    }
}
