# ds4 inspect: what it says about the files of the repository, and about damaged ones.
. tests/cli/lib.sh

run $DS4 inspect $NANO
same a_model_is_shown_with_exit_code_0 0 "$status"
contains its_layers_are_counted "8: 2 window only, 3 ratio 4, 3 ratio 128; 3 hash-routed" "$out"
contains long_arrays_are_abbreviated "… 8192 in all]" "$out"
contains tensors_that_differ_in_the_layer_are_one_line "blk.*.ffn_down_exps.weight" "$out"
same all_tensors_are_listed_on_demand 240 "$($DS4 inspect --all $NANO | grep -c ' 1 x \[')"
$DS4 inspect --json $NANO >"$tmp/json"
same json_lists_every_tensor 240 "$(grep -c '"offset":' "$tmp/json")"

# Bytes of the tensors, added up two ways: tensor by tensor and class by class.
number() { tr -dc '0-9\n'; }
tensors=$(awk '/^ "tensors"/ { f = 1 } f && /"bytes"/ { print } /^ \]/ { f = 0 }' "$tmp/json" | number | awk '{ s += $1 } END { print s }')
classes=$(awk '/^ "classes"/ { f = 1 } f && /"bytes"/ { print } /^ }/ { f = 0 }' "$tmp/json" | number | awk '{ s += $1 } END { print s }')
same classes_hold_all_bytes "$tensors" "$classes"
# A decoded token reads 6 of 16 experts of 8 layers: gate and up 66 bytes, down 84 bytes for 256 weights.
experts=$(awk '/"routed experts"/ { f = 1 } f && /read_per_token/ { print; exit }' "$tmp/json" | number)
same a_token_reads_the_chosen_experts $((8 * 6 * 256 * (66 + 66 + 84))) "$experts"
blocks() { $DS4 inspect --json "$@" $NANO | awk '/"blocks"/ { print; exit }' | number; }
one=$(blocks --ctx 16k)
same memory_grows_with_the_timelines $((3 * one)) "$(blocks --ctx 16k --timelines 3)"

contains a_vocabulary_is_told_from_a_model "vocabulary only" "$($DS4 inspect $VOCABULARY)"
contains an_mtp_block_is_told_from_a_model "MTP block only" "$($DS4 inspect models/ds4-nano-mtp.gguf)"
head -c 1000 $NANO >"$tmp/cut.gguf"
refuses a_cut_file_is_refused 3 "cut.gguf" $DS4 inspect "$tmp/cut.gguf"
cp $NANO "$tmp/bad.gguf" && chmod u+w "$tmp/bad.gguf"
at=$(grep -abo deepseek4.embedding_length $NANO | head -n 1 | awk -F: '{ print $1 + 26 + 4 }')
printf '\000\002\000\000' | dd of="$tmp/bad.gguf" bs=1 seek="$at" conv=notrunc 2>/dev/null
run $DS4 inspect "$tmp/bad.gguf"
same a_model_that_would_not_run_has_its_exit_code 3 "$status"
contains it_is_shown_all_the_same "deepseek4.embedding_length                       512" "$out"
contains the_reason_is_named "token_embd.weight" "$errors"
cp $VOCABULARY "$tmp/evil.gguf" && chmod u+w "$tmp/evil.gguf"
at=$(grep -abo 'tokenizer-only test file' $VOCABULARY | head -n 1 | cut -d : -f 1)
printf '\033[2Jevil' | dd of="$tmp/evil.gguf" bs=1 seek="$at" conv=notrunc 2>/dev/null
run $DS4 inspect "$tmp/evil.gguf"
contains control_characters_are_shown_as_numbers '\x1b[2Jevil' "$out"
same a_name_cannot_command_the_terminal "" "$(printf '%s%s' "$out" "$errors" | tr -dc '\033')"
finish
