#!/bin/sh
# Runs the quick kernel tests (`small_`) under valgrind: the only unsafe code of the project is theirs.
#
# valgrind emulates the instruction sets it knows: up to AVX2 and FMA in 3.19. The kernels ask the processor at run
# time what it has, so there they take the AVX2 and the portable paths; AVX-512 differs from them only in the width
# of a register.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 2; }
# Built beside `truing`, which has the features of the whole workspace, so that nothing is compiled twice.
tests=$(cargo test --release -p truing-kernels -p truing --no-run --message-format=json |
    sed -n '/"package_id":"[^"]*truing-kernels#/s/.*"executable":"\([^"]*\)".*/\1/p')
for test in $tests; do
    RAYON_NUM_THREADS=2 valgrind --quiet --error-exitcode=1 --leak-check=no "$test" small_ --test-threads=1
done
