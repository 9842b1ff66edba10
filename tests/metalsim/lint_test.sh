#!/bin/sh
# lint_test.sh - the shipped shaders pass the strict pass, and use no name that only this simulator knows.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

sh tools/embed_metal.sh -t src/backend/metal/all.metal >"$tmp/all.metal"
for f in "$tmp/all.metal" tests/metalsim/shaders/good.metal; do
	if tests/metalsim/front/mslcc -m lint -o "$tmp/out" "$f" >"$tmp/log" 2>&1; then
		echo "ok $(basename "$f") passes the strict pass"
	else
		echo "not ok $(basename "$f") passes the strict pass: $(grep -m 1 error "$tmp/log")"
	fi
done
if grep -nE 'msl_|__|if constexpr|0x[0-9a-fA-F.]+p' src/backend/metal/*.metal | grep -v '__METAL__' >"$tmp/log"; then
	echo "not ok the shaders keep to C++14 and to Metal's own names: $(head -n 1 "$tmp/log")"
else
	echo "ok the shaders keep to C++14 and to Metal's own names"
fi
