#!/usr/bin/env python3
"""Makes the items that both programs read, in the column shapes of MMLU, ARC, HellaSwag and WikiText.

    python make_items.py OUT [--knowledge ../../quickstart/knowledge.jsonl]

OUT receives mmlu.jsonl, arc.jsonl and hellaswag.jsonl (200 items each), mmlu_dev.jsonl and arc_dev.jsonl (5 solved
examples each) and wikitext.jsonl (pages). All of it is our own: the questions of the quick start and items made by rule.
What the published files contain is here as well: options of several tokens, 3 to 5 options, labels that are numbers,
white space at both ends, marks of WikiHow, empty second halves of a context, letters beyond ASCII.
"""
import argparse
import json
import pathlib
import random

N_ITEMS = 200
N_SHOTS = 5
LABELS = "ABCDE"
SPACES = [("", ""), (" ", ""), ("", " "), ("", "\n")]
NAMES = ["Amira", "Béla", "Chloé", "Dmitri", "Eun-ji", "Fatima", "Göran", "Hiroshi", "Inês", "Juan"]
THINGS = ["apples", "pencils", "stamps", "marbles", "tickets", "shells"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# One activity a line: label, then what is done one step after the other.
ACTIVITIES = {
    "Baking bread": [
        "mixes flour, yeast and warm water in a large bowl", "kneads the dough on the table for ten minutes",
        "lets the dough rise under a cloth until it has doubled", "puts the loaf into the hot oven and closes the door"],
    "Changing a tire": [
        "loosens the nuts of the flat wheel a little", "lifts the car with the jack until the wheel is off the ground",
        "takes the wheel off and puts the spare one in its place", "lowers the car and tightens the nuts crosswise"],
    "Planting a tree": [
        "digs a hole that is twice as wide as the roots", "sets the young tree upright into the hole",
        "fills the hole with earth and treads it down", "waters the tree and ties it to a stake"],
    "Washing the dog": [
        "fills a tub with lukewarm water", "lifts the dog into the tub and wets its fur",
        "rubs shampoo into the fur and rinses it out again", "dries the dog with an old towel while it shakes itself"],
    "Painting a wall": [
        "covers the floor with old newspapers", "sticks tape along the edges of the window",
        "rolls the paint onto the wall from top to bottom", "pulls off the tape before the paint is dry"],
    "Making coffee": [
        "grinds a handful of beans", "puts a paper filter into the funnel and the coffee into the filter",
        "pours hot water over the coffee in small circles", "fills a cup and adds a drop of milk"],
    "Wrapping a present": [
        "cuts a sheet of paper that goes round the box", "folds the paper over the box and tapes it down",
        "folds the ends in and tapes them too", "ties a ribbon around the parcel and writes a name on it"],
    "Fishing": [
        "ties a hook to the end of the line", "puts a worm on the hook and casts the line into the lake",
        "waits until the float goes under", "winds the line in and lifts the fish out with a net"],
    "Playing chess": [
        "sets up the pieces on the board", "opens by moving the king's pawn two squares",
        "develops both knights and castles", "gives check with the queen and wins the game"],
    "Building a campfire": [
        "collects dry twigs and some larger logs", "piles the twigs up into a small cone",
        "lights the dry grass under the twigs with a match", "lays the logs on top when the twigs are burning well"],
}

# WikiText's way of writing: marks of tokenization that scoring undoes, counted as they stand.
PAGES = [
    " = Harbour lamp = \n \n The Harbour lamp was a small lighthouse ; it stood at the end of the northern pier from 1871"
    " to 1934 . Its light , fed with rapeseed oil at first , could be seen for 12 @.@ 5 nautical miles . \n \n = = Keepers = ="
    " \n \n The first keeper said , \" it is a quiet post ( in summer ) \" . The keepers ' wages were 1 @,@ 200 marks a year .\n",
    " = Copper kettle = \n \n A copper kettle is heated more evenly than an iron one : copper conducts heat about five times"
    " as well . Water boils in it at 100 ° C , as in any other . \n \n = = Care = = \n \n = = = Verdigris = = = \n \n The green"
    " layer [ verdigris ] is poisonous ; it comes off with vinegar and salt . Don 't leave vinegar in the kettle 's spout ! \n",
    "Straße, café, naïve, 東京, Здравствуйте: a page without any marks, in one line",
]


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def by_rule(rng, number):
    """A question with its right answer, three wrong ones, and the unit that follows in long options."""
    kind = number % 5
    a, b = rng.randrange(6, 60), rng.randrange(3, 30)
    if kind == 0:
        question, right, unit = f"What is {a} plus {b}?", a + b, "units in total"
    elif kind == 1:
        question, right, unit = f"Which number comes next: {a}, {a + b}, {a + 2 * b}, {a + 3 * b}?", a + 4 * b, "is the next number"
    elif kind == 2:
        name, thing = NAMES[number % len(NAMES)], THINGS[number % len(THINGS)]
        question, right, unit = f"{name} has {a + b} {thing} and gives {b} of them away.  How many are left?", a, f"{thing} are left"
    elif kind == 3:
        day, later = rng.randrange(7), rng.randrange(2, 30)
        right, *wrong = [DAYS[(day + later + shift) % 7] for shift in (0, 1, 2, 5)]
        return f"Today is {DAYS[day]}. Which day is it in {later} days?", right, wrong, "will be the day"
    else:
        question, right, unit = f"What is {b} times {a % 10 + 2}?", b * (a % 10 + 2), "is the product"
    return question, str(right), [str(right + 1), str(right + 10), str(max(0, right - 2))], unit


def questions(knowledge, n, rng):
    """`n` questions: question, options, index of the right one, whether options are short."""
    found = []
    for row in knowledge:
        options = [option.strip() for option in row["options"]]
        found.append((row["context"], options, row["answer"], ""))
    for number in range(n - len(found)):
        question, right, wrong, unit = by_rule(rng, number)
        options = [right, *wrong]
        rng.shuffle(options)
        found.append((question, options, options.index(right), unit))
    rng.shuffle(found)
    return found


def mmlu_row(number, question, options, right, _):
    ask = question if question.endswith("?") else f"Which of these completes the sentence? {question}"
    # Published questions have white space at their ends.
    before, after = SPACES[number % len(SPACES)]
    return {"question": f"{before}{ask}{after}", "subject": "miscellaneous", "choices": options, "answer": right}


def arc_row(number, question, options, right, unit, rng):
    is_question = question.endswith("?")
    ask = question if is_question else "Which of these sentences is true?"
    texts = [f"{option} {unit}" if is_question else f"{question} {option}." for option in options]
    if not is_question and number % 2:
        ask, texts = f"How does this sentence end? {question}", [f"{option}, as most people know" for option in options]
    # As published: mostly four options, some questions with three or five.
    if number % 10 == 3:
        gone = rng.choice([place for place in range(4) if place != right])
        texts.pop(gone)
        right -= gone < right
    if number % 10 == 7:
        texts.append("none of the others")
    labels = [str(place + 1) for place in range(len(texts))] if number % 6 == 5 else list(LABELS[:len(texts)])
    return {"id": f"item_{number}", "question": ask, "choices": {"text": texts, "label": labels}, "answerKey": labels[right]}


def hellaswag_row(number, rng):
    labels = list(ACTIVITIES)
    label = labels[number % len(labels)]
    steps, who = ACTIVITIES[label], NAMES[rng.randrange(len(NAMES))]
    at = rng.randrange(1, len(steps) - 1)
    others = [ACTIVITIES[other][rng.randrange(4)] for other in rng.sample([one for one in labels if one != label], 3)]
    endings = [steps[at + 1], *others]
    order = list(range(4))
    rng.shuffle(order)
    before = f"{who} {steps[0]}." if at == 1 else f"{who} {steps[0]}. Then {who} {steps[1]}."
    row = {"ind": number, "activity_label": label, "label": str(order.index(0))}
    if number % 4 == 0:
        # WikiHow: marks, the last sentence belongs to the context, the ending is a sentence of its own.
        row |= {"ctx_a": f"[header] How to begin with {label.lower()} [title] Take your time. [step]  {before}", "ctx_b": "",
                "endings": [f"[substeps] {who}  {endings[place]}. [title] Go on with patience." for place in order]}
    else:
        row |= {"ctx_a": before, "ctx_b": "then the HELPER" if number % 4 == 1 else "afterwards she",
                "endings": [f"{endings[place]}." for place in order]}
    return row


def pages(knowledge):
    """The pages above, and a long one of all true sentences of the quick start."""
    sentences = [f"{row['context']}{row['options'][row['answer']]} . " for row in knowledge]
    return [{"page": page} for page in [*PAGES, " = What is so = \n \n " + "".join(sentences) + "\n"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    default = pathlib.Path(__file__).resolve().parents[2] / "quickstart/knowledge.jsonl"
    parser.add_argument("--knowledge", type=pathlib.Path, default=default)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    knowledge = [json.loads(line) for line in options.knowledge.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    asked = questions(knowledge, N_ITEMS + N_SHOTS, rng)
    mmlu = [mmlu_row(number, *one) for number, one in enumerate(asked)]
    arc = [arc_row(number, *one, rng) for number, one in enumerate(asked)]
    for name, rows in [("mmlu", mmlu), ("arc", arc)]:
        write_rows(options.out / f"{name}_dev.jsonl", rows[:N_SHOTS])
        write_rows(options.out / f"{name}.jsonl", rows[N_SHOTS:])
    write_rows(options.out / "hellaswag.jsonl", [hellaswag_row(number, rng) for number in range(N_ITEMS)])
    write_rows(options.out / "wikitext.jsonl", pages(knowledge))


if __name__ == "__main__":
    main()
