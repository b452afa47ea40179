//! Vectors that need no model, and pools that need no file.

use truing_prompts::clustering::Vectors;
use truing_prompts::clustering::normalised;
use truing_prompts::tokens::{TokenPool, split};
use truing_types::Seed;

pub(crate) const DIM: usize = 64;

/// For each text a unit vector: its words, each in lower case at the place and with the sign that its letters hash to.
pub(crate) fn word_vectors<T: AsRef<str>>(texts: &[T]) -> Vec<f32> {
    let mut data = vec![0.0; texts.len() * DIM];
    for (text, vector) in texts.iter().zip(data.chunks_exact_mut(DIM)) {
        for (_, word) in split(text.as_ref()).filter(|(_, word)| word.len() > 3) {
            let hash = word.to_lowercase().bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
            });
            vector[(hash >> 33) as usize % DIM] += if hash >> 63 == 0 { 1.0 } else { -1.0 };
        }
    }
    normalised(Vectors::new(&data, DIM).unwrap())
}

pub(crate) const TASKS: [&str; 6] = [
    "Translate the following sentence into French: {}\nTranslation:",
    "Write a short story about {}. Make it end well.",
    "Question: what should a beginner know of {}?\nAnswer in one paragraph.",
    "Summarize what is said about {} in two sentences, please.",
    "Give three reasons why {} matters to most people.",
    "请用中文写一段关于 {} 的文章，并给出结论。",
];

const TOPICS: [&str; 20] = [
    "orchards", "harbours", "violins", "glaciers", "bakeries", "comets", "looms", "beetles", "canals",
    "lanterns", "bridges", "kites", "mosses", "wells", "drums", "ferries", "quilts", "radios", "salmon",
    "towers",
];

/// Every task with every topic at four places that no other topic has: 480 prompts. The task's number is the row modulo
/// 6, the topic's the row divided by 24.
pub(crate) fn filled_tasks() -> Vec<String> {
    let place = |topic: usize, place: usize| {
        format!("{} in {}ville", TOPICS[topic], ["Ka", "Lo", "Mu", "Ne"][place].repeat(topic + 1))
    };
    let fillers = (0..20).flat_map(|topic| (0..4).map(move |number| place(topic, number)));
    fillers.flat_map(|filler| TASKS.map(|task| task.replace("{}", &filler))).collect()
}

pub(crate) fn pool(texts: &[String]) -> TokenPool {
    TokenPool::of(texts).unwrap()
}

/// Runs `work` on pools of 1, 2 and 4 threads; the outcome, which must be the same.
pub(crate) fn on_any_threads<T: PartialEq + std::fmt::Debug + Send>(work: impl Fn() -> T + Sync) -> T {
    let with = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(&work)
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(4));
    one
}

pub(crate) fn random_vectors(seed: u64, n: usize, dim: usize) -> Vec<f32> {
    Seed(seed).normals("vectors", n * dim, 1.0)
}
