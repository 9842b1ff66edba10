#!/bin/sh
# ds4 serve as a program: its options, where it says it listens, signals, files.  What it answers is tests/api.
. "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME="$tmp/cache"

# start OPTIONS...: the server on a free port; leaves $pid and $port.
start() {
	"$DS4" serve --port 0 --no-kv -m $NANO --parallel 2 -c 2k "$@" >"$tmp/serve.out" 2>"$tmp/serve.err" </dev/null &
	pid=$!
	for i in $(seq 200); do
		port=$(sed -n 's/^ds4 serve: listening on https*:.*:\([0-9]*\)$/\1/p' "$tmp/serve.out")
		[ -n "$port" ] && break
		sleep 0.05
	done
	for i in $(seq 400); do
		[ "$(curl -sk -o /dev/null -w '%{http_code}' "${scheme:-http}://127.0.0.1:$port/health")" = 200 ] && return
		sleep 0.05
	done
	fail "the_server_starts" "no answer; its errors: $(cat "$tmp/serve.err")"
}

# stop SIGNAL: leaves $status.
stop() {
	kill -"$1" $pid
	wait $pid
	status=$?
}

if ! command -v curl >/dev/null 2>&1; then
	echo "ok serve_needs_curl # skip: no curl here"
	exit 0
fi

refuses "an_old_option_is_refused_in_words" 2 "--mtp: drafting" "$DS4" serve --mtp x
refuses "a_missing_key_file_is_told" 9 "neither a file nor an environment variable" "$DS4" serve --port 0 --no-kv --api-key no/such/file
refuses "a_key_without_its_certificate_is_told" 2 "--tls-cert and --tls-key are given together" "$DS4" serve --tls-key x
refuses "a_model_that_is_not_there_is_told" 9 "no/such/model.gguf" "$DS4" serve --port 0 --no-kv --quiet --log "$tmp/log0" -m no/such/model.gguf
run "$DS4" serve --help
contains "help_teaches_with_an_example" "curl http://127.0.0.1:8000/v1/chat/completions" "$out"

start --log "$tmp/log"
body='{"messages":[{"role":"user","content":"Hi"}],"max_tokens":3,"thinking":false}'
answer=$(curl -s "http://127.0.0.1:$port/v1/chat/completions" -d "$body")
contains "it_answers" '"finish_reason":' "$answer"
contains "it_answers_on_ipv6_where_there_is_one" "ok" "$(curl -s "http://[::1]:$port/health" || [ ! -e /proc/net/if_inet6 ] && echo ok)"
refuses "a_taken_port_is_told" 8 "127.0.0.1:$port: " "$DS4" serve --no-kv -m $NANO --port "$port"
mv "$tmp/log" "$tmp/log.old"
kill -HUP $pid
for i in $(seq 100); do [ -e "$tmp/log" ] && break; sleep 0.02; done
curl -s -o /dev/null "http://127.0.0.1:$port/v1/models"
stop TERM
same "term_ends_with_0" 0 "$status"
contains "hangup_reopens_the_log" "/v1/models" "$(cat "$tmp/log")"
contains "the_old_log_has_what_came_before" "api=chat" "$(cat "$tmp/log.old")"

# An answer that takes long, and a first signal that lets it finish: the second one does not.
awk 'BEGIN { printf "{\"content\":\""; for (i = 0; i < 1500; i++) printf "%d ", i % 10; print "\"}" }' >"$tmp/stub"
start --stub "$tmp/stub" --drain-seconds 60
curl -sN "http://127.0.0.1:$port/v1/chat/completions" -d '{"messages":[{"role":"user","content":"Hi"}],"stream":true}' >"$tmp/stream" &
for i in $(seq 100); do grep -q content "$tmp/stream" && break; sleep 0.05; done
kill -INT $pid
sleep 0.2
stop INT
same "a_second_signal_ends_at_once_with_130" 130 "$status"

start --stub "$tmp/stub" --drain-seconds 0.1
curl -sN "http://127.0.0.1:$port/v1/messages" -d '{"messages":[{"role":"user","content":"Hi"}],"stream":true}' >"$tmp/stream" &
client=$!
for i in $(seq 100); do grep -q text_delta "$tmp/stream" && break; sleep 0.05; done
stop TERM
wait $client
same "term_ends_with_0_while_it_answers" 0 "$status"
contains "the_stream_has_ended_properly" "message_stop" "$(cat "$tmp/stream")"

if command -v openssl >/dev/null 2>&1; then
	openssl req -x509 -newkey rsa:2048 -nodes -keyout "$tmp/key" -out "$tmp/cert" -days 2 -subj /CN=localhost \
		-addext subjectAltName=IP:127.0.0.1 2>/dev/null
	scheme=https
	start --tls-cert "$tmp/cert" --tls-key "$tmp/key"
	contains "https_is_spoken" '"finish_reason":' \
		"$(curl -s --cacert "$tmp/cert" "https://127.0.0.1:$port/v1/chat/completions" -d "$body")"
	contains "https_streams" '[DONE]' \
		"$(curl -sN --cacert "$tmp/cert" "https://127.0.0.1:$port/v1/chat/completions" -d '{"stream":true,"max_tokens":3,"messages":[{"role":"user","content":"Hi"}]}')"
	stop TERM
	same "https_ends_with_0" 0 "$status"
	scheme=http
fi

start --host 0.0.0.0
contains "an_open_address_without_a_key_is_warned_of" "warning: 0.0.0.0 can be reached from other machines" "$(cat "$tmp/serve.err")"
stop TERM
printf '# the key\ntest-key-123\n' >"$tmp/keys"
start --host 0.0.0.0 --api-key "$tmp/keys"
case $(cat "$tmp/serve.err") in
*warning*) fail "no_warning_with_a_key" "$(cat "$tmp/serve.err")" ;;
*) pass "no_warning_with_a_key" ;;
esac
same "the_key_from_the_file_is_needed" 401 "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/v1/models")"
same "the_key_from_the_file_is_accepted" 200 "$(curl -s -o /dev/null -w '%{http_code}' -H 'x-api-key: test-key-123' "http://127.0.0.1:$port/v1/models")"
stop TERM
finish
