//! Random edits of random pipelines, against an oracle that computes every stage from its sources.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use super::{Workshop, digests_of, pieces};

/// Numbers that are the same every time (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Source {
    File(usize),
    Stage(usize),
}

#[derive(Debug, Clone)]
struct Stage {
    value: usize,
    note: usize,
    from: Vec<Source>,
}

/// A pipeline and its files.
#[derive(Debug, Clone)]
struct Model {
    stages: Vec<Stage>,
    files: Vec<usize>,
    comment: usize,
}

impl Model {
    fn random(random: &mut Random) -> Self {
        let n_stages = 3 + random.below(6);
        let mut stages = Vec::new();
        for idx in 0..n_stages {
            let n_from = random.below(3);
            let from = (0..n_from).map(|_| Self::random_from(idx, random)).collect();
            stages.push(Stage { value: random.below(4), note: 0, from });
        }
        Self { stages, files: vec![0; 3], comment: 0 }
    }

    fn random_from(idx: usize, random: &mut Random) -> Source {
        match random.below(3) {
            0 => Source::File(random.below(3)),
            _ if idx == 0 => Source::File(random.below(3)),
            _ => Source::Stage(random.below(idx)),
        }
    }

    fn edit(&mut self, random: &mut Random) {
        let idx = random.below(self.stages.len());
        match random.below(7) {
            0 | 1 => self.stages[idx].value = random.below(4),
            2 => self.stages[idx].note += 1,
            3 => self.comment += 1,
            4 => {
                let file = random.below(self.files.len());
                self.files[file] = random.below(5);
            }
            5 => self.stages[idx].from.push(Self::random_from(idx, random)),
            _ => drop(self.stages[idx].from.pop()),
        }
    }

    fn recipe(&self) -> String {
        let mut text = format!("# Comment {}.\n", self.comment);
        // The order of the tables decides nothing.
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        if self.comment % 2 == 1 {
            order.reverse();
        }
        for idx in order {
            let Stage { value, note, from } = &self.stages[idx];
            let from = from.iter().map(|from| match from {
                Source::File(file) => format!("\"f{file}.txt\""),
                Source::Stage(stage) => format!("\"${{stages.s{stage}.out}}\""),
            });
            let from = from.collect::<Vec<_>>().join(", ");
            writeln!(text, "[stages.s{idx}]\nuses = \"mix\"").unwrap();
            writeln!(text, "with = {{ value = {value}, note = {note}, from = [{from}] }}").unwrap();
        }
        text
    }

    /// What a stage writes, found without keys.
    fn content(&self, idx: usize) -> String {
        let stage = &self.stages[idx];
        let inputs: Vec<String> = stage
            .from
            .iter()
            .map(|from| match from {
                Source::File(file) => self.files[*file].to_string(),
                Source::Stage(stage) => self.content(*stage),
            })
            .collect();
        pieces(&stage.value.to_string(), &inputs).concat()
    }

    /// A stage with all that it is made of. Unlike the content, it differs between a file and a stage that wrote the
    /// same.
    fn history(&self, idx: usize) -> String {
        let stage = &self.stages[idx];
        let from = stage.from.iter().map(|from| match from {
            Source::File(file) => format!("file {}", self.files[*file]),
            Source::Stage(stage) => self.history(*stage),
        });
        format!("({} {})", stage.value, from.collect::<Vec<_>>().join(", "))
    }

    fn write(&self, workshop: &Workshop) {
        workshop.write("pipe.toml", &self.recipe());
        for (file, content) in self.files.iter().enumerate() {
            workshop.write(&format!("f{file}.txt"), &content.to_string());
        }
    }
}

#[test]
#[cfg(unix)]
fn an_edit_runs_exactly_the_stages_that_it_affects() {
    let mut n_edits = 0;
    for seed in 1..=10 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut model = Model::random(&mut random);
        let workshop = Workshop::new("");
        let mut made: BTreeSet<String> = BTreeSet::new();
        for _ in 0..22 {
            model.write(&workshop);
            let histories: Vec<String> = (0..model.stages.len()).map(|idx| model.history(idx)).collect();
            let expected: BTreeSet<String> =
                histories.iter().filter(|history| !made.contains(*history)).cloned().collect();
            let (applied, ran) = workshop.apply(1 + random.below(3));
            assert!(applied.failed.is_empty(), "{applied:?}");
            let of_name = |name: &String| histories[name[1..].parse::<usize>().unwrap()].clone();
            let found: BTreeSet<String> = ran.iter().map(of_name).collect();
            assert_eq!(found, expected, "seed {seed}\n{}", model.recipe());
            assert_eq!(ran.len(), expected.len(), "a result is made once");
            for idx in 0..model.stages.len() {
                assert_eq!(workshop.output(&format!("s{idx}")), model.content(idx), "stale: s{idx}");
            }
            assert_eq!(workshop.apply(1).1, Vec::<String>::new(), "nothing changed");
            made.extend(histories);
            model.edit(&mut random);
            n_edits += 1;
        }
    }
    assert!(n_edits > 200);
}

#[test]
fn a_pipeline_that_fails_at_any_piece_and_continues_ends_like_one_that_does_not() {
    let mut random = Random(7);
    let model = Model::random(&mut random);
    let undisturbed = Workshop::new("");
    model.write(&undisturbed);
    let (applied, ran) = undisturbed.apply(1);
    assert!(applied.failed.is_empty() && ran.len() > 2, "{applied:?}");
    let expected = undisturbed.lock();
    for n_pieces in 0..super::N_PIECES * ran.len() as i64 {
        let workshop = Workshop::new("");
        workshop.fake.leave_pieces(n_pieces);
        model.write(&workshop);
        let (applied, _) = workshop.apply(1 + random.below(2));
        assert!(!applied.failed.is_empty(), "{n_pieces}");
        workshop.fake.leave_pieces(i64::MAX);
        let (applied, ran) = workshop.apply(1);
        assert!(applied.failed.is_empty() && !ran.is_empty(), "{applied:?}");
        assert_eq!(digests_of(&workshop.lock()), digests_of(&expected), "{n_pieces}");
        let text = |workshop: &Workshop| fs::read_to_string(workshop.path("truing.lock")).unwrap();
        assert_eq!(text(&workshop), text(&undisturbed), "the lock file is the same to the byte");
    }
}
