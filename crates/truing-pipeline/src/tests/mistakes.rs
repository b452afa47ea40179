//! Mistakes in a recipe are found before anything runs, with file, line and stage.

use std::fs;

use truing_types::with_causes;

use super::Workshop;

#[track_caller]
fn check(recipe: &str, expected: &str) {
    let workshop = Workshop::new(recipe);
    let error = match workshop.plan() {
        Ok(_) => panic!("expected: {expected}"),
        Err(error) => with_causes(&error),
    };
    assert!(error.contains(expected), "found: {error}\nexpected: {expected}");
    assert!(!workshop.path(".truing").exists());
}

#[test]
fn a_cycle_is_printed() {
    let stage = |name: &str, needs: &str| {
        format!("[stages.{name}]\nuses = \"mix\"\nwith = {{ from = [\"${{stages.{needs}.out}}\"] }}\n")
    };
    let text = [stage("a", "c"), stage("b", "a"), stage("c", "b")].concat();
    check(&text, "pipe.toml:1: stages need each other: a -> c -> b -> a");
    check("[stages.a]\nuses = \"mix\"\nneeds = [\"a\"]\n", "pipe.toml:1: stages need each other: a -> a");
}

#[test]
fn names_that_do_not_exist_have_the_nearest_one() {
    check(
        "[stages.a]\nuses = \"mox\"\n",
        "pipe.toml:2: stage `a`: unknown kind of stage `mox`: the nearest name is `mix`",
    );
    let text = "[stages.alpha]\nuses = \"mix\"\n[stages.b]\nuses = \"mix\"\n";
    check(
        &format!("{text}with = {{ from = [\"${{stages.alfa.out}}\"] }}\n"),
        "pipe.toml:5: stage `b`: there is no stage `alfa`: the nearest name is `alpha`",
    );
    check(
        &format!("{text}\nwith.value = 1\nwith.from = [\"${{stages.alpha.outs}}\"]\n"),
        "pipe.toml:7: stage `b`: stage `alpha` has no output `outs`: the nearest name is `out`",
    );
    check(&format!("{text}needs = [\"x\"]\n"), "pipe.toml:5: stage `b`: there is no stage `x`");
    check("[stages.a]\nuse = \"mix\"\n", "pipe.toml:2: unknown key `use`; the nearest known key is `uses`");
    check(
        "[stages.a]\nuses = \"mix\"\n[stages.a.with]\nvalue = 1\nvalu = 2\n",
        "stage `a`: pipe.toml:5: unknown key `valu`; the nearest known key is `value`",
    );
}

#[test]
fn other_mistakes_name_their_line() {
    check("[stages.a]\nuses = \"mix\"\n[stages.a]\nuses = \"mix\"\n", "pipe.toml:3: duplicate key");
    check(
        "[stages.a]\nuses = \"mix\"\nwith = { from = [\"no.txt\"] }\n",
        "pipe.toml:3: stage `a`: `from.0`: there is no file or folder",
    );
    check(
        "[stages.a]\nuses = \"mix\"\nwith = { from = [\"${stages.b\"] }\n",
        "pipe.toml:3: stage `a`: `${stages.b` is no reference: expected `${stages.NAME.OUTPUT}`",
    );
    check(
        "[stages.\"a b\"]\nuses = \"mix\"\n",
        "pipe.toml:1: stage `a b`: expected a name of letters, digits, `_` and `-`",
    );
    check(
        "[stages.a]\nuses = \"command\"\nwith = { command = [\"x\"], outputs = { y = \"../z\" } }\n",
        "pipe.toml:3: stage `a`: `../z`: expected a path below the folder for the results",
    );
    check("[stages.a]\nuses = \"gate\"\nwith = {}\n", "pipe.toml:3: stage `a`: missing field `file`");
    check(
        "[stages.a]\nuses = \"gate\"\nwith = { file = \"${stages.b.out}\" }\n",
        "pipe.toml:3: stage `a`: a gate waits for a file from people: expected a path without references",
    );
    for name in ["", "a/b", "..", ".hidden"] {
        check(
            &format!("[pipeline]\nname = \"{name}\"\n"),
            &format!("pipe.toml:2: the pipeline's name `{name}`: expected the name of a folder"),
        );
    }
    check("[stages.a]\nuses = \"mix\"\nrecipe = \"none.toml\"\n", "cannot read none.toml");
}

#[test]
fn a_lock_file_of_a_newer_version_is_refused_and_a_damaged_one_names_its_line() {
    let workshop = Workshop::new("[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n");
    workshop.write("truing.lock", "version = 2\n[unknown]\n");
    let error = workshop.plan().err().unwrap().to_string();
    assert!(error.contains("truing.lock has version 2, expected at most 1"), "{error}");
    workshop.write("truing.lock", "version = 1\n<<<<<<< ours\n");
    let error = workshop.plan().err().unwrap().to_string();
    assert!(error.contains("truing.lock: line 2: "), "{error}");
    assert_eq!(fs::read_to_string(workshop.path("truing.lock")).unwrap(), "version = 1\n<<<<<<< ours\n");
}

#[test]
#[cfg(unix)]
fn a_file_in_the_place_of_a_link_is_an_error_before_a_stage_runs() {
    let workshop = Workshop::new("[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n");
    fs::create_dir_all(workshop.path("pipeline-out/pipe/a")).unwrap();
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    let options = crate::ApplyOptions { jobs: 1, stop: &workshop.stop };
    let error = crate::apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap_err();
    assert!(error.to_string().contains("is in the way: expected a link or nothing there"), "{error}");
    assert!(workshop.fake.take_ran().is_empty());
}
