//! Programs with one small fault: tests that do not notice any of them check nothing.

/// What is replaced by what. Spaces keep operators apart from signs, arrows and keyword arguments.
static REPLACEMENTS: [(&str, &str); 19] = [
    (" <= ", " < "),
    (" >= ", " > "),
    (" < ", " <= "),
    (" > ", " >= "),
    (" == ", " != "),
    (" != ", " == "),
    (" + ", " - "),
    (" - ", " + "),
    (" * ", " + "),
    (" // ", " * "),
    (" / ", " * "),
    (" % ", " // "),
    (" += ", " -= "),
    (" -= ", " += "),
    (" and ", " or "),
    (" or ", " and "),
    (" not in ", " in "),
    ("min(", "max("),
    ("max(", "min("),
];
/// Words that are replaced where they stand alone.
static WORDS: [(&str, &str); 2] = [("True", "False"), ("False", "True")];

/// A place in a program, what is there, and what is put in its place.
struct Site {
    at: usize,
    length: usize,
    replacement: String,
}

/// Up to `n` different mutants of a Python program, sampled by `below`, which gives a number below its argument.
pub(super) fn mutants(program: &str, n: usize, below: &mut dyn FnMut(usize) -> usize) -> Vec<String> {
    let mut sites = sites(program);
    let mut mutants = Vec::new();
    while mutants.len() < n && !sites.is_empty() {
        let Site { at, length, replacement } = sites.swap_remove(below(sites.len()));
        mutants.push(format!("{}{replacement}{}", &program[..at], &program[at + length..]));
    }
    mutants
}

fn sites(program: &str) -> Vec<Site> {
    let is_code = code_mask(program);
    let mut sites = Vec::new();
    for (at, c) in program.char_indices().filter(|(at, _)| is_code[*at]) {
        let (before, rest) = (program[..at].chars().next_back(), &program[at..]);
        let starts_word = !before.is_some_and(is_of_word);
        let stands_alone = |length: usize| starts_word && !rest[length..].starts_with(is_of_word);
        let operator =
            REPLACEMENTS.iter().find(|(from, _)| rest.starts_with(from) && (c == ' ' || starts_word));
        let word = WORDS.iter().find(|(from, _)| rest.starts_with(from) && stands_alone(from.len()));
        if let Some((from, to)) = operator.or(word) {
            sites.push(Site { at, length: from.len(), replacement: (*to).to_owned() });
        }
        if c.is_ascii_digit() && starts_word {
            let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            if let (true, Ok(number)) = (stands_alone(length), rest[..length].parse::<u32>()) {
                let replacement = (u64::from(number) + 1).to_string();
                sites.push(Site { at, length, replacement });
            }
        }
    }
    sites
}

/// What continues a name or a number.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Of each byte, whether it is neither in a string nor in a comment.
fn code_mask(program: &str) -> Vec<bool> {
    let mut is_code = vec![true; program.len()];
    let mut at = 0;
    while at < program.len() {
        let rest = &program[at..];
        let end = match rest.chars().next() {
            Some('#') => at + rest.find('\n').unwrap_or(rest.len()),
            Some(quote @ ('"' | '\'')) => at + string_length(rest, quote),
            Some(c) => {
                at += c.len_utf8();
                continue;
            }
            None => break,
        };
        is_code[at..end].fill(false);
        at = end;
    }
    is_code
}

/// The bytes of the string that a text begins with; all of the text if it is never closed.
fn string_length(text: &str, quote: char) -> usize {
    let triple = quote.to_string().repeat(3);
    let close = if text.starts_with(&triple) { triple } else { quote.to_string() };
    let mut at = close.len();
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(&close) {
            return at + close.len();
        }
        let mut characters = rest.chars();
        let n_characters = if characters.next() == Some('\\') { 2 } else { 1 };
        at += rest.chars().take(n_characters).map(char::len_utf8).sum::<usize>();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(program: &str) -> Vec<String> {
        let mut mutants = mutants(program, usize::MAX, &mut |_| 0);
        mutants.sort_unstable();
        mutants
    }

    #[test]
    fn each_mutant_has_one_fault() {
        let program = "def f(x):\n    return x <= 10 and x % 2 == 0\n";
        let expected = [
            "def f(x):\n    return x < 10 and x % 2 == 0\n",
            "def f(x):\n    return x <= 10 and x % 2 != 0\n",
            "def f(x):\n    return x <= 10 and x % 2 == 1\n",
            "def f(x):\n    return x <= 10 and x % 3 == 0\n",
            "def f(x):\n    return x <= 10 and x // 2 == 0\n",
            "def f(x):\n    return x <= 10 or x % 2 == 0\n",
            "def f(x):\n    return x <= 11 and x % 2 == 0\n",
        ];
        assert_eq!(all(program), expected);
        assert_eq!(mutants(program, 2, &mut |n| n - 1).len(), 2);
    }

    #[test]
    fn strings_comments_names_and_signs_stay() {
        for program in [
            "# a < b and 1\n",
            "s = 'a < b 1'\n",
            "s = \"\"\"True\n1 + 2\"\"\"\n",
            "s = 'it\\'s 1 + 2'\n",
            "def f(x: int) -> int:\n    return x1.y2\n",
            "TrueFalse = _max(x)\n",
            "s = '未闭合 1 + 2",
            "",
        ] {
            assert_eq!(all(program), [""; 0], "{program}");
        }
        assert_eq!(all("x = True"), ["x = False"]);
        assert_eq!(all("x = max(a, b)"), ["x = min(a, b)"]);
        assert_eq!(all("x = '变' + 3"), ["x = '变' + 4", "x = '变' - 3"]);
    }
}
