/* tables.c - what is worked out once from a vocabulary; see turn.h. */
#include "base/mem.h"
#include "engine/mask.h"
#include "turn/turn_int.h"

enum status turn_tables_new(struct turn_tables **out, const struct tokenizer *t, struct err *err)
{
	struct turn_tables *x = mem_zero(sizeof *x);

	*out = NULL;
	if (x)
		x->mask = token_mask_new(t);
	if (!x || !x->mask || vocabulary_new(&x->vocabulary, t, err) != OK) {
		turn_tables_free(x);
		return err_set(err, ERR_MEMORY, "no memory for the tables of %d tokens", (int)tokenizer_size(t));
	}
	x->tokenizer = t;
	x->eos = tokenizer_special(t, SPECIAL_EOS);
	x->think = tokenizer_special(t, SPECIAL_THINK);
	x->end_think = tokenizer_special(t, SPECIAL_END_THINK);
	x->dsml = tokenizer_special(t, SPECIAL_DSML);
	*out = x;
	return OK;
}

void turn_tables_free(struct turn_tables *x)
{
	if (!x)
		return;
	vocabulary_free(x->vocabulary);
	mem_free(x->mask);
	mem_free(x);
}
