//! The sandbox, with a real shell.
#![allow(clippy::print_stderr, reason = "says why a test was skipped")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use truing_reward::sandbox::{Ending, Isolation, Launcher, Level, Limits, Output, SandboxError, isolation};

pub(crate) fn child() -> PathBuf {
    env!("CARGO_BIN_EXE_truing-sandbox-child").into()
}

/// A child on a machine that lacks these mechanisms.
pub(crate) fn lacking(folder: &tempfile::TempDir, mechanisms: &str) -> PathBuf {
    let path = folder.path().join("child");
    std::fs::write(&path, format!("#!/bin/sh\nexec '{}' {mechanisms} \"$@\"\n", child().display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What there is here; says why where it is less than `wanted`.
pub(crate) fn has(wanted: Level) -> bool {
    let found = isolation(&child());
    let has = if wanted == Level::Landlock {
        matches!(found.level, Level::Landlock | Level::Full)
    } else {
        found.level >= wanted
    };
    if !has {
        eprintln!("skipped: {wanted:?} is wanted, here is {found}");
    }
    has
}

fn shell(launcher: &Launcher, script: &str) -> Result<Output, SandboxError> {
    launcher.run(&["/bin/sh".into(), "-c".into(), script.into()], "")
}

#[test]
fn a_program_is_shut_in() {
    if !has(Level::Namespaces) {
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let launcher = Launcher::new(child(), Limits::default());
    let look = |script: &str| shell(&launcher, script).unwrap();
    // The shell's own words only: it cannot start a process.
    let output = look("echo hello; echo $HOME; cat $0 2>/dev/null; pwd");
    assert_eq!((output.ending, output.stdout.as_str()), (Ending::Failed, "hello\n/tmp\n"), "{output:?}");
    let output = look(&format!("read line < {} && echo $line", secret.path().display()));
    assert_eq!((output.ending, output.stdout.as_str()), (Ending::Failed, ""));
    for file in ["/usr/written", "/written", "/dev/written", "/proc/self/status"] {
        assert_eq!(look(&format!("echo x > {file}")).ending, Ending::Failed, "{file}");
    }
    assert_eq!(look("read line < /proc/self/status").ending, Ending::Failed);
    assert_eq!(look("echo x > /tmp/written && read line < /tmp/written").ending, Ending::Succeeded);
    assert_eq!(look("(echo forked)").stdout, "");
    assert_eq!(look("kill -9 $$").ending, Ending::Killed);
    assert_eq!(look("kill -9 1 || kill -9 -1 || kill -9 0").ending, Ending::Failed);
    assert_eq!(look("exit 125").ending, Ending::Failed);
    let output = look("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done");
    assert!(output.is_cut && output.stdout.len() == Limits::default().output_bytes);
    let short = Launcher::new(child(), Limits { wall_millis: 300, ..Limits::default() });
    assert_eq!(shell(&short, "while :; do :; done").unwrap().ending, Ending::TimedOut);
}

#[test]
fn landlock_alone_shuts_files_off() {
    if !has(Level::Landlock) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let launcher = Launcher::new(lacking(&folder, "no-namespaces"), Limits::default());
    let found = launcher.isolation();
    assert_eq!(found.level, Level::Landlock, "{found}");
    assert!(found.to_string().starts_with("Landlock, seccomp and limits; namespaces: "), "{found}");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let look = |script: &str| shell(&launcher, script).unwrap().ending;
    assert_eq!(look("read line < /bin/sh; echo x > /dev/null"), Ending::Succeeded);
    for file in [secret.to_str().unwrap(), "/etc/passwd", "/proc/self/status", "/proc/1/status"] {
        assert_eq!(look(&format!("read line < {file}")), Ending::Failed, "{file}");
    }
    assert_eq!(look("echo x > /tmp/truing-sandbox-written"), Ending::Failed);
    assert_eq!(look("(echo forked)"), Ending::Failed);
    assert_eq!(look(&format!("kill -0 {}", std::process::id())), Ending::Failed);
}

#[test]
fn namespaces_do_without_landlock() {
    if !has(Level::Namespaces) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let found = isolation(&lacking(&folder, "no-landlock"));
    assert_eq!(found.level, Level::Namespaces, "{found}");
    assert!(found.to_string().starts_with("namespaces, seccomp and limits; Landlock: "), "{found}");
}

#[test]
fn nothing_runs_unsandboxed_unless_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = Launcher::new(lacking(&folder, "no-namespaces no-landlock"), Limits::default());
    let Isolation { level, missing } = launcher.isolation();
    assert_eq!((*level, missing.len()), (Level::Nothing, 2), "{missing:?}");
    let error = shell(&launcher, "echo ran").unwrap_err().to_string();
    assert!(error.starts_with("no sandbox: namespaces: ") && error.contains("; Landlock: "), "{error}");
    launcher.allow_unsandboxed = true;
    assert_eq!(shell(&launcher, "echo ran").unwrap().stdout, "ran\n");
    // What can be had is taken all the same.
    assert_eq!(shell(&launcher, "(echo forked)").unwrap().stdout, "");
    let absent = Launcher::new(folder.path().join("absent"), Limits::default());
    assert!(shell(&absent, "echo ran").is_err());
}

#[test]
fn a_program_and_its_peer_talk() {
    if !has(Level::Landlock) && !has(Level::Namespaces) {
        return;
    }
    let launcher = Launcher::new(child(), Limits::default());
    let sh = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned(), "sh".to_owned()];
    let talk = |script: &str, peer: &str| launcher.run_pair(&sh(script), &sh(peer), "three\n").unwrap();
    // `$1` and `$2` are the descriptors; a shell wants them in front of `<` and `>` only as digits.
    let ask = r#"read word; eval "echo $word >&$2; read answer <&$1"; echo "got $answer""#;
    let output = talk(ask, r#"read word; echo "$word three""#);
    assert_eq!(
        (output.ending, output.stdout.as_str()),
        (Ending::Succeeded, "got three three\n"),
        "{output:?}"
    );
    // The peer's own output, descriptors and parent are out of its reach.
    let output =
        talk("read word; eval \"read line <&$1\"", "echo forged >&3; echo forged > /proc/$PPID/fd/1");
    assert_eq!(output.stdout, "", "{output:?}");
    let lost = r#"eval "read answer <&$1" || exit 3"#;
    assert_eq!(talk(lost, "exit 0").ending, Ending::PeerLeft);
    assert_eq!(talk(lost, "kill -9 $$").ending, Ending::Killed);
    assert!(matches!(
        launcher.run_pair(&sh("exit 0"), &["/no/such/program".to_owned()], ""),
        Err(SandboxError::Unavailable(_))
    ));
}
