//! Processes that a launcher started: what they refuse, that several train as one does, and what happens when one is
//! lost.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::command::{Finished, finish, run, truing};
use crate::sft::Workshop;
#[cfg(target_os = "linux")]
use crate::sft::signal;

#[test]
fn variables_that_do_not_fit_together_are_an_error_of_training_alone() {
    let workshop = Workshop::new();
    finish(truing(workshop.home()).env("RANK", "0").args(workshop.on_recipe("sft", &[])))
        .expect_status(2)
        .expect_stderr(&["error: `RANK` is set but `WORLD_SIZE` is not: torchrun sets both"]);
    assert!(!workshop.path("run").exists());
    let doctor = finish(truing(workshop.home()).env("RANK", "0").args(["doctor", "--json", "--no-measure"]));
    assert!(matches!(doctor.status, Some(0 | 1)), "{doctor:?}");
}

#[test]
fn a_command_of_one_process_is_refused_under_mpirun() {
    let home = tempfile::tempdir().unwrap();
    let two = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
    finish(truing(home.path()).envs(two).args(["doctor", "--no-measure"]))
        .expect_status(2)
        .expect_stderr(&["error: mpirun started 2 processes, but this command runs as one"]);
}

#[test]
fn an_error_of_another_rank_than_the_first_names_it() {
    let home = tempfile::tempdir().unwrap();
    let second = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
    finish(truing(home.path()).envs(second).args(["sft", "no-such-recipe.toml"]))
        .expect_status(2)
        .expect_stderr(&["error: rank 1: cannot read no-such-recipe.toml"]);
}

#[test]
fn processes_without_a_place_to_meet_are_refused() {
    let workshop = Workshop::new();
    let by_hand = [("RANK", "0"), ("WORLD_SIZE", "2")];
    finish(truing(workshop.home()).envs(by_hand).args(workshop.on_recipe("sft", &[])))
        .expect_status(2)
        .expect_stderr(&[
            "torchrun started 2 processes, but `MASTER_ADDR` and `MASTER_PORT`, where they can meet over TCP",
            "hint: set `MASTER_ADDR` to the host of rank 0",
        ]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn a_rank_that_nobody_joins_says_who_is_missing() {
    let workshop = Workshop::new();
    let port = free_port();
    let alone = [
        ("RANK", "0"),
        ("WORLD_SIZE", "3"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", port.as_str()),
        ("TRUING_TRANSPORT", "tcp"),
        ("TRUING_JOIN_SECONDS", "1"),
    ];
    finish(truing(workshop.home()).envs(alone).args(workshop.on_recipe("sft", &[])))
        .expect_status(2)
        .expect_stderr(&["error: ranks 1, 2 did not come within 1 s"]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn a_rank_of_another_job_is_refused_and_rank_0_alone_says_so() {
    let workshop = Workshop::new();
    let port = free_port();
    let start = |rank: &str, token: &str| {
        truing(workshop.home())
            .envs([("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
            .envs([("MASTER_PORT", port.as_str()), ("TRUING_TRANSPORT", "tcp"), ("TRUING_JOB_TOKEN", token)])
            .args(workshop.on_recipe("sft", &[]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let [first, other] = [start("0", "secret"), start("1", "guess")].map(end_of);
    let first = first.expect_status(2).expect_stderr(&["error: rank 1 (", "its token differs"]);
    assert!(!first.stderr.contains("secret") && !first.stderr.contains("guess"), "{}", first.stderr);
    assert_eq!(other.expect_status(2).stderr, "");
}

#[test]
#[cfg(unix)]
fn a_rank_whose_launcher_is_gone_before_it_begins_ends() {
    let workshop = Workshop::new();
    let port = free_port();
    let mut launcher = Command::new("/bin/sh").args(["-c", "exit 0"]).spawn().unwrap();
    let gone = launcher.id().to_string();
    launcher.wait().unwrap();
    // Alone it would wait for rank 1 for two minutes.
    finish(
        truing(workshop.home())
            .envs([("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
            .envs([
                ("MASTER_PORT", port.as_str()),
                ("TRUING_TRANSPORT", "tcp"),
                ("TRUING_LAUNCHED", gone.as_str()),
            ])
            .args(workshop.on_recipe("sft", &[])),
    )
    .expect_status(75)
    .expect_stderr(&["error: `truing launch` is gone"]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn launch_says_what_it_misses() {
    let home = tempfile::tempdir().unwrap();
    let expected =
        if cfg!(feature = "mpi") { "`mpirun` is in no folder of PATH" } else { "this program has no MPI" };
    run(home.path(), ["launch", "-n", "2", "--transport", "mpi", "--", "sft", "recipe.toml"])
        .expect_status(2)
        .expect_stderr(&[expected, "hint: "]);
    let over_tcp = ["launch", "-n", "2", "--transport", "tcp"];
    run(home.path(), [&over_tcp[..], &["--mpirun=-v", "--", "sft", "recipe.toml"]].concat())
        .expect_status(2)
        .expect_stderr(&["error: `--mpirun` needs `--transport mpi`"]);
    run(home.path(), [&over_tcp[..], &["--", "doctor", "--no-measure"]].concat())
        .expect_status(2)
        .expect_stderr(&["error: truing launch started 2 processes, but this command runs as one"]);
}

/// The ways in which ranks of this build connect.
const TRANSPORTS: &[&str] = if cfg!(feature = "mpi") { &["tcp", "mpi"] } else { &["tcp"] };

/// `truing launch`. For `mpirun` with the user's search path, and leave to run as root.
fn launch(workshop: &Workshop, transport: &str, n_processes: usize, arguments: &[String]) -> Command {
    let mut command = truing(workshop.home());
    if transport == "mpi" {
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    }
    command.args(["launch", "-n", &n_processes.to_string(), "--transport", transport, "--"]).args(arguments);
    command
}

/// Arguments that train to `folder`.
fn training(workshop: &Workshop, folder: &str, n_steps: u64) -> Vec<String> {
    let output_dir = format!("output_dir={}", workshop.path(folder).display());
    workshop.on_recipe("sft", &["--set", &output_dir, "--set", &format!("max_steps={n_steps}")])
}

/// The steps of a run with their losses.
fn losses(workshop: &Workshop, folder: &str) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(workshop.path(folder).join("metrics.jsonl")).unwrap_or_default();
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter_map(|row| Some((row["step"].as_u64()?, row.get("loss")?.as_f64()?))).collect()
}

/// Fails unless two runs have the same steps, with losses that differ by rounding.
#[track_caller]
fn assert_alike(found: &[(u64, f64)], expected: &[(u64, f64)]) {
    assert_eq!(found.len(), expected.len());
    for ((step, loss), (expected_step, expected_loss)) in found.iter().zip(expected) {
        assert_eq!(step, expected_step);
        let difference = (loss - expected_loss).abs();
        assert!(difference < 1e-3 * expected_loss.abs(), "step {step}: {loss}, expected {expected_loss}");
    }
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

fn end_of(child: Child) -> Finished {
    Finished::of(child.wait_with_output().unwrap())
}

#[test]
fn several_processes_train_as_one_does_and_one_of_them_prints() {
    let workshop = Workshop::new();
    run(workshop.home(), training(&workshop, "alone", 12)).expect_status(0);
    let alone = losses(&workshop, "alone");
    assert_eq!(alone.len(), 12);
    for transport in TRANSPORTS {
        for n_processes in [2, 3] {
            let folder = format!("{transport}-{n_processes}");
            let arguments = training(&workshop, &folder, 12);
            let finished =
                finish(&mut launch(&workshop, transport, n_processes, &arguments)).expect_status(0);
            let n_reports = finished.stdout.lines().filter(|line| line.starts_with("report ")).count();
            assert_eq!(n_reports, 1, "{}", finished.stdout);
            assert_alike(&losses(&workshop, &folder), &alone);
            assert!(workshop.path(&folder).join("model/model.safetensors").is_file());
        }
    }
}

#[test]
fn transports_give_the_same_bits() {
    let workshop = Workshop::new();
    let weights = |transport: &&str| {
        let arguments = training(&workshop, transport, 6);
        finish(&mut launch(&workshop, transport, 2, &arguments)).expect_status(0);
        fs::read(workshop.path(transport).join("model/model.safetensors")).unwrap()
    };
    let all: Vec<Vec<u8>> = TRANSPORTS.iter().map(weights).collect();
    assert!(all.iter().all(|weights| *weights == all[0]), "the weights differ");
}

#[test]
fn the_metrics_command_of_a_launched_rank_is_no_rank() {
    let workshop = Workshop::new();
    let found = workshop.path("variables.txt");
    let hook = format!("export -p > {}; while read -r line; do :; done", found.display());
    let arguments = [training(&workshop, "run", 2), vec!["--metrics-command".into(), hook]].concat();
    let mut command = launch(&workshop, "tcp", 2, &arguments);
    // It runs in a shell, which is looked for.
    finish(command.env("PATH", std::env::var_os("PATH").unwrap())).expect_status(0);
    let text = fs::read_to_string(found).unwrap();
    assert!(text.contains("TRUING_RUN="), "{text}");
    assert!(!text.contains("TRUING_LAUNCHED=") && !text.contains("TRUING_JOB_TOKEN="), "{text}");
}

#[test]
fn a_failure_of_the_first_rank_is_said_once() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("model/model.safetensors")).unwrap();
    for transport in TRANSPORTS {
        let arguments = workshop.on_recipe("sft", &[]);
        let finished = finish(&mut launch(&workshop, transport, 2, &arguments)).expect_status(2);
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
    }
}

/// Ranks that are lost in the middle of a run. With `mpirun` its own watch interferes, so these are of TCP alone.
#[cfg(target_os = "linux")]
mod lost {
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Looks for a condition until it holds. Panics after very many looks, so that a job that hangs fails the test. How
    /// fast a job ends is measured by `scripts/kill-ranks.py`.
    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..120_000 {
            if holds() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("waited in vain until {what}");
    }

    /// The process of a rank of the job that was started with this variable.
    fn process_of(mark: &str, rank: usize) -> Option<u32> {
        let has = |environment: &[u8], variable: &str| {
            environment.split(|byte| *byte == 0).any(|found| found == variable.as_bytes())
        };
        fs::read_dir("/proc").unwrap().find_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            (has(&environment, mark) && has(&environment, &format!("RANK={rank}"))).then_some(pid)
        })
    }

    /// Trains on two ranks to `folder`, and sends a signal to one of them once the run has some steps. Returns what the
    /// launcher left.
    fn lose(workshop: &Workshop, folder: &str, n_steps: u64, rank: usize, signal: &str) -> Finished {
        let mark = format!("TEST_JOB={}-{folder}", std::process::id());
        let mut command = launch(workshop, "tcp", 2, &training(workshop, folder, n_steps));
        let (name, value) = mark.split_once('=').unwrap();
        let mut child =
            command.env(name, value).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut has_ended = false;
        until("the run has steps", || {
            has_ended = child.try_wait().unwrap().is_some();
            has_ended || losses(workshop, folder).len() >= 5
        });
        assert!(!has_ended, "the run has ended: {:?}", end_of(child));
        let pid = process_of(&mark, rank).unwrap();
        let kill = format!("kill -{signal} {pid}");
        assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
        until("the job has ended", || child.try_wait().unwrap().is_some());
        let finished = end_of(child);
        assert!(!workshop.path(folder).join("model").exists(), "the run was quicker than the signal");
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
        finished
    }

    fn weights(workshop: &Workshop, folder: &str) -> Vec<u8> {
        fs::read(workshop.path(folder).join("model/model.safetensors")).unwrap()
    }

    #[test]
    fn a_lost_rank_is_named_and_the_resumed_run_ends_with_the_same_bits() {
        const STEPS: u64 = 100;
        let workshop = Workshop::new();
        finish(&mut launch(&workshop, "tcp", 2, &training(&workshop, "whole", STEPS))).expect_status(0);
        let (expected, expected_losses) = (weights(&workshop, "whole"), losses(&workshop, "whole"));
        for (folder, rank, signal, status, words) in [
            ("killed", 1, "KILL", 137, "is gone: it was killed or crashed"),
            ("first-killed", 0, "KILL", 137, "is gone: it was killed or crashed"),
            ("stopped", 1, "STOP", 75, "is silent: it is stopped"),
        ] {
            lose(&workshop, folder, STEPS, rank, signal).expect_status(status).expect_stderr(&[
                &format!("error: rank {rank} ("),
                words,
                "hint: --resume continues",
            ]);
            let resume = [training(&workshop, folder, STEPS), vec!["--resume".into()]].concat();
            finish(&mut launch(&workshop, "tcp", 2, &resume)).expect_status(0);
            assert!(weights(&workshop, folder) == expected, "{folder}: the weights differ");
            assert_eq!(losses(&workshop, folder), expected_losses, "{folder}");
        }
    }

    #[test]
    fn a_run_is_resumed_with_another_number_of_ranks() {
        const STEPS: u64 = 40;
        let workshop = Workshop::new();
        run(workshop.home(), training(&workshop, "alone", STEPS)).expect_status(0);
        let expected = losses(&workshop, "alone");
        for n_processes in [3, 1] {
            let folder = format!("resumed-by-{n_processes}");
            lose(&workshop, &folder, STEPS, 1, "KILL");
            let resume = [training(&workshop, &folder, STEPS), vec!["--resume".into()]].concat();
            finish(&mut launch(&workshop, "tcp", n_processes, &resume)).expect_status(0);
            assert_alike(&losses(&workshop, &folder), &expected);
        }
    }

    #[test]
    fn no_rank_outlives_its_launcher() {
        let workshop = Workshop::new();
        let mark = format!("TEST_JOB={}-orphans", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut command = launch(&workshop, "tcp", 2, &training(&workshop, "run", 100_000));
        let mut child = command.env(name, value).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the run has steps", || losses(&workshop, "run").len() >= 2);
        child.kill().unwrap();
        child.wait().unwrap();
        until("no rank is left", || (0..2).all(|rank| process_of(&mark, rank).is_none()));
    }

    /// Whether a process has a file open.
    fn has_open(pid: u32, file: &Path) -> bool {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|one| fs::read_link(one.path()).ok()).any(|target| target == file)
    }

    #[test]
    fn a_job_that_is_interrupted_while_it_reads_its_data_stops_on_all_ranks() {
        for (name, to_rank) in [("INT", None), ("TERM", None), ("INT", Some(1))] {
            let workshop = Workshop::new();
            // Data without an end: a pipe that is kept open here.
            let data = workshop.path("songs.jsonl").canonicalize().unwrap();
            fs::remove_file(&data).unwrap();
            assert!(Command::new("mkfifo").arg(&data).status().unwrap().success());
            let _kept_open = fs::OpenOptions::new().read(true).write(true).open(&data).unwrap();
            let mark = format!("TEST_JOB={}-reading-{name}-{to_rank:?}", std::process::id());
            let (variable, value) = mark.split_once('=').unwrap();
            let child = launch(&workshop, "tcp", 2, &workshop.on_recipe("sft", &[]))
                .env(variable, value)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let is_reading = |rank| process_of(&mark, rank).is_some_and(|pid| has_open(pid, &data));
            until("both ranks read", || (0..2).all(is_reading));
            match to_rank {
                None => signal(&child, name),
                Some(rank) => {
                    let kill = format!("kill -{name} {}", process_of(&mark, rank).unwrap());
                    assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
                }
            }
            let finished = end_of(child).expect_status(130);
            let said = &finished.stderr;
            assert!(!said.contains("error: ") && !said.contains("is gone"), "{said}");
            assert_eq!(said.contains("rank 1 ("), to_rank.is_some(), "{said}");
            assert!(!workshop.path("run").exists());
        }
    }

    #[test]
    fn an_interrupted_job_is_saved_by_all_its_ranks() {
        let workshop = Workshop::new();
        let arguments = training(&workshop, "run", 400);
        let child = launch(&workshop, "tcp", 2, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("the run has steps", || losses(&workshop, "run").len() >= 5);
        signal(&child, "INT");
        let finished = end_of(child).expect_status(130);
        assert!(finished.stdout.contains("--resume continues from there"), "{}", finished.stdout);
        let resume = [arguments, vec!["--resume".into()]].concat();
        finish(&mut launch(&workshop, "tcp", 2, &resume)).expect_status(0);
        let steps: Vec<u64> = losses(&workshop, "run").iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=400).collect::<Vec<_>>());
    }
}
