#!/bin/sh
# kv_long.sh [PART...] - what the tests of the KV store do on request: minutes, so not part of `make test`.
#
#   crash     500 moments at which a saving process is killed
#   programs  random programs over processes of a model, against reading everything at once
#   speed     the figures of docs/perf.md, "KV on disk" (on a quiet machine, please)
# Without PART: all of them.
set -eu
cd "$(dirname "$0")/.."
tests=build/tests/unit/kvstore
make --no-print-directory $tests/crash_test $tests/program_test $tests/speed_test
for part in ${*:-crash programs speed}; do
	case $part in
	crash) DS4_CRASHES=500 $tests/crash_test ;;
	programs) DS4_PROGRAMS=12 $tests/program_test ;;
	speed) DS4_LONG=1 $tests/speed_test ;;
	*) echo "kv_long.sh: $part: expected crash, programs or speed" >&2; exit 2 ;;
	esac
done
