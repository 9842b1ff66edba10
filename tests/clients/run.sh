#!/bin/bash
# run.sh [CLIENT...] - real clients against `ds4 serve`: make test-clients.
#
# What  sdk (openai and @anthropic-ai/sdk), codex, claude, opencode, pi.  Each agent does prompt - tool call - result -
#       answer, then again in the same conversation after the server was killed and started anew; with TROUBLE=busy,
#       cut or overflow the server first refuses twice, cuts the first stream, or says that the prompt is too long.
# How   Installed from npm into build/clients (or $NPM_DIR).  What the model says is scripted (agents.jsonl), its tokens
#       are computed by ds4-nano all the same.  Server and client live in a network namespace of their own where the
#       system allows it, so that no client can reach anything but this server.
# Careful
#       - ds4-nano's small vocabulary makes 27,000 tokens of Claude Code's first request, which gives up after ten minutes:
#         on a busy machine CLAUDE_TOOLS=Bash makes it a fraction.
set -u
cd "$(dirname "$0")/../.."
here=$PWD/tests/clients npm_dir=${NPM_DIR:-$PWD/build/clients} trouble=${TROUBLE:-none}
[ $# -gt 0 ] || set -- sdk codex claude opencode pi

if [ ! -d "$npm_dir/node_modules/openai" ]; then
	mkdir -p "$npm_dir"
	npm install --no-audit --no-fund --prefix "$npm_dir" openai@6.49.0 @anthropic-ai/sdk@1.12.0 @openai/codex@0.169.0 \
		@anthropic-ai/claude-code@2.1.197 opencode-ai@1.18.33 @mariozechner/pi-coding-agent@0.73.1 || exit 1
fi
if [ -z "${IN_NET:-}" ] && unshare -n true 2>/dev/null; then
	IN_NET=1 NPM_DIR=$npm_dir TROUBLE=$trouble exec unshare -n bash -c 'ip link set lo up; exec bash "$@"' bash "$0" "$@"
fi

work=$(mktemp -d) failures=0
server=
trap 'kill $server 2>/dev/null; rm -rf "$work"' EXIT
bin=$npm_dir/node_modules/.bin
mkdir "$work/project" && cd "$work/project" && git init -q . && echo '# demo' >README.md
cd "$OLDPWD"

start() {
	./ds4 serve --port 8000 -m models/ds4-nano-q2.gguf --parallel 3 --kv-disk-dir "$work/kv" --trace "$work/trace" \
		--log "$work/log" "$@" >>"$work/out" 2>&1 &
	server=$!
	for i in $(seq 100); do
		curl -sf -o /dev/null http://127.0.0.1:8000/health && return
		sleep 0.1
	done
	echo "not ok server_starts - $(cat "$work/out")"
	exit 1
}

result() {	# NAME CONDITION-STATUS DETAIL
	if [ "$2" = 0 ]; then
		echo "ok $1"
	else
		failures=$((failures + 1))
		echo "not ok $1 - $3"
	fi
}

# client NAME PROMPT [again]: runs it with a clean environment; its output is $work/said
client() {
	home=$work/home-$1
	mkdir -p "$home"
	common="PATH=$PATH HOME=$home TERM=dumb LANG=C.UTF-8"
	case $1 in
	codex)
		mkdir -p "$home/.codex"
		cp tests/data/clients/config/codex-config.toml "$home/.codex/config.toml"
		set -- "$1" "$2" ${3:+resume --last}
		name=$1 prompt=$2
		shift 2
		(cd "$work/project" && env -i $common CODEX_HOME="$home/.codex" timeout 900 "$bin/codex" exec --skip-git-repo-check \
			--dangerously-bypass-approvals-and-sandbox "$@" "$prompt") ;;
	claude)
		(cd "$work/project" && env -i $common ANTHROPIC_BASE_URL=http://127.0.0.1:8000 ANTHROPIC_AUTH_TOKEN=none \
			ANTHROPIC_MODEL=deepseek-v4-flash ANTHROPIC_DEFAULT_SONNET_MODEL=deepseek-v4-flash \
			ANTHROPIC_DEFAULT_HAIKU_MODEL=deepseek-v4-flash ANTHROPIC_DEFAULT_OPUS_MODEL=deepseek-v4-flash \
			CLAUDE_CODE_SUBAGENT_MODEL=deepseek-v4-flash CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 \
			CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1 CLAUDE_STREAM_IDLE_TIMEOUT_MS=600000 DISABLE_AUTOUPDATER=1 \
			DISABLE_TELEMETRY=1 timeout 900 "$npm_dir/node_modules/@anthropic-ai/claude-code-linux-x64/claude" \
			${CLAUDE_TOOLS:+--tools "$CLAUDE_TOOLS"} --allowedTools "Bash(echo:*)" --output-format json ${3:+-c} -p "$2") ;;
	opencode)
		mkdir -p "$home/.config/opencode"
		cp tests/data/clients/config/opencode.json "$home/.config/opencode/"
		(cd "$work/project" && env -i $common XDG_CONFIG_HOME="$home/.config" XDG_DATA_HOME="$home/.local/share" \
			XDG_CACHE_HOME="$home/.cache" XDG_STATE_HOME="$home/.local/state" OPENCODE_DISABLE_AUTOUPDATE=1 \
			OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1 timeout 900 \
			"$npm_dir/node_modules/opencode-linux-x64/bin/opencode" run -m ds4/deepseek-v4-flash ${3:+-c} "$2") ;;
	pi)
		mkdir -p "$home/.pi/agent"
		cp tests/data/clients/config/pi-models.json "$home/.pi/agent/models.json"
		(cd "$work/project" && env -i $common PI_OFFLINE=1 timeout 900 node \
			"$npm_dir/node_modules/@mariozechner/pi-coding-agent/dist/cli.js" --offline --provider "${PI_PROVIDER:-ds4}" \
			--model deepseek-v4-flash --thinking medium ${3:+-c} -p "$2") ;;
	esac >"$work/said" 2>"$work/complained" </dev/null
}

answered() {	# NAME
	if [ "$trouble" = overflow ]; then	# they say so and end, or compact and go on (pi then prints nothing)
		cat "$work/said" "$work/complained" | grep -q -i 'out of room\|prompt_too_long\|context window\|The tool printed' ||
			sed -n '/status=400/,$p' "$work/log" | grep -q 'status=200'
	else
		grep -q 'The tool printed mock-tool-ok' "$work/said"
	fi
	result "$1" $? "it said: $(tail -c 600 "$work/said") $(tail -c 600 "$work/complained"); the server: $(tail -n 4 "$work/log")"
}

agent() {
	rm -f "$work/trace"
	start --stub "$work/stub" ${1:+-c 64k}
	client "$1" "Run echo mock-tool-ok with your shell tool and report its output."
	answered "$1_prompt_call_result_answer"
	kill -9 $server
	wait $server 2>/dev/null
	start --stub "$work/stub" -c 64k
	client "$1" "Do the same once more." again
	answered "$1_goes_on_after_the_server_was_killed"
	kill $server
	wait $server
	result "$1_server_ends_well" $? "exit status"
	grep -o '"api":"[a-z]*"\|"finish":"[a-z_]*","prompt":[0-9]*,"cached":[0-9]*' "$work/trace" | paste - - | sed 's/^/# /'
	rm -f "$work/trace"
}

case $trouble in
overflow) { printf '{"tools": true, "overflow": true}\n'; cat "$here/agents.jsonl"; } >"$work/stub" ;;
busy) { printf '{"busy": true}\n{"busy": true}\n'; cat "$here/agents.jsonl"; } >"$work/stub" ;;
cut) { printf '{"tools": true, "cut": 3, "content": "This will be cut in the middle of it all."}\n'; cat "$here/agents.jsonl"; } >"$work/stub" ;;
*) cp "$here/agents.jsonl" "$work/stub" ;;
esac

for c; do
	if [ "$c" = sdk ]; then
		start --stub "$here/sdk.jsonl" -c 16k
		node "$here/sdk.mjs" 8000 "$npm_dir/node_modules" || failures=$((failures + 1))
		kill $server
		wait $server
	else
		agent "$c"
	fi
done
exit $((failures > 0))
