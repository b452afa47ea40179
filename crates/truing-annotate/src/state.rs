//! What changes while people work, and who is shown what next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::rand_core::Rng as _;
use truing_store::Digest;
use truing_types::Seed;

use crate::assignment::Assignment;
use crate::config::AnnotateConfig;
use crate::consensus::is_disputed;
use crate::item::{ItemKind, Items};
use crate::journal::{EntryKind, Journal};
use crate::people::{Person, Role};
use crate::records::{Records, Stored};

/// What changes.
pub(crate) struct State {
    pub(crate) journal: Journal,
    pub(crate) records: Records,
    pub(crate) assignment: Assignment,
    pub(crate) annotators: Vec<Annotator>,
    pub(crate) disputed: BTreeSet<usize>,
    /// What each adjudicator is shown, and until when nobody else is.
    adjudicating: Vec<Option<(usize, Duration)>>,
}

/// What an annotator has done, and the known items that they have not seen yet, in an order of their own.
#[derive(Debug, Default)]
pub(crate) struct Annotator {
    pub(crate) n_answered: u64,
    pub(crate) n_skipped: u64,
    gold: BTreeSet<(u64, usize)>,
    attention: BTreeSet<(u64, usize)>,
}

impl State {
    pub(crate) fn new(journal: Journal, records: Records, items: &Items, config: &AnnotateConfig) -> Self {
        let lease_time = Duration::from_secs(config.lease_secs);
        let n_annotators = config.annotator.len();
        let mut assignment = Assignment::new(items.n_plain, n_annotators, config.overlap, lease_time);
        let mut annotators = Vec::new();
        for (idx, person) in config.annotator.iter().enumerate() {
            let mut annotator = Annotator::default();
            let unseen = |kind| {
                let places = items.of_kind(kind).into_iter();
                let places = places.filter(|&item| !records.by_item[item].people.contains_key(&person.name));
                places.map(|item| keyed(config, &person.name, item)).collect()
            };
            annotator.gold = unseen(ItemKind::Gold);
            annotator.attention = unseen(ItemKind::Attention);
            for (item, record) in records.by_item.iter().enumerate() {
                let Some(stored) = record.people.get(&person.name) else { continue };
                let is_answer = stored.entry.kind == EntryKind::Answer;
                *annotator.count(is_answer) += 1;
                if item < items.n_plain {
                    assignment.record(idx, item, is_answer);
                }
            }
            annotators.push(annotator);
        }
        let current: BTreeSet<&str> = config.annotator.iter().map(|person| person.name.as_str()).collect();
        for item in 0..items.n_plain {
            let left = records.by_item[item].answers();
            let n_left = left.filter(|stored| !current.contains(stored.entry.annotator.as_str())).count();
            (0..n_left).for_each(|_| assignment.count_other(item));
        }
        let is_disputed = |&item: &usize| is_disputed(&items.all[item], &records.by_item[item], config);
        let disputed = (0..items.n_plain).filter(is_disputed).collect();
        let adjudicating = vec![None; config.adjudicator.len()];
        Self { journal, records, assignment, annotators, disputed, adjudicating }
    }

    /// A gold item or an attention check at its share, else the next item by priority.
    pub(crate) fn next_of_annotator(
        &mut self,
        person: &Person,
        now: Duration,
        config: &AnnotateConfig,
    ) -> Option<usize> {
        let annotator = &self.annotators[person.idx];
        let n_seen = annotator.n_answered + annotator.n_skipped;
        let drawn = first_draw(config, "kind of the next item", &person.name, n_seen);
        let share = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        let [attention, gold] =
            [&config.attention, &config.gold].map(|known| known.as_ref().map_or(0.0, |known| known.share));
        let known = if share < attention {
            annotator.attention.first()
        } else if share < attention + gold {
            annotator.gold.first()
        } else {
            None
        };
        // Known items alone are no work.
        match known {
            Some(&(_, item)) if self.assignment.n_open(person.idx) > 0 => Some(item),
            _ => self.assignment.next(person.idx, now),
        }
    }

    /// The first item that annotators disagree on and no other adjudicator is shown.
    pub(crate) fn next_of_adjudicator(
        &mut self,
        idx: usize,
        now: Duration,
        lease_time: Duration,
    ) -> Option<usize> {
        let is_free = |item: &usize| {
            let others = self.adjudicating.iter().enumerate().filter(|(other, _)| *other != idx);
            others.filter_map(|(_, lease)| *lease).all(|(taken, until)| taken != *item || until <= now)
        };
        let shown = self.adjudicating[idx].map(|(item, _)| item).filter(|item| self.disputed.contains(item));
        let item = shown.filter(is_free).or_else(|| self.disputed.iter().copied().find(is_free));
        self.adjudicating[idx] = item.map(|item| (item, now + lease_time));
        item
    }

    /// Takes an entry that is in the journal.
    pub(crate) fn take(
        &mut self,
        person: &Person,
        item: usize,
        stored: Stored,
        items: &Items,
        config: &AnnotateConfig,
    ) -> Arc<Stored> {
        let is_answer = stored.entry.kind == EntryKind::Answer;
        if person.role == Role::Annotator {
            let annotator = &mut self.annotators[person.idx];
            let before = self.records.by_item[item].people.get(&person.name);
            if let Some(before) = before {
                *annotator.count(before.entry.kind == EntryKind::Answer) -= 1;
            }
            *annotator.count(is_answer) += 1;
            if item < items.n_plain {
                self.assignment.record(person.idx, item, is_answer);
            } else {
                let keyed = keyed(config, &person.name, item);
                annotator.gold.remove(&keyed);
                annotator.attention.remove(&keyed);
            }
        }
        let stored = self.records.apply(item, stored);
        if item < items.n_plain && is_disputed(&items.all[item], &self.records.by_item[item], config) {
            self.disputed.insert(item);
        } else {
            self.disputed.remove(&item);
        }
        stored
    }
}

impl Annotator {
    fn count(&mut self, is_answer: bool) -> &mut u64 {
        if is_answer { &mut self.n_answered } else { &mut self.n_skipped }
    }
}

/// A known item with its place in the order of a person.
fn keyed(config: &AnnotateConfig, name: &str, item: usize) -> (u64, usize) {
    (first_draw(config, "order of known items", name, item as u64), item)
}

/// The first number of the generator of a purpose, a person and a number.
fn first_draw(config: &AnnotateConfig, purpose: &str, name: &str, number: u64) -> u64 {
    Seed(config.seed).generator(purpose, &[key_of(name), number]).next_u64()
}

/// A name as a number.
pub(crate) fn key_of(name: &str) -> u64 {
    let digest = Digest::of_bytes(name.as_bytes());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}
