# --cpu: the instruction sets that this machine has, forced one by one; the parity test of all operations on each.
. tests/cli/lib.sh

refuses an_unknown_instruction_set_is_named 2 "auto, scalar" $DS4 run --cpu sse -m $NANO -p Hi
# A set that is not there, lists what there is.
for isa in neon amx avx512; do
	$DS4 run --cpu $isa -m $NANO -n 1 -p Hi >"$tmp/out" 2>"$tmp/err" && continue
	list=$(sed -n 's/.*this machine has //p' "$tmp/err")
	case $list in
	*scalar*) pass "a_machine_without_${isa}_says_what_it_has" ;;
	*) fail "a_machine_without_${isa}_says_what_it_has" "$(cat "$tmp/err")" ;;
	esac
done
for isa in scalar avx2 avx512 amx; do
	$DS4 run --cpu $isa -m $NANO -n 1 -p Hi >/dev/null 2>&1 || continue
	if DS4_TEST_CPU=$isa timeout 200 build/tests/parity/ops_test >"$tmp/log" 2>&1; then
		pass "all_operations_agree_with_ref_on_$isa"
	else
		fail "all_operations_agree_with_ref_on_$isa" "$(grep -v -e OK -e RUN "$tmp/log" | tail -n 12)"
	fi
done
finish
