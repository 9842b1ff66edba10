/* cuda.cu - the CUDA backend's table of operations, its queue, and the graphs it replays.
 *
 * What  Each operation of the contract appends a record.  A flush (be_submit, or any look at memory) sends the step block
 *       and then issues the records as kernels, or replays the graph of the same list.
 * Why   A decode step is about a thousand small kernels: launching them one by one costs more than running them.
 * How   The list of records is hashed.  A list of few rows that was seen before is captured into a graph the second time,
 *       and replayed from then on: positions are in the step block, so a list depends on the number of rows, not on where
 *       they are.  What grows with the context (bounds of grids) is rounded to powers of two.
 * Careful
 *       - Scratch memory that grows moves: recorded graphs go with it.
 *       - The step's arrays belong to the caller and may change after the flush: they are copied when its first operation
 *         is queued.
 *       - After a sticky CUDA error every call fails; the first one is reported. */
#include "cuda_int.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda_abi.h"
#include "fuse.cuh"
#include "load.cuh"

static const struct {
	const char *name;
	void (*run)(struct eng *e, const struct rec *r);
} table[OP_COUNT] = {
	{"embed", k_embed}, {"hc_in", k_hc_in}, {"hc_out", k_hc_out}, {"hc_head", k_hc_head}, {"rms_norm", k_rms_norm},
	{"matmul", k_matmul}, {"rope", k_rope}, {"pack_rows", k_pack_rows}, {"pool", k_pool}, {"index_query", k_index_query},
	{"choose_rows", k_choose}, {"attend", k_attend}, {"ring_write", k_ring_write}, {"route", k_route},
	{"experts", k_experts}, {"swiglu", k_swiglu}, {"add", k_add}, {"shared_expert", k_shared},
};

static const size_t PINNED = (size_t)24 << 20;	/* logits of 32 rows and more */

struct graph {
	int seen;
	cudaGraphExec_t exec;
};

struct timing {
	double ms, bytes;
	long n;
};

struct cuda : eng {
	std::vector<rec> queue;
	std::unordered_map<uint64_t, graph> graphs;
	const struct step *step;	/* whose block is on the device, NULL: none */
	uint8_t *block_dev, *block_host;
	size_t block_room;
	char device[64];
	uint8_t *pinned;		/* [PINNED] for downloads, made by the first */
	int32_t row_room, block_list_room;
	int32_t bound;			/* positions below this, a power of two */
	std::vector<float *> freq_dev;
	std::vector<std::vector<float>> freq_host;
	struct loader loader;
	std::vector<struct dw *> weights;
	bool use_graphs, profile, fuse;
	const char *mark;		/* what is being timed */
	double mark_bytes;
	cudaEvent_t mark_begin, mark_end;
	std::map<std::string, timing> times;
};

static struct cuda *cuda_of(struct backend *be)
{
	return (struct cuda *)be->self;
}

/* ------------------------------------------------------------------ errors */

void eng_fail(struct eng *e, enum status code, const char *fmt, ...)
{
	va_list ap;

	if (e->be.failing)
		return;
	e->be.failing = 1;
	e->be.err.code = code;
	va_start(ap, fmt);
	vsnprintf(e->be.err.msg, sizeof e->be.err.msg, fmt, ap);
	va_end(ap);
}

void eng_check(struct eng *e, const char *what)
{
	cudaError_t st = cudaGetLastError();

	if (st != cudaSuccess)
		eng_fail(e, st == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE, "cuda: %s: %s", what,
			 cudaGetErrorString(st));
}

static enum status say(struct err *err, enum status code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof err->msg, fmt, ap);
		va_end(ap);
	}
	return code;
}

/* ------------------------------------------------------------------ scratch */

void *eng_scratch(struct eng *e, enum scratch s, size_t bytes)
{
	if (e->scratch[s].n < bytes) {
		size_t room = bytes + bytes / 8;

		if (e->scratch[s].p)
			cudaFree(e->scratch[s].p);
		e->scratch[s].p = NULL;
		e->scratch[s].n = 0;
		e->grown = 1;
		if (cudaMalloc(&e->scratch[s].p, room) != cudaSuccess) {
			cudaGetLastError();
			eng_fail(e, ERR_MEMORY, "cuda: no device memory for %zu bytes of work space", room);
			return NULL;
		}
		e->scratch[s].n = room;
	}
	return e->scratch[s].p;
}

void eng_wrote(struct eng *e, const void *p)
{
	for (int i = 0; i < SLOTS; i++)
		if (e->slot[i].src == p)
			e->slot[i].src = NULL;
}

/* ------------------------------------------------------------------ the queue */

static void drop_graphs(struct cuda *c)
{
	for (auto &g : c->graphs)
		if (g.second.exec)
			cudaGraphExecDestroy(g.second.exec);
	c->graphs.clear();
	c->grown = 0;
}

/* Bytes of weights that an operation reads, for the report. */
static double weight_bytes(const struct rec *r)
{
	static const double per[DTYPE_COUNT] = {4, 2, 34 / 32.0, 84 / 256.0, 144 / 256.0, 66 / 256.0, 4, 2};
	double sum = 0;

	if (r->op != OP_MATMUL && r->op != OP_EXPERTS && r->op != OP_SHARED)
		return 0;
	for (int i = 0; i < 3; i++) {
		double n = (double)r->w[i].in * r->w[i].out * per[r->w[i].type];

		if (r->w[i].a)
			sum += r->op == OP_EXPERTS ? n * fmin(r->w[i].n, (double)r->n_rows * r->i[0]) : n;
	}
	return sum;
}

/* Ends what is being timed. */
static void mark_stop(struct cuda *c)
{
	float ms = 0;

	if (!c->mark)
		return;
	cudaEventRecord(c->mark_end, c->stream);
	cudaEventSynchronize(c->mark_end);
	cudaEventElapsedTime(&ms, c->mark_begin, c->mark_end);
	struct timing &t = c->times[c->mark];

	t.ms += ms;
	t.bytes += c->mark_bytes;
	t.n++;
	c->mark = NULL;
}

static void mark_start(struct cuda *c, const char *name, double bytes)
{
	static std::map<std::string, int> names;	/* keeps the strings */

	mark_stop(c);
	c->mark = names.emplace(name, 0).first->first.c_str();
	c->mark_bytes = bytes;
	cudaEventRecord(c->mark_begin, c->stream);
}

void eng_mark(struct eng *e, const char *name, const struct few_product *p, int n)
{
	struct cuda *c = cuda_of(&e->be);
	struct rec r = {};
	double bytes = 0;

	if (!c->profile)
		return;
	r.op = OP_MATMUL;
	for (int i = 0; i < n; i++) {
		r.w[0] = *p[i].w;
		bytes += weight_bytes(&r);
	}
	mark_start(c, name, bytes);
}

static void mark_record(struct cuda *c, const struct rec *r)
{
	char key[96];

	if (r->op == OP_MATMUL)
		snprintf(key, sizeof key, "%s t%d [%d, %d]", table[r->op].name, r->w[0].type, r->w[0].out, r->w[0].in);
	else
		snprintf(key, sizeof key, "%s%s", table[r->op].name,
			 r->op == OP_ATTEND || r->op == OP_POOL ? r->layer.ratio == 4 ? " r4" : r->layer.ratio ? " r128" : " r0"
								: "");
	mark_start(c, key, weight_bytes(r));
}

static void issue(struct cuda *c)
{
	for (int i = 0; i < SLOTS; i++) {
		c->slot[i].src = NULL;
		c->slot[i].used = 0;
	}
	c->clock = 0;
	for (size_t i = 0, n = c->queue.size(); i < n && !c->be.failing;) {
		const rec &r = c->queue[i];
		int taken = c->fuse && r.n_rows ? plan_run(c, &r, (int)(n - i)) : 0;

		if (!taken && r.n_rows) {
			if (c->profile)
				mark_record(c, &r);
			table[r.op].run(c, &r);
		}
		if (!taken) {
			eng_wrote(c, r.p[0]);
			if (r.op == OP_HC_IN)
				eng_wrote(c, r.p[1]);
		}
		i += taken ? taken : 1;
	}
	mark_stop(c);
}

static_assert(sizeof(rec) % 8 == 0, "records are hashed as words");

static uint64_t hash_queue(const struct cuda *c)
{
	uint64_t h = 0x9E3779B97F4A7C15ull;
	const uint64_t *p = (const uint64_t *)c->queue.data();
	size_t n = c->queue.size() * (sizeof(rec) / 8);

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001B3ull + (h >> 29);
	return h;
}

static void flush(struct cuda *c)
{
	if (c->queue.empty())
		return;
	if (c->be.failing) {
		c->queue.clear();
		return;
	}
	if (c->grown)
		drop_graphs(c);
	if (!c->use_graphs || c->profile || c->queue.size() < 16 || c->queue[0].n_rows > c->matvec_rows) {
		issue(c);
		c->queue.clear();
		return;
	}
	if (c->graphs.size() > 64)
		drop_graphs(c);
	graph &g = c->graphs[hash_queue(c)];

	if (!g.exec && g.seen++) {
		cudaGraph_t made = NULL;
		cudaError_t st = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed);

		if (st == cudaSuccess) {
			issue(c);
			st = cudaStreamEndCapture(c->stream, &made);
		}
		if (st == cudaSuccess && !c->be.failing)
			st = cudaGraphInstantiate(&g.exec, made, 0);
		if (made)
			cudaGraphDestroy(made);
		if (st != cudaSuccess) {
			cudaGetLastError();
			g.exec = NULL;
			c->use_graphs = false;
		}
		if (!g.exec)
			issue(c);
	} else if (!g.exec) {
		issue(c);
	}
	if (g.exec) {
		cudaGraphLaunch(g.exec, c->stream);
		eng_check(c, "graph launch");
	}
	c->queue.clear();
}

/* Copies the step to the device.  Addresses in c->st stay while the room does. */
static void send_step(struct cuda *c, const struct step *s)
{
	int32_t blocks = 0, timelines = 0, most = 1;
	size_t row_at = 0, span_at, row_span_at, logit_at, tl_at, block_at, bytes;

	for (int32_t i = 0; i < s->n_spans; i++) {
		if (s->span[i].timeline >= timelines)
			timelines = s->span[i].timeline + 1;
		blocks += s->timeline[s->span[i].timeline].n_block;
		if (s->span[i].pos0 + s->span[i].n > most)
			most = s->span[i].pos0 + s->span[i].n;
	}
	for (c->bound = 2048; c->bound < most; c->bound *= 2)
		;
	cudaStreamSynchronize(c->stream);	/* the last copy has left the host buffer */
	if (s->n_rows > c->row_room || blocks > c->block_list_room) {
		while (c->row_room < s->n_rows)
			c->row_room = c->row_room ? c->row_room * 2 : 64;
		while (c->block_list_room < blocks)
			c->block_list_room = c->block_list_room ? c->block_list_room * 2 : 1024;
		c->block_list_room = c->block_list_room ? c->block_list_room : 1024;
	}
	span_at = row_at + (size_t)c->row_room * sizeof(struct row);
	row_span_at = span_at + (size_t)c->row_room * sizeof(struct span);
	logit_at = row_span_at + (size_t)c->row_room * 4;
	tl_at = logit_at + (size_t)c->row_room * 4;
	block_at = tl_at + (size_t)c->row_room * sizeof(struct dtimeline);
	bytes = block_at + (size_t)c->block_list_room * sizeof(uint8_t *);
	if (bytes > c->block_room) {
		cudaFree(c->block_dev);
		cudaFreeHost(c->block_host);
		c->block_dev = c->block_host = NULL;
		c->block_room = 0;
		if (cudaMalloc(&c->block_dev, bytes) != cudaSuccess || cudaMallocHost(&c->block_host, bytes) != cudaSuccess) {
			eng_check(c, "memory for the step");
			return;
		}
		c->block_room = bytes;
		drop_graphs(c);
		c->st.row = (const struct row *)(c->block_dev + row_at);
		c->st.span = (const struct span *)(c->block_dev + span_at);
		c->st.row_span = (const int32_t *)(c->block_dev + row_span_at);
		c->st.logit_row = (const int32_t *)(c->block_dev + logit_at);
		c->st.timeline = (const struct dtimeline *)(c->block_dev + tl_at);
		c->st.block = (uint8_t *const *)(c->block_dev + block_at);
	}
	memcpy(c->block_host + row_at, s->row, (size_t)s->n_rows * sizeof *s->row);
	memcpy(c->block_host + span_at, s->span, (size_t)s->n_spans * sizeof *s->span);
	memcpy(c->block_host + row_span_at, s->row_span, (size_t)s->n_rows * 4);
	memcpy(c->block_host + logit_at, s->logit_row, (size_t)s->n_logits * 4);
	struct dtimeline *tl = (struct dtimeline *)(c->block_host + tl_at);
	uint8_t **list = (uint8_t **)(c->block_host + block_at);
	int32_t at = 0;

	for (int32_t i = 0; i < timelines; i++)
		tl[i] = {};
	for (int32_t i = 0; i < s->n_spans; i++) {
		const struct be_timeline *from = &s->timeline[s->span[i].timeline];

		tl[s->span[i].timeline] = {from->tail, at, from->n_block};
		if (from->n_block)
			memcpy(list + at, from->block, (size_t)from->n_block * sizeof *list);
		at += from->n_block;
	}
	cudaMemcpyAsync(c->block_dev, c->block_host, block_at + (size_t)at * sizeof *list, cudaMemcpyHostToDevice, c->stream);
	eng_check(c, "sending the step");
}

static rec &push(struct backend *be, enum op op, int32_t n_rows)
{
	struct cuda *c = cuda_of(be);

	c->queue.emplace_back();
	rec &r = c->queue.back();
	memset(&r, 0, sizeof r);
	r.op = op;
	r.n_rows = n_rows;
	return r;
}

/* A record of an operation on a step; the step is sent when it is new. */
static rec &push_step(struct backend *be, enum op op, const struct step *s)
{
	struct cuda *c = cuda_of(be);

	if (op == OP_EMBED || c->step != s) {
		flush(c);
		send_step(c, s);
		c->step = s;
	}
	rec &r = push(be, op, s->n_rows);

	r.n_spans = s->n_spans;
	r.n_logits = s->n_logits;
	return r;
}

static struct dw weight_of(const struct weight *w)
{
	return w ? *(const struct dw *)w->device : dw{};
}

static float *freq_of(struct cuda *c, const float *freq)
{
	float *p;

	for (size_t i = 0; i < c->freq_host.size(); i++)
		if (!memcmp(c->freq_host[i].data(), freq, 32 * sizeof *freq))
			return c->freq_dev[i];
	if (cudaMalloc(&p, 32 * sizeof *freq) != cudaSuccess) {
		eng_check(c, "memory for a table of frequencies");
		return NULL;
	}
	cudaMemcpy(p, freq, 32 * sizeof *freq, cudaMemcpyHostToDevice);
	c->freq_dev.push_back(p);
	c->freq_host.push_back(std::vector<float>(freq, freq + 32));
	return p;
}

/* ------------------------------------------------------------------ operations */

static void op_embed(struct backend *be, const struct step *s, struct tensor *streams, const struct weight *w)
{
	rec &r = push_step(be, OP_EMBED, s);

	r.p[0] = streams->data;
	r.w[0] = weight_of(w);
}

static void hc_record(rec &r, const struct hc_weights *w)
{
	r.w[0] = weight_of(w->fn);
	r.w[1] = weight_of(w->scale);
	r.w[2] = weight_of(w->base);
	r.i[1] = w->iterations;
}

static void op_hc_in_norm(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
			  const struct tensor *streams, const struct hc_weights *hc, const struct weight *w)
{
	rec &r = push_step(be, OP_HC_IN, s);

	hc_record(r, hc);
	r.p[0] = x->data;
	r.p[1] = coef->data;
	r.p[2] = streams->data;
	r.p[3] = w ? w->device : NULL;
	r.i[0] = x->width;
}

static void op_hc_in(struct backend *be, const struct step *s, struct tensor *x, struct tensor *coef,
		     const struct tensor *streams, const struct hc_weights *w)
{
	op_hc_in_norm(be, s, x, coef, streams, w, NULL);
}

static void op_hc_out(struct backend *be, const struct step *s, struct tensor *streams, const struct tensor *coef,
		      const struct tensor *y)
{
	rec &r = push_step(be, OP_HC_OUT, s);

	r.p[0] = streams->data;
	r.p[1] = coef->data;
	r.p[2] = y->data;
	r.i[0] = y->width;
}

static void op_hc_head(struct backend *be, const struct step *s, struct tensor *x, const struct tensor *streams,
		       const struct hc_weights *w)
{
	rec &r = push_step(be, OP_HC_HEAD, s);

	hc_record(r, w);
	r.p[0] = x->data;
	r.p[1] = streams->data;
	r.i[0] = x->width;
}

static void op_rms_norm(struct backend *be, int32_t n_rows, struct tensor *y, const struct tensor *x, const struct weight *w,
			int32_t group)
{
	rec &r = push(be, OP_RMS, n_rows);

	r.p[0] = y->data;
	r.p[1] = x->data;
	r.w[0] = weight_of(w);
	r.i[0] = x->width;
	r.i[1] = group;
}

static void push_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w, const struct tensor *x,
			int32_t groups)
{
	rec &r = push(be, OP_MATMUL, n_rows);

	r.p[0] = y->data;
	r.p[1] = x->data;
	r.w[0] = weight_of(w);
	r.i[0] = groups;
}

static void op_matmul(struct backend *be, int32_t n_rows, struct tensor *y, const struct weight *w, const struct tensor *x)
{
	push_matmul(be, n_rows, y, w, x, 1);
}

static void op_grouped_matmul(struct backend *be, const struct step *s, struct tensor *y, const struct weight *w,
			      const struct tensor *x, int32_t groups)
{
	push_matmul(be, s->n_rows, y, w, x, groups);
}

static void op_rope(struct backend *be, const struct step *s, struct tensor *x, const struct rope_args *a)
{
	float *freq = freq_of(cuda_of(be), a->freq);
	rec &r = push_step(be, OP_ROPE, s);

	r.p[0] = x->data;
	r.p[1] = freq;
	r.i[0] = a->heads;
	r.i[1] = a->width;
	r.i[2] = a->inverse;
}

static void op_pack_rows(struct backend *be, const struct step *s, struct tensor *fresh, const struct tensor *kv)
{
	rec &r = push_step(be, OP_PACK, s);

	r.p[0] = fresh->data;
	r.p[1] = kv->data;
	r.i[0] = fresh->rows;
}

static void op_pool(struct backend *be, const struct step *s, const struct pool_args *a)
{
	float *freq = freq_of(cuda_of(be), a->freq);
	rec &r = push_step(be, OP_POOL, s);

	/* p[0] is what an operation writes; pooling writes the timelines alone */
	r.p[0] = a->kv->data;
	r.p[1] = a->score->data;
	r.p[2] = freq;
	r.w[0] = weight_of(a->ape);
	r.w[1] = weight_of(a->norm);
	r.layer = *a->layer;
	r.i[0] = a->key;
	r.i[1] = a->kv->width;
}

static void op_index_query(struct backend *be, const struct step *s, struct tensor *q, int32_t heads)
{
	rec &r = push_step(be, OP_QUERY, s);

	r.p[0] = q->data;
	r.i[0] = heads;
}

static void op_choose_rows(struct backend *be, const struct step *s, struct tensor *pick, const struct choose_args *a)
{
	rec &r = push_step(be, OP_CHOOSE, s);

	r.p[0] = pick->data;
	r.p[1] = a->q->data;
	r.p[2] = a->head_weight->data;
	r.layer = *a->layer;
	r.i[0] = a->heads;
	r.i[1] = a->top_k;
	r.i[2] = cuda_of(be)->bound / a->layer->ratio;
}

static void op_attend(struct backend *be, const struct step *s, struct tensor *out, const struct attend_args *a)
{
	rec &r = push_step(be, OP_ATTEND, s);
	int32_t most = a->layer->ratio ? cuda_of(be)->bound / a->layer->ratio : 0;

	r.p[0] = out->data;
	r.p[1] = a->q->data;
	r.p[2] = a->fresh->data;
	r.p[3] = a->pick ? a->pick->data : NULL;
	r.w[0] = weight_of(a->sinks);
	r.layer = *a->layer;
	r.i[0] = a->fresh->rows;
	r.i[1] = a->heads;
	r.i[2] = a->top_k;
	r.i[3] = a->layer->window + (a->pick && most > a->top_k ? a->top_k : most);
}

static void op_ring_write(struct backend *be, const struct step *s, const struct tensor *fresh, const struct kv_layer *layer)
{
	rec &r = push_step(be, OP_RING, s);

	r.p[0] = fresh->data;
	r.i[0] = fresh->rows;
	r.layer = *layer;
}

static void op_route(struct backend *be, const struct step *s, struct tensor *idx, struct tensor *gate,
		     const struct route_args *a)
{
	rec &r = push_step(be, OP_ROUTE, s);

	r.p[0] = idx->data;
	r.p[1] = gate->data;
	r.p[2] = a->logits->data;
	r.w[0] = weight_of(a->bias);
	r.w[1] = weight_of(a->table);
	r.i[0] = a->experts;
	r.i[1] = a->used;
	r.f[0] = a->scale;
}

static void op_experts(struct backend *be, const struct step *s, struct tensor *y, const struct expert_args *a)
{
	rec &r = push_step(be, OP_EXPERTS, s);

	r.p[0] = y->data;
	r.p[1] = a->x->data;
	r.p[2] = a->idx->data;
	r.p[3] = a->gate_weight->data;
	r.w[0] = weight_of(a->gate);
	r.w[1] = weight_of(a->up);
	r.w[2] = weight_of(a->down);
	r.i[0] = a->used;
	r.f[0] = a->limit;
}

static void op_shared_expert(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x,
			     const struct shared_args *a)
{
	rec &r = push_step(be, OP_SHARED, s);

	r.p[0] = y->data;
	r.p[1] = x->data;
	r.w[0] = weight_of(a->gate);
	r.w[1] = weight_of(a->up);
	r.w[2] = weight_of(a->down);
	r.f[0] = a->limit;
}

static void op_swiglu(struct backend *be, const struct step *s, struct tensor *h, const struct tensor *g,
		      const struct tensor *u, float limit)
{
	rec &r = push_step(be, OP_SWIGLU, s);

	r.p[0] = h->data;
	r.p[1] = g->data;
	r.p[2] = u->data;
	r.i[0] = h->width;
	r.f[0] = limit;
}

static void op_add(struct backend *be, const struct step *s, struct tensor *y, const struct tensor *x)
{
	rec &r = push_step(be, OP_ADD, s);

	r.p[0] = y->data;
	r.p[1] = x->data;
	r.i[0] = y->width;
}

/* ------------------------------------------------------------------ memory */

static void *cuda_alloc(struct backend *be, size_t bytes)
{
	struct cuda *c = cuda_of(be);
	void *p = NULL;

	if (cudaMalloc(&p, bytes ? bytes + 64 : 64) != cudaSuccess) {
		cudaGetLastError();
		return NULL;
	}
	cudaMemsetAsync(p, 0, bytes ? bytes + 64 : 64, c->stream);
	return p;
}

static void cuda_release(struct backend *be, void *p)
{
	struct cuda *c = cuda_of(be);

	flush(c);
	cudaStreamSynchronize(c->stream);
	cudaFree(p);
}

static void cuda_upload(struct backend *be, void *device, const void *host, size_t bytes)
{
	struct cuda *c = cuda_of(be);

	flush(c);
	cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, c->stream);
	cudaStreamSynchronize(c->stream);
	eng_check(c, "upload");
}

static void cuda_download(struct backend *be, void *host, const void *device, size_t bytes)
{
	struct cuda *c = cuda_of(be);

	flush(c);
	if (bytes > PINNED || (!c->pinned && cudaMallocHost(&c->pinned, PINNED) != cudaSuccess)) {
		cudaGetLastError();
		cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->stream);
		cudaStreamSynchronize(c->stream);
	} else {	/* pageable memory would go in pieces */
		cudaMemcpyAsync(c->pinned, device, bytes, cudaMemcpyDeviceToHost, c->stream);
		if (cudaStreamSynchronize(c->stream) == cudaSuccess)
			memcpy(host, c->pinned, bytes);
	}
	eng_check(c, "download");
}

static void cuda_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
	struct cuda *c = cuda_of(be);

	flush(c);
	cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream);
	eng_check(c, "copy");
}

static enum status cuda_weight_load(struct backend *be, struct weight *w, struct err *err)
{
	struct cuda *c = cuda_of(be);
	struct dw *d;

	flush(c);
	d = (struct dw *)calloc(1, sizeof *d);
	if (!d)
		return say(err, ERR_MEMORY, "%s: no memory", w->name);
	c->weights.push_back(d);
	w->device = d;
	return load_weight(&c->loader, d, w, err);
}

static void cuda_wait(struct backend *be)
{
	struct cuda *c = cuda_of(be);
	cudaError_t st;

	flush(c);
	c->step = NULL;
	st = cudaStreamSynchronize(c->stream);
	if (st != cudaSuccess)
		eng_fail(c, ERR_DEVICE, "the CUDA device failed: %s", cudaGetErrorString(st));
}

static uint64_t cuda_room(struct backend *be)
{
	size_t left = 0, total = 0;

	(void)be;
	if (cudaMemGetInfo(&left, &total) != cudaSuccess)
		cudaGetLastError();
	return left;
}

static void cuda_close(struct backend *be)
{
	struct cuda *c = cuda_of(be);

	c->queue.clear();
	cudaStreamSynchronize(c->stream);
	drop_graphs(c);
	for (int i = 0; i < SLOTS; i++)
		cudaFree(c->slot[i].mem);
	for (int i = 0; i < S_COUNT; i++)
		cudaFree(c->scratch[i].p);
	for (float *p : c->freq_dev)
		cudaFree(p);
	for (struct dw *d : c->weights)
		free(d);
	loader_close(&c->loader);
	cudaFree(c->block_dev);
	cudaFreeHost(c->block_host);
	cudaFreeHost(c->pinned);
	cudaEventDestroy(c->mark_begin);
	cudaEventDestroy(c->mark_end);
	cudaStreamDestroy(c->stream);
	cudaGetLastError();
	delete c;
}

/* ------------------------------------------------------------------ opening */

static const struct ops cuda_ops = []() {
	struct ops o = {};

	o.embed = op_embed;
	o.hc_in = op_hc_in;
	o.hc_out = op_hc_out;
	o.hc_head = op_hc_head;
	o.rms_norm = op_rms_norm;
	o.matmul = op_matmul;
	o.grouped_matmul = op_grouped_matmul;
	o.rope = op_rope;
	o.pack_rows = op_pack_rows;
	o.pool = op_pool;
	o.index_query = op_index_query;
	o.choose_rows = op_choose_rows;
	o.attend = op_attend;
	o.ring_write = op_ring_write;
	o.route = op_route;
	o.experts = op_experts;
	o.swiglu = op_swiglu;
	o.add = op_add;
	o.hc_in_norm = op_hc_in_norm;
	o.shared_expert = op_shared_expert;
	return o;
}();

extern "C" int ds4_cuda_abi(void)
{
	return CUDA_ABI;
}

extern "C" int ds4_cuda_devices(struct err *err)
{
	int n = 0, driver = 0, runtime = 0;
	cudaError_t st = cudaGetDeviceCount(&n);

	if (st == cudaSuccess && n > 0)
		return n;
	cudaGetLastError();
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&runtime);
	if (!driver)
		say(err, ERR_DEVICE, "no CUDA driver answers on this machine");
	else if (st == cudaErrorInsufficientDriver || driver < runtime / 1000 * 1000)
		say(err, ERR_DEVICE, "the CUDA driver is too old: it serves CUDA %d.%d, expected %d.%d or later", driver / 1000,
		    driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
	else
		say(err, ERR_DEVICE, "no CUDA device answers: %s", cudaGetErrorString(st));
	return 0;
}

static __global__ void probe_kernel(void)
{
}

static int env_int(const char *name, int otherwise)
{
	const char *v = getenv(name);

	return v && *v ? atoi(v) : otherwise;
}

extern "C" enum status ds4_cuda_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	struct cudaDeviceProp prop;
	struct cuda *c;
	cudaError_t st;

	*out = NULL;
	if (!opt->numerics.fp8 || !opt->numerics.fp4 || !opt->numerics.packed)
		return say(err, ERR_ARGUMENT, "the cuda backend always rounds as the model does: expected fp8, fp4 and packed on, "
			   "got %d, %d, %d (the ref backend can leave them out)", opt->numerics.fp8, opt->numerics.fp4,
			   opt->numerics.packed);
	if (!ds4_cuda_devices(err))
		return ERR_DEVICE;
	if ((st = cudaSetDevice(0)) != cudaSuccess || (st = cudaGetDeviceProperties(&prop, 0)) != cudaSuccess) {
		cudaGetLastError();
		return say(err, ERR_DEVICE, "CUDA device 0 does not open: %s", cudaGetErrorString(st));
	}
	START(probe_kernel, 1, 1, 0, 0);
	if ((st = cudaGetLastError()) != cudaSuccess || (st = cudaDeviceSynchronize()) != cudaSuccess) {
		cudaGetLastError();
		return say(err, ERR_DEVICE, "this build has no kernels that run on %s (compute capability %d.%d): %s", prop.name,
			   prop.major, prop.minor, cudaGetErrorString(st));
	}
	c = new (std::nothrow) cuda();
	if (!c)
		return say(err, ERR_MEMORY, "no memory for the cuda backend");
	if ((st = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking)) != cudaSuccess) {
		delete c;
		return say(err, ERR_DEVICE, "no CUDA stream: %s", cudaGetErrorString(st));
	}
	c->matvec_rows = env_int("DS4_CUDA_VECTOR_ROWS", 32);
	c->use_graphs = env_int("DS4_CUDA_GRAPHS", 1);
	c->fuse = env_int("DS4_CUDA_FUSE", 1);
	cudaEventCreate(&c->mark_begin);
	cudaEventCreate(&c->mark_end);
	c->overlap = prop.major >= 9 && env_int("DS4_CUDA_OVERLAP", 1);
#ifdef DS4_CUDA_WGMMA
	c->wgmma = prop.major == 9 && prop.minor == 0 && env_int("DS4_CUDA_HOPPER", 1);
#endif
	c->fill = env_int("DS4_CUDA_FILL", 4);
	c->sms = prop.multiProcessorCount > 0 ? prop.multiProcessorCount : 132;
	c->loader.stream = c->stream;
	c->be.name = "cuda";
	c->be.ops = cuda_ops;
	c->be.numerics = opt->numerics;
	c->be.real_bytes = sizeof(float);
	c->be.row_bytes = GEOM_ROW_BYTES;
	c->be.key_bytes = GEOM_KEY_BYTES;
	c->be.self = c;
	c->be.alloc = cuda_alloc;
	c->be.release = cuda_release;
	c->be.upload = cuda_upload;
	c->be.download = cuda_download;
	c->be.copy = cuda_copy;
	c->be.weight_load = cuda_weight_load;
	c->be.wait = cuda_wait;
	c->be.room = cuda_room;
	snprintf(c->device, sizeof c->device, "%.60s", prop.name);
	c->be.device = c->device;
	c->be.close = cuda_close;
	*out = &c->be;
	return OK;
}

/* For the bench program: times of every operation from events, one line each; switches graphs off while on. */
extern "C" void ds4_cuda_profile(struct backend *be, int on)
{
	struct cuda *c = cuda_of(be);

	flush(c);
	c->profile = on;
	c->times.clear();
}

extern "C" void ds4_cuda_report(struct backend *be, void *file, int steps)
{
	struct cuda *c = cuda_of(be);
	double total = 0;

	for (auto &t : c->times)
		total += t.second.ms;
	for (auto &t : c->times)
		fprintf((FILE *)file, "  %-36s %6ld x %9.4f ms = %9.3f ms %5.1f %%  %7.3f TB/s\n", t.first.c_str(),
			t.second.n / steps, t.second.ms / t.second.n, t.second.ms / steps, 100 * t.second.ms / total,
			t.second.bytes / (t.second.ms * 1e9));
	fprintf((FILE *)file, "  total of %d steps: %.3f ms a step\n", steps, total / steps);
}

extern "C" size_t ds4_cuda_weight_bytes(struct backend *be)
{
	return cuda_of(be)->loader.bytes;
}
