"""Writes a Llama of two layers with a tokenizer of single bytes, as the tests of the program do: small enough to train
in a blink. Standard library only."""
import json
import random
import struct

HIDDEN, INTERMEDIATE, N_LAYERS, N_HEADS, N_KEY_VALUE_HEADS = 32, 64, 2, 4, 2
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
VOCAB = 256 + len(SPECIAL)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def byte_characters():
    """GPT-2's printable stand-ins for bytes."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tokenizer():
    vocab = {character: byte for byte, character in enumerate(byte_characters())}
    vocab.update({token: 256 + idx for idx, token in enumerate(SPECIAL)})
    added = [{"id": 256 + idx, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for idx, token in enumerate(SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                      "merges": []}}


def tensors():
    yield "model.embed_tokens.weight", [VOCAB, HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    of_keys = N_KEY_VALUE_HEADS * HIDDEN // N_HEADS
    for layer in range(N_LAYERS):
        for name, shape in (
                ("input_layernorm", [HIDDEN]), ("post_attention_layernorm", [HIDDEN]),
                ("self_attn.q_proj", [HIDDEN, HIDDEN]), ("self_attn.k_proj", [of_keys, HIDDEN]),
                ("self_attn.v_proj", [of_keys, HIDDEN]), ("self_attn.o_proj", [HIDDEN, HIDDEN]),
                ("mlp.gate_proj", [INTERMEDIATE, HIDDEN]), ("mlp.up_proj", [INTERMEDIATE, HIDDEN]),
                ("mlp.down_proj", [HIDDEN, INTERMEDIATE])):
            yield f"model.layers.{layer}.{name}.weight", shape


def weights(seed):
    header, data, generator = {"__metadata__": {"format": "pt"}}, bytearray(), random.Random(seed)
    for name, shape in tensors():
        begin, is_norm = len(data), len(shape) == 1
        n_values = shape[0] * (1 if is_norm else shape[1])
        values = (generator.uniform(-0.1, 0.1) + is_norm for _ in range(n_values))
        data += struct.pack(f"<{n_values}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def write(folder, seed=1):
    """Writes config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS, "num_key_value_heads": N_KEY_VALUE_HEADS, "vocab_size": VOCAB,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>", "add_bos_token": False, "model_max_length": 2048,
                "chat_template": TEMPLATE}
    for name, value in (("config.json", config), ("tokenizer.json", tokenizer()), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=2))
    (folder / "model.safetensors").write_bytes(weights(seed))
