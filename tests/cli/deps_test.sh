#!/bin/sh
# tools/deps.sh with a made-up compiler and package manager: it announces what it installs, and is silent
# when there is nothing to do.
set -u
deps=$PWD/tools/deps.sh
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin"
PATH=$dir/bin:$PATH
export dir PATH

# stub NAME COMMANDS
stub() {
	printf '#!/bin/sh\n%s\n' "$2" >"$dir/bin/$1"
	chmod +x "$dir/bin/$1"
}
# expect NAME STATUS PATTERN ARGUMENTS...: runs deps.sh; PATTERN "" means no output at all.
expect() {
	what=$1 status=$2 pattern=$3
	shift 3
	out=$(CC=fakecc sh "$deps" "$@" 2>&1)
	got=$?
	if [ $got = "$status" ] && { [ -z "$pattern" ] && [ -z "$out" ] ||
		[ -n "$pattern" ] && echo "$out" | grep -q "$pattern"; }; then
		echo "ok $what"
	else
		echo "not ok $what: expected status $status and '$pattern', found $got and '$out'"
	fi
}

stub pkg-config 'exit 1'
stub apt-get 'echo "$*" >>"$dir/log"; touch "$dir/installed"'
stub id 'echo 0'
stub fakecc 'cat >/dev/null'
expect "nothing missing, nothing said" 0 "" build test

stub fakecc 'if grep -q jansson.h; then [ -e "$dir/installed" ]; fi'
expect "--check names the missing package" 1 "missing packages: libjansson-dev$" --check build
expect "--check names the command" 1 "apt-get install -y --no-install-recommends libjansson-dev$" --check build
[ -e "$dir/log" ] && echo "not ok --check installs nothing" || echo "ok --check installs nothing"
expect "it says what it is about to install" 0 "about to install missing packages: libjansson-dev$" build
grep -q 'install -y --no-install-recommends libjansson-dev$' "$dir/log" &&
	echo "ok it installs what it announced" || echo "not ok it installs what it announced: $(cat "$dir/log")"
expect "a second run is silent" 0 "" build

rm -f "$dir/installed"
stub apt-get 'echo "E: $1" >&2; exit 100'
expect "a failed installation prints the command" 1 "this is the command: apt-get install" build
stub id 'echo 1000'
stub sudo 'exit 1'
expect "without the right to install it prints the command" 1 "sudo apt-get install" build
