#!/usr/bin/env bash
# Loads what truing saves with transformers and PEFT, and compares scores of padded batches:
#
#     scripts/check-exports/run.sh [target/release/truing]
#
# Needs python3 with venv. The environment (torch, about 5 GB with its CUDA libraries) is made once, in TRUING_TEST_CACHE
# or ~/.cache/truing-tests.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
truing=${1:-$here/../../target/release/truing}
cache=${TRUING_TEST_CACHE:-$HOME/.cache/truing-tests}
environment=$cache/exports
requirements=$here/requirements.txt
done_file=$environment/requirements.txt

# A download may fail for a moment; the third failure counts.
thrice() {
    "$@" || { sleep 5; "$@"; } || { sleep 20; "$@"; }
}

if ! cmp -s "$requirements" "$done_file"; then
    rm -rf "$environment"
    mkdir -p "$cache"
    python3 -m venv "$environment"
    thrice "$environment/bin/python" -m pip install --quiet --no-cache-dir --requirement "$requirements"
    cp "$requirements" "$done_file"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONDONTWRITEBYTECODE=1 \
    "$environment/bin/python" -W ignore "$here/check.py" "$truing" "$scratch"
