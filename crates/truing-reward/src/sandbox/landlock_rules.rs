//! What a sandboxed program may do to files, by Landlock: read and execute some directories, write to three devices
//! and, in a file tree of its own, to `/tmp`. It signals nobody outside and opens no TCP connection, where the kernel
//! knows these rules.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rules this was tried with. Older kernels enforce those that they know.
const NEWEST: ABI = ABI::V7;

/// Restricts this process for good, or says why not.
pub(super) fn restrict(readable: &[PathBuf], has_own_tmp: bool) -> Result<(), String> {
    let status = enforce(readable, has_own_tmp).map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(format!("the kernel says {:?}", status.landlock)),
        _ => Ok(()),
    }
}

fn enforce(readable: &[PathBuf], has_own_tmp: bool) -> Result<RestrictionStatus, RulesetError> {
    let devices = ["/dev/null", "/dev/zero", "/dev/urandom"];
    let writable: &[&str] = if has_own_tmp { &["/tmp"] } else { &[] };
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(devices, AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(NEWEST)))?
        .restrict_self()
}
