#!/bin/sh
# engine_long.sh - the scheduler's 20,000-token conversation of the bundled model: minutes, so not part of `make test`.
#
# Prints how many tokens a reply changed 200 tokens from the end reads again, and how long both take.
set -eu
cd "$(dirname "$0")/.."
make --no-print-directory build/tests/unit/engine/sched_test
DS4_LONG=1 build/tests/unit/engine/sched_test
