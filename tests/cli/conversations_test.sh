# Saved conversations of ds4 chat: what comes back after an end and after a kill, and the commands about them.
. tests/cli/lib.sh

dir="$tmp/chats"
talk() { $DS4 chat -m $NANO --temp 0 "$@" 2>"$tmp/err"; }
saved() { talk --chats "$dir" "$@"; }
# ids DIR: all token ids of answers in the files of a folder
ids() { cat "$1"/*.chat | sed -n 's/^[0-9a-f]* {"ids": \[\(.*\)\]}$/\1/p' | tr ',' '\n'; }
files() { ls "$1" 2>/dev/null | grep -c '\.chat$'; }

# --- nothing is saved without being asked
printf '%s\n' 'Hi, I am Anna.' | talk >/dev/null
same a_pipe_saves_nothing 0 "$(files "$XDG_DATA_HOME/ds4/chats")"
printf '%s\n' 'Hi, I am Anna.' '/save anna' | talk >/dev/null
same save_saves 1 "$(files "$XDG_DATA_HOME/ds4/chats")"
same the_usual_folder_is_used "Your name is Anna." "$(echo 'What is my name?' | talk --conversation anna)"
printf '%s\n' '/list' '/quit' | saved >/dev/null
same an_empty_conversation_has_no_file 0 "$(files "$dir")"
refuses nothing_to_continue_is_told 9 "no saved conversation" $DS4 chat -m $NANO --chats "$dir" --continue

# --- a restart changes no token
long="My name is Anna. Remember it. $(awk 'BEGIN { for (i = 0; i < 60; i++) printf "This is sentence %d. ", i }')"
printf '%s\n' "$long" 'What is the capital of France?' 'What is 3 + 4?' 'Tell me a short story about a fox.' |
	talk --chats "$tmp/one" >"$tmp/one.out"
echo "$long" | talk --chats "$tmp/two" >"$tmp/two.out"
for question in 'What is the capital of France?' 'What is 3 + 4?' 'Tell me a short story about a fox.'; do
	printf '%s\n' "$question" /stats | talk --chats "$tmp/two" --continue >>"$tmp/two.out"
done
same_file a_restart_changes_no_answer "$tmp/one.out" "$tmp/two.out"
same a_restart_changes_no_token "$(ids "$tmp/one" | md5sum)" "$(ids "$tmp/two" | md5sum)"
known=$(sed -n 's/^last prompt: \([0-9]*\) tokens, \([0-9]*\) known.*$/\2/p' "$tmp/err")
read=$(sed -n 's/^last prompt: .* known, \([0-9]*\) read.*$/\1/p' "$tmp/err")
if [ "${known:-0}" -ge 128 ] && [ "${read:-9999}" -le 512 ]; then pass a_restart_reads_only_the_tail
else fail a_restart_reads_only_the_tail "expected at most 512 tokens to be read: $(cat "$tmp/err")"; fi
same one_conversation_is_one_file 1 "$(files "$tmp/two")"

# --- a kill in the middle of an answer
story='Tell me a short story about a fox.'
echo "$story" | talk --chats "$tmp/whole" >"$tmp/whole.out"
ids "$tmp/whole" >"$tmp/whole.ids"
# kill_after LINES: kills a chat when so many lines of ids are in its file; leaves $tmp/cut
kill_after() {
	rm -rf "$tmp/cut"
	mkfifo "$tmp/fifo"
	$DS4 chat -m $NANO --temp 0 --no-kv --chats "$tmp/cut" <"$tmp/fifo" >/dev/null 2>&1 &
	pid=$!
	exec 9>"$tmp/fifo"
	echo "$story" >&9
	while kill -0 $pid 2>/dev/null; do
		[ "$(cat "$tmp/cut"/*.chat 2>/dev/null | grep -c '{"ids"')" -ge "$1" ] && break
		sleep 0.02
	done
	kill -9 $pid
	wait $pid 2>/dev/null
	exec 9>&-
	rm -f "$tmp/fifo"
}
cut_off=0
for lines in 1 3; do
	kill_after $lines
	ids "$tmp/cut" >"$tmp/cut.ids"
	got=$(wc -l <"$tmp/cut.ids")
	if [ "$(head -n "$got" "$tmp/whole.ids" | md5sum)" = "$(md5sum <"$tmp/cut.ids")" ] && [ "$got" -gt 0 ]; then
		pass "what_was_said_before_a_kill_is_there_$lines"
	else
		fail "what_was_said_before_a_kill_is_there_$lines" "found $got tokens, not those of the whole answer"
	fi
	grep -q '{"end"' "$tmp/cut"/*.chat || cut_off=$((cut_off + 1))
	echo /more | talk --chats "$tmp/cut" --continue >"$tmp/more.out"
	same_file "more_ends_the_answer_as_if_nothing_had_been_$lines" "$tmp/whole.out" "$tmp/more.out"
done
if [ $cut_off -gt 0 ]; then pass a_kill_came_in_the_middle
else echo "ok a_kill_came_in_the_middle # SKIP the answers were faster than the kills"; fi

# --- several conversations
printf '%s\n' 'Hi, I am Anna.' '/save anna' /new 'Hi, I am Max.' '/save max' '/switch anna' 'What is my name?' \
	'/switch max' 'What is my name?' '/switch 2' /list | saved >"$tmp/out"
same switching_keeps_them_apart "Your name is Anna. Your name is Max." "$(sed -n '3,4p' "$tmp/out" | tr '\n' ' ' | sed 's/ $//')"
contains list_shows_names "anna: Hi, I am Anna." "$(cat "$tmp/err")"
same a_name_finds_it_after_a_restart "Your name is Max." "$(echo 'What is my name?' | saved --conversation max)"
same the_beginning_of_a_name_does_too "Your name is Anna." "$(echo 'What is my name?' | saved --conversation ann)"
same a_new_name_begins_a_conversation "The capital of France is Paris." \
	"$(echo 'What is the capital of France?' | saved --conversation paris)"
same there_are_three_now 3 "$(files "$dir")"
printf '%s\n' '/switch nobody' | saved --continue >/dev/null
contains an_unknown_name_is_told "no conversation 'nobody'" "$(cat "$tmp/err")"
refuses continue_and_conversation_exclude_each_other 2 "exclude each other" \
	$DS4 chat -m $NANO --chats "$dir" --continue --conversation anna

printf '%s\n' '/fork anna2' 'What is 3 + 4?' '/switch 2' /rewind 'What is my name?' | saved --conversation anna >"$tmp/out"
same a_fork_is_a_file_of_its_own 4 "$(files "$dir")"
same a_fork_goes_its_own_way "3 + 4 = 7.
Your name is Anna." "$(cat "$tmp/out")"
printf '%s\n' 'One.' 'Two.' '/rewind 2' 'Hi, I am Tom.' 'Three.' '/rewind 9' /undo 'What is my name?' | saved >"$tmp/out"
same rewind_takes_back_several "Your name is Tom." "$(tail -n 1 "$tmp/out")"
contains rewind_knows_its_limits "not so many exchanges" "$(cat "$tmp/err")"
same rewinding_is_saved "Your name is Tom." "$(echo 'What is my name?' | saved --continue)"
printf '%s\n' '/del paris' /del | saved --conversation max >/dev/null
same del_deletes 3 "$(files "$dir")"
if grep -q 'Max' "$dir"/*.chat; then fail del_deletes_the_current_one "its file is still there"; else pass del_deletes_the_current_one; fi

# --- troubles
mkfifo "$tmp/fifo"
$DS4 chat -m $NANO --temp 0 --chats "$dir" --conversation anna <"$tmp/fifo" >"$tmp/first.out" 2>/dev/null &
pid=$!
exec 9>"$tmp/fifo"
echo 'What is my name?' >&9
tries=0
until [ -s "$tmp/first.out" ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
refuses a_conversation_is_open_in_one_chat_at_a_time 4 "another ds4" $DS4 chat --no-kv -m $NANO --chats "$dir" --conversation anna
exec 9>&-
wait $pid
file=$(grep -l '"name": "anna"' "$dir"/*.chat | head -n 1)
sed '3s/a/b/' "$file" >"$tmp/bad" && cat "$tmp/bad" >"$file"
printf '%s\n' 'What is the capital of France?' | saved --conversation "$(basename "$file" .chat)" >"$tmp/out"
same a_damaged_file_goes_on_with_what_is_right "The capital of France is Paris." "$(cat "$tmp/out")"
contains a_damaged_file_is_told "damaged" "$(cat "$tmp/err")"
if [ -s "$file.damaged" ]; then pass a_damaged_file_is_kept; else fail a_damaged_file_is_kept "there is no $file.damaged"; fi
echo 'What is the capital of France?' | talk --chats /dev/null/x >"$tmp/out"
same a_folder_that_cannot_be_made_harms_nothing "The capital of France is Paris." "$(cat "$tmp/out")"
contains a_folder_that_cannot_be_made_is_told "not saved" "$(cat "$tmp/err")"
finish
