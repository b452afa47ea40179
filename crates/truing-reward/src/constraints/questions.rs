//! The types that no program can check: each has a question that a judge answers with yes or no.

use super::table::Part::{Beginning, Division, Ending, Lists, Prose, Reader, Speaker, Tone};
use super::table::{ConstraintGroup, ConstraintType, Domain, Parameter, Part, TypeCheck};

type Texts = &'static [&'static str];

const fn asked(
    id: &'static str,
    group: ConstraintGroup,
    parameters: &'static [Parameter],
    wordings: [Texts; 2],
    question: [&'static str; 2],
    claims: &'static [Part],
    needs: &'static [Part],
) -> ConstraintType {
    let check = TypeCheck::Question(question);
    ConstraintType { id, group, check, parameters, wordings, claims, needs }
}

/// All of them.
pub(super) static QUESTIONS: &[ConstraintType] = &[
    asked(
        "format.table",
        ConstraintGroup::Format,
        &[],
        [
            &[
                "Put the most important information into a markdown table.",
                "Include a table in markdown.",
                "Part of the response must be a markdown table with a header row.",
            ],
            &[
                "把最重要的信息整理成Markdown表格。",
                "回答里要有一个Markdown表格。",
                "其中一部分必须写成带表头的Markdown表格。",
            ],
        ],
        [
            "Does the response contain a markdown table with a header row?",
            "回答中是否有一个带表头的Markdown表格？",
        ],
        &[Lists],
        &[Prose],
    ),
    asked(
        "content.example",
        ConstraintGroup::Content,
        &[],
        [
            &[
                "Give one concrete example from everyday life.",
                "Explain the main point with an example from daily life.",
                "Include an everyday example that makes the answer clear.",
            ],
            &[
                "举一个日常生活中的具体例子。",
                "用一个生活里的例子说明主要观点。",
                "回答要包含一个贴近生活的实例。",
            ],
        ],
        [
            "Does the response give a concrete example from everyday life?",
            "回答是否举出了日常生活中的具体例子？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "content.limits",
        ConstraintGroup::Content,
        &[],
        [
            &[
                "Name one case in which the answer does not hold.",
                "Mention an exception or a limit of what you say.",
                "Also say when this advice or statement does not apply.",
            ],
            &[
                "说出一种不适用的情况。",
                "要提到所说内容的一个例外或局限。",
                "同时说明在什么情况下这一说法不成立。",
            ],
        ],
        [
            "Does the response name an exception, a limit or a case in which it does not apply?",
            "回答是否指出了一个例外、局限或不适用的情况？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "content.figures",
        ConstraintGroup::Content,
        &[Parameter { name: "n_figures", domain: Domain::Numbers { first: 2, last: 5, step: 1 } }],
        [
            &[
                "Support the answer with at least {n_figures} numbers or quantities.",
                "Use {n_figures} or more figures (amounts, dates, shares) in the answer.",
                "The answer must name no fewer than {n_figures} numbers that matter for the subject.",
            ],
            &[
                "用至少{n_figures}个数字或数量来支持回答。",
                "回答里要有{n_figures}个或更多的数据，如数量、日期、比例。",
                "提到的与主题有关的数字不少于{n_figures}个。",
            ],
        ],
        [
            "Does the response name at least {n_figures} numbers, amounts, dates or shares that matter here?",
            "回答是否提到了至少{n_figures}个与主题有关的数字、数量、日期或比例？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "content.explain_terms",
        ConstraintGroup::Content,
        &[],
        [
            &[
                "Explain every technical term in a few words where it first occurs.",
                "Whenever you use a technical term, say briefly what it means.",
                "No technical term may be left unexplained.",
            ],
            &[
                "专业术语第一次出现时，用几个字解释一下。",
                "凡是用到术语，都要简要说明含义。",
                "不能有未作解释的专业术语。",
            ],
        ],
        [
            "Is every technical term in the response explained (yes if there is none)?",
            "回答中的专业术语是否都作了解释（没有术语则为是）？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "content.uncertainty",
        ConstraintGroup::Content,
        &[],
        [
            &[
                "Say openly which part of the answer you are least sure of.",
                "Mark what is uncertain in the answer.",
                "Name the statement that a reader should check.",
            ],
            &["坦率说明回答中最没有把握的部分。", "标明回答里不确定的内容。", "指出读者应当自行核实的说法。"],
        ],
        [
            "Does the response say which of its statements is uncertain or should be checked?",
            "回答是否说明了哪些说法不确定或需要核实？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "structure.summary_first",
        ConstraintGroup::Structure,
        &[],
        [
            &[
                "Start with a summary of one sentence, then go into detail.",
                "Put the short answer first, in one sentence, and explain afterwards.",
                "Open with a one-sentence conclusion before the details.",
            ],
            &[
                "先用一句话概括，再展开说明。",
                "第一句给出简短结论，然后解释。",
                "开头用一句话说出结论，细节放在后面。",
            ],
        ],
        [
            "Does the response begin with one sentence that sums up the answer?",
            "回答是否以一句概括性的话开头？",
        ],
        &[Beginning],
        &[Prose],
    ),
    asked(
        "structure.steps",
        ConstraintGroup::Structure,
        &[],
        [
            &[
                "Present the answer as numbered steps.",
                "Organise the answer as a sequence of numbered steps: 1., 2., 3.",
                "Number the steps of your answer.",
            ],
            &[
                "用带编号的步骤来回答。",
                "把内容写成依次编号的步骤：1.、2.、3.。",
                "给回答的各个步骤编上号码。",
            ],
        ],
        ["Is the answer presented as numbered steps?", "回答是否写成了带编号的步骤？"],
        &[Lists],
        &[Prose, Division],
    ),
    asked(
        "structure.both_sides",
        ConstraintGroup::Structure,
        &[],
        [
            &[
                "Present at least one point for and one point against.",
                "Look at the matter from two opposing sides.",
                "Name an advantage and a disadvantage.",
            ],
            &["至少各提出一个支持和一个反对的理由。", "从正反两方面来看这件事。", "说出一个优点和一个缺点。"],
        ],
        [
            "Does the response present both a point for and a point against?",
            "回答是否同时给出了正面和反面的观点？",
        ],
        &[],
        &[Prose],
    ),
    asked(
        "structure.recommendation_last",
        ConstraintGroup::Structure,
        &[],
        [
            &[
                "Close with one clear recommendation.",
                "The last sentence must be a recommendation to the reader.",
                "End by saying what you would advise.",
            ],
            &["最后给出一条明确的建议。", "末句必须是对读者的建议。", "结尾说出你会怎样建议。"],
        ],
        ["Does the response end with a clear recommendation?", "回答是否以一条明确的建议结尾？"],
        &[Ending],
        &[Prose],
    ),
    asked(
        "style.tone",
        ConstraintGroup::Style,
        &[Parameter {
            name: "tone",
            domain: Domain::Choice([
                &["warm", "formal", "humorous", "matter-of-fact", "encouraging"],
                &["亲切", "正式", "幽默", "客观平实", "鼓励"],
            ]),
        }],
        [
            &[
                "Use a {tone} tone.",
                "The tone of the response must be {tone}.",
                "Write in a {tone} tone throughout.",
            ],
            &["语气要{tone}。", "全文使用{tone}的语气。", "请以{tone}的口吻来写。"],
        ],
        ["Is the tone of the response {tone} throughout?", "回答的语气是否始终{tone}？"],
        &[Tone],
        &[Prose],
    ),
    asked(
        "style.comparison",
        ConstraintGroup::Style,
        &[],
        [
            &[
                "Use one comparison or metaphor.",
                "Make the subject vivid with a metaphor or a comparison.",
                "Include an image: compare the subject with something else.",
            ],
            &["使用一个比喻。", "用一个比喻让内容更生动。", "至少打一个比方。"],
        ],
        ["Does the response use a comparison or metaphor?", "回答是否使用了比喻？"],
        &[],
        &[Prose],
    ),
    asked(
        "style.rhetorical_question",
        ConstraintGroup::Style,
        &[],
        [
            &[
                "Ask the reader one rhetorical question.",
                "Include a rhetorical question.",
                "Somewhere in the response, use a question that needs no answer.",
            ],
            &["用一个反问句。", "回答里要有一句反问。", "在某处提出一个不需要回答的反问。"],
        ],
        ["Does the response contain a rhetorical question?", "回答中是否有反问句？"],
        &[],
        &[Prose],
    ),
    asked(
        "style.short_sentences",
        ConstraintGroup::Style,
        &[],
        [
            &[
                "Use short and simple sentences only.",
                "Keep every sentence short and without nested clauses.",
                "Avoid long sentences.",
            ],
            &["只用短句，句式要简单。", "每个句子都要简短，不用复杂从句。", "避免长句。"],
        ],
        ["Are the sentences of the response short and simple?", "回答中的句子是否都简短易懂？"],
        &[],
        &[Prose],
    ),
    asked(
        "persona.role",
        ConstraintGroup::Persona,
        &[Parameter {
            name: "role",
            domain: Domain::Choice([
                &["an experienced teacher", "a careful librarian", "a busy journalist", "a village doctor"],
                &["有经验的老师", "细心的图书管理员", "忙碌的记者", "乡村医生"],
            ]),
        }],
        [
            &["Answer in the voice of {role}.", "Speak as {role} would.", "Take the role of {role}."],
            &["以{role}的身份来回答。", "请扮演{role}来作答。", "用{role}的口吻说话。"],
        ],
        ["Does the response speak in the voice of {role}?", "回答是否体现了{role}的身份和口吻？"],
        &[Speaker],
        &[Prose],
    ),
    asked(
        "persona.audience",
        ConstraintGroup::Persona,
        &[Parameter {
            name: "audience",
            domain: Domain::Choice([
                &[
                    "a ten-year-old child",
                    "a beginner without previous knowledge",
                    "an expert of the field",
                    "a busy manager",
                ],
                &["十岁的孩子", "没有基础的初学者", "本领域的专家", "时间很少的管理者"],
            ]),
        }],
        [
            &[
                "Write for {audience}.",
                "The reader is {audience}; choose words and detail accordingly.",
                "Explain it so that it suits {audience}.",
            ],
            &[
                "写给{audience}看。",
                "读者是{audience}，请选择合适的用词和详略。",
                "说明方式要适合{audience}。",
            ],
        ],
        ["Do words and detail of the response suit {audience}?", "回答的用词和详略是否适合{audience}？"],
        &[Reader],
        &[Prose],
    ),
    asked(
        "persona.address_reader",
        ConstraintGroup::Persona,
        &[],
        [
            &[
                "Speak to the reader directly, as \"you\".",
                "Address the reader with \"you\" throughout.",
                "Write in the second person.",
            ],
            &["直接对读者说话，称呼对方为“你”。", "全文用“你”来称呼读者。", "使用第二人称来写。"],
        ],
        [
            "Does the response address the reader directly in the second person?",
            "回答是否用第二人称直接对读者说话？",
        ],
        &[],
        &[Prose],
    ),
];
