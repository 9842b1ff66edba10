/* quality.c - see quality.h.
 *
 * How   The bootstrap draws as many blocks as there are, with replacement, and takes the ratio of sums: blocks may have
 *       different numbers of points.  The 2.5 % and 97.5 % points of the sorted results are the interval.
 * Careful
 *       - Neighbouring tokens of a text are not independent; resampling single points would give intervals that are
 *         too narrow.  Hence blocks.
 *       - Probabilities that round to zero contribute nothing to KL: p log p goes to 0 with p.  q is never zero here,
 *         since log-probabilities are finite. */
#include "workshop/quality.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

int32_t quality_best(const float *x, int32_t v)
{
	int32_t best = 0;

	for (int32_t i = 1; i < v; i++)
		if (x[i] > x[best])
			best = i;
	return best;
}

void quality_logprobs(float *out, const float *logits, int32_t v)
{
	double top = logits[quality_best(logits, v)], sum = 0;

	for (int32_t i = 0; i < v; i++)
		sum += exp(logits[i] - top);
	top += log(sum);
	for (int32_t i = 0; i < v; i++)
		out[i] = (float)(logits[i] - top);
}

static double kl_all(const float *p, const float *q, int32_t v)
{
	double kl = 0;

	for (int32_t i = 0; i < v; i++)
		kl += exp(p[i]) * ((double)p[i] - q[i]);
	return kl;
}

/* The tokens of the row, then all others as one. */
static double kl_top(const struct quality_row *ref, const float *q)
{
	double kl = 0, p_rest = 1, q_rest = 1;

	for (int32_t i = 0; i < ref->n; i++) {
		double p = exp(ref->logprob[i]);

		kl += p * ((double)ref->logprob[i] - q[ref->id[i]]);
		p_rest -= p;
		q_rest -= exp(q[ref->id[i]]);
	}
	if (p_rest < 1e-7)	/* nothing but rounding is left */
		return kl;
	return kl + p_rest * log(p_rest / (q_rest > 1e-12 ? q_rest : 1e-12));
}

void quality_compare(struct quality_point *out, const struct quality_row *ref, const float *test, int32_t v,
		     int32_t target)
{
	int32_t best = ref->id ? ref->id[0] : quality_best(ref->logprob, v);

	out->kl = ref->id ? kl_top(ref, test) : kl_all(ref->logprob, test, v);
	if (out->kl < 0)	/* rounding of equal distributions */
		out->kl = 0;
	out->nll_ref = -(double)ref->target;
	out->nll_test = -(double)test[target];
	out->same_top = best == quality_best(test, v);
}

/* ------------------------------------------------------------------ summary */

struct block_sum {
	double kl, same, log_ratio;
	size_t n;
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double at_share(const double *sorted, size_t n, double share)
{
	return sorted[(size_t)(share * (double)(n - 1) + 0.5)];
}

static void set_interval(struct quality_interval *v, double *value, size_t n)
{
	qsort(value, n, sizeof *value, by_value);
	v->low = at_share(value, n, 0.025);
	v->high = at_share(value, n, 0.975);
}

/* What is drawn again: kl and top1 are means, ratio the exponential of one. */
struct triple {
	struct quality_interval kl, top1, ratio;
};

static struct triple means(const struct block_sum *s)
{
	double n = (double)s->n, kl = s->kl / n, same = s->same / n, ratio = exp(s->log_ratio / n);

	return (struct triple){{kl, kl, kl}, {same, same, same}, {ratio, ratio, ratio}};
}

static void add_block(struct block_sum *to, const struct block_sum *b)
{
	to->kl += b->kl;
	to->same += b->same;
	to->log_ratio += b->log_ratio;
	to->n += b->n;
}

static enum status bootstrap(struct triple *out, const struct block_sum *block, size_t n, size_t resamples,
			     uint64_t seed, struct err *err)
{
	double *kl = mem_array(3 * resamples + 1, sizeof *kl), *same = kl + resamples, *ratio = same + resamples;
	struct rng rng = rng_seed(seed);
	struct block_sum all = {0};

	if (!kl)
		return err_set(err, ERR_MEMORY, "no memory for %zu resamples", resamples);
	for (size_t i = 0; i < n; i++)
		add_block(&all, &block[i]);
	*out = means(&all);
	for (size_t r = 0; r < resamples; r++) {
		struct block_sum s = {0};
		struct triple t;

		for (size_t i = 0; i < n; i++)
			add_block(&s, &block[rng_below(&rng, n)]);
		t = means(&s);
		kl[r] = t.kl.value;
		same[r] = t.top1.value;
		ratio[r] = t.ratio.value;
	}
	if (resamples) {
		set_interval(&out->kl, kl, resamples);
		set_interval(&out->top1, same, resamples);
		set_interval(&out->ratio, ratio, resamples);
	}
	mem_free(kl);
	return OK;
}

/* The points of a with low <= context < high, less those of b if there is a b, block by block. */
static size_t sum_blocks(struct block_sum *block, size_t *points, const struct quality_point *a,
			 const struct quality_point *b, size_t n, int32_t low, int32_t high)
{
	size_t blocks = 0;
	int32_t last = -1;

	*points = 0;
	for (size_t i = 0; i < n; i++) {
		struct block_sum one = {a[i].kl, a[i].same_top, a[i].nll_test - a[i].nll_ref, 1};

		if (a[i].context < low || a[i].context >= high)
			continue;
		if (!blocks || a[i].block != last)
			block[blocks++] = (struct block_sum){0};
		last = a[i].block;
		if (b) {
			one.kl -= b[i].kl;
			one.same -= b[i].same_top;
			one.log_ratio = a[i].nll_test - b[i].nll_test;
		}
		add_block(&block[blocks - 1], &one);
		++*points;
	}
	return blocks;
}

/* What does not need blocks: medians and perplexities. */
static void whole_range(struct quality_summary *out, double *kl, const struct quality_point *p, size_t n, int32_t low,
			int32_t high)
{
	double nll_ref = 0, nll_test = 0;
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		if (p[i].context < low || p[i].context >= high)
			continue;
		nll_ref += p[i].nll_ref;
		nll_test += p[i].nll_test;
		kl[k++] = p[i].kl;
	}
	qsort(kl, k, sizeof *kl, by_value);
	out->kl_median = at_share(kl, k, 0.5);
	out->kl_p99 = at_share(kl, k, 0.99);
	out->kl_max = kl[k - 1];
	out->ppl_ref = exp(nll_ref / (double)k);
	out->ppl_test = exp(nll_test / (double)k);
}

enum status quality_summarise(struct quality_summary *out, const struct quality_point *p, size_t n, int32_t low,
			      int32_t high, int resamples, uint64_t seed, struct err *err)
{
	struct block_sum *block = mem_array(n + 1, sizeof *block);
	double *kl = mem_array(n + 1, sizeof *kl);
	struct triple t;
	enum status st = OK;

	memset(out, 0, sizeof *out);
	if (!block || !kl) {
		st = err_set(err, ERR_MEMORY, "no memory to sum up %zu tokens", n);
		goto out;
	}
	out->blocks = sum_blocks(block, &out->n, p, NULL, n, low, high);
	if (!out->n)
		goto out;
	whole_range(out, kl, p, n, low, high);
	TRY_TO(out, bootstrap(&t, block, out->blocks, resamples > 0 ? (size_t)resamples : 0, seed, err));
	out->kl = t.kl;
	out->top1 = t.top1;
	out->ratio = t.ratio;
out:
	mem_free(block);
	mem_free(kl);
	return st;
}

enum status quality_compare_pair(struct quality_pair *out, const struct quality_point *a,
				 const struct quality_point *b, size_t n, int32_t low, int32_t high, int resamples,
				 uint64_t seed, struct err *err)
{
	struct block_sum *block = mem_array(n + 1, sizeof *block);
	struct triple t;
	enum status st = OK;

	memset(out, 0, sizeof *out);
	if (!block)
		return err_set(err, ERR_MEMORY, "no memory to sum up %zu tokens", n);
	out->blocks = sum_blocks(block, &out->n, a, b, n, low, high);
	if (out->n) {
		st = bootstrap(&t, block, out->blocks, resamples > 0 ? (size_t)resamples : 0, seed, err);
		if (st == OK) {
			out->kl = t.kl;
			out->top1 = t.top1;
			out->ratio = t.ratio;
		}
	}
	mem_free(block);
	return st;
}
