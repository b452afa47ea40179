#!/usr/bin/env python3
"""Makes the prompt pools of `docs/results/selection.md`: prompts whose templates are known.

    python template_pools.py --data DATA --out WORK

DATA is a folder with templates/{flan_v2_templates,flan_filled_prompts,p3_filled_prompts,natural_instructions_tasks}.jsonl,
math/{gsm8k_train,mgsm_zh}.jsonl, instructions/self_instruct_{seed_tasks,user_oriented}.jsonl, preferences/dpo_{en,zh}_demo.jsonl
(each may be gzipped). WORK receives

    train.jsonl            FLAN's templates, filled, without those of source sets that P3's file has too
    ceiling.jsonl          triplets of train.jsonl from the true templates: what mining can be compared with
    eval.jsonl             P3's prompts, all templates
    ni_inputs.jsonl        inputs of natural instructions, without and
    ni_definitions.jsonl   with the definition of their task; `template` is the task
    zh.jsonl               24 Chinese templates of ours, filled
    half/pool.jsonl        P3's prompts and completions, 54 of the commonest template down to 4 of the rarest
    half/random_SEED.jsonl half of the pool by chance
    half/eval/*.jsonl      three other rows of each template
    half/eval.toml         their `[[eval_data]]` tables, a source each

Same data, same files.
"""
import argparse
import ast
import json
import pathlib
import random
import re

from prepare import read_rows

FILLINGS = 20
NI_INPUTS = 25
LONGEST_PROMPT_CHARS = 1200
# Source sets of P3's file, as FLAN's tasks spell them.
HELD_OUT_SETS = ["adversarial", "squad", "common_gen", "commonsense", "ecqa", "hotpot", "quarel", "cosmos", "dbpedia", "paws", "qasc"]
PASSAGES = ["context", "text", "passage", "paragraph", "background", "body", "dialog_", "dialogue", "premise", "inputs",
            "Definition", "input", "input_string", "source", "ex_explanation", "highlights", "response", "target", "fact"]
QUESTIONS = ["question", "question1", "question2", "query"]
FEW_WORDS = ["title", "answer", "subject", "concepts", "concepts_newline", "word", "pronoun", "goal", "lang1", "lang2", "tripleset",
             "meaning_representation"]
CHINESE = [
    ("翻译", "请把下面的中文翻译成英文：\n{text}"), ("翻译", "以下内容用英语怎么说？\n\n{text}"),
    ("翻译", "{text}\n\n将上文译成法语，只给出译文。"),
    ("摘要", "用一句话概括下面这段文字。\n\n{text}"), ("摘要", "文章：{text}\n\n请写出不超过三十个字的摘要。"),
    ("摘要", "阅读材料并列出三个要点：\n{text}"),
    ("数学", "请一步一步解答这道数学题：{question}"), ("数学", "{question}\n只写最后的数字，不要解释。"),
    ("数学", "小明不会做这道题，请你当老师讲给他听。\n题目：{question}"),
    ("情感", "判断下面这句话的情感是积极还是消极：\n{text}"), ("情感", "评论：{text}\n\n这条评论的作者高兴吗？回答“是”或“否”。"),
    ("改写", "把下面的句子改写得更正式一些。\n{text}"), ("改写", "请用小学生能听懂的话重新说一遍：{text}"),
    ("改写", "在不改变意思的前提下缩短这段话：\n\n{text}"),
    ("分类", "给下面的文本选一个类别（体育、科技、财经、生活）：\n{text}"), ("分类", "文本：{text}\n它属于哪个主题？只回答主题的名称。"),
    ("问答", "根据这段文字提出一个问题，并给出答案。\n\n{text}"), ("问答", "你是一位专家。用户问：{text}\n请给出详细的回答。"),
    ("续写", "请续写下面的故事，不少于一百字：\n{text}"), ("续写", "{text}\n\n接下来会发生什么？写出两种可能。"),
    ("抽取", "找出下文中所有的人名和地名，用逗号隔开：\n{text}"), ("抽取", "提取关键词（最多五个）。\n正文：{text}\n关键词："),
    ("纠错", "下面的文字有没有错别字？如果有，请改正。\n{text}"), ("对话", "甲：{text}\n乙：\n\n请补全乙的回答，语气要友好。"),
]
P3_COMMONEST, P3_RAREST, P3_HELD_OUT = 54, 4, 3


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{path}: {len(rows)} rows, {len({row.get('template') for row in rows})} templates")


def tasks_of(data):
    """Natural instructions: name, definition and inputs of every task. The file holds lists as Python writes them."""
    for row in read_rows(data / "templates/natural_instructions_tasks"):
        definition, instances = (ast.literal_eval(row[key]) if isinstance(row[key], str) else row[key]
                                 for key in ("Definition", "Instances"))
        yield row["task"], definition[0], [instance["input"] for instance in instances]


def endless(texts, draw):
    """All texts in a random order, again and again."""
    while True:
        draw.shuffle(texts)
        yield from texts


class Texts:
    """What slots are filled with: running text, cut into sentences, questions and passages. None recurs while there are others."""

    def __init__(self, data):
        texts = [row["question"] for row in read_rows(data / "math/gsm8k_train")]
        texts += [row["answer"].split("####")[0] for row in read_rows(data / "math/gsm8k_train")]
        for row in read_rows(data / "instructions/self_instruct_seed_tasks") + read_rows(data / "instructions/self_instruct_user_oriented"):
            texts += [row["instruction"]] + [part for one in row["instances"] for part in (one["input"], one["output"])]
        for row in read_rows(data / "preferences/dpo_en_demo"):
            texts += [row["conversations"][-1]["value"], row["chosen"]["value"], row["rejected"]["value"]]
        sentences = [part.strip() for text in texts for part in re.split(r"(?<=[.?!])\s+|\n+", text)]
        sentences = sorted({part for part in sentences if 4 <= len(part.split()) <= 40})
        draw = random.Random(1)
        self.questions = endless([part for part in sentences if part.endswith("?")], draw)
        self.sentences = endless([part for part in sentences if not part.endswith("?")], draw)
        self.passages = endless(sorted({" ".join(text.split()) for text in texts if 25 <= len(text.split()) <= 120}), draw)
        self.words = sorted({word.strip(".,!?\"'()").lower() for part in sentences for word in part.split() if word.isalpha()})

    def fill(self, slot, draw):
        if slot in PASSAGES:
            return next(self.passages if draw.random() < 0.6 else self.sentences)
        if slot in QUESTIONS:
            return next(self.questions)
        if slot in ("options_", "options_str"):
            options = [self.few_words(draw) for _ in range(draw.choice([2, 3, 4, 5]))]
            return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options)
        if slot == "no_space":
            return next(self.sentences).replace(" ", "")
        if slot in FEW_WORDS:
            return self.few_words(draw)
        return next(self.sentences)

    def few_words(self, draw):
        return " ".join(draw.sample(self.words, draw.choice([1, 1, 2, 3])))


def flan(data):
    """FLAN's templates filled by us, and its own filled prompts, of sets that are not held out."""
    def is_held_out(name):
        return any(name_of_set in name.lower() for name_of_set in HELD_OUT_SETS)

    draw, texts = random.Random(0), Texts(data)
    rows = [{"template": row["template"], "dataset": row["dataset"], "prompt": row["prompt"]}
            for row in read_rows(data / "templates/flan_filled_prompts") if not is_held_out(row["template"])]
    for row in read_rows(data / "templates/flan_v2_templates"):
        slots = sorted(set(re.findall(r"\{(\w+)\}", row["input_template"])))
        if is_held_out(row["task"]) or not slots:
            continue
        for _ in range(FILLINGS):
            prompt = row["input_template"]
            for slot in slots:
                prompt = prompt.replace("{" + slot + "}", texts.fill(slot, draw))
            rows.append({"template": f"{row['task']}/{row['index']}", "dataset": row["task"], "prompt": prompt[:LONGEST_PROMPT_CHARS]})
    draw.shuffle(rows)
    return rows


def ceiling(rows):
    """For each row another of its template and, where there is one, a row of another template for the same data set."""
    draw = random.Random(0)
    of_template, of_dataset = {}, {}
    for row in rows:
        of_template.setdefault(row["template"], []).append(row)
        of_dataset.setdefault(row["dataset"], []).append(row)
    triplets = []
    for row in rows:
        positives = [other for other in of_template[row["template"]] if other is not row]
        negatives = [other for other in of_dataset[row["dataset"]] if other["template"] != row["template"]]
        if positives and negatives:
            triplets.append({"anchor": row["prompt"], "positive": draw.choice(positives)["prompt"],
                             "negative": draw.choice(negatives)["prompt"]})
    draw.shuffle(triplets)
    return triplets


def chinese(data):
    """Our Chinese templates, filled with arithmetic questions and with requests."""
    draw = random.Random(0)
    questions = [row["question"] for row in read_rows(data / "math/mgsm_zh")]
    texts = sorted({row["conversations"][-1]["value"].strip()[:160] for row in read_rows(data / "preferences/dpo_zh_demo")} | set(questions))
    return [{"template": f"{task}/{place}", "dataset": task,
             "prompt": template.replace("{text}", draw.choice(texts)).replace("{question}", draw.choice(questions))}
            for place, (task, template) in enumerate(CHINESE) for _ in range(FILLINGS)]


def half(p3, out):
    """A pool whose templates are as unequal as in the wild, and held-out rows of each."""
    draw = random.Random(0)
    of_template = {}
    for row in p3:
        if len(row["prompt"]) <= LONGEST_PROMPT_CHARS and row["completion"].strip():
            row = dict(row, completion=row["completion"].removesuffix("<|endoftext|>"))
            of_template.setdefault(row["template"], []).append(row)
    names = sorted(name for name, rows in of_template.items() if len(rows) >= P3_RAREST + P3_HELD_OUT)
    draw.shuffle(names)
    pool, tables = [], []
    for place, name in enumerate(names):
        rows = of_template[name]
        draw.shuffle(rows)
        held_out, rest = rows[:P3_HELD_OUT], rows[P3_HELD_OUT:]
        write_rows(out / f"eval/{name}.jsonl", held_out)
        tables.append(f'[[eval_data]]\npath = "eval/{name}.jsonl"\n')
        pool += rest[:max(P3_RAREST, round(P3_COMMONEST / (1 + place) ** 0.62))]
    draw.shuffle(pool)
    write_rows(out / "pool.jsonl", pool)
    for seed in (1, 2, 3):
        write_rows(out / f"random_{seed}.jsonl", random.Random(seed).sample(pool, len(pool) // 2))
    (out / "eval.toml").write_text("\n".join(tables))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    p3 = read_rows(options.data / "templates/p3_filled_prompts")
    train = flan(options.data)
    write_rows(options.out / "train.jsonl", train)
    write_rows(options.out / "ceiling.jsonl", ceiling(train))
    write_rows(options.out / "eval.jsonl", p3)
    inputs = [(task, definition, text) for task, definition, inputs in tasks_of(options.data)
              for text in [text for text in inputs if text.strip()][:NI_INPUTS]]
    write_rows(options.out / "ni_inputs.jsonl", [{"template": task, "prompt": text} for task, _, text in inputs])
    write_rows(options.out / "ni_definitions.jsonl",
               [{"template": task, "prompt": f"{definition}\n\n{text}"} for task, definition, text in inputs])
    write_rows(options.out / "zh.jsonl", chinese(options.data))
    half(p3, options.out / "half")


if __name__ == "__main__":
    main()
