//! Processes that a launcher started: what they refuse, and that a build with MPI trains on two as on one.

use crate::command::{finish, run, truing};
use crate::sft::Workshop;

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
fn processes_that_mpi_cannot_connect_are_refused() {
    let workshop = Workshop::new();
    let by_hand = [("RANK", "0"), ("WORLD_SIZE", "2")];
    let expected = if cfg!(feature = "mpi") {
        "torchrun started 2 processes that MPI cannot connect"
    } else {
        "torchrun started 2 processes, but this program has no MPI"
    };
    finish(truing(workshop.home()).envs(by_hand).args(workshop.on_recipe("sft", &[])))
        .expect_status(2)
        .expect_stderr(&[expected]);
    assert!(!workshop.path("run").exists());
}

#[test]
fn launch_says_what_it_misses() {
    let home = tempfile::tempdir().unwrap();
    let expected =
        if cfg!(feature = "mpi") { "`mpirun` is in no folder of PATH" } else { "this program has no MPI" };
    run(home.path(), ["launch", "-n", "2", "--", "sft", "recipe.toml"])
        .expect_status(2)
        .expect_stderr(&[expected, "hint: "]);
}

#[cfg(feature = "mpi")]
mod over_mpi {
    use std::fs;
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    /// `truing launch` with the user's search path, and leave to run as root.
    fn launch(workshop: &Workshop, n_processes: usize, arguments: &[String]) -> Command {
        let mut command = truing(workshop.home());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
        command.args(["launch", "-n", &n_processes.to_string(), "--"]).args(arguments);
        command
    }

    fn losses(workshop: &Workshop, folder: &str) -> Vec<f64> {
        let text = fs::read_to_string(workshop.path(folder).join("metrics.jsonl")).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter_map(|row| row.get("loss").and_then(Value::as_f64)).collect()
    }

    #[test]
    fn two_processes_train_as_one_does_and_one_of_them_prints() {
        let workshop = Workshop::new();
        let on = |folder: &str| {
            let output_dir = format!("output_dir={}", workshop.path(folder).display());
            workshop.on_recipe("sft", &["--set", &output_dir])
        };
        run(workshop.home(), on("alone")).expect_status(0);
        let finished = finish(&mut launch(&workshop, 2, &on("together"))).expect_status(0);
        let n_reports = finished.stdout.lines().filter(|line| line.starts_with("report ")).count();
        assert_eq!(n_reports, 1, "{}", finished.stdout);
        let (alone, together) = (losses(&workshop, "alone"), losses(&workshop, "together"));
        assert_eq!((alone.len(), together.len()), (12, 12));
        for (a, b) in alone.iter().zip(&together) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{alone:?} {together:?}");
        }
        assert!(workshop.path("together/model/model.safetensors").is_file());
    }

    #[test]
    fn a_failure_of_the_first_rank_is_said_once() {
        let workshop = Workshop::new();
        fs::remove_file(workshop.path("model/model.safetensors")).unwrap();
        let finished = finish(&mut launch(&workshop, 2, &workshop.on_recipe("sft", &[]))).expect_status(2);
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
    }
}
