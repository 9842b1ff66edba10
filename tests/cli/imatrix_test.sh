# ds4 imatrix: what it leaves, going on after Ctrl-C, merging, refusals.
. tests/cli/lib.sh

sample story greedy | sed 's/<｜.*//' >"$tmp/a.txt"
sample define greedy | sed 's/<｜.*//' >"$tmp/b.txt"
tokens() { echo $(($($DS4 tokenize -m $NANO <"$1" | wc -w) + 1)); }	# and BOS

run $DS4 imatrix -m $NANO -o "$tmp/a.dat" "$tmp/a.txt"
same a_run_ends_well 0 "$status"
same every_layer_is_reported 8 "$(grep -c '^blk\.[0-7]\.ffn_gate_exps\.weight  *16 ' "$tmp/out")"
# Legacy layout: the number of entries comes first; three tensors of eight layers, each with its counts.
same the_file_begins_with_its_entries 48 "$(od -An -td4 -N4 "$tmp/a.dat" | tr -d ' ')"
same the_dataset_stands_at_the_end a.txt "$(tail -c 5 "$tmp/a.dat")"
same nothing_else_is_left "" "$(ls "$tmp" | grep part)"
run $DS4 imatrix --show "$tmp/a.dat"
contains show_reports_the_same "128 experts" "$out"
refuses an_existing_file_is_kept 2 "exists already" $DS4 imatrix -m $NANO -o "$tmp/a.dat" "$tmp/a.txt"

# 6 experts a token: the tokens of the windows are all counted.
$DS4 imatrix -m $NANO -o "$tmp/b.dat" "$tmp/b.txt" >/dev/null 2>&1
counted() { od -An -v -tf4 -j $((4 + 4 + 26 + 4 + 4 + 4 * 4096 + 4 + 33 + 8)) -N 64 "$1" | awk '{ for (i = 1; i <= NF; i++) s += $i } END { print s }'; }
same every_token_is_counted_once_for_each_expert $((6 * $(tokens "$tmp/b.txt"))) "$(counted "$tmp/b.dat")"

run $DS4 imatrix -o "$tmp/ab.dat" --merge "$tmp/a.dat" "$tmp/b.dat"
$DS4 imatrix -m $NANO -o "$tmp/one.dat" "$tmp/a.txt" "$tmp/b.txt" >"$tmp/one" 2>/dev/null
same_file merging_covers_what_one_run_covers "$tmp/one" "$tmp/out"

# Ctrl-C keeps what was read; the same command ends as if nothing had happened.
for i in 1 2; do cat "$tmp/a.txt" "$tmp/b.txt"; done >"$tmp/long.txt"
long() { "$@" imatrix -m $NANO -o "$tmp/long.dat" --chunk 16 -t 1 "$tmp/long.txt"; }
long $DS4 >"$tmp/whole" 2>/dev/null
mv "$tmp/long.dat" "$tmp/whole.dat"
$DS4 imatrix -m $NANO -o "$tmp/long.dat" --chunk 16 --save-every 0 -t 1 "$tmp/long.txt" >/dev/null 2>"$tmp/err" &
pid=$!
n=0
while [ ! -f "$tmp/long.dat.part" ] && [ $n -lt 600 ]; do
	sleep 0.05
	n=$((n + 1))
done
kill -INT $pid
wait $pid
same ctrl_c_ends_in_130 130 $?
contains ctrl_c_says_how_far_it_came "stopped behind" "$(cat "$tmp/err")"
same an_interrupted_run_leaves_no_result no "$([ -f "$tmp/long.dat" ] && echo yes || echo no)"
refuses another_text_does_not_continue_it 3 "was left by a run with another model, other texts or options" \
	$DS4 imatrix -m $NANO -o "$tmp/long.dat" --chunk 16 -t 1 "$tmp/a.txt"
long $DS4 >"$tmp/out" 2>"$tmp/err"
contains the_same_command_goes_on "going on behind" "$(cat "$tmp/err")"
same_file it_ends_as_if_uninterrupted "$tmp/whole" "$tmp/out"
same the_rest_is_removed "" "$(ls "$tmp" | grep part)"
values() { od -An -v -tf4 -j 42 -N 4096 "$1" | tr -s ' ' '\n' | grep .; }
values "$tmp/whole.dat" >"$tmp/v1"
values "$tmp/long.dat" >"$tmp/v2"
same its_values_are_the_same_but_for_rounding 0 "$(paste "$tmp/v1" "$tmp/v2" | awk '
	{ d = $1 - $2; if (d < 0) d = -d; if (d > 1e-5 * $1 + 1e-12) bad++ } END { print bad + 0 }')"

# Conversations, ids and rendered prompts say the same thing.
printf '{"messages": [{"role": "user", "content": "Hello!"}], "args": {"thinking_mode": "chat"}}\n' >"$tmp/m.jsonl"
printf '\n{"ids": [0, 7717, 1425, 3, 7718, 7736]}\n' >"$tmp/i.jsonl"
printf '"%s"\n' "$(sample hello prompt)" >"$tmp/t.jsonl"
for k in m i t; do
	$DS4 imatrix -m $NANO -o "$tmp/$k.dat" --chat "$tmp/$k.jsonl" 2>/dev/null >"$tmp/$k"
done
same_file messages_are_rendered "$tmp/i" "$tmp/m"
same_file prompts_are_tokenized "$tmp/i" "$tmp/t"
same short_texts_leave_experts_out 0 "$(grep -c ' 0 never chosen' "$tmp/i")"

printf '{"ids": [0, 9999]}\n' >"$tmp/bad.jsonl"
refuses ids_outside_the_vocabulary_are_refused 3 "bad.jsonl: line 1: ids: expected whole numbers from 0 to 8191" \
	$DS4 imatrix -m $NANO -o "$tmp/bad.dat" --chat "$tmp/bad.jsonl"
refuses a_result_must_be_named 2 "needs -o FILE" $DS4 imatrix -m $NANO "$tmp/a.txt"
refuses texts_must_be_there 9 "nowhere.txt" $DS4 imatrix -m $NANO -o "$tmp/bad.dat" "$tmp/nowhere.txt"
refuses a_result_that_cannot_be_written_is_refused_at_once 8 "No such file or directory" \
	$DS4 imatrix -m $NANO -o "$tmp/no/where.dat" "$tmp/a.txt"
refuses merging_needs_importance_files 3 "a.txt" $DS4 imatrix -o "$tmp/bad.dat" --merge "$tmp/a.txt" "$tmp/a.dat"
finish
