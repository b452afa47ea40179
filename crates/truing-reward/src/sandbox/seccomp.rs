//! System calls that a sandboxed program cannot make (seccomp-bpf). It can start threads but no process, and acts on no
//! process but itself.
//!
//! The list was made from the calls of Linux 6.18. Calls that came later do not exist for a program.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What the filter must refuse because nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// The program has a file tree of its own, read only but for `/tmp`.
    OwnTree,
    /// The program sees all files, and Landlock guards their content. It does not guard modes, owners, times and
    /// attributes, nor lengths before Linux 6.2.
    GuardedByLandlock,
    /// The program may change files.
    Unguarded,
}

/// Filters the system calls of this process, which must not fork afterwards.
pub(super) fn apply(files: Files) -> Result<(), String> {
    for filter in filters(std::process::id(), files)? {
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// In the order in which they are to be applied.
fn filters(own_id: u32, files: Files) -> Result<Vec<BpfProgram>, String> {
    let mut rules: Rules = FORBIDDEN.iter().map(|&call| (call, vec![])).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_fork, libc::SYS_vfork, libc::SYS_iopl, libc::SYS_ioperm].map(|call| (call, vec![])),
    );
    #[cfg(target_arch = "x86_64")]
    rules.extend([libc::SYS_inotify_init, libc::SYS_modify_ldt].map(|call| (call, vec![])));
    rules.extend(on_others(own_id)?);
    // glibc falls back to `clone`, whose flags a filter can read, only when `clone3` does not exist.
    let mut absent: Rules = [(libc::SYS_clone3, vec![])].into();
    if files == Files::GuardedByLandlock {
        rules.extend(FILE_ATTRIBUTES.iter().map(|&call| (call, vec![])));
        #[cfg(target_arch = "x86_64")]
        rules.extend(OLD_FILE_ATTRIBUTES.iter().map(|&call| (call, vec![])));
        rules.extend(opening_without_reading()?);
        // Its flags are in memory, where no filter can read them.
        absent.insert(libc::SYS_openat2, vec![]);
    }
    Ok(vec![without_later_calls(), compile(absent, libc::ENOSYS)?, compile(rules, libc::EPERM)?])
}

/// Calls that are refused unless they are about the program itself.
fn on_others(own_id: u32) -> Result<Rules, String> {
    let other_than = |argument, own: &[u32]| -> Result<SeccompRule, String> {
        let conditions = own.iter().map(|&id| condition(argument, SeccompCmpOp::Ne, u64::from(id)));
        SeccompRule::new(conditions.collect::<Result<_, _>>()?).map_err(|error| error.to_string())
    };
    let is = |argument, value: u64| -> Result<SeccompRule, String> {
        SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, value)?])
            .map_err(|error| error.to_string())
    };
    let mut rules = Rules::new();
    // Zero is the own process group for signals, and the caller for all others.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![other_than(0, &[own_id])?]);
    }
    for call in ON_ONE_PROCESS {
        rules.insert(*call, vec![other_than(0, &[0, own_id])?]);
    }
    // The first argument says whether the second is a process, a group or a user.
    for (call, process) in
        [(libc::SYS_setpriority, libc::PRIO_PROCESS), (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS)]
    {
        rules.insert(call, vec![other_than(0, &[process])?, other_than(1, &[0, own_id])?]);
    }
    let arguments = |argument, values: &[i64]| -> Result<Vec<SeccompRule>, String> {
        values.iter().map(|&value| is(argument, value as u64)).collect()
    };
    rules.insert(libc::SYS_fcntl, arguments(1, FILE_COMMANDS)?);
    rules.insert(libc::SYS_ioctl, vec![other_than(1, DEVICE_COMMANDS)?]);
    rules.insert(libc::SYS_prctl, arguments(0, PROCESS_COMMANDS)?);
    let thread = libc::CLONE_THREAD as u64;
    let makes_process = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0);
    let makes_process = makes_process.and_then(|condition| SeccompRule::new(vec![condition]));
    rules.insert(libc::SYS_clone, vec![makes_process.map_err(|error| error.to_string())?]);
    Ok(rules)
}

/// Ways to open a file that Landlock takes for neither reading nor writing, although they can cut it to nothing.
fn opening_without_reading() -> Result<Rules, String> {
    let mode = libc::O_ACCMODE as u64;
    let truncate = libc::O_TRUNC as u64;
    let rules = |argument| -> Result<Vec<SeccompRule>, String> {
        [(mode, mode), (mode | truncate, truncate)]
            .into_iter()
            .map(|(mask, value)| {
                SeccompRule::new(vec![condition(argument, SeccompCmpOp::MaskedEq(mask), value)?])
                    .map_err(|error| error.to_string())
            })
            .collect()
    };
    let mut found: Rules = [(libc::SYS_openat, rules(2)?)].into();
    #[cfg(target_arch = "x86_64")]
    found.insert(libc::SYS_open, rules(1)?);
    Ok(found)
}

/// A condition on an argument of 32 bits.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        .map_err(|error| error.to_string())
}

/// Calls with numbers that the lists below do not know: later ones, and on x86-64 a second set of the same ones (x32).
fn without_later_calls() -> BpfProgram {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let step = |code: u32, jt, jf, k| seccompiler::sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The call's number is the first word.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FIRST_UNKNOWN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, REFUSE),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ]
}

/// One more than the last number of Linux 6.18. Numbers from 424 on are the same for all processors.
const FIRST_UNKNOWN: u32 = 470;

// Numbers that the crate `libc` does not have for every processor.
const FCHMODAT2: i64 = 452;
const STATMOUNT: i64 = 457;
const LISTMOUNT: i64 = 458;
const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const OPEN_TREE_ATTR: i64 = 467;
const FILE_SETATTR: i64 = 469;

const IOPRIO_WHO_PROCESS: u32 = 1;

const FORBIDDEN: &[i64] = &[
    // the network
    libc::SYS_socket,
    libc::SYS_socketpair,
    // namespaces and mounts
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    STATMOUNT,
    LISTMOUNT,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Watching files that others use; the number of watchers is limited for each user.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    // Looking into other processes and changing them
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Memory that no limit counts; that of System V and message queues also outlives the program and is open to others.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    // Leaving the group that is ended with it
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // The kernel
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    // Writing back what all processes have written
    libc::SYS_sync,
    libc::SYS_syncfs,
];

/// The first argument names a process, 0 the caller. Reading scheduling is allowed: the C library asks for that of its
/// own threads by their numbers.
const ON_ONE_PROCESS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_get_robust_list,
];

/// Signals by way of a descriptor (`F_SETOWN` and its kin end any process of the same user), and leases, which make
/// others wait for a file.
const FILE_COMMANDS: &[i64] = &[
    libc::F_SETOWN as i64,
    15, // F_SETOWN_EX
    10, // F_SETSIG
    libc::F_SETLEASE as i64,
    libc::F_NOTIFY as i64,
];

/// All that `ioctl` may do, on descriptors that are open anyway: asking whether it is a terminal and how wide, asking
/// for what can be read, and not waiting. Others set owners of signals, type into terminals or seal files for good.
const DEVICE_COMMANDS: &[u32] = &[
    libc::TCGETS as u32,
    libc::TCGETS2 as u32,
    libc::TIOCGWINSZ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
];

/// Outliving the parent, and sharing a processor core with a process of one's choice.
const PROCESS_COMMANDS: &[i64] = &[libc::PR_SET_PDEATHSIG as i64, libc::PR_SCHED_CORE as i64];

/// What Landlock does not guard, on every processor.
const FILE_ATTRIBUTES: &[i64] = &[
    libc::SYS_truncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    FILE_SETATTR,
];

/// The older names of the same.
#[cfg(target_arch = "x86_64")]
const OLD_FILE_ATTRIBUTES: &[i64] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, String> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| "no seccomp for this processor".to_owned())?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}
