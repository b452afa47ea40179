"""Writes `ifeval_prompts.jsonl` and `ifeval_prompts_held_out.jsonl`: our own short tasks, each with one or two
instructions that a program can check, in the fields that IFEval uses. Same seed, same files.

The held-out prompts are about other topics. Their column `types` says whether their instructions are of the types
that are learnt from (`seen`) or of others (`unseen`)."""

import json
import random
from pathlib import Path

TOPICS = """a rainy day|the sea|a lost key|morning coffee|a small garden|the night train|an old bicycle|a new neighbour
a walk in the woods|learning to swim|a birthday cake|the first snow|a quiet library|a friendly dog|the bus stop
a broken clock|a picnic|the market|a paper boat|the full moon|a music lesson|a long letter|a warm scarf|the harbour
a chess game|a street musician|baking bread|a lighthouse|the school yard|a camping trip""".replace("\n", "|").split("|")
HELD_OUT_TOPICS = """a hot summer|the mountain hut|a football match|the old bridge|a cup of tea|the village fair
a broken window|the first day at work|a sleeping cat|the river bank|a red balloon|the empty theatre|a winter coat
the vegetable soup|a family photograph""".replace("\n", "|").split("|")
FORMS = ["Write a short text about {}.", "Tell me about {}.", "Describe {} briefly.", "Write a few lines about {}."]
WORDS = ["river", "window", "light", "stone", "friend", "green", "morning", "paper", "quiet", "summer"]
ENDS = ["That is all.", "The end.", "Thank you for reading.", "See you soon."]


def instructions(draw):
    """One instruction: (id, kwargs, sentence)."""
    n_words = draw.choice([15, 20, 30, 40])
    n_sentences = draw.choice([2, 3, 4])
    two = draw.sample(WORDS, 2)
    end = draw.choice(ENDS)
    n_bullets = draw.choice([2, 3])
    word = draw.choice(WORDS)
    return draw.choice([
        ("length_constraints:number_words", {"relation": "less than", "num_words": n_words},
         f"Use less than {n_words} words."),
        ("length_constraints:number_words", {"relation": "at least", "num_words": n_words},
         f"Use at least {n_words} words."),
        ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": n_sentences},
         f"Use less than {n_sentences} sentences."),
        ("keywords:existence", {"keywords": two}, f"Use the words {two[0]} and {two[1]}."),
        ("keywords:forbidden_words", {"forbidden_words": ["the"]}, "Do not use the word the."),
        ("keywords:frequency", {"relation": "at least", "keyword": word, "frequency": 2},
         f"Use the word {word} at least 2 times."),
        ("change_case:english_lowercase", {}, "Write in lowercase letters only, no capital letters."),
        ("punctuation:no_comma", {}, "Do not use any commas."),
        ("startend:end_checker", {"end_phrase": end}, f"End with this exact phrase: {end}"),
        ("startend:quotation", {}, "Put the whole answer in double quotation marks."),
        ("detectable_format:number_bullet_lists", {"num_bullets": n_bullets},
         f"Answer with exactly {n_bullets} bullet points, each beginning with * and a space."),
        ("detectable_format:title", {}, "Begin with a title in double angular brackets, such as <<A title>>."),
        ("detectable_content:postscript", {"postscript_marker": "P.S."},
         "Add a postscript that begins with P.S. at the end."),
    ])


def unseen_instructions(draw):
    """One instruction of a type that is never learnt from: (id, kwargs, sentence)."""
    n_paragraphs = draw.choice([2, 3])
    n_capitals = draw.choice([2, 3])
    letter = draw.choice("aeotn")
    return draw.choice([
        ("change_case:english_capital", {}, "Write in capital letters only."),
        ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": n_capitals},
         f"Write at least {n_capitals} words in all capital letters."),
        ("detectable_format:json_format", {}, "Give the whole answer in JSON."),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1},
         "Highlight at least one part of the answer with asterisks, such as *highlighted part*."),
        ("detectable_content:number_placeholders", {"num_placeholders": 1},
         "Use at least one placeholder in square brackets, such as [name]."),
        ("length_constraints:number_paragraphs", {"num_paragraphs": n_paragraphs},
         f"Write {n_paragraphs} paragraphs, parted by ***."),
        ("keywords:letter_frequency", {"letter": letter, "let_relation": "at least", "let_frequency": 10},
         f"Use the letter {letter} at least 10 times."),
    ])


def row(draw, topics, instructions):
    """One prompt with one or two instructions."""
    chosen = {}
    for _ in range(draw.choice([1, 1, 2])):
        name, kwargs, sentence = instructions(draw)
        chosen[name] = (kwargs, sentence)
    task = draw.choice(FORMS).format(draw.choice(topics))
    return {
        "prompt": " ".join([task] + [sentence for _, sentence in chosen.values()]),
        "instruction_id_list": list(chosen),
        "kwargs": [kwargs for kwargs, _ in chosen.values()],
        "category": next(iter(chosen)).split(":")[0],
    }


def distinct(n, make):
    """`n` rows with different prompts."""
    rows = {}
    while len(rows) < n:
        made = make()
        rows.setdefault(made["prompt"], made)
    return list(rows.values())


def write(name, rows):
    with open(Path(__file__).parent / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for key, one in enumerate(rows):
            file.write(json.dumps({"key": key} | one) + "\n")


def main():
    draw = random.Random(1)
    write("ifeval_prompts", distinct(600, lambda: row(draw, TOPICS, instructions)))
    draw = random.Random(2)
    seen = distinct(160, lambda: row(draw, HELD_OUT_TOPICS, instructions))
    unseen = distinct(80, lambda: row(draw, HELD_OUT_TOPICS, unseen_instructions))
    write("ifeval_prompts_held_out", [one | {"types": "seen"} for one in seen] + [one | {"types": "unseen"} for one in unseen])


if __name__ == "__main__":
    main()
