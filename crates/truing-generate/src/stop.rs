//! Texts that end a reply, found while it is being written.

/// Passes text on as soon as no stop text can begin in it any more. Stop texts may lie across any number of
/// pieces.
#[derive(Debug, Clone)]
pub struct StopTexts {
    stops: Vec<String>,
    held_back: String,
}

impl StopTexts {
    /// Watches for these texts; empty ones are ignored.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held_back: String::new() }
    }

    /// Takes the next piece and returns the text that is decided, and whether a stop text was met. What stands
    /// from the stop text on is dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held_back.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.held_back.find(stop.as_str())).min();
        if let Some(at) = found {
            let mut decided = std::mem::take(&mut self.held_back);
            decided.truncate(at);
            return (decided, true);
        }
        let undecided = (0..self.held_back.len())
            .filter(|&at| self.held_back.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held_back[at..])))
            .unwrap_or(self.held_back.len());
        let rest = self.held_back.split_off(undecided);
        (std::mem::replace(&mut self.held_back, rest), false)
    }

    /// What was held back when the reply ends without a stop text.
    #[must_use]
    pub fn finish(self) -> String {
        self.held_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], pieces: &[&str], shown: &[&str], stopped: bool, rest: &str) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut texts = StopTexts::new(&stops);
        let mut results = Vec::new();
        let mut is_stopped = false;
        for piece in pieces {
            let (text, stop) = texts.push(piece);
            results.push(text);
            is_stopped |= stop;
        }
        assert_eq!(results, shown);
        assert_eq!(is_stopped, stopped);
        assert_eq!(texts.finish(), rest);
    }

    #[test]
    fn a_stop_text_across_pieces_is_never_shown() {
        check(&["\nUser:"], &["Hi", "\nUs", "er: x"], &["Hi", "", ""], true, "");
        check(&["abc"], &["ab", "ab", "c!"], &["", "ab", ""], true, "");
        check(&["轮子"], &["a轮", "子b"], &["a", ""], true, "");
    }

    #[test]
    fn what_only_looked_like_one_is_shown_later() {
        check(&["\n\n"], &["a\n", "b"], &["a", "\nb"], false, "");
        check(&["stop"], &["sto"], &[""], false, "sto");
        check(&["aab"], &["aaa", "a"], &["a", "a"], false, "aa");
    }

    #[test]
    fn the_earliest_of_several_wins() {
        check(&["END", "\n"], &["one\ntwo END"], &["one"], true, "");
        check(&[], &["anything"], &["anything"], false, "");
        check(&[""], &["anything"], &["anything"], false, "");
    }
}
