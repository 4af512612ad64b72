#!/bin/sh
# Checks ring.pml: the model itself must be free of errors in both memory modes, and each planted
# bug must be found, as the kind of error that it is.
#
#     check.sh [records]      4 by default: half a minute and half a gigabyte; 3: a quarter of it
#
# Exit: 0 all as it should be, 1 not, 77 no spin here.
set -u

here=$(cd "$(dirname "$0")" && pwd)
records=${1:-4}
passed=0
failed=0

command -v spin >/dev/null || {
    echo "spin is missing (Debian package spin)"
    exit 77
}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# Prints what the search found: "nothing", "assertion", "deadlock" or "no answer".
search() {
    rm -f pan pan.*
    spin "$@" -DRECORDS="$records" -a "$here/ring.pml" >spin.log 2>&1 &&
        ${CC:-cc} "$optimise" -w -DSAFETY -DCOLLAPSE -DMEMLIM=4000 -o pan pan.c >cc.log 2>&1 ||
        { echo "no answer"; return; }
    ./pan -m200000 >pan.log 2>&1
    if grep -Eq 'search depth too small|out of memory|hash table full|interrupted' pan.log; then
        echo "no answer"
    elif grep -q 'assertion violated' pan.log; then
        echo assertion
    elif grep -q 'invalid end state (at' pan.log; then
        echo deadlock
    elif grep -q 'errors: 0' pan.log; then
        echo nothing
    else
        echo "no answer"
    fi
}

# expect NAME FOUND SPIN-OPTIONS...
expect() {
    name=$1
    due=$2
    shift 2
    found=$(search "$@")
    if [ "$found" = "$due" ]; then
        passed=$((passed + 1))
        echo "ok $name: $found"
    else
        failed=$((failed + 1))
        echo "FAILED $name: $found instead of $due"
        tail -n 40 spin.log cc.log pan.log 2>/dev/null >&2
    fi
}

optimise=-O2 # millions of states
expect "the ring, with membarrier" nothing
expect "the ring, with fences" nothing -DFENCES
optimise=-O0 # found at once: compiling would take longer than searching
for bug in SWAPPED_STORES EARLY_RELEASE FULL_BY_ONE; do
    expect "planted: $bug" assertion -D$bug
done
for bug in NO_SECOND_LOOK NO_SECOND_LOOK_2 NO_BARRIER EARLY_CALL NO_CALL; do
    expect "planted: $bug" deadlock -D$bug
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
