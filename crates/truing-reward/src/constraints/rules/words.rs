//! Words and phrases that constraints ask for or forbid, in English and in Chinese.

use super::Texts;

/// Words that fit nearly any subject.
pub(super) const USUAL_WORDS: [Texts; 2] = [
    &[
        "example",
        "first",
        "important",
        "reason",
        "result",
        "usually",
        "compare",
        "question",
        "people",
        "because",
    ],
    &["例如", "首先", "重要", "原因", "结果", "通常", "比较", "问题", "因此", "同时"],
];
/// Words that can be done without.
pub(super) const DISPENSABLE_WORDS: [Texts; 2] = [
    &["very", "really", "always", "never", "things", "obviously", "actually", "just"],
    &["非常", "其实", "永远", "当然", "显然", "特别", "真的", "总之"],
];
pub(super) const FIRST_WORDS: [Texts; 2] = [
    &["Meanwhile", "However", "Imagine", "Today", "Consider", "Often"],
    &["此外", "然而", "试想", "如今", "一般", "有时"],
];
pub(super) const LAST_PHRASES: [Texts; 2] = [
    &[
        "That is the whole story.",
        "Ask me if anything is unclear.",
        "Now it is your turn.",
        "More on this another day.",
    ],
    &["以上就是全部内容。", "如有疑问请再问我。", "接下来就看你的了。", "其余的改日再谈。"],
];
pub(super) const FIRST_PHRASES: [Texts; 2] = [
    &["Here is what I suggest.", "Let us look at this together.", "Good question.", "In one sentence:"],
    &["我的看法如下。", "我们一起来看。", "这是个好问题。", "用一句话说："],
];
