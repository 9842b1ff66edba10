/* bench_context.c - timelines for `ds4 bench`: made up in an instant, or copied.
 *
 * What  bench_fill() gives a timeline any length without reading tokens: random rows, keys and frontiers.
 * Why   Reading 64k tokens on a CPU takes the better part of an hour; how long a step takes does not depend on the
 *       values in the history.
 * How   One host copy of a block and of a tail is filled and uploaded as often as needed; every block differs, so that
 *       the indexer's choice does not meet ties everywhere.
 * Careful
 *       - Every byte must be a number a kernel may meet: no NaN among E4M3 and f16, scales near one. */
#include <string.h>

#include "base/mem.h"
#include "cli/bench.h"

/* n bytes, each masked. */
static void random_bytes(uint8_t *p, size_t n, uint64_t mask, struct rng *rng)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = rng_u64(rng) & mask;

		memcpy(p + i, &v, n - i < 8 ? n - i : 8);
	}
}

/* E8M0: 2^-7 to 2^0. */
static void random_scales(uint8_t *p, size_t n, struct rng *rng)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(120 + rng_below(rng, 8));
}

/* n activations or wide values in -1..1. */
static void random_reals(uint8_t *p, size_t n, size_t bytes, struct rng *rng)
{
	for (size_t i = 0; i < n; i++) {
		double wide = 2 * rng_uniform(rng) - 1;
		float narrow = (float)wide;

		if (bytes == sizeof wide)
			memcpy(p + i * bytes, &wide, bytes);
		else
			memcpy(p + i * bytes, &narrow, bytes);
	}
}

/* A group of `count` rows: E4M3, f16, E8M0 (backend.h); wide rows are float64. */
static void random_rows(uint8_t *p, size_t count, const struct backend *be, struct rng *rng)
{
	if (!be->numerics.packed) {
		random_reals(p, count * GEOM_HEAD, sizeof(double), rng);
		return;
	}
	random_bytes(p, count * GEOM_PLAIN, 0xBFBFBFBFBFBFBFBF, rng);	/* below 2 */
	p += count * GEOM_PLAIN;
	random_bytes(p, count * GEOM_ROT * 2, 0xBFFFBFFFBFFFBFFF, rng);	/* below 2 */
	random_scales(p + count * GEOM_ROT * 2, count * GEOM_ROW_SCALES, rng);
}

static void random_keys(uint8_t *p, size_t count, const struct backend *be, struct rng *rng)
{
	if (!be->numerics.packed) {
		random_reals(p, count * GEOM_KEY, sizeof(double), rng);
		return;
	}
	random_bytes(p, count * GEOM_KEY / 2, UINT64_MAX, rng);
	random_scales(p + count * GEOM_KEY / 2, count * GEOM_KEY_SCALES, rng);
}

static void random_block(uint8_t *p, const struct kv_layout *layout, const struct backend *be, struct rng *rng)
{
	for (int32_t l = 0; l < layout->n_layer; l++) {
		const struct kv_layer *k = &layout->layer[l];

		random_rows(p + k->block_rows, (size_t)geom_rows_per_block(k->ratio), be, rng);
		if (k->ratio == 4)
			random_keys(p + k->block_keys, (size_t)geom_rows_per_block(4), be, rng);
	}
}

static void random_tail(uint8_t *p, const struct kv_layout *layout, const struct backend *be, struct rng *rng)
{
	for (int32_t l = 0; l < layout->n_layer; l++) {
		const struct kv_layer *k = &layout->layer[l];
		size_t slots = (size_t)geom_frontier_slots(k->ratio);

		random_rows(p + k->tail_ring, (size_t)k->window, be, rng);
		random_reals(p + k->tail_front, 2 * slots * (size_t)geom_pool_width(GEOM_HEAD, k->ratio), be->real_bytes, rng);
		if (k->ratio == 4)
			random_reals(p + k->tail_front_key, 2 * slots * (size_t)geom_pool_width(GEOM_KEY, 4), be->real_bytes,
				     rng);
	}
}

enum status bench_fill(struct kv *kv, int32_t len, struct rng *rng, struct err *err)
{
	const struct kv_layout *layout = kv->pool->layout;
	struct backend *be = kv->pool->be;
	size_t room = layout->block_bytes > layout->tail_bytes ? layout->block_bytes : layout->tail_bytes;
	int32_t first = kv->len / GEOM_BLOCK;
	uint8_t *host;

	if (len <= kv->len)
		return OK;
	TRY(kv_reserve(kv, len, err));
	host = mem_zero(room);
	if (!host)
		return err_set(err, ERR_MEMORY, "no memory for %zu bytes of made-up history", room);
	for (int32_t b = first; b < kv->dev.n_block; b++) {
		random_block(host, layout, be, rng);
		be->upload(be, kv->dev.block[b], host, layout->block_bytes);
	}
	memset(host, 0, room);
	random_tail(host, layout, be, rng);
	be->upload(be, kv->dev.tail, host, layout->tail_bytes);
	mem_free(host);
	kv_advance(kv, len - kv->len);
	return be_submit(be, err);
}

enum status bench_copy(struct kv **out, const struct kv *from, bool share, struct err *err)
{
	struct backend *be = from->pool->be;
	struct kv *kv = NULL;
	enum status st;

	*out = NULL;
	if (share)
		return kv_fork(out, from, err);
	TRY(kv_open(&kv, from->pool, from->max_check, err));
	st = kv_reserve(kv, from->len, err);
	if (st != OK) {
		kv_close(kv);
		return st;
	}
	for (int32_t b = 0; b < kv->dev.n_block; b++)
		be->copy(be, kv->dev.block[b], from->dev.block[b], from->pool->layout->block_bytes);
	be->copy(be, kv->dev.tail, from->dev.tail, from->pool->layout->tail_bytes);
	kv_advance(kv, from->len);
	*out = kv;
	return be_submit(be, err);
}
