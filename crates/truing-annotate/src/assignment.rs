//! Who is shown which item next.
//!
//! Every annotator has the set of the items that are open to them: those that need further answers and that they have
//! not seen. Sets are ordered by priority, so the next item is the first of the set. A change of one item touches its
//! entry in the set of each annotator: O(log n) for n items and a given number of annotators.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The place of an item in the order of priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        tests::count_comparison();
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An item that an annotator is being shown. Others are not given its place among the answers until the time is over.
#[derive(Debug, Clone, Copy)]
struct Lease {
    item: usize,
    until: Duration,
}

/// What one annotator may get.
#[derive(Debug, Clone, Default)]
struct Queue {
    open: BTreeSet<Place>,
    /// Items that they answered (true) or skipped (false).
    seen: HashMap<usize, bool>,
    lease: Option<Lease>,
}

/// Items that wait for answers, for each annotator.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    overlap: usize,
    lease_time: Duration,
    /// Answers and leases of each item.
    n_taken: Vec<usize>,
    queues: Vec<Queue>,
}

impl Assignment {
    /// All items are open to all annotators. Items are numbers from 0, in the order of their priority.
    pub(crate) fn new(n_items: usize, n_annotators: usize, overlap: usize, lease_time: Duration) -> Self {
        let open: BTreeSet<Place> = (0..n_items).map(Place).collect();
        let queue = Queue { open, ..Queue::default() };
        Self { overlap, lease_time, n_taken: vec![0; n_items], queues: vec![queue; n_annotators] }
    }

    /// The next item of an annotator at a time of a clock that never goes back: the one that they are being shown, else
    /// the first that is open to them. They have it for the time of a lease from now on.
    pub(crate) fn next(&mut self, annotator: usize, now: Duration) -> Option<usize> {
        self.end_leases(now);
        let item = match self.queues[annotator].lease {
            Some(lease) => lease.item,
            None => self.queues[annotator].open.first()?.0,
        };
        self.lease(annotator, item, now);
        Some(item)
    }

    /// An annotator is shown an item; what they were shown before is given to others.
    pub(crate) fn lease(&mut self, annotator: usize, item: usize, now: Duration) {
        let until = now + self.lease_time;
        match &mut self.queues[annotator].lease {
            Some(lease) if lease.item == item => lease.until = until,
            _ => {
                self.end_lease(annotator);
                self.queues[annotator].lease = Some(Lease { item, until });
                self.n_taken[item] += 1;
                self.refresh(item);
            }
        }
    }

    /// An annotator answered an item, or skipped it. An answer may be replaced.
    pub(crate) fn record(&mut self, annotator: usize, item: usize, is_answer: bool) {
        if self.queues[annotator].lease.is_some_and(|lease| lease.item == item) {
            self.end_lease(annotator);
        }
        let queue = &mut self.queues[annotator];
        let before = queue.seen.insert(item, is_answer) == Some(true);
        queue.open.remove(&Place(item));
        self.n_taken[item] = self.n_taken[item] + usize::from(is_answer) - usize::from(before);
        self.refresh(item);
    }

    /// An item has an answer of someone who is no annotator any more.
    pub(crate) fn count_other(&mut self, item: usize) {
        self.n_taken[item] += 1;
        self.refresh(item);
    }

    /// Items that are open to an annotator.
    pub(crate) fn n_open(&self, annotator: usize) -> usize {
        self.queues[annotator].open.len()
    }

    fn end_leases(&mut self, now: Duration) {
        let is_over = |queue: &Queue| queue.lease.is_some_and(|lease| lease.until <= now);
        let over: Vec<usize> = (0..self.queues.len()).filter(|&idx| is_over(&self.queues[idx])).collect();
        over.into_iter().for_each(|annotator| self.end_lease(annotator));
    }

    fn end_lease(&mut self, annotator: usize) {
        if let Some(Lease { item, .. }) = self.queues[annotator].lease.take() {
            self.n_taken[item] -= 1;
            self.refresh(item);
        }
    }

    /// Opens an item to those who have not seen it, or closes it where enough have.
    fn refresh(&mut self, item: usize) {
        let needs_more = self.n_taken[item] < self.overlap;
        for queue in &mut self.queues {
            if needs_more && !queue.seen.contains_key(&item) {
                queue.open.insert(Place(item));
            } else {
                queue.open.remove(&Place(item));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static N_COMPARISONS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count_comparison() {
        N_COMPARISONS.with(|n| n.set(n.get() + 1));
    }

    const LEASE: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn items_come_by_priority_to_as_many_as_they_need() {
        let mut items = Assignment::new(3, 3, 2, LEASE);
        assert_eq!([items.next(0, at(0)), items.next(1, at(0))], [Some(0), Some(0)]);
        // Two have it; the third gets the next one.
        assert_eq!(items.next(2, at(0)), Some(1));
        items.record(0, 0, true);
        items.record(1, 0, true);
        items.record(2, 1, true);
        assert_eq!([0, 1].map(|annotator| items.next(annotator, at(0))), [Some(1), Some(2)]);
        items.record(0, 1, true);
        items.record(1, 2, true);
        assert_eq!([0, 1, 2].map(|annotator| items.next(annotator, at(0))), [Some(2), None, None]);
    }

    #[test]
    fn an_answer_of_someone_who_left_counts() {
        let mut items = Assignment::new(2, 2, 2, LEASE);
        items.count_other(0);
        items.record(0, 0, true);
        assert_eq!([items.next(0, at(0)), items.next(1, at(0))], [Some(1), Some(1)]);
    }

    #[test]
    fn the_same_annotator_gets_the_same_item_until_it_is_answered() {
        let mut items = Assignment::new(2, 1, 1, LEASE);
        assert_eq!([items.next(0, at(0)), items.next(0, at(5))], [Some(0), Some(0)]);
        items.record(0, 0, true);
        assert_eq!(items.next(0, at(6)), Some(1));
    }

    #[test]
    fn a_lease_that_is_over_opens_the_item_and_a_late_answer_counts() {
        let mut items = Assignment::new(2, 2, 1, LEASE);
        assert_eq!([items.next(0, at(0)), items.next(1, at(59))], [Some(0), Some(1)]);
        // The lease of the first is over, that of the second is renewed.
        assert_eq!(items.next(1, at(60)), Some(1));
        items.record(1, 1, true);
        assert_eq!(items.next(1, at(61)), Some(0));
        items.record(0, 0, true);
        items.record(1, 0, true);
        assert_eq!([items.next(0, at(62)), items.next(1, at(62))], [None, None]);
    }

    #[test]
    fn a_skipped_item_goes_to_others_and_an_answer_may_become_a_skip() {
        let mut items = Assignment::new(1, 2, 1, LEASE);
        assert_eq!(items.next(0, at(0)), Some(0));
        items.record(0, 0, false);
        assert_eq!([items.next(0, at(0)), items.next(1, at(0))], [None, Some(0)]);
        items.record(1, 0, true);
        let mut items = Assignment::new(1, 2, 1, LEASE);
        items.record(0, 0, true);
        assert_eq!((items.next(1, at(0)), items.n_open(1)), (None, 0));
        items.record(0, 0, false);
        assert_eq!((items.next(0, at(0)), items.next(1, at(0))), (None, Some(0)));
    }

    /// 100,000 items and 8 annotators who answer all of them twice: the logarithm bounds the comparisons of one step.
    #[test]
    fn the_next_item_of_many_takes_logarithmic_steps() {
        let (n_items, n_annotators) = (100_000, 8);
        let mut items = Assignment::new(n_items, n_annotators, 2, LEASE);
        let mut most = 0;
        for step in 0..2 * n_items {
            let annotator = step % n_annotators;
            let before = N_COMPARISONS.with(Cell::get);
            let item = items.next(annotator, at(0)).unwrap();
            items.record(annotator, item, true);
            most = most.max(N_COMPARISONS.with(Cell::get) - before);
        }
        assert!((0..n_annotators).all(|annotator| items.next(annotator, at(0)).is_none()));
        // Three changes of an entry in eight sets; a B-tree compares at most 11 keys on each of its levels, five here.
        assert!(most <= 4 * 8 * 11 * 5, "{most}");
    }
}
