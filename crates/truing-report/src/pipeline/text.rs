//! Sizes, times and long texts as the page shows them.

/// Characters of a prompt or an answer that are shown.
const N_CHARACTERS: usize = 900;

/// Bytes in binary units.
pub(super) fn bytes(n_bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n_bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match n_bytes {
        0..1000 => format!("{n_bytes} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Seconds as `0.4 s`, `38 s`, `3 min 20 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// At most so many characters, the last of them an ellipsis where some are missing.
pub(super) fn shortened(text: &str, n_characters: usize) -> String {
    match text.char_indices().nth(n_characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(n_characters.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The beginning of a prompt or an answer.
pub(super) fn beginning(text: &str) -> String {
    shortened(text, N_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(
            [0, 999, 1000, 1536, 5 << 20, 40 << 30].map(bytes).join(", "),
            "0 B, 999 B, 0.98 KiB, 1.50 KiB, 5.00 MiB, 40 GiB"
        );
        assert_eq!(
            [0.44, 8.0, 59.0, 200.0, 7500.0].map(duration).join(", "),
            "0.4 s, 8.0 s, 59 s, 3 min 20 s, 2 h 05 min"
        );
    }

    #[test]
    fn long_texts_end_with_an_ellipsis() {
        assert_eq!([shortened("abcd", 4), shortened("abcde", 4), shortened("ää", 1)], ["abcd", "abc…", "…"]);
    }
}
