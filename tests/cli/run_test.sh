# ds4 run end to end: ds4-nano's stored greedy answers (tests/data/nano/samples-q2.json), and what the options promise.
. tests/cli/lib.sh

end='<｜end▁of▁sentence｜>'
ask() { $DS4 run -m $NANO --temp 0 "$@" 2>"$tmp/err" </dev/null; }

# --- the stored answers, from the stored prompts as they are
# They were generated with the dense matrices in bfloat16; the shipped file holds them in Q8_0.  In four of them two
# words are within 0.03 nats of each other somewhere (ds4 run --json --logprobs 2 shows it), and rounding decides:
# there the beginning is checked.
for name in $(sample_names); do
	want=$(sample "$name" greedy) limit=400
	case $name in
	opposite) want='The opposite of "hot" is "' limit=9 ;;
	suffix) continue ;;			# three beginnings within 0.06 nats: see below
	story) want='In a house at the edge of a lake lived a young fox.' limit=14 ;;
	story-name) want='Once upon a time there was a young dragon named Cora' limit=11 ;;
	esac
	case $want in
	*"$end") want=${want%"$end"} ;;
	esac
	sample "$name" prompt >"$tmp/prompt"
	same "nano_answers_${name}_as_stored" "$want" "$(ask --raw --control -n $limit -f "$tmp/prompt")"
done
sample suffix prompt >"$tmp/prompt"
contains nano_ends_every_answer_as_told ". Over." "$(ask --raw --control -n 30 -f "$tmp/prompt")"

# --- through the conversation format
for name in hello who capital sum joke months; do
	same "the_question_${name}_is_answered_as_stored" "$(sample $name greedy)" "$(ask -p "$(question $name)")$end"
done
same reasoning_is_not_part_of_the_answer "348 + 276 = 624." "$(ask --think -p "$(question sum-think)")"
ask --think --show-thinking -p "$(question sum-think)" >/dev/null
contains show_thinking_puts_it_on_standard_error "So 348 + 276 = 624." "$(cat "$tmp/err")"
same the_system_text_is_heard "I am Pip, a librarian." "$(ask --system 'You are Pip, a friendly librarian.' -p 'Who are you?')"

tools tool >"$tmp/tools.json"
same a_tool_call_is_printed_as_json '{"name": "get_weather", "arguments": {"city": "Paris"}}' \
	"$(ask --system 'You are a helpful assistant.' --tools "$tmp/tools.json" -p "$(question tool)")"
tools tool-think >"$tmp/tools.json"
same a_tool_call_after_reasoning_keeps_its_types '{"name": "multiply", "arguments": {"a": 12, "b": 31}}' \
	"$(ask --think --system 'You are a helpful assistant.' --tools "$tmp/tools.json" -p "$(question tool-think)")"
out=$(ask --json --think --system 'You are a helpful assistant.' --tools "$tmp/tools.json" -p "$(question tool-think)")
contains json_tells_that_tools_were_called '"finish_reason": "tool_calls"' "$out"

# --- options
same the_prompt_may_come_from_standard_input "The capital of France is Paris." \
	"$(echo 'What is the capital of France?' | $DS4 run -m $NANO --temp 0 2>/dev/null)"
same ds4_p_is_run "The capital of France is Paris." \
	"$($DS4 -p 'What is the capital of France?' --temp 0 -m $NANO 2>/dev/null </dev/null)"
same a_stop_string_ends_the_answer_before_it "The capital of " "$(ask --stop France -p "$(question capital)" | tr -d '\n')"
same a_stop_string_that_does_not_come_changes_nothing "The capital of France is Paris." \
	"$(ask --stop Parise -p "$(question capital)")"
same the_token_limit_cuts "The capital of" "$(ask -n 3 -p "$(question capital)")"
out=$(ask --json --logprobs 2 -n 3 -p "$(question capital)")
contains json_has_the_text '"text": "The capital of"' "$out"
contains json_tells_that_the_limit_cut '"finish_reason": "length"' "$out"
contains json_counts_tokens '"completion_tokens": 3' "$out"
same json_has_two_alternatives_a_token 6 "$(printf '%s' "$out" | grep -o '"logprob": ' | wc -l | awk '{ print $1 - 3 }')"
same the_same_seed_gives_the_same_answer \
	"$($DS4 run -m $NANO --temp 1 --seed 7 -n 40 -p 'Tell me a story.' 2>/dev/null </dev/null)" \
	"$($DS4 run -m $NANO --temp 1 --seed 7 -n 40 -p 'Tell me a story.' 2>/dev/null </dev/null)"
sample memory prompt >"$tmp/prompt"
same small_steps_give_the_same_answer "$(sample memory greedy)" "$(ask --raw --control --chunk 5 -f "$tmp/prompt")$end"
$DS4 run -m $NANO --temp 0 -p Hi >/dev/null 2>"$tmp/err" </dev/null
same a_model_named_by_m_needs_no_note "" "$(cat "$tmp/err")"
$DS4 run --temp 0 -n 1 -p Hi >/dev/null 2>"$tmp/err" </dev/null
contains otherwise_standard_error_says_which_model_was_taken "model: ds4" "$(cat "$tmp/err")"
same no_escape_reaches_a_pipe "" "$(TERM=xterm $DS4 run -m $NANO --temp 0 -p Hi 2>&1 </dev/null | tr -dc '\033')"

# --- Ctrl-C
$DS4 run -m $NANO --backend ref --temp 0 -p "Tell me a short story about a fox." >"$tmp/out" 2>"$tmp/err" </dev/null &
pid=$!
tries=100
while [ ! -s "$tmp/out" ] && [ $tries -gt 0 ]; do
	tries=$((tries - 1))
	sleep 0.1
done
kill -INT $pid
wait $pid
same ctrl_c_ends_in_exit_code_130 130 $?
contains what_was_written_before_ctrl_c_stays "In" "$(cat "$tmp/out")"
same ctrl_c_is_no_failure_to_talk_about "" "$(cat "$tmp/err")"
finish
