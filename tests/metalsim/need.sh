#!/bin/sh
# need.sh - prints what the Metal simulator lacks on this machine, as one line; nothing when it can run.
set -u
clang=${MSL_CLANG:-clang}
missing=
[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] || {
	echo "a Linux machine with an x86-64 processor"
	exit 0
}
command -v "$clang" >/dev/null 2>&1 || missing="$missing clang"
command -v python3 >/dev/null 2>&1 || missing="$missing python3"
command -v addr2line >/dev/null 2>&1 || missing="$missing binutils"
headers=$(gcc -print-file-name=include 2>/dev/null)
if [ ! -f "$headers/objc/objc.h" ]; then
	missing="$missing libobjc-$(gcc -dumpversion 2>/dev/null | cut -d. -f1)-dev"
fi
[ -z "$missing" ] || echo "packages:$missing (apt-get install$missing)"
