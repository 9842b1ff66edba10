#!/bin/sh
# run.sh [-j N] [-t SECONDS] PROGRAM... - runs test programs, N at a time, and sums up.
#
# What  One line for each program as it ends, then the whole output of those that failed, then a last line
#       that is exactly "N passed, N failed".  Exit status 1 when anything failed.
# How   A program is a cmocka binary, whose summary lines are counted, or a .sh file that prints
#       "ok NAME" and "not ok NAME" lines.  All are run in the current folder, without standard input.
# Careful
#       - A crash, a time-out, a status that disagrees with the counts, and a program that ran no test at all
#         each count as a failure: a test that silently stops running must not look like success.
#       - Programs run side by side: they may not share a file name under /tmp.
#       - A skipped test is named in its program's line and counted as neither.
set -u
export LC_ALL=C
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
# The tests that compare bits of many rows and of few want one class of kernels (src/backend/metal/README.md).
export DS4_METAL_VECTOR_ROWS="${DS4_METAL_VECTOR_ROWS:-1000}"
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1}"

jobs=2
limit=300
one=
while getopts j:t:o: opt; do
	case $opt in
	j) jobs=$OPTARG ;;
	t) limit=$OPTARG ;;
	o) one=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))

now() {
	case $(date +%N) in
	*N*) date +%s ;;
	*) date +%s.%N ;;
	esac
}

# count LOG KIND STATUS: prints "passed failed skipped remark".
count() {
	awk -v kind="$2" -v status="$3" '
	function number(s) { match(s, /[0-9]+ test\(s\)/); return substr(s, RSTART) + 0 }
	kind == "sh" && /^ok .*# *[Ss][Kk][Ii][Pp]/ { skipped++; next }
	kind == "sh" && /^ok( |$)/ { passed++ }
	kind == "sh" && /^not ok( |$)/ { failed++ }
	kind == "bin" && /^\[==========\].*Running [0-9]+ test\(s\)/ { planned += number($0) }
	kind == "bin" && /^\[  PASSED  \].* [0-9]+ test\(s\)/ { passed += number($0) }
	kind == "bin" && /^\[  FAILED  \].* [0-9]+ test\(s\)/ { failed += number($0) }
	kind == "bin" && /^\[       OK \] / { fine++ }
	kind == "bin" && /^\[  SKIPPED \].* [0-9]+ test\(s\)/ { skipped += number($0) }
	END {
		if (kind == "bin" && passed < fine)	# it stopped before the summary
			passed = fine
		lost = planned - passed - failed - skipped
		if (lost > 0)
			failed += lost
		if (status == 124 || status == 137)
			remark = "time limit"
		else if (status > 128)
			remark = "signal " status - 128
		else if (lost > 0)
			remark = lost " not finished"
		else if (status != 0 && !failed)
			remark = "exit status " status
		else if (!passed && !failed && !skipped)
			remark = "ran no test"
		if (remark != "" && !failed)
			failed = 1
		printf "%d %d %d %s\n", passed, failed, skipped, remark
	}' "$1"
}

# run_one FOLDER PROGRAM: runs it; leaves FOLDER/NAME.log and FOLDER/NAME.sum; prints its line.
run_one() {
	name=${2#build/}
	case $name in
	asan/* | tsan/*) variant=" (${name%%/*})" name=${name#*/} ;;
	*) variant= ;;
	esac
	name=${name#tests/} name=${name%_test} name=${name%.sh} name=${name%_test}
	file=$1/$(printf '%s' "$name$variant" | tr '/ ' '__')

	case $2 in
	*.sh) kind=sh ;;
	*) kind=bin ;;
	esac
	if command -v timeout >/dev/null 2>&1; then
		guard="timeout -k 5 $limit"
	elif command -v gtimeout >/dev/null 2>&1; then
		guard="gtimeout -k 5 $limit"
	else
		guard=
	fi

	start=$(now)
	if [ $kind = sh ]; then
		$guard sh "$2" </dev/null >"$file.log" 2>&1
	else
		case $2 in
		/*) $guard "$2" </dev/null >"$file.log" 2>&1 ;;
		*) $guard "./$2" </dev/null >"$file.log" 2>&1 ;;
		esac
	fi
	status=$?
	end=$(now)

	count "$file.log" $kind $status >"$file.sum"
	read -r passed failed skipped remark <"$file.sum"
	if [ "$failed" = 0 ]; then
		verdict="${green}pass${plain}"
	else
		verdict="${red}FAIL${plain}"
		echo "$name$variant" >"$file.failed"
	fi
	detail="$passed passed"
	[ "$failed" = 0 ] || detail="$detail, $failed failed"
	[ "$skipped" = 0 ] || detail="$detail, $skipped skipped"
	[ -z "$remark" ] || detail="$detail ($remark)"
	echo "$start $end" | awk -v v="$verdict" -v n="$name$variant" -v d="$detail" \
		'{ printf "%s  %-36s %7.2f s  %s\n", v, n, $2 - $1, d }'
}

if [ -n "$one" ]; then
	run_one "$one" "$1"
	exit 0
fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	green=$(printf '\033[32m') red=$(printf '\033[31m') plain=$(printf '\033[0m')
else
	green= red= plain=
fi
export green red plain

dir=$(mktemp -d "${TMPDIR:-/tmp}/ds4-tests.XXXXXX") || exit 2
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

[ $# = 0 ] || printf '%s\n' "$@" | xargs -n 1 -P "$jobs" sh "$0" -t "$limit" -o "$dir"

for f in "$dir"/*.failed; do
	[ -e "$f" ] || continue
	printf '\n%s--- %s%s\n' "$red" "$(cat "$f")" "$plain"
	cat "${f%.failed}.log"
done

# A program whose process vanished with its summary (killed from outside) is missing here: it failed.
cat "$dir"/*.sum 2>/dev/null | awk -v programs=$# '
	{ passed += $1; failed += $2; n++ }
	END {
		failed += programs - n
		if (!programs)
			failed = 1
		printf "\n%d passed, %d failed\n", passed, failed
		exit failed > 0
	}'
