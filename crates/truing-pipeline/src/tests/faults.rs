//! Faults of the machine: damaged results that another stage reads, a full disk, what killed processes leave.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use super::{Workshop, digests_of};
use crate::{ApplyOptions, GarbageOptions, PipelinePlan, Store, apply, collect_garbage};

const CHAIN: &str = "[stages.a]\nuses = \"mix\"\nwith = { value = 1 }\n\
                     [stages.b]\nuses = \"mix\"\nwith = { value = 2, from = [\"${stages.a.out}\"] }\n\
                     [stages.c]\nuses = \"mix\"\nneeds = [\"a\"]\nwith = { value = 3 }\n";

fn output_of(workshop: &Workshop, plan: &PipelinePlan, stage: usize) -> std::path::PathBuf {
    let store = Store::at(&workshop.path(".truing/store"));
    store.run_folder(plan.stages[stage].key.unwrap()).join("out.txt")
}

#[test]
fn a_result_that_is_damaged_since_the_plan_starts_no_stage_that_reads_it() {
    let workshop = Workshop::new(CHAIN);
    workshop.apply(1);
    let expected = digests_of(&workshop.lock());
    workshop.write("pipe.toml", &CHAIN.replace("value = 2", "value = 4").replace("value = 3", "value = 5"));
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    fs::write(output_of(&workshop, &plan, 0), "damaged").unwrap();
    let options = ApplyOptions { jobs: 1, stop: &workshop.stop };
    let applied = apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    let reason =
        "the result of stage `a` is damaged: `out` (out.txt) has changed; the next `apply` makes it again";
    assert_eq!(applied.failed["b"], reason);
    assert_eq!(workshop.fake.take_ran(), ["c"], "it does not read the result");
    workshop.write("pipe.toml", CHAIN);
    assert_eq!(workshop.apply(1).1, ["a"]);
    assert_eq!(digests_of(&workshop.lock()), expected);
}

#[test]
fn a_result_that_is_damaged_while_a_stage_reads_it_makes_no_result() {
    let mut workshop = Workshop::new(CHAIN);
    let (_, plan, ..) = workshop.plan().unwrap();
    let out = output_of(&workshop, &plan, 0);
    workshop.fake.on_run = Box::new(move |stage| {
        if stage == "b" {
            fs::write(&out, "damaged").unwrap();
        }
    });
    let (applied, _) = workshop.apply(1);
    assert_eq!((applied.ran, applied.failed.len()), (vec!["a".to_owned(), "c".to_owned()], 1));
    let reason = &applied.failed["b"];
    assert!(
        reason.contains("`a` is damaged: `out` (out.txt) has changed; what was made of it is not used"),
        "{reason}"
    );
    workshop.fake.on_run = Box::new(|_| {});
    assert_eq!(workshop.apply(1).1, ["a", "b"]);
    assert!(workshop.states().iter().all(|state| state.ends_with("up_to_date")), "{:?}", workshop.states());
}

#[test]
fn digests_that_cannot_be_kept_stop_nothing() {
    let workshop = Workshop::new(&CHAIN.replace("value = 1", "value = 1, from = [\"rows.txt\"]"));
    workshop.write("rows.txt", "one");
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    // A folder is where the digests would be written; and there is one to write.
    fs::create_dir_all(store.digests_path().join("in the way")).unwrap();
    let rows = workshop.path("rows.txt");
    let written = fs::metadata(&rows).unwrap().modified().unwrap();
    digests.of_file(&rows, written + Duration::from_secs(60)).unwrap();
    assert!(digests.save().is_err());
    let options = ApplyOptions { jobs: 1, stop: &workshop.stop };
    let applied = apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    assert_eq!((applied.ran.len(), applied.failed.len()), (3, 0), "{applied:?}");
    assert_eq!(workshop.lock().keys().len(), 3);
}

#[test]
#[cfg(unix)]
fn what_killed_processes_left_is_removed_and_nothing_else() {
    let workshop = Workshop::new(CHAIN);
    workshop.apply(1);
    let store = ".truing/store";
    let left = [".truing.lock.x.tmp".to_owned(), format!("{store}/pipelines/.abc.x.tmp")];
    let others = [".notes.tmp".to_owned(), "pipeline-out/pipe/.hidden".to_owned()];
    left.iter().chain(&others).for_each(|name| workshop.write(name, "half"));
    let link = workshop.path("pipeline-out/pipe/.a.1.tmp");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    workshop.apply(1);
    assert!(!workshop.path(&left[0]).exists() && !link.is_symlink());
    collect_garbage(&Store::at(&workshop.path(store)), GarbageOptions::default(), UNIX_EPOCH).unwrap();
    assert!(!workshop.path(&left[1]).exists());
    assert!(others.iter().all(|name| workshop.path(name).exists()));
    assert_eq!(workshop.apply(1).0.up_to_date.len(), 3);
}
