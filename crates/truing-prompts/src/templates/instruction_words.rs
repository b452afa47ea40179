//! Words that ask for something, or name what is given and asked for. Few of them are missing from any task template;
//! the lists are the least that tells "Question: {1} Answer:" from "- {1} - {2}".

use rustc_hash::FxHashSet;

use crate::tokens::{Vocabulary, is_spaceless};

/// English.
pub const ENGLISH_INSTRUCTION_WORDS: &str = "
    analyze analyse answer answers argue article ask assign assume based best calculate categorize categories category
    change check choice choices choose choosing classify code combine compare complete compose compute concept concepts
    conclude conclusion consider construct context continue conversation convert convince correct create decide define
    describe design detect determine develop dialogue discuss document draft edit email essay evaluate exam example
    explain explanation extract fact facts fill find fix following formulate function generate give given guess help
    hint hypothesis identify imagine implement improve infer input instruction keywords label language list logic make
    meaning mention most name optimize option options order organize outline output paragraph paraphrase passage pick
    plan please poem predict premise problem program proofread propose provide question questions rank rate rationale
    read reason reasoning recommend rephrase reply respond response return review rewrite say select sentence sentences
    solution solve sort statement statements steps step story suggest suitable summarise summarize summary tell test
    text think thought thoughts title topic topics translate translation true use using verify word words write yes";

/// Chinese, simplified and traditional.
pub const CHINESE_INSTRUCTION_WORDS: &str = "
    请 請 回答 答案 问题 問題 翻译 翻譯 写 寫 生成 总结 總結 概括 解释 解釋 描述 列出 选择 選擇 选项 選項 判断 判斷 分类 分類
    根据 根據 以下 下面 给出 給出 句子 文章 段落 文本 改写 改寫 续写 續寫 计算 計算 分析 比较 比較 提取 如何 帮我 幫我";

/// The words, looked up in one vocabulary.
#[derive(Debug)]
pub(super) struct Matcher<'a> {
    words: FxHashSet<&'a str>,
    /// Of scripts without spaces, where a token is a character.
    runs: Vec<&'a str>,
    vocabulary: &'a Vocabulary,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(words: &'a [String], vocabulary: &'a Vocabulary) -> Self {
        let is_run = |word: &&str| word.chars().any(is_spaceless);
        let words = || words.iter().map(String::as_str);
        Matcher {
            words: words().filter(|word| !is_run(word)).collect(),
            runs: words().filter(is_run).collect(),
            vocabulary,
        }
    }

    /// Whether a run of tokens holds one of the words.
    pub(super) fn is_in(&self, run: &[u32]) -> bool {
        let texts = || run.iter().map(|&token| self.vocabulary.text(token));
        texts().any(|text| self.words.contains(text.to_lowercase().as_str()))
            || !self.runs.is_empty() && {
                let joined: String = texts().collect();
                self.runs.iter().any(|run| joined.contains(run))
            }
    }
}
