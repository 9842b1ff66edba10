#!/bin/sh
# broken_compiler.sh - stands in for mslcc in model_test.c: refuses everything, with words.
echo "error: this compiler refuses everything"
exit 1
