/* recipe.h - which tensor is stored as what: a readable list, first match wins.
 *
 *	# comment
 *	file_type 19                            general.file_type of the result
 *	blk.{-6..-1}.ffn_*_exps.weight  Q4_K    the last six layers
 *	*.ffn_gate_tid2eid.weight       I32     optional
 *	*                               F16
 *
 * A pattern matches a whole name: * is any text, ? one character, {A..B} a number in that range (below 0:
 * counted from the number of layers).  A type is a name of DTYPE_MAP or KEEP (as in the source, GGUF only).
 * `optional` allows a line to match nothing; any other line that decides no tensor is an error.  Lines that begin
 * with mtp. are for the MTP file only, and it uses no others. */
#ifndef DS4_WORKSHOP_RECIPE_H
#define DS4_WORKSHOP_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "workshop/convert.h"

#define RECIPE_MAX_LINES 256
#define RECIPE_MAX_PATTERN 128

struct recipe_line {
	char pattern[RECIPE_MAX_PATTERN];
	enum dtype type;
	bool keep, optional;
	int number;		/* line of the text */
};

struct recipe {
	char name[64];		/* "q2", or the file's name without its folder */
	char *text;		/* owned copy */
	struct recipe_line line[RECIPE_MAX_LINES];
	int n;
	int64_t file_type;	/* -1: none */
};

/* name: a built-in recipe or a file.  ERR_NOT_FOUND lists the built-in ones; ERR_FORMAT names the line. */
enum status recipe_load(struct recipe *r, const char *name, struct err *err);
enum status recipe_parse(struct recipe *r, const char *name, const char *text, struct err *err);
void recipe_clear(struct recipe *r);

/* Text of a built-in recipe, or NULL. */
const char *recipe_builtin(const char *name);
#define RECIPE_NAMES "q2, q4, q2-q4, q8, f16, nano, keep"

/* Sets the type of every target.  ERR_FORMAT: a tensor that no line matches, a type that does not fit its
 * shape, lines that decided nothing (all of them are listed). */
enum status recipe_apply(const struct recipe *r, struct plan *p, bool mtp, int64_t layers, struct err *err);

/* Does the pattern match the whole name? */
bool recipe_match(const char *pattern, const char *name, int64_t layers);

#endif
