//! Own namespaces, and a file tree with little in it.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Where the new tree is put together. It exists on every Linux and is not needed once the user is mapped.
const NEW_ROOT: &str = "/proc";

/// Files and folders in `/tmp`.
const MAX_FILES: usize = 4096;

/// Identity inside; without privileges after `exec`.
const INSIDE_ID: u32 = 1000;

/// Enters new namespaces with this user as the only one. The process must have one thread.
pub(super) fn enter() -> io::Result<()> {
    // SAFETY: no pointers; both calls cannot fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: no pointers; only this process changes.
    check(unsafe { libc::unshare(flags) })?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{INSIDE_ID} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{INSIDE_ID} {group} 1"))
}

/// Makes a tree of the readable directories, three devices and an empty `/tmp` the only one there is.
pub(super) fn change_root(readable: &[PathBuf], tmp_bytes: u64) -> io::Result<()> {
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    let root = Path::new(NEW_ROOT);
    let tmpfs = Some("tmpfs");
    mount(tmpfs.map(Path::new), root, tmpfs, libc::MS_NOSUID | libc::MS_NODEV, Some("size=1m,mode=755"))?;
    for path in readable {
        let inside = root.join(path.strip_prefix("/").map_err(io::Error::other)?);
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if let Some(parent) = inside.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if metadata.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(path)?, &inside)?;
            continue;
        }
        std::fs::create_dir_all(&inside).or_else(|error| match inside.is_dir() {
            true => Ok(()),
            false => Err(error),
        })?;
        mount(Some(path), &inside, None, libc::MS_BIND | libc::MS_REC, None)?;
        set_attributes(&inside, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)?;
    }
    std::fs::create_dir_all(root.join("dev"))?;
    for device in ["null", "zero", "urandom"] {
        let inside = root.join("dev").join(device);
        std::fs::write(&inside, "")?;
        mount(Some(&Path::new("/dev").join(device)), &inside, None, libc::MS_BIND, None)?;
        // Bytes can be written to a device on a read-only mount, but its mode cannot be changed.
        set_attributes(&inside, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC)?;
    }
    let tmp = root.join("tmp");
    std::fs::create_dir_all(&tmp)?;
    // Empty files take memory that their size does not count.
    let options = format!("size={tmp_bytes},nr_inodes={MAX_FILES},mode=700");
    mount(
        tmpfs.map(Path::new),
        &tmp,
        tmpfs,
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        Some(&options),
    )?;
    mount(
        None,
        root,
        None,
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
        None,
    )?;
    std::env::set_current_dir(root)?;
    // SAFETY: both paths are live C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } as i32)?;
    // SAFETY: the path is a live C string. The old root lies on top of the new one and is let go.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    std::env::set_current_dir("/tmp")
}

fn set_attributes(path: &Path, attr_set: u64) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: `mount_attr` is plain integers, for which zero is valid.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = attr_set;
    // SAFETY: the path is a live C string and the structure has the given length.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    } as i32)
}

fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
    options: Option<&str>,
) -> io::Result<()> {
    let source = source.map(c_string).transpose()?;
    let target_text = c_string(target)?;
    let kind = kind.map(CString::new).transpose()?;
    let options = options.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: each pointer is null or to a C string that lives past the call.
    let result = unsafe {
        libc::mount(pointer(&source), target_text.as_ptr(), pointer(&kind), flags, pointer(&options).cast())
    };
    check(result)
        .map_err(|error| io::Error::new(error.kind(), format!("mount {}: {error}", target.display())))
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
