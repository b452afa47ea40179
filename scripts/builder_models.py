"""Recipes, seed rows and models for every builder of `truing build`, of the recorded replies of the builders' tests.

`BUILDERS` has, by name, a `Builder`: the recipe without its models, the files beside it, and what the writer and the
checker answer. An answer is a function of the last turn's text and the seed alone, so that a run that was killed gets
the replies of one that was not.
"""
import json
import pathlib
from dataclasses import dataclass, field
from typing import Callable

import mock_chat

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "crates/truing-construct/tests/main/builds/fixtures"


@dataclass
class Builder:
    ability: str
    recipe: str
    writer: Callable
    checker: Callable
    files: dict = field(default_factory=dict)

    @property
    def n_rows(self):
        """How many rows might be made: of the seed rows, or as the recipe says."""
        seeds = [text.count("\n") for name, text in self.files.items() if name.endswith(".jsonl")]
        return sum(seeds) if seeds else int(self.recipe.split("n_rows = ")[1].split()[0])


def recorded(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def last(text, tag):
    """The text of the last of some tags."""
    return text.rsplit(f"<{tag}>\n", 1)[-1].split(f"\n</{tag}>")[0]


def tagged(tag, text):
    return f"<{tag}>\n{text}\n</{tag}>\n"


def all_yes(n):
    return f"Each of them is met.\n[[{', '.join(['YES'] * n)}]]"


def listed(text):
    """The sentences of a numbered list of constraints."""
    return [line.split(". ", 1)[1] for line in last(text, "constraints").splitlines() if ". " in line]


def with_field(replies, name, text):
    """The reply whose field is in the text."""
    return next(reply for reply in replies if reply.get(name) and reply[name] in text)


def constraints():
    replies = recorded("constraints")
    first = ["Here is what I suggest.", "Let us look at this together.", "Good question.", "In one sentence:",
             "我的看法如下。", "我们一起来看。", "这是个好问题。", "用一句话说："]
    at_end = ["That is the whole story.", "Ask me if anything is unclear.", "Now it is your turn.",
              "More on this another day.", "以上就是全部内容。", "如有疑问请再问我。", "接下来就看你的了。",
              "其余的改日再谈。"]
    postscripts = ["P.S.", "P.P.S", "附：", "又及："]

    def respond(prompt):
        response = with_field(replies, "prompt", prompt)["response"]
        found = lambda phrases: next((phrase for phrase in phrases if phrase in prompt), None)
        if phrase := found(first):
            response = f"{phrase} {response}"
        if phrase := found(at_end):
            response = f"{response} {phrase}"
        if marker := found(postscripts):
            response = f"{response}\n{marker} Good luck."
        return f'"{response}"' if found(["double quotation mark", "双引号"]) else response

    def writer(text, _seed):
        if "<constraints>" not in text:
            return respond(text)
        return f"Here it is:\n<prompt>\n{last(text, 'prompt')}\n\n{' '.join(listed(text))}\n</prompt>"

    def checker(text, _seed):
        if "Questions:\n" in text:
            return all_yes(len(text.split("Questions:\n", 1)[1].split("\n\n")[0].splitlines()))
        return all_yes(len(last(text, "constraints").splitlines()) + 1)

    recipe = ('[constraints]\ngroups = ["position", "structure"]\nmax_constraints = 3\n'
              '[[data]]\npath = "prompts.jsonl"\n')
    rows = [{"prompt": reply["prompt"]} for reply in replies]
    return Builder("constraints", recipe, writer, checker, {"prompts.jsonl": jsonl(rows)})


def reversal():
    """Texts of our own: the recorded ones are few."""
    nouns = "river road bridge market harbour tower garden school mill station valley island".split()
    verbs = "crosses feeds divides joins guards shapes".split()

    def seed_text(n):
        draw = lambda *parts: mock_chat.drawn(n, *parts)
        sentences = (f"The {nouns[draw(i, 0) % 12]} {verbs[draw(i, 1) % 6]} the old {nouns[draw(i, 2) % 12]} {i + 2} "
                     f"times a year, as the {nouns[draw(i, 3) % 12]} keepers say." for i in range(6))
        return " ".join(sentences)

    def writer(text, _seed):
        topics = " ".join(f"w{mock_chat.drawn(text, i) % 10_000}" for i in range(12))
        return f"<prompt>\nTell me about {topics}. {' '.join(listed(text))}\n</prompt>"

    def checker(text, _seed):
        score = 8 + mock_chat.drawn(text) % 3
        remark = "Rich enough." if text.startswith("Rate how well") else "<missing>\n</missing>"
        return f"{remark}\n[[{score}]]"

    recipe = '[reversal]\nmin_characters = 100\n[[data]]\npath = "texts.jsonl"\n'
    return Builder("reversal", recipe, writer, checker,
                   {"texts.jsonl": jsonl({"text": seed_text(n)} for n in range(30))})


def textbook():
    replies = recorded("textbook")

    def writer(text, _seed):
        reply = next(reply for reply in replies if last(text, "prompt") == reply["prompt"])
        if text.startswith(("A textbook has", "教材中有")):
            return tagged("exercise", reply["exercise"]) + tagged("answer", reply["answer"])
        return tagged("question", reply["question"]) + "".join(tagged(*part) for part in reply["parts"].items())

    rows = [{"prompt": reply["prompt"]} for reply in replies]
    return Builder("textbook", '[[data]]\npath = "prompts.jsonl"\n', writer, lambda _text, _seed: all_yes(7),
                   {"prompts.jsonl": jsonl(rows)})


def mathematics():
    replies = recorded("mathematics")

    def writer(text, _seed):
        if not text.startswith(("Write one mathematics problem", "请为“")):
            return with_field(replies, "problem", text)["solution"]
        reply = with_field(replies, "point", text.splitlines()[0])
        return tagged("problem", reply["problem"]) + f"<answer>{reply['answer']}</answer>"

    points = (FIXTURES / "knowledge_points.toml").read_text()
    return Builder("mathematics", 'n_rows = 16\n[mathematics]\nknowledge_points = "points.toml"\n', writer,
                   lambda text, _seed: with_field(replies, "problem", text)["solution"], {"points.toml": points})


def system_messages():
    replies = recorded("system_messages")

    def writer(text, _seed):
        if "Write a better version" in text or "请写出更好的版本" in text:
            return f"<system>\n{last(text, 'system')}\nBe exact.\n</system>"
        reply = with_field(replies, "prompt", text)
        if "<constraints>" not in text:
            return reply["response"]
        more = {"rules": " " + " ".join(listed(text))}
        return "\n".join(f"<{tag}>{reply[tag]}{more.get(tag, '')}</{tag}>"
                         for tag in ("task", "workflow", "output", "rules", "opening"))

    recipe = ('[system_messages]\nmax_constraints = 1\ngroups = ["language"]\n'
              'exclude = ["language.other_language", "language.all_capitals", "language.all_lowercase", '
              '"language.capital_words"]\n[[data]]\npath = "prompts.jsonl"\n')
    rows = [{"prompt": reply["prompt"]} for reply in replies]
    return Builder("system_messages", recipe, writer,
                   lambda text, _seed: all_yes(len(last(text, "constraints").splitlines()) + 4),
                   {"prompts.jsonl": jsonl(rows)})


def reasoning():
    replies = recorded("reasoning")

    def writer(text, _seed):
        if not text.startswith(("Write one question", "请出一道")):
            return with_field(replies, "question", text)["corrected"]
        reply = with_field(replies, "kind", text.splitlines()[0])
        return tagged("question", reply["question"]) + f"<answer>{reply['answer']}</answer>"

    def checker(text, seed):
        reply = with_field(replies, "question", text)
        if text.startswith(("Two answers", "下面是对同一个问题的两个答案")):
            return "[[YES]]" if reply.get("other") == last(text, "answer") else "[[NO]]"
        # Of questions with a recorded wrong answer, about one answer in four is that one.
        is_wrong = reply.get("n_wrong", 0) > 0 and mock_chat.drawn(text, seed) % 4 == 0
        return reply["wrong" if is_wrong else "solution"]

    return Builder("reasoning", "n_rows = 14\n[reasoning]\nmax_easy_share = 0.9\n", writer, checker)


def code_of(replies, recipe):
    def writer(text, _seed):
        if text.startswith(("Write a request", "请写出一条")):
            reply = with_field(replies, "category", text)
            parts = ("request", "task"), ("given_code", "code"), ("solution", "solution"), ("tests", "tests")
            return "".join(tagged(tag, reply[name]) for tag, name in parts if reply.get(name))
        reply = with_field(replies, "task", text)
        if "<response>" in text:
            return "".join(tagged(tag, reply[tag]) for tag in ("follow_up", "answer") if reply.get(tag))
        return reply["response"]

    def checker(text, _seed):
        if text.startswith(("You review a request", "你的任务是审查一条")):
            return f"<difficulty>2</difficulty>\n{all_yes(4)}"
        return all_yes(3)

    return Builder("code", recipe, writer, checker)


def code():
    return code_of(recorded("code"), 'n_rows = 10\n[code]\nlanguages = ["javascript"]\n')


def code_python():
    recipe = ('n_rows = 3\n[code]\ncategories = ["generation", "completion", "debugging"]\n'
              'languages = ["python"]\nprompt_languages = ["en"]\n')
    return code_of(recorded("code_python"), recipe)


def tools():
    replies = recorded("tools")

    def about(text):
        if text.startswith(("You prepare", "你要准备")):
            return with_field(replies, "pattern", text)
        return next(reply for reply in replies
                    if reply["task"] in text or f'"{reply["tools"][0]["name"]}"' in text)

    def result_of(reply, call):
        calls = [call for step in reply["steps"] for call in step.get("call", [])]
        return reply["results"][calls.index(call)]

    def writer(text, _seed):
        reply = about(text)

        def turn(of, mark):
            n_before = sum(line.startswith(mark) for line in last(text, "transcript").splitlines())
            return reply[of][n_before] if n_before < len(reply[of]) else None

        if text.startswith(("You prepare", "你要准备")):
            return tagged("atomic", "\n".join(reply["atomic"])) + tagged("task", reply["task"])
        if text.startswith(("Define the functions", "请定义助手")):
            definitions = f"```json\n{json.dumps(reply['tools'], ensure_ascii=False)}\n```"
            return tagged("tools", definitions) + tagged("state", json.dumps(reply["state"], ensure_ascii=False))
        if text.startswith(("You play the user", "你扮演助手的用户")):
            message = turn("user", "[user]")
            return tagged("message", message) if message else "<done/>"
        if text.startswith(("You play the functions", "你扮演助手所调用")):
            result = result_of(reply, json.loads(last(text, "call")))
            return tagged("result", json.dumps(result, ensure_ascii=False)) + tagged("state", last(text, "state"))
        step = turn("steps", "[assistant")
        if "final" in step:
            return tagged("final", step["final"])
        return tagged("why", step["thought"]) + tagged("call", json.dumps(step["call"], ensure_ascii=False))

    return Builder("tools", "n_rows = 4\n", writer, lambda _text, _seed: all_yes(5))


def code_interpreter():
    replies = recorded("code_interpreter")

    def since_question(text):
        return last(text, "transcript").rsplit("[user] ", 1)[-1]

    def holds(name, text):
        return next((reply for reply in replies if reply.get(name) and reply[name] in text), None)

    def writer(text, _seed):
        question = lambda reply: tagged("question", reply["question"])
        if text.startswith(("Write the first message", "请写出一个人")):
            return question(holds("match", last(text, "file")))
        if text.startswith(("You play the user", "你扮演一个用户")):
            following = holds("follows", since_question(text))
            return question(following) if following else "<done/>"
        since = since_question(text)
        cells, n_before = holds("question", since)["cells"], since.count("[output]")
        if n_before < len(cells):
            return f"Cell {n_before + 1} does the next part.\n```python\n{cells[n_before]}\n```"
        return f"<final>\nThe last cell shows it.\n\nAnswer: {since.splitlines()[-1]}\n</final>"

    def checker(text, _seed):
        if not text.startswith(("Write a Python program", "请编写一个Python")):
            return all_yes(4)
        asked = last(text, "question").rsplit("\n\n", 1)[-1]
        return f"```python\n{holds('question', asked)['solution']}\n```"

    recipe = ('n_rows = 4\n[code_interpreter]\nkinds = ["data_analysis", "calculation"]\nmax_user_turns = 2\n')
    return Builder("code_interpreter", recipe, writer, checker)


def back_translation():
    replies = recorded("reversal")
    around = "Home | News | Contact\nBy A. Writer, 3 May\n\n", "\n\nPlease like and share."

    def writer(text, _seed):
        reply = with_field(replies, "text", text)
        if text.startswith(("Clean a text", "请清理一段")):
            return tagged("response", reply["text"])
        return tagged("prompt", reply["prompt"])

    def checker(text, _seed):
        is_pair = text.startswith(("Judge a pair", "请评判一对"))
        return "<missing>\n</missing>\n[[9]]" if is_pair else "Fine. [[9]]"

    rows = [{"text": around[0] + reply["text"] + around[1]} for reply in replies] + [{"text": "A fragment."}]
    recipe = '[back_translation]\nmin_characters = 100\n[[data]]\npath = "texts.jsonl"\n'
    return Builder("back_translation", recipe, writer, checker, {"texts.jsonl": jsonl(rows)})


def rewrite():
    apology = "I am so sorry to bother you. "
    responses = [(reply["prompt"], reply["response"]) for reply in recorded("constraints")]
    rows = [{"prompt": prompt, "response": apology + response} for prompt, response in responses]
    # The last response has no fault.
    rows[-1]["response"] = responses[-1][1]

    def writer(text, _seed):
        return tagged("response", last(text, "response").replace(apology, ""))

    def checker(text, _seed):
        has_apology = apology in last(text, "response")
        if not text.startswith(("Criticise", "请批评")):
            return "It apologises. [[5]]" if has_apology else "Clear. [[8]]"
        verdicts = ["NO"] * len(last(text, "fault").splitlines())
        critique = ""
        if has_apology:
            verdicts[0], critique = "YES", "It begins with an apology; nothing calls for one."
        return f"<critique>\n{critique}\n</critique>\n[[{', '.join(verdicts)}]]"

    recipe = ('[rewrite]\nfaults = ["It apologises without a reason.", '
              '"It states a number without saying where it is from."]\n[[data]]\npath = "responses.jsonl"\n')
    return Builder("rewrite", recipe, writer, checker, {"responses.jsonl": jsonl(rows)})


BUILDERS = {make.__name__: make for make in (
    system_messages, constraints, reversal, textbook, mathematics, reasoning, code, code_python, tools,
    code_interpreter, back_translation, rewrite)}
