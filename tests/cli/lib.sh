# lib.sh - for the scripts of this folder: named checks, a scratch folder, the stored answers of ds4-nano.
#
# A script sources this file, calls the checks, and ends with `finish`.  It is run from the repository root after the
# build; DS4 names another program to test.  Prints "ok NAME" or "not ok NAME - why" with both values.
set -u
DS4=${DS4:-./ds4}
command -v "$DS4" >/dev/null 2>&1 || {
	echo "not ok the_program_is_there - no $DS4; run make first"
	exit 1
}
export LC_ALL=C.UTF-8 TERM=dumb
unset DS4_MODEL NO_COLOR 2>/dev/null || :
tmp=$(mktemp -d "${TMPDIR:-/tmp}/ds4-cli.XXXXXX") || exit 2
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
export XDG_STATE_HOME="$tmp/state" XDG_DATA_HOME="$tmp/data" XDG_CACHE_HOME="$tmp/cache"
failures=0
VOCABULARY=tests/data/text/tokenizer_only.gguf
NANO=models/ds4-nano-q2.gguf
SAMPLES=tests/data/nano/samples-q2.json

pass() { printf 'ok %s\n' "$1"; }

fail() {
	printf 'not ok %s - %s\n' "$1" "$2"
	failures=$((failures + 1))
}

# same NAME EXPECTED FOUND
same() {
	if [ "$2" = "$3" ]; then
		pass "$1"
	else
		fail "$1" "expected and found differ:"
		printf 'expected: %s\nfound:    %s\n' "$2" "$3" | head -c 3000
		echo
	fi
}

# same_file NAME EXPECTED-FILE FOUND-FILE
same_file() {
	if cmp -s "$2" "$3"; then
		pass "$1"
	else
		fail "$1" "the files differ (< expected, > found):"
		diff "$2" "$3" | head -c 3000
	fi
}

# contains NAME PART TEXT
contains() {
	case $3 in
	*"$2"*) pass "$1" ;;
	*)
		fail "$1" "expected something with the part, found otherwise:"
		printf 'part:  %s\nfound: %s\n' "$2" "$3" | head -c 3000
		echo
		;;
	esac
}

# run COMMAND...: leaves $status, $out and $errors.
run() {
	"$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
	out=$(cat "$tmp/out")
	errors=$(cat "$tmp/err")
}

# refuses NAME EXIT-CODE PART COMMAND...: fails with this code and one sentence on standard error that has the part.
refuses() {
	name=$1 want=$2 part=$3
	shift 3
	run "$@"
	sentences=$(grep -v '^model: ' "$tmp/err" | wc -l)
	if [ "$status" != "$want" ]; then
		fail "$name" "expected exit code $want, found $status; standard error: $errors"
	elif [ "$sentences" != 1 ]; then
		fail "$name" "expected one line on standard error, found $sentences: $errors"
	else
		contains "$name" "$part" "$errors"
	fi
}

# sample NAME FIELD: a field of the stored answers, its JSON escapes undone.  Fields stand on lines of their own.
sample() {
	awk -v name="$1" -v field="$2" '
	index($0, "  \"name\": \"" name "\",") == 1 { inside = 1 }
	inside && index($0, "  \"" field "\": ") == 1 {
		s = substr($0, length(field) + 7)
		sub(/,$/, "", s)
		s = substr(s, 2, length(s) - 2)
		out = ""
		while (match(s, /\\./)) {
			c = substr(s, RSTART + 1, 1)
			out = out substr(s, 1, RSTART - 1) (c == "n" ? "\n" : c == "t" ? "\t" : c)
			s = substr(s, RSTART + 2)
		}
		printf "%s", out s
		exit
	}' "$SAMPLES"
}

sample_names() {
	sed -n 's/^  "name": "\(.*\)",$/\1/p' "$SAMPLES"
}

# tools NAME: the tools of a stored prompt as a JSON array.
tools() {
	sample "$1" prompt | awk '
	/^You MUST strictly follow the above/ { inside = 0 }
	inside && NF { list = list (list == "" ? "" : ", ") $0 }
	/^### Available Tool Schemas/ { inside = 1 }
	END { print "[" list "]" }'
}

# question NAME: the user text of a stored prompt of one turn.
question() {
	sample "$1" prompt | awk '{ s = s (NR > 1 ? "\n" : "") $0 }
	END { sub(/^.*<｜User｜>/, "", s); sub(/<｜Assistant｜>.*$/, "", s); printf "%s", s }'
}

finish() {
	[ "$failures" = 0 ]
	exit
}
