/* regex.h - a pattern of a schema -> an automaton over code points, all of whose states can still lead to a match.
 *
 * The dialect is ECMA-262's without what needs memory or looks around: literals, ".", classes, \d \w \s and their
 * opposites, groups, alternatives, quantifiers (lazy ones mean the same), ^ and $.  As in JSON Schema a pattern may
 * match anywhere in the string unless it is anchored.  A string is also bounded to min..max code points.
 * Control characters that JSON can only write as \u00xx are left out of the alphabet.
 * Thread: built by one, read by any. */
#ifndef DS4_GRAMMAR_REGEX_H
#define DS4_GRAMMAR_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct dfa {
	uint32_t *first;	/* [n_class] ascending: code points from this one on ... */
	int32_t n_class;
	int32_t *next;		/* [n_state, n_class] -1 = no match is possible any more */
	uint8_t *accept;	/* [n_state] the string may end here */
	int32_t n_state;	/* it starts in state 0 */
};

#define REGEX_NO_MAX UINT32_MAX

/* All of n_pattern patterns must match.  ERR_ARGUMENT: syntax (place named), something unsupported (named), too large,
 * or nothing can match; ERR_MEMORY. */
enum status dfa_new(struct dfa **out, const char *const *pattern, int n_pattern, uint32_t min, uint32_t max,
		    struct err *err);
void dfa_free(struct dfa *d);	/* accepts NULL */

int32_t dfa_step(const struct dfa *d, int32_t state, uint32_t cp);			/* -1 = refused */
bool dfa_can(const struct dfa *d, int32_t state, uint32_t first, uint32_t last);	/* some code point in there */

#endif
