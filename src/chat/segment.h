/* segment.h - what a prompt is made of: control tokens, text, and ids that were sampled earlier.
 *
 * The renderer never writes one string.  It emits segments, so a text that looks like a control token stays
 * text: only a SEGMENT_CONTROL becomes a control id.  A sink receives the segments; two are ready made, one
 * collecting the prompt as text to look at, one collecting ids to run. */
#ifndef DS4_CHAT_SEGMENT_H
#define DS4_CHAT_SEGMENT_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"
#include "tokenizer/tokenizer.h"

enum segment_kind {
	SEGMENT_CONTROL,
	SEGMENT_TEXT,
	SEGMENT_IDS
};

struct segment {
	enum segment_kind kind;
	enum special control;	/* SEGMENT_CONTROL */
	const char *text;	/* SEGMENT_TEXT [n] */
	const int32_t *id;	/* SEGMENT_IDS [n] */
	size_t n;
};

struct sink {
	void (*take)(struct sink *s, const struct segment *segment);
	bool failed;	/* out of memory while a segment was made: sticky, asked once at the end */
};

void sink_control(struct sink *s, enum special control);
void sink_text(struct sink *s, const char *text, size_t n);
void sink_str(struct sink *s, const char *text);
void sink_ids(struct sink *s, const int32_t *id, size_t n);
void sink_json(struct sink *s, const json_t *v);	/* as text, in Python's form */

/* Text of our own in which ｜DSML｜, <think> and </think> are the control tokens.  Never for text from outside. */
void sink_template(struct sink *s, const char *text);

/* Collects the prompt as text, control tokens by their names. */
struct text_sink {
	struct sink sink;	/* first */
	const struct tokenizer *tokenizer;
	struct buf *out;
};

void text_sink_init(struct text_sink *s, const struct tokenizer *t, struct buf *out);

/* Collects ids.  Adjacent texts are joined before they are tokenized, as the official tokenizer sees them. */
struct id_sink {
	struct sink sink;	/* first */
	const struct tokenizer *tokenizer;
	struct token_list *out;
	struct buf run;		/* text not yet tokenized */
	int missing;		/* first special token that this vocabulary lacks, -1 if none */
};

void id_sink_init(struct id_sink *s, const struct tokenizer *t, struct token_list *out);

/* Tokenizes the last run and frees it.  Errors: ERR_ARGUMENT (a control token that the vocabulary lacks),
 * ERR_MEMORY. */
enum status id_sink_finish(struct id_sink *s, struct err *err);

#endif
