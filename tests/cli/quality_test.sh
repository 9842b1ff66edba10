# ds4 quality: a model against itself, perplexity against ds4 perplexity, stored logits, stored answers.
. tests/cli/lib.sh

sample story greedy | sed 's/<｜.*//' >"$tmp/story.txt"
n=$($DS4 tokenize -m $NANO <"$tmp/story.txt" | wc -w | tr -d ' ')
last() { tail -n 1 "$tmp/out"; }
# The number behind "key": in one line of JSON; of a list its first.
member() { sed 's/.*"context":"all"//' "$tmp/out" | sed 's/.*"'"$1"'":\[*\([^],}]*\).*/\1/'; }

run $DS4 quality $NANO $NANO "$tmp/story.txt" --json
same every_token_but_bos_is_predicted "$n" "$(member tokens)"
same a_model_is_at_distance_zero_from_itself 0.0 "$(member kl)"
same a_model_agrees_with_itself 1.0 "$(member top1)"
same the_ratio_of_perplexities_is_one 1.0 "$(member perplexity_ratio)"
want=$($DS4 perplexity -m $NANO "$tmp/story.txt" 2>/dev/null | tail -n 1 | awk '{ print $2 }')
same perplexity_is_that_of_ds4_perplexity "$want" "$(member perplexity_test | awk '{ printf "%.4f", $1 }')"
run $DS4 quality $NANO $NANO "$tmp/story.txt" --ctx 40
contains a_table_has_all_tokens "all" "$(last)"
same windows_begin_with_bos_and_lose_no_token "$n" "$(last | awk '{ print $2 }')"

# The last layer's experts are changed a little: the distance from stored logits is that from the model itself.
cp $NANO "$tmp/other.gguf"
for at in 20000000 21000000 22000000 23000000; do
	printf '\125\252\063\314\017' | dd of="$tmp/other.gguf" bs=1 seek=$at conv=notrunc 2>/dev/null
done
run $DS4 quality $NANO "$tmp/other.gguf" "$tmp/story.txt" --json
kl=$(member kl)
same a_changed_model_is_further_away yes "$(awk "BEGIN { print ($kl > 1e-6 ? \"yes\" : \"no, $kl\") }")"
run $DS4 quality $NANO $NANO "$tmp/story.txt" --than "$tmp/other.gguf"
contains a_better_model_is_told_from_a_worse_one ": nearer to the reference" "$(last)"
run $DS4 quality $NANO "$tmp/other.gguf" "$tmp/story.txt" --than $NANO
contains a_worse_model_is_told_from_a_better_one ": further from it" "$(last)"
run $DS4 quality $NANO "$tmp/other.gguf" "$tmp/story.txt" --than "$tmp/other.gguf"
contains equal_models_are_not_told_apart "not told apart" "$(last)"
run $DS4 quality --save-logits "$tmp/all.lg" --top 0 -m $NANO "$tmp/story.txt"
same all_logits_are_stored $((48 + n * 4 * 8193)) "$(wc -c <"$tmp/all.lg" | tr -d ' ')"
run $DS4 quality "$tmp/all.lg" "$tmp/other.gguf" "$tmp/story.txt" --json
same stored_logits_are_as_good_as_the_model "$(awk "BEGIN { printf \"%.6f\", $kl }")" "$(member kl | awk '{ printf "%.6f", $1 }')"
$DS4 quality --save-logits "$tmp/top.lg" --top 64 -m $NANO "$tmp/story.txt" 2>/dev/null
run $DS4 quality "$tmp/top.lg" "$tmp/other.gguf" "$tmp/story.txt" --json
same the_likeliest_tell_most_of_it yes "$(member kl | awk -v kl="$kl" '{ print ($1 <= kl + 1e-9 && $1 > 0.5 * kl) ? "yes" : "no, " $1 " of " kl }')"
echo "Something else altogether." >"$tmp/else.txt"
refuses stored_logits_of_other_texts_are_refused 3 "other texts or another --ctx" \
	$DS4 quality "$tmp/top.lg" $NANO "$tmp/else.txt"
head -c 1000 "$tmp/top.lg" >"$tmp/cut.lg"
refuses cut_stored_logits_are_refused 3 "rows of" $DS4 quality "$tmp/cut.lg" $NANO "$tmp/story.txt"
refuses three_things_are_needed 2 "a reference, a model to test and at least one text, got 1" $DS4 quality $NANO
refuses nothing_is_written_on_failure 9 "nowhere" $DS4 quality --save-logits "$tmp/no.lg" -m $NANO "$tmp/nowhere"
same no_file_is_left "" "$(ls "$tmp" | grep no.lg)"

# Stored answers: the greedy ones are what the model would write; another word is not.
answer() { printf '{"name": "%s", "prompt": "%s", "text": "%s"}\n' "$1" "$(sample "$1" prompt)" "$2"; }
{
	answer hello "$(sample hello greedy)"
	answer capital "$(sample capital greedy)"
} >"$tmp/answers.jsonl"
run $DS4 quality --continuations "$tmp/answers.jsonl" -m $NANO
same greedy_answers_are_reproduced 2 "$(grep -c 'all reproduced' "$tmp/out")"
contains all_tokens_are_the_same "(100.00 %)" "$(last)"
printf '[{"prompt_ids": [0, 7717, 1425, 3, 7718, 7736], "ids": [1425, 42, 1], "margins": [0.7, 0.01, 3]}]' >"$tmp/bad.json"
run $DS4 quality --continuations "$tmp/bad.json" -m $NANO
contains a_different_token_is_named "1, token 1: stored 42 (" "$out"
contains a_small_margin_is_undecided "stored with a margin of 0.010" "$out"
contains undecided_tokens_are_left_out "of 2 where the stored margin is at least 0.1" "$(last)"
printf '[{"prompt_ids": [0, 7717], "ids": [1425, 42], "margins": [1]}]' >"$tmp/bad.json"
refuses margins_must_match 3 "expected 2 margins, found 1" $DS4 quality --continuations "$tmp/bad.json" -m $NANO
printf '{"prompt_ids": [0, 7717]}\n' >"$tmp/bad.json"
refuses answers_need_ids 3 "answer 1: expected ids" $DS4 quality --continuations "$tmp/bad.json" -m $NANO
finish
