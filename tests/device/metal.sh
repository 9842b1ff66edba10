#!/bin/sh
# metal.sh - tests the Metal backend on the Mac that this runs on, and prints a report to paste into an issue.
#
# What  Parity of every operation with ref in both classes of kernels, the history tests, nano's golden logits, with Metal's API
#       and shader validation on; then decode and prefill speed of nano without them.
# How   make test-metal builds what is needed first.  $OUT (default build/metal-report) keeps whole logs.
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${OUT:=build/metal-report}"
mkdir -p "$OUT"
status=0

fact() { printf '  %-12s %s\n' "$1" "$(eval "$2" 2>/dev/null || echo unknown)"; }

# NAME command...: one line of the report; the end of the log when it failed.
step() {
	name=$1
	shift
	if "$@" >"$OUT/$name.log" 2>&1; then
		echo "  ok      $name"
	else
		status=1
		echo "  FAILED  $name (exit status $?)"
		grep -vE '^\[( RUN|       OK)' "$OUT/$name.log" | tail -n 15 | sed 's/^/          /'
	fi
}

echo "Metal backend report"
fact machine 'sysctl -n machdep.cpu.brand_string'
fact memory 'sysctl -n hw.memsize'
fact macOS 'sw_vers -productVersion'
fact compiler 'cc --version | head -n 1'
fact version './ds4 --version'

validate="MTL_DEBUG_LAYER=1 MTL_SHADER_VALIDATION=1"
step ops-vector env $validate DS4_METAL_VECTOR_ROWS=1000 build/tests/parity/ops_test
step ops-matrix env $validate DS4_METAL_VECTOR_ROWS=0 build/tests/parity/ops_test
step history env $validate build/tests/parity/history_test
step own-buffers env $validate DS4_METAL_CHUNK=0 build/tests/parity/history_test
step nano-130 env $validate build/metal_check 130
step nano build/metal_check
step speed ./ds4 bench --backend metal

grep -hE 'tokens, steps of' "$OUT/nano.log" 2>/dev/null | sort | tail -n 20
tail -n 12 "$OUT/speed.log" 2>/dev/null
exit $status
