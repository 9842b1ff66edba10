/* engine.c - opens a model: file, tokenizer, backend, weights, history pool, forward pass.
 *
 * What  engine_open() turns options into a loaded model whose parts agree with each other, or one sentence that says
 *       why not.  Everything is read-only afterwards, except the pool that sessions take blocks from.
 * Why   One place decides context, chunk, threads and memory, so that no part has to guess.
 * How   In order of what the next step needs to know: file -> shape -> vocabulary -> backend -> choices -> plan ->
 *       weights -> pool -> forward pass.  The plan is checked before the first big allocation.
 * Careful
 *       - Options are checked before the file is opened where that is possible: a bad number is not worth a load.
 *       - opt.model may die after engine_open(): the engine keeps the file's own copy of the path.
 *       - The forward pass must hold one row of every timeline, whatever the chunk.
 * Thread: one thread drives an engine and its sessions. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/utf8.h"
#include "engine/engine_int.h"

#define DEFAULT_CONTEXT 32768
#define MAX_THREADS 1024
#define MAX_TIMELINES 4096
#define MAX_ROWS 65536
#define MAX_NAME_BYTES 200
#define SAMPLE_BYTES 4096

static enum status in_range(const char *name, long value, long max, struct err *err)
{
	if (value >= 0 && value <= max)
		return OK;
	return err_set(err, ERR_ARGUMENT, "%s: expected 0 (choose) to %ld, got %ld", name, max, value);
}

/* What can be checked without the model. */
static enum status check_options(const struct engine_options *opt, struct err *err)
{
	if (!opt->model || !opt->model[0])
		return err_set(err, ERR_ARGUMENT, "model: expected the path of a GGUF file, got nothing");
	TRY(in_range("threads", opt->threads, MAX_THREADS, err));
	TRY(in_range("context", opt->context, INT32_MAX, err));
	TRY(in_range("timelines", opt->timelines, MAX_TIMELINES, err));
	TRY(in_range("chunk", opt->chunk, MAX_ROWS, err));
	return in_range("max_logits", opt->max_logits, MAX_ROWS, err);
}

/* Fills in every choice that was left open. */
static enum status choose(struct engine *e, struct err *err)
{
	struct engine_options *o = &e->opt;
	int32_t model = e->shape.context, rows;

	if (o->context > model)
		return err_set(err, ERR_ARGUMENT, "context: the model is made for %d tokens, asked for %d",
			       (int)model, (int)o->context);
	if (!o->context)
		o->context = model < DEFAULT_CONTEXT ? model : DEFAULT_CONTEXT;
	if (!o->timelines)
		o->timelines = 1;
	if (!o->chunk)
		o->chunk = strcmp(e->be->name, "ref") == 0 ? 64 : e->be->room ? 2048 : 256;
	if (o->chunk > o->context)
		o->chunk = o->context;
	rows = engine_step_rows(o->chunk, o->timelines);
	if (!o->max_logits)
		o->max_logits = o->timelines;
	if (o->max_logits > rows)
		o->max_logits = rows;
	if (!o->memory_limit)
		o->memory_limit = mem_available_bytes();
	return OK;
}

static uint64_t weight_bytes(const struct gguf *g)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < g->n_tensors; i++)
		sum += g->tensor[i].bytes;
	return sum;
}

/* general.name, else the file's name.  Bytes that could command a terminal become '?'. */
static char *model_name(const struct gguf *g)
{
	struct gguf_string s = {0};
	const char *slash = strrchr(g->path, '/');
	char *name;

	if (gguf_str(g, "general.name", &s, NULL) != OK || s.n == 0) {
		s.p = slash ? slash + 1 : g->path;
		s.n = strlen(s.p);
	}
	if (s.n > MAX_NAME_BYTES)
		s.n = utf8_whole(s.p, MAX_NAME_BYTES);
	name = mem_strn(s.p, s.n);
	for (size_t i = 0; name && i < s.n; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			name[i] = '?';
	return name;
}

/* File, vocabulary and shape, and that they speak of the same model. */
static enum status open_model(struct engine *e, const char *path, struct err *err)
{
	TRY(gguf_open(&e->gguf, path, err));
	e->opt.model = e->gguf->path;
	TRY(shape_read(&e->shape, e->gguf, err));
	TRY(tokenizer_open(&e->tokenizer, e->gguf, err));
	if (tokenizer_size(e->tokenizer) != e->shape.vocab)
		return err_set(err, ERR_FORMAT, "%s: the model has a vocabulary of %d tokens, its tokenizer has %d",
			       path, (int)e->shape.vocab, (int)tokenizer_size(e->tokenizer));
	e->name = model_name(e->gguf);
	return e->name ? OK : err_set(err, ERR_MEMORY, "%s: no memory for the model's name", path);
}

/* Beside the weights, which some formats grow by a few percent: work space of a step and the first history. */
#define DEVICE_SPARE ((uint64_t)2 << 30)

/* A device whose memory has room for the model: e->be, and why.  False: none. */
static bool try_device(struct engine *e, const struct be_options *o)
{
	uint64_t need = weight_bytes(e->gguf) / 100 * 104 + DEVICE_SPARE, room;
	struct err why = {0};
	int i = 0;

	while (be_name(i) && strcmp(be_name(i), "cuda") != 0)
		i++;
	if (!be_name(i))
		return false;
	if (be_open(&e->be, "cuda", o, &why) != OK) {
		snprintf(e->backend_why, sizeof e->backend_why, "backend: cpu; %.150s", why.msg);
		return false;
	}
	room = e->be->room(e->be);
	snprintf(e->backend_why, sizeof e->backend_why, "backend: %s; the model needs %.1f GB, %s has %.1f GB free",
		 need <= room ? "cuda" : "cpu", (double)need / 1e9, e->be->device, (double)room / 1e9);
	if (need <= room)
		return true;
	be_close(e->be);
	e->be = NULL;
	return false;
}

static enum status open_backend(struct engine *e, struct err *err)
{
	bool any = !e->opt.backend || strcmp(e->opt.backend, "auto") == 0;
	struct be_options o;

	if (!e->opt.threads)
		e->opt.threads = cpu_count();
	o = (struct be_options){.threads = e->opt.threads, .isa = e->opt.isa, .numerics = e->opt.numerics};
	if (!any || !try_device(e, &o))
		TRY(be_open(&e->be, any ? "cpu" : e->opt.backend, &o, err));
	e->opt.backend = e->be->name;
	return OK;
}

/* Metadata and tensor table; and, because another training of the same model may have the same, the first bytes of some
 * tensors over the whole file. */
static struct tree_key file_key(const struct gguf *g)
{
	int32_t words[GEOM_BLOCK] = {0};

	for (uint64_t i = 0; i < GEOM_BLOCK / 2 && g->n_tensors; i++) {
		const struct gguf_tensor *t = &g->tensor[i * g->n_tensors / (GEOM_BLOCK / 2)];
		uint64_t h = hash64(t->data, t->bytes < SAMPLE_BYTES ? (size_t)t->bytes : SAMPLE_BYTES);

		words[2 * i] = (int32_t)(uint32_t)h;
		words[2 * i + 1] = (int32_t)(uint32_t)(h >> 32);
	}
	return tree_key_next(tree_key_of(g->map, (size_t)g->data_offset), words);
}

struct tree_key engine_fingerprint(const struct engine *e)
{
	const struct backend *be = e->be;
	uint64_t name = hash64(be->name, strlen(be->name)),
		 kernels = be->kernels ? hash64(be->kernels, strlen(be->kernels)) : 0;
	int32_t words[GEOM_BLOCK] = {(int32_t)be->real_bytes, (int32_t)be->row_bytes, (int32_t)be->key_bytes,
				     be->numerics.fp8, be->numerics.fp4, be->numerics.packed,
				     (int32_t)e->layout.block_bytes, (int32_t)e->layout.check_bytes,
				     (int32_t)(uint32_t)name, (int32_t)(uint32_t)(name >> 32),
				     (int32_t)(uint32_t)kernels, (int32_t)(uint32_t)(kernels >> 32)};

	return tree_key_next(file_key(e->gguf), words);
}

/* Everything that takes memory, after the plan said that there is enough. */
static enum status allocate(struct engine *e, struct err *err)
{
	const struct engine_options *o = &e->opt;

	memory_plan_make(&e->plan, &e->shape, e->be, weight_bytes(e->gguf), o->context, o->timelines, o->chunk,
			 o->max_logits);
	TRY(memory_plan_check(&e->plan, &e->shape, e->be, o->max_logits, o->memory_limit, err));
	kv_layout_make(&e->layout, &e->shape, e->be);
	TRY(weights_bind(&e->weights, e->gguf, &e->shape, e->be, err));
	kv_pool_init(&e->pool, e->be, &e->layout, memory_block_limit(o->context, o->timelines));
	e->pool.check_limit = o->timelines * ENGINE_MAX_CHECKPOINTS;
	TRY(tree_open(&e->tree, &e->pool, engine_fingerprint(e), err));
	return forward_open(&e->forward, e->be, &e->shape, &e->weights, &e->layout,
			    engine_step_rows(o->chunk, o->timelines), o->max_logits, err);
}

enum status engine_open(struct engine **out, const struct engine_options *opt, struct err *err)
{
	enum status st = OK;
	struct engine *e;

	*out = NULL;
	TRY(check_options(opt, err));
	e = mem_zero(sizeof *e);
	if (!e)
		return err_set(err, ERR_MEMORY, "no memory for an engine");
	e->opt = *opt;
	TRY_TO(out, open_model(e, opt->model, err));
	TRY_TO(out, open_backend(e, err));
	TRY_TO(out, choose(e, err));
	TRY_TO(out, allocate(e, err));
	*out = e;
	e = NULL;
out:
	engine_close(e);
	return st;
}

/* Accepts NULL and half-built.  Sessions must be closed before. */
void engine_close(struct engine *e)
{
	if (!e)
		return;
	tree_close(e->tree);
	assert(e->pool.live == 0);
	forward_close(e->forward);
	if (e->pool.be)
		kv_pool_clear(&e->pool);
	weights_clear(&e->weights);
	be_close(e->be);
	tokenizer_close(e->tokenizer);
	gguf_close(e->gguf);
	mem_free((void *)e->name);
	mem_free(e);
}
