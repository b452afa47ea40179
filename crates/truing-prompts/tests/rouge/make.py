"""Writes pairs.jsonl: ROUGE-1, ROUGE-2 and ROUGE-L of some pairs by rouge-score 0.1.2, each as [precision, recall, F1].

    pip install rouge-score==0.1.2 && python make.py > pairs.jsonl
"""

import json

from rouge_score import rouge_scorer

NAMES = ["rouge1", "rouge2", "rougeL"]
PAIRS = [
    ("the quick brown fox jumps over the lazy dog", "the quick brown fox jumped over the lazy dog"),
    ("", ""), ("", "some words"), ("some words", ""),
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("the cat sat on the mat", "mat the on sat cat the"),
    ("a a a a", "a a"), ("a b a b a b", "b a b a"),
    ("the the the the", "the cat the dog the"),
    ("Paris is the capital of France.", "The capital of France is Paris!"),
    ("x = 3.14 + y_2", "x=3.14+y2"),
    ("It's 5 o'clock; don't be late.", "It is 5 o'clock, do not be late"),
    ("UPPER lower MiXeD", "upper LOWER mixed"),
    ("one", "one"), ("one", "two"), ("one two", "two one"),
    ("...!!!", "???"), ("\u4f60\u597d\uff0c\u4e16\u754c", "\u4f60\u597d\uff0c\u670b\u53cb"),
    ("\u6211\u7231 Rust \u8bed\u8a00 2024", "\u6211\u7528 rust 2024 \u7f16\u7a0b"),
    ("na\u00efve caf\u00e9 r\u00e9sum\u00e9", "naive cafe resume"),
    ("\u0130stanbul \u212a 10", "istanbul k 10"),
    ("line one\nline two\ttabbed", "line two\nline one tabbed"),
    ("1. First step\n2. Second step\n3. Third step", "1. First step 2. Third step"),
    ("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows",
     "to be or not to be that is the question whether it is nobler to suffer slings"),
    ("police killed the gunman", "police kill the gunman"),
    ("a-b-c d/e/f g_h", "a b c d e f g h"),
]

scorer = rouge_scorer.RougeScorer(NAMES, use_stemmer=False)
for target, prediction in PAIRS:
    scores = scorer.score(target, prediction)
    row = {"target": target, "prediction": prediction, **{name: list(scores[name]) for name in NAMES}}
    print(json.dumps(row, ensure_ascii=False))
