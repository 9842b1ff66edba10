# ds4 bench: every form of output from short runs of ds4-nano, what it refuses, and comparing two files.
. tests/cli/lib.sh

short="-m $NANO -t 2 --seconds 0.05 --steps 3"
header='machine,model,backend,threads,chunk,phase,context,batch,history,blocks,steps,tokens_per_second,ms,ms_min,ms_max,weight_bytes,gb_per_second,gop_per_second,read_limit_gb_per_second,int8_limit_gop_per_second,limit_share,load'

# columns FILE NAME...: these columns of a CSV file, one row a line.  The two quoted fields are in front.
columns() {
	file=$1
	shift
	sed 's/"[^"]*"/text/g' "$file" | awk -F, -v want="$*" '
	NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; n = split(want, name, " "); next }
	{ line = ""; for (i = 1; i <= n; i++) line = line (i > 1 ? " " : "") $at[name[i]]; print line }'
}

# --- CSV and the table ---
run $DS4 bench $short --at 200,64 --batch 3,1 --prefill 64 --chunk 48 --csv "$tmp/a.csv"
same a_short_run_ends_in_exit_code_0 0 "$status"
same the_first_line_names_the_columns "$header" "$(head -1 "$tmp/a.csv")"
same rows_are_prefill_then_batches_in_ascending_order "prefill 64 1 2 read shared
decode 64 1 3 read shared
decode 64 3 3 read shared
prefill 200 1 2 read shared
decode 200 1 3 read shared
decode 200 3 3 read shared" "$(columns "$tmp/a.csv" phase context batch steps history blocks)"
same speed_time_and_bytes_fit_together 0 "$(columns "$tmp/a.csv" phase batch chunk tokens_per_second ms ms_min ms_max weight_bytes gb_per_second | awk '
	function near(a, b) { return a > 0 && a / b < 1.01 && b / a < 1.01 }
	{ tokens = $1 == "prefill" ? $3 : $2
	  if (!near($4 * $5 / 1000, tokens) || $6 > $5 || $7 < $5 || ($9 > 0.1 && !near($8 / $5 / 1e6, $9))) bad++ }
	END { print bad + 0 }')"
# 24.03 MiB of weights a token by `ds4 inspect`; at 64 tokens the indexer has nothing to choose and is not read.
same one_token_reads_the_weights_that_the_model_says 0 "$(columns "$tmp/a.csv" phase context batch weight_bytes | awk '
	$1 == "decode" && $2 == 64 && $3 == 1 && ($4 < 22e6 || $4 > 25.2e6) { bad++ } END { print bad + 0 }')"
same three_timelines_read_more_experts_than_one 1 "$(columns "$tmp/a.csv" phase context batch weight_bytes | awk '
	$1 == "decode" && $2 == 64 { bytes[$3] = $4 } END { print (bytes[3] > bytes[1] && bytes[3] < 1.5 * bytes[1]) }')"
same no_line_of_the_table_is_wider_than_80_columns 0 "$(sed -n '/^phase/,$p' "$tmp/out" | awk 'length($0) > 80' | wc -l)"
same the_table_has_a_line_for_each_row 6 "$(grep -c -E '^(prefill|decode) +[0-9]+ +[0-9]+ ' "$tmp/out")"
run $DS4 bench $short --at 64 --batch 1 --prefill 0 --csv -
same csv_on_standard_output_stands_alone "$header" "$(echo "$out" | head -1)"
same without_prefill_there_is_only_decode 1 "$(echo "$out" | grep -c decode)$(echo "$out" | grep prefill)"
run $DS4 bench $short --at 64 --batch 0
same batch_0_is_only_prefill 1 "$(grep -c '^prefill ' "$tmp/out")$(grep '^decode ' "$tmp/out")"

# --- made-up contexts, own histories ---
run $DS4 bench $short --at 4000 --batch 2 --fake-context --no-share --csv "$tmp/fake.csv"
same a_made_up_context_is_measured 0 "$status"
contains a_made_up_context_is_said_on_the_screen 'MADE UP' "$out"
contains own_histories_are_said_on_the_screen 'each timeline has its own history' "$out"
same a_made_up_context_is_said_in_the_file "prefill made up own
decode made up own" "$(columns "$tmp/fake.csv" phase history blocks)"
run $DS4 bench -m $NANO --backend ref -t 2 --seconds 0 --steps 3 --at 300 --batch 1 --prefill 0 --fake-context
same ref_decodes_from_a_made_up_context 0 "$status"

# --- operations and limits ---
run $DS4 bench $short --at 64 --batch 1 --ops
same operations_end_in_exit_code_0 0 "$status"
contains the_limits_are_shown 'GB/s of memory, int8 ' "$out"
same operations_are_shown_for_prefill_and_decode 2 "$(grep -c 'operations of' "$tmp/out")"
same shares_sum_to_the_whole 0 "$(awk '
	/^operation / { sum = 0; next }
	/^step / { if (sum < 99 || sum > 101) bad++; next }
	match($0, / [0-9.]+%/) { sum += substr($0, RSTART + 1, RLENGTH - 2) }
	END { print bad + 0 }' "$tmp/out")"
same a_token_runs_the_experts_of_8_layers 8 "$(awk '/^decode at/ { on = 1 } on && $1 == "experts" { print $3 }' "$tmp/out")"
same no_line_of_operations_is_wider_than_80_columns 0 "$(sed -n '/^phase/,$p' "$tmp/out" | awk 'length($0) > 80' | wc -l)"
run $DS4 bench $short --at 64 --batch 1 --ops --json
same json_with_operations_is_valid "2 2 True" "$(python3 -c '
import json, sys
o = json.load(open(sys.argv[1]))
print(len(o["rows"]), len(o["ops"]), o["limits"]["read_gb_per_second"] > 0 and o["rows"][0]["limit_share"] > 0)' "$tmp/out" 2>&1)"

# --- comparing ---
cat >"$tmp/before.csv" <<'X'
machine,model,phase,context,batch,tokens_per_second
"One, ""big""",nano,prefill,2048,1,100
"One, ""big""",nano,decode,2048,1,4
"One, ""big""",nano,decode,2048,8,8
"One, ""big""",nano,decode,4096,1,3
X
cat >"$tmp/after.csv" <<'X'
tokens_per_second,batch,context,phase,machine,model
150,1,2048,prefill,"One, ""big""",mini
6,1,2048,decode,"One, ""big""",mini
9,8,2048,decode,"One, ""big""",mini
5,16,2048,decode,"One, ""big""",mini
X
run $DS4 bench --compare "$tmp/before.csv" "$tmp/after.csv"
same comparing_ends_in_exit_code_0 0 "$status"
same every_row_of_both_has_its_ratio "prefill 2048 1 100.00 150.00 1.500
decode 2048 1 4.00 6.00 1.500
decode 2048 8 8.00 9.00 1.125
decode 4096 1 3.00 - -
decode 2048 16 - 5.00 -" "$(grep -E '^(prefill|decode) +[0-9]' "$tmp/out" | tr -s ' ')"
# sqrt(1.5 * 1.125) = 1.299
same the_geometric_mean_is_of_rows_that_both_have 1.299 "$(awk '/^decode, geo/ { print $NF }' "$tmp/out")"
same only_what_differs_is_noted 'NOTE: model differs: "nano" in A, "mini" in B' "$(grep NOTE "$tmp/out")"
run $DS4 bench --compare "$tmp/a.csv" "$tmp/a.csv"
same a_file_compares_to_itself_as_1 "1.000" "$(grep -E '^(prefill|decode)' "$tmp/out" | awk '{ print $NF }' | sort -u)"
printf 'phase,context,batch,tokens_per_second\ndecode,2048,1,fast\n' >"$tmp/bad.csv"
refuses a_word_for_a_number_is_refused 3 'line 2: tokens_per_second: expected a number, found "fast"' \
	$DS4 bench --compare "$tmp/before.csv" "$tmp/bad.csv"
printf 'phase,context,batch,tokens_per_second\ndecode,2048,1\n' >"$tmp/bad.csv"
refuses a_short_line_is_refused 3 'line 2: expected 4 fields, found 3' $DS4 bench --compare "$tmp/before.csv" "$tmp/bad.csv"
echo 'hello' >"$tmp/bad.csv"
refuses another_file_is_refused 3 'the column phase' $DS4 bench --compare "$tmp/bad.csv" "$tmp/before.csv"
refuses one_file_is_not_enough 2 'expected two CSV files, found 1' $DS4 bench --compare "$tmp/a.csv"
refuses files_need_compare 2 'only for --compare' $DS4 bench "$tmp/a.csv"

# --- drawing: a gnuplot that writes down what it is given ---
mkdir "$tmp/bin" "$tmp/empty"
printf '#!/bin/sh\ncat "$1" >"%s/script"\n' "$tmp" >"$tmp/bin/gnuplot"
chmod +x "$tmp/bin/gnuplot"
run env PATH="$tmp/bin:$PATH" $DS4 bench $short --at 64,128 --batch 1,2 --plot "$tmp/it's.svg"
same a_plot_ends_in_exit_code_0 0 "$status"
contains the_script_names_the_picture "set output '$tmp/it''s.svg'" "$(cat "$tmp/script")"
contains the_script_draws_every_batch "plot \$d1 using 1:2 with linespoints lw 2 pt 7 title 'batch 1', \$d2" "$(cat "$tmp/script")"
same the_script_holds_a_point_for_each_row 6 "$(grep -c -E '^(64|128) [0-9.]+$' "$tmp/script")"
same the_script_is_removed no "$(ls "$tmp"/*.gnuplot >/dev/null 2>&1 && echo yes || echo no)"
refuses without_gnuplot_nothing_is_measured 9 'needs the program gnuplot' \
	env PATH="$tmp/empty" $DS4 bench $short --plot "$tmp/x.svg"
refuses a_picture_is_svg_or_png 2 'ends in .svg or .png, found' $DS4 bench $short --plot "$tmp/x.pdf"

# --- limits of what can be asked ---
refuses a_context_beyond_the_model_is_refused 2 'the model'"'"'s context of 65536' $DS4 bench $short --at 64k
refuses a_list_of_words_is_refused 2 '--at' $DS4 bench $short --at 2k,many
refuses a_batch_of_nothing_is_refused 2 '--batch: expected numbers from 1 to 256, found 0' $DS4 bench $short --batch 0,1
refuses a_context_size_is_not_for_bench 2 '--at gives the contexts' $DS4 bench $short --ctx 4k
refuses a_file_that_cannot_be_written_is_said 8 "$tmp/none/x.csv" $DS4 bench $short --at 64 --csv "$tmp/none/x.csv"

# --- Ctrl-C keeps what was measured ---
$DS4 bench -m $NANO -t 1 --at 64,30000 --batch 1 --steps 3 --csv "$tmp/cut.csv" >"$tmp/out" 2>"$tmp/err" &
pid=$!
tries=0
while [ "$(grep -c decode "$tmp/cut.csv" 2>/dev/null || :)" != 1 ] && [ $tries -lt 100 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
kill -INT $pid
wait $pid
same an_interrupted_run_ends_in_130 130 $?
same an_interrupted_run_keeps_its_rows "prefill 64
decode 64" "$(columns "$tmp/cut.csv" phase context)"
finish
