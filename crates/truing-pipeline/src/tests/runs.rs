//! Pipelines that are applied: what waits, fails, changes during the run, is shared, and is removed.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use super::{Workshop, digests_of};
use crate::{GarbageOptions, Store, collect_garbage};

const CHAIN: &str = "[stages.a]\nuses = \"mix\"\nwith = { value = 1, from = [\"rows.txt\"] }\n\
                     [stages.b]\nuses = \"mix\"\nwith = { value = 2, from = [\"${stages.a.out}\"] }\n\
                     [stages.c]\nuses = \"mix\"\nwith = { value = 3 }\n";

fn chain() -> Workshop {
    let workshop = Workshop::new(CHAIN);
    workshop.write("rows.txt", "one");
    workshop
}

#[test]
fn the_plan_says_what_runs_and_the_one_thing_that_changed() {
    let workshop = chain();
    assert_eq!(workshop.states(), ["a to_run new", "b to_run new", "c to_run new"]);
    assert!(
        !workshop.path(".truing").exists() && !workshop.path("truing.lock").exists(),
        "a plan writes nothing"
    );
    assert_eq!(workshop.apply(1).1, ["a", "b", "c"]);
    assert_eq!(workshop.states(), ["a up_to_date", "b up_to_date", "c up_to_date"]);
    workshop.write("rows.txt", "two");
    let states = workshop.states();
    assert!(states[0].starts_with("a to_run from.0: rows.txt has changed ("), "{states:?}");
    assert!(states[1].starts_with("b to_run from.0: stages.a.out has changed ("), "{states:?}");
    assert_eq!(states[2], "c up_to_date");
    workshop.write("rows.txt", "one");
    workshop.write("pipe.toml", &CHAIN.replace("value = 2", "value = 5"));
    assert_eq!(workshop.states(), ["a up_to_date", "b to_run value: 2 -> 5", "c up_to_date"]);
    let before = fs::read_to_string(workshop.path("truing.lock")).unwrap();
    assert_eq!(workshop.apply(1).1, ["b"]);
    // With the earlier recipe the result is in the store, and the lock file is as it was then.
    workshop.write("pipe.toml", CHAIN);
    assert_eq!(workshop.states()[1], "b in_store value: 5 -> 2");
    let (applied, ran) = workshop.apply(1);
    assert_eq!((applied.reused, ran), (vec!["b".to_owned()], Vec::new()));
    assert_eq!(fs::read_to_string(workshop.path("truing.lock")).unwrap(), before);
}

#[test]
fn another_program_runs_its_own_stages_again() {
    let mut workshop = chain();
    workshop.apply(1);
    workshop.fake.program = "fake 2".into();
    assert_eq!(workshop.states()[2], "c to_run program: fake 1 -> fake 2");
    assert_eq!(workshop.apply(1).1, ["a", "b", "c"]);
}

#[test]
fn a_stage_that_fails_leaves_the_others_to_finish() {
    let workshop = chain();
    workshop.fake.leave_pieces(2);
    let (applied, ran) = workshop.apply(1);
    assert_eq!(ran, ["a", "c"]);
    assert_eq!(applied.failed["a"], "no pieces are left");
    assert_eq!(applied.not_run["b"], "a");
    assert!(workshop.lock().pipelines.is_empty());
    workshop.fake.leave_pieces(3);
    assert_eq!(workshop.states()[0], "a to_continue new");
    // One piece of `a` was left to write, and two are left of the three.
    let (applied, _) = workshop.apply(1);
    assert_eq!((applied.ran, applied.failed.len()), (vec!["a".to_owned()], 2));
}

#[test]
fn a_stop_from_outside_starts_nothing_more_and_the_next_apply_continues() {
    let workshop = chain();
    workshop.stop.store(true, Ordering::SeqCst);
    let (applied, ran) = workshop.apply(2);
    assert!(applied.is_interrupted && ran.is_empty(), "{applied:?}");
    workshop.stop.store(false, Ordering::SeqCst);
    assert_eq!(workshop.apply(2).0.ran, ["a", "b", "c"]);
}

#[test]
fn data_that_changes_while_a_stage_runs_makes_no_result() {
    let mut workshop = chain();
    let rows = workshop.path("rows.txt");
    workshop.fake.on_run = Box::new(move |stage| {
        if stage == "a" {
            fs::write(&rows, "changed on the way").unwrap();
        }
    });
    let (applied, _) = workshop.apply(1);
    assert!(
        applied.failed["a"].contains("rows.txt changed while it ran; the result is not used"),
        "{applied:?}"
    );
    assert_eq!((applied.ran, applied.not_run["b"].as_str()), (vec!["c".to_owned()], "a"));
    workshop.fake.on_run = Box::new(|_| {});
    assert_eq!(workshop.apply(1).0.ran, ["a", "b"]);
}

#[test]
#[cfg(unix)]
fn a_gate_waits_for_its_file_and_continues_when_it_is_there() {
    let recipe = "[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n\
                  [stages.review]\nuses = \"gate\"\nneeds = [\"a\"]\n\
                  with = { file = \"answers/review.txt\", message = \"read it\" }\n\
                  [stages.b]\nuses = \"mix\"\nwith = { from = [\"${stages.review.file}\"] }\n";
    let workshop = Workshop::new(recipe);
    let (applied, ran) = workshop.apply(1);
    assert_eq!(ran, ["a"]);
    assert_eq!(applied.waiting["review"], workshop.path("answers/review.txt"));
    assert_eq!(applied.not_run["b"], "review");
    assert_eq!(workshop.states()[1..], ["review waiting", "b blocked"]);
    fs::create_dir(workshop.path("answers")).unwrap();
    workshop.write("answers/review.txt", "good");
    assert_eq!(workshop.apply(1).1, ["b"]);
    assert_eq!(workshop.output("b"), super::pieces("", &["good".to_owned()]).concat());
    workshop.write("pipe.toml", &recipe.replace("value = 1", "value = 2"));
    let (_, plan, _, _) = workshop.plan().unwrap();
    assert_eq!(plan.stages[1].remark.as_deref(), Some("a changed, and the file is unchanged"));
}

#[test]
#[cfg(unix)]
fn a_command_has_inputs_and_outputs_and_runs_again_when_an_input_changes() {
    let recipe = "[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n[stages.copy]\nuses = \"command\"\n\
                  with = { command = [\"copy\", \"${stages.a.out}\", \"${output}/rows.txt\"], inputs = [\"tool.py\"], \
                  outputs = { rows = \"rows.txt\" } }\n\
                  [stages.b]\nuses = \"mix\"\nwith = { from = [\"${stages.copy.rows}\"] }\n";
    let workshop = Workshop::new(recipe);
    workshop.write("tool.py", "1");
    assert_eq!(workshop.apply(1).1, ["a", "copy", "b"]);
    let copied = workshop.path("pipeline-out/pipe/copy/rows.txt");
    assert_eq!(fs::read_to_string(copied).unwrap(), workshop.output("a"));
    workshop.write("tool.py", "2");
    assert_eq!(workshop.apply(1).1, ["copy", "b"]);
    workshop.write(
        "pipe.toml",
        &recipe.replace("\"copy\", \"${stages.a.out}\", \"${output}/rows.txt\"", "\"nothing\""),
    );
    let (applied, _) = workshop.apply(1);
    assert_eq!(applied.failed["copy"], "it left none of its outputs: expected rows.txt");
}

#[test]
#[cfg(unix)]
fn gates_with_files_of_equal_content_have_keys_of_their_own() {
    let gate =
        |name: &str| format!("[stages.{name}]\nuses = \"gate\"\nwith = {{ file = \"{name}/{name}.txt\" }}\n");
    let copy = "[stages.copy]\nuses = \"command\"\nwith = { command = [\"copy\", \"${stages.two.file}\", \
                \"${output}/rows.txt\"], outputs = { rows = \"rows.txt\" } }\n";
    let workshop = Workshop::new(&[gate("one"), gate("two"), copy.to_owned()].concat());
    for name in ["one", "two"] {
        fs::create_dir(workshop.path(name)).unwrap();
        workshop.write(&format!("{name}/{name}.txt"), "good");
    }
    let (applied, ran) = workshop.apply(1);
    assert_eq!((applied.failed.len(), ran), (0, vec!["copy".to_owned()]), "{applied:?}");
    let lock = workshop.lock();
    assert_ne!(lock.stage("pipe", "one").unwrap().key, lock.stage("pipe", "two").unwrap().key);
}

#[test]
fn a_gate_s_file_that_changes_while_a_stage_reads_it_makes_no_result() {
    let recipe = "[stages.review]\nuses = \"gate\"\nwith = { file = \"review.txt\" }\n\
                  [stages.reads]\nuses = \"mix\"\nwith = { from = [\"${stages.review.file}\"] }\n\
                  [stages.comes_later]\nuses = \"mix\"\nneeds = [\"review\"]\nwith = { value = 1 }\n";
    let mut workshop = Workshop::new(recipe);
    workshop.write("review.txt", "good");
    let review = workshop.path("review.txt");
    workshop.fake.on_run = Box::new(move |_| fs::write(&review, "changed on the way").unwrap());
    let (applied, _) = workshop.apply(1);
    assert!(applied.failed["reads"].contains("review.txt changed while it ran"), "{applied:?}");
    assert_eq!(applied.ran, ["comes_later"], "it reads nothing of the gate");
    workshop.fake.on_run = Box::new(|_| {});
    assert!(workshop.apply(1).0.ran.contains(&"reads".to_owned()));
}

#[test]
fn a_file_that_changed_since_the_plan_starts_no_stage() {
    let workshop = chain();
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    workshop.write("rows.txt", "two");
    let options = crate::ApplyOptions { jobs: 1, stop: &workshop.stop };
    let applied = crate::apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    assert!(applied.failed["a"].ends_with("rows.txt changed since the plan was made"), "{applied:?}");
    assert_eq!(workshop.fake.take_ran(), ["c"]);
}

#[test]
fn a_command_leaves_all_its_outputs_and_every_file_of_its_inputs_counts() {
    let recipe = "[stages.copy]\nuses = \"command\"\n\
                  with = { command = [\"copy\", \"tools/rules.jsonl\", \"${output}/rows.txt\"], \
                  inputs = [\"tools\"], outputs = { rows = \"rows.txt\" } }\n";
    let workshop = Workshop::new(recipe);
    fs::create_dir(workshop.path("tools")).unwrap();
    workshop.write("tools/rules.jsonl", "{}");
    workshop.write("tools/convert.py", "1");
    assert_eq!(workshop.apply(1).1, ["copy"]);
    workshop.write("tools/convert.py", "2");
    assert_eq!(workshop.apply(1).1, ["copy"]);
    workshop.write(
        "pipe.toml",
        &recipe.replace("rows = \"rows.txt\" }", "rows = \"rows.txt\", log = \"log.txt\" }"),
    );
    let (applied, _) = workshop.apply(1);
    assert_eq!(applied.failed["copy"], "it did not leave its output `log`: expected log.txt");
}

#[test]
fn names_of_stages_decide_nothing_and_a_stage_that_is_gone_leaves_the_lock_file() {
    let workshop = chain();
    workshop.apply(1);
    let needing = CHAIN.replace("[stages.c]", "[stages.c]\nneeds = [\"a\"]");
    workshop.write("pipe.toml", &needing);
    workshop.apply(1);
    let renamed = needing.replace("[stages.a]", "[stages.z]").replace("[\"a\"]", "[\"z\"]");
    workshop.write("pipe.toml", &renamed.replace("stages.a.out", "stages.z.out"));
    assert_eq!(workshop.states(), ["z in_store new", "b up_to_date", "c up_to_date"]);
    workshop.write("pipe.toml", &CHAIN[CHAIN.find("[stages.c]").unwrap()..]);
    assert_eq!(workshop.apply(1).1, Vec::<String>::new(), "the first result of `c` is in the store");
    assert_eq!(workshop.lock().pipelines["pipe"].keys().collect::<Vec<_>>(), ["c"]);
}

#[test]
#[cfg(unix)]
fn a_second_copy_of_a_folder_is_known_to_the_store_though_nothing_runs() {
    let shared = tempfile::tempdir().unwrap();
    let recipe = format!("[pipeline]\nstore = \"{}\"\n{CHAIN}", shared.path().display());
    let (first, second) = (Workshop::new(&recipe), Workshop::new(&recipe));
    first.write("rows.txt", "one");
    second.write("rows.txt", "one");
    first.apply(1);
    fs::copy(first.path("truing.lock"), second.path("truing.lock")).unwrap();
    let (applied, ran) = second.apply(1);
    assert_eq!((applied.up_to_date.len(), ran.len()), (3, 0));
    assert_eq!(second.output("b"), first.output("b"), "the links are made");
    // The first folder goes: what the second one names stays.
    fs::remove_file(first.path("truing.lock")).unwrap();
    let collected =
        collect_garbage(&Store::at(shared.path()), GarbageOptions::default(), UNIX_EPOCH).unwrap();
    assert_eq!((collected.removed.len(), collected.n_kept, collected.gone.len()), (0, 3, 1));
}

#[test]
fn a_result_that_was_removed_since_the_plan_is_made_again() {
    let workshop = chain();
    workshop.apply(1);
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    let key = workshop.lock().stage("pipe", "c").unwrap().key;
    store.discard(key).unwrap();
    let options = crate::ApplyOptions { jobs: 1, stop: &workshop.stop };
    let applied = crate::apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    assert_eq!(applied.ran, ["c"]);
}

#[test]
fn a_damaged_result_is_found_and_made_again() {
    let workshop = chain();
    workshop.apply(1);
    let expected = digests_of(&workshop.lock());
    let key = workshop.lock().stage("pipe", "a").unwrap().key;
    let out = Store::at(&workshop.path(".truing/store")).run_folder(key).join("out.txt");
    fs::write(&out, "damaged").unwrap();
    assert_eq!(
        workshop.states()[0],
        "a to_run its result in the store is damaged: `out` (out.txt) has changed"
    );
    assert_eq!(workshop.apply(1).1, ["a"]);
    assert_eq!(digests_of(&workshop.lock()), expected);
    fs::remove_file(&out).unwrap();
    assert!(workshop.states()[0].ends_with("`out` (out.txt) is missing"), "{:?}", workshop.states());
    assert_eq!(workshop.apply(1).1, ["a"]);
}

#[test]
fn a_result_of_a_newer_version_is_refused_and_stays() {
    let workshop = chain();
    workshop.apply(1);
    let key = workshop.lock().stage("pipe", "a").unwrap().key;
    let done = Store::at(&workshop.path(".truing/store")).entry(key).join("done.json");
    fs::write(&done, "{\"format_version\": 2, \"new\": true}").unwrap();
    let error = workshop.plan().err().unwrap().to_string();
    assert!(error.ends_with("done.json` has format version 2, expected 1"), "{error}");
    assert!(done.is_file());
}

#[test]
fn two_pipelines_on_one_store_make_each_result_once() {
    let shared = tempfile::tempdir().unwrap();
    let recipe = format!("[pipeline]\nstore = \"{}\"\n{CHAIN}", shared.path().display());
    let workshops: Vec<Workshop> = (0..3).map(|_| Workshop::new(&recipe)).collect();
    workshops.iter().for_each(|workshop| workshop.write("rows.txt", "one"));
    let ran: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = workshops.iter().map(|workshop| scope.spawn(|| workshop.apply(2).1)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = ran.concat();
    all.sort();
    assert_eq!(all, ["a", "b", "c"]);
    assert!(workshops.iter().all(|workshop| workshop.lock() == workshops[0].lock()));
    assert_eq!(workshops[0].lock().keys().len(), 3);
}

#[test]
fn what_a_lock_names_stays_and_the_rest_is_removed() {
    let workshop = chain();
    workshop.apply(1);
    workshop.write("rows.txt", "two");
    workshop.apply(1);
    let store = Store::at(&workshop.path(".truing/store"));
    let collect = |is_dry_run| {
        let options = GarbageOptions { is_dry_run, ..GarbageOptions::default() };
        let collected = collect_garbage(&store, options, UNIX_EPOCH).unwrap();
        (collected.removed.len(), collected.n_kept)
    };
    assert_eq!(collect(true), (2, 3));
    assert_eq!(collect(true), (2, 3), "a dry run removes nothing");
    let running = store.lock_whole(false).unwrap();
    let error = collect_garbage(&store, GarbageOptions::default(), UNIX_EPOCH).unwrap_err().to_string();
    assert!(error.contains("a pipeline is running"), "{error}");
    drop(running);
    assert_eq!(collect(false), (2, 3));
    assert_eq!(workshop.apply(1).1, Vec::<String>::new());
    workshop.write("rows.txt", "one");
    assert_eq!(workshop.apply(1).1, ["a", "b"], "what was removed is made again");
    fs::remove_file(workshop.path("truing.lock")).unwrap();
    assert_eq!(collect(false), (5, 0), "no lock file names them");
}
