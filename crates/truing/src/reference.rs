//! The reference of all commands, `docs/commands.md`, is what they print as their help.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use crate::Cli;

const HEAD: &str = "\
# Command reference

What `--help` prints, for every command. This page is generated. Recipes are described in [their own reference](recipes.md).
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
