//! Words beside a number that change what it says, in the languages in which answers are read.

/// Words that make of a number another one, or no answer at all, wherever they stand beside it.
const ALTERING: &str = "\
    not no non never none nobody neither nor cannot without except anything isn aren wasn weren doesn \
    don didn wouldn couldn shouldn can't negative minus plus times divided multiplied divide multiply \
    factorial factorials squared cubed square squares cube cubes root roots half halves halved twice \
    thrice double doubled triple tripled quadruple reciprocal reciprocals inverse inverses inverted \
    opposite opposites negation negated multiple divisible divides factor modulo mod modulus logarithm \
    log exponent wrong incorrect false mistaken mistake error untrue impossible invalid than less fewer \
    greater larger smaller under above below beyond exceeds exceed but rather instead other otherwise \
    either or unless whether maybe perhaps possibly unlikely doubt doubtful hardly barely nearly almost \
    might may versus choose point score scores short ago bps basis ppm binary hex hexadecimal octal repeating recurring nunca jamais nicht kein keine nie niemals pas menos moins \
    meno mas m\u{e1}s mais pi\u{f9} oder ou mitad moiti\u{e9} h\u{e4}lfte metade met\u{e0} doble doppelt \
    doppelte doppio dobro ra\u{ed}z raiz racine wurzel radice cuadrado carr\u{e9} quadrat quadrado \
    quadrato hoch fois veces vezes volte mal mayor menor maior maggiore minore gr\u{f6}\u{df}er kleiner \
    entre zwischen tra halbe";

/// Whether a list of words, with space between them, has a word.
pub(super) fn lists(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

/// Whether a word changes what the number beside it says.
pub(super) fn alters(word: &str) -> bool {
    let lower = word.to_lowercase();
    lists(ALTERING, &lower) || is_ordinal_fraction(&lower)
}

/// Words before a colon or an equals sign by which the value after it is another one than the answer.
const OTHERS: &str = "\
    bound bounds attempt attempts step guess guesses estimate confidence certainty iteration example \
    hint hypothesis conjecture assumption difficulty rating";

/// Whether words before a colon or an equals sign name the value after it, as "Total cost" does and "at least"
/// does not.
pub(super) fn is_name<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    let bounds = words
        .windows(2)
        .any(|pair| matches!([pair[0].as_str(), pair[1].as_str()], ["at", "least" | "most"] | ["up", "to"]));
    !bounds && !names_another(words.iter().map(String::as_str)) && !words.iter().any(|word| alters(word))
}

/// Whether words in lower case name a bound, an attempt or the like.
pub(super) fn names_another<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let words: Vec<&str> = words.collect();
    let has = |any: &[&str]| words.iter().any(|word| any.contains(word));
    words.iter().any(|word| lists(OTHERS, word))
        || has(&["upper", "lower"]) && has(&["limit", "estimate", "end"])
}

/// A sign that is written as a word.
pub(super) fn is_minus(word: &str) -> bool {
    let lower = word.to_lowercase();
    matches!(
        lower.as_str(),
        "minus" | "negative" | "menos" | "moins" | "meno" | "минус" | "负" | "負" | "マイナス"
    )
}

/// `twelfths`, `hundredth`, `millionths`
fn is_ordinal_fraction(word: &str) -> bool {
    const STEMS: &str = "\
        four fif six seven eigh nin ten eleven twelf thirteen fourteen fifteen sixteen seventeen \
        eighteen nineteen twentie thirtie fortie fiftie sixtie seventie eightie ninetie hundred thousand \
        million billion trillion";
    let stem = word.strip_suffix("ths").or_else(|| word.strip_suffix("th"));
    stem.is_some_and(|stem| lists(STEMS, stem)) || matches!(word, "third" | "thirds" | "quarter" | "quarters")
}

/// Whether a word of Latin letters reads as several things: it ends in an s, or is a plural of its own.
pub(super) fn is_plural(word: &str) -> bool {
    const IRREGULAR: &str = "\
        people children men women feet teeth geese mice sheep fish deer dice cattle oxen salmon shrimp \
        moose trout aircraft baht yen won pence data vertices indices matrices money fruit water milk \
        change kinder eier mele";
    let lower = word.to_lowercase();
    lists(IRREGULAR, &lower)
        || lower.ends_with("men") && lower.len() > 4
        || (lower.len() > 2
            && lower.ends_with('s')
            && !["ss", "us", "is"].iter().any(|ending| lower.ends_with(ending))
            && !matches!(lower.as_str(), "always" | "sometimes" | "perhaps" | "times")
            && !lower.ends_with("wards"))
}

/// Whether a letter is Latin, with or without diacritics.
pub(super) fn is_latin_letter(letter: char) -> bool {
    letter.is_alphabetic() && (letter < '\u{250}' || ('\u{1e00}'..='\u{1eff}').contains(&letter))
}

/// Whether a word is of Latin letters, with or without diacritics.
pub(super) fn is_latin(word: &str) -> bool {
    word.chars().all(is_latin_letter)
}
