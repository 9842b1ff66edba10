/* mask.c - the table of tokens that a legal answer may hold.
 *
 * What  One byte per token id for the sampler: 1 = may be produced.
 * Why   The vocabulary has hundreds of control tokens and place holders that no answer needs.  One of them sampled
 *       by accident (a turn marker, an image place holder) would corrupt the conversation.
 * How   Ordinary pieces are single bytes and results of merges; every other id counts as added, whatever its text
 *       looks like, and is refused except the four that an answer is made of.
 * Careful
 *       - That covers what converters write for unused ids ("[PAD129000]"): no merge makes them.
 * Source: docs/tokenizer.md section 3. */
#include "engine/mask.h"

#include "base/mem.h"

uint8_t *token_mask_new(const struct tokenizer *t)
{
	static const enum special legal[] = {SPECIAL_EOS, SPECIAL_THINK, SPECIAL_END_THINK, SPECIAL_DSML};
	int32_t vocab = tokenizer_size(t);
	uint8_t *mask = mem_array((size_t)vocab, 1);

	if (!mask)
		return NULL;
	for (int32_t id = 0; id < vocab; id++)
		mask[id] = !tokenizer_is_added(t, id);
	for (size_t i = 0; i < sizeof legal / sizeof legal[0]; i++)
		if (tokenizer_special(t, legal[i]) >= 0)
			mask[tokenizer_special(t, legal[i])] = 1;
	return mask;
}
