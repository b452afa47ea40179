//! The machine and the time, as arguments of a stage. Libraries read neither themselves.

/// What a run may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Threads to compute with.
    pub n_threads: usize,
    /// Memory that this process could still take.
    pub available_bytes: u64,
    /// Memory that this process holds now.
    pub resident_bytes: u64,
    /// Rate that a training step reaches, in GFLOP/s, for estimates of time; `None` where it was not measured.
    pub gigaflops: Option<f64>,
    /// Rate at which memory is read, in GB/s, for estimates of the time of decoding; `None` where it was not measured.
    pub gigabytes_per_second: Option<f64>,
    /// Ranks of the run.
    pub n_ranks: usize,
}

/// Looks at clock and memory while a stage runs.
pub trait Probe {
    /// Seconds since any fixed moment.
    fn elapsed_secs(&self) -> f64;
    /// The most memory that this process has held so far.
    fn peak_resident_bytes(&self) -> Option<u64>;
    /// The time of day in seconds since 1970, for names and records; `None` where there is no clock.
    fn unix_secs(&self) -> Option<f64> {
        None
    }
}
