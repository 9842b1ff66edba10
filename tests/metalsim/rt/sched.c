/* sched.c - runs the threads of one threadgroup as fibers, and the operations where they wait for each other.
 *
 * What  Threads run until they wait at a SIMD-group function or a barrier, then the next one runs on.
 * How   A fiber is a stack of 128 KiB with a guard page and eight instructions of context switch.  A thread that never
 *       waits gives its fiber to the next.  A SIMD-group function publishes up to 16 bytes per lane in a slot; when every
 *       live lane of the group waits at the same place, all may read all.  Slots alternate, so a fast lane cannot
 *       overwrite what a slow one still reads.
 * Careful
 *       - Lanes that wait at different places would hang or mix on a GPU: reported, then served lowest address first so
 *         that the run ends.
 *       - The time limit is a signal that abandons all fibers of the group; the machine makes them anew. */
#define _GNU_SOURCE
#include "sim_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct machine *sim_machine;

/* ------------------------------------------------------------------ context switch (System V, x86-64) */

void sim_switch(void **save, void *to);
__asm__(".text\n"
	".globl sim_switch\n"
	".type sim_switch,@function\n"
	"sim_switch:\n"
	"	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
	"	movq %rsp,(%rdi)\n"
	"	movq %rsi,%rsp\n"
	"	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbx\n	popq %rbp\n"
	"	popq %rax\n"
	"	jmpq *%rax\n");

static struct fiber *take_fiber(struct machine *m)
{
	struct fiber *f = m->free;

	m->free = f->next;
	return f;
}

static void give_fiber(struct machine *m, struct fiber *f)
{
	f->next = m->free;
	m->free = f;
}

unsigned machine_random(struct machine *m)
{
	m->random = m->random * 1664525u + 1013904223u;
	return m->random >> 8;
}

/* ------------------------------------------------------------------ SIMD-group operations */

static void complete(struct machine *m, struct simd_group *g, uint32_t who)
{
	struct sim_slot *s = &g->slot[g->phase], *next = &g->slot[g->phase ^ 1];
	int base = (int)(g - m->sg) * LANES;
	void *site = NULL;

	s->mask = who;
	s->done = 0;
	s->op = g->op;
	g->phase ^= 1;
	g->waiting &= ~who;
	g->running |= who;
	if (g->op >= 100 ? (g->op - 100) & 2 : (uint32_t)sim.lax)
		g->epoch++;	/* orders threadgroup memory inside the SIMD group */
	g->mismatch = 0;
	for (uint32_t left = g->waiting; left; left &= left - 1) {	/* lanes at another place move to the next slot */
		int lane = __builtin_ctz(left);
		struct gpu_thread *t = &m->t[base + lane];

		memcpy(next->v[lane], s->v[lane], sizeof s->v[lane]);
		memcpy(next->v2[lane], s->v2[lane], sizeof s->v2[lane]);
		t->slot = next;
		g->mismatch |= site && site != t->site;
		site = t->site;
	}
	g->site = site;
}

static void complete_divergent(struct machine *m, struct simd_group *g)
{
	int base = (int)(g - m->sg) * LANES;
	void *lowest = (void *)UINTPTR_MAX;
	uint32_t who = 0;

	for (uint32_t left = g->waiting; left; left &= left - 1)
		if (m->t[base + __builtin_ctz(left)].site < lowest)
			lowest = m->t[base + __builtin_ctz(left)].site;
	for (uint32_t left = g->waiting; left; left &= left - 1)
		if (m->t[base + __builtin_ctz(left)].site == lowest)
			who |= left & -left;
	sim_report(lowest, "divergent SIMD-group operation", "lanes %08x of the live %08x take part", who, g->live);
	complete(m, g, who);
}

static void release_barrier(struct machine *m)
{
	if (m->barrier_flags & 2)
		m->tg_epoch++;
	if (m->barrier_flags & 1)
		m->device_epoch++;
	for (int i = 0; i < m->n_groups; i++) {
		m->sg[i].running |= m->sg[i].at_barrier;
		m->sg[i].at_barrier = 0;
	}
	m->n_waiting = 0;
}

/* ------------------------------------------------------------------ scheduler */

/* A lane of `mask` by the schedule; `from` is the one after the lane that ran last. */
static int next_lane(struct machine *m, uint32_t mask, int from)
{
	uint32_t above;

	if (sim.schedule == SIM_REVERSE)
		return 31 - __builtin_clz(mask);
	if (sim.schedule == SIM_RANDOM)
		from = (int)(machine_random(m) & 31);
	above = from >= LANES ? 0 : mask & (~0u << from);
	return __builtin_ctz(above ? above : mask);
}

/* The next thread that can run; NULL when all have returned. */
static struct gpu_thread *pick(struct machine *m)
{
	int at = m->cur ? m->cur->group : 0, lane = m->cur ? m->cur->lane + 1 : 0;

	for (;;) {
		int stuck = -1;

		if (sim.schedule == SIM_RANDOM)
			at = (int)(machine_random(m) % (unsigned)m->n_groups);
		for (int k = 0; k < m->n_groups; k++, at = at + 1 == m->n_groups ? 0 : at + 1, lane = 0) {
			struct simd_group *g = &m->sg[at];

			if (!g->running && g->waiting && g->waiting == g->live) {
				if (g->mismatch)
					complete_divergent(m, g);
				else
					complete(m, g, g->waiting);
			}
			if (g->running)
				return &m->t[at * LANES + next_lane(m, g->running, lane)];
			if (g->waiting)
				stuck = at;
		}
		if (!m->n_live)
			return NULL;
		if (m->n_waiting == m->n_live) {
			if (m->n_live != m->n_threads)
				sim_report(m->barrier_site, "barrier not reached by every thread",
					   "%d of %d threads had already returned", m->n_threads - m->n_live, m->n_threads);
			release_barrier(m);
		} else {
			complete_divergent(m, &m->sg[stuck]);
		}
	}
}

static void block(struct machine *m, struct gpu_thread *me)
{
	uint32_t mask = m->sg[me->group].running;
	struct gpu_thread *n;

	if (sim.schedule == SIM_ORDERED && mask) {	/* the usual case, short: the next lane of my SIMD group */
		uint32_t above = mask & (~1u << me->lane);

		n = me - me->lane + __builtin_ctz(above ? above : mask);
	} else {
		n = pick(m);
	}
	if (n == me)
		return;
	m->cur = n;
	sim.switches++;
	if (!n->fiber)
		n->fiber = take_fiber(m);
	sim_switch(&me->fiber->sp, n->fiber->sp);
}

static void run_thread(struct machine *m, struct gpu_thread *t)
{
	struct sim_ctx *x = &m->ctx;
	uint32_t i = t->id, w = x->ntg[0], h = x->ntg[1];

	x->tpitg[0] = i % w;
	x->tpitg[1] = i / w % h;
	x->tpitg[2] = i / w / h;
	for (int k = 0; k < 3; k++)
		x->tpig[k] = x->tgpig[k] * m->d->group_size[k] + x->tpitg[k];
	x->tiitg = i;
	x->tiisg = i % LANES;
	x->sgitg = i / LANES;
	m->thunk(x);
}

/* What a fiber does: runs threads until one of them waits, then is resumed with it. */
static void fiber_main(void)
{
	struct machine *m = sim_machine;

	for (;;) {
		struct gpu_thread *t = m->cur, *n;
		struct fiber *f = t->fiber;
		struct simd_group *g = &m->sg[t->group];

		run_thread(m, t);
		g->live &= ~(1u << t->lane);
		g->running &= ~(1u << t->lane);
		m->n_live--;
		n = pick(m);
		m->cur = n;
		if (n && !n->fiber) {
			n->fiber = f;
			continue;
		}
		give_fiber(m, f);
		sim.switches++;
		sim_switch(&f->sp, n ? n->fiber->sp : m->main_sp);
	}
}

static void prepare_fiber(struct machine *m, int i)
{
	struct fiber *f = &m->fiber[i];
	uintptr_t top;
	void **sp;

	f->stack = m->stacks + (size_t)i * STACK_BYTES;
	mprotect(f->stack, 4096, PROT_NONE);
	top = (uintptr_t)f->stack + STACK_BYTES - 64 - (uintptr_t)(i % 60) * 64;	/* staggered: cache sets */
	sp = (void **)(top & ~(uintptr_t)15);
	*--sp = NULL;
	*--sp = (void *)fiber_main;
	for (int k = 0; k < 6; k++)
		*--sp = NULL;
	f->sp = sp;
	give_fiber(m, f);
}

void machine_reset_fibers(struct machine *m)
{
	m->free = NULL;
	for (int i = SIM_MAX_THREADS - 1; i >= 0; i--)
		prepare_fiber(m, i);
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		perror("metalsim: mmap");
		abort();
	}
	return p;
}

struct machine *machine_new(void)
{
	struct machine *m = map(sizeof *m);

	m->stacks = map((size_t)SIM_MAX_THREADS * STACK_BYTES);
	m->arena = map(ARENA_BYTES + 4096);
	m->tg_shadow = map(ARENA_BYTES * sizeof *m->tg_shadow);
	m->random = sim.seed * 7919 + 1;
	sim_machine = m;
	machine_reset_fibers(m);
	return m;
}

/* ------------------------------------------------------------------ threadgroups */

uint32_t machine_arena(struct machine *m, uint32_t bytes)
{
	uint32_t offset = m->arena_top;

	if (m->n_blocks == ARENA_BLOCKS || offset + bytes + RED_ZONE > ARENA_BYTES) {
		fprintf(stderr, "metalsim: kernel %s: too much threadgroup memory\n", m->d->lib->name[m->d->kernel]);
		abort();
	}
	m->block[m->n_blocks].offset = offset;
	m->block[m->n_blocks++].bytes = bytes;
	m->arena_top = (offset + bytes + RED_ZONE + 15) & ~15u;
	if (m->checking) {
		memset(m->arena + offset, 0xff, bytes);
		memset(m->tg_shadow + offset, 0, bytes * sizeof *m->tg_shadow);
	}
	return offset;
}

/* Size and position of threadgroup `number`; sets n_threads. */
static void place_group(struct machine *m, uint32_t number)
{
	const struct sim_dispatch *d = m->d;
	struct sim_ctx *x = &m->ctx;
	uint32_t n = 1;

	x->tgpig[0] = number % d->groups[0];
	x->tgpig[1] = number / d->groups[0] % d->groups[1];
	x->tgpig[2] = number / d->groups[0] / d->groups[1];
	for (int k = 0; k < 3; k++) {
		uint32_t size = d->group_size[k], origin = x->tgpig[k] * size;

		if (d->threads[k] && origin + size > d->threads[k])
			size = d->threads[k] - origin;
		x->ntg[k] = size;
		n *= size;
	}
	m->n_threads = m->n_live = (int)n;
	m->n_groups = ((int)n + LANES - 1) / LANES;
	x->nsg = (uint32_t)m->n_groups;
}

void machine_run_group(struct machine *m, uint32_t number)
{
	place_group(m, number);
	m->n_waiting = m->n_blocks = m->n_variables = 0;
	m->tg_epoch = m->device_epoch = 0;
	m->serial = m->first_serial + number;
	m->arena_top = RED_ZONE;
	for (int i = 0; i < SIM_TG_BUFFERS; i++)
		m->ctx.tg[i] = m->d->tg_bytes[i] ? (uintptr_t)m->arena + machine_arena(m, m->d->tg_bytes[i]) : 0;
	for (int i = 0; i < m->n_groups; i++) {
		struct simd_group *g = &m->sg[i];
		int lanes = m->n_threads - i * LANES;

		g->running = g->live = lanes >= LANES ? ~0u : (1u << lanes) - 1;
		g->waiting = g->at_barrier = 0;
		g->mismatch = g->phase = 0;
		g->epoch = 0;
	}
	for (int i = 0; i < m->n_threads; i++)
		m->t[i] = (struct gpu_thread){.id = (uint16_t)i, .group = (uint16_t)(i / LANES), .lane = (uint8_t)(i % LANES)};
	m->cur = NULL;
	m->cur = pick(m);
	m->cur->fiber = take_fiber(m);
	sim_switch(&m->main_sp, m->cur->fiber->sp);
	m->cur = NULL;
}

/* ------------------------------------------------------------------ what kernels call */

uint32_t msl_rt_lane(void);
struct sim_slot *msl_rt_simd_xchg(const void *v, uint32_t n, uint32_t op);
struct sim_slot *msl_rt_simd_xchg2(const void *a, uint32_t na, const void *b, uint32_t nb, uint32_t op);
void msl_rt_simd_barrier(uint32_t flags);
void msl_rt_barrier(uint32_t flags);
void msl_rt_bad_lane(uint32_t from, uint32_t mask);
void *msl_rt_tg_static(uint32_t id, uint64_t bytes, uint64_t align);

uint32_t msl_rt_lane(void)
{
	return sim_machine->cur->lane;
}

static struct sim_slot *arrive(struct machine *m, struct gpu_thread *t, struct simd_group *g, void *site, uint32_t op)
{
	struct sim_slot *s = &g->slot[g->phase];

	t->slot = s;
	t->site = site;
	if (!g->waiting) {
		g->site = site;
		g->op = op;
		g->mismatch = 0;
	} else if (g->site != site) {
		g->mismatch = 1;
	}
	g->waiting |= 1u << t->lane;
	g->running &= ~(1u << t->lane);
	if (g->waiting == g->live && !g->mismatch) {
		complete(m, g, g->waiting);
		return s;
	}
	block(m, t);
	return t->slot;
}

static void publish(uint64_t to[2], const void *v, uint32_t n)
{
	memcpy(to, v, n > 16 ? 16 : n);
}

struct sim_slot *msl_rt_simd_xchg(const void *v, uint32_t n, uint32_t op)
{
	struct machine *m = sim_machine;
	struct gpu_thread *t = m->cur;
	struct simd_group *g = &m->sg[t->group];

	publish(g->slot[g->phase].v[t->lane], v, n);
	return arrive(m, t, g, __builtin_return_address(0), op);
}

struct sim_slot *msl_rt_simd_xchg2(const void *a, uint32_t na, const void *b, uint32_t nb, uint32_t op)
{
	struct machine *m = sim_machine;
	struct gpu_thread *t = m->cur;
	struct simd_group *g = &m->sg[t->group];

	publish(g->slot[g->phase].v[t->lane], a, na);
	publish(g->slot[g->phase].v2[t->lane], b, nb);
	return arrive(m, t, g, __builtin_return_address(0), op);
}

void msl_rt_simd_barrier(uint32_t flags)
{
	struct machine *m = sim_machine;
	struct gpu_thread *t = m->cur;

	arrive(m, t, &m->sg[t->group], __builtin_return_address(0), 100 + flags);
}

void msl_rt_barrier(uint32_t flags)
{
	struct machine *m = sim_machine;
	struct gpu_thread *t = m->cur;
	struct simd_group *g = &m->sg[t->group];
	void *site = __builtin_return_address(0);

	if (!m->n_waiting) {
		m->barrier_site = site;
		m->barrier_flags = flags;
	} else if (m->barrier_site != site) {
		sim_report(site, "barrier divergence", "other threads of the threadgroup wait at another threadgroup_barrier");
	}
	g->at_barrier |= 1u << t->lane;
	g->running &= ~(1u << t->lane);
	m->n_waiting++;
	if (m->n_waiting == m->n_live && m->n_live == m->n_threads) {
		release_barrier(m);
		if (sim.schedule == SIM_ORDERED)
			return;
	}
	block(m, t);
}

void msl_rt_bad_lane(uint32_t from, uint32_t mask)
{
	sim_report(__builtin_return_address(0), "shuffle from an inactive lane", "lane %u, live lanes %08x", from, mask);
}

/* Memory of threadgroup variable `id`, made when the first thread gets there. */
void *msl_rt_tg_static(uint32_t id, uint64_t bytes, uint64_t align)
{
	struct machine *m = sim_machine;

	(void)align;	/* the arena gives 16 */
	for (int i = 0; i < m->n_variables; i++)
		if (m->variable[i].id == id)
			return m->arena + m->variable[i].offset;
	m->variable[m->n_variables].id = id;
	m->variable[m->n_variables].offset = machine_arena(m, (uint32_t)bytes);
	return m->arena + m->variable[m->n_variables++].offset;
}
