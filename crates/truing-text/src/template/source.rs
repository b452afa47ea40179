//! A template's source before it is compiled: line ends, and `{% generation %}` blocks.

/// What `{% generation %}` is rewritten to call.
pub(super) const GENERATION_FUNCTION: &str = "__truing_generation";

/// The source that minijinja compiles, and whether it has generation blocks.
///
/// Jinja2 reads every kind of line end as `\n`. minijinja has no `{% generation %}`; a call block with the
/// same whitespace control around it is what transformers makes of it too.
pub(super) fn prepare(source: &str) -> (String, bool) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut has_generation = false;
    let mut rest = source.as_str();
    let mut is_raw = false;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{#")).chain(rest.find("{{")).min() {
        prepared.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = if is_raw && !rest.starts_with("{%") { 2 } else { tag_end(rest) };
        let (tag, after) = rest.split_at(end);
        rest = after;
        let statement = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")).unwrap_or("");
        let (left, word, right) = whitespace_control(statement);
        let replacement = match word {
            "raw" if !is_raw => {
                is_raw = true;
                None
            }
            "endraw" => {
                is_raw = false;
                None
            }
            "generation" if !is_raw => Some(format!("call {GENERATION_FUNCTION}()")),
            "endgeneration" if !is_raw => Some("endcall".to_owned()),
            _ => None,
        };
        match replacement {
            Some(statement) => {
                has_generation = true;
                prepared.push_str(&format!("{{%{left} {statement} {right}%}}"));
            }
            None => prepared.push_str(tag),
        }
    }
    prepared.push_str(rest);
    (prepared, has_generation)
}

/// Length of the tag that the text begins with; quoted closing marks do not close it.
fn tag_end(text: &str) -> usize {
    let close = match &text[..2] {
        "{#" => return text.find("#}").map_or(text.len(), |at| at + 2),
        "{%" => "%}",
        _ => "}}",
    };
    let mut quote = None;
    let mut characters = text.char_indices().skip(2);
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, _) if text[at..].starts_with(close) => return at + 2,
            (None, _) => {}
        }
    }
    text.len()
}

/// `- generation -` into its word and the signs on both sides.
fn whitespace_control(statement: &str) -> (&str, &str, &str) {
    let is_sign = |c: char| c == '-' || c == '+';
    let left = if statement.starts_with(is_sign) { &statement[..1] } else { "" };
    let statement = &statement[left.len()..];
    let right = if statement.ends_with(is_sign) { &statement[statement.len() - 1..] } else { "" };
    (left, statement[..statement.len() - right.len()].trim(), right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(prepare(source).0, expected);
    }

    #[test]
    fn generation_blocks_become_call_blocks_with_the_same_whitespace_control() {
        check(
            "a{%- generation -%}b{% endgeneration %}c",
            "a{%- call __truing_generation() -%}b{% endcall %}c",
        );
        check("{%+generation%}", "{%+ call __truing_generation() %}");
        assert!(prepare("{% generation %}{% endgeneration %}").1);
    }

    #[test]
    fn the_word_elsewhere_is_left_alone() {
        for source in [
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            r#"{{ "\"{% generation %}" }}"#,
            "{% raw %}{{ {% generation %}{% endraw %}",
            "{% if generation %}{% endif %}",
            "text generation {% unclosed",
            "{",
        ] {
            assert_eq!(prepare(source), (source.to_owned(), false));
        }
    }

    #[test]
    fn line_ends_are_unified() {
        check("a\r\nb\rc\n", "a\nb\nc\n");
    }
}
