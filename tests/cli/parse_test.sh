# ds4 parse --jsonl against the stored cases of the official parser (tests/data/text/parse_cases.jsonl).
#
# Well-formed output must give the stored result.  What the official parser refuses ours reads as well as it can (it
# must not stop a conversation), so there only a result or an error is asked for, line by line.
. tests/cli/lib.sh

cases=tests/data/text/parse_cases.jsonl
grep -v '"error": "[A-Z]' $cases >"$tmp/good"
sed 's/^.*, "result": /{"result": /' "$tmp/good" >"$tmp/want"
$DS4 parse --jsonl -m $VOCABULARY <"$tmp/good" >"$tmp/found" 2>"$tmp/err"
status=$?
same_file every_well_formed_case_has_its_result "$tmp/want" "$tmp/found"
same well_formed_cases_end_in_exit_code_0 0 "$status"

$DS4 parse --jsonl -m $VOCABULARY <$cases >"$tmp/found" 2>/dev/null
same every_case_gets_one_answer "$(wc -l <$cases)" "$(grep -c '^{"\(result\|error\)": ' "$tmp/found")"
refuses a_line_that_is_no_json_is_refused 2 "line 1" sh -c "echo nonsense | $DS4 parse --jsonl -m $VOCABULARY"
same nano_reads_the_format_too '{"result": {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "tool_calls": []}}' \
	"$(echo '{"mode": "thinking", "text": "Hm.</think>Yes.<｜end▁of▁sentence｜>"}' | $DS4 parse --jsonl -m $NANO)"
finish
