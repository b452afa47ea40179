"""What truing-model writes, read by transformers (5.23) and PEFT (0.21). Run by hand:

    cargo build --release -p truing-model --example resave
    HF_HUB_OFFLINE=1 python check_saved.py target/release/examples/resave [SMOLLM2.gguf smollm2_logits.jsonl]

Every tiny model of `truing-model/conformance` is written again with its own and with a fresh config, whole and in
shards, and must give the same logits bit for bit; with a random PEFT adapter, merged and written again, the same to
1e-5. The GGUF file is turned into a directory whose logits must be those of the reference file to its four decimals.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

resave, *reference = sys.argv[1:]
fixtures = Path(__file__).parents[3] / "truing-model/conformance"
tokens = torch.arange(40)[None] * 7 % 96


def run(*arguments):
    done = subprocess.run([resave, *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout.strip().replace("\n", ", ")


def load(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    for fixture in sorted(path.parent for path in fixtures.glob("*/config.json")):
        original = load(fixture)
        for options in [[], ["config=fresh"], ["shard=50000"], ["config=fresh", "shard=50000"]]:
            run(fixture, scratch / "saved", *options)
            saved = load(scratch / "saved")
            assert torch.equal(logits(saved), logits(original)), (fixture.name, options)
        for dtype in ["bf16", "f16"]:
            run(fixture, scratch / "half", f"dtype={dtype}", "config=fresh")
            half = AutoModelForCausalLM.from_pretrained(scratch / "half", dtype="auto")
            for (name, ours), theirs in zip(half.named_parameters(), original.parameters()):
                assert torch.equal(ours, theirs.to(half.dtype)), (fixture.name, dtype, name)

        torch.manual_seed(1)
        config = LoraConfig(
            r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
        )
        adapted = get_peft_model(load(fixture), config).eval()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
        adapted.save_pretrained(scratch / "adapter")
        run(fixture, scratch / "merged", f"adapter={scratch / 'adapter'}")
        again = PeftModel.from_pretrained(load(fixture), scratch / "merged/adapter").eval()
        distance = (logits(load(scratch / "merged")) - logits(adapted)).abs().max().item()
        moved = (logits(adapted) - logits(original)).abs().max().item()
        assert torch.equal(logits(again), logits(adapted)), fixture.name
        assert distance < 1e-5 * max(1.0, moved) and moved > 0.1, (fixture.name, distance, moved)
        print(f"{fixture.name}: saved equal; adapter moves logits by {moved:.2f}, merged differs by {distance:.1e}")

    if reference:
        gguf, expected = reference
        print(run(gguf, scratch / "smollm2"))
        model = load(scratch / "smollm2")
        worst = 0.0
        for line in Path(expected).read_text().splitlines():
            row = json.loads(line)
            with torch.no_grad():
                last = model(input_ids=torch.tensor([row["prompt_ids"]])).logits[0, -1]
            worst = max(worst, *(abs(last[token].item() - value) for token, value in row["f32_last_top10_logits"]))
        assert worst < 1e-4, worst
        print(f"{Path(gguf).name}: largest difference from the reference logits {worst:.1e}")
