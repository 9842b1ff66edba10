#!/bin/sh
# run.sh - on a machine with an NVIDIA GPU: parity of the shipped Metal kernels with ref, then nano's golden logits.
# build.sh made the programs elsewhere; they need libc and the driver.  Logs go to $OUT.
set -u
cd "$(dirname "$0")/../../.." || exit 1
: "${OUT:=build/metalsim/nvptx}"
B=build/metalsim/nvptx
export METALSIM_CACHE=$B/cache METALSIM_MODE=fast

step() {
	name=$1
	shift
	t0=$(date +%s)
	"$@" >"$OUT/$name.log" 2>&1
	echo "== $name: exit status $?, $(($(date +%s) - t0)) s"
	tail -n "${KEEP:-4}" "$OUT/$name.log"
}

nvidia-smi -L 2>/dev/null
KEEP=12 step nano-130 timeout 40 $B/metal_check 130
step ops-matrix env DS4_METAL_VECTOR_ROWS=0 timeout 60 $B/ops_test
step ops-vector env DS4_METAL_VECTOR_ROWS=1000 timeout 60 $B/ops_test
step history timeout 60 $B/history_test
KEEP=40 step nano timeout 60 $B/metal_check 2500
