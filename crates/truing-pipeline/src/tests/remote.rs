//! Results that machines share: each workshop is a machine with a store of its own.

mod memory;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use truing_store::Digest;

use self::memory::Memory;
use super::{Workshop, digests_of};
use crate::remote::{Attempt, Watch};
use crate::{
    ApplyOptions, GarbageOptions, LockFile, PipelineError, Remote, RemoteError, Store, Transfer, Transfers,
    apply_only, collect_garbage, pull, push,
};

const CHAIN: &str = "[stages.a]\nuses = \"mix\"\nwith = { value = 1, from = [\"rows.txt\"] }\n\
                     [stages.b]\nuses = \"mix\"\nwith = { value = 2, from = [\"${stages.a.out}\"] }\n\
                     [stages.c]\nuses = \"mix\"\nwith = { value = 3 }\n";
const LEASE: Duration = Duration::from_secs(60);
/// Leases of others are looked at this often.
const PAUSE: Duration = Duration::from_millis(5);

fn remote(memory: &Memory, owner: &str, lease: Duration) -> Arc<Remote> {
    let remote = Remote::over("memory", Box::new(memory.clone()), owner.to_owned());
    Arc::new(remote.with_times(lease, PAUSE))
}

/// A machine with a remote.
fn machine(recipe: &str, memory: &Memory, owner: &str) -> Workshop {
    let mut workshop = Workshop::new(recipe);
    workshop.write("rows.txt", "one");
    workshop.remote = Some(remote(memory, owner, LEASE));
    workshop
}

fn key_of(workshop: &Workshop, stage: &str) -> Digest {
    let (_, plan, _, _) = workshop.plan().unwrap();
    plan.stages.iter().find(|planned| planned.name == stage).unwrap().key.unwrap()
}

fn push_all(workshop: &Workshop) -> Result<Transfers, PipelineError> {
    let (pipeline, plan, store, digests) = workshop.plan()?;
    push(&pipeline, &plan, &store, &digests, &workshop.fake, None, &workshop.stop)
}

fn outcomes(transfers: &Transfers) -> Vec<Transfer> {
    transfers.stages.iter().map(|(_, transfer)| *transfer).collect()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
#[cfg(unix)]
fn a_machine_fetches_what_another_one_has_made() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    assert_eq!(first.apply(1).1, ["a", "b", "c"]);
    assert_eq!(memory.names("results/").len(), 3);
    assert!(memory.names("leases/").is_empty(), "leases are given back");
    assert_eq!(second.states(), ["a in_remote new", "b in_remote new", "c in_remote new"]);
    fs::copy(first.path("truing.lock"), second.path("truing.lock")).unwrap();
    assert_eq!(second.states(), ["a in_remote", "b in_remote", "c in_remote"]);
    let (applied, ran) = second.apply(2);
    assert_eq!((applied.fetched.len(), ran), (3, Vec::new()), "{applied:?}");
    assert_eq!(second.output("b"), first.output("b"));
    assert_eq!(second.lock(), first.lock());
    // What is here is not asked for there.
    memory.change(|state| state.reads.clear());
    assert_eq!(second.states(), ["a up_to_date", "b up_to_date", "c up_to_date"]);
    assert_eq!(second.apply(1).0.up_to_date.len(), 3);
    assert_eq!(memory.change(|state| state.reads.clone()), Vec::<String>::new());
    assert!(!second.path(".truing/store/incoming").join(key_of(&second, "a").to_string()).exists());
}

#[test]
fn a_result_is_there_only_when_its_last_object_is() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    // As if the machine were killed between the objects and the result.
    memory.change(|state| state.unwritable = Some("results/"));
    let (applied, ran) = first.apply(1);
    assert_eq!((ran.len(), applied.not_uploaded.len(), applied.failed.len()), (3, 3, 0), "{applied:?}");
    let reason = &applied.not_uploaded["a"];
    assert!(reason.starts_with("cannot write `results/") && reason.contains("no connection"), "{reason}");
    memory.change(|state| state.unwritable = None);
    assert!(!memory.names("objects/").is_empty());
    assert!(second.states().iter().all(|state| state.contains("to_run")), "{:?}", second.states());
    // The first machine has given its leases back, and the objects that are there are not sent again.
    assert_eq!(second.apply(1).1, ["a", "b", "c"]);
    assert_eq!(outcomes(&push_all(&first).unwrap()), [Transfer::WasThere; 3]);
}

#[test]
#[cfg(unix)]
fn a_damaged_object_is_fetched_once_more_and_then_refused_by_name() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    memory.change(|state| state.n_damaged_reads = 1);
    assert_eq!(second.apply(1).0.fetched, ["a", "b", "c"]);
    let third = machine(CHAIN, &memory, "third");
    let name = format!("objects/{}", Digest::of_bytes(first.output("c").as_bytes()));
    let size = memory.change(|state| {
        let bytes = state.objects.get_mut(&name).unwrap();
        bytes[0] ^= 1;
        bytes.len() as u64
    });
    let (applied, ran) = third.apply(1);
    let reason = &applied.failed["c"];
    assert!(reason.starts_with(&format!("`{name}` in memory is damaged: read twice")), "{reason}");
    assert!(reason.contains("run `truing pipeline push`") && ran.is_empty(), "{reason}");
    assert_eq!(applied.fetched, ["a", "b"]);
    memory.change(|state| state.objects.remove(&name));
    let reason = &third.apply(1).0.failed["c"];
    assert!(reason.contains("it is missing"), "{reason}");
    let pushed = outcomes(&push_all(&first).unwrap());
    assert_eq!(pushed, [Transfer::WasThere, Transfer::WasThere, Transfer::Uploaded { bytes: size }]);
    assert_eq!(third.apply(1).0.fetched, ["c"]);
    assert_eq!(third.output("c"), first.output("c"));
}

#[test]
#[cfg(unix)]
fn a_fetch_that_was_cut_short_continues() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    let out = format!("objects/{}", Digest::of_bytes(first.output("c").as_bytes()));
    let kept = memory.change(|state| state.objects.remove(&out).unwrap());
    assert!(second.apply(1).0.failed.contains_key("c"));
    memory.change(|state| {
        state.objects.insert(out.clone(), kept);
        state.reads.clear();
    });
    assert_eq!(second.apply(1).0.fetched, ["c"]);
    let reads = memory.change(|state| state.reads.clone());
    let objects: Vec<&String> = reads.iter().filter(|name| name.starts_with("objects/")).collect();
    assert_eq!(objects, [&out], "the others were there");
}

#[test]
#[cfg(unix)]
fn what_an_earlier_fetch_left_is_checked_again() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    let out = format!("objects/{}", Digest::of_bytes(first.output("c").as_bytes()));
    let kept = memory.change(|state| state.objects.remove(&out).unwrap());
    assert!(second.apply(1).0.failed.contains_key("c"));
    let key = key_of(&second, "c").to_string();
    let left = second.path(".truing/store/incoming").join(&key).join("objects");
    let left: Vec<_> = fs::read_dir(left).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!left.is_empty());
    left.iter().for_each(|path| fs::write(path, "changed in place").unwrap());
    memory.change(|state| state.objects.insert(out, kept));
    assert_eq!(second.apply(1).0.fetched, ["c"]);
    let recipe_of = |workshop: &Workshop| {
        fs::read(workshop.path(".truing/store/runs").join(&key).join("recipe.toml")).unwrap()
    };
    assert_eq!(recipe_of(&second), recipe_of(&first));
}

#[test]
fn a_result_that_was_made_and_not_recorded_is_uploaded() {
    let memory = Memory::default();
    let mut workshop = machine(CHAIN, &memory, "here");
    let remote = workshop.remote.take();
    assert_eq!(workshop.apply(1).1, ["a", "b", "c"]);
    // As if the process were killed when the results were made, and before they were uploaded.
    fs::remove_file(workshop.path("truing.lock")).unwrap();
    workshop.remote = remote;
    memory.change(|state| state.unwritable = Some("objects/"));
    assert_eq!(workshop.apply(1).0.not_uploaded.len(), 3);
    fs::remove_file(workshop.path("truing.lock")).unwrap();
    memory.change(|state| state.unwritable = None);
    let (applied, ran) = workshop.apply(1);
    assert_eq!((applied.reused.len(), applied.not_uploaded.len(), ran.len()), (3, 0, 0), "{applied:?}");
    assert_eq!(memory.names("results/").len(), 3);
}

#[test]
#[cfg(unix)]
fn a_stored_result_that_differs_from_that_of_the_remote_stays() {
    let memory = Memory::default();
    let (mut first, second) = (machine(OPEN, &memory, "first"), machine(OPEN, &memory, "second"));
    first.write("unlisted.txt", "one");
    second.write("unlisted.txt", "two");
    let remote = first.remote.take();
    first.apply(1);
    second.apply(1);
    fs::remove_file(first.path("truing.lock")).unwrap();
    first.remote = remote;
    assert_eq!(first.apply(1).0.reused, ["copy"]);
    assert_eq!((first.output("copy"), memory.names("results/").len()), ("one".to_owned(), 1));
}

#[test]
fn a_result_whose_files_have_changed_is_not_uploaded() {
    let memory = Memory::default();
    let mut workshop = machine(CHAIN, &memory, "here");
    let remote = workshop.remote.take();
    workshop.apply(1);
    workshop.remote = remote;
    let (pipeline, plan, store, digests) = workshop.plan().unwrap();
    fs::write(store.run_folder(plan.stages[2].key.unwrap()).join("out.txt"), "changed").unwrap();
    let pushed = push(&pipeline, &plan, &store, &digests, &workshop.fake, Some(2), &workshop.stop);
    let error = pushed.unwrap_err().to_string();
    assert!(error.contains("its files are not those of its outputs"), "{error}");
    assert!(memory.names("").is_empty());
}

#[test]
fn machines_at_the_same_time_make_each_result_once() {
    let memory = Memory::default();
    let machines: Vec<Workshop> =
        ["one", "two", "three"].iter().map(|owner| machine(CHAIN, &memory, owner)).collect();
    let ran: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = machines.iter().map(|machine| scope.spawn(|| machine.apply(2).1)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = ran.concat();
    all.sort();
    assert_eq!(all, ["a", "b", "c"]);
    assert!(machines.iter().all(|machine| machine.lock() == machines[0].lock()));
    assert!(memory.names("leases/").is_empty());
}

#[test]
fn a_lease_of_a_dead_machine_is_taken_after_its_length_or_at_once_when_it_is_long_over() {
    let memory = Memory::default();
    let mut workshop = machine(CHAIN, &memory, "here");
    let key = key_of(&workshop, "c");
    let dead = remote(&memory, "dead", LEASE);
    // Taken, and never renewed or given back. The clock of that machine is a year ahead.
    let held = dead.try_lease(key, &mut Watch::default(), at(365 * 86_400)).unwrap();
    assert!(matches!(held, Attempt::Held(_)));
    workshop.remote = Some(remote(&memory, "here", PAUSE * 4));
    assert_eq!(workshop.apply(1).1, ["a", "b", "c"]);
    assert!(memory.names("leases/").is_empty());
    // Long over by any clock: with a lease of a minute there would be 12,000 looks.
    workshop.write("pipe.toml", &CHAIN.replace("value = 3", "value = 4"));
    let key = key_of(&workshop, "c");
    dead.try_lease(key, &mut Watch::default(), at(0)).unwrap();
    workshop.remote = Some(remote(&memory, "here", LEASE));
    workshop.fake.now = at(10_000);
    assert_eq!(workshop.apply(1).1, ["c"]);
}

#[test]
fn a_lease_in_use_is_left_alone_while_clocks_differ_within_the_tolerance() {
    let memory = Memory::default();
    let (one, two) = (remote(&memory, "one", LEASE), remote(&memory, "two", LEASE));
    let key = Digest::of_bytes(b"key");
    let Attempt::Held(lease) = one.try_lease(key, &mut Watch::default(), at(1_000)).unwrap() else {
        panic!()
    };
    let is_held = |attempt: &Attempt| matches!(attempt, Attempt::Held(_));
    let mut watch = Watch::default();
    // The lease ends at 1060, and 600 seconds are a difference of clocks.
    for now in [0, 1_000, 1_060, 1_660] {
        let attempt = two.try_lease(key, &mut watch, at(now)).unwrap();
        assert!(matches!(&attempt, Attempt::Other(owner) if owner == "one"), "{now}: {attempt:?}");
    }
    one.renew(&lease, at(1_600)).unwrap();
    assert!(!is_held(&two.try_lease(key, &mut watch, at(2_260)).unwrap()), "it was renewed");
    assert!(is_held(&two.try_lease(key, &mut watch, at(2_261)).unwrap()));
    // The first machine renews what is no longer its lease, which changes nothing.
    one.renew(&lease, at(2_262)).unwrap();
    assert!(!is_held(&one.try_lease(key, &mut Watch::default(), at(2_263)).unwrap()));
}

#[test]
fn a_lease_that_was_given_back_is_free() {
    let memory = Memory::default();
    let (one, two) = (remote(&memory, "one", LEASE), remote(&memory, "two", LEASE));
    let key = Digest::of_bytes(b"key");
    let Attempt::Held(lease) = one.try_lease(key, &mut Watch::default(), at(0)).unwrap() else { panic!() };
    one.release(&lease, false, at(0));
    assert!(matches!(two.try_lease(key, &mut Watch::default(), at(0)).unwrap(), Attempt::Held(_)));
    assert_eq!(memory.names("leases/").len(), 1, "numbers that count no more are removed");
}

/// The key does not hold `unlisted.txt`: two machines make different results of it.
const OPEN: &str = "[stages.copy]\nuses = \"command\"\n\
                    with = { command = [\"copy\", \"unlisted.txt\", \"${output}/out.txt\"], \
                    outputs = { rows = \"out.txt\" } }\n";

#[test]
#[cfg(unix)]
fn the_result_that_is_stored_first_counts_on_both_machines() {
    let memory = Memory::default();
    let mut fast = machine(OPEN, &memory, "fast");
    let mut slow = machine(OPEN, &memory, "slow");
    fast.write("unlisted.txt", "of the fast machine");
    slow.write("unlisted.txt", "of the slow machine");
    assert_eq!(key_of(&fast, "copy"), key_of(&slow, "copy"));
    // The clock of the fast machine is so far ahead that it takes the lease that is in use.
    fast.fake.now = at(7_200);
    let fast_lock = fast.path("truing.lock");
    slow.fake.on_run = Box::new(move |_| assert_eq!(fast.apply(1).1, ["copy"]));
    let (applied, ran) = slow.apply(1);
    assert_eq!((applied.ran.len(), ran.len(), applied.not_uploaded.len()), (1, 1, 0), "{applied:?}");
    assert_eq!(slow.output("copy"), "of the fast machine");
    let lock = LockFile::read(&fast_lock).unwrap();
    assert_eq!(digests_of(&slow.lock()), digests_of(&lock));
    assert_eq!(slow.states(), ["copy up_to_date"]);
}

#[test]
fn a_result_that_differs_from_that_of_the_remote_is_not_uploaded() {
    let memory = Memory::default();
    let (mut first, second) = (machine(OPEN, &memory, "first"), machine(OPEN, &memory, "second"));
    first.write("unlisted.txt", "one");
    second.write("unlisted.txt", "two");
    let remote = first.remote.take();
    assert_eq!(first.apply(1).1, ["copy"], "without the remote");
    assert!(memory.names("").is_empty());
    second.apply(1);
    let objects = memory.names("objects/");
    first.remote = remote;
    assert_eq!(outcomes(&push_all(&first).unwrap()), [Transfer::Differs]);
    assert_eq!(memory.names("objects/"), objects);
}

#[test]
fn a_remote_that_cannot_be_reached_is_an_error_and_without_it_the_pipeline_runs() {
    let memory = Memory::default();
    let mut workshop = machine(CHAIN, &memory, "here");
    memory.change(|state| state.unreadable = Some(""));
    let error = workshop.plan().err().unwrap();
    assert!(matches!(error, PipelineError::Remote(RemoteError::Storage { .. })), "{error:?}");
    assert!(truing_types::with_causes(&error).contains("no connection"), "{error:?}");
    workshop.remote = None;
    assert_eq!(workshop.apply(1).1, ["a", "b", "c"]);
    assert!(memory.names("").is_empty());
}

#[test]
fn one_stage_alone_fetches_what_it_needs() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    let result = format!("results/{}.json", key_of(&second, "b"));
    memory.change(|state| state.objects.remove(&result).unwrap());
    let (pipeline, plan, store, digests) = second.plan().unwrap();
    let options = ApplyOptions { jobs: 1, stop: &second.stop };
    let applied = apply_only(&pipeline, &plan, &store, &digests, &second.fake, options, 1).unwrap();
    assert_eq!((applied.fetched, applied.ran), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(second.fake.take_ran(), ["b"]);
}

#[test]
fn results_are_pulled_by_hand() {
    let memory = Memory::default();
    let (first, mut second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    let (pipeline, plan, store, _) = second.plan().unwrap();
    let transfers = pull(&pipeline, &plan, &store, &second.fake, Some(2), &second.stop).unwrap();
    assert!(matches!(transfers.stages.as_slice(), [(name, Transfer::Fetched { .. })] if name == "c"));
    assert_eq!(second.states(), ["a in_remote new", "b in_remote new", "c in_store new"]);
    second.remote = None;
    let error = push_all(&second).unwrap_err();
    assert!(error.to_string().contains("it has no remote"), "{error}");
}

#[test]
fn a_result_whose_paths_lead_out_of_its_folder_is_refused() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    first.apply(1);
    let name = format!("results/{}.json", key_of(&first, "c"));
    for (from, to, reason) in [
        ("\"run/out.txt\"", "\"run/../../out.txt\"", "is no path below the folder of a result"),
        ("\"run/out.txt\"", "\"run/other.txt\"", "its files are not those of output `out`"),
        ("\"format_version\": 1", "\"format_version\": 2", "has format version 2, expected at most 1"),
    ] {
        let before = memory.change(|state| {
            let bytes = state.objects.get_mut(&name).unwrap();
            let changed = String::from_utf8(bytes.clone()).unwrap().replacen(from, to, 1);
            std::mem::replace(bytes, changed.into_bytes())
        });
        let error = second.plan().err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
        memory.change(|state| state.objects.insert(name.clone(), before));
    }
    assert!(second.plan().is_ok());
}

#[test]
fn garbage_is_removed_from_the_remote_only_where_that_is_asked_for() {
    let memory = Memory::default();
    let workshop = machine(CHAIN, &memory, "here");
    workshop.apply(1);
    workshop.write("pipe.toml", &CHAIN.replace("value = 3", "value = 4"));
    workshop.apply(1);
    let store = Store::at(&workshop.path(".truing/store")).with_remote(remote(&memory, "here", LEASE));
    let collected = collect_garbage(&store, GarbageOptions::default(), at(0)).unwrap();
    assert_eq!((collected.removed.len(), collected.from_remote), (1, None));
    assert_eq!(memory.names("results/").len(), 4);
    let options = GarbageOptions { in_remote: true, ..GarbageOptions::default() };
    let dry = GarbageOptions { is_dry_run: true, ..options };
    let planned = collect_garbage(&store, dry, at(0)).unwrap().from_remote.unwrap();
    assert_eq!((planned.results.len(), planned.n_kept, memory.names("results/").len()), (1, 3, 4));
    let other = remote(&memory, "other", LEASE);
    other.try_lease(Digest::of_bytes(b"key"), &mut Watch::default(), at(0)).unwrap();
    let error = collect_garbage(&store, options, at(0)).unwrap_err().to_string();
    assert_eq!(error, "memory is in use: other makes a result; run `gc` again later");
    let removed = collect_garbage(&store, options, at(10_000)).unwrap().from_remote.unwrap();
    assert_eq!(removed, planned);
    assert_eq!(memory.names("results/").len(), 3);
    // What is left is whole.
    fs::remove_dir_all(workshop.path(".truing")).unwrap();
    assert_eq!(workshop.apply(1).0.fetched, ["a", "b", "c"]);
    fs::remove_file(workshop.path("truing.lock")).unwrap();
    let error = collect_garbage(&store, options, at(10_000)).unwrap_err().to_string();
    assert!(error.contains("this store knows no lock file"), "{error}");
    assert_eq!(memory.names("results/").len(), 3);
}

#[test]
fn objects_that_are_removed_before_their_result_is_written_are_sent_again() {
    let memory = Memory::default();
    let (first, second) = (machine(CHAIN, &memory, "first"), machine(CHAIN, &memory, "second"));
    memory.change(|state| state.collects_before_result = true);
    let (applied, _) = first.apply(1);
    assert_eq!((applied.ran.len(), applied.not_uploaded.len()), (3, 0), "{applied:?}");
    assert!(!memory.change(|state| state.collects_before_result));
    assert_eq!(second.apply(1).0.fetched, ["a", "b", "c"]);
}

#[test]
fn a_result_that_is_stored_while_its_objects_are_removed_is_removed_too() {
    let memory = Memory::default();
    let workshop = machine(CHAIN, &memory, "here");
    workshop.apply(1);
    let store = Store::at(&workshop.path(".truing/store")).with_remote(remote(&memory, "here", LEASE));
    let name = format!("results/{}.json", key_of(&workshop, "c"));
    memory.change(|state| {
        let bytes = state.objects.remove(&name).unwrap();
        state.late = Some((name.clone(), bytes));
    });
    let options = GarbageOptions { in_remote: true, ..GarbageOptions::default() };
    let removed = collect_garbage(&store, options, at(0)).unwrap().from_remote.unwrap();
    assert_eq!((removed.results.len(), removed.n_kept), (0, 2));
    assert!(removed.n_objects > 0 && memory.change(|state| state.late.is_none()));
    assert_eq!(memory.names("results/").len(), 2, "{name} has no objects");
    fs::remove_dir_all(workshop.path(".truing")).unwrap();
    let (applied, ran) = workshop.apply(1);
    assert_eq!((applied.fetched.len(), ran), (2, vec!["c".to_owned()]));
}

#[test]
fn a_remote_that_is_in_use_leaves_the_runs_here_alone() {
    let memory = Memory::default();
    let workshop = machine(CHAIN, &memory, "here");
    let store = Store::at(&workshop.path(".truing/store")).with_remote(remote(&memory, "here", LEASE));
    let options = GarbageOptions { in_remote: true, ..GarbageOptions::default() };
    let error = collect_garbage(&store, options, at(0)).unwrap_err().to_string();
    assert!(error.contains("this store knows no lock file"), "a store that is not there: {error}");
    workshop.apply(1);
    workshop.write("pipe.toml", &CHAIN.replace("value = 3", "value = 4"));
    workshop.apply(1);
    let n_runs = || fs::read_dir(workshop.path(".truing/store/runs")).unwrap().count();
    let other = remote(&memory, "other", LEASE);
    other.try_lease(Digest::of_bytes(b"key"), &mut Watch::default(), at(0)).unwrap();
    collect_garbage(&store, options, at(0)).unwrap_err();
    assert_eq!(n_runs(), 4);
    collect_garbage(&store, options, at(10_000)).unwrap();
    assert_eq!(n_runs(), 3);
}
