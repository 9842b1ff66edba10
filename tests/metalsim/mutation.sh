#!/bin/sh
# mutation.sh - proves that the check-mode tests bite: without any one barrier they fail.
#
# What  Deletes each threadgroup_barrier and simdgroup_barrier of the shaders in turn, then ignores the k-th memoryBarrier of every
#       command buffer, for k = 1, 2, ... as long as there is one.  A mutant that passes both test programs is named.
# How   The simulator compiles another source ($METALSIM_SOURCE) or skips ($METALSIM_SKIP_BARRIER); nothing is rebuilt.
set -u
cd "$(dirname "$0")/../.." || exit 1
B=build/metalsim
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
sh tools/embed_metal.sh -t src/backend/metal/all.metal >"$tmp/all.metal"
survivors=0
mutants=0

# Does one of the programs fail?
noticed() {
	! timeout 300 $B/check_test >"$tmp/log" 2>&1 || ! timeout 300 $B/check_history_test >>"$tmp/log" 2>&1
}

verdict() {
	mutants=$((mutants + 1))
	if [ "$1" = 0 ]; then
		echo "noticed   $2: $(grep -m 1 -oE 'metalsim: .*|error [0-9.e+-]+, allowed.*' "$tmp/log" | sed 's|.*/include/||' | cut -c 1-110)"
	else
		echo "SURVIVES  $2"
		survivors=$((survivors + 1))
	fi
}

for n in $(grep -nE '(threadgroup|simdgroup)_barrier\(' "$tmp/all.metal" | cut -d: -f1); do
	sed "${n}s/[a-z]*_barrier([^;]*);/;/" "$tmp/all.metal" >"$tmp/m$n.metal"
	what=$(awk -v n="$n" '/^#line/ { at = $2; file = $3; from = NR } NR == n { gsub(/"/, "", file); print file ":" at + NR - from - 1 }' \
		"$tmp/all.metal")
	METALSIM_SOURCE="$tmp/m$n.metal" noticed
	verdict $? "barrier at $what"
	rm -f "$tmp/m$n".*
done
k=1
while :; do
	METALSIM_SKIP_BARRIER=$k noticed
	r=$?
	if ! grep -q 'skipped barriers: [1-9]' "$tmp/log"; then
		break
	fi
	verdict $r "memoryBarrier $k of a command buffer"
	k=$((k + 1))
done
echo "$mutants mutants, $survivors survive"
[ $survivors = 0 ]
