# Everything that may be wrong with files, flags and pipes: one sentence on standard error, the right exit code, no crash.
# Exit codes are those of STATUS_MAP in src/base/status.h.
. tests/cli/lib.sh

# put OFFSET FILE: overwrites bytes at OFFSET with standard input
put() { dd of="$2" bs=1 seek="$1" conv=notrunc 2>/dev/null; }
# after KEY: offset of the value behind a metadata key and its type
after() { grep -abo "$1" $NANO | head -n 1 | awk -F: -v n=${#1} '{ print $1 + n + 4 }'; }

refuses a_missing_model_is_named 9 "$tmp/absent.gguf" $DS4 run -m "$tmp/absent.gguf" -p Hi
refuses a_directory_is_not_a_model 8 "is a directory" $DS4 run -m "$tmp" -p Hi
: >"$tmp/empty.gguf"
refuses an_empty_model_file_is_refused 3 "empty" $DS4 run -m "$tmp/empty.gguf" -p Hi
printf 'this is no model, only text\n' >"$tmp/text.gguf"
refuses a_text_file_is_not_a_model 3 "$tmp/text.gguf" $DS4 run -m "$tmp/text.gguf" -p Hi
for n in 20 1000 200000 5000000 35108000; do
	head -c $n $NANO >"$tmp/cut.gguf"
	refuses "a_model_cut_at_${n}_bytes_is_refused" 3 "$tmp/cut.gguf" $DS4 run -m "$tmp/cut.gguf" -p Hi
done

cp $NANO "$tmp/bad.gguf" && chmod u+w "$tmp/bad.gguf"
at=$(($(after general.architecture) + 8))
printf 'llama2345' | put $at "$tmp/bad.gguf"
refuses a_foreign_architecture_is_named 3 "llama2345" $DS4 run -m "$tmp/bad.gguf" -p Hi
printf 'deepseek4' | put $at "$tmp/bad.gguf"
at=$(after deepseek4.embedding_length)
printf '\000\002\000\000' | put "$at" "$tmp/bad.gguf"
refuses a_wrong_width_is_named_with_both_values 3 "512" $DS4 run -m "$tmp/bad.gguf" -p Hi
printf '\000\001\000\000' | put "$at" "$tmp/bad.gguf"
run $DS4 run -m "$tmp/bad.gguf" --temp 0 -n 2 -p Hi
same the_repaired_file_runs_again 0 "$status"
at=$($DS4 inspect --json $NANO | awk '/"name": "output.weight"/ { f = 1 } f && /"offset"/ { gsub(/[^0-9]/, ""); print; exit }')
printf '\000\176' | put "$at" "$tmp/bad.gguf"
refuses a_nan_scale_is_reported_and_not_sampled_from 3 "" $DS4 run -m "$tmp/bad.gguf" -p Hi
rm -f "$tmp/bad.gguf" "$tmp/cut.gguf"
refuses a_vocabulary_alone_cannot_answer 3 "" $DS4 run -m $VOCABULARY -p Hi
refuses an_mtp_block_alone_cannot_answer 3 "" $DS4 run -m models/ds4-nano-mtp.gguf -p Hi
DS4_MODEL="$tmp/absent.gguf" refuses a_missing_model_from_the_environment_is_named 9 absent.gguf $DS4 run -p Hi

refuses a_missing_prompt_file_is_named 9 "$tmp/absent.txt" $DS4 run -f "$tmp/absent.txt"
refuses a_directory_is_not_a_prompt 8 "is a directory" $DS4 run -f "$tmp"
echo secret >"$tmp/locked.txt" && chmod 0 "$tmp/locked.txt"
if [ "$(id -u)" = 0 ]; then
	echo "ok an_unreadable_prompt_file_is_named # SKIP root reads every file"
else
	refuses an_unreadable_prompt_file_is_named 8 "locked.txt" $DS4 run -f "$tmp/locked.txt"
fi
refuses an_empty_prompt_is_refused 2 "prompt" $DS4 run -p ""
yes 'the quick brown fox' | head -n 200 >"$tmp/long.txt"
refuses a_prompt_longer_than_the_context_is_refused_with_both_numbers 4 "256" $DS4 run -c 256 -f "$tmp/long.txt"
run $DS4 run --temp 0 -n 4 -p "$(printf 'caf\351 \377\376 \360\237')"
same a_prompt_of_ill_formed_utf8_is_answered 0 "$status"

refuses an_unknown_flag_gets_a_suggestion 2 "did you mean --temp" $DS4 run --temmp 1 -p Hi
refuses an_unknown_command_gets_a_suggestion 2 "did you mean 'tokenize'" $DS4 tokenise
refuses a_strange_command_is_refused 2 "unknown command 'frobnicate'" $DS4 frobnicate
refuses zero_threads_are_refused 2 "-t: expected a whole number from 1" $DS4 run -t 0 -p Hi
refuses a_temperature_that_is_no_number_is_refused 2 "--temp" $DS4 run --temp warm -p Hi
refuses a_context_beyond_the_model_is_refused 2 "65536" $DS4 run -m $NANO --ctx 128k -p Hi
refuses an_unknown_backend_is_refused 2 "cpu" $DS4 run --backend tpu -p Hi
refuses an_option_without_its_value_is_refused 2 "--model" $DS4 run --model
refuses an_empty_stop_string_is_refused 2 "stop" $DS4 run --stop "" -p Hi
needed=$($DS4 inspect --json $NANO | awk '/"total":/ { gsub(/[^0-9]/, ""); print; exit }')
refuses too_little_memory_is_refused_before_allocation 5 "largest context that fits is" \
	$DS4 run -m $NANO --memory $((needed * 3 / 4)) -p Hi
refuses no_memory_at_all_is_refused 5 "no context fits" $DS4 run -m $NANO --memory 1m -p Hi

echo "1 2 99999" >"$tmp/ids"
refuses a_token_id_out_of_range_is_named 2 "99999" $DS4 logits -m $NANO --tokens "$tmp/ids" -o "$tmp/o.f32"
echo "1 2 three" >"$tmp/ids"
refuses a_token_id_that_is_no_number_is_named 2 "three" $DS4 logits -m $NANO --tokens "$tmp/ids" -o "$tmp/o.f32"
echo "1 2 3" >"$tmp/ids"
refuses numerics_need_the_ref_backend 2 "--backend ref" $DS4 logits -m $NANO --no-fp8 --tokens "$tmp/ids" -o "$tmp/o.f32"
refuses a_position_out_of_range_is_named 2 "expected 0 to 2, found 3" \
	$DS4 logits -m $NANO --tokens "$tmp/ids" --positions 0,3 -o "$tmp/o.f32"
refuses an_output_that_cannot_be_written_is_named 8 "absent/o.f32" \
	$DS4 logits -m $NANO --tokens "$tmp/ids" -o "$tmp/absent/o.f32"
: >"$tmp/none"
refuses no_token_ids_are_refused 2 "at least one token" $DS4 logits -m $NANO --tokens "$tmp/none" -o "$tmp/o.f32"
same no_half_written_output_stays "" "$(ls "$tmp" | grep 'o\.f32' || :)"

printf '[{"name": "f"' >"$tmp/tools.json"
refuses broken_tool_json_is_refused_with_its_place 2 "tools.json" $DS4 run --tools "$tmp/tools.json" -p Hi
echo '{"a": 1}' >"$tmp/tools.json"
refuses tools_that_are_no_array_are_refused 2 "" $DS4 run --tools "$tmp/tools.json" -p Hi

$DS4 run --temp 0 -n 200 -p "Tell me a short story about a fox." 2>"$tmp/err" </dev/null | head -c 10 >/dev/null
same a_closed_pipe_ends_the_answer_without_a_word "" "$(grep -v '^model: ' "$tmp/err")"
if [ -w /dev/full ]; then
	$DS4 run --temp 0 -n 5 -p Hi >/dev/full 2>"$tmp/err" </dev/null
	same a_full_disk_is_an_error 8 "$?"
	contains a_full_disk_is_named "standard output" "$(cat "$tmp/err")"
fi
if command -v setsid >/dev/null 2>&1; then
	setsid $DS4 run --temp 0 -n 2 -p Hi >"$tmp/out" 2>"$tmp/err" </dev/null
	same no_controlling_terminal_is_needed 0 "$?"
fi
finish
