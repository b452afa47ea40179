//! Words beside a number that change what it says, in the languages in which answers are read.

/// Words that make of a number another one, or no answer at all, wherever they are beside it.
const ALTERING: &str = "\
    not no non never none nobody neither nor cannot without except anything isn aren wasn weren doesn don \
    didn wouldn couldn shouldn can't negative minus plus times divided multiplied divide multiply factorial \
    factorials squared cubed square squares cube cubes root roots half halves halved twice thrice double \
    doubled triple tripled quadruple reciprocal reciprocals inverse inverses inverted opposite opposites \
    negation negated multiple divisible divides factor modulo mod modulus logarithm log exponent wrong \
    incorrect false mistaken mistake error untrue impossible invalid than less fewer greater larger smaller \
    under above below beyond exceeds exceed but rather instead other otherwise either or unless whether \
    maybe perhaps possibly unlikely doubt doubtful hardly barely nearly almost might may versus choose point \
    score scores short ago bps basis ppm binary hex hexadecimal octal repeating recurring nunca jamais nicht \
    kein keine nie niemals pas menos moins meno mas m\u{e1}s mais pi\u{f9} oder ou mitad moiti\u{e9} \
    h\u{e4}lfte metade met\u{e0} doble doppelt doppelte doppio dobro ra\u{ed}z raiz racine wurzel radice \
    cuadrado carr\u{e9} quadrat quadrado quadrato hoch fois veces vezes volte mal mayor menor maior maggiore \
    minore gr\u{f6}\u{df}er kleiner entre zwischen tra halbe mehr weniger wi\u{119}cej mniej";

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
        || is_foreign_noun(word)
        || lower.ends_with("men") && lower.len() > 4
        || (lower.len() > 2
            && lower.ends_with('s')
            && !["ss", "us", "is"].iter().any(|ending| lower.ends_with(ending))
            && !matches!(lower.as_str(), "always" | "sometimes" | "perhaps" | "times")
            && !lower.ends_with("wards"))
}

/// Whether a word of letters outside ASCII is a counted noun of German, French, Polish or Russian by its form. Words of
/// scale, fractions and units are none.
pub(super) fn is_foreign_noun(word: &str) -> bool {
    const OTHERS: &str = "\
        f\u{fc}\u{df}e f\u{fc}nf zw\u{f6}lf h\u{e4}lfte gr\u{f6}\u{df}e \u{fc}ber milion miliard bilion \
        bilij tryli kwadry tuzin procent stopni punkt dziesi\u{105}t tysi setek po\u{142} raz \u{107}wier \
        миллион миллиард биллион триллион тысяч десят сот дюжин процент пункт балл раз половин трет четверт \
        корн степен дол минус квадрат куб част нулей менее более тем";
    const POLISH: &str = "\
        jab\u{142}ka jab\u{142}ek ksi\u{105}\u{17c}ki ksi\u{105}\u{17c}ek dziewcz\u{105}t zwierz\u{105}t \
        kurcz\u{105}t o\u{142}\u{f3}wki jab\u{142}oni pude\u{142}ek pude\u{142}ka krzese\u{142} ryb\u{119} \
        \u{142}y\u{17c}ek r\u{f3}\u{17c} g\u{119}si \u{15b}liwek \u{142}awek";
    const RUSSIAN: &str = "\
        яблок яблока книг книги конфет конфеты монет монеты машин машины роз розы штук штуки человек человека детей \
        ребят тетрадей карандаша карандашей учеников ученика кур рыб марок марки коробок коробки груш груши слив \
        ручек ручки игрушек игрушки девочек мальчиков деревьев дерева страниц страницы студентов апельсинов";
    if word.is_ascii() {
        return false;
    }
    let lower = word.to_lowercase();
    if OTHERS.split_whitespace().any(|stem| lower.starts_with(stem)) {
        return false;
    }
    if lower.chars().all(|c| ('\u{430}'..='\u{451}').contains(&c)) {
        return lists(RUSSIAN, &lower) || lower.chars().count() > 4 && lower.ends_with("ов");
    }
    // Nouns of German have a capital; those in -tel may be fractions.
    let is_german = word.starts_with(char::is_uppercase)
        && word.chars().all(|c| c.is_ascii_alphabetic() || "äöüßÄÖÜ".contains(c))
        && word.chars().skip(1).all(char::is_lowercase)
        && word.chars().count() > 3
        && !lower.ends_with("tel");
    let is_polish = lists(POLISH, &lower)
        || lower.chars().count() > 4 && lower.ends_with("\u{f3}w") && lower.chars().all(is_latin_letter);
    is_german || is_polish || lower.ends_with("eaux")
}

/// Whether a letter is Latin, with or without diacritics.
pub(super) fn is_latin_letter(letter: char) -> bool {
    letter.is_alphabetic() && (letter < '\u{250}' || ('\u{1e00}'..='\u{1eff}').contains(&letter))
}

/// Whether a word is of Latin letters, with or without diacritics.
pub(super) fn is_latin(word: &str) -> bool {
    word.chars().all(is_latin_letter)
}
