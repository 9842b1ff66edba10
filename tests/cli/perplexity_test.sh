# ds4 perplexity against the definition, computed here from raw logits.
. tests/cli/lib.sh

sample story greedy | sed 's/<｜.*//' >"$tmp/story.txt"
{ echo 0; $DS4 tokenize -m $NANO <"$tmp/story.txt"; } | tr '\n' ' ' >"$tmp/ids"
$DS4 logits -m $NANO --tokens "$tmp/ids" --positions all -o "$tmp/l.f32" 2>/dev/null
n=$(wc -w <"$tmp/ids" | tr -d ' ')
od -An -v -tf4 "$tmp/l.f32" | tr -s ' ' '\n' | grep . | awk -v ids="$(cat "$tmp/ids")" '
	BEGIN { split(ids, id, " ") }
	{ v[i++] = $1 }
	i == 8192 {
		i = 0
		next_id = id[++row + 1]
		if (next_id == "")
			next
		max = v[0]
		for (j = 1; j < 8192; j++) if (v[j] > max) max = v[j]
		sum = 0
		for (j = 0; j < 8192; j++) sum += exp(v[j] - max)
		nll += log(sum) + max - v[next_id]
		n++
	}
	END { printf "%.3f %d\n", exp(nll / n), n }' >"$tmp/want"
run $DS4 perplexity -m $NANO "$tmp/story.txt"
same perplexity_is_that_of_the_logits "$(cat "$tmp/want")" "$(tail -n 1 "$tmp/out" | awk '{ printf "%.3f %d", $2, $4 }')"
same windows_that_overlap_score_each_token_once $((n - 1)) \
	"$($DS4 perplexity -m $NANO --ctx 64 --stride 32 "$tmp/story.txt" 2>/dev/null | tail -n 1 | awk '{ print $4 }')"
same windows_side_by_side_leave_out_their_first_tokens $((n - (n + 63) / 64)) \
	"$($DS4 perplexity -m $NANO --ctx 64 "$tmp/story.txt" 2>/dev/null | tail -n 1 | awk '{ print $4 }')"
contains json_gives_one_object '"scored":' "$($DS4 perplexity -m $NANO --json - <"$tmp/story.txt" 2>/dev/null)"
refuses an_empty_text_is_refused 2 "at least 2 tokens" $DS4 perplexity -m $NANO /dev/null
refuses a_stride_beyond_the_window_is_refused 2 "window of 64" $DS4 perplexity -m $NANO --ctx 64 --stride 65 "$tmp/story.txt"
finish
