/* grammar_int.h - a compiled grammar: nodes, and the alternatives that a value of a node may be.
 *   schema.c   schemas that hold together -> one spec (merging, $ref, choices)
 *   build.c    specs -> nodes; what cannot be satisfied is taken away
 *   calls.c    tools -> what a block of calls may be
 *   regex.c    patterns -> automata
 *   matcher.c  positions in a text: the set of stacks that are possible
 *   step.c     one byte further, for the top of a stack
 *   mask.c     all tokens of a vocabulary at once */
#ifndef DS4_GRAMMAR_GRAMMAR_INT_H
#define DS4_GRAMMAR_GRAMMAR_INT_H

#include "grammar/grammar.h"
#include "grammar/regex.h"

enum {
	MAX_FRAMES = 64,	/* of a stack: values inside each other, and what they are made of */
	MAX_STACKS = 128,	/* that are followed at once; more are given up, which keeps G1 */
	NEVER = 1 << 20		/* frames that a value needs which cannot exist */
};

struct word {
	const char *p;
	uint32_t n;
	int32_t number;		/* what it stands for */
};

struct words {			/* ascending by their bytes, no two equal */
	struct word *word;
	uint32_t n;
};

enum alt_kind {
	ALT_WORDS,		/* one of a list */
	ALT_STRING,
	ALT_NUMBER,
	ALT_ARRAY,
	ALT_OBJECT
};

struct property {
	int32_t node;		/* its value as JSON, with raw_node without strings; -1 = there is none */
	int32_t raw_node;	/* parameters of calls: its value as text; -1 = none */
	bool required;
	int32_t needs;		/* frames */
};

struct alt {
	enum alt_kind kind;
	int32_t needs;			/* frames at least, NEVER = not possible */
	struct words words;		/* WORDS; OBJECT: names with their closing quote, number = property */
	const struct dfa *dfa;		/* STRING: NULL = any text of min..max code points */
	uint32_t min, max;		/* STRING, ARRAY; UINT32_MAX = no limit */
	bool integer, bounded;		/* NUMBER; bounded: 10^decimals times the number is in low..high */
	int32_t decimals;
	int64_t low, high;
	int32_t *item;			/* ARRAY: [n_item] nodes of the first ones */
	uint32_t n_item;
	int32_t items;			/* of the others; -1 = there are no others */
	struct property *property;	/* OBJECT [n_property] in their order */
	uint32_t n_property;
	int32_t additional;		/* node of other members; -1 = there are none */
};

struct node {
	int32_t *alt;		/* [n_alt] numbers in grammar.alt */
	uint32_t n_alt;
	int32_t needs;
};

struct tool {
	bool strict;
	struct words words;	/* what may come at a parameter: tags, numbered by enum tag and property; the end */
	struct property *property;
	uint32_t n_property;
};

/* A word of tool.words: 2 * property + (raw ? 1 : 0), or TAG_END, TAG_EMPTY. */
enum { TAG_END = -1, TAG_EMPTY = -2 };

struct grammar {
	void **memory;		/* [n_memory] everything below */
	size_t n_memory, memory_room;
	struct dfa **dfa;	/* [n_dfa] */
	size_t n_dfa, dfa_room;
	struct node *node;
	size_t n_node, node_room;
	struct alt *alt;
	size_t n_alt, alt_room;
	int32_t root;		/* node; -1 = no value may come */
	bool calls, one_call;
	struct tool *tool;	/* [n_tool] */
	uint32_t n_tool;
	struct words invoke;	/* tags that begin a call (number = tool), and the end of the block (-1) */
};

/* ------------------------------------------------------------------ memory of a grammar (build.c) */

void *grammar_alloc(struct grammar *g, size_t n, size_t size);	/* zeroed; NULL without memory */
const char *grammar_copy(struct grammar *g, const char *p, size_t n);
/* Sorts, drops doubles. */
void words_sort(struct words *w);

/* ------------------------------------------------------------------ schema.c */

struct schema_ref {		/* a schema and where it stands */
	const json_t *schema;
	const char *path;	/* JSON pointer */
};

struct schema_list {
	struct schema_ref *ref;
	size_t n, room;
};

/* What several schemas say together. */
struct spec {
	unsigned types;			/* bits of enum schema_type */
	bool integer;			/* numbers are integers */
	json_t *values;			/* enum, const: array; NULL = any */
	struct schema_list objects;	/* with properties or additionalProperties */
	struct schema_list arrays;	/* with items or prefixItems */
	json_t *required;		/* object used as an ordered set */
	uint32_t min_length, max_length, min_items, max_items;
	const char *pattern[8];
	int n_pattern;
	double minimum, maximum;
	bool has_minimum, has_maximum, above, below;	/* above, below: the limits themselves are not in */
	struct schema_list choices;	/* anyOf, oneOf still to be decided */
	const char *path;		/* of the first schema: for messages */
	const char *bound_path;
};

enum schema_type {
	TYPE_NULL = 1, TYPE_BOOLEAN = 2, TYPE_NUMBER = 4, TYPE_STRING = 8, TYPE_ARRAY = 16, TYPE_OBJECT = 32,
	TYPE_ANY = 63
};

struct schema_context {
	struct grammar *g;
	const json_t *root;	/* what $ref points into */
	const char *root_path;
	struct err *err;
};

bool schema_list_add(struct schema_context *x, struct schema_list *l, const json_t *schema, const char *path);
/* path/key as JSON pointers are written; NULL without memory, or when path is NULL. */
const char *path_join(struct schema_context *x, const char *path, const char *key);
const char *path_index(struct schema_context *x, const char *path, size_t i);

/* Calls done for every combination of choices that list's schemas leave, with what they say then. */
enum status schema_expand(struct schema_context *x, const struct schema_list *list,
			  enum status (*done)(void *ctx, struct spec *s), void *ctx);

/* ------------------------------------------------------------------ build.c */

struct build;

enum status build_open(struct build **out, struct grammar *g, struct err *err);
void build_close(struct build *b);
/* The node of a schema and all nodes that it needs; path stands before every place that a message names. */
enum status build_root(struct build *b, const json_t *schema, const char *path, int32_t *out);
/* Works out what is needed and takes away what is not possible.  Once, when all nodes are made. */
void build_finish(struct grammar *g);

/* ------------------------------------------------------------------ step.c */

enum frame_kind {
	FRAME_VALUE,		/* a value of node ref is to begin; phase: enum gap that may stand before it */
	FRAME_WORDS,		/* alt ref: words a..b share the v bytes that came */
	FRAME_STRING,		/* alt ref: a characters came, the automaton is in state b; v: of a character in parts */
	FRAME_RAW,		/* the same without quotes and escapes: ends where the frame below can go on */
	FRAME_NUMBER,		/* alt ref: a digits, b of them decimals, v their value */
	FRAME_ARRAY,		/* alt ref: a items were begun */
	FRAME_OBJECT,		/* alt ref: properties before a are past, v = the next required one; b = node after a name */
	FRAME_KEY,		/* on an object: names a..b share v bytes; gap: may be an additional one */
	FRAME_LITERAL,		/* literal ref, v bytes of it came */
	FRAME_BLOCK,		/* a calls were begun */
	FRAME_INVOKE,		/* on a block: words a..b share v bytes */
	FRAME_PARAMETERS,	/* tool ref: like an object */
	FRAME_TAG,		/* on parameters: words a..b share v bytes */
	FRAME_FREE		/* arguments that nothing is known about; v bytes of what ends them */
};

enum gap { GAP_NONE, GAP_BLANK, GAP_FULL };	/* nothing; one blank; that or a line break with indentation */

struct frame {			/* no padding: frames are compared as bytes */
	uint8_t kind, phase;
	uint16_t gap;		/* white space that came */
	int32_t ref;
	uint32_t a, b;
	uint64_t v;
};

/* The stacks that are possible at one place, one behind the other; the last frame of each is its top. */
struct stacks {
	struct frame *f;	/* [end[n - 1]] */
	uint32_t room, n, end[MAX_STACKS];
	bool failed;		/* no memory */
};

bool stacks_add(struct stacks *s, const struct frame *f, uint32_t n);
/* All stacks of from one byte further. */
void stacks_step(const struct grammar *g, const struct stacks *from, uint8_t byte, struct stacks *to);
bool stacks_complete(const struct grammar *g, const struct stacks *s);
void stacks_begin(const struct grammar *g, struct stacks *s);

struct matcher {
	const struct grammar *g;
	struct stacks now, probe[2];
	struct stacks *level;	/* [n_level] after 0, 1, 2, ... bytes of a token (mask.c) */
	uint32_t n_level;
};

#endif
