/* model_kit.c - see model_kit.h. */
#include "support/model_kit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"

static struct err err;

static void must(enum status st)
{
	if (st != OK)
		fail_msg("%s", err.msg);
}

void model_kit_open(struct model_kit *m, const char *path, const char *backend, int threads, struct be_numerics numerics,
		    int32_t max_rows, int32_t max_logits)
{
	struct be_options opt = {.threads = threads, .numerics = numerics};

	memset(m, 0, sizeof *m);
	must(gguf_open(&m->gguf, path, &err));
	must(shape_read(&m->shape, m->gguf, &err));
	must(be_open(&m->be, backend, &opt, &err));
	must(weights_bind(&m->weights, m->gguf, &m->shape, m->be, &err));
	kv_layout_make(&m->layout, &m->shape, m->be);
	kv_pool_init(&m->pool, m->be, &m->layout, 1 << 16);
	must(forward_open(&m->forward, m->be, &m->shape, &m->weights, &m->layout, max_rows, max_logits, &err));
}

void model_kit_close(struct model_kit *m)
{
	forward_close(m->forward);
	assert_int_equal(m->pool.live, 0);	/* every timeline gave its blocks back */
	kv_pool_clear(&m->pool);
	weights_clear(&m->weights);
	be_close(m->be);
	gguf_close(m->gguf);
}

struct kv *model_kit_timeline(struct model_kit *m)
{
	struct kv *kv;

	must(kv_open(&kv, &m->pool, 16, &err));
	return kv;
}

void model_kit_read(struct model_kit *m, struct kv *kv, const int32_t *token, int32_t n, int32_t chunk,
		    const int32_t *pos, int32_t n_pos, float *logits)
{
	int32_t start = kv->len, at = 0;
	size_t vocab = (size_t)m->shape.vocab;
	float *all = mem_array((size_t)forward_max_logits(m->forward), vocab * sizeof *all);

	assert_non_null(all);
	for (int32_t i = 0; i < n;) {
		int32_t k = n - i < chunk ? n - i : chunk;
		int32_t next = at < n_pos ? pos[at] - start : n;
		bool wants;

		if (next >= i && next < i + k)	/* end the step at the row whose logits are wanted */
			k = next - i + 1;
		wants = next == i + k - 1;
		must(forward_step(m->forward, &(struct forward_part){kv, token + i, k, false, wants}, 1, all, NULL, &err));
		if (wants)
			memcpy(logits + (size_t)at++ * vocab, all, vocab * sizeof *all);
		i += k;
	}
	assert_int_equal(at, n_pos);
	mem_free(all);
}

double logits_distance(const float *a, const float *b, int32_t n)
{
	double diff = 0, mean = 0, var = 0;

	for (int32_t i = 0; i < n; i++) {
		diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		mean += b[i];
	}
	mean /= n;
	for (int32_t i = 0; i < n; i++)
		var += (b[i] - mean) * (b[i] - mean);
	return sqrt(diff / var);
}

int32_t logits_best(const float *a, int32_t n)
{
	int32_t best = 0;

	for (int32_t i = 1; i < n; i++)
		if (a[i] > a[best])
			best = i;
	return best;
}

static double log_sum(const float *a, int32_t n)
{
	double top = a[logits_best(a, n)], sum = 0;

	for (int32_t i = 0; i < n; i++)
		sum += exp(a[i] - top);
	return top + log(sum);
}

double logits_kl(const float *a, const float *b, int32_t n)
{
	double za = log_sum(a, n), zb = log_sum(b, n), kl = 0;

	for (int32_t i = 0; i < n; i++)
		kl += exp(b[i] - zb) * ((b[i] - zb) - (a[i] - za));
	return kl;
}
