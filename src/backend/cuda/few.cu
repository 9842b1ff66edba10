/* few.cu - products of few rows and experts of few rows: the launches around few.cuh.
 *
 * What  few_products(): several matrices against the same rows in one launch, each with its own place in the grid.
 *       few_hidden(), few_down(): the two halves of the experts, routed and shared, one launch each.
 * How   A block of 8 warps makes `tiles` pieces of 16 outputs.  KS warps share the inner length of a piece, superblock by
 *       superblock, and their sums are added in their order; KS depends on the length alone, so a row's bits do too.
 *       Experts: pairs (row, choice) of one expert are an item of up to 4 rows; blocks take items.  The hidden values leave as
 *       int8, ready for the second half, whose results stay apart for each pair: who reads them adds them (gather).
 *       Kernels may start before the one in front has ended (follow()): they load their first weights meanwhile.
 * Careful
 *       - The gate weight is multiplied before the hidden values are rounded.
 *       - A group of 32 hidden values is rounded by the warp that has all of it: blocks make 32 outputs at a time there. */
#include "cuda_int.cuh"
#include "few.cuh"
#include "product.cuh"

static const int THREADS = 256, WARPS = 8, MAX_TASKS = 8;

struct task {
	struct dw w;
	struct vec_x x;
	float *y;
	int8_t *q;		/* instead of y: int8 and scales, [rows, stride] */
	float *d;
	int32_t per_group, groups, tiles, q_stride, out;	/* out: of a group */
};

struct tasks {
	int32_t block0[MAX_TASKS];	/* side by side: what a kernel reads of its arguments comes from memory first */
	int32_t rows;
	struct task task[MAX_TASKS];
};

/* Warps that share the inner length of a piece: 2 to this power. */
static __host__ __device__ inline int split_log(int stride)
{
	return stride >= 2048 ? 3 : stride >= 1024 ? 2 : stride >= 512 ? 1 : 0;
}

static __host__ __device__ inline int split_of(int stride)
{
	return 1 << split_log(stride);
}

/* Outputs of a block: `tiles` pieces of 16 rows from row `base` + o0 of w, or half of them from w2. */
struct strip_job {
	const struct dw *w, *w2;
	size_t base;
	int o0, end, tiles;
};

/* The block's sums to red[tile][ks][MODE][16].  before(): called when the first weights are under way; afterwards x, x_row and
 * n are read.  All threads come; the caller puts a barrier behind. */
template <int T, int MODE, class Before>
static __device__ inline void run_tiles(float *red, const struct strip_job &j, const struct vec_x &x, const int *x_row, const int *n,
					const uint2 *grid, Before before)
{
	typedef struct unit<T> U;
	const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, sbs = j.w->stride >> 8, log = split_log(j.w->stride);
	const int ks = 1 << log, teams = WARPS >> log, team = warp >> log, k = warp & (ks - 1), per = ((sbs - k + ks - 1) >> log) * U::PER;
	const int units = team < j.tiles ? ((j.tiles - team + teams - 1) >> (3 - log)) * per : 0, half = j.w2 ? j.tiles / 2 : j.tiles;
	int tile = team, s = 0, next_tile = team, next_s = 0;
	uint4 buf[U::DEPTH][U::PIECES];
	struct sums<MODE> acc = {};

	auto load = [&](uint4 *to) {
		const int o = j.o0 + (next_tile < half ? next_tile : next_tile - half) * 16 + g;
		const size_t row[2] = {j.base + min(o, j.end - 1), j.base + min(o + 8, j.end - 1)};

		load_unit<T>(to, next_tile < half ? *j.w : *j.w2, row, k + ks * (next_s / U::PER), next_s % U::PER);
		if (++next_s == per) {
			next_s = 0;
			next_tile += teams;
		}
	};
#pragma unroll
	for (int i = 0; i < U::DEPTH; i++)
		if (i < units)
			load(buf[i]);
	before();
	touch_rows(x, x_row, *n, T);
	const struct lane_rows<MODE> rows = rows_of_lane<MODE>(x_row, *n);

#pragma unroll 1
	for (int u = 0; u < units; u += U::DEPTH) {
#pragma unroll
		for (int i = 0; i < U::DEPTH; i++) {
			if (u + i >= units)
				break;
			multiply<T, MODE>(&acc, buf[i], x, rows, k + ks * (s / U::PER), s % U::PER, grid);
			if (u + i + U::DEPTH < units)
				load(buf[i]);
			if (++s < per)
				continue;
			float *to = red + (size_t)(tile * ks + k) * MODE * 16;

#pragma unroll
			for (int p = 0; p < shape_of<MODE>::PIECES; p++)
#pragma unroll
				for (int c = 0; c < shape_of<MODE>::COLS; c++) {
					to[row_of_sum<MODE>(p, c) * 16 + g] = acc.v[p][0][c];
					to[row_of_sum<MODE>(p, c) * 16 + g + 8] = acc.v[p][1][c];
				}
			acc = {};
			s = 0;
			tile += teams;
		}
	}
}

template <int MODE> static __device__ inline float sum_of(const float *red, int ks, int tile, int row, int m)
{
	float v = 0;

#pragma unroll 1
	for (int k = 0; k < ks; k++)
		v = __fadd_rn(v, red[((tile * ks + k) * MODE + row) * 16 + m]);
	return v;
}

static __device__ inline float sum_rows(const float *red, int ks, int tile, int row, int m, int mode)
{
	return mode == 4 ? sum_of<4>(red, ks, tile, row, m) : sum_of<SHARED_ROWS>(red, ks, tile, row, m);
}

/* The 32 lanes hold a group: rounds it and stores it as group `group` of a row. */
static __device__ inline void store_rounded(int8_t *q, float *d, float v, int group)
{
	int lane = threadIdx.x % WARP;
	float scale;
	int8_t r = round_group(v, &scale);

	q[place_of(group * 32 + lane)] = r;
	if (!lane)
		d[group] = scale;
}

/* ------------------------------------------------------------------ dense */

static const int NO_TYPE = -1;

template <int MODE, int TA, int TB> static __global__ void __launch_bounds__(THREADS, 2) few_kernel(struct tasks all)
{
	DYNAMIC(float4, memory);
	float *red = (float *)memory;
	__shared__ int x_row[MODE], n;
	const int t0 = blockIdx.y * MODE;
	int i = 0;

	follow_lead();
#pragma unroll
	for (int k = 1; k < MAX_TASKS; k++)
		i += (int)blockIdx.x >= all.block0[k];
	const struct task &t = all.task[i];
	const int b = blockIdx.x - all.block0[i], group = t.groups > 1 ? b / t.per_group : 0, out = t.out, ks = split_of(t.w.stride);
	struct strip_job j = {&t.w, NULL, (size_t)group * out, (b - group * t.per_group) * t.tiles * 16, out, t.tiles};
	uint2 *grid = (uint2 *)(red + (size_t)t.tiles * ks * MODE * 16);

	if (TA == DTYPE_IQ2_XXS && t.w.type == DTYPE_IQ2_XXS)
		load_grid_copies(grid);
	if (!threadIdx.x)
		n = min(MODE, all.rows - t0);
	if ((int)threadIdx.x < MODE)
		x_row[threadIdx.x] = (t0 + threadIdx.x) * t.groups + group;
	auto before = [] {
		__syncthreads();
		follow_wait();
	};
	if (t.w.type == TA)
		run_tiles<TA, MODE>(red, j, t.x, x_row, &n, grid, before);
	else if constexpr (TB != NO_TYPE)
		run_tiles<TB, MODE>(red, j, t.x, x_row, &n, grid, before);
	__syncthreads();
#pragma unroll 1
	for (int row = 0; row < n; row++)
#pragma unroll 1
		for (int m = threadIdx.x; m < t.tiles * 16; m += THREADS) {
			const int o = j.o0 + m;

			if (o >= out)
				break;
			float v = sum_of<MODE>(red, ks, m / 16, row, m % 16);

			if (t.q)	/* whole groups: the caller saw to it */
				store_rounded(t.q + (size_t)(t0 + row) * t.q_stride, t.d + (size_t)(t0 + row) * (t.q_stride / 32), v,
					      (group * out + o) / 32);
			else
				t.y[(size_t)(t0 + row) * t.w.out + group * out + o] = v;
		}
}

static int mode_of(int n)
{
	return n <= 4 ? 4 : n <= 8 ? 8 : n <= 16 ? 16 : 32;
}

#ifdef DS4_CUDA_EMU
#define ALLOW(kernel, bytes) (void)(bytes)
#else
#define ALLOW(kernel, bytes) \
	((bytes) > 40 * 1024 ? (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 160 * 1024) : (void)0)
#endif

template <int MODE, int TA, int TB> static void launch_few(struct eng *e, const struct tasks *all, dim3 grid, size_t smem)
{
	ALLOW((few_kernel<MODE, TA, TB>), smem);
	LAUNCH(e, (few_kernel<MODE, TA, TB>), grid, THREADS, smem, *all);
}

template <int TA, int TB> static void launch_mode(struct eng *e, const struct tasks *all, dim3 grid, size_t smem, int mode)
{
	switch (mode) {
	case 4:
		launch_few<4, TA, TB>(e, all, grid, smem);
		break;
	case 8:
		launch_few<8, TA, TB>(e, all, grid, smem);
		break;
	case 16:
		launch_few<16, TA, TB>(e, all, grid, smem);
		break;
	default:
		launch_few<32, TA, TB>(e, all, grid, smem);
	}
}

/* Shared memory beside the sums: the codebook. */
static size_t few_room(int type)
{
	return type == DTYPE_IQ2_XXS ? 256 * GRID_COPIES * 8 : 0;
}

bool few_type(int type)
{
	return type == DTYPE_F16 || rounds(type);
}

/* One launch of products whose types are (Q8_0, F16), or all the same. */
static void few_launch(struct eng *e, const struct few_product *p, int n, int rows)
{
	const int mode = mode_of(rows);
	struct tasks all = {};
	size_t smem = 0;
	int blocks = 0, pieces = 0;

	for (int i = 0; i < n; i++)
		pieces += div_up(p[i].w->out / p[i].groups, 16) * p[i].groups;
	for (int i = 0; i < n; i++) {
		const struct dw *w = p[i].w;
		const int ks = split_of(w->stride), teams = WARPS / ks, out = w->out / p[i].groups;
		const int room = 32 * 1024 / (ks * mode * 64);
		struct task *t = &all.task[i];

		t->w = *w;
		if (!vec_form(e, &t->x, p[i].x, w->in, rows * p[i].groups, w->type))
			return;
		t->y = p[i].y;
		t->q = p[i].q;
		t->d = p[i].d;
		t->q_stride = p[i].q_stride;
		t->groups = p[i].groups;
		t->out = out;
		t->tiles = max(teams, div_up(div_up(pieces, e->fill * e->sms), teams) * teams);
		t->tiles = min(t->tiles, max(teams, room / teams * teams));
		if (p[i].q)
			t->tiles = max(2, t->tiles / 2 * 2);
		t->per_group = div_up(out, t->tiles * 16);
		all.block0[i] = blocks;
		blocks += t->per_group * t->groups;
		size_t bytes = (size_t)t->tiles * ks * mode * 64 + few_room(w->type);

		smem = bytes > smem ? bytes : smem;
	}
	for (int i = n; i < MAX_TASKS; i++)
		all.block0[i] = INT32_MAX;
	all.rows = rows;
	dim3 grid(blocks, div_up(rows, mode));

	switch (p[0].w->type) {
	case DTYPE_Q8_0:
	case DTYPE_F16:
		launch_mode<DTYPE_Q8_0, DTYPE_F16>(e, &all, grid, smem, mode);
		break;
	case DTYPE_IQ2_XXS:
		launch_mode<DTYPE_IQ2_XXS, NO_TYPE>(e, &all, grid, smem, mode);
		break;
	case DTYPE_Q2_K:
		launch_mode<DTYPE_Q2_K, NO_TYPE>(e, &all, grid, smem, mode);
		break;
	case DTYPE_Q4_K:
		launch_mode<DTYPE_Q4_K, NO_TYPE>(e, &all, grid, smem, mode);
		break;
	}
	for (int i = 0; i < n; i++)
		if (p[i].y)
			eng_wrote(e, p[i].y);
}

static bool pairs_up(int type)
{
	return type == DTYPE_Q8_0 || type == DTYPE_F16;
}

void few_products(struct eng *e, const struct few_product *p, int n, int rows)
{
	for (int i = 0; i < n;) {
		int end = i + 1;

		while (end < n && end - i < MAX_TASKS && pairs_up(p[i].w->type) && pairs_up(p[end].w->type))
			end++;
		few_launch(e, p + i, end - i, rows);
		i = end;
	}
}

/* ------------------------------------------------------------------ experts */

/* Pairs of rows and choices by expert, up to `most` to an item; blockDim.x >= experts. */
static __device__ inline void build_items(struct item *items, int32_t *n_items, const int32_t *idx, int pairs, int experts,
					  int most, int *room)
{
	const int x = threadIdx.x;
	int count = 0, mine, before;

#pragma unroll 1
	for (int p = 0; p < pairs && x < experts; p++)
		count += idx[p] == x;
	mine = (count + most - 1) / most;
	room[x] = mine;
#pragma unroll 1
	for (int o = 1; o < (int)blockDim.x; o *= 2) {
		__syncthreads();
		int v = x >= o ? room[x - o] : 0;

		__syncthreads();
		room[x] += v;
	}
	__syncthreads();
	before = room[x] - mine;
	if (x == (int)blockDim.x - 1)
		*n_items = room[x];
	if (!count)
		return;
#pragma unroll 1
	for (int p = 0, at = 0; p < pairs; p++)
		if (idx[p] == x) {
			struct item *i = &items[before + at / most];

			i->expert = x;
			i->n = min(most, count - at / most * most);
			i->pair[at++ % most] = p;
		}
}

static __global__ void items_kernel(struct item *items, int32_t *n_items, const int32_t *idx, int pairs, int experts,
				    int most)
{
	DYNAMIC(int32_t, room);
	int32_t *list = room + blockDim.x;

	follow();
	for (int p = threadIdx.x; p < pairs; p += blockDim.x)
		list[p] = idx[p];
	__syncthreads();
	build_items(items, n_items, list, pairs, experts, most, room);
}

static __device__ float root_softplus(float z)
{
	return z < -15 ? expf(0.5f * z) : sqrtf(log1pf(expf(-fabsf(z))) + fmaxf(z, 0));
}

static __device__ uint32_t rank_of(float f)	/* larger floats have larger numbers; 0: NaN */
{
	uint32_t u = __float_as_uint(f);

	return isnan(f) ? 0 : u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* One warp routes a row; p [experts] in shared memory; N: experts of a lane at most. */
template <int N>
static __device__ inline void route_row(int32_t *out, float *gate, const float *logits, float *p, const struct router &r, int token)
{
	const int lane = threadIdx.x % WARP;
	uint32_t *ranks = (uint32_t *)p + r.experts;
	float z[N], sum = 0;
	uint32_t rank[N];

#pragma unroll
	for (int i = 0; i < N; i++)	/* all loads before the first use */
		z[i] = logits[min(lane + i * WARP, r.experts - 1)];
#pragma unroll
	for (int i = 0; i < N; i++)
		if (lane + i * WARP < r.experts)
			p[lane + i * WARP] = z[i];
#pragma unroll 1
	for (int x = lane; x < r.experts; x += WARP) {
		float v = root_softplus(p[x]);

		p[x] = v;
		ranks[x] = rank_of(v + (r.bias.a ? weight_at(r.bias, x) : 0));
	}
#pragma unroll
	for (int i = 0; i < N; i++)
		rank[i] = lane + i * WARP < r.experts ? ranks[lane + i * WARP] : 0;
	__syncwarp();
#pragma unroll 1
	for (int k = 0; k < r.used && !r.table.a; k++) {
		uint32_t best = 0, top;
		int at = r.experts;

#pragma unroll
		for (int i = 0; i < N; i++) {
			if (rank[i] > best) {
				best = rank[i];
				at = lane + i * WARP;
			}
		}
		top = warp_max(best);
		at = (int)warp_min(best == top && top ? (uint32_t)at : (uint32_t)r.experts);
		if (at >= r.experts)	/* only NaN is left: the row is lost anyway */
			at = k;
#pragma unroll
		for (int i = 0; i < N; i++) {
			if (at == lane + i * WARP)
				rank[i] = 0;
		}
		if (!lane)
			out[k] = at;
	}
	if (r.table.a && lane < r.used) {
		int32_t v = ((const int32_t *)r.table.a)[(size_t)token * r.used + lane];

		out[lane] = v < 0 || v >= r.experts ? 0 : v;
	}
	__syncwarp();
	for (int k = 0; k < r.used; k++)
		sum += p[out[k]];
	if (lane < r.used)
		gate[lane] = p[out[lane]] / sum * r.scale;
}

/* Routes all rows and makes the list of items.  One block; dynamic: blockDim ints, pairs ints, a row of p for each warp. */
template <int N> static __global__ void route_items_kernel(struct dstep s, struct router r, struct item *items, int32_t *n_items, int rows)
{
	DYNAMIC(int32_t, room);
	int32_t *list = room + blockDim.x;
	float *p = (float *)(list + rows * r.used) + threadIdx.x / WARP * r.experts * 2;

	follow();
#pragma unroll 1
	for (int t = threadIdx.x / WARP; t < rows; t += blockDim.x / WARP) {
		route_row<N>(list + t * r.used, r.gate + (size_t)t * r.used, r.logits + (size_t)t * r.experts, p, r, s.row[t].token);
		__syncwarp();
	}
	__syncthreads();
#pragma unroll 1
	for (int i = threadIdx.x; i < rows * r.used; i += blockDim.x)
		r.idx[i] = list[i];
	build_items(items, n_items, list, rows * r.used, r.experts, ITEM_ROWS, room);
}

void few_route(struct eng *e, const struct router *r, int rows, struct item *items, int32_t *n_items)
{
	const int threads = max((r->experts + WARP - 1) / WARP, min(rows, 8)) * WARP;

	const size_t smem = (size_t)(threads + rows * r->used + threads / WARP * r->experts * 2) * 4;

	if (r->experts <= 8 * WARP)
		LAUNCH(e, route_items_kernel<8>, 1, threads, smem, e->st, *r, items, n_items, rows);
	else
		LAUNCH(e, route_items_kernel<32>, 1, threads, smem, e->st, *r, items, n_items, rows);
}

void few_items(struct eng *e, const int32_t *idx, int rows, int used, int experts, struct item *items, int32_t *n_items)
{
	const int threads = (experts + WARP - 1) / WARP * WARP;

	LAUNCH(e, items_kernel, 1, threads, (size_t)(threads + rows * used) * 4, items, n_items, idx, rows * used, experts,
	       ITEM_ROWS);
}

/* The block's item: its rows as rows of x (x_row) and as rows of what it makes (to_row). */
struct ffn_block {
	int x_row[SHARED_ROWS], to_row[SHARED_ROWS], n, expert;
};

/* False: no such item.  All threads; ends with a barrier. */
static __device__ inline bool find_item(struct ffn_block *b, const struct ffn &f, int y, int mode)
{
	const int i = threadIdx.x;

	if (y < f.shared_items) {
		if (i < mode) {
			b->x_row[i] = y * mode + i;
			b->to_row[i] = f.pairs + y * mode + i;
		}
		if (!i) {
			b->n = min(mode, f.rows - y * mode);
			b->expert = 0;
		}
	} else {
		if (y - f.shared_items >= *f.n_items)
			return false;
		const struct item &it = f.items[y - f.shared_items];

		if (i < it.n) {
			b->x_row[i] = it.pair[i] / f.used;
			b->to_row[i] = it.pair[i];
		}
		if (!i) {
			b->n = it.n;
			b->expert = it.expert;
		}
	}
	__syncthreads();
	return true;
}

/* Gate, up, SwiGLU: 32 hidden values of an item's rows, rounded.  Grid: F / 32, items, the shared expert's first. */
template <int MS, int T, int TS> static __global__ void __launch_bounds__(THREADS, 3) hidden_kernel(struct ffn f)
{
	DYNAMIC(float4, memory);
	float *red = (float *)memory;
	__shared__ struct ffn_block b;
	const bool shared = (int)blockIdx.y < f.shared_items;
	const int mode = shared ? MS : ITEM_ROWS;
	const struct dw &g = shared ? f.shared[0] : f.w[0], &u = shared ? f.shared[1] : f.w[1];
	const int ks = split_of(g.stride);
	uint2 *grid = (uint2 *)(red + (size_t)4 * ks * MS * 16);
	struct strip_job j = {&g, &u, 0, (int)blockIdx.x * 32, g.out, 4};

	follow_lead();
	if (j.o0 >= j.end)
		return;
	if (T == DTYPE_IQ2_XXS && g.type == T)
		load_grid_copies(grid);
	if (shared) {
		find_item(&b, f, blockIdx.y, MS);
	} else {
		follow_wait();
		if (!find_item(&b, f, blockIdx.y, MS))
			return;
		j.base = (size_t)b.expert * g.out;
	}
	auto before = [&] {
		if (shared)
			follow_wait();
	};
	const struct vec_x &x = shared ? f.x_shared : f.x;

	if (!shared)
		run_tiles<T, ITEM_ROWS>(red, j, x, b.x_row, &b.n, grid, before);
	else
		run_tiles<TS, MS>(red, j, x, b.x_row, &b.n, grid, before);
	__syncthreads();
#pragma unroll 1
	for (int row = threadIdx.x / WARP; row < b.n; row += WARPS) {
		const int m = threadIdx.x % WARP, to = b.to_row[row];
		float v = swiglu1(sum_rows(red, ks, m / 16, row, m % 16, mode), sum_rows(red, ks, 2 + m / 16, row, m % 16, mode), f.limit);

		if (!shared)
			v *= f.weight[to];
		if (j.o0 + m >= j.end)
			v = 0;
		store_rounded(f.q + (size_t)to * f.q_stride, f.d + (size_t)to * (f.q_stride / 32), v, blockIdx.x);
	}
}

/* Down: part[to_row] = W h, 16 * tiles outputs of an item's rows.  Grid: d / (16 * tiles), items. */
template <int MS, int T, int TS> static __global__ void __launch_bounds__(THREADS, 3) down_kernel(struct ffn f)
{
	DYNAMIC(float4, memory);
	float *red = (float *)memory;
	__shared__ struct ffn_block b;
	const bool shared = (int)blockIdx.y < f.shared_items;
	const int mode = shared ? MS : ITEM_ROWS;
	const struct dw &w = shared ? f.shared[2] : f.w[2];
	const int ks = split_of(w.stride);
	uint2 *grid = (uint2 *)(red + (size_t)f.tiles * ks * MS * 16);
	struct strip_job j = {&w, NULL, 0, (int)blockIdx.x * f.tiles * 16, w.out, f.tiles};

	follow_lead();
	if (T == DTYPE_IQ2_XXS && w.type == T)
		load_grid_copies(grid);
	if (shared) {
		find_item(&b, f, blockIdx.y, MS);
	} else {	/* the list is older than the kernel in front: but only its end says that the list's end has been seen */
		follow_wait();
		if (!find_item(&b, f, blockIdx.y, MS))
			return;
		j.base = (size_t)b.expert * w.out;
	}
	auto before = [&] {
		if (shared)
			follow_wait();
	};
	struct vec_x x = {};

	x.q = f.q;
	x.d = f.d;
	x.width = w.in;
	x.stride = f.q_stride;
	if (!shared)
		run_tiles<T, ITEM_ROWS>(red, j, x, b.to_row, &b.n, grid, before);
	else
		run_tiles<TS, MS>(red, j, x, b.to_row, &b.n, grid, before);
	__syncthreads();
#pragma unroll 1
	for (int c = threadIdx.x; c < b.n * 32; c += THREADS) {	/* two tiles */
		int row = c / 32, m = c % 32;

		if (j.o0 + m < j.end)
			f.part[(size_t)b.to_row[row] * w.out + j.o0 + m] = sum_rows(red, ks, m / 16, row, m % 16, mode);
	}
}

template <int MS, int T, int TS> static void launch_ffn(struct eng *e, const struct ffn *f, bool down)
{
	const int ks = split_of(f->w[down ? 2 : 0].stride), kss = split_of(f->shared[down ? 2 : 0].stride);
	const int items = (f->idx_items ? f->idx_items : 0) + f->shared_items, out = f->w[down ? 2 : 0].out;
	const size_t smem = (size_t)(down ? f->tiles : 4) * max(ks, kss) * MS * 64 + few_room(T);

	if (down) {
		ALLOW((down_kernel<MS, T, TS>), smem);
		LAUNCH(e, (down_kernel<MS, T, TS>), dim3(div_up(out, 16 * f->tiles), items), THREADS, smem, *f);
	} else {
		ALLOW((hidden_kernel<MS, T, TS>), smem);
		LAUNCH(e, (hidden_kernel<MS, T, TS>), dim3(div_up(out, 32), items), THREADS, smem, *f);
	}
}

template <int T> static void launch_ffn_mode(struct eng *e, const struct ffn *f, bool down)
{
	if (f->rows <= 4)
		launch_ffn<4, T, DTYPE_Q8_0>(e, f, down);
	else
		launch_ffn<SHARED_ROWS, T, DTYPE_Q8_0>(e, f, down);
}

/* The list of items, or only the shared expert, has been made: runs one half. */
static void ffn_half(struct eng *e, const struct ffn *f, bool down)
{
	switch (f->w[down ? 2 : 0].type) {
	case DTYPE_IQ2_XXS:
		launch_ffn_mode<DTYPE_IQ2_XXS>(e, f, down);
		break;
	case DTYPE_Q2_K:
		launch_ffn_mode<DTYPE_Q2_K>(e, f, down);
		break;
	case DTYPE_Q4_K:
		launch_ffn_mode<DTYPE_Q4_K>(e, f, down);
		break;
	case DTYPE_Q8_0:
		launch_ffn_mode<DTYPE_Q8_0>(e, f, down);
		break;
	}
}

/* Can the kernels here run these three matrices, beside a shared expert's (NULL: none)? */
bool few_ffn_types(const struct dw *w, const struct dw *shared)
{
	for (int i = 0; i < 3; i++)
		if (!rounds(w[i].type) || w[i].n > 1024)
			return false;
	if (w[0].type != w[1].type)
		return false;
	return !shared || (shared[0].type == DTYPE_Q8_0 && shared[1].type == DTYPE_Q8_0 && shared[2].type == DTYPE_Q8_0 &&
			   shared[0].out == w[0].out && shared[2].out == w[2].out && shared[0].in == w[0].in);
}

/* Experts of f->rows rows: part [pairs + rows, d] afterwards holds the result of every pair, then those of the shared expert.
 * Set before: w, shared, rows, used, weight, limit, pairs, items, n_items, idx_items, shared_items > 0 if there is a shared
 * expert.  x: [rows, d]. */
bool few_ffn(struct eng *e, struct ffn *f, const float *x)
{
	const size_t all = (size_t)f->pairs + (f->shared_items ? f->rows : 0), out = f->w[2].out;

	f->q_stride = up256(f->w[2].in);
	if (f->shared_items)
		f->shared_items = div_up(f->rows, f->rows <= 4 ? 4 : SHARED_ROWS);
	else
		f->shared[0] = f->w[0], f->shared[1] = f->w[1], f->shared[2] = f->w[2];
	f->q = (int8_t *)eng_scratch(e, S_HIDDEN, all * f->q_stride);
	f->d = (float *)eng_scratch(e, S_HIDDEN2, all * (f->q_stride / 32) * 4);
	f->part = (float *)eng_scratch(e, S_DOWN, all * out * 4);
	f->tiles = 2;
	if (!f->q || !f->d || !f->part || !vec_form(e, &f->x, x, f->w[0].in, f->rows, f->w[0].type))
		return false;
	f->x_shared = f->x;
	if (f->w[2].in % 256) {	/* the kernel writes whole groups up to `in` */
#ifndef DS4_CUDA_EMU
		cudaMemsetAsync(f->q, 0, all * f->q_stride, e->stream);
		cudaMemsetAsync(f->d, 0, all * (f->q_stride / 32) * 4, e->stream);
#else
		memset(f->q, 0, all * f->q_stride);
		memset(f->d, 0, all * (f->q_stride / 32) * 4);
#endif
	}
	eng_mark(e, "experts, gate and up", NULL, 0);
	ffn_half(e, f, false);
	eng_mark(e, "experts, down", NULL, 0);
	ffn_half(e, f, true);
	return true;
}

/* y[t] (+)= parts of row t in the order of its list, then the shared expert's. */
static __global__ void gather_few_kernel(float *y, const float *part, int used, int pairs, int shared, int d, int add)
{
	int t = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;

	follow();
	if (i < d) {
		float v = gather_part(part, t, i, used, pairs, shared, d);

		y[(size_t)t * d + i] = add ? y[(size_t)t * d + i] + v : v;
	}
}

void few_gather(struct eng *e, float *y, const struct ffn *f, int add)
{
	const int d = f->w[2].out;

	LAUNCH(e, gather_few_kernel, dim3(div_up(d, 256), f->rows), 256, 0, y, f->part, f->used, f->pairs, f->shared_items > 0, d, add);
}
