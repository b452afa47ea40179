//! System calls that a sandboxed program cannot make (seccomp-bpf). Threads are allowed, processes are not; signals go
//! to the program itself only.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Filters the system calls of this process, which must not fork afterwards.
pub(super) fn apply() -> Result<(), String> {
    for filter in filters(std::process::id())? {
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// In the order in which they are to be applied.
fn filters(own_id: u32) -> Result<Vec<BpfProgram>, String> {
    // glibc falls back to `clone`, whose flags a filter can read, only when `clone3` does not exist.
    let clone3 = compile([(libc::SYS_clone3, vec![])].into(), libc::ENOSYS)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN.iter().map(|&call| (call, vec![])).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_fork, vec![]), (libc::SYS_vfork, vec![])]);
    let thread = libc::CLONE_THREAD as u64;
    let makes_process = (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0);
    rules.insert(libc::SYS_clone, vec![rule(makes_process)?]);
    let is_another = (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(own_id));
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(is_another.clone())?]);
    }
    let mut filters = vec![clone3, compile(rules, libc::EPERM)?];
    #[cfg(target_arch = "x86_64")]
    filters.insert(0, without_x32());
    Ok(filters)
}

/// A rule on the first argument.
fn rule(condition: (SeccompCmpArgLen, SeccompCmpOp, u64)) -> Result<SeccompRule, String> {
    let (length, operator, value) = condition;
    SeccompCondition::new(0, length, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| error.to_string())
}

/// The same calls have a second set of numbers, which the other filters do not know.
#[cfg(target_arch = "x86_64")]
fn without_x32() -> BpfProgram {
    const FIRST: u32 = 0x4000_0000;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let step = |code: u32, jt, jf, k| seccompiler::sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The call's number is the first word.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FIRST),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, REFUSE),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ]
}

const FORBIDDEN: &[i64] = &[
    // the network
    libc::SYS_socket,
    libc::SYS_socketpair,
    // another room
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // out of the group that is ended with it
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // the kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| "no seccomp for this processor".to_owned())?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}
