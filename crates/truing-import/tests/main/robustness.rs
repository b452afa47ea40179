//! Damaged files give an error or a recipe, never a panic, and every recipe is TOML.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use truing_import::{Options, SourceStage, Tool, counterpart, import};

use crate::{folder, options};

fn inputs() -> Vec<String> {
    let folders = fs::read_dir(folder().join("cases")).expect("the files of the tests are there");
    folders
        .map(|entry| {
            fs::read_to_string(entry.expect("the files of the tests are there").path().join("input.yaml"))
                .expect("the files of the tests are there")
        })
        .collect()
}

fn check(text: &str, options: &Options) {
    if let Ok(imported) = import(text, Path::new("x.yaml"), options) {
        let parsed: Result<toml::Table, _> = imported.recipe.parse();
        assert!(parsed.is_ok(), "{parsed:?}\n{}\n{text}", imported.recipe);
        let _ = (imported.to_string(), imported.to_json());
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    let tools = prop::option::of(prop::sample::select(Tool::ALL.to_vec()));
    let stages = prop::option::of(prop::sample::select(SourceStage::ALL.map(|(_, stage)| stage).to_vec()));
    (tools, stages, any::<u64>()).prop_map(|(tool, stage, processes)| Options {
        tool,
        stage,
        processes,
        ..options(&folder().join("cases/llama_factory_sft"))
    })
}

/// Values that a key may not expect.
fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "~",
        "yes",
        "-1",
        "0",
        "1",
        "1e-5",
        "1e999",
        ".nan",
        ".inf",
        "99999999999999999999",
        "9223372036854775807",
        "[]",
        "{}",
        "[1, 2]",
        "[[]]",
        "{a: 1}",
        "{path: a}",
        "[{path: a, type: {format: b}}]",
        "text",
        "\"\\u0000\\n\"",
        "org/name",
        "/",
        "~/",
        "..",
        "😀",
        "\"''\"",
        "'\"'",
        "simpo",
        "steps",
        "${a}",
        "2024-01-01",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_values(
        case in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..6),
        options in any_options(),
    ) {
        let inputs = inputs();
        let mut lines: Vec<String> = inputs[case.index(inputs.len())].lines().map(str::to_owned).collect();
        for (at, value) in changes {
            let at = at.index(lines.len());
            if let Some((key, _)) = lines[at].split_once(':') {
                lines[at] = format!("{key}: {value}");
            }
        }
        check(&lines.join("\n"), &options);
    }

    #[test]
    fn damaged_texts(
        case in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        n_cut in 0_usize..20,
        inserted in "[ -~\\n\\t&*!{}\\[\\]:#|>'\"%@`é😀]{0,8}",
        options in any_options(),
    ) {
        let inputs = inputs();
        let mut text: Vec<char> = inputs[case.index(inputs.len())].chars().collect();
        let at = at.index(text.len());
        let end = (at + n_cut).min(text.len());
        text.splice(at..end, inserted.chars());
        check(&text.into_iter().collect::<String>(), &options);
    }

    #[test]
    fn any_text(text in "\\PC{0,60}", options in any_options()) {
        check(&text, &options);
        let _ = counterpart(&text).map(|found| (found.to_string(), found.meaning(), found.key()));
    }
}
