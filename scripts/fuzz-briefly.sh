#!/usr/bin/env bash
# Builds every fuzz target on the stable compiler and runs each on some thousand inputs from a fixed seed, beginning with
# the repository's fixtures. Coverage guides the inputs; what needs the nightly compiler (AddressSanitizer) is left out.
# For longer runs see fuzz/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing"
export RUSTC_WRAPPER=$PWD/scripts/fuzz-rustc.sh
# The build takes longer than the runs.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=false
# With --target the flags reach the targets and their libraries only, not build scripts.
cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    case $target in
        gguf) seeds=crates/truing-model/tests/fixtures/gguf ;;
        safetensors_header | config_json) seeds=crates/truing-model/conformance ;;
        chat_template) seeds=crates/truing-text/tests/fixtures ;;
        jsonl_row) seeds=crates/truing-data/tests/fixtures ;;
        event_stream | request_body) seeds=fuzz/seeds/$target ;;
        *) seeds= ;;
    esac
    mkdir "$work/$target"
    if ! "fuzz/target/$host/release/$target" "$work/$target" ${seeds:+"$seeds"} -seed=1 -runs="${RUNS:-20000}" -max_len=1024 -len_control=5 \
        -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$work/" >"$work/log" 2>&1; then
        tail -40 "$work/log"
        echo "$target failed" >&2
        exit 1
    fi
    echo "$target: $(sed -n 's/^\(Done .*\)$/\1/p' "$work/log")"
done
