//! Every step on a synthetic pool, timed, with the peak memory of the process so far.

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;
use truing_prompts::clean::{CleanOptions, CleanReport, Cleaner};
use truing_prompts::clustering::{KmeansOptions, Vectors, coarse_and_fine, normalised};
use truing_prompts::decontamination::{DecontaminationOptions, EvaluationIndex};
use truing_prompts::duplicates::{ExactDuplicates, NearDuplicateOptions, near_duplicates};
use truing_prompts::selection::{SelectionOptions, Target, select};
use truing_prompts::templates::{TemplateOptions, mine_templates};
use truing_prompts::tokens::{LetterCase, TokenPool};
use truing_prompts::triplets::{TripletOptions, mine_triplets};
use truing_types::Seed;

use crate::synthetic::Synthetic;

/// Prints a line for each step: time by the clock and of all processors, and the peak memory.
struct Clock {
    started: Instant,
    last: Instant,
    last_processor_seconds: f64,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { started: now, last: now, last_processor_seconds: processor_seconds() }
    }

    fn tell(&mut self, step: &str, outcome: String) {
        let (seconds, processor_seconds) = (self.last.elapsed().as_secs_f64(), processor_seconds());
        let of_step = processor_seconds - self.last_processor_seconds;
        println!("{step:<28} {seconds:>9.2} s {of_step:>9.2} s CPU {:>8} MiB  {outcome}", peak_mebibytes());
        (self.last, self.last_processor_seconds) = (Instant::now(), processor_seconds);
    }
}

/// Seconds of all processors that the process has used; 0 where the system does not say.
fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let statistics = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which ends in a bracket, fields 14 and 15 are the twelfth and the thirteenth.
    let fields = statistics.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

fn peak_mebibytes() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.map_or("-".to_owned(), |kibibytes| (kibibytes / 1024).to_string())
}

/// Templates alone, on a pool without repetitions.
pub(crate) fn templates(n_prompts: usize) {
    let synthetic = Synthetic::new(Seed(7), n_prompts);
    println!("{n_prompts} prompts, {} templates, {} topics", synthetic.n_templates, synthetic.n_topics);
    let mut clock = Clock::start();
    let (mut pool, mut seen) = (TokenPool::new(LetterCase::Kept), ExactDuplicates::default());
    let mut made_by = Vec::new();
    for first in (0..n_prompts).step_by(8192) {
        let rows = first..n_prompts.min(first + 8192);
        let prompts: Vec<_> = rows.into_par_iter().map(|row| synthetic.prompt(row)).collect();
        for prompt in prompts {
            if seen.insert(&prompt.text).is_none() {
                pool.push(&prompt.text).unwrap();
                made_by.push((prompt.template, prompt.topic));
            }
        }
    }
    drop(seen);
    clock.tell("made", format!("{} prompts", pool.len()));
    let near = near_duplicates(&pool, None, &NearDuplicateOptions::default()).unwrap();
    let mut is_dropped = vec![false; pool.len()];
    near.iter().for_each(|duplicate| is_dropped[duplicate.row as usize] = true);
    pool.retain(|row| !is_dropped[row]);
    let mut kept = is_dropped.iter().map(|is_dropped| !is_dropped);
    made_by.retain(|_| kept.next().unwrap());
    clock.tell("near duplicates", format!("{} left", pool.len()));
    let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    clock.tell("templates", quality(&set.template_of_row, &made_by, set.templates.len()));
}

pub(crate) fn run(n_prompts: usize, dim: usize) {
    let synthetic = Synthetic::new(Seed(7), n_prompts);
    println!(
        "{n_prompts} prompts, {} templates, {} topics, vectors of {dim}",
        synthetic.n_templates, synthetic.n_topics
    );
    let mut clock = Clock::start();

    let mut evaluations = EvaluationIndex::new(DecontaminationOptions::default()).unwrap();
    evaluations
        .add("every 1000th prompt", (0..n_prompts).step_by(1000).map(|row| synthetic.prompt(row).text))
        .unwrap();
    let cleaner = Cleaner::new(CleanOptions::default()).unwrap();
    let (mut report, mut seen) = (CleanReport::default(), ExactDuplicates::default());
    let mut pool = TokenPool::new(LetterCase::Kept);
    let (mut vectors, mut made_by) = (Vec::<f32>::new(), Vec::new());
    let (mut n_repeated, mut n_contaminated) = (0, 0);
    for first in (0..n_prompts).step_by(8192) {
        let rows = first..n_prompts.min(first + 8192);
        let prepared: Vec<_> = rows
            .into_par_iter()
            .map(|row| {
                let prompt = synthetic.prompt(row);
                let cleaned = cleaner.clean(&prompt.text);
                let text = cleaned.as_ref().map_or("", |cleaned| &cleaned.text);
                let (is_contaminated, vector) = (evaluations.find(text).is_some(), word_vector(text, dim));
                (cleaned, is_contaminated, vector, (prompt.template, prompt.topic))
            })
            .collect();
        for (cleaned, is_contaminated, vector, made) in prepared {
            report.record(&cleaned);
            let Ok(cleaned) = cleaned else { continue };
            if seen.insert(&cleaned.text).is_some() {
                n_repeated += 1;
            } else if is_contaminated {
                n_contaminated += 1;
            } else {
                pool.push(&cleaned.text).unwrap();
                vectors.extend(vector);
                made_by.push(made);
            }
        }
    }
    drop((seen, evaluations));
    let outcome = format!("{} clean, {n_repeated} repeated, {n_contaminated} contaminated", report.n_kept);
    clock.tell("made, cleaned, exact, 13-gram", outcome);

    let near = near_duplicates(&pool, None, &NearDuplicateOptions::default()).unwrap();
    let mut is_dropped = vec![false; pool.len()];
    near.iter().for_each(|duplicate| is_dropped[duplicate.row as usize] = true);
    pool.retain(|row| !is_dropped[row]);
    let mut row = 0;
    made_by.retain(|_| {
        row += 1;
        !is_dropped[row - 1]
    });
    let kept = |row: &usize| !is_dropped[*row];
    let rows: Vec<usize> = (0..is_dropped.len()).filter(kept).collect();
    for (to, &from) in rows.iter().enumerate() {
        vectors.copy_within(from * dim..(from + 1) * dim, to * dim);
    }
    vectors.truncate(rows.len() * dim);
    clock.tell("near duplicates", format!("{} dropped, {} left", near.len(), pool.len()));

    let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    clock.tell("templates", quality(&set.template_of_row, &made_by, set.templates.len()));

    let vectors = Vectors::new(&vectors, dim).unwrap();
    let n_clusters = (pool.len() as f64).sqrt() as usize;
    let clusters = coarse_and_fine(vectors, &KmeansOptions { n_clusters, ..Default::default() }, 64).unwrap();
    clock.tell("coarse and fine clusters", format!("{n_clusters} coarse"));

    let found = mine_triplets(&set, &clusters, vectors, &TripletOptions::default()).unwrap();
    let template = |row: u32| made_by[row as usize].0;
    let is_right = |a: u32, b: u32| template(a).is_some() && template(a) == template(b);
    let n_right = found.triplets.iter().filter(|t| is_right(t.anchor, t.positive)).count();
    let n_wrong = found.triplets.iter().filter(|t| is_right(t.anchor, t.negative)).count();
    let n = found.triplets.len() as f64;
    clock.tell(
        "triplets",
        format!("{n}, positives {:.4} right, negatives {:.4}", n_right as f64 / n, 1.0 - n_wrong as f64 / n),
    );

    let selection = select(vectors, None, Target::Ratio(0.5), &SelectionOptions::default()).unwrap();
    let layers = selection.layers.len();
    clock.tell("selection of half", format!("{} chosen, {layers} layers", selection.chosen.len()));
    let (seconds, processor_seconds) = (clock.started.elapsed().as_secs_f64(), processor_seconds());
    println!("{:<28} {seconds:>9.2} s {processor_seconds:>9.2} s CPU {:>8} MiB", "all", peak_mebibytes());
}

/// Each word at the place and with the sign its letters hash to; small words count little.
fn word_vector(text: &str, dim: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dim];
    for word in text.split_whitespace() {
        let hash = word
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        let weight = if word.len() < 6 { 0.1 } else { 1.0 };
        vector[(hash >> 33) as usize % dim] += if hash >> 63 == 0 { weight } else { -weight };
    }
    normalised(Vectors::new(&vector, dim).unwrap())
}

/// Templates found against those that made the prompts.
fn quality(found: &[Option<u32>], made_by: &[(Option<usize>, usize)], n_templates: usize) -> String {
    let mut labels: Vec<BTreeMap<Option<usize>, usize>> = vec![BTreeMap::new(); n_templates];
    for (found, &(template, _)) in found.iter().zip(made_by) {
        if let Some(found) = found {
            *labels[*found as usize].entry(template).or_default() += 1;
        }
    }
    let n: usize = labels.iter().flat_map(BTreeMap::values).sum();
    let majority: usize = labels.iter().filter_map(|labels| labels.values().max()).sum();
    let made = made_by.iter().filter(|made| made.0.is_some()).count();
    format!("{n_templates} found, {n} prompts of {made}, purity {:.4}", majority as f64 / n as f64)
}
