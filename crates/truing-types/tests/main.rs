//! The layers of the workspace, checked against `cargo metadata`: dependencies point down only.
//!
//! It lives in the lowest crate because it belongs to no other: it reads manifests, and of the code what must be in
//! no library.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace and its layer. A crate may depend on crates of lower layers.
const LAYERS: &[(&str, u8)] = &[
    ("truing", 9),
    ("truing-construct", 8),
    ("truing-evaluate", 8),
    ("truing-annotate", 8),
    ("truing-pipeline", 8),
    ("truing-stages", 7),
    ("truing-serve", 7),
    ("truing-report", 6),
    ("truing-predict", 6),
    ("truing-ask", 5),
    ("truing-eval", 5),
    ("truing-run", 4),
    ("truing-train", 3),
    ("truing-generate", 3),
    ("truing-reward", 3),
    ("truing-client", 2),
    ("truing-conformance", 2),
    ("truing-cpu", 2),
    ("truing-data", 2),
    ("truing-prompts", 2),
    ("truing-text", 2),
    ("truing-torch", 2),
    ("truing-model", 1),
    ("truing-import", 1),
    ("truing-kernels", 1),
    ("truing-parallel", 1),
    ("truing-statistics", 1),
    ("truing-store", 1),
    ("truing-types", 0),
];

/// The edges allowed inside a layer, each with its reason.
const NEIGHBOURS: &[(&str, &str, &str)] =
    &[("truing-model", "truing-store", "weights are cached and written through the store's atomic files")];

/// What talks to a person or decides about the process. Only the binary does.
const BINARY_ONLY: &[&str] = &["clap", "indicatif", "ctrlc", "anyhow"];

/// Where a crate is in [`LAYERS`].
fn layer_of(name: &str) -> Option<u8> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|&(_, layer)| layer)
}

/// What is wrong with the edge from crate `from` to crate `to`, if anything.
fn edge_error(from: &str, to: &str) -> Option<String> {
    if BINARY_ONLY.contains(&to) && from != "truing" {
        return Some(format!("{from} depends on {to}, which only the binary `truing` may know"));
    }
    let (from_layer, to_layer) = (layer_of(from)?, layer_of(to)?);
    let is_neighbour = NEIGHBOURS.iter().any(|&(a, b, _)| (a, b) == (from, to));
    (to_layer >= from_layer && !is_neighbour).then(|| {
        format!("{from} (layer {from_layer}) depends on {to} (layer {to_layer}), which is not below it")
    })
}

/// Each crate of the workspace with the names of its normal and build dependencies.
fn workspace_dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("a package lists its dependencies");
            let names = dependencies
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| dependency["name"].as_str().expect("a dependency has a name").to_owned())
                .collect();
            (package["name"].as_str().expect("a package has a name").to_owned(), names)
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let workspace = workspace_dependencies();
    let mut errors: Vec<String> = workspace
        .keys()
        .filter(|name| layer_of(name).is_none())
        .map(|name| format!("{name} has no layer: add it to LAYERS in {}", file!()))
        .collect();
    for (from, dependencies) in &workspace {
        errors.extend(dependencies.iter().filter_map(|to| edge_error(from, to)));
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn the_table_names_only_crates_that_exist() {
    let workspace = workspace_dependencies();
    let missing: Vec<_> = LAYERS.iter().filter(|(name, _)| !workspace.contains_key(*name)).collect();
    assert!(missing.is_empty(), "in LAYERS, but not in the workspace: {missing:?}");
}

#[test]
fn a_wrong_edge_is_named() {
    let check = |from, to, expect: Option<&str>| assert_eq!(edge_error(from, to).as_deref(), expect);
    check("truing-train", "truing-model", None);
    check("truing-model", "truing-store", None);
    check(
        "truing-store",
        "truing-model",
        Some("truing-store (layer 1) depends on truing-model (layer 1), which is not below it"),
    );
    check(
        "truing-text",
        "truing-train",
        Some("truing-text (layer 2) depends on truing-train (layer 3), which is not below it"),
    );
    check(
        "truing-stages",
        "clap",
        Some("truing-stages depends on clap, which only the binary `truing` may know"),
    );
    check("truing", "clap", None);
}

/// The source files of every crate: the crate's name, the path below its `src/`, the text.
fn sources() -> Vec<(String, String, String)> {
    fn walk(crate_name: &str, root: &Path, directory: &Path, found: &mut Vec<(String, String, String)>) {
        for entry in fs::read_dir(directory).expect("a source directory") {
            let path = entry.expect("an entry of a source directory").path();
            if path.is_dir() {
                walk(crate_name, root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                found.push((crate_name.to_owned(), place, fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    let mut found = Vec::new();
    for (name, _) in LAYERS {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
        walk(name, &root, &root, &mut found);
    }
    assert!(found.len() > 300, "{}", found.len());
    found
}

/// Places where libraries may look at what they are not given, each with its reason.
const LOOKS_OUTSIDE: &[(&str, &str, &str)] = &[
    ("truing-kernels", "rate.rs", "measures the machine's rate"),
    (
        "truing-reward",
        "sandbox/",
        "ends programs by the wall clock, and sets its own child's working directory",
    ),
    ("truing-reward", "bin/", "is a program of its own, for tests"),
    ("truing-construct", "bin/", "is a program of its own, for tests"),
    ("truing-reward", "verifiers/code/", "finds the interpreter through `PATH`"),
    ("truing-client", "exchange.rs", "ends the wait for a silent server after a stop"),
];

#[test]
fn libraries_read_no_environment_no_clock_and_no_file_of_another_crate() {
    let looks = ["std::env::", "env::var", "env::args", "current_exe", "Instant::now", "SystemTime::now"];
    let mut errors = Vec::new();
    for (name, place, text) in sources() {
        let is_excused = LOOKS_OUTSIDE.iter().any(|(of, path, _)| *of == name && place.starts_with(path));
        // Tests of a module may.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if name != "truing" && !is_excused && looks.iter().any(|look| line.contains(look)) {
                errors.push(format!("{name}/src/{place}: {}", line.trim()));
            }
            let included =
                line.split_once("include_str!(\"").or_else(|| line.split_once("include_bytes!(\""));
            if let Some((_, path)) = included
                && path.starts_with("../../")
                && !["/quickstart/", "/recipes/"].iter().any(|shared| path.contains(shared))
            {
                errors.push(format!("{name}/src/{place} includes a file of another crate: {}", line.trim()));
            }
        }
    }
    assert!(errors.is_empty(), "\n{}", errors.join("\n"));
}

#[test]
fn unsafe_code_is_where_the_architecture_says() {
    let architecture =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md"));
    let architecture = architecture.unwrap();
    assert!(
        architecture.contains("`unsafe` code is in three places: `truing-kernels`"),
        "the statement moved"
    );
    let is_there = |name: &str, place: &str| {
        name == "truing-kernels"
            || name == "truing-reward" && place.starts_with("sandbox/")
            || name == "truing-torch" && place.starts_with("ffi/")
    };
    for (name, place, text) in sources() {
        let has_unsafe = text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
            ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "]
                .iter()
                .any(|word| line.contains(word))
        });
        assert!(!has_unsafe || is_there(&name, &place), "{name}/src/{place}");
    }
}
