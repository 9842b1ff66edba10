/* quantize.c - runs a plan: takes over what an earlier run left, converts the rest, gives the file its name.
 *
 * Careful
 *       - What an earlier run left counts only after its bytes were read back and their checksum compared.
 *       - The fingerprint of the source is names, sizes, times and headers, not the weights: reading 150 GB
 *         twice to find out that nothing changed would cost more than what it protects.
 *       - The fingerprint of the settings is the whole head (names, types, metadata) and the importance
 *         file. */
#include "workshop/quantize.h"

#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/thread.h"
#include "quant/encode.h"
#include "workshop/quantize_int.h"

/* ------------------------------------------------------------------ fingerprints */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void add_gguf(struct buf *b, const struct gguf *g)
{
	uint64_t hash = hash64(g->map, (size_t)g->data_offset);
	struct stat sb;
	int64_t when = 0;

	if (stat(g->path, &sb) == 0)
		when = (int64_t)sb.st_mtime;
	buf_printf(b, "%s %llu %lld %llx\n", base_name(g->path), (unsigned long long)g->map_bytes,
	           (long long)when, (unsigned long long)hash);
}

static uint64_t source_fingerprint(const struct quantize *q)
{
	struct buf b = BUF_CAP(BUF_MAX);
	uint64_t hash;

	for (size_t i = 0; q->checkpoint && i < q->checkpoint->n_shards; i++) {
		const struct st_shard *s = &q->checkpoint->shard[i];

		buf_printf(&b, "%s %llu %lld %llx\n", base_name(s->path), (unsigned long long)s->bytes,
		           (long long)s->mtime_ns, (unsigned long long)s->header_hash);
	}
	if (q->gguf)
		add_gguf(&b, q->gguf);
	for (int i = 0; i < q->n_splice; i++)
		add_gguf(&b, q->splice[i]);
	hash = hash64(buf_cstr(&b), b.len);
	buf_clear(&b);
	return hash;
}

static uint64_t settings_fingerprint(const struct quantize *q)
{
	uint64_t parts[3] = {hash64(q->head.data, q->head.len), q->imatrix_hash, ENCODE_REVISION};

	return hash64(parts, sizeof parts);
}

/* ------------------------------------------------------------------ running */

static enum status write_head(struct quantize *q, struct output *o, struct err *err)
{
	return output_write(o, 0, q->head.data, q->head.len, err);
}

/* Forgets the tensors in the journal whose bytes are not what it says. */
static enum status check_kept(struct quantize *q, struct output *o, struct worker_pool *w, struct err *err)
{
	uint64_t total = 0, done = 0;
	struct hash128 sum;

	for (size_t i = 0; i < o->n; i++)
		if (o->sum[i].low || o->sum[i].high)
			total += q->plan.t[i].source_bytes;
	for (size_t i = 0; i < o->n; i++) {
		if (!o->sum[i].low && !o->sum[i].high)
			continue;
		TRY(worker_pool_run(w, i, true, done, total, &sum, err));
		done += q->plan.t[i].source_bytes;
		if (sum.low == o->sum[i].low && sum.high == o->sum[i].high)
			q->report.kept++;
		else
			o->sum[i] = (struct hash128){0, 0};
	}
	return OK;
}

static enum status convert(struct quantize *q, struct output *o, struct worker_pool *w, struct err *err)
{
	uint64_t total = 0;
	struct hash128 sum;

	for (size_t i = 0; i < o->n; i++)
		if (!o->sum[i].low && !o->sum[i].high)
			total += q->plan.t[i].source_bytes;
	for (size_t i = 0; i < o->n; i++) {
		if (o->sum[i].low || o->sum[i].high)
			continue;
		TRY(worker_pool_run(w, i, false, q->report.converted_bytes, total, &sum, err));
		TRY(output_note(o, i, sum, err));
		q->report.converted_bytes += q->plan.t[i].source_bytes;
	}
	return OK;
}

enum status quantize_run(struct quantize *q, struct err *err)
{
	double start = clock_seconds();
	struct output *o = NULL;
	struct worker_pool *w = NULL;
	enum status st = OK;

	if (!q->opt.destination)
		return err_set(err, ERR_ARGUMENT, "%s: no destination was given", q->opt.source);
	TRY_TO(out, output_open(&o, q->opt.destination, q->report.file_bytes, q->plan.n, source_fingerprint(q),
				settings_fingerprint(q), q->opt.force, err));
	TRY_TO(out, worker_pool_open(&w, q, o, err));
	TRY_TO(out, write_head(q, o, err));
	TRY_TO(out, check_kept(q, o, w, err));
	TRY_TO(out, convert(q, o, w, err));
	st = output_finish(o, q->opt.force, err);
out:
	worker_pool_close(w);
	output_close(o);
	q->report.elapsed = clock_seconds() - start;
	return st;
}

/* ------------------------------------------------------------------ estimating */

/* Seconds that one element of a type takes one thread here. */
static double seconds_each(enum dtype t)
{
	enum { N = 4096 };
	struct rng r = rng_seed(1);
	float *x = mem_array(N, sizeof *x);
	uint8_t *out = mem_array(N, sizeof *x);
	double start, seconds = 0;
	int rounds = 0;

	for (int i = 0; x && i < N; i++)
		x[i] = (float)(rng_uniform(&r) + rng_uniform(&r) + rng_uniform(&r) - 1.5);
	start = clock_seconds();
	while (x && out && seconds < 0.02) {
		quant_encode(out, x, NULL, t, N);
		rounds++;
		seconds = clock_seconds() - start;
	}
	mem_free(x);
	mem_free(out);
	return rounds ? seconds / rounds / N : 0;
}

void quantize_report(struct quantize *q, bool measure, struct quantize_report *out)
{
	double each[DTYPE_COUNT] = {0}, total = 0;

	for (size_t i = 0; measure && i < q->plan.n; i++) {
		const struct target *t = &q->plan.t[i];

		if (t->copy)
			continue;
		if (each[t->type] == 0)
			each[t->type] = seconds_each(t->type);
		total += each[t->type] * (double)(t->cols * t->rows * t->n_pieces);
	}
	if (measure)
		q->report.seconds = total / (q->report.threads < cpu_count() ? q->report.threads : cpu_count());
	*out = q->report;
}
