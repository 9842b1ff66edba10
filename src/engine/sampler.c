/* sampler.c - picks the next token from the logits.
 *
 * What  mask -> temperature -> top-k -> top-p -> min-p -> one draw; and the log-probabilities that answers report.
 * Why   It runs once per token on the engine thread: at V = 129,280 a full sort would cost more than some
 *       models' whole forward pass.
 * How   Every candidate weighs w = exp((l - l_max) / t), in double, so the best one weighs exactly 1 and nothing
 *       overflows.  Filters shrink the candidate list: top-k with a heap of k, top-p by bins of weight and selection
 *       inside the last bin (a quicksort that follows only the half in which the mass runs out), min-p by
 *       w >= min_p.  Each filter sees the distribution that the one before it left.  The draw walks what remains.
 * Careful
 *       - Order is by logit, then lower id first: a total order, so "the k best" is one set, whatever the method.
 *       - NaN and -inf are never candidates.  With +inf the distribution is degenerate: the first +inf is taken.
 *       - The walk can run past the end by a rounding error: the last candidate is the answer then.
 *       - exp_block() stands in for exp() because the compiler can make vector code of it; it is good to 4e-16.
 * Thread: a sampler belongs to one timeline; nothing here is shared. */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/mem.h"

#define BLOCK 64	/* logits weighed at a time */
#define FLOOR -700.0	/* exp of less counts as 0 */

struct sampler_item {
	double weight;
	float logit;
	int32_t id;
};

enum status sampler_check(const struct sampler_params *p, struct err *err)
{
	if (!(p->temperature >= 0.0f && p->temperature <= 1000.0f))
		return err_set(err, ERR_ARGUMENT, "temperature: expected 0 to 1000, got %g", (double)p->temperature);
	if (p->top_k < 0)
		return err_set(err, ERR_ARGUMENT, "top_k: expected 0 (off) or more, got %d", (int)p->top_k);
	if (!(p->top_p >= 0.0f && p->top_p <= 1.0f))
		return err_set(err, ERR_ARGUMENT, "top_p: expected 0 to 1, got %g", (double)p->top_p);
	if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
		return err_set(err, ERR_ARGUMENT, "min_p: expected 0 to 1, got %g", (double)p->min_p);
	return OK;
}

enum status sampler_init(struct sampler *s, const struct sampler_params *p, int32_t vocab, const uint8_t *allowed,
			 struct err *err)
{
	*s = (struct sampler){.p = *p, .vocab = vocab, .allowed = allowed};
	TRY(sampler_check(p, err));
	s->rng = rng_seed(p->seed);
	s->weight = mem_array((size_t)vocab + BLOCK - 1, sizeof *s->weight);	/* whole blocks */
	s->work = mem_array((size_t)vocab, sizeof *s->work);
	if (!s->weight || !s->work) {
		sampler_clear(s);
		return err_set(err, ERR_MEMORY, "no memory to sample from %d tokens", (int)vocab);
	}
	return OK;
}

void sampler_clear(struct sampler *s)
{
	mem_free(s->weight);
	mem_free(s->work);
	s->weight = NULL;
	s->work = NULL;
}

/* Can this token be a candidate?  False for masked ones, -inf and NaN. */
static bool candidate(const struct sampler *s, const float *logits, int32_t id)
{
	return (!s->allowed || s->allowed[id]) && logits[id] > -INFINITY;
}

/* The best candidate, the lower id on equal logits; -1 when there is none. */
static int32_t argmax(const struct sampler *s, const float *logits)
{
	float max = -INFINITY;
	int32_t best = -1;

	for (int32_t id = 0; id < s->vocab; id++)
		if (logits[id] > max && candidate(s, logits, id)) {
			max = logits[id];
			best = id;
		}
	return best;
}

static bool better(const struct sampler_item *a, const struct sampler_item *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap(struct sampler_item *a, struct sampler_item *b)
{
	struct sampler_item t = *a;

	*a = *b;
	*b = t;
}

/* Restores the heap below i; the worst item is at the root. */
static void sift_down(struct sampler_item *heap, int32_t n, int32_t i)
{
	for (;;) {
		int32_t child = 2 * i + 1;

		if (child >= n)
			return;
		if (child + 1 < n && better(&heap[child], &heap[child + 1]))
			child++;
		if (!better(&heap[i], &heap[child]))
			return;
		swap(&heap[i], &heap[child]);
		i = child;
	}
}

/* Fills work with the k best candidates, in no particular order; returns how many. */
static int32_t gather_best(struct sampler *s, const float *logits, int32_t k)
{
	struct sampler_item *heap = s->work;
	int32_t n = 0;

	for (int32_t id = 0; id < s->vocab; id++) {
		struct sampler_item item = {.logit = logits[id], .id = id};

		/* Ids ascend: an equal logit is never better. */
		if ((n == k && !(logits[id] > heap[0].logit)) || !candidate(s, logits, id))
			continue;
		if (n < k) {
			heap[n++] = item;
			if (n == k)
				for (int32_t i = k / 2; i-- > 0;)
					sift_down(heap, k, i);
		} else {
			heap[0] = item;
			sift_down(heap, k, 0);
		}
	}
	return n;
}

/* exp(x[i]) for FLOOR <= x[i] <= 0: 2^n e^r with |r| <= ln 2 / 2, e^r by its series to r^12. */
static void exp_block(double w[BLOCK], const double x[BLOCK])
{
	const double magic = 0x1.8p52;	/* adding it rounds to an integer, in the low bits */

	for (int i = 0; i < BLOCK; i++) {
		double shifted = x[i] * 1.4426950408889634 + magic, n = shifted - magic;
		double r = x[i] - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33, p = 1.0 / 479001600;
		uint64_t bits, power;

		p = p * r + 1.0 / 39916800;
		p = p * r + 1.0 / 3628800;
		p = p * r + 1.0 / 362880;
		p = p * r + 1.0 / 40320;
		p = p * r + 1.0 / 5040;
		p = p * r + 1.0 / 720;
		p = p * r + 1.0 / 120;
		p = p * r + 1.0 / 24;
		p = p * r + 1.0 / 6;
		p = p * r + 0.5;
		p = p * r + 1.0;
		p = p * r + 1.0;
		memcpy(&bits, &p, sizeof bits);
		memcpy(&power, &shifted, sizeof power);
		bits += power << 52;
		memcpy(&w[i], &bits, sizeof bits);
	}
}

/* Four sums side by side: one alone would wait for each addition. */
static double sum_of(const double w[BLOCK])
{
	double a = 0, b = 0, c = 0, d = 0;

	for (int i = 0; i < BLOCK; i += 4) {
		a += w[i];
		b += w[i + 1];
		c += w[i + 2];
		d += w[i + 3];
	}
	return (a + b) + (c + d);
}

/* Weighs n <= BLOCK logits against the greatest; NaN, -inf, what is not allowed (NULL: all is) and the rest of the
 * block weigh 0.  sharpness = 1 / t.  Returns the sum. */
static double weigh(double w[BLOCK], const float *logits, const uint8_t *allowed, int32_t n, float max, double sharpness)
{
	double x[BLOCK];
	float l[BLOCK];

	for (int32_t i = 0; i < BLOCK; i++)
		l[i] = -INFINITY;
	memcpy(l, logits, (size_t)n * sizeof *l);
	for (int32_t i = 0; i < BLOCK; i++) {
		double d = ((double)l[i] - (double)max) * sharpness;

		x[i] = d > FLOOR ? d : FLOOR;
	}
	exp_block(w, x);
	for (int32_t i = 0; i < BLOCK; i++)
		w[i] = x[i] > FLOOR ? w[i] : 0.0;
	for (int32_t i = 0; allowed && i < n; i++)
		w[i] = allowed[i] ? w[i] : 0.0;
	return sum_of(w);
}

/* Weighs the whole vocabulary; returns the sum. */
static double weigh_all(struct sampler *s, const float *logits, float max)
{
	double sum = 0;

	for (int32_t i = 0; i < s->vocab; i += BLOCK)
		sum += weigh(s->weight + i, logits + i, s->allowed ? s->allowed + i : NULL,
			     s->vocab - i < BLOCK ? s->vocab - i : BLOCK, max, 1.0 / (double)s->p.temperature);
	return sum;
}

/* Appends tokens that weigh at least `least` (> 0) and less than `below` to work[n..]; returns the new n. */
static int32_t gather(struct sampler *s, const float *logits, int32_t n, double least, double below)
{
	for (int32_t id = 0; id < s->vocab; id++)
		if (s->weight[id] >= least && s->weight[id] < below)
			s->work[n++] = (struct sampler_item){s->weight[id], logits[id], id};
	return n;
}

static double weight_of(const struct sampler_item *item, int32_t n)
{
	double sum = 0;

	for (int32_t i = 0; i < n; i++)
		sum += item[i].weight;
	return sum;
}

/* Moves the better items than the pivot to the front, the pivot behind them; returns its place.  n >= 2. */
static int32_t partition(struct sampler_item *item, int32_t n)
{
	struct sampler_item *mid = &item[n / 2], *last = &item[n - 1];
	int32_t place = 0;

	/* Median of three goes to the end, out of the way. */
	if (better(mid, item))
		swap(mid, item);
	if (better(last, item))
		swap(last, item);
	if (better(mid, last))
		swap(mid, last);
	for (int32_t i = 0; i < n - 1; i++)
		if (better(&item[i], last))
			swap(&item[i], &item[place++]);
	swap(&item[place], last);
	return place;
}

/* Puts the smallest set of best items whose weight reaches `need` at the front; returns its size, at least 1. */
static int32_t nucleus(struct sampler_item *item, int32_t n, double need)
{
	int32_t lo = 0, hi = n;		/* the set ends at some place in (lo, hi]; item[0..lo) is in it */

	while (hi - lo > 1) {
		int32_t pivot = lo + partition(item + lo, hi - lo);
		double front = weight_of(item + lo, pivot - lo);

		if (pivot > lo && front >= need) {
			hi = pivot;
		} else if (front + item[pivot].weight >= need) {
			return pivot + 1;
		} else {
			need -= front + item[pivot].weight;
			lo = pivot + 1;
		}
	}
	return hi;
}

/* Weights fall into bins of 2^(1/32)-like steps: the upper bits of a double, counted down from 1. */
#define BINS 2048

static int32_t bin_of(double w)
{
	const uint64_t one = 0x3ffull << 52;
	uint64_t bits, bin;

	memcpy(&bits, &w, sizeof bits);
	bin = (one - bits + (1ull << 47) - 1) >> 47;
	return bin < BINS ? (int32_t)bin : BINS - 1;
}

/* Least weight of a bin; the last one holds everything else above 0. */
static double bin_floor(int32_t bin)
{
	uint64_t bits = bin < BINS - 1 ? (0x3ffull << 52) - ((uint64_t)bin << 47) : 1;
	double w;

	memcpy(&w, &bits, sizeof w);
	return w;
}

/* top-p over the whole vocabulary: bins whole until the mass is reached, selection inside the last one. */
static int32_t keep_top_p(struct sampler *s, const float *logits, double need)
{
	double mass[BINS] = {0}, above = 0;
	int32_t bin = 0, n;

	for (int32_t id = 0; id < s->vocab; id++)
		mass[bin_of(s->weight[id])] += s->weight[id];
	for (; bin < BINS - 1 && above + mass[bin] < need; bin++)
		above += mass[bin];
	n = gather(s, logits, 0, bin ? bin_floor(bin - 1) : INFINITY, INFINITY);
	return n + nucleus(s->work + n, gather(s, logits, n, bin_floor(bin), bin ? bin_floor(bin - 1) : INFINITY) - n,
			   need - above);
}

/* The k best, weighed, at the front of work; returns how many. */
static int32_t keep_top_k(struct sampler *s, const float *logits, float max)
{
	int32_t n = gather_best(s, logits, s->p.top_k);

	for (int32_t i = 0; i < n; i++)
		s->work[i].weight = exp(((double)s->work[i].logit - (double)max) / (double)s->p.temperature);
	return n;
}

static int32_t keep_min_p(struct sampler_item *item, int32_t n, double min_p)
{
	int32_t kept = 0;

	for (int32_t i = 0; i < n; i++)
		if (item[i].weight >= min_p)
			item[kept++] = item[i];
	return kept;
}

static int32_t draw_item(struct sampler *s, int32_t n)
{
	double left = rng_uniform(&s->rng) * weight_of(s->work, n);

	for (int32_t i = 0; i < n - 1; i++) {
		left -= s->work[i].weight;
		if (left < 0)
			return s->work[i].id;
	}
	return s->work[n - 1].id;
}

/* From all tokens; `last` is one that may come. */
static int32_t draw_any(struct sampler *s, double sum, int32_t last)
{
	double left = rng_uniform(&s->rng) * sum;

	for (int32_t i = 0; i < s->vocab; i += BLOCK) {
		int32_t end = s->vocab - i < BLOCK ? s->vocab : i + BLOCK;
		double block = sum_of(s->weight + i);

		if (left >= block) {
			left -= block;
			continue;
		}
		for (int32_t id = i; id < end; id++) {
			left -= s->weight[id];
			if (left < 0)
				return id;
		}
	}
	return last;
}

int32_t sampler_pick(struct sampler *s, const float *logits)
{
	int32_t best = argmax(s, logits), n;
	double top_p = (double)s->p.top_p, min_p = (double)s->p.min_p, sum;

	if (best < 0 || s->p.temperature == 0.0f || s->p.top_k == 1 || isinf(logits[best]))
		return best;
	if (s->p.top_k && s->p.top_k < s->vocab) {
		n = keep_top_k(s, logits, logits[best]);
		if (top_p < 1.0)
			n = nucleus(s->work, n, top_p * weight_of(s->work, n));
	} else {
		sum = weigh_all(s, logits, logits[best]);
		if (top_p < 1.0)
			n = keep_top_p(s, logits, top_p * sum);
		else if (min_p > 0.0)
			n = gather(s, logits, 0, min_p, INFINITY);
		else
			return draw_any(s, sum, best);
	}
	return draw_item(s, keep_min_p(s->work, n, min_p));
}

/* log of sum exp(logits) over all numbers; max is the greatest.  NaN counts as probability 0. */
static double log_sum(const float *logits, int32_t vocab, float *max_out)
{
	double sum = 0, w[BLOCK];
	float max = -INFINITY;

	for (int32_t id = 0; id < vocab; id++)
		if (logits[id] > max)
			max = logits[id];
	*max_out = max;
	if (isinf(max))
		return (double)max;
	for (int32_t i = 0; i < vocab; i += BLOCK)
		sum += weigh(w, logits + i, NULL, vocab - i < BLOCK ? vocab - i : BLOCK, max, 1.0);
	return (double)max + log(sum);
}

/* Shared by both: l - log sum exp, where impossible tokens have -inf and +inf takes everything. */
static double logprob(float logit, double lse, float max)
{
	if (!(logit > -INFINITY))
		return -INFINITY;
	if (isinf(max))
		return logit == max ? 0.0 : -INFINITY;
	return (double)logit - lse;
}

/* Ids of NaN logits are never listed; places that cannot be filled get id -1 and -inf. */
void sampler_top(const float *logits, int32_t vocab, int32_t k, int32_t *id, float *out)
{
	int32_t n = 0;
	float max;
	double lse = log_sum(logits, vocab, &max);

	for (int32_t i = 0; i < vocab && k > 0; i++) {
		int32_t j;

		if (isnan(logits[i]) || (n == k && logits[i] <= logits[id[n - 1]]))
			continue;
		if (n < k)
			n++;
		for (j = n - 1; j > 0 && logits[i] > logits[id[j - 1]]; j--)
			id[j] = id[j - 1];
		id[j] = i;
	}
	for (int32_t j = 0; j < k; j++) {
		if (j >= n)
			id[j] = -1;
		out[j] = j < n ? (float)logprob(logits[id[j]], lse, max) : -INFINITY;
	}
}

double sampler_logprob(const float *logits, int32_t vocab, int32_t id)
{
	float max;
	double lse = log_sum(logits, vocab, &max);

	assert(id >= 0 && id < vocab);
	return logprob(logits[id], lse, max);
}
