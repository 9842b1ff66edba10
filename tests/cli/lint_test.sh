#!/bin/sh
# Plants one violation of each rule in a tiny tree and expects tools/lint.sh to name it; a clean tree is silent.
set -u
lint=$PWD/tools/lint.sh
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT

# A tree that keeps all rules, afresh.
clean() {
	rm -rf "${dir:?}/t"
	mkdir -p "$dir/t/src/base" "$dir/t/src/top" "$dir/t/tools"
	printf 'base:\ntop: base\n' >"$dir/t/src/LAYERS"
	printf '/* x.h - x. */\n#ifndef DS4_BASE_X_H\n#define DS4_BASE_X_H\n\nint x(void);\n\n#endif\n' >"$dir/t/src/base/x.h"
	printf '/* x.c - exit(1) in a comment. */\n#include "base/x.h"\n\nint x(void)\n{\n\treturn "exit(1)"[0];\n}\n' >"$dir/t/src/base/x.c"
	printf '/* y.c - y. */\n#include "base/x.h"\n' >"$dir/t/src/top/y.c"
	echo base >"$dir/t/src/base/README.md"
	echo top >"$dir/t/src/top/README.md"
}

# expect NAME PATTERN: the lint fails and says PATTERN.
expect() {
	if out=$(sh "$lint" "$dir/t" 2>&1); then
		echo "not ok $1: the lint passed"
	elif echo "$out" | grep -q "$2"; then
		echo "ok $1"
	else
		echo "not ok $1: expected '$2', found: $out"
	fi
	clean
}

# long N: a function of N lines.
long() {
	echo 'int z(void)'
	echo '{'
	i=2
	while [ $i -lt "$1" ]; do echo '	;'; i=$((i + 1)); done
	echo '}'
}

clean
if out=$(sh "$lint" "$dir/t" 2>&1) && [ -z "$out" ]; then
	echo "ok a tree that keeps the rules passes in silence"
else
	echo "not ok a tree that keeps the rules passes in silence: $out"
fi

echo '#include "top/y.h"' >>"$dir/t/src/base/x.c"
expect "an include upwards is refused" 'LAYERS does not let base include top'

echo '#include "x.h"' >>"$dir/t/src/base/x.c"
expect "an include without its folder is refused" 'expected "folder/file.h"'

echo '#include "base/x_int.h"' >>"$dir/t/src/top/y.c"
expect "a private header stays in its folder" 'private to src/base'

sed 's/DS4_BASE_X_H/X_H/' "$dir/t/src/base/x.h" >"$dir/t/src/base/z.h"
expect "a wrong header guard is refused" 'expected the header guard DS4_BASE_Z_H'

printf '\nvoid z(void)\n{\n\texit(1);\n}\n' >>"$dir/t/src/base/x.c"
expect "a library that exits is refused" 'exit() below src/cli'

printf '\nvoid z(void)\n{\n\tfprintf(stderr, "z");\n}\n' >>"$dir/t/src/base/x.c"
expect "a library that prints is refused" 'prints below src/cli'

printf '\nvoid z(char *p)\n{\n\tstrcpy(p, "z");\n}\n' >>"$dir/t/src/base/x.c"
expect "an unbounded copy is refused" 'strcpy() is banned'

printf '/* see /%s/somebody/file */\n' root >>"$dir/t/src/base/x.c"
expect "a path of one machine is refused" 'path of one machine'

printf '/* TO%s: later */\n' DO >>"$dir/t/src/base/x.c"
expect "a promise without an issue is refused" 'without an issue number'

printf 'int z; \n' >>"$dir/t/src/base/x.c"
expect "white space at the end of a line is refused" 'white space at the end'

long 101 >>"$dir/t/src/base/x.c"
expect "a function of 101 lines is refused" 'z has 101 lines, expected at most 100'

long 101 >>"$dir/t/src/base/x.c"
echo 'function src/base/x.c z 120' >"$dir/t/tools/lint.allow"
expect "a ceiling may only shrink" 'lower its ceiling'

echo 'function src/base/x.c gone 120' >"$dir/t/tools/lint.allow"
expect "a ceiling of something gone is refused" 'not there any more'

rm "$dir/t/src/top/README.md"
expect "a folder without a page is refused" 'src/top: no README.md'

mkdir "$dir/t/src/new"
printf '/* n.c - n. */\n#include "base/x.h"\n' >"$dir/t/src/new/n.c"
echo n >"$dir/t/src/new/README.md"
expect "a folder that LAYERS does not know is refused" 'src/new is not in src/LAYERS'
