/* logits_file.h - a model's predictions along a text, stored: what `ds4 quality --save-logits` writes.
 *
 *	"DS4LOGIT"  u32 version = 1  u32 vocab  u32 n  u32 name_bytes  u64 rows  u64 hash  name
 *	each row, n < vocab:  f32 target  i32 id[n]  f32 logprob[n]	likeliest first, ids distinct
 *	          n = vocab:  f32 target  f32 logprob[vocab]
 *
 * Little-endian, nothing padded but the name, with zeros to a multiple of 8.  A row is the prediction after one token
 * of a window, for every token but its last; target is the log-probability of the token that follows.  All
 * log-probabilities are natural, at temperature 1.  hash is of the tokens and of how they were cut
 * (logits_text_hash); name is the model's. */
#ifndef DS4_WORKSHOP_LOGITS_FILE_H
#define DS4_WORKSHOP_LOGITS_FILE_H

#include "base/file.h"
#include "workshop/quality.h"

struct logits_writer;

/* n <= vocab likeliest tokens of each row.  Writes to a temporary name until logits_writer_finish(). */
enum status logits_writer_open(struct logits_writer **out, const char *path, const char *model, int32_t vocab,
			       int32_t n, uint64_t rows, uint64_t hash, struct err *err);
/* One row from log-probabilities [vocab]. */
enum status logits_writer_row(struct logits_writer *w, const float *logprob, int32_t target, struct err *err);
/* ERR_IO; asserts that all rows came. */
enum status logits_writer_finish(struct logits_writer *w, struct err *err);
void logits_writer_close(struct logits_writer *w);	/* without finish: nothing is left */

struct logits_file {
	struct file_map map;
	const uint8_t *row;		/* the first */
	char *model;
	int32_t vocab, n;
	uint64_t rows, hash;
	size_t row_bytes;
};

bool logits_file_is(const char *path);	/* begins like one */
/* ERR_FORMAT names what does not fit. */
enum status logits_file_open(struct logits_file *out, const char *path, struct err *err);
void logits_file_close(struct logits_file *f);
/* Row i.  Borrowed from the mapping.  ERR_FORMAT: an id outside the vocabulary, a number that is none. */
enum status logits_file_row(const struct logits_file *f, uint64_t i, struct quality_row *out, struct err *err);

/* ids [n] in windows that end at end[n_windows]. */
uint64_t logits_text_hash(const int32_t *id, const size_t *end, size_t n_windows);

#endif
