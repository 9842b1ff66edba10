#!/bin/sh
# lint.sh [ROOT] - the rules of this tree that a compiler does not check.  Silent when all hold.
#
# What  1 includes: "folder/file.h", allowed by src/LAYERS, *_int.h only inside its folder
#       2 header guards are DS4_FOLDER_FILE_H; sources open with a comment; each src folder has a README.md
#       3 calls: no exit, abort or printing below src/cli; strcpy, sprintf, atoi and their like nowhere
#       4 no paths of somebody's machine, no TODO or FIXME without an issue number
#       5 functions up to 100 lines, files up to 1,000, lines of src up to 130 columns, no white space at their ends
# How   awk, one file at a time, over the text with comments and strings taken out.  tools/lint.allow lists what
#       was over a limit when it was last looked at, each with its size as a ceiling that may only shrink:
#           function src/a/b.c name 130
#           file src/a/b.c 1200
# Careful
#       - A function starts at a "{" alone in column one and ends at a "}" there: the layout the tree has.
#       - Generated files (line one says "generated") are held to 1 and 4 only.
set -u
export LC_ALL=C
cd "${1:-$(dirname "$0")/..}" || exit 2

allow=tools/lint.allow
[ -f $allow ] || allow=/dev/null
report=$(mktemp) || exit 2
trap 'rm -f "$report"' EXIT

code() { find src tests tools bench -path tests/data -prune -o -name "*.[ch]" -print 2>/dev/null | sort; }
text() {
	find . \( -name .git -o -path ./build -o -path ./tests/data \) -prune -o -type f \
		\( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' -o -name '*.md' -o -name '*.awk' -o -name Makefile \
		-o -name LAYERS -o -path './.ci/*' \) -print | sed 's|^\./||' | sort
}

# --- rules of C files -----------------------------------------------------------------------------------

code | xargs awk -v allow=$allow '
function fail(message) { printf "%s:%d: %s\n", FILENAME, FNR, message }
function folder_of(path) { sub(/\/[^\/]*$/, "", path); return path }
function columns(s,   n, i, part) {
	gsub(/[\200-\277]/, "", s)
	n = split(s, part, "\t")
	s = part[1]
	for (i = 2; i <= n; i++)
		s = sprintf("%s%" 8 - length(s) % 8 "s%s", s, "", part[i])
	return length(s)
}

# The line without comments, and with strings and characters emptied; in_comment runs on over lines.
function strip(s,   out, c, two, quote) {
	out = ""
	while (s != "") {
		c = substr(s, 1, 1)
		two = substr(s, 1, 2)
		if (in_comment) {
			if (two == "*/") { in_comment = 0; s = substr(s, 3) } else s = substr(s, 2)
		} else if (quote != "") {
			if (c == "\\") s = substr(s, 3)
			else { if (c == quote) { out = out c; quote = "" } s = substr(s, 2) }
		} else if (two == "/*") { in_comment = 1; s = substr(s, 3)
		} else if (two == "//") { break
		} else {
			if (c == "\"" || c == "\047") quote = c
			out = out c
			s = substr(s, 2)
		}
	}
	return out
}

function called(name) { return match(bare, "(^|[^A-Za-z0-9_.>])(" name ")[ \t]*\\(") }
function word(   s) { s = substr(bare, RSTART, RLENGTH); gsub(/[^A-Za-z0-9_]/, "", s); return s }

function check_include(path,   to) {
	if (path !~ /\//) { fail("include \"" path "\": expected \"folder/file.h\""); return }
	to = folder_of(path)
	if (to == folder)
		return
	if (path ~ /_int\.h$/)
		fail("include \"" path "\": private to src/" to)
	else if (!(folder in known))
		fail("folder src/" folder " is not in src/LAYERS")
	else if (!((folder, to) in may))
		fail("include \"" path "\": src/LAYERS does not let " folder " include " to)
}

function end_file() {
	if (last == "")
		return
	size("file " last, lines, 1000, last ": ")
	if (in_src && !generated && last ~ /\.h$/ && guards < 2)
		printf "%s: expected the header guard %s\n", last, guard
}

# A thing with n lines against its limit, or its ceiling in the list.
function size(key, n, most, where) {
	if (generated)
		return
	if (key in ceiling) {
		used[key] = 1
		if (n > ceiling[key])
			printf "%s%s has %d lines, its ceiling in %s is %d\n", where, key, n, allow, ceiling[key]
		else if (n < ceiling[key])
			printf "%s%s has %d lines: lower its ceiling in %s from %d\n", where, key, n, allow, ceiling[key]
	} else if (n > most)
		printf "%s%s has %d lines, expected at most %d\n", where, key, n, most
}

BEGIN {
	while ((getline line < "src/LAYERS") > 0) {
		sub(/#.*/, "", line)
		if (line !~ /:/)
			continue
		n = split(line, part, /[: \t]+/)
		known[part[1]] = 1
		for (i = 2; i <= n; i++)
			may[part[1], part[i]] = 1
	}
	while ((getline line < allow) > 0) {
		n = split(line, part, /[ \t]+/)
		if (part[1] == "function" && n >= 4)
			ceiling["function " part[2] " " part[3]] = part[4]
		else if (part[1] == "file" && n >= 3)
			ceiling["file " part[2]] = part[3]
	}
}

FNR == 1 {
	end_file()
	last = FILENAME
	in_src = FILENAME ~ /^src\//
	folder = in_src ? folder_of(substr(FILENAME, 5)) : ""
	guard = toupper(substr(FILENAME, 5))
	gsub(/[^A-Z0-9]/, "_", guard)
	guard = short_guard = "DS4_" guard
	for (n in known)	# DS4_GGUF_GGUF_INT_H may be DS4_GGUF_INT_H
		sub("_" toupper(n) "_" toupper(n) "_", "_" toupper(n) "_", short_guard)
	guards = lines = in_comment = body = 0
	name = ""
	generated = tolower($0) ~ /generated/
	if (in_src && $0 !~ /^\/\*/)
		fail("expected a comment that says what this file is, found: " $0)
}

{ lines = FNR; bare = strip($0) }

in_src && /^[ \t]*#[ \t]*include[ \t]*"/ {
	split($0, part, "\"")
	check_include(part[2])
}
in_src && guards == 0 && $1 == "#ifndef" && ($2 == guard || $2 == short_guard) { guard = $2; guards = 1 }
in_src && guards == 1 && $1 == "#define" && $2 == guard { guards = 2 }

in_src && folder !~ /^cli/ {
	if (called("exit|_exit|_Exit|quick_exit|abort"))
		fail(word() "() below src/cli: return a status instead")
	if (called("printf|vprintf|puts|putchar|perror") || bare ~ /[^A-Za-z0-9_]f(printf|puts|putc|write|flush)[ \t]*\(.*(stdout|stderr)/)
		fail("prints below src/cli: return the text in a buf or a struct err")
}
in_src && called("strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atoll|atof|strtok|system") {
	fail(word() "() is banned: use the bounded or checked form")
}

{
	if (in_src && !generated && columns($0) > 130)
		fail("line of " columns($0) " columns, expected at most 130")
	if (bare ~ /^[A-Za-z_].*\(/ && bare !~ /;[ \t]*$/) {
		name = bare
		sub(/[ \t]*\(.*/, "", name)
		sub(/.*[ \t*]/, "", name)
	}
	if (bare ~ /^\{[ \t]*$/)
		body = FNR
	if (bare ~ /^\}/ && body) {
		size("function " FILENAME " " name, FNR - body + 1, 100, FILENAME ":" body ": ")
		body = 0
	}
}

END {
	end_file()
	for (key in ceiling)
		if (!(key in used))
			printf "%s: \"%s\" is not there any more: remove the line\n", allow, key
}' >>"$report"

# --- rules of all text ----------------------------------------------------------------------------------

text | grep -v '^tools/lint\.sh$' | xargs awk '
function fail(message) { printf "%s:%d: %s\n", FILENAME, FNR, message }
/(^|[^A-Za-z0-9_.~-])\/(work|root)\// || /\.\.\/shared/ { fail("path of one machine: " $0) }
/(TODO|FIXME)/ && !/(TODO|FIXME).*#[0-9]/ { fail("TODO without an issue number") }
FILENAME !~ /\.py$/ && /[ \t]$/ { fail("white space at the end of the line") }
' >>"$report"

for dir in $(find src -type d | sort); do
	if ls "$dir"/*.[ch] >/dev/null 2>&1 && [ ! -f "$dir/README.md" ]; then
		echo "$dir: no README.md (one page: what it owns, its invariants, where to start)" >>"$report"
	fi
done

if [ -s "$report" ]; then
	cat "$report"
	echo "lint: $(wc -l <"$report" | tr -d ' ') findings"
	exit 1
fi
