#!/bin/sh
# Runs a program with a planted bug: succeeds when the program finds it (exit 1: the ledger or the
# watcher; 66: TSan), and fails when it passes, cannot test, hangs or crashes.
"$@" >/dev/null 2>&1
code=$?
if [ "$code" -eq 1 ] || [ "$code" -eq 66 ]; then
    echo "1 passed, 0 failed (found, exit $code)"
    exit 0
fi
echo "0 passed, 1 failed (exit $code of $*)"
exit 1
