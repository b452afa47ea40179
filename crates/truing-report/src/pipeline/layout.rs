//! The places of the stages of a graph, and the lines between them: layers by the longest way from a stage that needs
//! none, an order within each layer with few crossings (barycentres; Sugiyama, Tagawa and Toda 1981), and places near
//! the neighbours. A line that passes a layer has a place there, so that it crosses no box.

/// Around the whole.
const MARGIN: f64 = 6.0;
/// Between boxes of one layer.
const GAP: f64 = 18.0;
/// The room of a line that passes a layer.
const PASSAGE: f64 = 8.0;
/// Between layers that follow each other down, and to the right.
const BETWEEN_LAYERS: [f64; 2] = [40.0, 54.0];
/// Sweeps over the layers, down and up.
const N_SWEEPS: usize = 12;

/// Where stages are placed, seen from those that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Below.
    Down,
    /// To the right.
    Right,
}

/// A drawing in pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawing {
    pub(super) width: f64,
    pub(super) height: f64,
    /// The upper left corner of each stage's box.
    pub(super) corners: Vec<[f64; 2]>,
    pub(super) lines: Vec<Line>,
}

/// A line from a stage to one that needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The line, as the `d` of an SVG path.
    pub(super) path: String,
    /// Its tip, in the same form.
    pub(super) tip: String,
}

/// Draws stages in boxes of a size (width, height); each needs stages with smaller indices, other needs are left out.
pub(super) fn draw(needs: &[Vec<usize>], direction: Direction, size: [f64; 2]) -> Drawing {
    Graph::new(needs).drawing(direction, size)
}

/// How many layers there are.
pub(super) fn n_layers(needs: &[Vec<usize>]) -> usize {
    layers_of(needs).into_iter().max().map_or(0, |last| last + 1)
}

/// The layer of each stage. A stage that needs none stands just before the first that needs it.
fn layers_of(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut layers = vec![0; needs.len()];
    for (stage, needed) in needs.iter().enumerate() {
        let known = needed.iter().filter(|&&other| other < stage);
        layers[stage] = known.map(|&other| layers[other] + 1).max().unwrap_or(0);
    }
    for stage in 0..needs.len() {
        let users = (stage + 1..needs.len()).filter(|&user| needs[user].contains(&stage));
        if let (0, Some(first)) = (layers[stage], users.map(|user| layers[user]).min()) {
            layers[stage] = first - 1;
        }
    }
    layers
}

/// Stages, and after them the places where lines pass a layer, in an order for each layer.
struct Graph {
    /// The places of each layer, in order.
    layers: Vec<Vec<usize>>,
    n_stages: usize,
    /// Each line as the places that it goes through.
    ways: Vec<Vec<usize>>,
    /// Places of the layer before and of the layer after that a place is connected with.
    neighbours: Vec<[Vec<usize>; 2]>,
}

impl Graph {
    fn new(needs: &[Vec<usize>]) -> Self {
        let layer_of = layers_of(needs);
        let n_stages = needs.len();
        let mut layers = vec![Vec::new(); n_layers(needs)];
        for (stage, &layer) in layer_of.iter().enumerate() {
            layers[layer].push(stage);
        }
        let (mut ways, mut n_places) = (Vec::new(), n_stages);
        for (stage, needed) in needs.iter().enumerate() {
            for &from in needed.iter().filter(|&&from| from < stage) {
                let mut way = vec![from];
                for layer in &mut layers[layer_of[from] + 1..layer_of[stage]] {
                    layer.push(n_places);
                    way.push(n_places);
                    n_places += 1;
                }
                way.push(stage);
                ways.push(way);
            }
        }
        let mut neighbours = vec![[Vec::new(), Vec::new()]; n_places];
        for pair in ways.iter().flat_map(|way| way.windows(2)) {
            neighbours[pair[0]][1].push(pair[1]);
            neighbours[pair[1]][0].push(pair[0]);
        }
        let mut graph = Self { layers, n_stages, ways, neighbours };
        graph.order();
        graph
    }

    /// Orders each layer by the means of its neighbours' places, and keeps the order with the fewest crossings.
    fn order(&mut self) {
        let (mut best, mut fewest) = (self.layers.clone(), self.n_crossings());
        for sweep in 0..N_SWEEPS {
            let side = sweep % 2;
            let n = self.layers.len();
            for step in 1..n {
                let layer = if side == 0 { step } else { n - 1 - step };
                let before = if side == 0 { layer - 1 } else { layer + 1 };
                let place_of = self.places(before);
                let mut wanted: Vec<(f64, usize)> = Vec::new();
                for (at, &place) in self.layers[layer].iter().enumerate() {
                    let known: Vec<f64> =
                        self.neighbours[place][side].iter().map(|&other| place_of[other]).collect();
                    let mean = known.iter().sum::<f64>() / known.len() as f64;
                    wanted.push((if known.is_empty() { at as f64 } else { mean }, place));
                }
                // Stable: equal means keep their order.
                wanted.sort_by(|one, other| one.0.total_cmp(&other.0));
                self.layers[layer] = wanted.into_iter().map(|(_, place)| place).collect();
            }
            let n_crossings = self.n_crossings();
            if n_crossings < fewest {
                (best, fewest) = (self.layers.clone(), n_crossings);
            }
        }
        self.layers = best;
    }

    /// The number of each place in its layer; 0 for places of other layers.
    fn places(&self, layer: usize) -> Vec<f64> {
        let mut places = vec![0.0; self.neighbours.len()];
        for (at, &place) in self.layers[layer].iter().enumerate() {
            places[place] = at as f64;
        }
        places
    }

    fn n_crossings(&self) -> usize {
        let mut n = 0;
        for layer in 0..self.layers.len().saturating_sub(1) {
            let (above, below) = (self.places(layer), self.places(layer + 1));
            let lines: Vec<(f64, f64)> = self.layers[layer]
                .iter()
                .flat_map(|&place| self.neighbours[place][1].iter().map(move |&other| (place, other)))
                .map(|(place, other)| (above[place], below[other]))
                .collect();
            for (idx, one) in lines.iter().enumerate() {
                let crosses = |other: &&(f64, f64)| (one.0 - other.0) * (one.1 - other.1) < 0.0;
                n += lines[idx + 1..].iter().filter(crosses).count();
            }
        }
        n
    }

    /// The middle of each place across the layers.
    fn middles(&self, size: f64) -> Vec<f64> {
        let half = |place: usize| if place < self.n_stages { size / 2.0 } else { PASSAGE / 2.0 };
        let distance = |one: usize, other: usize| half(one) + GAP + half(other);
        let mut middles = vec![0.0; self.neighbours.len()];
        for layer in &self.layers {
            let mut at = 0.0;
            for pair in layer.windows(2) {
                at += distance(pair[0], pair[1]);
                middles[pair[1]] = at;
            }
            layer.iter().for_each(|&place| middles[place] -= at / 2.0);
        }
        for sweep in 0..4 {
            let side = sweep % 2;
            let order: Vec<&Vec<usize>> = match side {
                0 => self.layers.iter().collect(),
                _ => self.layers.iter().rev().collect(),
            };
            for layer in order {
                let wanted: Vec<f64> = layer
                    .iter()
                    .map(|&place| {
                        let others = &self.neighbours[place][side];
                        let sum: f64 = others.iter().map(|&other| middles[other]).sum();
                        if others.is_empty() { middles[place] } else { sum / others.len() as f64 }
                    })
                    .collect();
                // As near as their distances allow, and then all of them moved to the mean of what they want.
                let mut placed: Vec<f64> = Vec::new();
                for (at, &place) in layer.iter().enumerate() {
                    let least = at.checked_sub(1).map(|last| placed[last] + distance(layer[last], place));
                    placed.push(least.map_or(wanted[at], |least| wanted[at].max(least)));
                }
                let excess: f64 = placed.iter().zip(&wanted).map(|(placed, wanted)| placed - wanted).sum();
                for (&place, placed) in layer.iter().zip(&placed) {
                    middles[place] = placed - excess / layer.len() as f64;
                }
            }
        }
        middles
    }

    fn drawing(&self, direction: Direction, [width, height]: [f64; 2]) -> Drawing {
        let n_stages = self.n_stages;
        let (along, across) = match direction {
            Direction::Down => (height, width),
            Direction::Right => (width, height),
        };
        let between = BETWEEN_LAYERS[usize::from(direction == Direction::Right)];
        let mut middles = self.middles(across);
        let lowest = |middles: &[f64]| middles[..n_stages].iter().copied().fold(f64::INFINITY, f64::min);
        let first = middles.iter().copied().fold(lowest(&middles) - across / 2.0, f64::min);
        middles.iter_mut().for_each(|middle| *middle += MARGIN - first);
        let last = middles[..n_stages].iter().copied().fold(0.0, f64::max) + across / 2.0;
        let breadth = middles.iter().copied().fold(last, f64::max) + MARGIN;
        let length = self.layers.len() as f64 * (along + between) - between + 2.0 * MARGIN;
        let mut starts = vec![0.0; middles.len()];
        for (number, layer) in self.layers.iter().enumerate() {
            layer.iter().for_each(|&place| starts[place] = MARGIN + number as f64 * (along + between));
        }
        let point = |along: f64, across: f64| match direction {
            Direction::Down => [across, along],
            Direction::Right => [along, across],
        };
        let corners =
            (0..n_stages).map(|stage| point(starts[stage], middles[stage] - across / 2.0)).collect();
        let [width, height] = if n_stages == 0 { [0.0; 2] } else { point(length, breadth) };
        let line = |way: &Vec<usize>| {
            let text = |along: f64, across: f64| {
                let [x, y] = point(along, across);
                format!("{x:.1} {y:.1}")
            };
            let mut path = format!("M{}", text(starts[way[0]] + along, middles[way[0]]));
            for pair in way.windows(2) {
                let (from, to) = (starts[pair[0]] + along, starts[pair[1]]);
                let (before, after) = (middles[pair[0]], middles[pair[1]]);
                let bend = (from + to) / 2.0;
                path += &format!("C{} {} {}", text(bend, before), text(bend, after), text(to, after));
                if pair[1] >= n_stages {
                    path += &format!("L{}", text(to + along, after));
                }
            }
            let end = *way.last().expect("a line has two ends");
            let (to, middle) = (starts[end], middles[end]);
            let tip = format!(
                "M{}L{}L{}Z",
                text(to, middle),
                text(to - 8.0, middle - 4.5),
                text(to - 8.0, middle + 4.5)
            );
            Line { path, tip }
        };
        Drawing { width, height, corners, lines: self.ways.iter().map(line).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: [f64; 2] = [212.0, 70.0];

    fn overlap(one: [f64; 2], other: [f64; 2]) -> bool {
        (0..2).all(|axis| (one[axis] - other[axis]).abs() < BOX[axis])
    }

    /// Made-up graphs: each stage needs some of those before it.
    fn graph(seed: u64, n_stages: usize) -> Vec<Vec<usize>> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % n
        };
        (0..n_stages)
            .map(|stage| {
                let mut needed: Vec<usize> = (0..next(3).min(stage)).map(|_| next(stage)).collect();
                needed.sort_unstable();
                needed.dedup();
                needed
            })
            .collect()
    }

    #[test]
    fn stages_stand_after_those_that_they_need() {
        assert_eq!(layers_of(&[vec![], vec![], vec![0, 1], vec![], vec![2, 3]]), [0, 0, 1, 1, 2]);
        assert_eq!((n_layers(&[]), n_layers(&[vec![], vec![0], vec![1]])), (0, 3));
        assert_eq!(layers_of(&[vec![1], vec![1]]), [0, 0], "needs that come later are left out");
    }

    #[test]
    fn a_chain_is_straight() {
        let needs = [vec![], vec![0], vec![1]];
        let down = draw(&needs, Direction::Down, BOX);
        assert_eq!(down.corners, [[6.0, 6.0], [6.0, 116.0], [6.0, 226.0]]);
        assert_eq!((down.width, down.height), (224.0, 302.0));
        assert_eq!(down.lines[0].path, "M112.0 76.0C112.0 96.0 112.0 96.0 112.0 116.0");
        let right = draw(&needs, Direction::Right, BOX);
        assert_eq!((right.width, right.height), (756.0, 82.0));
        assert_eq!(draw(&[], Direction::Down, BOX).corners, [[0.0; 2]; 0]);
    }

    #[test]
    fn lines_that_need_not_cross_do_not() {
        // The second of a layer needs the first of the layer before, and the other way round.
        let graph = Graph::new(&[vec![], vec![], vec![1], vec![0]]);
        assert_eq!(graph.n_crossings(), 0);
    }

    #[test]
    fn no_box_lies_on_another_and_all_are_inside() {
        for seed in 1..60 {
            let needs = graph(seed, 3 + seed as usize % 14);
            for direction in [Direction::Down, Direction::Right] {
                let drawing = draw(&needs, direction, BOX);
                for (idx, &one) in drawing.corners.iter().enumerate() {
                    let is_inside = one[0] >= 0.0
                        && one[1] >= 0.0
                        && one[0] + BOX[0] <= drawing.width
                        && one[1] + BOX[1] <= drawing.height;
                    assert!(is_inside, "{seed}: {one:?} in {} x {}", drawing.width, drawing.height);
                    let mut others = drawing.corners[idx + 1..].iter();
                    assert!(!others.any(|&other| overlap(one, other)), "{seed} {direction:?}");
                }
                assert_eq!(drawing.lines.len(), needs.iter().map(Vec::len).sum::<usize>());
                assert!(!drawing.lines.iter().any(|line| line.path.contains("NaN")), "{seed}");
            }
        }
    }
}
