#!/bin/sh
# skipped.sh - stands in for the tests of the Metal backend where the simulator cannot run, so that it shows.
echo "ok the Metal backend under the simulator # SKIP this needs $(sh "$(dirname "$0")/need.sh")"
