#!/bin/sh
# run.sh [SECONDS [CLIENTS [IDLE]]] - make test-load: 256 clients for a minute, 2,000 idle connections, the recorded
# requests of large clients.
set -u
cd "$(dirname "$0")/../.."
seconds=${1:-60} clients=${2:-256} idle=${3:-2000}
dir=$(mktemp -d) pid=
trap 'kill $pid 2>/dev/null; rm -rf "$dir"' EXIT
ulimit -n "$(ulimit -H -n)"
# Without anything kept on disk and with few places in the prefix tree, so that its memory does not grow with what it learns.
./ds4 serve --port 0 --no-kv --quiet --log "$dir/log" -m models/ds4-nano-q2.gguf -c 1k --parallel 16 --queue 240 >"$dir/out" &
pid=$!
for i in $(seq 100); do
	port=$(sed -n 's/.*:\([0-9]*\)$/\1/p' "$dir/out")
	[ -n "$port" ] && break
	sleep 0.1
done
sleep 1
build/tests/load/load "$port" $pid "$seconds" "$clients" "$idle"
status=$?
kill $pid
wait $pid || { echo "not ok the_server_ends_with_0 - $?"; status=1; }
exit $status
