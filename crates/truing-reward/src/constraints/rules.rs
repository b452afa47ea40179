//! The types that a program checks: each is an instruction of IFEval. `detectable_format:constrained_response`, the
//! types of letter case and that of letters exist in English alone.

mod words;

use super::table::Part::{Amount, Beginning, Case, Commas, Division, Ending, Language, Lists, Prose};
use super::table::{ConstraintGroup, ConstraintType, Domain, Parameter, Part, TypeCheck};
use words::{DISPENSABLE_WORDS, FIRST_PHRASES, FIRST_WORDS, LAST_PHRASES, USUAL_WORDS};

const AT_LEAST: (&str, &str) = ("relation", "at least");
const LESS_THAN: (&str, &str) = ("relation", "less than");

type Texts = &'static [&'static str];

const fn rule(
    id: &'static str,
    group: ConstraintGroup,
    instruction: &'static str,
    fixed: &'static [(&'static str, &'static str)],
    parameters: &'static [Parameter],
    wordings: [Texts; 2],
    claims: &'static [Part],
    needs: &'static [Part],
) -> ConstraintType {
    let check = TypeCheck::Rule { instruction, fixed };
    ConstraintType { id, group, check, parameters, wordings, claims, needs }
}

macro_rules! numbers {
    ($name:literal, $first:literal, $last:literal, $step:literal) => {
        Parameter { name: $name, domain: Domain::Numbers { first: $first, last: $last, step: $step } }
    };
}

macro_rules! choice {
    ($name:literal, $texts:expr) => {
        Parameter { name: $name, domain: Domain::Choice($texts) }
    };
}

macro_rules! several {
    ($name:literal, $n:literal, $texts:expr) => {
        Parameter { name: $name, domain: Domain::Several($n, $texts) }
    };
}

/// All of them.
pub(super) static RULES: &[ConstraintType] = &[
    rule(
        "length.words_at_least",
        ConstraintGroup::Length,
        "length_constraints:number_words",
        &[AT_LEAST],
        &[numbers!("num_words", 50, 400, 25)],
        [
            &[
                "Write at least {num_words} words.",
                "The response must have {num_words} words or more.",
                "Use no fewer than {num_words} words.",
            ],
            &["至少写{num_words}个字。", "回答不少于{num_words}个字。", "篇幅要达到{num_words}个字以上。"],
        ],
        &[Amount],
        &[Language],
    ),
    rule(
        "length.words_less_than",
        ConstraintGroup::Length,
        "length_constraints:number_words",
        &[LESS_THAN],
        &[numbers!("num_words", 60, 400, 20)],
        [
            &[
                "Write less than {num_words} words.",
                "Stay below {num_words} words.",
                "The response must be shorter than {num_words} words.",
            ],
            &[
                "少于{num_words}个字。",
                "回答要控制在{num_words}个字以内，不含{num_words}个字。",
                "全文必须不到{num_words}个字。",
            ],
        ],
        &[Amount],
        &[Language],
    ),
    rule(
        "length.sentences_at_least",
        ConstraintGroup::Length,
        "length_constraints:number_sentences",
        &[AT_LEAST],
        &[numbers!("num_sentences", 3, 12, 1)],
        [
            &[
                "Use at least {num_sentences} sentences.",
                "The response must have {num_sentences} sentences or more.",
                "Write no fewer than {num_sentences} sentences.",
            ],
            &[
                "至少写{num_sentences}句话。",
                "回答不少于{num_sentences}句。",
                "句子数量要达到{num_sentences}句或更多。",
            ],
        ],
        &[Amount],
        &[Language],
    ),
    rule(
        "length.sentences_less_than",
        ConstraintGroup::Length,
        "length_constraints:number_sentences",
        &[LESS_THAN],
        &[numbers!("num_sentences", 4, 12, 1)],
        [
            &[
                "Use less than {num_sentences} sentences.",
                "The response must have fewer than {num_sentences} sentences.",
                "Stay below {num_sentences} sentences.",
            ],
            &[
                "句子少于{num_sentences}句。",
                "全文不到{num_sentences}句话。",
                "回答的句数必须小于{num_sentences}。",
            ],
        ],
        &[Amount],
        &[Language],
    ),
    rule(
        "length.paragraphs",
        ConstraintGroup::Length,
        "length_constraints:number_paragraphs",
        &[],
        &[numbers!("num_paragraphs", 2, 6, 1)],
        [
            &[
                "Write exactly {num_paragraphs} paragraphs and put a line with *** between them.",
                "Divide the response into {num_paragraphs} paragraphs, separated by the markdown divider ***.",
                "There must be {num_paragraphs} paragraphs, with *** and nothing else between two of them.",
            ],
            &[
                "恰好写{num_paragraphs}段，段与段之间用单独一行的***隔开。",
                "把回答分成{num_paragraphs}段，用***作分隔。",
                "全文共{num_paragraphs}段，相邻两段之间放一行***。",
            ],
        ],
        &[Division],
        &[],
    ),
    rule(
        "length.paragraph_first_word",
        ConstraintGroup::Length,
        "length_constraints:nth_paragraph_first_word",
        &[],
        &[
            numbers!("num_paragraphs", 2, 5, 1),
            numbers!("nth_paragraph", 1, 2, 1),
            choice!("first_word", FIRST_WORDS),
        ],
        [
            &[
                "Write {num_paragraphs} paragraphs with an empty line between them; paragraph {nth_paragraph} starts \
                 with the word \"{first_word}\".",
                "Use {num_paragraphs} paragraphs, separated by one blank line, and begin paragraph {nth_paragraph} \
                 with \"{first_word}\".",
                "The response has {num_paragraphs} paragraphs with blank lines between them. The first word of \
                 paragraph {nth_paragraph} is \"{first_word}\".",
            ],
            &[
                "写{num_paragraphs}段，段间空一行，第{nth_paragraph}段以“{first_word}”开头。",
                "全文分为{num_paragraphs}段，用空行隔开，其中第{nth_paragraph}段的第一个词是“{first_word}”。",
                "用空行分成{num_paragraphs}个段落，第{nth_paragraph}个段落要从“{first_word}”写起。",
            ],
        ],
        &[Division, Beginning],
        &[Language],
    ),
    rule(
        "format.bullets",
        ConstraintGroup::Format,
        "detectable_format:number_bullet_lists",
        &[],
        &[numbers!("num_bullets", 2, 8, 1)],
        [
            &[
                "Include exactly {num_bullets} bullet points in markdown, such as \"* This is a point.\"",
                "Use a markdown list with exactly {num_bullets} bullets, each starting with \"* \".",
                "There must be {num_bullets} bullet points in the response, no more and no fewer, each on a line that \
                 begins with \"* \".",
            ],
            &[
                "恰好使用{num_bullets}个Markdown列表项，每项以“* ”开头。",
                "回答中要有一个列表，正好{num_bullets}条，每条单独一行并以“* ”开始。",
                "列出{num_bullets}个要点，不多不少，每个要点前写“* ”。",
            ],
        ],
        &[Lists],
        &[],
    ),
    rule(
        "format.highlights",
        ConstraintGroup::Format,
        "detectable_format:number_highlighted_sections",
        &[],
        &[numbers!("num_highlights", 1, 5, 1)],
        [
            &[
                "Highlight at least {num_highlights} parts of the response with markdown, as in *highlighted part*.",
                "Put {num_highlights} or more passages between asterisks, like *this*.",
                "At least {num_highlights} phrases must stand between single asterisks: *phrase*.",
            ],
            &[
                "用Markdown星号标出至少{num_highlights}处重点，例如*重点*。",
                "至少有{num_highlights}处文字放在星号之间，形如*文字*。",
                "把{num_highlights}个或更多的关键语句写成*关键语句*的形式。",
            ],
        ],
        &[],
        &[Prose],
    ),
    rule(
        "format.title",
        ConstraintGroup::Format,
        "detectable_format:title",
        &[],
        &[],
        [
            &[
                "Give the response a title in double angular brackets, such as <<title>>.",
                "Include a title that is wrapped as <<your title>>.",
                "Put a title between << and >>.",
            ],
            &[
                "给回答加一个标题，写在双尖括号里，例如<<标题>>。",
                "要有标题，格式为<<你的标题>>。",
                "用<<和>>括起一个标题。",
            ],
        ],
        &[],
        &[Beginning, Prose],
    ),
    rule(
        "format.json",
        ConstraintGroup::Format,
        "detectable_format:json_format",
        &[],
        &[],
        [
            &[
                "Wrap the entire output in JSON format; markdown ticks are allowed.",
                "The whole response must be one valid JSON value.",
                "Answer with JSON and nothing else.",
            ],
            &[
                "全部输出必须是JSON格式，可以放在Markdown代码块里。",
                "整个回答是一个合法的JSON值。",
                "只输出JSON，不要有其他内容。",
            ],
        ],
        &[Beginning, Ending, Division, Lists, Prose],
        &[Commas],
    ),
    rule(
        "format.sections",
        ConstraintGroup::Format,
        "detectable_format:multiple_sections",
        &[],
        &[
            choice!("section_spliter", [&["Section", "Part", "Chapter"], &["部分", "节", "章"]]),
            numbers!("num_sections", 2, 5, 1),
        ],
        [
            &[
                "Divide the response into {num_sections} sections and mark the beginning of each with \
                 {section_spliter} X, such as {section_spliter} 1.",
                "Use at least {num_sections} sections with the headings {section_spliter} 1, {section_spliter} 2, ...",
                "The response has {num_sections} sections. Number them: {section_spliter} 1, {section_spliter} 2, ...",
            ],
            &[
                "把回答分成{num_sections}个部分，每个部分开头写上“第1{section_spliter}”“第2{section_spliter}”这样的标题。",
                "至少分{num_sections}块来写，标题依次为“第1{section_spliter}”“第2{section_spliter}”等。",
                "全文有{num_sections}个带编号的标题，形式为“第1{section_spliter}”“第2{section_spliter}”，依此类推。",
            ],
        ],
        &[Division],
        &[Case, Language],
    ),
    rule(
        "format.two_responses",
        ConstraintGroup::Format,
        "combination:two_responses",
        &[],
        &[],
        [
            &[
                "Give two different responses, separated by six asterisks: ******.",
                "Write two versions and put ****** between them.",
                "Answer twice in different ways, with a line of six asterisks (******) between the answers.",
            ],
            &[
                "给出两个不同的回答，中间用六个星号******隔开。",
                "写两个版本，两者之间放******。",
                "用两种方式各答一次，答案之间用一行******分隔。",
            ],
        ],
        &[Division],
        &[Amount, Beginning, Ending, Lists],
    ),
    rule(
        "content.keywords",
        ConstraintGroup::Content,
        "keywords:existence",
        &[],
        &[several!("keywords", 2, USUAL_WORDS)],
        [
            &[
                "Use the words {keywords}.",
                "Include these keywords in the response: {keywords}.",
                "The words {keywords} must all occur.",
            ],
            &[
                "回答中要用到{keywords}这些词。",
                "必须包含关键词：{keywords}。",
                "{keywords}都要出现在回答里。",
            ],
        ],
        &[],
        &[Language],
    ),
    rule(
        "content.forbidden_words",
        ConstraintGroup::Content,
        "keywords:forbidden_words",
        &[],
        &[several!("forbidden_words", 3, DISPENSABLE_WORDS)],
        [
            &[
                "Do not use the words {forbidden_words}.",
                "Avoid these words: {forbidden_words}.",
                "None of the words {forbidden_words} may occur in the response.",
            ],
            &[
                "不要使用{forbidden_words}这些词。",
                "回答里不能出现：{forbidden_words}。",
                "禁用以下词语：{forbidden_words}。",
            ],
        ],
        &[],
        &[Language],
    ),
    rule(
        "content.keyword_frequency",
        ConstraintGroup::Content,
        "keywords:frequency",
        &[AT_LEAST],
        &[choice!("keyword", USUAL_WORDS), numbers!("frequency", 2, 4, 1)],
        [
            &[
                "Use the word \"{keyword}\" at least {frequency} times.",
                "The word \"{keyword}\" must occur {frequency} times or more.",
                "Include \"{keyword}\" no fewer than {frequency} times.",
            ],
            &[
                "“{keyword}”一词至少出现{frequency}次。",
                "回答里要用到“{keyword}”不少于{frequency}次。",
                "把“{keyword}”写{frequency}次或更多次。",
            ],
        ],
        &[],
        &[Language],
    ),
    rule(
        "content.letter_frequency",
        ConstraintGroup::Content,
        "keywords:letter_frequency",
        &[("let_relation", "at least")],
        &[choice!("letter", [&["q", "z", "x", "j", "k"], &[]]), numbers!("let_frequency", 2, 6, 1)],
        [
            &[
                "The letter \"{letter}\" must occur at least {let_frequency} times.",
                "Use the letter \"{letter}\" {let_frequency} times or more.",
                "Let the letter \"{letter}\" appear no fewer than {let_frequency} times.",
            ],
            &[],
        ],
        &[],
        &[Language],
    ),
    rule(
        "content.placeholders",
        ConstraintGroup::Content,
        "detectable_content:number_placeholders",
        &[],
        &[numbers!("num_placeholders", 1, 5, 1)],
        [
            &[
                "Include at least {num_placeholders} placeholders in square brackets, such as [address].",
                "Leave {num_placeholders} or more places to fill in, each written like [name].",
                "There must be no fewer than {num_placeholders} placeholders in square brackets like [date].",
            ],
            &[
                "至少包含{num_placeholders}个用方括号表示的占位符，例如[地址]。",
                "留出{num_placeholders}处或更多待填写的地方，写成[姓名]的样子。",
                "占位符不少于{num_placeholders}个，用方括号括起，如[日期]。",
            ],
        ],
        &[],
        &[Prose],
    ),
    rule(
        "content.constrained_response",
        ConstraintGroup::Content,
        "detectable_format:constrained_response",
        &[],
        &[],
        [
            &[
                "Answer with one of these: \"My answer is yes.\", \"My answer is no.\", \"My answer is maybe.\"",
                "Choose exactly one: \"My answer is yes.\" or \"My answer is no.\" or \"My answer is maybe.\"",
                "The response has to be \"My answer is yes.\", \"My answer is no.\" or \"My answer is maybe.\"",
            ],
            &[],
        ],
        &[Amount, Beginning, Ending, Division, Lists, Prose],
        &[Case, Language],
    ),
    rule(
        "language.other_language",
        ConstraintGroup::Language,
        "language:response_language",
        &[],
        &[Parameter { name: "language", domain: Domain::OtherLanguage }],
        [
            &[
                "Write the entire response in {language}.",
                "Answer in {language}; no other language is allowed.",
                "The response must be in {language} from beginning to end.",
            ],
            &[
                "整个回答都要用{language}写。",
                "请用{language}回答，不得使用其他语言。",
                "从头到尾只能使用{language}。",
            ],
        ],
        &[Language],
        &[],
    ),
    rule(
        "language.all_capitals",
        ConstraintGroup::Language,
        "change_case:english_capital",
        &[],
        &[],
        [
            &[
                "Write the entire response in capital letters.",
                "Use capital letters only.",
                "Every letter of the response must be a capital letter, and the language English.",
            ],
            &[],
        ],
        &[Case],
        &[Language],
    ),
    rule(
        "language.all_lowercase",
        ConstraintGroup::Language,
        "change_case:english_lowercase",
        &[],
        &[],
        [
            &[
                "Write the entire response in lowercase letters; no capital letters are allowed.",
                "Use lowercase letters only.",
                "Do not use a single capital letter; the language is English.",
            ],
            &[],
        ],
        &[Case],
        &[Language],
    ),
    rule(
        "language.capital_words",
        ConstraintGroup::Language,
        "change_case:capital_word_frequency",
        &[("capital_relation", "at least")],
        &[numbers!("capital_frequency", 2, 8, 1)],
        [
            &[
                "Write at least {capital_frequency} words in all capital letters.",
                "{capital_frequency} or more words must be in CAPITALS.",
                "Use words in all capitals no fewer than {capital_frequency} times.",
            ],
            &[],
        ],
        &[Case],
        &[Language],
    ),
    rule(
        "language.no_comma",
        ConstraintGroup::Language,
        "punctuation:no_comma",
        &[],
        &[],
        [
            &["Do not use any commas.", "The response must not contain a comma.", "Write without commas."],
            &["不要使用任何逗号和顿号。", "回答中不得出现逗号或顿号。", "全文不用逗号、也不用顿号。"],
        ],
        &[Commas],
        &[],
    ),
    rule(
        "position.begin_phrase",
        ConstraintGroup::Position,
        "combination:repeat_prompt",
        &[],
        &[choice!("prompt_to_repeat", FIRST_PHRASES)],
        [
            &[
                "Begin with exactly these words: \"{prompt_to_repeat}\" Nothing may stand before them.",
                "The response must start with \"{prompt_to_repeat}\"",
                "Say \"{prompt_to_repeat}\" first, word for word, and answer after that.",
            ],
            &[
                "回答必须以“{prompt_to_repeat}”开头，前面不能有任何内容。",
                "先一字不差地写“{prompt_to_repeat}”，然后再作答。",
                "开头第一句是“{prompt_to_repeat}”。",
            ],
        ],
        &[Beginning],
        &[Case, Commas, Language],
    ),
    rule(
        "position.end_phrase",
        ConstraintGroup::Position,
        "startend:end_checker",
        &[],
        &[choice!("end_phrase", LAST_PHRASES)],
        [
            &[
                "Finish with exactly this phrase: \"{end_phrase}\" Nothing may follow it.",
                "The very last words of the response must be \"{end_phrase}\"",
                "End with \"{end_phrase}\" and add nothing after it.",
            ],
            &[
                "回答必须以“{end_phrase}”结尾，其后不能再有任何内容。",
                "最后一句话是“{end_phrase}”。",
                "以“{end_phrase}”收尾，后面什么也不写。",
            ],
        ],
        &[Ending],
        &[Case, Language],
    ),
    rule(
        "position.postscript",
        ConstraintGroup::Position,
        "detectable_content:postscript",
        &[],
        &[choice!("postscript_marker", [&["P.S.", "P.P.S"], &["附：", "又及："]])],
        [
            &[
                "At the end, add a postscript that starts with {postscript_marker}",
                "Close with a postscript. It begins with {postscript_marker}",
                "The last part of the response is a postscript starting with {postscript_marker}",
            ],
            &[
                "在末尾加一段以“{postscript_marker}”开头的附言。",
                "最后要有附言，并以“{postscript_marker}”起头。",
                "结尾写一条附言，开头是“{postscript_marker}”。",
            ],
        ],
        &[Ending],
        &[Case, Prose],
    ),
    rule(
        "position.quotation",
        ConstraintGroup::Position,
        "startend:quotation",
        &[],
        &[],
        [
            &[
                "Wrap the entire response in double quotation marks.",
                "The response begins and ends with a double quotation mark.",
                "Put everything you write between double quotation marks.",
            ],
            &["把整个回答放在双引号里。", "回答要以双引号开始、以双引号结束。", "全文用一对双引号括起来。"],
        ],
        &[Beginning, Ending],
        &[],
    ),
];
