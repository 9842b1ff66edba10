/* attn.cuh - what the two attention kernels share: which rows a token sees, where they are stored, and their bytes. */
#ifndef DS4_CUDA_ATTN_CUH
#define DS4_CUDA_ATTN_CUH

#include "cuda_int.cuh"

struct attending {
	const float *q;
	float *out, *part;		/* part: [T, H, splits, GEOM_HEAD + 4] or NULL */
	const uint8_t *fresh;
	const int32_t *pick;
	struct dw sinks;
	struct kv_layer l;
	int32_t fresh_rows, heads, top_k, splits;
};

/* attn_many.cu: many rows of a step, tensor cores.  False: this device has too little shared memory for it. */
bool k_attend_many(struct eng *e, const struct attending *a, int32_t n_rows);

#ifdef __CUDACC__

struct seen {		/* the rows a token sees: window first, then compressed, ascending */
	int first, window, n;
	bool all;
};

static __device__ inline struct seen rows_seen(const struct attending &a, int pos)
{
	struct seen o;
	int visible = geom_visible(pos, a.l.ratio);

	o.all = !a.pick || visible <= a.top_k;
	o.first = geom_window_first(pos, a.l.window);
	o.window = pos + 1 - o.first;
	o.n = o.window + (o.all ? visible : a.top_k);
	return o;
}

struct packed {		/* one stored row; plain and rot are multiples of 16 bytes */
	const uint8_t *plain, *rot, *scale;
};

/* Row i of what row t of the step sees. */
static __device__ inline struct packed packed_row(const struct attending &a, const struct dstep &s, const struct span &sp,
						  int t, const struct seen &o, int i)
{
	const struct dtimeline tl = s.timeline[sp.timeline];
	const uint8_t *base;
	struct packed r;
	int count, at;

	if (i < o.window) {
		int p = o.first + i;

		if (p < sp.pos0) {
			base = tl.tail + a.l.tail_ring;
			count = a.l.window;
			at = geom_ring_slot(p, a.l.window);
		} else {
			base = a.fresh;
			count = a.fresh_rows;
			at = sp.row0 + p - sp.pos0;
		}
	} else {
		int c = o.all ? i - o.window : a.pick[(size_t)t * a.top_k + i - o.window];

		base = s.block[tl.first + geom_row_block(c, a.l.ratio)] + a.l.block_rows;
		count = geom_rows_per_block(a.l.ratio);
		at = geom_row_in_block(c, a.l.ratio);
	}
	r.plain = base + (size_t)at * GEOM_PLAIN;
	r.rot = base + (size_t)count * GEOM_PLAIN + (size_t)at * GEOM_ROT * 2;
	r.scale = base + (size_t)count * (GEOM_PLAIN + GEOM_ROT * 2) + (size_t)at * GEOM_ROW_SCALES;
	return r;
}

#endif
#endif
