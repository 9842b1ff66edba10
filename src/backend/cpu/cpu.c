/* cpu.c - the CPU backend's table, its memory, and how work is dealt to threads.
 *
 * What  cpu_open() fills the operation table.  Activations are float32; weights are read where the file is
 *       mapped; history is read in its packed form.
 * Why   Every machine has one: this backend always works, and people without a GPU live with it.
 * How   Operations run to completion on the calling thread and the pool, so there is nothing to wait for.  What
 *       is fast about them is in dot_*.c, one file per instruction set.
 * Careful
 *       - Row independence is promised bit for bit: anything that sums must fix its order by the row alone.
 *         See dot.h for products and attn.c for attention.
 *       - Scratch memory may move when it grows: take it once per operation, before threads start. */
#include "backend/cpu/cpu.h"

#include <assert.h>
#include <stdio.h>

#include "backend/cpu/cpu_int.h"
#include "base/mem.h"
#include "quant/quant.h"

enum {
	FORK_WORTH = 16384,	/* multiply-adds: some 3 us on one core, against about 0.5 us for a fork-join */
	LONG = 1 << 20		/* multiply-adds of a thread: 10 to 100 us; worth more, smaller ranges */
};

void *cpu_scratch(struct cpu *c, enum cpu_scratch slot, size_t bytes)
{
	if (c->scratch[slot].bytes < bytes) {
		size_t room = bytes + bytes / 4;

		mem_free(c->scratch[slot].p);
		c->scratch[slot].bytes = 0;
		c->scratch[slot].p = mem_aligned(room, 64);
		if (!c->scratch[slot].p) {
			be_fail(&c->be, ERR_MEMORY, "cpu: no memory for %zu bytes of work space", room);
			return NULL;
		}
		c->scratch[slot].bytes = room;
	}
	return c->scratch[slot].p;
}

void cpu_for(struct cpu *c, int64_t n, int64_t cost, void (*fn)(void *ctx, long begin, long end, int thread),
             void *ctx)
{
	if (n <= 0)
		return;
	if (n * cost < FORK_WORTH)
		fn(ctx, 0, (long)n, 0);
	else if (n * cost / c->threads < LONG)
		parallel_for(c->pool, (long)n, fn, ctx);
	else
		parallel_for_ranges(c->pool, (long)n, 8, fn, ctx);
}

const float *cpu_vector(struct cpu *c, const struct weight *w, enum cpu_scratch slot)
{
	size_t n = (size_t)w->in * (size_t)w->out * (size_t)w->n;
	float *out;

	if (w->type == DTYPE_F32)
		return w->device;
	out = cpu_scratch(c, slot, n * sizeof *out);
	if (out)
		quant_decode(out, w->device, w->type, n);
	return out;
}

/* ------------------------------------------------------------------ memory */

static void *cpu_alloc(struct backend *be, size_t bytes)
{
	(void)be;
	return mem_aligned(bytes, 64);
}

static void cpu_release(struct backend *be, void *p)
{
	(void)be;
	mem_free(p);
}

/* Upload, download and copy are one thing here. */
static void cpu_move(struct backend *be, void *dst, const void *src, size_t bytes)
{
	(void)be;
	if (bytes)
		memcpy(dst, src, bytes);
}

static enum status cpu_weight_load(struct backend *be, struct weight *w, struct err *err)
{
	const struct cpu *c = cpu_of(be);
	const struct dtype_info *type = dtype_info(w->type);
	size_t align = w->type == DTYPE_F32 || w->type == DTYPE_I32 ? 4 : 2;

	if (w->type != DTYPE_I32 && !c->dot->matrix[w->type])
		return err_set(err, ERR_FORMAT, "%s: the cpu backend has no kernel for type %s", w->name,
		               type->name);
	if ((uintptr_t)w->data % align)
		return err_set(err, ERR_FORMAT,
		               "%s: type %s must start at a multiple of %zu bytes, it starts %zu after one",
		               w->name, type->name, align, (size_t)((uintptr_t)w->data % align));
	w->device = (void *)(uintptr_t)w->data;
	return OK;
}

static void cpu_wait(struct backend *be)
{
	(void)be;
}

static void cpu_close(struct backend *be)
{
	struct cpu *c = cpu_of(be);

	pool_close(c->pool);
	mem_free(c->work);
	for (int i = 0; i < SCRATCH_COUNT; i++)
		mem_free(c->scratch[i].p);
	mem_free(c);
}

/* ------------------------------------------------------------------ opening */

static const struct ops cpu_ops = {
	.embed = cpu_embed,
	.hc_in = cpu_hc_in,
	.hc_out = cpu_hc_out,
	.hc_head = cpu_hc_head,
	.rms_norm = cpu_rms_norm,
	.matmul = cpu_matmul,
	.grouped_matmul = cpu_grouped_matmul,
	.rope = cpu_rope,
	.pack_rows = cpu_pack_rows,
	.pool = cpu_pool,
	.index_query = cpu_index_query,
	.choose_rows = cpu_choose_rows,
	.attend = cpu_attend,
	.ring_write = cpu_ring_write,
	.route = cpu_route,
	.experts = cpu_experts,
	.swiglu = cpu_swiglu,
	.add = cpu_add,
	.hc_in_norm = cpu_hc_in_norm,
	.shared_expert = cpu_shared_expert,
};

static enum status missing_isa(const char *isa, struct err *err)
{
	char names[64] = "";

	for (int i = 0; dot_available(i); i++)
		snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", dot_available(i)->name);
	return err_set(err, ERR_ARGUMENT, "instruction set %s: this machine has %s", isa, names);
}

enum status cpu_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	const struct dot_table *dot = dot_find(opt->isa);
	struct cpu *c;

	*out = NULL;
	if (!dot)
		return missing_isa(opt->isa, err);
	if (!opt->numerics.fp8 || !opt->numerics.fp4 || !opt->numerics.packed)
		return err_set(err, ERR_ARGUMENT,
		               "the cpu backend always rounds as the model does: expected fp8, fp4 and packed "
		               "on, got %d, %d, %d"
		               " (the ref backend can leave them out)",
		               opt->numerics.fp8, opt->numerics.fp4, opt->numerics.packed);
	c = mem_zero(sizeof *c);
	if (!c)
		return err_set(err, ERR_MEMORY, "no memory for the cpu backend");
	c->be = (struct backend){
		.name = "cpu",
		.kernels = dot->name,
		.ops = cpu_ops,
		.numerics = opt->numerics,
		.real_bytes = sizeof(float),
		.row_bytes = GEOM_ROW_BYTES,
		.key_bytes = GEOM_KEY_BYTES,
		.host_memory = true,
		.self = c,
		.alloc = cpu_alloc,
		.release = cpu_release,
		.upload = cpu_move,
		.download = cpu_move,
		.copy = cpu_move,
		.weight_load = cpu_weight_load,
		.wait = cpu_wait,
		.close = cpu_close,
	};
	c->threads = opt->threads ? opt->threads : cpu_count();
	c->dot = dot;
	if (pool_open(&c->pool, c->threads, err) != OK) {
		mem_free(c);
		return err_prefix(err, "cpu backend");
	}
	c->work = mem_aligned((size_t)c->threads * DOT_WORK, 64);
	if (!c->work) {
		cpu_close(&c->be);
		return err_set(err, ERR_MEMORY, "no memory for the work space of the cpu backend's threads");
	}
	*out = &c->be;
	return OK;
}
