#!/bin/sh
# Fuzzes what reads bytes that another process wrote. An input that fails is kept in tests/corpus,
# where the tests replay it from then on.
#
#     fuzz.sh [seconds]    for each target, 60 by default
#
# Exit: 0 nothing found, 77 no clang here.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
native=$(dirname "$here")
corpus=$(dirname "$native")/tests/corpus
command -v clang >/dev/null || {
    echo "clang is missing (Debian packages clang and libclang-rt-dev)"
    exit 77
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c11 -D_GNU_SOURCE -DNR_TEST -DNR_LIBFUZZER -Wall -Wextra -O2 -g -I$native/include -pthread"
flags="$flags -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
for source in "$here"/fuzz_*.c; do
    target=$(basename "$source" .c)
    # shellcheck disable=SC2086
    clang $flags "$source" "$native"/cache/*.c "$native"/engine/*.c "$native"/memory/*.c "$native"/os/*.c -o "$work/$target"
    mkdir "$work/$target.new"
    "$work/$target" -max_total_time="${1:-60}" -max_len=2048 -artifact_prefix="$corpus/$target/" \
        "$work/$target.new" "$corpus/$target" >"$work/log" 2>&1 || {
        tail -n 60 "$work/log"
        echo "FAILED $target: the input is in $corpus/$target"
        exit 1
    }
    echo "ok $target: $(tail -n 1 "$work/log")"
done
