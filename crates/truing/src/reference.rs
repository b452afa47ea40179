//! The reference of all commands, `docs/commands.md`, is what they print as their help.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use crate::Cli;

const HEAD: &str = "\
# Command reference

What `--help` prints, for every command. This page is generated. Recipes are described in [their own \
reference](recipes.md).
";

/// A command's help, then that of each of its subcommands.
fn write_help(mut command: Command, name: &str, page: &mut String) {
    let subcommands: Vec<Command> =
        command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
    command = command.bin_name(name).disable_help_subcommand(true);
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = write!(page, "\n## `{name}`\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    for subcommand in subcommands {
        let name = format!("{name} {}", subcommand.get_name());
        write_help(subcommand, &name, page);
    }
}

/// `TRUING_WRITE_REFERENCE=1 cargo test -p truing` writes the page anew.
#[test]
fn the_reference_of_commands_is_fresh() {
    let mut fresh = HEAD.to_owned();
    let mut command = Cli::command();
    // Options of every command reach its subcommands.
    command.build();
    write_help(command, "truing", &mut fresh);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
    if std::env::var_os("TRUING_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let differing =
        "docs/commands.md is not what the commands print: TRUING_WRITE_REFERENCE=1 writes it anew";
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == fresh, "{differing}");
}

/// The words of a command line: quoted ones are one word, and what is redirected is not part of it.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" > ").next().unwrap_or(line);
    let mut words = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Every command has an example, and the examples are command lines that it takes.
#[test]
fn every_example_of_a_help_is_a_command_line() {
    fn check(command: &Command, n_checked: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> =
            help.lines().filter_map(|line| Some(&line[line.find("truing ")?..])).collect();
        assert!(!examples.is_empty(), "{} has no example", command.get_name());
        for example in examples {
            let parsed = <Cli as clap::Parser>::try_parse_from(words(example));
            assert!(
                parsed.is_ok(),
                "{example}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
            *n_checked += 1;
        }
        command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
            .for_each(|sub| check(sub, n_checked));
    }
    let mut n_checked = 0;
    check(&Cli::command(), &mut n_checked);
    assert!(n_checked > 30, "{n_checked}");
}
