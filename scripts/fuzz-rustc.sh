#!/bin/sh
# Calls the compiler for scripts/fuzz-briefly.sh, with instrumentation for this project's libraries: the first argument
# is the compiler, the others are its own. What `cargo fuzz --sanitizer none` sets, as far as the stable compiler takes
# it. Libraries of others are compiled as they are; instrumented, they took most of the build.
set -eu
case "$*" in
*"--crate-name truing"*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
