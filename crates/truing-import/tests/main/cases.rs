//! A file of each tool and stage: the recipe and the report, word for word.
//!
//! `TRUING_WRITE_REFERENCE=1 cargo test -p truing-import` writes them anew; a change of them is to be read like one of
//! the code.

use std::fs;

use truing_import::{Imported, Kind, SourceStage, Tool, import};

use crate::{folder, options};

/// The cases: a folder each, with `input.yaml`, `recipe.toml` and `report.txt`.
pub(crate) fn all() -> Vec<(String, Imported)> {
    let mut folders: Vec<_> = fs::read_dir(folder().join("cases"))
        .expect("the files of the tests are there")
        .map(|entry| entry.expect("the files of the tests are there").path())
        .collect();
    folders.sort();
    folders
        .into_iter()
        .map(|folder| {
            let name =
                folder.file_name().expect("the files of the tests are there").to_string_lossy().into_owned();
            let path = folder.join("input.yaml");
            let text = fs::read_to_string(&path).expect("the files of the tests are there");
            let imported =
                import(&text, &path, &options(&folder)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, imported)
        })
        .collect()
}

#[test]
fn recipes_and_reports_are_as_written() {
    let mut differing = Vec::new();
    for (name, imported) in all() {
        let folder = folder().join("cases").join(&name);
        for (file, text) in
            [("recipe.toml", imported.recipe.clone()), ("report.txt", format!("{imported}\n"))]
        {
            let path = folder.join(file);
            if std::env::var_os("TRUING_WRITE_REFERENCE").is_some() {
                fs::write(&path, text).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != text {
                differing.push(format!("{name}/{file}"));
            }
        }
    }
    assert!(differing.is_empty(), "TRUING_WRITE_REFERENCE=1 writes them anew: {differing:?}");
}

#[test]
fn every_key_of_a_file_is_in_its_report() {
    for (name, imported) in all() {
        let text = fs::read_to_string(folder().join("cases").join(&name).join("input.yaml")).unwrap();
        for key in text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())) {
            let (key, value) = key.split_once(':').unwrap();
            // Null is not set. The keys of tables that are opened have dots.
            let value = value.trim();
            let is_reported = |found: &str| found == key || found.starts_with(&format!("{key}."));
            let is_reported = imported.findings.iter().any(|finding| is_reported(&finding.key));
            assert!(value == "null" || is_reported, "{name}: `{key}` is not in the report");
        }
    }
}

#[test]
fn slips_and_what_is_missing_come_first() {
    for (name, imported) in all() {
        let kinds: Vec<Kind> = imported.findings.iter().map(|finding| finding.kind).collect();
        assert!(kinds.is_sorted(), "{name}");
        let json = imported.to_json();
        let n: usize = Kind::ALL.iter().map(|kind| json[kind.name()].as_array().unwrap().len()).sum();
        assert_eq!(n, imported.findings.len(), "{name}");
    }
}

#[test]
fn paths_are_relative_to_the_recipe() {
    let own = folder().join("cases/llama_factory_sft");
    let text = fs::read_to_string(own.join("input.yaml")).unwrap();
    // The tool ran elsewhere: its data are found beside the YAML, and its output is where it ran.
    let mut options = options(&own);
    options.working_folder = folder();
    options.recipe_folder = folder().join("recipes");
    let imported = import(&text, &own.join("input.yaml"), &options).unwrap();
    for line in
        ["path = \"../cases/llama_factory_sft/lists/chats.jsonl\"", "output_dir = \"../saves/sft/lora\""]
    {
        assert!(imported.recipe.contains(line), "{line} is not in\n{}", imported.recipe);
    }
}

#[test]
fn processes_count_in_a_step() {
    let own = folder().join("cases/trl_dpo");
    let text = fs::read_to_string(own.join("input.yaml")).unwrap();
    let mut options = options(&own);
    options.processes = 4;
    let imported = import(&text, &own.join("input.yaml"), &options).unwrap();
    assert!(imported.recipe.contains("packs_per_step = 64 "), "{}", imported.recipe);
}

#[test]
fn a_tracker_and_an_upload_are_said_and_what_every_run_writes_is_not() {
    let kinds = |lines: &str| {
        let yaml = format!("model_name_or_path: a\ndataset_name: b\nmax_length: 64\n{lines}");
        let mut options = options(&folder());
        options.tool = Some(Tool::Trl);
        options.stage = Some(SourceStage::Sft);
        let imported = import(&yaml, &folder().join("input.yaml"), &options).unwrap();
        let own = ["report_to", "push_to_hub", "hub_model_id"];
        let found = imported.findings.iter().filter(|finding| own.contains(&finding.key.as_str()));
        found.map(|finding| (finding.kind, finding.text.clone())).collect::<Vec<_>>()
    };
    for lines in ["report_to: wandb", "report_to: [tensorboard, wandb]"] {
        let found = kinds(lines);
        let [(kind, text)] = &found[..] else { panic!("{lines}: {found:?}") };
        assert_eq!(*kind, Kind::NoCounterpart, "{lines}");
        assert!(text.contains("`--metrics-command`"), "{text}");
    }
    for lines in
        ["report_to: none", "report_to: tensorboard", "report_to: [tensorboard]", "push_to_hub: false"]
    {
        assert_eq!(kinds(lines)[0].0, Kind::NotNeeded, "{lines}");
    }
    let upload = kinds("push_to_hub: true\nhub_model_id: me/mine");
    let kinds_of: Vec<Kind> = upload.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds_of, [Kind::NoCounterpart, Kind::NotNeeded]);
    assert!(upload[0].1.contains("nothing is uploaded"), "{}", upload[0].1);
}
