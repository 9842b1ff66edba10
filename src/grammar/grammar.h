/* grammar.h - constrained output: from a JSON schema, or a list of tools, to "may these bytes come next?".
 *
 *   schema, tools --grammar_new--> grammar --matcher_new--> matcher <--bytes-- tokens that were picked
 *                                                             |
 *                                                             '--> accepts(bytes), complete, mask of a vocabulary
 * Promises
 *   G1  A text that a matcher took whole and calls complete is valid: UTF-8, JSON, and an instance of the schema.
 *   G2  From every position that a matcher accepts the text can be completed, and there always is a single byte that
 *       may come next or the text is complete.  So a sampler never gets stuck, and bounded texts end.
 *   G3  What cannot be guaranteed is refused when the grammar is made, with the keyword and its JSON pointer.
 *   G4  The work for a token does not depend on how much text came before it.
 * A grammar accepts a part of what is valid, chosen so that G1 and G2 hold: members in the order of their declaration
 * (additional ones behind them), at most one blank or one line break with indentation between tokens, integers to 18
 * digits, values at most 60 deep.  README.md lists the keywords.
 * Thread: a grammar is read-only and may be shared; a matcher belongs to one thread. */
#ifndef DS4_GRAMMAR_GRAMMAR_H
#define DS4_GRAMMAR_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

struct grammar;
struct matcher;
struct vocabulary;

#define GRAMMAR_MARKER '\xFF'	/* stands for the control token of tool calls; no UTF-8 text has this byte */

struct grammar_options {
	const json_t *schema;	/* the text is one value of it; NULL = only calls may come */
	const json_t *tools;	/* array of function objects or OpenAI tools: a block of calls of them may come, in the
				 * official spelling from its two line breaks on; NULL = no calls */
	const char *only_tool;	/* and only calls of this one; NULL = of any */
	bool one_call;
	bool strict;		/* arguments of tools that say "strict": true are constrained to their schema */
};

/* Arguments that are not constrained are free: anything up to the end of their call.
 * Errors: ERR_ARGUMENT (G3), ERR_MEMORY. */
enum status grammar_new(struct grammar **out, const struct grammar_options *o, struct err *err);
void grammar_free(struct grammar *g);			/* accepts NULL */

/* Does a tool of the array say "strict": true? */
bool grammar_any_strict(const json_t *tools);

/* At the beginning of a text; g is borrowed.  NULL without memory. */
struct matcher *matcher_new(const struct grammar *g);
void matcher_free(struct matcher *m);			/* accepts NULL */
void matcher_reset(struct matcher *m);

bool matcher_accepts(struct matcher *m, const char *p, size_t n);	/* may p[0..n) come next?  Changes nothing */
bool matcher_push(struct matcher *m, const char *p, size_t n);		/* takes them; false: refused, nothing changed */
bool matcher_complete(const struct matcher *m);				/* may the text end here? */
bool matcher_ok(const struct matcher *m);		/* false after memory ran out: everything is refused then */

/* The ordinary tokens of a vocabulary in the order of their bytes, so that beginnings are looked at once. */
enum status vocabulary_new(struct vocabulary **out, const struct tokenizer *t, struct err *err);
void vocabulary_free(struct vocabulary *v);		/* accepts NULL */

/* mask[id] = 1 for every ordinary token that may come next, 0 for all others; control tokens are the caller's. */
void matcher_mask(struct matcher *m, const struct vocabulary *v, uint8_t *mask);

#endif
