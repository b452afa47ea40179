//! How often intervals hold the truth and tests reject it, by simulation with known truth:
//! `cargo run --release -p truing-statistics --example interval_coverage -- docs/results/interval_coverage.md`.

mod study;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("expected the file to write as the only argument")?;
    std::fs::write(path, study::page(study::N_COMPARISONS))?;
    Ok(())
}
