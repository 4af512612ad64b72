#!/bin/sh
# The long versions, by hand or at night: half an hour on two free CPUs. Needs gcc and spin; with
# clang it also fuzzes, and keeps new inputs that fail in tests/corpus.
#
#     soak.sh [ping-pongs]    10000000 by default
set -eu

here=$(cd "$(dirname "$0")" && pwd)
native=$(dirname "$here")
corpus=$(dirname "$native")/tests/corpus
common="-std=c11 -D_GNU_SOURCE -DNR_TEST -Wall -Wextra -Werror -O2 -g -I$native/include -pthread"
core="$native/cache/*.c $native/engine/*.c $native/memory/*.c $native/os/*.c"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() {
    gcc $common $2 "$here/$1.c" $core -o "$work/$3" -lm
}

build test_ring_threads "" threads
build test_ring_threads -DNR_PLANT_BUG=4 planted_4
build test_ring_processes "" processes
build test_segment "" segment
build test_engine_sources "" engine
build test_hostile_ring "" hostile_ring
build test_table_processes "" table_processes
build test_table_deaths "" table_deaths
build test_table_model "" table_model
build test_table_threads "" table_threads
build test_cache_threads "" cache_threads
"$here/must_fail.sh" "$work/planted_4" 200000 2000000
"$work/engine" 100000 2000000
"$work/processes" 20000
"$work/table_processes" 1000
for turn in 1 2 3 4 5 6 7 8 9 10; do "$work/table_deaths"; done
"$work/table_model" 300000
"$work/table_threads" 3000000
"$work/cache_threads" 100000
"$work/segment" 15
"$work/hostile_ring" 30
"$work/threads" 50000000 "${1:-10000000}"
"$native/models/check.sh" 5
if command -v clang >/dev/null; then
    for target in fuzz_broadcast fuzz_cache fuzz_frames fuzz_record fuzz_resp fuzz_ring fuzz_segment \
        fuzz_table; do
        clang $common -DNR_LIBFUZZER -fsanitize=fuzzer,address,undefined \
            -fno-sanitize-recover=all "$here/$target.c" $core -o "$work/$target"
        mkdir "$work/$target.new"
        "$work/$target" -max_total_time=60 -max_len=2048 -artifact_prefix="$corpus/$target/" \
            "$work/$target.new" "$corpus/$target"
    done
fi
