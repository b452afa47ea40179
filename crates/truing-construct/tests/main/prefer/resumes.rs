//! Interrupted runs: no call is paid twice, and the result is that of a run without an interruption.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use truing_run::Ended;
use truing_types::ChatError;

use super::judge::{Judge, good_reply};
use super::{RECIPE, folder, plan, run, run_until};

const FILES: [&str; 7] = [
    "pairs.jsonl",
    "ranked.jsonl",
    "edit_queue.jsonl",
    "fates.jsonl",
    "verdicts.jsonl",
    "judges.json",
    "summary.json",
];

#[test]
fn a_run_that_is_stopped_at_any_call_continues_and_pays_for_nothing_twice() {
    let recipe = RECIPE.replace("name = \"one\"", "name = \"one\"\nkind = \"pairwise\"");
    let overrides = ["repeat_share=0.5"];
    let straight = folder();
    let n_calls = plan(straight.path(), &recipe, &overrides).unwrap().0.n_calls() as usize;
    assert_eq!(n_calls, 14 + 7);
    run(straight.path(), &recipe, &overrides, vec![Judge::good().open()]).unwrap();
    for stop_at in 1..=n_calls {
        let folder = folder();
        let cache = folder.path().join("replies.sqlite");
        let stop = Arc::new(AtomicBool::new(false));
        let n_asked = Arc::new(AtomicUsize::new(0));
        let (flag, counter) = (Arc::clone(&stop), Arc::clone(&n_asked));
        // From this call on the process is as good as gone.
        let judge = Judge::new(move |question, _| {
            if flag.load(Ordering::SeqCst) {
                return Err(ChatError::BrokenOff);
            }
            if counter.fetch_add(1, Ordering::SeqCst) + 1 == stop_at {
                flag.store(true, Ordering::SeqCst);
            }
            Ok(good_reply(question))
        });
        let ended = run_until(folder.path(), &recipe, &overrides, vec![judge.cached(&cache)], &stop).unwrap();
        assert!(matches!(ended, Ended::Interrupted { .. }), "{stop_at}");
        assert!(!folder.path().join("run/pairs.jsonl").exists());
        stop.store(false, Ordering::SeqCst);
        run(folder.path(), &recipe, &overrides, vec![judge.cached(&cache)]).unwrap();
        assert_eq!(n_asked.load(Ordering::SeqCst), n_calls, "{stop_at}");
        for name in FILES {
            let content = |folder: &tempfile::TempDir| {
                let text = fs::read_to_string(folder.path().join("run").join(name)).unwrap();
                text.replace(&*folder.path().to_string_lossy(), "")
            };
            assert_eq!(content(&folder), content(&straight), "{name} after {stop_at} calls");
        }
    }
}

#[test]
fn settings_that_only_decide_about_pairs_may_change_without_a_call() {
    let folder = folder();
    let cache = folder.path().join("replies.sqlite");
    let judge = Judge::good();
    let first = run(folder.path(), RECIPE, &[], vec![judge.cached(&cache)]).unwrap();
    let n_asked = judge.asked().len();
    let changed = ["pairs=all", "min_gap=0", "all_high=6", "all_low=0", "dataset=mine"];
    let second = run(folder.path(), RECIPE, &changed, vec![judge.cached(&cache)]).unwrap();
    assert_eq!(judge.asked().len(), n_asked);
    // Three pairs of the first prompt, one of the second and of the one that was all low.
    assert_eq!((first.summary.n_pairs, second.summary.n_pairs), (2, 5));
    let error = run(folder.path(), RECIPE, &["temperature=0.5"], vec![judge.cached(&cache)]).unwrap_err();
    assert!(error.to_string().contains("temperature"), "{error}");
}
