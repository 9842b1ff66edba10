# ds4 tokenize against the stored cases of the published tokenizer (tests/data/text), and its plain form.
. tests/cli/lib.sh

data=tests/data/text

# {"cat":…,"text":"…","ids":[…]}, with "ids_plain" where control tokens make a difference
sed 's/^.*"ids":\(\[[0-9,]*\]\).*$/{"ids":\1}/' $data/tokenizer_cases.jsonl >"$tmp/want"
$DS4 tokenize --jsonl --control -m $VOCABULARY <$data/tokenizer_cases.jsonl | tr -d ' ' >"$tmp/found"
same_file every_stored_text_has_its_ids_with_control_tokens "$tmp/want" "$tmp/found"

sed -e 's/^.*"ids_plain":\(\[[0-9,]*\]\).*$/{"ids":\1}/' -e 's/^.*"ids":\(\[[0-9,]*\]\).*$/{"ids":\1}/' \
	$data/tokenizer_cases.jsonl >"$tmp/want"
$DS4 tokenize --jsonl -m $VOCABULARY <$data/tokenizer_cases.jsonl | tr -d ' ' >"$tmp/found"
same_file every_stored_text_has_its_ids_as_plain_text "$tmp/want" "$tmp/found"

sed 's/^.*"ids": *\(\[[0-9, ]*\]\).*$/{"ids":\1}/' $data/tokenizer_bytes_cases.jsonl | tr -d ' ' >"$tmp/want"
$DS4 tokenize --jsonl -m $VOCABULARY <$data/tokenizer_bytes_cases.jsonl | tr -d ' ' >"$tmp/found"
same_file ill_formed_bytes_given_as_hex_have_their_ids "$tmp/want" "$tmp/found"

# {"ids": […], "pieces_hex": …, "final_tail": …, "text": "…"}: only the ids go in
sed 's/^{\("ids": \[[0-9, ]*\]\).*$/{\1}/' $data/detok_cases.jsonl >"$tmp/in"
sed -e 's/, "note": "[^"]*"}$/}/' -e 's/^.*"text": \(".*"\)}$/{"text": \1}/' $data/detok_cases.jsonl >"$tmp/want"
$DS4 tokenize --jsonl -m $VOCABULARY <"$tmp/in" >"$tmp/found"
same_file every_stored_id_list_has_its_text "$tmp/want" "$tmp/found"

same text_on_standard_input_gives_one_line_of_ids "19923" "$(printf Hello | $DS4 tokenize -m $VOCABULARY)"
same an_empty_text_has_no_ids "" "$(printf '' | $DS4 tokenize -m $VOCABULARY)"
same a_control_token_in_text_is_text_by_default no "$(printf '<think>' | $DS4 tokenize -m $VOCABULARY |
	grep -qx 128821 && echo yes || echo no)"
same control_recognises_control_tokens "128821 128822" \
	"$(printf '<think></think>' | $DS4 tokenize --control -m $VOCABULARY)"

text='Naïve café: 日本語 🙂, 3.14 - the  end.'
same decoding_gives_the_text_back "$text" \
	"$(printf '%s' "$text" | $DS4 tokenize -m $VOCABULARY | $DS4 tokenize -d -m $VOCABULARY)"
same nano_has_a_vocabulary_of_its_own "$text" \
	"$(printf '%s' "$text" | $DS4 tokenize -m $NANO | $DS4 tokenize -d -m $NANO)"

printf '%s\n' '{"text": "Hello"}' '{"tex": 1}' 'nonsense' '{"ids": [999999]}' '{"hex": "4"}' '{"text": "Hello"}' |
	$DS4 tokenize --jsonl -m $VOCABULARY >"$tmp/found" 2>"$tmp/err"
status=$?
same a_bad_line_answers_an_error_and_the_rest_goes_on "{\"ids\": [19923]}|error|error|error|error|{\"ids\": [19923]}|" \
	"$(sed 's/^{"error": ".*"}$/error/' "$tmp/found" | tr '\n' '|')"
same a_bad_line_shows_in_the_exit_code 2 "$status"
contains the_first_bad_line_is_named "line 2" "$(cat "$tmp/err")"
same a_lone_surrogate_is_read_as_the_replacement_character \
	"$(printf '{"text": "a\357\277\275b"}' | $DS4 tokenize --jsonl -m $VOCABULARY)" \
	"$(printf '%s' '{"text": "a\ud83db"}' | $DS4 tokenize --jsonl -m $VOCABULARY)"
finish
