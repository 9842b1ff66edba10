/* quality.h - how far one model's predictions are from another's: numbers for each token, and what they sum to.
 *
 * p is the reference's distribution over the vocabulary, q that of the model under test, both at temperature 1:
 *
 *	KL         sum_v p_v log(p_v / q_v)	nats, 0 for the same distribution
 *	top-1      the likeliest token is the same; equal logits: the lower id
 *	perplexity exp(mean of -log p(token that stands in the text))
 *
 * Thread: no state. */
#ifndef DS4_WORKSHOP_QUALITY_H
#define DS4_WORKSHOP_QUALITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* What is known of the reference at one position: all log-probabilities, or the likeliest n. */
struct quality_row {
	const int32_t *id;	/* [n] likeliest first; NULL: logprob is that of tokens 0..n-1, n = V */
	const float *logprob;	/* [n] natural logarithms */
	int32_t n;
	float target;		/* log-probability of the text's next token */
};

struct quality_point {
	double kl, nll_ref, nll_test;
	int32_t context;	/* tokens read before the predicted one */
	int32_t block;		/* points of one block stand or fall together when resampling; ascending */
	bool same_top;
};

/* logits [v] to log-probabilities [v], sums in double. */
void quality_logprobs(float *out, const float *logits, int32_t v);
int32_t quality_best(const float *x, int32_t v);	/* index of the largest, the lower one among equals */

/* Fills kl, nll_ref, nll_test and same_top.  test: log-probabilities [v].  Of a row with n < V the rest of the
 * vocabulary counts as one token, which can only make KL smaller. */
void quality_compare(struct quality_point *out, const struct quality_row *ref, const float *test, int32_t v,
		     int32_t target);

struct quality_interval {
	double value, low, high;	/* low..high covers 95 % of the resampled values */
};

struct quality_summary {
	size_t n, blocks;		/* points, and blocks that they form */
	struct quality_interval kl, top1, ratio;	/* mean KL; share of the same top; perplexity test / ref */
	double kl_median, kl_p99, kl_max, ppl_ref, ppl_test;
};

/* Sums up the points with low <= context < high.  Intervals by resampling whole blocks with replacement, `resamples`
 * times (0: low = high = value).  The same seed gives the same intervals.  n = 0 when no point is in the range.
 * ERR_MEMORY. */
enum status quality_summarise(struct quality_summary *out, const struct quality_point *p, size_t n, int32_t low,
			      int32_t high, int resamples, uint64_t seed, struct err *err);

/* How two models compare on the same points of the same reference: a against b. */
struct quality_pair {
	size_t n, blocks;
	struct quality_interval kl, top1;	/* a's mean KL less b's; share of the same top, likewise */
	struct quality_interval ratio;		/* perplexity a / b */
};

/* Like quality_summarise() over a[0..n) and b[0..n), which are of the same tokens: each block is drawn for both, so
 * that what the texts do to both cancels. */
enum status quality_compare_pair(struct quality_pair *out, const struct quality_point *a,
				 const struct quality_point *b, size_t n, int32_t low, int32_t high, int resamples,
				 uint64_t seed, struct err *err);

#endif
