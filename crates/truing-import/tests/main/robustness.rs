//! Damaged files give an error or a recipe, never a panic, and every recipe is TOML.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use truing_import::{Options, SourceStage, Tool, counterpart, import, keys_of};

use crate::documents::unknown_key;
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

/// A file is an error, or a recipe of TOML with keys that truing has. If it is whole, its report has all of its keys.
fn check(text: &str, options: &Options, is_whole: bool) {
    if let Ok(imported) = import(text, Path::new("x.yaml"), options) {
        let parsed: Result<toml::Table, _> = imported.recipe.parse();
        let recipe = match parsed {
            Ok(recipe) => recipe,
            Err(error) => panic!("{error}\n{}\n{text}", imported.recipe),
        };
        assert_eq!(unknown_key(imported.stage, &recipe), None, "{}\n{text}", imported.recipe);
        // Nothing is left out silently. Null is not set.
        for line in text.lines().filter(|line| is_whole && line.starts_with(|c: char| c.is_ascii_lowercase()))
        {
            let Some((key, value)) = line.split_once(": ") else { continue };
            let is_plain = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if !is_plain
                || matches!(value.trim(), "" | "~" | "null")
                || value.trim_start().starts_with(['#', '&', '*', '!', '{'])
            {
                continue;
            }
            let is_reported = imported.findings.iter().any(|finding| {
                finding
                    .key
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            assert!(is_reported, "`{key}` is not in the report:\n{imported}\n{text}");
        }
        let _ = (imported.to_string(), imported.to_json());
    }
}

fn any_options() -> impl Strategy<Value = Options> {
    let tools = prop::option::of(prop::sample::select(Tool::ALL.to_vec()));
    let stages = prop::option::of(prop::sample::select(SourceStage::ALL.map(|(_, stage)| stage).to_vec()));
    (tools, stages, prop_oneof![9 => 0_u64..9, 1 => any::<u64>()]).prop_map(|(tool, stage, processes)| {
        Options { tool, stage, processes, ..options(&folder().join("cases/llama_factory_sft")) }
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
        check(&lines.join("\n"), &options, true);
    }

    #[test]
    fn further_keys(
        case in any::<prop::sample::Index>(),
        added in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..5),
        mut options in any_options(),
    ) {
        let inputs = inputs();
        let mut text = inputs[case.index(inputs.len())].clone();
        options.tool = None;
        options.stage = None;
        let Ok(imported) = import(&text, Path::new("x.yaml"), &options) else { return Ok(()) };
        let keys: Vec<&str> = keys_of(imported.tool).filter(|key| !key.contains('.')).collect();
        for (at, value) in added {
            let Some(key) = keys.get(at.index(keys.len().max(1))) else { continue };
            if !text.lines().any(|line| line.starts_with(&format!("{key}:"))) {
                text.push_str(&format!("\n{key}: {value}\n"));
            }
        }
        check(&text, &options, true);
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
        // A text or a list may now go on over keys.
        check(&text.into_iter().collect::<String>(), &options, false);
    }

    #[test]
    fn any_text(text in "\\PC{0,60}", options in any_options()) {
        check(&text, &options, false);
        let _ = counterpart(&text).map(|found| (found.to_string(), found.meaning(), found.key()));
    }
}
