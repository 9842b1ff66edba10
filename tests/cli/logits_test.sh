# ds4 logits against the numpy reference's logits for ds4-nano (tests/data/golden/nano: float32 [4, 8192] at the stored
# positions), and what its options promise.
. tests/cli/lib.sh

gold=tests/data/golden/nano
list() { od -An -v -td4 "$1" | tr -s ' \n' '  '; }
floats() { od -An -v -tf4 "$1" | tr -s ' ' '\n' | grep .; }
bytes() { wc -c <"$1" | tr -d ' '; }

# close NAME LIMIT EXPECTED-FILE FOUND-FILE: |found - expected| / |expected - mean| in the root of squares.
close() {
	floats "$3" >"$tmp/a"
	floats "$4" >"$tmp/b"
	result=$(paste "$tmp/a" "$tmp/b" | awk -v limit="$2" '
		NF != 2 { bad = 1 }
		{ d += ($2 - $1) ^ 2; s += $1; q += $1 ^ 2; n++ }
		END {
			e = sqrt(d / (q - s * s / n))
			print (!bad && n && e <= limit ? "close" : "far"), e
		}')
	case $result in
	close*) pass "$1" ;;
	*) fail "$1" "expected a relative error of at most $2, found ${result#* } ($(bytes "$3") and $(bytes "$4") bytes)" ;;
	esac
}

for n in 5 130; do
	list $gold/tokens_$n.i32 >"$tmp/ids"
	at=$(list $gold/pos_$n.i32 | sed 's/^ //; s/ $//; s/ /,/g')
	run $DS4 logits -m $NANO --backend ref --tokens "$tmp/ids" --positions "$at" -o "$tmp/ref.f32"
	same "logits_of_${n}_tokens_end_in_exit_code_0" 0 "$status"
	close "ref_agrees_with_numpy_after_${n}_tokens" 2e-4 $gold/packed_$n.f32 "$tmp/ref.f32"
	run $DS4 logits -m $NANO --backend cpu --tokens "$tmp/ids" --positions "$at" -o "$tmp/cpu.f32"
	close "cpu_is_near_numpy_after_${n}_tokens" 5e-2 $gold/packed_$n.f32 "$tmp/cpu.f32"
	$DS4 logits -m $NANO --backend cpu --tokens "$tmp/ids" --positions "$at" --step -o "$tmp/step.f32" 2>/dev/null
	same_file "step_by_step_gives_the_same_bits_after_${n}_tokens" "$tmp/cpu.f32" "$tmp/step.f32"
	$DS4 logits -m $NANO --backend cpu --tokens "$tmp/ids" --positions "$at" --chunk 3 -t 1 -o "$tmp/step.f32" 2>/dev/null
	same_file "other_steps_and_threads_give_the_same_bits_after_${n}_tokens" "$tmp/cpu.f32" "$tmp/step.f32"
done

list $gold/tokens_5.i32 | tr ' ' ',' >"$tmp/ids"
$DS4 logits -m $NANO --tokens "$tmp/ids" --positions all -o "$tmp/all.f32" 2>/dev/null
same positions_all_gives_a_row_for_each_token $((5 * 8192 * 4)) "$(bytes "$tmp/all.f32")"
$DS4 logits -m $NANO --tokens "$tmp/ids" -o - 2>/dev/null >"$tmp/last.f32"
tail -c 32768 "$tmp/all.f32" >"$tmp/want"
same_file the_last_position_is_the_default "$tmp/want" "$tmp/last.f32"
$DS4 logits -m $NANO --tokens "$tmp/ids" --positions '3,1' -o "$tmp/two.f32" 2>/dev/null
{ dd if="$tmp/all.f32" bs=32768 skip=1 count=1 && dd if="$tmp/all.f32" bs=32768 skip=3 count=1; } >"$tmp/want" 2>/dev/null
same_file rows_come_in_ascending_order "$tmp/want" "$tmp/two.f32"

list $gold/tokens_130.i32 >"$tmp/ids"
tail -c 32768 $gold/wide_130.f32 >"$tmp/want"
$DS4 logits -m $NANO --backend ref --wide-rows --tokens "$tmp/ids" -o "$tmp/wide.f32" 2>/dev/null
close ref_with_wide_rows_agrees_with_numpy 2e-4 "$tmp/want" "$tmp/wide.f32"
differs() { cmp -s "$tmp/wide.f32" "$tmp/other.f32"; echo $?; }
$DS4 logits -m $NANO --backend ref --no-fp8 --tokens "$tmp/ids" -o "$tmp/other.f32" 2>/dev/null
same without_fp8_the_logits_are_others 1 "$(differs)"
$DS4 logits -m $NANO --backend ref --no-fp4 --tokens "$tmp/ids" -o "$tmp/other.f32" 2>/dev/null
same without_fp4_they_are_the_same_while_there_is_nothing_to_choose 0 "$(differs)"

$DS4 logits -m $NANO --tokens "$tmp/ids" --positions 0,129 --dump-layers "$tmp/dump" -o "$tmp/o.f32" 2>/dev/null
same every_layer_has_three_dumps 24 "$(ls "$tmp/dump" | grep -c '\.f32$')"
same a_dump_has_a_row_of_four_streams_for_each_position $((2 * 4 * 256 * 4)) "$(bytes "$tmp/dump/layer03_ffn_in.f32")"
same the_end_of_a_layer_is_the_beginning_of_the_next "$(cksum <"$tmp/dump/layer03_out.f32")" \
	"$(cksum <"$tmp/dump/layer04_attn_in.f32")"
same the_index_names_every_file 24 "$(grep -c '^[0-9]* [a-z_]* 2 1024 layer[0-9]*_[a-z_]*\.f32$' "$tmp/dump/index.txt")"
finish
