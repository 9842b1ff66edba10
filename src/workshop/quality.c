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

static enum status bootstrap(struct quality_summary *out, const struct block_sum *block, size_t n, size_t resamples,
			     uint64_t seed, struct err *err)
{
	double *kl = mem_array(3 * resamples, sizeof *kl), *same = kl + resamples, *ratio = same + resamples;
	struct rng rng = rng_seed(seed);

	if (!kl)
		return err_set(err, ERR_MEMORY, "no memory for %zu resamples", resamples);
	for (size_t r = 0; r < resamples; r++) {
		struct block_sum s = {0};

		for (size_t i = 0; i < n; i++) {
			const struct block_sum *b = &block[rng_below(&rng, n)];

			s.kl += b->kl;
			s.same += b->same;
			s.log_ratio += b->log_ratio;
			s.n += b->n;
		}
		kl[r] = s.kl / (double)s.n;
		same[r] = s.same / (double)s.n;
		ratio[r] = exp(s.log_ratio / (double)s.n);
	}
	set_interval(&out->kl, kl, resamples);
	set_interval(&out->top1, same, resamples);
	set_interval(&out->ratio, ratio, resamples);
	mem_free(kl);
	return OK;
}

static struct quality_interval exactly(double x)
{
	return (struct quality_interval){x, x, x};
}

enum status quality_summarise(struct quality_summary *out, const struct quality_point *p, size_t n, int32_t low,
			      int32_t high, int resamples, uint64_t seed, struct err *err)
{
	struct block_sum *block = mem_array(n ? n : 1, sizeof *block), all = {0};
	double *kl = mem_array(n ? n : 1, sizeof *kl), nll_ref = 0, nll_test = 0;
	int32_t last = -1;
	enum status st = OK;

	memset(out, 0, sizeof *out);
	if (!block || !kl) {
		st = err_set(err, ERR_MEMORY, "no memory to sum up %zu tokens", n);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		struct block_sum *b;

		if (p[i].context < low || p[i].context >= high)
			continue;
		if (!out->blocks || p[i].block != last)
			out->blocks++;
		last = p[i].block;
		b = &block[out->blocks - 1];
		b->kl += p[i].kl;
		b->same += p[i].same_top;
		b->log_ratio += p[i].nll_test - p[i].nll_ref;
		b->n++;
		nll_ref += p[i].nll_ref;
		nll_test += p[i].nll_test;
		kl[out->n++] = p[i].kl;
	}
	if (!out->n)
		goto out;
	for (size_t i = 0; i < out->blocks; i++) {
		all.kl += block[i].kl;
		all.same += block[i].same;
	}
	qsort(kl, out->n, sizeof *kl, by_value);
	out->kl_median = at_share(kl, out->n, 0.5);
	out->kl_p99 = at_share(kl, out->n, 0.99);
	out->kl_max = kl[out->n - 1];
	out->ppl_ref = exp(nll_ref / (double)out->n);
	out->ppl_test = exp(nll_test / (double)out->n);
	out->kl = exactly(all.kl / (double)out->n);
	out->top1 = exactly(all.same / (double)out->n);
	out->ratio = exactly(exp((nll_test - nll_ref) / (double)out->n));
	if (resamples > 0)
		st = bootstrap(out, block, out->blocks, (size_t)resamples, seed, err);
out:
	mem_free(block);
	mem_free(kl);
	return st;
}
