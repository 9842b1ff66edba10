/* cuda_bench.c - speed of a whole model on the cuda backend, and where the time goes.
 *
 *   cuda_bench MODEL [CONTEXT]     load, prefill in chunks of 2,048 up to CONTEXT (default 2048), decode of 1, 4 and 16
 *                                  streams at that context, then the time of every operation from events.
 * Random tokens: speed does not depend on them, except through the experts they choose. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/forward.h"

enum { CHUNK = 2048, STREAMS = 16, STEPS = 48 };

static struct err err;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(enum status st)
{
	if (st == OK)
		return;
	printf("FAILED: %s\n", err.msg);
	exit(1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, by_value);
	return v[n / 2];
}

static void (*profile)(struct backend *be, int on);
static void (*report)(struct backend *be, void *file, int steps);
static size_t (*weight_bytes)(struct backend *be);

/* The library is loaded already; its extra functions are found by the address of one of its own. */
static void find_extras(struct backend *be)
{
	Dl_info info;
	void *h, *p, *any;

	memcpy(&any, &be->wait, sizeof any);
	if (!dladdr(any, &info) || !(h = dlopen(info.dli_fname, RTLD_NOW)))
		return;
	p = dlsym(h, "ds4_cuda_profile");
	memcpy(&profile, &p, sizeof p);
	p = dlsym(h, "ds4_cuda_report");
	memcpy(&report, &p, sizeof p);
	p = dlsym(h, "ds4_cuda_weight_bytes");
	memcpy(&weight_bytes, &p, sizeof p);
}

static double decode(struct forward *f, struct kv **kv, int streams, int32_t *token, int32_t vocab, float *logits, int steps)
{
	struct forward_part part[STREAMS];
	double took[STEPS];

	for (int s = 0; s < steps; s++) {
		double t0 = now();

		for (int i = 0; i < streams; i++)
			part[i] = (struct forward_part){.kv = kv[i], .token = &token[i], .n = 1, .last_logits = true};
		must(forward_step(f, part, streams, logits, NULL, &err));
		for (int i = 0; i < streams; i++) {	/* the best token, as greedy decoding takes it */
			const float *l = logits + (size_t)i * (size_t)vocab;
			float top = l[0];
			int32_t best = 0;

			for (int32_t v = 1; v < vocab; v++)
				top = l[v] > top ? l[v] : top;
			while (l[best] < top)
				best++;
			token[i] = best;
		}
		took[s] = now() - t0;
	}
	return median(took, steps);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "models/ds4-nano-q2.gguf";
	int32_t context = argc > 2 ? atoi(argv[2]) : 2048, *token;
	struct be_options opt = {.numerics = BE_NUMERICS_MODEL};
	struct kv *kv[STREAMS] = {0};
	struct rng r = rng_seed(3);
	struct kv_layout layout;
	struct weights weights;
	struct kv_pool pool;
	struct forward *f;
	struct backend *be;
	struct shape shape;
	struct gguf *g;
	float *logits;
	double t0 = now(), t;

	setvbuf(stdout, NULL, _IOLBF, 0);
	must(gguf_open(&g, path, &err));
	must(shape_read(&shape, g, &err));
	must(be_open(&be, "cuda", &opt, &err));
	find_extras(be);
	printf("%s: opened in %.2f s\n", path, now() - t0);
	t0 = now();
	must(weights_bind(&weights, g, &shape, be, &err));
	must(be_submit(be, &err));
	t = now() - t0;
	if (weight_bytes)
		printf("load: %.2f GB in %.2f s, %.2f GB/s\n", (double)weight_bytes(be) / 1e9, t, (double)weight_bytes(be) / 1e9 / t);
	kv_layout_make(&layout, &shape, be);
	kv_pool_init(&pool, be, &layout, 1 << 16);
	printf("KV: %.2f kB a token, tail %.2f MB\n", (double)layout.block_bytes / 128e3, (double)layout.tail_bytes / 1e6);
	must(forward_open(&f, be, &shape, &weights, &layout, CHUNK, STREAMS, &err));
	must(kv_open(&kv[0], &pool, 4, &err));
	token = mem_array((size_t)context + CHUNK, sizeof *token);
	logits = mem_array((size_t)STREAMS * (size_t)shape.vocab, sizeof *logits);
	if (!token || !logits)
		return 1;
	for (int32_t i = 0; i < context + CHUNK; i++)
		token[i] = (int32_t)rng_below(&r, (uint64_t)shape.vocab);
	for (int32_t i = 0; i < context;) {
		int32_t n = context - i < CHUNK ? context - i : CHUNK;

		t0 = now();
		must(forward_step(f, &(struct forward_part){.kv = kv[0], .token = token + i, .n = n, .last_logits = true}, 1, logits,
				  NULL, &err));
		t = now() - t0;
		printf("prefill %6d + %4d: %8.2f ms, %8.1f t/s\n", i, n, 1e3 * t, n / t);
		i += n;
	}
	{	/* a second first chunk: kernels and memory are warm now */
		struct kv *again;

		must(kv_open(&again, &pool, 4, &err));
		for (int i = 0; i < 2; i++) {
			int32_t n = context < CHUNK ? context : CHUNK;

			if (i && profile)
				profile(be, 1);
			t0 = now();
			must(forward_step(f, &(struct forward_part){.kv = again, .token = token, .n = n, .last_logits = true}, 1,
					  logits, NULL, &err));
			t = now() - t0;
			printf("prefill %6d + %4d: %8.2f ms, %8.1f t/s (%s)\n", i * n, n, 1e3 * t, n / t,
			       i ? "with events" : "warm");
		}
		if (profile) {
			report(be, stdout, 1);
			profile(be, 0);
		}
		kv_close(again);
	}
	for (int i = 1; i < STREAMS; i++)
		must(kv_fork(&kv[i], kv[0], &err));
	for (int streams = 1; streams <= STREAMS; streams *= 4) {
		double one;

		decode(f, kv, streams, token, shape.vocab, logits, 4);
		one = decode(f, kv, streams, token, shape.vocab, logits, STEPS);
		printf("decode at %d, %2d streams: %.3f ms a step, %.1f t/s together\n", context, streams, 1e3 * one, streams / one);
	}
	for (int streams = 1; profile && streams <= STREAMS; streams *= 16) {
		profile(be, 1);
		decode(f, kv, streams, token, shape.vocab, logits, 8);
		printf("decode, %d streams, kernels one by one:\n", streams);
		report(be, stdout, 8);
		profile(be, 0);
	}
	for (int i = 0; i < STREAMS; i++)
		kv_close(kv[i]);
	forward_close(f);
	kv_pool_clear(&pool);
	weights_clear(&weights);
	be_close(be);
	gguf_close(g);
	return 0;
}
