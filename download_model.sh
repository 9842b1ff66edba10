#!/bin/sh
# The name that people know: the same as `ds4 pull`, with the same words (q2, q4, mtp) and options.
cd "$(dirname "$0")" && { [ -x ds4 ] || make >&2; } && exec ./ds4 pull "$@"
