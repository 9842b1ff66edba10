/* quantize.h - converts a checkpoint or a model file into a model file: planned, streamed, resumable.
 *
 *   quantize_open    reads headers, decides every tensor's type and place; nothing is written
 *   quantize_report  sizes, memory and time, for --dry-run and for the end
 *   quantize_run     fills DST.part with a journal beside it, and renames it when it is whole
 *
 * Q1. DST never holds anything but a complete file; an interrupted run leaves DST.part and DST.part.journal.
 * Q2. A run that finds them keeps every tensor whose bytes still have the checksum in the journal, and converts
 *     the rest.
 * Q3. Same source, same options: same bytes, whatever the number of threads or interruptions.
 * Q4. Memory is a fixed amount for each thread, whatever the size of the model. */
#ifndef DS4_WORKSHOP_QUANTIZE_H
#define DS4_WORKSHOP_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/dtype.h"

struct quantize_progress {
	uint64_t done, total;		/* bytes of source */
	const char *tensor;
	bool checking;			/* what an earlier run left, not converting */
};

struct quantize_options {
	const char *source;		/* checkpoint folder, .safetensors, index .json, or .gguf */
	const char *destination;	/* NULL: only to plan */
	const char *recipe;		/* NULL: "keep" for a GGUF source */
	const char *imatrix;
	const char *config, *tokenizer; /* NULL: config.json, tokenizer.json beside the checkpoint */
	const char *metadata_from, *tokenizer_from;	/* GGUF files */
	const char *name;		/* general.name */
	const char *const *drop;	/* patterns of tensors to leave out */
	const char *const *
		splice; /* "A..B=FILE" (layers) or "PATTERN=FILE": tensors to take from another GGUF file */
	int n_drop, n_splice;
	bool mtp, force;
	int threads;			/* 0 = all cores */
	const volatile int *cancel;	/* stop when it becomes non-zero; may be NULL */
	void (*progress)(void *ctx, const struct quantize_progress *p);	/* caller's thread; may be NULL */
	void *ctx;
};

struct quantize_report {
	uint64_t tensors, source_bytes, file_bytes;
	struct {
		uint64_t tensors, elements, bytes;
	} type[DTYPE_COUNT];
	uint64_t memory_bytes;		/* at most, all threads together */
	uint64_t disk_free;		/* where the destination is; 0 = unknown */
	double seconds; /* of computing, by a short measurement on this machine; reading is extra */
	int threads;
	uint64_t with_importance, without_importance;	/* quantised tensors */
	/* after a run */
	uint64_t kept;			/* tensors taken over from an interrupted run */
	uint64_t converted_bytes;	/* of source, by this run */
	double elapsed;
};

struct quantize;

/* ERR_ARGUMENT (destination exists, options that contradict), ERR_NOT_FOUND, ERR_FORMAT, ERR_IO, ERR_MEMORY. */
enum status quantize_open(struct quantize **out, const struct quantize_options *opt, struct err *err);
void quantize_close(struct quantize *q);	/* accepts NULL */

/* measure: spend a tenth of a second to estimate the time. */
void quantize_report(struct quantize *q, bool measure, struct quantize_report *out);

/* ERR_CANCELLED when cancelled; ERR_IO (a full disk too): what was done is kept for the next run.
 * ERR_ARGUMENT: the parts of an interrupted run belong to another source or other options. */
enum status quantize_run(struct quantize *q, struct err *err);

#endif
