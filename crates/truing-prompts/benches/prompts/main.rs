//! Speed and scale of the steps from pool to chosen prompts.
//!
//! - `cargo bench -p truing-prompts --bench prompts -- lcs FILE`: LCS of all pairs of the lines of a text file, on
//!   characters and on words, one thread, and of random candidate pairs as the miners ask for them.
//! - `... -- kmeans FILE DIM K...`: k-means on little-endian `f32` rows of a file.
//! - `... -- write FILE N DIM`: writes such a file, unit vectors in 300 uneven heaps.
//! - `... -- scale N [DIM]`: every step on N synthetic prompts (`synthetic.rs`): seconds, and the process's peak
//!   memory.
//! - `... -- templates N`: templates of N synthetic prompts, alone.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]

mod scale;
mod synthetic;

use std::time::Instant;
use truing_prompts::clustering::{KmeansOptions, Vectors, kmeans, normalised};
use truing_prompts::lcs::LcsMatcher;
use truing_prompts::tokens::TokenPool;
use truing_types::Seed;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["lcs", file] => lcs(file),
        ["kmeans", file, dim, clusters @ ..] => k_means(file, dim.parse().unwrap(), clusters),
        ["write", file, n, dim] => write(file, n.parse().unwrap(), dim.parse().unwrap()),
        ["templates", n] => scale::templates(n.parse().unwrap()),
        ["scale", n] => scale::run(n.parse().unwrap(), 64),
        ["scale", n, dim] => scale::run(n.parse().unwrap(), dim.parse().unwrap()),
        _ => scale::run(10_000, 64),
    }
}

/// Seconds that this thread has run; of the clock, where the system does not say. On a machine that others use too, one
/// thread's speed is told by the former.
fn thread_seconds() -> f64 {
    static STARTED: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = statistics.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
    nanoseconds.map_or_else(|| STARTED.elapsed().as_secs_f64(), |nanoseconds| nanoseconds as f64 / 1e9)
}

fn lcs(file: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let characters: Vec<Vec<u32>> = lines.iter().map(|line| line.chars().map(u32::from).collect()).collect();
    let pool = TokenPool::of(&lines).unwrap();
    let words: Vec<Vec<u32>> = (0..pool.len()).map(|row| pool.row(row).to_vec()).collect();
    println!(
        "{:<12} {:>8} {:>6} {:>18} {:>18} {:>16}",
        "symbols", "lines", "mean", "all pairs, M/s", "candidates, M/s", "sum"
    );
    for (name, lists) in [("characters", &characters), ("words", &words)] {
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let mean = lists.iter().map(|list| list.len()).sum::<usize>() / lists.len();
        let mut matcher = LcsMatcher::default();
        let mut sum = 0;
        let started = thread_seconds();
        matcher.all_pairs(&lists, &lists, |_, _, length| sum += length);
        let all = (lists.len() * lists.len()) as f64 / (thread_seconds() - started) / 1e6;
        let n_candidates = 64;
        let started = thread_seconds();
        for (row, list) in lists.iter().enumerate() {
            let others: Vec<&[u32]> =
                (1..=n_candidates).map(|i| lists[(row + i * 37) % lists.len()]).collect();
            std::hint::black_box(matcher.one_to_many(list, &others, |_| 0));
        }
        let some = (lists.len() * n_candidates) as f64 / (thread_seconds() - started) / 1e6;
        println!("{name:<12} {:>8} {mean:>6} {all:>18.2} {some:>18.2} {sum:>16}", lists.len());
    }
}

fn k_means(file: &str, dim: usize, clusters: &[&str]) {
    let bytes = std::fs::read(file).unwrap();
    let data: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let vectors = Vectors::new(&data, dim).unwrap();
    println!(
        "{:>9} {:>5} {:>6} {:>5} {:>9} {:>12} {:>10}",
        "rows", "dim", "k", "seed", "seconds", "inertia", "iterations"
    );
    for n_clusters in clusters {
        for seed in 0..3 {
            let n_clusters = n_clusters.parse().unwrap();
            let options = KmeansOptions { n_clusters, seed: Seed(seed), ..Default::default() };
            let started = Instant::now();
            let found = kmeans(vectors, &options).unwrap();
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{:>9} {dim:>5} {n_clusters:>6} {seed:>5} {seconds:>9.3} {:>12.2} {:>10}",
                vectors.len(),
                found.inertia,
                found.n_iterations
            );
        }
    }
}

fn write(file: &str, n: usize, dim: usize) {
    let centres = Seed(1).normals("centres", 300 * dim, 1.0);
    let mut data = Seed(2).normals("rows", n * dim, 1.1);
    for (row, vector) in data.chunks_exact_mut(dim).enumerate() {
        // Heap h has about twice as many rows as heap h + 100.
        let heap = (300.0 * ((row as f64 * 0.618_033_988_75).fract()).powf(1.6)) as usize;
        vector.iter_mut().zip(&centres[heap * dim..]).for_each(|(x, c)| *x += c);
    }
    let unit = normalised(Vectors::new(&data, dim).unwrap());
    let bytes: Vec<u8> = unit.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(file, bytes).unwrap();
}
