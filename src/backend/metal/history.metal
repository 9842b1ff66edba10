/* history.metal - the operations that read and write the past: packed rows, ring, pooling, indexer, attention.
 *
 * A timeline's memory is reached by the addresses of the step block.  Careful
 *   - A group of `count` packed rows is three arrays (E4M3, f16, E8M0), a group of keys two: backend.h.
 *   - A pooled row is rotated with the position of its group's first token.
 *   - Within a step a row sees its own span through the fresh rows, older ones in the ring.
 *   - The rows of one query are visited in one order, oldest window row first: how a prompt was cut changes no bit. */
#include "backend/metal/common.metal"

inline float2 f16_pair(device const uchar *p)
{
	const ushort2 h = ((device const ushort2 *)p)[0];

	return float2(float(as_type<half>(h.x)), float(as_type<half>(h.y)));
}

/* ------------------------------------------------------------------ packing */

/* Packs one row of 512 floats as row i of a group of count rows.  Called by SIMD groups 0..7: seven groups of 64 and the
 * rotated part; each lane has two neighbours. */
inline void pack_row(float2 v, device uchar *base, uint count, uint i, uint sg, uint lane)
{
	if (sg < GEOM_ROW_SCALES) {
		const int k = fp8_exponent(simd_max(max(fabs(v.x), fabs(v.y))));
		const float f = pow2(-k);
		device uchar *to = base + ulong(i) * GEOM_PLAIN + sg * GEOM_FP8_GROUP + 2 * lane;

		to[0] = uchar(e4m3_of(v.x * f));
		to[1] = uchar(e4m3_of(v.y * f));
		if (lane == 0)
			base[ulong(count) * (GEOM_PLAIN + 2 * GEOM_ROT) + i * GEOM_ROW_SCALES + sg] = uchar(k + 127);
	} else {
		device half *to = (device half *)(base + ulong(count) * GEOM_PLAIN + ulong(i) * 2 * GEOM_ROT) + 2 * lane;

		to[0] = half(v.x);
		to[1] = half(v.y);
	}
}

/* fresh[t] = kv[t] packed.  Grid: rows; 256 threads. */
kernel void pack_rows(constant mtl_layer &a [[buffer(0)]], device const float *kv [[buffer(1)]], device uchar *fresh [[buffer(2)]],
		      uint t [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
		      uint sg [[simdgroup_index_in_threadgroup]])
{
	const float2 v = ((device const float2 *)(kv + ulong(t) * GEOM_HEAD + sg * 64))[lane];

	pack_row(v, fresh, a.fresh_rows, t, sg, lane);
}

/* Copies each span's last rows into the ring.  Grid: bytes of a row, rows. */
kernel void ring_write(constant mtl_layer &a [[buffer(0)]], device const uchar *fresh [[buffer(1)]],
		       device const mtl_row *row [[buffer(MTL_ROW)]], device const mtl_span *span [[buffer(MTL_SPAN)]],
		       device const int *row_span [[buffer(MTL_ROW_SPAN)]], device const mtl_timeline *timeline [[buffer(MTL_TIMELINE)]],
		       uint2 at [[thread_position_in_grid]])
{
	const uint t = at.y, i = at.x, window = uint(a.window);
	const mtl_span s = span[row_span[t]];

	if (i >= GEOM_ROW_BYTES || int(t) - s.row0 + a.window < s.n)
		return;
	const uint slot = uint(row[t].pos) % window, n = a.fresh_rows;
	device uchar *ring = timeline[s.timeline].tail + a.tail_ring;
	if (i < GEOM_PLAIN)
		ring[slot * GEOM_PLAIN + i] = fresh[t * GEOM_PLAIN + i];
	else if (i < GEOM_PLAIN + 2 * GEOM_ROT)
		ring[window * GEOM_PLAIN + slot * 2 * GEOM_ROT + i - GEOM_PLAIN] =
			fresh[n * GEOM_PLAIN + t * 2 * GEOM_ROT + i - GEOM_PLAIN];
	else
		ring[window * (GEOM_PLAIN + 2 * GEOM_ROT) + slot * GEOM_ROW_SCALES + i - GEOM_PLAIN - 2 * GEOM_ROT] =
			fresh[n * (GEOM_PLAIN + 2 * GEOM_ROT) + t * GEOM_ROW_SCALES + i - GEOM_PLAIN - 2 * GEOM_ROT];
}

/* ------------------------------------------------------------------ Hadamard, E2M1: one SIMD group, four values a lane */

inline float4 hadamard(float4 v, uint lane)
{
	v = float4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
	v = float4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
	for (uint h = 1; h < MTL_SIMD; h *= 2) {
		const float4 other = simd_shuffle_xor(v, ushort(h));

		v = lane & h ? other - v : v + other;
	}
	return v * 0.08838834764831845f;	/* sqrt(1 / 128) */
}

/* Exponent of the scale that the 32 values of eight lanes share. */
inline int key_exponent(float4 v)
{
	float top = max(max(fabs(v.x), fabs(v.y)), max(fabs(v.z), fabs(v.w)));

	top = max(top, simd_shuffle_xor(top, 1));
	top = max(top, simd_shuffle_xor(top, 2));
	top = max(top, simd_shuffle_xor(top, 4));
	return fp4_exponent(top);
}

/* In place on the indexer queries.  Grid: heads, rows; 32 threads. */
kernel void index_query(device float4 *q [[buffer(1)]], uint2 tg [[threadgroup_position_in_grid]],
			uint2 grid [[threadgroups_per_grid]], uint lane [[thread_index_in_simdgroup]])
{
	device float4 *x = q + (ulong(tg.y) * grid.x + tg.x) * (GEOM_KEY / 4) + lane;
	const float4 v = hadamard(x[0], lane);
	const int k = key_exponent(v);
	const float4 u = v * pow2(-k);

	x[0] = float4(e2m1(e2m1_of(u.x)), e2m1(e2m1_of(u.y)), e2m1(e2m1_of(u.z)), e2m1(e2m1_of(u.w))) * pow2(k);
}

/* ------------------------------------------------------------------ pooling */

struct pooling {
	device const float *kv, *score;		/* of the span's first token */
	device const float *front_kv, *front_score;
	device const uchar *ape;
	int pos0, r, pw, ape_type;
};

/* (kv, score with the position bias) of the token at p, channel c. */
inline float2 pool_token(const pooling o, int p, int c)
{
	if (p >= o.pos0) {
		const ulong at = ulong(p - o.pos0) * ulong(o.pw) + ulong(c);

		return float2(o.kv[at], o.score[at] + vector_at(o.ape, o.ape_type, uint(p % o.r * o.pw + c)));
	}
	/* Before the span: in the open group's slots, or (r = 4) in those of the group before it. */
	const int slot = o.r == 4 && p / 4 < o.pos0 / 4 ? p % 4 : geom_frontier_slot(p, o.r);

	return float2(o.front_kv[slot * o.pw + c], o.front_score[slot * o.pw + c]);
}

inline pooling pooling_of(constant mtl_pool &a, device const float *kv, device const float *score, device const uchar *ape,
			  const mtl_span s, device const mtl_timeline *timeline)
{
	const int width = a.key ? GEOM_KEY : GEOM_HEAD;
	device const uchar *tail = timeline[s.timeline].tail;
	pooling o;

	o.r = a.layer.ratio;
	o.pw = geom_pool_width(width, o.r);
	o.pos0 = s.pos0;
	o.kv = kv + ulong(s.row0) * ulong(o.pw);
	o.score = score + ulong(s.row0) * ulong(o.pw);
	o.front_kv = (device const float *)(tail + (a.key ? a.layer.tail_front_key : a.layer.tail_front));
	o.front_score = o.front_kv + geom_frontier_slots(o.r) * o.pw;
	o.ape = ape;
	o.ape_type = a.ape_type;
	return o;
}

/* Softmax-weighted mean of channel c of row n. */
inline float pool_channel(const pooling o, int n, int c, int width)
{
	const int before = o.r == 4 && n > 0 ? 4 : 0, first = o.r * n, right = o.r == 4 ? width + c : c;
	float top = -INFINITY, sum = 0, mean = 0;

	for (int i = -before; i < o.r; i++)
		top = max(top, pool_token(o, first + i, i < 0 ? c : right).y);
	for (int i = -before; i < o.r; i++) {
		const float2 v = pool_token(o, first + i, i < 0 ? c : right);
		const float w = precise::exp(v.y - top);

		sum += w;
		mean = fma(w, v.x, mean);
	}
	return mean / sum;
}

/* Emits the row (key) that step row t completes, if it does.  Grid: rows; 256 threads. */
kernel void pool_emit(constant mtl_pool &a [[buffer(0)]], device const float *kv [[buffer(1)]], device const float *score [[buffer(2)]],
		      device const uchar *ape [[buffer(3)]], device const uchar *norm [[buffer(4)]],
		      device const mtl_row *row [[buffer(MTL_ROW)]], device const mtl_span *span [[buffer(MTL_SPAN)]],
		      device const int *row_span [[buffer(MTL_ROW_SPAN)]], device const mtl_timeline *timeline [[buffer(MTL_TIMELINE)]],
		      device const mtl_block *block [[buffer(MTL_BLOCK)]], uint t [[threadgroup_position_in_grid]],
		      uint id [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
		      uint sg [[simdgroup_index_in_threadgroup]], uint nsg [[simdgroups_per_threadgroup]])
{
	threadgroup float x[GEOM_HEAD], part[32];
	const int pos = row[t].pos, r = a.layer.ratio, width = a.key ? GEOM_KEY : GEOM_HEAD;

	if (!geom_pools_at(pos, r))
		return;
	const mtl_span s = span[row_span[t]];
	const pooling o = pooling_of(a, kv, score, ape, s, timeline);
	const int n = pos / r;
	float square = 0;

	for (int c = int(id); c < width; c += MTL_WIDE) {
		const float v = pool_channel(o, n, c, width);

		x[c] = v;
		square = fma(v, v, square);
	}
	square = group_sum(square, part, lane, sg, nsg);
	const float f = 1.0f / precise::sqrt(square / float(width) + 1e-6f);
	device uchar *at = block[timeline[s.timeline].first + geom_row_block(n, r)].at;
	const uint count = uint(geom_rows_per_block(r)), i = uint(geom_row_in_block(n, r));

	if (a.key) {
		if (sg != 0)
			return;
		const uint c = 4 * lane;
		float4 v = float4(x[c], x[c + 1], x[c + 2], x[c + 3]) * f;

		v = v * float4(vector_at(norm, a.norm_type, c), vector_at(norm, a.norm_type, c + 1),
			       vector_at(norm, a.norm_type, c + 2), vector_at(norm, a.norm_type, c + 3));
		if (lane >= 16) {
			const uint p = 2 * (lane - 16);
			const float2 u = rotate_pair(v.xy, a.freq[p], n * r, false), w = rotate_pair(v.zw, a.freq[p + 1], n * r, false);

			v = float4(u, w);
		}
		v = hadamard(v, lane);
		const int k = key_exponent(v);
		const float4 u = v * pow2(-k);
		device uchar *base = at + a.layer.block_keys;

		base[i * (GEOM_KEY / 2) + 2 * lane] = uchar(e2m1_of(u.x) | e2m1_of(u.y) << 4);
		base[i * (GEOM_KEY / 2) + 2 * lane + 1] = uchar(e2m1_of(u.z) | e2m1_of(u.w) << 4);
		if (lane % 8 == 0)
			base[count * (GEOM_KEY / 2) + i * GEOM_KEY_SCALES + lane / 8] = uchar(k + 127);
		return;
	}
	const uint c = sg * 64 + 2 * lane;
	float2 v = float2(x[c], x[c + 1]) * f;

	v = v * float2(vector_at(norm, a.norm_type, c), vector_at(norm, a.norm_type, c + 1));
	if (sg == GEOM_ROW_SCALES)
		v = rotate_pair(v, a.freq[lane], n * r, false);
	pack_row(v, at + a.layer.block_rows, count, i, sg, lane);
}

/* Keeps the projections that later rows need.  One thread owns a channel of a span: tokens move between slots in ascending
 * order.  Grid: channels, spans. */
kernel void pool_keep(constant mtl_pool &a [[buffer(0)]], device const float *kv [[buffer(1)]], device const float *score [[buffer(2)]],
		      device const uchar *ape [[buffer(3)]], device const mtl_span *span [[buffer(MTL_SPAN)]],
		      device const mtl_timeline *timeline [[buffer(MTL_TIMELINE)]], uint2 at [[thread_position_in_grid]])
{
	const mtl_span s = span[at.y];
	const pooling o = pooling_of(a, kv, score, ape, s, timeline);
	const int c = int(at.x), end = s.pos0 + s.n, open = end / o.r;
	const int first = o.r == 4 && open > 0 ? 4 * (open - 1) : o.r * open;
	device float *front_kv = (device float *)(timeline[s.timeline].tail + (a.key ? a.layer.tail_front_key : a.layer.tail_front));
	device float *front_score = front_kv + geom_frontier_slots(o.r) * o.pw;

	if (c >= o.pw)
		return;
	for (int p = first; p < end; p++) {
		const int to = o.r == 4 && p / 4 < open ? p % 4 : geom_frontier_slot(p, o.r);

		if (p < s.pos0 && (p / o.r >= open || (o.r == 4 && p / 4 < s.pos0 / 4)))
			continue;	/* already in its slot */
		const float2 v = pool_token(o, p, c);

		front_kv[to * o.pw + c] = v.x;
		front_score[to * o.pw + c] = v.y;
	}
}

/* ------------------------------------------------------------------ indexer */

/* score[row - row0, n] of 32 keys: a lane is a key, each of four SIMD groups sums every fourth head.
 * Grid: keys, rows of this piece. */
kernel void key_scores(constant mtl_choose &a [[buffer(0)]], device const float *q [[buffer(1)]], device const float *weight [[buffer(2)]],
		       device float *score [[buffer(3)]], device const mtl_row *row [[buffer(MTL_ROW)]],
		       device const mtl_timeline *timeline [[buffer(MTL_TIMELINE)]], device const mtl_block *block [[buffer(MTL_BLOCK)]],
		       uint2 tg [[threadgroup_position_in_grid]], uint id [[thread_index_in_threadgroup]],
		       uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]])
{
	threadgroup float4 key[GEOM_KEY / 4][MTL_KEYS];
	threadgroup float part[MTL_KEY_SIMDS][MTL_KEYS];
	const uint t = a.row0 + tg.y;
	const int r = a.layer.ratio, visible = geom_visible(row[t].pos, r), n0 = int(tg.x * MTL_KEYS);

	if (visible <= int(a.top_k) || n0 >= visible)
		return;
	for (uint i = id; i < MTL_KEYS * (GEOM_KEY / 4); i += MTL_KEY_SIMDS * MTL_SIMD) {
		const uint c = i % (GEOM_KEY / 4), k = i / (GEOM_KEY / 4);
		const int n = min(n0 + int(k), visible - 1);
		const uint in_block = uint(geom_row_in_block(n, r)), count = uint(geom_rows_per_block(r));
		device const uchar *b = block[timeline[row[t].timeline].first + geom_row_block(n, r)].at + a.layer.block_keys;
		const uint two = uint(b[in_block * (GEOM_KEY / 2) + 2 * c]) | uint(b[in_block * (GEOM_KEY / 2) + 2 * c + 1]) << 8;
		const float scale = e8m0(b[count * (GEOM_KEY / 2) + in_block * GEOM_KEY_SCALES + c / 8]);

		key[c][k] = float4(e2m1(two & 15), e2m1(two >> 4 & 15), e2m1(two >> 8 & 15), e2m1(two >> 12)) * scale;
	}
	threadgroup_barrier(mem_flags::mem_threadgroup);
	const float scale = precise::sqrt(1.0f / float(a.heads * GEOM_KEY));
	float sum = 0;

	for (uint h = sg; h < a.heads; h += MTL_KEY_SIMDS) {
		device const float4 *v = (device const float4 *)(q + (ulong(t) * a.heads + h) * GEOM_KEY);
		float4 d = float4(0.0f);

		for (uint c = 0; c < GEOM_KEY / 4; c++)
			d = fma(v[c], key[c][lane], d);
		sum = fma(weight[ulong(t) * a.heads + h] * scale, max((d.x + d.y) + (d.z + d.w), 0.0f), sum);
	}
	part[sg][lane] = sum;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	if (sg == 0 && n0 + int(lane) < visible)
		score[ulong(tg.y) * a.score_stride + uint(n0) + lane] = (part[0][lane] + part[1][lane]) + (part[2][lane] + part[3][lane]);
}

/* A score as a number whose order is the score's; both zeros are one. */
inline uint ordered(float s)
{
	const uint u = as_type<uint>(s == 0.0f ? 0.0f : s);

	return u >> 31 ? ~u : u | 0x80000000u;
}

/* How many of the SIMD groups before this one, and in all, have set their flags.  room: 2 * 32. */
inline uint2 group_prefix(uint flag, threadgroup uint *room, uint lane, uint sg, uint nsg)
{
	const uint before = simd_prefix_exclusive_sum(flag);
	uint earlier = 0, all = 0;

	threadgroup_barrier(mem_flags::mem_threadgroup);
	if (lane == MTL_SIMD - 1)
		room[sg] = before + flag;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	for (uint i = 0; i < nsg; i++) {
		earlier += i < sg ? room[i] : 0;
		all += room[i];
	}
	return uint2(earlier + before, all);
}

/* pick[row] = the top_k best of the visible rows, ascending; ties go to the lower row.  Radix search for the k-th best, then
 * one pass that keeps what is above and the first of its equals.  Grid: rows of this piece; 256 threads. */
kernel void choose_rows(constant mtl_choose &a [[buffer(0)]], device const float *score [[buffer(1)]], device int *pick [[buffer(2)]],
			device const mtl_row *row [[buffer(MTL_ROW)]], uint tg [[threadgroup_position_in_grid]],
			uint id [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
			uint sg [[simdgroup_index_in_threadgroup]], uint nsg [[simdgroups_per_threadgroup]])
{
	threadgroup atomic_uint histogram[256];
	threadgroup uint found[2], room[32];
	const uint t = a.row0 + tg, n = uint(geom_visible(row[t].pos, a.layer.ratio));
	device const float *s = score + ulong(tg) * a.score_stride;
	device int *out = pick + ulong(t) * a.top_k;
	uint prefix = 0, want = a.top_k;	/* the wanted one is the want-th best of those that begin with prefix */

	if (n <= a.top_k)
		return;
	for (int shift = 24; shift >= 0; shift -= 8) {
		atomic_store_explicit(&histogram[id], 0u, memory_order_relaxed);
		threadgroup_barrier(mem_flags::mem_threadgroup);
		for (uint i = id; i < n; i += MTL_WIDE) {
			const uint u = ordered(s[i]);

			if (shift == 24 || u >> (shift + 8) == prefix)
				atomic_fetch_add_explicit(&histogram[u >> shift & 255], 1u, memory_order_relaxed);
		}
		threadgroup_barrier(mem_flags::mem_threadgroup);
		if (id == 0) {
			uint left = want, digit = 255;

			for (; digit > 0; digit--) {
				const uint c = atomic_load_explicit(&histogram[digit], memory_order_relaxed);

				if (left <= c)
					break;
				left -= c;
			}
			found[0] = prefix << 8 | digit;
			found[1] = left;
		}
		threadgroup_barrier(mem_flags::mem_threadgroup);
		prefix = found[0];
		want = found[1];
	}
	uint at = 0, equals = 0;

	for (uint i0 = 0; i0 < n; i0 += MTL_WIDE) {
		const uint i = i0 + id, u = i < n ? ordered(s[i]) : 0;
		const uint same = i < n && u == prefix;
		const uint2 e = group_prefix(same, room, lane, sg, nsg);
		const uint keep = i < n && (u > prefix || (same && equals + e.x < want));
		const uint2 k = group_prefix(keep, room, lane, sg, nsg);

		if (keep)
			out[at + k.x] = int(i);
		equals += e.y;
		at += k.y;
	}
}

/* ------------------------------------------------------------------ attention */

/* Where a packed row is: its group and its number in it. */
struct packed_row {
	device const uchar *base;
	uint count, i;
};

/* The j-th row that the query at pos sees: window rows first..pos, then compressed ones. */
inline packed_row seen_row(constant mtl_attend &a, int j, int first, int window_rows, const mtl_span s, device const uchar *fresh,
		       device const uchar *tail, device const mtl_block *block, device const int *pick, bool all)
{
	packed_row p;

	if (j < window_rows) {
		const int pos = first + j;

		if (pos < s.pos0) {
			p.base = tail + a.layer.tail_ring;
			p.count = uint(a.layer.window);
			p.i = uint(geom_ring_slot(pos, a.layer.window));
		} else {
			p.base = fresh;
			p.count = a.layer.fresh_rows;
			p.i = uint(s.row0 + pos - s.pos0);
		}
	} else {
		const int n = all ? j - window_rows : pick[j - window_rows];

		p.base = block[geom_row_block(n, a.layer.ratio)].at + a.layer.block_rows;
		p.count = uint(geom_rows_per_block(a.layer.ratio));
		p.i = uint(geom_row_in_block(n, a.layer.ratio));
	}
	return p;
}

/* One SIMD group unpacks one row: 16 values a lane. */
inline void unpack_row(const packed_row p, threadgroup float *to, uint lane)
{
	to += 16 * lane;
	if (lane < GEOM_PLAIN / 16) {
		device const uint *w = (device const uint *)(p.base + ulong(p.i) * GEOM_PLAIN + 16 * lane);
		const float scale = e8m0(p.base[ulong(p.count) * (GEOM_PLAIN + 2 * GEOM_ROT) + p.i * GEOM_ROW_SCALES + lane / 4]);

		for (uint k = 0; k < 4; k++) {
			const uint v = w[k];

			((threadgroup float4 *)to)[k] = float4(e4m3(v & 255), e4m3(v >> 8 & 255), e4m3(v >> 16 & 255), e4m3(v >> 24)) * scale;
		}
	} else {
		device const uchar *h = p.base + ulong(p.count) * GEOM_PLAIN + ulong(p.i) * 2 * GEOM_ROT + 32 * (lane - GEOM_PLAIN / 16);

		for (uint k = 0; k < 4; k++)
			((threadgroup float4 *)to)[k] = float4(f16_pair(h + 8 * k), f16_pair(h + 8 * k + 4));
	}
}

/* out[t, h] = softmax over the seen rows and the sink of (q . R / sqrt(512)) R.  A SIMD group is a head; eight rows at a time are
 * unpacked by all.  Grid: heads / 8, rows; 256 threads. */
kernel void attend(constant mtl_attend &a [[buffer(0)]], device const float *q [[buffer(1)]], device const uchar *fresh [[buffer(2)]],
		   device const int *pick [[buffer(3)]], device const uchar *sinks [[buffer(4)]], device float *out [[buffer(5)]],
		   device const mtl_row *row [[buffer(MTL_ROW)]], device const mtl_span *span [[buffer(MTL_SPAN)]],
		   device const int *row_span [[buffer(MTL_ROW_SPAN)]], device const mtl_timeline *timeline [[buffer(MTL_TIMELINE)]],
		   device const mtl_block *block [[buffer(MTL_BLOCK)]], uint2 tg [[threadgroup_position_in_grid]],
		   uint lane [[thread_index_in_simdgroup]], uint sg [[simdgroup_index_in_threadgroup]])
{
	threadgroup float4 rows[MTL_ATT_ROWS][GEOM_HEAD / 4];
	const uint t = tg.y, head = tg.x * MTL_ATT_HEADS + sg, h = min(head, a.heads - 1);
	const mtl_span s = span[row_span[t]];
	const mtl_timeline line = timeline[s.timeline];
	const int pos = row[t].pos, first = geom_window_first(pos, a.layer.window), window_rows = pos + 1 - first;
	const int visible = geom_visible(pos, a.layer.ratio);
	const bool all = !a.pick || visible <= int(a.top_k);
	const int total = window_rows + (all ? visible : int(a.top_k));
	device const float4 *qh = (device const float4 *)(q + (ulong(t) * a.heads + h) * GEOM_HEAD) + lane;
	float4 v[4], acc[4];
	float top = vector_at(sinks, a.sink_type, h), sum = 1;

	for (int k = 0; k < 4; k++) {
		v[k] = qh[32 * k];
		acc[k] = float4(0.0f);
	}
	for (int j = 0; j < total; j += MTL_ATT_ROWS) {
		const int n = min(total - j, int(MTL_ATT_ROWS));
		float z[MTL_ATT_ROWS], most = top;

		threadgroup_barrier(mem_flags::mem_threadgroup);
		if (int(sg) < n)
			unpack_row(seen_row(a, j + int(sg), first, window_rows, s, fresh, line.tail, block + line.first,
					    pick + ulong(t) * a.top_k, all),
				   (threadgroup float *)rows[sg], lane);
		threadgroup_barrier(mem_flags::mem_threadgroup);
		for (int i = 0; i < n; i++) {
			float4 d = float4(0.0f);

			for (int k = 0; k < 4; k++)
				d = fma(v[k], rows[i][32 * k + int(lane)], d);
			z[i] = simd_sum((d.x + d.y) + (d.z + d.w)) * 0.04419417382415922f;	/* sqrt(1 / 512) */
			most = max(most, z[i]);
		}
		const float shrink = precise::exp(top - most);

		sum *= shrink;
		for (int k = 0; k < 4; k++)
			acc[k] = acc[k] * shrink;
		top = most;
		for (int i = 0; i < n; i++) {
			const float w = precise::exp(z[i] - top);

			sum += w;
			for (int k = 0; k < 4; k++)
				acc[k] = fma(float4(w), rows[i][32 * k + int(lane)], acc[k]);
		}
	}
	if (head >= a.heads)
		return;
	device float4 *o = (device float4 *)(out + (ulong(t) * a.heads + head) * GEOM_HEAD) + lane;

	for (int k = 0; k < 4; k++)
		o[32 * k] = acc[k] / sum;
}
