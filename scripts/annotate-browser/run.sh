#!/usr/bin/env bash
# Drives the annotation pages in headless Chromium and compares the journal with what was shown; then kills the server
# while answers are sent, and looks for each that was acknowledged:
#
#     scripts/annotate-browser/run.sh [target/release/truing] [KILLS]
#
# Needs python3 with venv, and Chromium (CHROMIUM names it, or `chromium` on the path). The Python environment is made
# once, in TRUING_TEST_CACHE or ~/.cache/truing-tests.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
truing=$(realpath "${1:-$here/../../target/release/truing}")
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser)}
cache=${TRUING_TEST_CACHE:-$HOME/.cache/truing-tests}
environment=$cache/annotate-browser
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
PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" "$here/check.py" "$truing" "$scratch" --chromium "$chromium"
python3 "$here/../annotate-kill-test.py" "$truing" --kills "${2:-50}" --items 0
