"""Prompts for GRPO on instruction following: `instructions.jsonl` and `heldout_instructions.jsonl`.

Each asks for one or two sentences or a short list, so that 64 tokens are enough, and has one or two instructions that a
program can check, in the fields that IFEval uses. The held-out prompts have topics of their own; one in four words its
instructions in a way that training never uses (`"wording": "new"`).
"""
import random
import re

N_TRAIN, N_HELD_OUT = 160, 100
# One prompt in so many has a second instruction, and one held-out prompt in so many has new wording.
EACH_SECOND, EACH_NEW = 4, 4

TOPICS = [
    "a rainy Monday", "a vegetable garden", "an umbrella", "a camp fire", "a wool blanket", "a mountain lake",
    "a fire engine", "a tea kettle", "the smell of coffee", "a school bus", "a thunderstorm", "a wooden bridge",
    "a chess board", "a hot air balloon", "a parrot", "a windmill", "an apple tree", "a sand castle", "a taxi ride",
    "a birthday card", "a street lamp", "a snow storm", "a swimming pool", "a guitar", "a sleeping dog",
    "a pocket watch",
    "a flower shop", "a treasure map", "a ferry", "a pumpkin", "an old castle", "a waterfall", "a toy train",
    "a hairdresser", "a pair of boots", "a pizza", "a fishing boat", "a night sky", "a rocking chair", "a post office",
]
HELD_OUT_TOPICS = [
    "a lemon tree", "a ski lift", "a bowl of soup", "a hedgehog", "an elevator", "a harvest festival", "a piano",
    "a circus tent", "a desert road", "a wedding ring", "a seagull", "a telescope", "a picnic basket", "a broken cup",
    "a tram stop", "a green sweater", "a beehive", "an attic", "a glass of milk", "a football stadium", "a sunflower",
    "a pair of glasses", "a mailbox", "a foggy harbour", "a skateboard",
]
FORMS = [
    "Write one or two sentences about {}.",
    "Describe {} in one or two sentences.",
    "Tell me something about {} in one or two sentences.",
    "Give a short description of {}, at most two sentences.",
]
# A list needs another request.
LIST_FORMS = ["What comes to your mind about {}? Keep it short.", "Name some facts about {}, a few words each."]

LOWER, UPPER, NO_COMMA = "change_case:english_lowercase", "change_case:english_capital", "punctuation:no_comma"
END, QUOTE = "startend:end_checker", "startend:quotation"
BULLETS, N_WORDS = "detectable_format:number_bullet_lists", "length_constraints:number_words"
# Wordings of each instruction; the last one is kept for the held-out prompts.
WORDINGS = {
    LOWER: ["Write in lowercase letters only, no capital letters.", "Use only small letters.",
            "Do not use a single capital letter."],
    UPPER: ["Write in capital letters only.", "Use only upper case letters in your answer.",
            "Every letter must be a capital."],
    NO_COMMA: ["Do not use any commas.", "Your answer must not contain a comma.", "Leave out all commas."],
    END: ["End with this exact phrase: {end_phrase}", "The last words of your answer must be: {end_phrase}",
          "Close with these words and write nothing after them: {end_phrase}"],
    QUOTE: ["Put the whole answer in double quotation marks.",
            "Begin and end your answer with a double quotation mark.",
            "Wrap everything you write in double quotation marks."],
    BULLETS: ["Answer with exactly {num_bullets} bullet points, each beginning with - and a space.",
              "Write exactly {num_bullets} lines, and begin each of them with a dash and a space.",
              "Your answer must be a dash list with {num_bullets} entries."],
    N_WORDS: ["Use less than {num_words} words.", "Your answer must have fewer than {num_words} words.",
              "Stay below {num_words} words."],
}
TYPES = list(WORDINGS)
# Pairs that contradict each other, or leave no natural answer.
EXCLUDED = [{LOWER, UPPER}, {BULLETS, QUOTE}, {BULLETS, END}, {UPPER, END}, {LOWER, END}, {BULLETS, NO_COMMA}]
ENDS = ["That is all.", "The end.", "Thank you for reading.", "See you soon.", "Now you know."]
TOKENS_PER_WORD, MOST_TOKENS = 1.5, 64


def kwargs_of(draw, kind):
    return {
        END: lambda: {"end_phrase": draw.choice(ENDS)},
        BULLETS: lambda: {"num_bullets": draw.choice([2, 3])},
        N_WORDS: lambda: {"relation": "less than", "num_words": draw.choice([12, 15, 20])},
    }.get(kind, dict)()


def made(draw, n, topics, is_held_out):
    """`n` different prompts; types and topics come equally often."""
    rows = {}
    while len(rows) < n:
        idx = len(rows)
        kinds = [TYPES[idx % len(TYPES)]]
        if idx % EACH_SECOND == EACH_SECOND - 1:
            kinds.append(draw.choice([k for k in TYPES if k not in kinds and {k, *kinds} not in EXCLUDED]))
        is_new = is_held_out and idx % EACH_NEW == 0
        kwargs = [kwargs_of(draw, kind) for kind in kinds]
        wordings = [WORDINGS[kind][-1] if is_new else draw.choice(WORDINGS[kind][:-1]) for kind in kinds]
        form = draw.choice(LIST_FORMS if BULLETS in kinds else FORMS)
        # The phrase to end with stands at the end of the prompt.
        sentences = [wording.format(**settings) for wording, settings in zip(wordings, kwargs, strict=True)]
        sentences.sort(key=lambda sentence: sentence.endswith(tuple(ENDS)))
        row = {
            "prompt": " ".join([form.format(topics[idx % len(topics)]), *sentences]),
            "instruction_id_list": kinds,
            "kwargs": kwargs,
            "category": kinds[0].split(":")[0],
        }
        if is_held_out:
            row["wording"] = "new" if is_new else "trained"
        rows.setdefault(row["prompt"], row)
    return [{"key": key} | row for key, row in enumerate(rows.values())]


def train_and_held_out(rng):
    topics, held_out_topics = list(TOPICS), list(HELD_OUT_TOPICS)
    rng.shuffle(topics)
    rng.shuffle(held_out_topics)
    train, held_out = made(rng, N_TRAIN, topics, False), made(rng, N_HELD_OUT, held_out_topics, True)
    rng.shuffle(train)
    return [row | {"key": key} for key, row in enumerate(train)], held_out


def follows(kind, kwargs, answer):
    """Whether an answer follows one instruction, as IFEval checks it (strict)."""
    match kind:
        case "change_case:english_lowercase":
            return answer.islower()
        case "change_case:english_capital":
            return answer.isupper()
        case "punctuation:no_comma":
            return "," not in answer
        case "startend:end_checker":
            return answer.strip().strip('"').lower().endswith(kwargs["end_phrase"].lower())
        case "startend:quotation":
            text = answer.strip()
            return len(text) > 1 and text[0] == text[-1] == '"'
        case "detectable_format:number_bullet_lists":
            stars, dashes = (re.findall(p, answer, re.MULTILINE) for p in (r"^\s*\*[^\*].*$", r"^\s*-.*$"))
            return len(stars) + len(dashes) == kwargs["num_bullets"]
        case "length_constraints:number_words":
            return len(re.findall(r"\w+", answer)) < kwargs["num_words"]
        case _:
            raise ValueError(f"no such instruction: {kind}")


def right_answer(row):
    """A short answer that follows every instruction of the row."""
    given = dict(zip(row["instruction_id_list"], row["kwargs"], strict=True))
    text = "It makes a quiet place feel bright."
    if BULLETS in given:
        text = "\n".join(["- It is useful", "- People like it", "- It lasts long"][: given[BULLETS]["num_bullets"]])
    if END in given:
        text += " " + given[END]["end_phrase"]
    if UPPER in given:
        text = text.upper()
    if LOWER in given:
        text = text.lower()
    return f'"{text}"' if QUOTE in given else text


# What a model writes that has read the topic and none of the instructions.
CARELESS = ("Sure, here are two sentences about it. It is a familiar sight in many places, and people of all ages like "
            "to look at it, talk about it and remember it.")


def faults(train, held_out, trained_text):
    """What is wrong with the rows, as sentences. `trained_text` is all that fine-tuning shows."""
    if (len(train), len(held_out)) != (N_TRAIN, N_HELD_OUT):
        yield f"instructions: {len(train)} and {len(held_out)} rows"
    prompts = [row["prompt"] for row in train + held_out]
    if len(prompts) != len(set(prompts)):
        yield "instructions: a prompt comes twice"
    seen = "\n".join([trained_text, *(row["prompt"] for row in train)]).lower()
    for topic in HELD_OUT_TOPICS:
        if re.search(rf"\b{topic}\b", seen):
            yield f"instructions: the held-out topic {topic!r} is in the training text"
    for row in train + held_out:
        answer = right_answer(row)
        pairs = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
        if not all(follows(kind, kwargs, answer) for kind, kwargs in pairs):
            yield f"instructions: {answer!r} does not follow {row['prompt']!r}"
        if any(follows(kind, kwargs, CARELESS) for kind, kwargs in pairs):
            yield f"instructions: a careless answer follows a part of {row['prompt']!r}"
        if len(answer.split()) * TOKENS_PER_WORD > MOST_TOKENS or not row["prompt"].isascii():
            yield f"instructions: {row['prompt']!r} needs a long answer, or has other characters than ASCII"
    for rows, name in [(train, "training"), (held_out, "held-out")]:
        counts = {kind: sum(kind in row["instruction_id_list"] for row in rows) for kind in TYPES}
        if min(counts.values()) * 2 < max(counts.values()):
            yield f"instructions: unequal counts in the {name} prompts: {counts}"
