#!/bin/sh
# tests/run.sh against made-up test programs: it has to count what they report and notice what they do not.
set -u
run=$PWD/tests/run.sh
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 2

# program NAME COMMANDS: a stand-in for a cmocka binary.
program() {
	printf '#!/bin/sh\n%s\n' "$2" >"$1"
	chmod +x "$1"
}
# same NAME EXPECTED-LAST-LINE EXPECTED-STATUS PROGRAM...
same() {
	what=$1 line=$2 status=$3
	shift 3
	out=$(sh "$run" -t 2 "$@" 2>&1)
	got=$?
	last=$(echo "$out" | tail -n 1)
	if [ "$last" = "$line" ] && [ $got = "$status" ]; then
		echo "ok $what"
	else
		echo "not ok $what: expected '$line' and status $status, found '$last' and $got"
	fi
}

program good_test 'echo "[==========] Running 3 test(s)."; echo "[  PASSED  ] 3 test(s)."'
program bad_test 'echo "[==========] Running 3 test(s)."; echo "[  PASSED  ] 2 test(s)."
echo "[  FAILED  ] 1 test(s), listed below:" >&2; echo "[  FAILED  ] some_name"; exit 1'
program two_groups_test 'for n in 1 2; do echo "[==========] group: Running $n test(s)."
echo "[  PASSED  ] group: $n test(s)."; done'
program crash_test 'echo "[==========] Running 4 test(s)."; echo "[       OK ] one"; kill -SEGV $$'
program early_test 'echo "[==========] Running 2 test(s)."; echo "[       OK ] one"; exit 0'
program status_test 'echo "[==========] Running 1 test(s)."; echo "[  PASSED  ] 1 test(s)."; exit 9'
program silent_test 'exit 0'
program slow_test 'echo "[==========] Running 1 test(s)."; sleep 30'
program skip_test 'echo "[==========] Running 2 test(s)."; echo "[  PASSED  ] 1 test(s)."
echo "[  SKIPPED ] 1 test(s), listed below:"'
program lines.sh 'echo "ok one"; echo "not ok two: because"; echo "ok three # skip no terminal"'
program broken.sh 'echo "ok one"; no_such_command_here'

same "passed tests are counted" "3 passed, 0 failed" 0 good_test
same "failed tests are counted, once" "2 passed, 1 failed" 1 bad_test
same "several groups in one program add up" "3 passed, 0 failed" 0 two_groups_test
same "several programs add up" "8 passed, 1 failed" 1 good_test bad_test two_groups_test
same "tests that a crash swallowed have failed" "1 passed, 3 failed" 1 crash_test
same "tests that an early exit swallowed have failed" "1 passed, 1 failed" 1 early_test
same "a status that disagrees with the counts is a failure" "1 passed, 1 failed" 1 status_test
same "a program that ran no test is a failure" "0 passed, 1 failed" 1 silent_test
same "a program over its time limit is a failure" "0 passed, 1 failed" 1 slow_test
same "a program that is not there is a failure" "0 passed, 1 failed" 1 nowhere_test
same "skipped tests are neither" "1 passed, 0 failed" 0 skip_test
same "lines of scripts are counted" "1 passed, 1 failed" 1 lines.sh
same "a script that breaks is a failure" "1 passed, 1 failed" 1 broken.sh
same "no program at all is a failure" "0 passed, 1 failed" 1

case $(sh "$run" bad_test 2>&1) in
*some_name*) echo "ok the output of a failed program is shown" ;;
*) echo "not ok the output of a failed program is shown" ;;
esac
