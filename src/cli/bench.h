/* bench.h - shared by the files of `ds4 bench`. */
#ifndef DS4_CLI_BENCH_H
#define DS4_CLI_BENCH_H

#include <stdio.h>

#include "backend/probe.h"
#include "backend/timed.h"
#include "base/json.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "cli/term.h"

enum {
	BENCH_MAX_AT = 64,		/* contexts */
	BENCH_MAX_BATCH = 16,		/* sizes of batch */
	BENCH_MAX_TIMELINES = 256	/* of one batch */
};

enum bench_phase { BENCH_PREFILL, BENCH_DECODE };

/* One measurement. */
struct bench_row {
	enum bench_phase phase;
	int32_t context, batch;
	int32_t tokens;			/* of a step: rows of a chunk, or the batch */
	int32_t steps;			/* measured */
	double ms, ms_min, ms_max;	/* of a step; ms is the median */
	double weight_bytes;		/* a step reads: of routed experts those that were chosen */
	double ops;			/* a step's products with weights, two operations a multiply-add */
	double limit;			/* share of the probe: bandwidth when decoding, integer units in prefill; 0 = no probe */
};

static inline double bench_rate(const struct bench_row *r)	/* tokens per second */
{
	return r->tokens / (r->ms / 1e3);
}

const char *bench_phase_name(enum bench_phase p);

/* Where the time of some steps of a row's kind went. */
struct bench_ops {
	struct bench_row of;
	struct timed_row op[TIMED_MAX_ROWS];
	int n, steps;
	double seconds;			/* of all steps, what is between operations included */
};

/* What all rows of a run have in common. */
struct bench_about {
	char machine[128];		/* "AMD EPYC 9R14, 2 cores" */
	const char *model, *backend;
	int threads;
	int32_t chunk;
	bool fake, share;
	double load;			/* runnable processes at the start, a minute's mean */
	int cores;
	uint64_t read_per_token;	/* weight bytes, one timeline */
	struct probe_result probe;
	bool probed;
};

/* ------------------------------------------------------------------ bench_context.c */

/* Writes random but valid rows, keys and projections into kv so that it looks as if `len` tokens had been read. */
enum status bench_fill(struct kv *kv, int32_t len, struct rng *rng, struct err *err);

/* A timeline with the state of from: shared blocks (a fork) or copies of its own. */
enum status bench_copy(struct kv **out, const struct kv *from, bool share, struct err *err);

/* ------------------------------------------------------------------ bench_cost.c */

struct bench_cost {
	double fixed_bytes;		/* weights that every step reads, head included */
	double expert_bytes[SHAPE_MAX_LAYERS];	/* of one expert of a layer */
	double head_bytes, index_bytes;	/* part of fixed: output head, and what only the indexer's choice reads */
	double row_ops, head_ops, index_ops;	/* of one token, likewise; experts included */
};

void bench_cost_make(struct bench_cost *out, const struct weights *w, const struct shape *s);

/* Counts distinct experts of steps as a tap of the forward pass. */
struct bench_count {
	const struct bench_cost *cost;
	const struct shape *shape;
	double bytes;			/* of the experts chosen since it was cleared */
	int32_t *idx;			/* [rows, used]: room for a step */
	uint8_t *seen;			/* [experts] */
};

void bench_count_tap(void *ctx, enum tap_point at, int32_t layer, struct backend *be, struct tensor *t,
		     const struct step *s);

/* ------------------------------------------------------------------ bench_report.c */

void bench_print_about(const struct bench_about *a);
void bench_print_head(void);
void bench_print_row(const struct bench_row *r);
void bench_print_ops(const struct bench_ops *o, const struct bench_about *a);

void bench_csv_head(FILE *f);
void bench_csv_row(FILE *f, const struct bench_about *a, const struct bench_row *r);

json_t *bench_about_json(const struct bench_about *a);
json_t *bench_row_json(const struct bench_row *r);
json_t *bench_ops_json(const struct bench_ops *o);

/* ------------------------------------------------------------------ bench_compare.c */

/* Reads two files of --csv and prints the ratio of every row both have. */
enum status bench_compare(const char *a, const char *b, bool json, struct err *err);

/* ------------------------------------------------------------------ bench_plot.c */

/* Checks the name's ending and that gnuplot is there, before anything is measured. */
enum status bench_plot_check(const char *path, struct err *err);
enum status bench_plot(const char *path, const struct bench_about *a, const struct bench_row *row, int n, struct err *err);

#endif
