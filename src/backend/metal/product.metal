/* product.metal - matrix products: few rows (each SIMD group reads weight rows once), many rows (8x8 matrices), experts.
 *
 * Two classes, as on CUDA.  The vector class reads every weight once for up to MTL_MV_ROWS rows and sums in a fixed
 * order, so a row has the same bits whatever rows are beside it.  The matrix class stages tiles as float in threadgroup
 * memory and multiplies them with the SIMD group's matrices; there too a row does not depend on the others, but the order
 * of the sums is another one.
 *
 * Careful: reading beyond the last row or output is avoided by clamping (results are not stored), never by leaving early
 * when a barrier follows. */
#include "backend/metal/common.metal"

/* ------------------------------------------------------------------ few rows */

/* y[t, o] = w[o] . x[t] for MTL_MV_OUT outputs per SIMD group and NR rows.  Grid: outputs, rows / NR. */
template <int TYPE, int NR, int OUT>
inline void matvec_body(constant mtl_product &a, device const uchar *w, device const float *x, device float *y, uint o0, uint t0,
			uint lane)
{
	const uint shift = a.group_out ? o0 / a.group_out * a.in : 0;
	float sum[OUT][NR];

	for (int o = 0; o < OUT; o++)
		for (int r = 0; r < NR; r++)
			sum[o][r] = 0;
	for (uint c = lane; c < a.in / 8; c += MTL_SIMD) {
		eight e[OUT];

		for (int o = 0; o < OUT; o++)
			e[o] = decode8<TYPE>(w + ulong(min(o0 + o, a.out - 1)) * a.row_bytes, c);
		for (int r = 0; r < NR; r++) {
			const uint t = min(t0 + r, a.rows - 1);
			device const float4 *v = (device const float4 *)(x + ulong(t) * a.x_stride + shift) + 2 * c;
			const float4 lo = v[0], hi = v[1];

			for (int o = 0; o < OUT; o++)
				sum[o][r] = dot8(sum[o][r], e[o], lo, hi);
		}
	}
	for (int o = 0; o < OUT; o++)
		for (int r = 0; r < NR; r++) {
			const float s = simd_sum(sum[o][r]);

			if (lane == 0 && o0 + o < a.out && t0 + r < a.rows)
				y[ulong(t0 + r) * a.y_stride + o0 + o] = s;
		}
}

#define MATVEC(name, NR, OUT)                                                                                     \
	template <int TYPE>                                                                                       \
	kernel void name(constant mtl_product &a [[buffer(0)]], device const uchar *w [[buffer(1)]],              \
			 device const float *x [[buffer(2)]], device float *y [[buffer(3)]],                      \
			 uint2 tg [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],      \
			 uint sg [[simdgroup_index_in_threadgroup]])                                              \
	{                                                                                                         \
		const uint o0 = (tg.x * MTL_MV_SIMDS + sg) * OUT;                                                 \
                                                                                                                  \
		if (o0 < a.out)                                                                                   \
			matvec_body<TYPE, NR, OUT>(a, w, x, y, o0, tg.y * NR, lane);                              \
	}                                                                                                         \
	EVERY_TYPE(name)
MATVEC(matvec, 1, MTL_MV_OUT)
MATVEC(matvec_rows, MTL_MV_ROWS, MTL_MV_OUT)
MATVEC(matvec_group, 1, 1)		/* outputs of a SIMD group never straddle two groups */

/* hidden[pair, f] = gate weight * swiglu(gate x, up x) for each (row, chosen expert).  Grid: outputs, pairs. */
template <int TYPE>
kernel void expert_in(constant mtl_experts &a [[buffer(0)]], device const uchar *gate [[buffer(1)]],
		      device const uchar *up [[buffer(2)]], device const float *x [[buffer(3)]],
		      device const int *idx [[buffer(4)]], device const float *weight [[buffer(5)]],
		      device float *hidden [[buffer(6)]], uint2 tg [[threadgroup_position_in_grid]],
		      uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]])
{
	const uint o = tg.x * MTL_MV_SIMDS + sg, pair = tg.y;

	if (o >= a.out)
		return;
	const ulong bytes = ulong(a.matrix_bytes_hi) << 32 | a.matrix_bytes_lo;
	const ulong at = ulong(idx[pair]) * bytes + ulong(o) * a.row_bytes;
	device const float4 *v = (device const float4 *)(x + ulong(pair / a.used) * a.in);
	float g = 0, u = 0;

	for (uint c = lane; c < a.in / 8; c += MTL_SIMD) {
		const float4 lo = v[2 * c], hi = v[2 * c + 1];

		g = dot8(g, decode8<TYPE>(gate + at, c), lo, hi);
		u = dot8(u, decode8<TYPE>(up + at, c), lo, hi);
	}
	g = simd_sum(g);
	u = simd_sum(u);
	if (lane == 0)
		hidden[ulong(pair) * a.out + o] = swiglu_of(g, u, a.limit) * weight[pair];
}
EVERY_TYPE(expert_in)

/* y[t, o] = sum over the chosen experts of down[e, o] . hidden[pair].  Grid: outputs, rows. */
template <int TYPE>
kernel void expert_out(constant mtl_experts &a [[buffer(0)]], device const uchar *down [[buffer(1)]],
		       device const float *hidden [[buffer(2)]], device const int *idx [[buffer(3)]], device float *y [[buffer(4)]],
		       uint2 tg [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
		       uint sg [[simdgroup_index_in_threadgroup]])
{
	const uint o = tg.x * MTL_MV_SIMDS + sg;
	const ulong bytes = ulong(a.matrix_bytes_hi) << 32 | a.matrix_bytes_lo;
	float sum = 0;

	if (o >= a.out)
		return;
	for (uint k = 0; k < a.used; k++) {
		const uint pair = tg.y * a.used + k;
		device const uchar *row = down + ulong(idx[pair]) * bytes + ulong(o) * a.row_bytes;
		device const float4 *v = (device const float4 *)(hidden + ulong(pair) * a.in);

		for (uint c = lane; c < a.in / 8; c += MTL_SIMD)
			sum = dot8(sum, decode8<TYPE>(row, c), v[2 * c], v[2 * c + 1]);
	}
	sum = simd_sum(sum);
	if (lane == 0)
		y[ulong(tg.y) * a.out + o] = sum;
}
EVERY_TYPE(expert_out)

/* ------------------------------------------------------------------ many rows */

/* Which rows of x and y a tile is about, and which matrix. */
struct tile_shape {
	uint n;				/* rows in the tile, at most MTL_MM_ROWS */
	uint x_stride, y_stride, in, out_begin, out_end, row_bytes;
};

/* One tile: y[rows, out_begin..] = x w^T.  `stage` holds x [32, 32] and w [64, 32], later the result [32, 64].
 * x_row(r) and y_row(r) of row r < n: from `list` when `listed` (pair numbers; x row = pair / x_per), else base + r. */
template <int TYPE>
inline void tile_product(const tile_shape d, device const uchar *w, device const float *x, device float *y, uint base,
			 device const int *list, bool listed, uint x_per, threadgroup float *stage, uint t, uint sg)
{
	threadgroup float *sx = stage, *sw = stage + MTL_MM_ROWS * MTL_MM_DEPTH;
	const uint r = t / 4, chunk = t % 4, m0 = sg % 2 * 16, n0 = sg / 2 * 32;
	const uint at = base + min(r, d.n - 1), x_row = listed ? uint(list[at]) / x_per : at;
	device const float4 *xr = (device const float4 *)(x + ulong(x_row) * d.x_stride) + 2 * chunk;
	simdgroup_float8x8 acc[2][4];

	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 4; j++)
			acc[i][j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
	for (uint k = 0; k < d.in; k += MTL_MM_DEPTH) {
		threadgroup float4 *to = (threadgroup float4 *)sx + 2 * t;

		to[0] = xr[k / 4];
		to[1] = xr[k / 4 + 1];
		for (uint i = t; i < MTL_MM_OUT * 4; i += MTL_MM_THREADS) {
			const uint o = min(d.out_begin + i / 4, d.out_end - 1);
			const eight e = decode8<TYPE>(w + ulong(o) * d.row_bytes, k / 8 + i % 4);

			to = (threadgroup float4 *)sw + 2 * i;
			to[0] = e.lo;
			to[1] = e.hi;
		}
		threadgroup_barrier(mem_flags::mem_threadgroup);
		for (uint s = 0; s < MTL_MM_DEPTH; s += 8) {
			simdgroup_float8x8 a[2], b[4];

			for (int i = 0; i < 2; i++)
				simdgroup_load(a[i], sx + (m0 + 8 * i) * MTL_MM_DEPTH + s, MTL_MM_DEPTH);
			for (int j = 0; j < 4; j++)
				simdgroup_load(b[j], sw + (n0 + 8 * j) * MTL_MM_DEPTH + s, MTL_MM_DEPTH, ulong2(0, 0), true);
			for (int i = 0; i < 2; i++)
				for (int j = 0; j < 4; j++)
					simdgroup_multiply_accumulate(acc[i][j], a[i], b[j], acc[i][j]);
		}
		threadgroup_barrier(mem_flags::mem_threadgroup);
	}
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 4; j++)
			simdgroup_store(acc[i][j], stage + (m0 + 8 * i) * MTL_MM_OUT + n0 + 8 * j, MTL_MM_OUT);
	threadgroup_barrier(mem_flags::mem_threadgroup);
	for (uint i = t; i < MTL_MM_ROWS * MTL_MM_OUT; i += MTL_MM_THREADS) {
		const uint m = i / MTL_MM_OUT, o = d.out_begin + i % MTL_MM_OUT;

		if (m < d.n && o < d.out_end)
			y[ulong(listed ? uint(list[base + m]) : base + m) * d.y_stride + o] = stage[i];
	}
}

/* y = W x for tiles of 32 rows and 64 outputs.  Grid: outputs of a group, rows, groups. */
template <int TYPE>
kernel void matmat(constant mtl_product &a [[buffer(0)]], device const uchar *w [[buffer(1)]], device const float *x [[buffer(2)]],
		   device float *y [[buffer(3)]], uint3 tg [[threadgroup_position_in_grid]],
		   uint t [[thread_index_in_threadgroup]], uint sg [[simdgroup_index_in_threadgroup]])
{
	threadgroup float4 stage[(MTL_MM_ROWS + MTL_MM_OUT) * MTL_MM_DEPTH / 4];
	const uint row0 = tg.y * MTL_MM_ROWS, per_group = a.group_out ? a.group_out : a.out;
	tile_shape d;

	d.n = min(a.rows - row0, uint(MTL_MM_ROWS));
	d.x_stride = a.x_stride;
	d.y_stride = a.y_stride;
	d.in = a.in;
	d.out_begin = tg.z * per_group + tg.x * MTL_MM_OUT;
	d.out_end = min(d.out_begin + MTL_MM_OUT, (tg.z + 1) * per_group);
	d.row_bytes = a.row_bytes;
	tile_product<TYPE>(d, w, x + tg.z * a.in, y, row0, (device const int *)x, false, 1, (threadgroup float *)stage, t, sg);
}
EVERY_TYPE(matmat)

/* ------------------------------------------------------------------ experts, many rows */

/* count[e] = pairs that chose expert e.  One SIMD group per expert. */
kernel void expert_count(constant mtl_experts &a [[buffer(0)]], device const int *idx [[buffer(1)]], device int *count [[buffer(2)]],
			 uint e [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]])
{
	int n = 0;

	for (uint i = lane; i < a.pairs; i += MTL_SIMD)
		n += idx[i] == int(e);
	n = simd_sum(n);
	if (lane == 0)
		count[e] = n;
}

/* list = pairs by expert, ascending within each.  One SIMD group per expert. */
kernel void expert_list(constant mtl_experts &a [[buffer(0)]], device const int *idx [[buffer(1)]], device const int *count [[buffer(2)]],
			device int *list [[buffer(3)]], uint e [[threadgroup_position_in_grid]],
			uint lane [[thread_index_in_simdgroup]])
{
	int at = 0;

	for (uint i = lane; i < e; i += MTL_SIMD)
		at += count[i];
	at = simd_sum(at);
	for (uint i = 0; i < a.pairs; i += MTL_SIMD) {
		const int mine = i + lane < a.pairs && idx[min(i + lane, a.pairs - 1)] == int(e);
		const int before = simd_prefix_exclusive_sum(mine);

		if (mine)
			list[at + before] = int(i + lane);
		at += simd_sum(mine);
	}
}

/* y[pair] = W_e x[pair / x_per] for all pairs.  Grid: outputs, at least as many tiles as there can be. */
template <int TYPE>
kernel void expert_matmat(constant mtl_experts &a [[buffer(0)]], device const uchar *w [[buffer(1)]],
			  device const float *x [[buffer(2)]], device float *y [[buffer(3)]], device const int *count [[buffer(4)]],
			  device const int *list [[buffer(5)]], uint2 tg [[threadgroup_position_in_grid]],
			  uint t [[thread_index_in_threadgroup]], uint sg [[simdgroup_index_in_threadgroup]])
{
	threadgroup float4 stage[(MTL_MM_ROWS + MTL_MM_OUT) * MTL_MM_DEPTH / 4];
	uint e = 0, first = 0, left = tg.y;

	for (; e < a.experts; e++) {		/* every thread finds the same expert */
		const uint n = uint(count[e]), tiles = (n + MTL_MM_ROWS - 1) / MTL_MM_ROWS;

		if (left < tiles)
			break;
		left -= tiles;
		first += n;
	}
	if (e == a.experts)
		return;
	const ulong bytes = ulong(a.matrix_bytes_hi) << 32 | a.matrix_bytes_lo;
	tile_shape d;

	d.n = min(uint(count[e]) - left * MTL_MM_ROWS, uint(MTL_MM_ROWS));
	d.x_stride = a.in;
	d.y_stride = a.out;
	d.in = a.in;
	d.out_begin = tg.x * MTL_MM_OUT;
	d.out_end = min(d.out_begin + MTL_MM_OUT, a.out);
	d.row_bytes = a.row_bytes;
	tile_product<TYPE>(d, w + e * bytes, x, y, first + left * MTL_MM_ROWS, list, true, a.x_per, (threadgroup float *)stage, t,
			   sg);
}
EVERY_TYPE(expert_matmat)

/* hidden[pair, f] = gate weight * swiglu(g, u); hidden may be g.  Grid: channels, pairs. */
kernel void expert_swiglu(constant mtl_experts &a [[buffer(0)]], device float *g [[buffer(1)]], device const float *u [[buffer(2)]],
			  device const float *weight [[buffer(3)]], uint2 at [[thread_position_in_grid]])
{
	const ulong i = ulong(at.y) * a.out + at.x;

	if (at.x < a.out)
		g[i] = swiglu_of(g[i], u[i], a.limit) * weight[at.y];
}

/* y[t] = sum over k of part[t * used + k], in that order.  Grid: channels, rows. */
kernel void expert_sum(constant mtl_experts &a [[buffer(0)]], device const float *part [[buffer(1)]], device float *y [[buffer(2)]],
		       uint2 at [[thread_position_in_grid]])
{
	float sum = 0;

	if (at.x >= a.out)
		return;
	for (uint k = 0; k < a.used; k++)
		sum += part[(ulong(at.y) * a.used + k) * a.out + at.x];
	y[ulong(at.y) * a.out + at.x] = sum;
}
