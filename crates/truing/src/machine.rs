//! What this process may use of the machine: cores, memory and its limits, processor features.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use truing_model::ComputeDtype;
use truing_stages::{Machine, Probe};

use crate::local_engine;

/// Memory of the machine and of this process's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Memory {
    /// All of the machine's memory.
    pub(crate) total_bytes: Option<u64>,
    /// What can be had without swapping.
    pub(crate) available_bytes: Option<u64>,
    /// The tightest limit of the control groups this process is in (containers, Slurm, systemd).
    pub(crate) control_group_limit_bytes: Option<u64>,
    /// What that group uses already.
    pub(crate) control_group_used_bytes: Option<u64>,
}

impl Memory {
    /// What a run may count on: the smaller of what is available and what the control group leaves.
    pub(crate) fn usable_bytes(&self) -> Option<u64> {
        let left_in_group = self
            .control_group_limit_bytes
            .map(|limit| limit.saturating_sub(self.control_group_used_bytes.unwrap_or(0)));
        match (self.available_bytes, left_in_group) {
            (Some(available), Some(left)) => Some(available.min(left)),
            (available, left) => available.or(left),
        }
    }
}

/// Reads what the kernel tells. Fields stay `None` on systems without `/proc`.
pub(crate) fn memory() -> Memory {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (limit, used) = control_group_memory(Path::new("/sys/fs/cgroup"), "/proc/self/cgroup".as_ref());
    Memory {
        total_bytes: kib_field(&meminfo, "MemTotal:"),
        available_bytes: kib_field(&meminfo, "MemAvailable:"),
        control_group_limit_bytes: limit,
        control_group_used_bytes: used,
    }
}

/// Most memory that this process has held so far.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Most memory that another process has held so far.
pub(crate) fn peak_bytes_of(pid: u32) -> Option<u64> {
    kib_field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// Memory that this process holds now.
pub(crate) fn resident_bytes() -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Share of a matrix product's rate that a whole training step reaches, for estimates of time.
const STEP_SHARE: f64 = 0.7;

/// Rate that a training step can be expected to reach, in GFLOP/s. Takes a moment.
pub(crate) fn measure_step_gigaflops() -> f64 {
    STEP_SHARE
        * match local_engine::own_dtype() {
            ComputeDtype::F32 => truing_kernels::measure_matmul_gflops(),
            ComputeDtype::Bf16 => truing_kernels::measure_bf16_matmul_gflops(),
        }
}

/// Rate at which this machine reads memory, in GB/s. Takes a moment, and half a GiB for that moment.
pub(crate) fn measure_gigabytes_per_second() -> f64 {
    truing_kernels::measure_read_bandwidth() / 1e9
}

/// This machine as it is now, for a stage. If the system does not report its memory, all is allowed.
pub(crate) fn for_stages(n_threads: usize, gigaflops: f64) -> Machine {
    Machine {
        n_threads,
        available_bytes: memory().usable_bytes().unwrap_or(u64::MAX),
        resident_bytes: resident_bytes().unwrap_or(0),
        gigaflops: Some(gigaflops),
        gigabytes_per_second: None,
        n_ranks: 1,
    }
}

/// Clock and memory while a stage runs.
#[derive(Debug)]
pub(crate) struct ProcessProbe {
    started: Instant,
}

impl ProcessProbe {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Probe for ProcessProbe {
    fn elapsed_secs(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn peak_resident_bytes(&self) -> Option<u64> {
        peak_resident_bytes()
    }

    fn unix_secs(&self) -> Option<f64> {
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
    }
}

/// Programs that wanted a core during the last minute, on average. `None` where the system does not report it.
pub(crate) fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// `name:   123 kB` as bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The tightest limit on the way from this process's control group up to the root, and that group's use.
/// Version 2 keeps one tree (`memory.max`), version 1 one for memory (`memory.limit_in_bytes`).
fn control_group_memory(root: &Path, membership: &Path) -> (Option<u64>, Option<u64>) {
    let Ok(text) = fs::read_to_string(membership) else { return (None, None) };
    let mut tightest: (Option<u64>, Option<u64>) = (None, None);
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (base, limit_name, used_name) = if controllers.is_empty() {
            (root.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        let relative: PathBuf = path.trim_start_matches('/').into();
        for group in relative.ancestors() {
            let folder = base.join(group);
            let read = |name: &str| -> Option<u64> {
                fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
            };
            // Version 1 says "no limit" with a huge number, version 2 with the word `max`.
            if let Some(limit) = read(limit_name).filter(|&limit| limit < 1 << 60)
                && tightest.0.is_none_or(|known| limit < known)
            {
                tightest = (Some(limit), read(used_name));
            }
        }
    }
    tightest
}

/// The processor's name as the system gives it.
pub(crate) fn processor_name() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Physical cores: distinct (package, core) pairs. `None` where the system does not report it.
pub(crate) fn n_physical_cores() -> Option<usize> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut cores = std::collections::BTreeSet::new();
    let (mut package, mut core) = (None, None);
    for line in cpuinfo.lines().chain([""]) {
        match line.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
            Some(("physical id", id)) => package = Some(id),
            Some(("core id", id)) => core = Some(id),
            None => cores.extend(package.take().zip(core.take())),
            Some(_) => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Vector extensions of this processor that matter to matrix products, found at run time.
pub(crate) fn processor_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
            ("avx", std::is_x86_feature_detected!("avx")),
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
        ];
        features.extend(found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        if std::arch::is_aarch64_feature_detected!("neon") {
            features.push("neon");
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_is_read_as_bytes() {
        let text = "MemTotal:       24576000 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(kib_field(text, "MemAvailable:"), Some(1024 * 1024));
        assert_eq!(kib_field(text, "Swap:"), None);
    }

    #[test]
    fn the_tightest_control_group_on_the_way_up_counts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(folder.path().join("outer/memory.max"), "4096\n").unwrap();
        fs::write(folder.path().join("outer/memory.current"), "1000\n").unwrap();
        let membership = folder.path().join("membership");
        fs::write(&membership, "0::/outer/inner\n").unwrap();
        assert_eq!(control_group_memory(folder.path(), &membership), (Some(4096), Some(1000)));
    }

    #[test]
    fn the_smaller_of_available_and_left_in_the_group_is_usable() {
        let memory = Memory {
            total_bytes: Some(100),
            available_bytes: Some(80),
            control_group_limit_bytes: Some(50),
            control_group_used_bytes: Some(10),
        };
        assert_eq!(memory.usable_bytes(), Some(40));
        assert_eq!(Memory::default().usable_bytes(), None);
    }
}
