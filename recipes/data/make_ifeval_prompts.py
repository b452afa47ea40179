"""Writes `ifeval_prompts.jsonl` and `ifeval_prompts_held_out.jsonl`: our own short tasks, each with one or two
instructions that a program can check, in the fields that IFEval uses. Same seed, same files."""

import json
import random
from pathlib import Path

TOPICS = """a rainy day|the sea|a lost key|morning coffee|a small garden|the night train|an old bicycle|a new neighbour
a walk in the woods|learning to swim|a birthday cake|the first snow|a quiet library|a friendly dog|the bus stop
a broken clock|a picnic|the market|a paper boat|the full moon|a music lesson|a long letter|a warm scarf|the harbour
a chess game|a street musician|baking bread|a lighthouse|the school yard|a camping trip""".replace("\n", "|").split("|")
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


def rows(n, seed):
    draw = random.Random(seed)
    for key in range(n):
        chosen = {}
        for _ in range(draw.choice([1, 1, 2])):
            name, kwargs, sentence = instructions(draw)
            chosen[name] = (kwargs, sentence)
        task = draw.choice(FORMS).format(draw.choice(TOPICS))
        yield {
            "key": key,
            "prompt": " ".join([task] + [sentence for _, sentence in chosen.values()]),
            "instruction_id_list": list(chosen),
            "kwargs": [kwargs for kwargs, _ in chosen.values()],
            "category": next(iter(chosen)).split(":")[0],
        }


def main():
    folder = Path(__file__).parent
    for name, n, seed in [("ifeval_prompts", 400, 1), ("ifeval_prompts_held_out", 48, 2)]:
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows(n, seed):
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
