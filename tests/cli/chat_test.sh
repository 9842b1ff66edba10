# ds4 chat: lines through a pipe, and the interactive chat through tmux where that exists.
. tests/cli/lib.sh

end='<｜end▁of▁sentence｜>'
talk() { $DS4 chat -m $NANO --temp 0 "$@" 2>"$tmp/err"; }

# --- through a pipe: the stored conversation "memory"
same a_pipe_of_lines_is_a_conversation "$(sample memory greedy)" \
	"$(printf '%s\n' 'Hi, I am Anna.' 'What is 3 + 4?' 'What is my name?' | talk | tail -n 1)$end"
same ds4_alone_is_the_chat "The capital of France is Paris." \
	"$(echo 'What is the capital of France?' | $DS4 2>/dev/null --temp 0 -m $NANO)"
same a_last_line_without_a_line_break_counts "The capital of France is Paris." \
	"$(printf 'What is the capital of France?' | talk)"
same a_backslash_continues_the_line 1 "$(printf '%s\n' 'My name is Tom.\' 'What is my name?' | talk | wc -l | tr -d ' ')"
same empty_lines_are_no_turns "" "$(printf '\n  \n\n' | talk)"
same no_input_is_no_failure "0" "$(talk </dev/null; echo $?)"
same a_conversation_leaves_no_escapes_in_a_pipe "" "$(echo Hi | TERM=xterm talk | tr -dc '\033')"

printf '%s\n' 'Hi, I am Anna.' 'What is my name?' /stats | talk >/dev/null
known=$(sed -n 's/^last prompt: .* tokens, \([0-9]*\) known.*$/\1/p' "$tmp/err")
if [ "${known:-0}" -gt 10 ]; then pass a_second_turn_reads_only_what_is_new
else fail a_second_turn_reads_only_what_is_new "expected the first turn to be known, $known tokens are: $(cat "$tmp/err")"; fi

same reset_forgets "" "$(printf '%s\n' 'Hi, I am Anna.' /reset 'What is my name?' | talk | tail -n 1 | grep -o Anna)"
same undo_takes_back_an_exchange "Your name is Anna." \
	"$(printf '%s\n' 'Hi, I am Anna.' 'Hi, I am Otto.' /undo 'What is my name?' | talk | tail -n 1)"
same retry_answers_again "2" "$(printf '%s\n' 'What is the capital of France?' /retry | talk | grep -c 'of France is Paris')"
same system_sets_who_it_is "$(sample system greedy)" \
	"$(printf '%s\n' '/system You are Pip, a friendly librarian.' 'Who are you?' | talk)$end"
printf '%s\n' /nonsense | talk >/dev/null
contains an_unknown_command_is_named "/nonsense" "$(cat "$tmp/err")"
same quit_leaves "" "$(printf '%s\n' /quit 'Hello' | talk)"
same thinking_can_be_switched_on "The capital of Japan is Tokyo." \
	"$(printf '%s\n' '/think on' 'What is the capital of Japan?' | talk | tail -n 1)"

tools tool-result >"$tmp/tools.json"
same the_next_line_is_the_result_of_a_tool_call "$(sample tool-result greedy)" \
	"$(printf '%s\n' 'What is the weather in Rome?' '{"temperature": 21, "sky": "sunny"}' |
		talk --system 'You are a helpful assistant.' --tools "$tmp/tools.json" | tail -n 1)$end"

yes 'Tell me a very short story about a very old owl' | head -n 12 | talk -c 256 >/dev/null
status=$?
same a_full_context_is_told_and_survived 4 "$status"
contains a_full_context_says_what_to_do "/new" "$(cat "$tmp/err")"
printf '%s\n' "$(yes 'word word word word' | head -n 200 | tr '\n' ' ')" 'What is the capital of France?' | talk -c 256 >"$tmp/out"
same a_line_that_does_not_fit_is_taken_back "The capital of France is Paris." "$(cat "$tmp/out")"

# --- at a terminal
if ! command -v tmux >/dev/null 2>&1; then
	echo "ok the_chat_works_at_a_terminal # SKIP tmux is not installed"
	finish
fi
mux() { tmux -L "ds4-test-$$" "$@"; }
trap 'mux kill-server 2>/dev/null; rm -rf "$tmp"' EXIT
screen() { mux capture-pane -p -t 0 | sed 's/ *$//' | grep . ; }
key() { mux send-keys -t 0 "$@"; }
# until_true COMMAND...: tries for up to half a minute
until_true() {
	tries=150
	while [ $tries -gt 0 ]; do
		"$@" && return 0
		tries=$((tries - 1))
		sleep 0.2
	done
	return 1
}
on_screen() { screen | grep -qF "$1"; }
last_line() { [ "$(screen | tail -n 1)" = "$1" ]; }
# see NAME PART: waits until the screen has it;  see_last NAME LINE: until its last line is this
see() {
	if until_true on_screen "$2"; then pass "$1"
	else fail "$1" "expected on the screen: $2; found:"; screen; fi
}
see_last() {
	if until_true last_line "$2"; then pass "$1"
	else fail "$1" "expected as the last line: $2; found:"; screen; fi
}
wait_prompt() { until_true last_line ">"; }

mux -f /dev/null new-session -d -x 80 -y 40 "env TERM=screen XDG_STATE_HOME=$tmp/state XDG_DATA_HOME=$tmp/data XDG_CACHE_HOME=$tmp/cache sh" 2>"$tmp/err" || {
	echo "ok the_chat_works_at_a_terminal # SKIP tmux does not start: $(cat "$tmp/err")"
	finish
}
key "$DS4 -m $NANO --temp 0 --backend ref" Enter		# slow enough to be interrupted
wait_prompt
key -l 'What is the capital of France?'
key Enter
see an_answer_appears_on_the_screen "The capital of France is Paris."
see its_speed_is_shown "tokens/s"
wait_prompt
key -l 'Tell me a short story about a fox.'
key Enter
see the_story_begins "In a house"
key C-c
see ctrl_c_stops_the_answer "stopped: "
wait_prompt
key -l 'What is the capital of Italy?'
key Enter
see the_conversation_goes_on_after_ctrl_c "Rome"
wait_prompt
key -l 'half a line'
until_true on_screen 'half a line'	# a terminal forgets what nobody has read when Ctrl-C comes
key C-c
see ctrl_c_drops_what_was_typed "half a line^C"
wait_prompt
key Up
see_last the_history_comes_back "> What is the capital of Italy?"
key C-u
key -l 'naïve 日本 🙂'
see utf8_can_be_typed "> naïve 日本 🙂"
key C-u
mux resize-window -t 0 -x 40 -y 30
key -l 'a line that is longer than forty columns of text'
see_last a_resized_window_wraps_the_line "ns of text"
key C-u
mux resize-window -t 0 -x 80 -y 40
printf 'first\n\tsecond\nthird' >"$tmp/paste"
mux load-buffer "$tmp/paste"
mux paste-buffer -p -t 0
see a_paste_of_several_lines_stays_one_entry "third"
key C-c
wait_prompt
key -l '/temp 0.5'
key Enter
see commands_answer "the temperature is 0.5"
key C-d
sleep 0.5
key -l 'echo "left with $?"'
key Enter
see ctrl_d_leaves_with_exit_code_0 "left with 0"
if [ -s "$tmp/state/ds4/history" ]; then pass the_history_is_kept_in_a_file
else fail the_history_is_kept_in_a_file "no $tmp/state/ds4/history"; fi
finish
