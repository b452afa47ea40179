"""What truing saves, loaded by transformers and PEFT: reward models, classifiers and adapters must give every row of a
padded batch, left and right, the score that truing gives it, within 1e-4. Adapters made by PEFT must do so as well.

    python check.py TRUING SCRATCH_FOLDER

Models are tiny and random, in three families whose tokenizers differ in what can pad: padding that is the end of a turn
(as SmolLM2's), no beginning of sequence and padding that is the end of sequence (as Qwen's base models), none at all
(as Llama 2's). A fourth has a configuration that names another padding token than its tokenizer: adapters, which are loaded
with it, pad with that one.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

truing, scratch = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
TOLERANCE = 1e-4
TARGETS = ["q_proj", "v_proj", "down_proj"]
CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
SMALL = dict(
    hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, initializer_range=0.3,
)
# Name, configuration, special tokens, named tokens, template, the token that must pad, the configuration's own.
FAMILIES = [
    ("llama", LlamaConfig, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
     dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"), CHAT_ML, "<|endoftext|>", "<|im_end|>"),
    ("qwen2", Qwen2Config, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
     dict(eos_token="<|endoftext|>", pad_token="<|endoftext|>"), CHAT_ML, "<|endoftext|>", None),
    ("mistral", MistralConfig, ["<unk>", "<s>", "</s>"],
     dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>"), LLAMA_2, "<unk>", None),
    ("padded", LlamaConfig, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"],
     dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"), CHAT_ML, "<|endoftext|>", "<pad>"),
]  # fmt: skip
n_checks = 0


def run(*arguments):
    done = subprocess.run([truing, *map(str, arguments)], capture_output=True, text=True, cwd=scratch)
    assert done.returncode == 0, f"truing {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check(what, found, expected, tolerance=TOLERANCE):
    global n_checks
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    difference = (found - expected).abs().max().item()
    assert difference <= tolerance, f"{what}: {difference:.2e} apart\n{found}\n{expected}"
    n_checks += 1
    print(f"  {what}: {found.numel()} values, at most {difference:.1e} apart", flush=True)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def byte_tokenizer(special, names, template):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = template
    return wrapped


def make_base(folder, config_class, tokenizer, names, configured):
    torch.manual_seed(7)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(names[name]) for name in ("bos_token", "eos_token") if name in names}
    config = config_class(vocab_size=len(tokenizer) + 5, tie_word_embeddings=True, pad_token_id=configured and tokenizer.convert_tokens_to_ids(configured), **{"bos_token_id": None, **ids}, **SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


PAIRS = [
    {
        "prompt": f"{i} and {i + 1}?" + " really" * (i % 3),
        "responses": [
            {"content": "yes" + " indeed" * (i % 5), "score": 7 + i % 3},
            {"content": "no" + " never" * (i % 4), "score": 1 + i % 3},
        ],
    }
    for i in range(24)
]
TEXTS = [
    {"prompt": ("good " if i % 2 else "bad ") + "word " * (1 + i % 9), "labels": {"kind": "plus" if i % 2 else "minus"}}
    for i in range(32)
]
ROWS = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "so " * (1 + i % 4)}]}
    for i in range(16)
]
RECIPE = """
stage = "{stage}"
model_name_or_path = "{base}"
output_dir = "{output}"
seed = 1
max_length = 256
max_steps = 4
packs_per_step = 2
learning_rate = 1e-2
save_dtype = "f32"
{more}
{lora}
[[data]]
path = "{data}"
"""
LORA = f"[lora]\nrank = 4\nalpha = 8.0\ntargets = {json.dumps(TARGETS)}\n"


def train(command, base, output, data, lora=False, more=""):
    recipe = scratch / f"{output.name}.toml"
    stage = {"reward": "reward_model", "label": "classifier"}.get(command[0], command[0])
    recipe.write_text(RECIPE.format(stage=stage, base=base, output=output, data=data, more=more, lora=LORA if lora else ""))
    run(*command, "train", recipe) if command != ["sft"] else run("sft", recipe)
    return output / "model"


def rewards_of_truing(model, data):
    return [json.loads(line)["reward"] for line in run("reward", "score", model, data).splitlines()]


def in_batches(model, tokenizer, sequences):
    """Logits of single sequences, then of one batch for each side of padding."""
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([tokens])).logits[0] for tokens in sequences]
        yield "one by one", torch.stack(alone)
        for side in ("left", "right"):
            tokenizer.padding_side = side
            batch = tokenizer.pad({"input_ids": sequences}, return_tensors="pt")
            assert (batch["attention_mask"] == 0).any(), "the batch shows nothing without padding"
            yield f"padded on the {side}", model(**batch).logits


def conversations(tokenizer):
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": response["content"]}],
            return_dict=False,
        )
        for row in PAIRS
        for response in row["responses"]
    ]


def scorer(path, num_labels, is_adapter, is_told):
    tokenizer = AutoTokenizer.from_pretrained(path)
    if not is_adapter:
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32)
        assert model.config.num_labels == num_labels, model.config.num_labels
        assert model.config.pad_token_id == tokenizer.pad_token_id, "model and tokenizer pad alike"
        return model.eval(), tokenizer
    padding = dict(pad_token_id=tokenizer.pad_token_id) if is_told else {}
    model = AutoPeftModelForSequenceClassification.from_pretrained(
        path, num_labels=num_labels, dtype=torch.float32, **padding
    )
    assert model.config.pad_token_id == tokenizer.pad_token_id, "model and tokenizer pad alike"
    return model.eval(), tokenizer


def check_rewards(what, path, data, padding, is_adapter, is_told=True):
    model, tokenizer = scorer(path, 1, is_adapter, is_told)
    assert tokenizer.pad_token == padding, (tokenizer.pad_token, padding)
    expected = rewards_of_truing(path, data)
    assert max(expected) - min(expected) > 100 * TOLERANCE, "all rewards are the same, which shows nothing"
    for how, logits in in_batches(model, tokenizer, conversations(tokenizer)):
        check(f"{what}, {how}", logits[:, 0], expected)


def predictions_of_truing(path, data):
    output = scratch / "predicted.jsonl"
    run("label", "predict", "--model", path, "--data", data, "--output", output, "--probabilities", "--overwrite")
    rows = [json.loads(line)["probabilities"]["kind"] for line in output.read_text().splitlines()]
    labels = json.loads((path / "classifier.json").read_text())["parts"][0]["labels"]
    return [[row[label] for label in labels] for row in rows], labels


def check_classifier(what, path, data, padding, is_adapter, is_told=True):
    model, tokenizer = scorer(path, 2, is_adapter, is_told)
    assert tokenizer.pad_token == padding, (tokenizer.pad_token, padding)
    expected, labels = predictions_of_truing(path, data)
    if not is_adapter:
        assert [model.config.id2label[i] for i in range(2)] == labels, (model.config.id2label, labels)
    sequences = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_dict=False
        )
        for row in TEXTS
    ]
    for how, logits in in_batches(model, tokenizer, sequences):
        check(f"{what}, {how}", logits.softmax(-1), expected)


def check_family(name, config_class, special, names, template, padding, configured):
    print(name, flush=True)
    base = scratch / name
    make_base(base, config_class, byte_tokenizer(special, names, template), names, configured)
    # An adapter takes the configuration's token where it can pad; else whoever loads it says which one does.
    is_told = configured != "<pad>"
    of_adapter = padding if is_told else configured
    pairs, texts, rows = scratch / "pairs.jsonl", scratch / "texts.jsonl", scratch / "rows.jsonl"

    whole = train(["reward"], base, scratch / f"{name}-reward", pairs)
    check_rewards("reward model", whole, pairs, padding, False)
    adapter = train(["reward"], base, scratch / f"{name}-reward-lora", pairs, lora=True)
    check_rewards("reward model's adapter", adapter, pairs, of_adapter, True, is_told)
    further = train(["reward"], adapter, scratch / f"{name}-reward-further", pairs, lora=True)
    check_rewards("the adapter trained further", further, pairs, of_adapter, True, is_told)

    whole = train(["label"], base, scratch / f"{name}-label", texts)
    check_classifier("classifier", whole, texts, padding, False)
    adapter = train(["label"], base, scratch / f"{name}-label-lora", texts, lora=True)
    check_classifier("classifier's adapter", adapter, texts, of_adapter, True, is_told)

    adapter = train(["sft"], base, scratch / f"{name}-sft", rows, lora=True)
    merged = train(["sft"], base, scratch / f"{name}-sft-merged", rows, lora=True, more="merge_adapter = true")
    tokens = torch.tensor([AutoTokenizer.from_pretrained(merged)("a few words to compare")["input_ids"]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        without = plain(input_ids=tokens).logits
        adapted = PeftModel.from_pretrained(plain, adapter).eval()(input_ids=tokens).logits
        expected = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()(input_ids=tokens).logits
    assert (without - expected).abs().max() > 100 * TOLERANCE, "nothing was learnt, which shows nothing"
    check("fine-tuned adapter against the merged model", adapted, expected)

    # The other way round: an adapter that PEFT made.
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    config = LoraConfig(r=3, lora_alpha=9, target_modules=TARGETS, task_type="SEQ_CLS", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(scratch / f"{name}-peft")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = padding
    tokenizer.save_pretrained(scratch / f"{name}-peft")
    check_rewards("adapter made by PEFT", scratch / f"{name}-peft", pairs, padding, True)


def check_encoder():
    print("bert", flush=True)
    base = scratch / "bert"
    base.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "word"]
    (base / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(base)
    texts = scratch / "texts.jsonl"
    path = train(["label"], base, scratch / "bert-label", texts)
    expected, _ = predictions_of_truing(path, texts)
    model, tokenizer = AutoModel.from_pretrained(path, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(path)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    dense = load_file(path / "2_Dense" / "model.safetensors")
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer([row["prompt"].strip() for row in TEXTS], padding=True, return_tensors="pt")
        mask = batch["attention_mask"]
        # A BERT counts positions from the left, so that padding there needs them said.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            hidden = model(**batch, position_ids=positions).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logits = mean @ dense["linear.weight"].T + dense["linear.bias"]
        check(f"encoder's classifier, padded on the {side}", logits.softmax(-1), expected)


torch.set_num_threads(2)
jsonl(scratch / "pairs.jsonl", PAIRS)
jsonl(scratch / "texts.jsonl", TEXTS)
jsonl(scratch / "rows.jsonl", ROWS)
for family in FAMILIES:
    check_family(*family)
check_encoder()
print(f"{n_checks} comparisons, all within {TOLERANCE}")
