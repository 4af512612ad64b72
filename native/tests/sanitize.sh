#!/bin/sh
# Builds the C tests with AddressSanitizer + UndefinedBehaviorSanitizer and, beside that, with
# ThreadSanitizer, without meson, and runs them. About a minute and a half on two CPUs.
#
#     sanitize.sh [CC]
set -u

here=$(cd "$(dirname "$0")" && pwd)
native=$(dirname "$here")
corpus=$(dirname "$native")/tests/corpus
cc=${1:-gcc}
common="-std=c11 -D_GNU_SOURCE -DNR_TEST -Wall -Wextra -O1 -g -I$native/include -pthread"
base=$(mktemp -d) || exit 1
trap 'rm -rf "$base"' EXIT
passed=0
failed=0

# TSan needs its addresses where it expects them; some containers do not let us.
fixed=""
setarch -R true 2>/dev/null && fixed="setarch -R"

# build FLAGS: the core and every program, into $work
build() {
    for source in "$native"/cache/*.c "$native"/engine/*.c "$native"/files/*.c "$native"/memory/*.c "$native"/os/*.c \
        "$native"/transports/*.c; do
        $cc $common $1 -c "$source" -o "$work/$(basename "$source" .c).o" || exit 1
    done
    for source in "$here"/test_ring*.c "$here"/test_segment.c "$here"/test_claims.c \
        "$here"/test_hostile_ring.c "$here"/test_broadcast*.c "$here"/test_endpoints.c \
        "$here"/test_engine*.c "$here"/test_files.c "$here"/test_resp.c "$here"/test_table*.c \
        "$here"/test_cache_threads.c "$here"/fuzz_*.c; do
        $cc $common $1 "$source" "$work"/*.o -o "$work/$(basename "$source" .c)" -lm || exit 1
    done
    for bug in 1 3; do
        $cc $common $1 -DNR_PLANT_BUG=$bug "$here/test_ring_threads.c" "$work"/*.o \
            -o "$work/planted_$bug" || exit 1
    done
}

# run EXIT PROGRAM ARGUMENTS...
run() {
    due=$1
    shift
    $fixed "$work/$@" >"$work/log" 2>&1
    code=$?
    if [ "$code" -eq "$due" ]; then
        passed=$((passed + 1))
        echo "ok $kind: $*: $(tail -n 1 "$work/log" | cut -c 1-100)"
    else
        failed=$((failed + 1))
        echo "FAILED $kind: $* (exit $code instead of $due)"
        tail -n 60 "$work/log"
    fi
}

# finish: what a kind says last; its exit code
finish() {
    echo "$kind: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}

with_address() {
    kind="address, undefined"
    work="$base/address"
    mkdir "$work"
    build "-fsanitize=address,undefined -fno-sanitize-recover=all"
    run 0 test_ring
    run 0 test_claims
    run 0 test_cache_threads 2000
    run 0 test_engine
    run 0 test_engine_sources 3000 20000
    run 0 test_engine_services
    run 0 test_files
    run 0 test_resp
    run 0 test_segment 1
    run 0 test_hostile_ring 2
    run 0 test_ring_processes 300
    run 0 test_ring_threads 500000 10000
    run 0 test_endpoints 30000
    run 0 test_broadcast
    run 0 test_broadcast_threads 20000
    run 0 test_table
    run 0 test_table_claims
    run 0 test_table_deaths
    run 0 test_table_model 15000
    run 0 test_table_processes 20
    run 0 test_table_threads 100000
    run 0 test_table_watch
    for target in fuzz_broadcast fuzz_cache fuzz_frames fuzz_record fuzz_resp fuzz_ring fuzz_segment \
        fuzz_table; do
        run 0 $target "$corpus/$target"
    done

    finish
}

with_thread() {
    kind=thread
    work="$base/thread"
    mkdir "$work"
    export TSAN_OPTIONS="halt_on_error=1 $(printenv TSAN_OPTIONS)"
    build "-fsanitize=thread"
    run 0 test_ring
    run 0 test_claims
    run 0 test_engine
    run 0 test_engine_sources 2000 20000
    run 0 test_engine_services
    run 0 test_segment
    run 0 test_hostile_ring
    run 0 test_ring_processes 100
    run 0 test_ring_threads 2000000 10000
    run 0 test_broadcast
    run 0 test_broadcast_threads 20000
    for bug in 1 3; do
        run 66 planted_$bug 100000 1000
    done
    # TSan does not know pthread_mutex_clocklock(), and takes each unlock after it for a mistake.
    TSAN_OPTIONS="$TSAN_OPTIONS report_mutex_bugs=0"
    run 0 test_endpoints 10000
    run 0 test_table
    run 0 test_table_claims
    run 0 test_cache_threads 1000
    run 0 test_table_model 5000
    run 0 test_table_threads 20000
    run 0 test_table_watch

    finish
}

(with_thread) >"$base/said" 2>&1 &
(with_address)
address=$?
wait $!
thread=$?
cat "$base/said"
[ "$address" -eq 0 ] && [ "$thread" -eq 0 ]
