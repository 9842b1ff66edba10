# ds4 kv: what the chat left on disk, listed, shown, verified, removed.
. tests/cli/lib.sh

dir="$tmp/kv"
kv() { $DS4 kv "$@" --kv-dir "$dir"; }
talk() { $DS4 chat -m $NANO --temp 0 --kv-dir "$dir" "$@" 2>"$tmp/err"; }
# words N: a text of about N tokens
words() { awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) printf "word%s", i % 7 ? " " : ", "; print "" }'; }
field() { sed -n "s/.*\"$1\": \([^,]*\),.*/\1/p" | head -n 1; }

# --- nothing there
run kv ls -m $NANO
same an_absent_folder_is_an_empty_list "0" "$status"
contains an_empty_list_says_so "0 conversations" "$errors"
same an_empty_list_is_json "[]" "$(kv ls --json 2>/dev/null)"
refuses an_unknown_action_is_refused 2 "expected ls, show, rm, verify or gc, found 'dance'" $DS4 kv dance --kv-dir "$dir"

# --- two conversations with the same long beginning
long="Remember this: $(words 300)"
printf '%s\n' "$long" | talk >/dev/null
printf '%s\n' "$long" 'What is the capital of France?' "And now: $(words 150)" | talk >/dev/null
run kv ls -m $NANO
same ls_works 0 "$status"
contains a_conversation_is_listed_by_its_first_words "Remember this: word, word" "$out"
kv ls --json >"$tmp/ls.json" 2>/dev/null
n=$(grep -c '"id"' "$tmp/ls.json")
if [ "$n" -ge 1 ]; then pass ls_json_has_an_entry_for_each; else fail ls_json_has_an_entry_for_each "found $n"; fi
id=$(field id <"$tmp/ls.json" | tr -d '"')
tokens=$(field tokens <"$tmp/ls.json")
same tokens_are_whole_blocks 0 $((tokens % 128))
contains another_vocabulary_shows_counts_only "(another model's)" "$(kv ls -m $VOCABULARY 2>/dev/null)"

run kv show "$(printf %.8s "$id")" -m $NANO
same show_takes_the_beginning_of_an_id 0 "$status"
contains show_tells_the_id "$id" "$out"
contains show_tells_the_text "<｜User｜>Remember this: word, word" "$out"
contains show_tells_checkpoints "checkpoints $((tokens / 128 * 128))" "$(printf '%s' "$out" | sed 's/checkpoints.* \([0-9]*\)$/checkpoints \1/')"
same show_json_has_all_ids "$tokens" \
	"$(kv show "$id" --json -m $NANO 2>/dev/null | sed 's/.*"ids": \[\([^]]*\)\].*/\1/' | tr ',' '\n' | wc -l | tr -d ' ')"
refuses an_unknown_id_is_refused 9 "no conversation has this id" $DS4 kv show 0000 --kv-dir "$dir" -m $NANO
refuses show_wants_an_id 2 "expected an id" $DS4 kv show --kv-dir "$dir"
refuses rm_wants_an_id 2 "expected ids, or --all" $DS4 kv rm --kv-dir "$dir"

# --- the next run reads only what is new
printf '%s\n' "$long" /stats | talk >/dev/null
known=$(sed -n 's/^last prompt: .* tokens, \([0-9]*\) known.*$/\1/p' "$tmp/err")
if [ "${known:-0}" -ge 128 ]; then pass the_next_run_knows_the_beginning
else fail the_next_run_knows_the_beginning "expected at least a block, $known tokens are known: $(cat "$tmp/err")"; fi

# --- damage
run kv verify
same verify_finds_nothing_wrong 0 "$status"
contains verify_counts "are right" "$errors"
big=$(ls -S "$dir"/*.kv | head -n 1)
printf 'X' | dd of="$big" bs=1 seek=$(($(wc -c <"$big") - 100)) conv=notrunc 2>/dev/null
run kv verify
same verify_finds_a_flipped_byte 3 "$status"
contains verify_says_what_to_do "ds4 kv gc" "$errors"
printf '%s\n' 'What is the capital of France?' | talk >"$tmp/out"
same a_damaged_store_changes_no_answer "The capital of France is Paris." "$(cat "$tmp/out")"
run kv gc --verify
same gc_works 0 "$status"
contains gc_tells_before_and_after "before" "$errors"
run kv verify
same after_gc_all_is_right 0 "$status"

# --- removal
left=$(kv ls --json 2>/dev/null | field id | tr -d '"')
if [ -n "$left" ]; then
	run kv rm "$left" --json
	same rm_works 0 "$status"
	contains rm_tells_what_it_freed '"removed": 1' "$out"
fi
run kv rm --all
same rm_all_works 0 "$status"
same after_rm_all_nothing_is_listed "[]" "$(kv ls --json 2>/dev/null)"
finish
