//! The sandbox's child on its own, for the tests of this crate: `truing` has the same as a hidden sub-command.
//! Arguments before the command take away what a machine may lack: `no-namespaces`, `no-landlock`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let status = match &arguments[..] {
        [lacking @ .., command, argument] if command == truing_reward::sandbox::CHILD_COMMAND => {
            take_away(lacking).map_or(64, |()| truing_reward::sandbox::child_main(argument))
        }
        _ => 64,
    };
    std::process::exit(status);
}

/// Makes system calls fail as on a machine without the mechanism.
#[cfg(target_os = "linux")]
fn take_away(lacking: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    for name in lacking {
        let (call, errno) = match name.as_str() {
            "no-namespaces" => (libc::SYS_unshare, libc::EPERM),
            "no-landlock" => (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
            _ => return Err(format!("nothing is called {name}").into()),
        };
        let action = SeccompAction::Errno(errno as u32);
        let arch = std::env::consts::ARCH.try_into()?;
        let filter = SeccompFilter::new([(call, vec![])].into(), SeccompAction::Allow, action, arch)?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn take_away(_lacking: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    Ok(())
}
