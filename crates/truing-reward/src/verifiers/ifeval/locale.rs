//! What differs between the languages that rows are written in: marks, fixed answers, words for relations.

use std::sync::LazyLock;

use regex::Regex;

use super::bound::Bound;
use crate::verifiers::pattern::pattern;
use crate::verifiers::python_regex::ignoring_case;

/// The language of an instruction: the prefix of its id, English where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locale {
    /// English, IFEval's own rules.
    En,
    /// Spanish, as in M-IFEval.
    Es,
    /// French, as in M-IFEval.
    Fr,
    /// Japanese, as in M-IFEval.
    Ja,
    /// Chinese. There is no published checker with this prefix: the rules are ours, on characters instead of words.
    Zh,
}

impl Locale {
    /// Every language, by its prefix.
    pub const ALL: [Self; 5] = [Self::En, Self::Es, Self::Fr, Self::Ja, Self::Zh];

    /// ISO 639-1.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
            Self::Fr => "fr",
            Self::Ja => "ja",
            Self::Zh => "zh",
        }
    }

    /// By its code, with or without a region (`zh-CN`), or its English name, as Multi-IF's rows have it.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        let code = name.split(['-', '_']).next().unwrap_or_default();
        Self::ALL.into_iter().find(|locale| locale.code() == code || locale.english_name() == name)
    }

    fn english_name(self) -> &'static str {
        match self {
            Self::En => "english",
            Self::Es => "spanish",
            Self::Fr => "french",
            Self::Ja => "japanese",
            Self::Zh => "chinese",
        }
    }

    /// Words of kwargs such as `relation`. The English ones are understood in every language, since sets that were
    /// translated from IFEval keep them.
    pub(super) fn bound(self, relation: &str, count: usize) -> Option<Bound> {
        Some(match (self, relation) {
            (_, "less than") | (Self::Fr, "moins de") | (Self::Ja, "未満") | (Self::Zh, "少于" | "小于") => {
                Bound::LessThan(count)
            }
            (_, "at least")
            | (Self::Es, "al menos")
            | (Self::Fr, "au moins")
            | (Self::Ja, "以上")
            | (Self::Zh, "至少" | "不少于" | "以上") => Bound::AtLeast(count),
            (Self::Es, "como máximo") | (Self::Zh, "至多" | "最多" | "不超过") => {
                Bound::AtMost(count)
            }
            _ => return None,
        })
    }

    /// The words that [`bound`](Self::bound) knows, for messages.
    pub(super) fn relations(self) -> &'static str {
        match self {
            Self::En => "`less than` or `at least`",
            Self::Es => "`al menos`, `como máximo`, `less than` or `at least`",
            Self::Fr => "`moins de`, `au moins`, `less than` or `at least`",
            Self::Ja => "`未満`, `以上`, `less than` or `at least`",
            Self::Zh => "`少于`, `至少`, `至多`, `less than` or `at least`",
        }
    }

    /// One of these is the answer of `constrained_response`.
    pub(super) fn answers(self) -> &'static [&'static str] {
        match self {
            Self::En => &["My answer is yes.", "My answer is no.", "My answer is maybe."],
            Self::Es => &["Sí.", "No.", "Quizás."],
            Self::Fr => &["Oui.", "Non.", "Peut-être."],
            Self::Ja => &["はい、そうです。", "いいえ、違います。", "どちらとも言えません。"],
            Self::Zh => &[],
        }
    }

    /// What `no_comma` forbids.
    pub(super) fn commas(self) -> &'static [char] {
        match self {
            Self::En | Self::Es | Self::Fr => &[','],
            Self::Ja | Self::Zh => &[',', '，', '、', '､', '﹐', '﹑'],
        }
    }

    /// Marks around a whole response that is quoted.
    pub(super) fn quotes(self) -> &'static [(char, char)] {
        match self {
            Self::En | Self::Es => &[('"', '"')],
            Self::Fr => &[('"', '"'), ('\'', '\''), ('«', '»')],
            Self::Ja => &[('「', '」')],
            Self::Zh => &[('"', '"'), ('“', '”'), ('「', '」')],
        }
    }

    /// Closing marks that are no part of the end of a response.
    pub(super) fn closing_quotes(self) -> &'static [char] {
        match self {
            Self::En | Self::Es | Self::Fr => &['"'],
            Self::Ja => &['」', '』'],
            Self::Zh => &['"', '”', '」', '』'],
        }
    }

    /// A title with its marks.
    pub(super) fn title(self) -> &'static Regex {
        match self {
            Self::En | Self::Es => &ANGLES,
            Self::Fr => &HASHES,
            Self::Ja => &CORNERS,
            Self::Zh => &ANGLES_OR_BOOK,
        }
    }

    /// The marks of [`title`](Self::title).
    pub(super) fn title_marks(self) -> &'static [char] {
        match self {
            Self::En | Self::Es => &['<', '>'],
            Self::Fr => &['#'],
            Self::Ja => &['『', '』'],
            Self::Zh => &['<', '>', '《', '》'],
        }
    }

    /// Lines that are items of a list.
    pub(super) fn bullets(self) -> Vec<&'static Regex> {
        match self {
            Self::Es => vec![&*STAR_BULLET],
            Self::Ja => vec![&*DOT_BULLET],
            Self::En | Self::Fr | Self::Zh => vec![&*STAR_BULLET, &*DASH_BULLET],
        }
    }

    /// Parts that are highlighted.
    pub(super) fn highlights(self) -> Vec<&'static Regex> {
        match self {
            Self::Ja => vec![&*DOUBLE_ANGLES],
            _ => vec![&*HIGHLIGHT, &*BOLD],
        }
    }

    /// A placeholder.
    pub(super) fn placeholder(self) -> &'static Regex {
        match self {
            Self::Zh => &WIDE_PLACEHOLDER,
            _ => &PLACEHOLDER,
        }
    }

    /// Numbered headings with the word that rows give.
    pub(super) fn section(self, splitter: &str) -> Regex {
        let with = |word: &str| match self {
            Self::En | Self::Es | Self::Fr => format!(r"\s?{word}\s?\d+\s?"),
            Self::Ja => format!(r"\s?第\d+{word}\s?"),
            Self::Zh => format!(r"第\s?{ZH_NUMBER}\s?{word}|{word}\s?{ZH_NUMBER}"),
        };
        Regex::new(&with(splitter)).unwrap_or_else(|_| pattern(&with(&regex::escape(splitter))))
    }

    /// How a postscript begins, in small letters.
    pub(super) fn postscript(self, marker: &str) -> Regex {
        let text = match (self, marker) {
            (Self::Es, "P.D.") => r"(?m)\s*p\.\s?d\..*$".to_owned(),
            (_, "P.P.S") => r"(?m)\s*p\.\s?p\.\s?s.*$".to_owned(),
            (_, "P.S.") => r"(?m)\s*p\.\s?s\..*$".to_owned(),
            (Self::Ja | Self::Zh, _) => format!(r"(?m)\s*{}.*$", regex::escape(&marker.to_lowercase())),
            _ => format!(r"(?m)\s*{}.*$", marker.to_lowercase()),
        };
        ignoring_case(&text)
    }
}

const ZH_NUMBER: &str = "[0-9０-９一二三四五六七八九十百]+";

macro_rules! patterns {
    ($($name:ident = $text:expr;)*) => { $(static $name: LazyLock<Regex> = LazyLock::new(|| pattern($text));)* };
}

patterns! {
    PLACEHOLDER = r"\[.*?\]";
    WIDE_PLACEHOLDER = r"\[.*?\]|［.*?］|【.*?】";
    STAR_BULLET = r"(?m)^\s*\*[^\*].*$";
    DASH_BULLET = r"(?m)^\s*-.*$";
    DOT_BULLET = r"(?m)^\s*・[^・].*$";
    HIGHLIGHT = r"\*[^\n\*]*\*";
    BOLD = r"\*\*[^\n\*]*\*\*";
    DOUBLE_ANGLES = r"《[^\n《》]*》";
    ANGLES = r"<<[^\n]+>>";
    HASHES = r"##[^\n]+##";
    CORNERS = r"『[^\n]+』";
    ANGLES_OR_BOOK = r"<<[^\n]+>>|《[^\n]+》";
}
