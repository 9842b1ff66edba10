#!/bin/sh
# The synthetic full-width model (43 layers, 8.4 GB, tools/synth) against stored logits of an independent engine.
# Not part of `make test`: needs the file, python3 with numpy, and minutes.
#
#     tests/fullwidth.sh MODEL.gguf ORACLE_DIR [NAME...]        names: p1 p5 p200 (all by default)
#     DS4=./ds4 BACKEND=cpu PYTHON=python3                      what to run
#
# Each position gets a line: root mean square difference over the standard deviation of the expected logits, and
# whether the first choice is the same.  Ends with 1 if any archive is beyond 1e-1, which is a bug;
# up to 5e-2 agrees (that engine quantises its activations and moves as much from a change in summation order).
set -eu

if [ $# -lt 2 ]; then
	sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
	exit 2
fi
model=$1 dir=$2
shift 2
[ $# -gt 0 ] || set -- p1 p5 p200
here=$(dirname "$0")
bad=0
for name; do
	if [ ! -r "$dir/$name.npz" ]; then
		echo "fullwidth: $dir/$name.npz: cannot be read" >&2
		exit 2
	fi
	"${PYTHON:-python3}" "$here/golden/fullwidth.py" "$model" "$dir/$name.npz" \
		--ds4 "${DS4:-./ds4}" --backend "${BACKEND:-cpu}" || bad=1
done
exit $bad
