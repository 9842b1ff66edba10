/* library.c - opens compiled kernels, and runs a dispatch over all its threadgroups.
 *
 * Careful
 *       - Serial numbers of threadgroups grow for the life of the process: they are the clock that tells which dispatch
 *         touched a byte.
 *       - The time limit arrives as a signal on the thread that runs kernels, while it stands on a fiber's stack. */
#define _GNU_SOURCE
#include "sim_int.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static uint32_t next_serial = 1;

uint64_t sim_serial(void)
{
	return next_serial;
}

/* ------------------------------------------------------------------ libraries */

static void *symbol(const struct sim_lib *l, const char *stem, int i)
{
	char name[64];

	snprintf(name, sizeof name, "%s%d", stem, i);
	return dlsym(l->handle, name);
}

static void describe(struct sim_kernel *k, const char *name, const uint64_t *q)
{
	k->name = name;
	k->n_params = (int)*q++;
	for (int j = 0; j < k->n_params && j < 32; j++, q += 7)
		k->p[j] = (struct sim_param){(int)q[0], (int)q[1], (int)q[2], (int)q[3], (int)q[4], q[5], q[6]};
}

struct sim_lib *sim_open(const char *path, char *err, size_t room)
{
	void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	const uint32_t *n = h ? dlsym(h, "msl_nkernels") : NULL;
	const char *name = h ? dlsym(h, "msl_names") : NULL;
	struct sim_lib *l;
	Dl_info where;

	if (!n || !name) {
		snprintf(err, room, "%s: %s", path, h ? "not a compiled Metal source" : dlerror());
		return NULL;
	}
	l = calloc(1, sizeof *l);
	l->handle = h;
	l->path = strdup(path);
	l->n = (int)*n;
	dladdr(n, &where);
	l->base = (uintptr_t)where.dli_fbase;
	l->checked = dlsym(h, "msl_checked") != NULL;
	l->constant = dlsym(h, "msl_constants");
	l->name = calloc((size_t)l->n, sizeof *l->name);
	l->thunk = calloc((size_t)l->n, sizeof *l->thunk);
	l->info = calloc((size_t)l->n, sizeof *l->info);
	for (int i = 0; i < l->n; i++, name += strlen(name) + 1) {
		void *thunk = symbol(l, "msl_thunk_", i);

		l->name[i] = name;
		memcpy(&l->thunk[i], &thunk, sizeof thunk);
		describe(&l->info[i], name, symbol(l, "msl_info_", i));
	}
	return l;
}

void sim_close(struct sim_lib *l)
{
	if (!l)
		return;
	dlclose(l->handle);
	free(l->path);
	free(l->name);
	free(l->thunk);
	free(l->info);
	free(l);
}

int sim_find(const struct sim_lib *l, const char *name)
{
	for (int i = 0; i < l->n; i++)
		if (!strcmp(l->name[i], name))
			return i;
	return -1;
}

int sim_count(const struct sim_lib *l)
{
	return l->n;
}

const struct sim_kernel *sim_info(const struct sim_lib *l, int kernel)
{
	return &l->info[kernel];
}

const char *sim_path(const struct sim_lib *l)
{
	return l->path;
}

int sim_checked(const struct sim_lib *l)
{
	return l->checked;
}

int sim_constant(const struct sim_lib *l, int i)
{
	return (int)l->constant[i];
}

int sim_set_constant(struct sim_lib *l, int number, const void *value, size_t size)
{
	void *p = symbol(l, "msl_fc_", number);
	const uint32_t *room = symbol(l, "msl_fcsize_", number);

	if (!p || !room)
		return -1;
	if (*room != size)
		return -2;
	memcpy(p, value, size);
	return 0;
}

/* ------------------------------------------------------------------ time limit */

void sim_switch(void **save, void *to);

static timer_t limit_timer;
static int limit_ready;

/* On the fiber's stack: leaves it for good. */
static void out_of_time(int number)
{
	struct machine *m = sim_machine;
	void *nowhere;

	(void)number;
	if (!m->cur)
		return;
	m->timed_out = 1;
	sim_switch(&nowhere, m->main_sp);
}

static void arm(double seconds)
{
	struct itimerspec t = {.it_value = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}};

	if (!limit_ready) {
		struct sigaction a = {.sa_handler = out_of_time, .sa_flags = SA_NODEFER};
		struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};

		e.sigev_notify_thread_id = (int)syscall(SYS_gettid);
		sigaction(SIGUSR2, &a, NULL);
		limit_ready = timer_create(CLOCK_MONOTONIC, &e, &limit_timer) == 0;
	}
	timer_settime(limit_timer, 0, &t, NULL);
}

/* ------------------------------------------------------------------ dispatch */

static int by_address(const void *a, const void *b)
{
	const struct region *x = a, *y = b;

	return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static void add_region(struct machine *m, const struct sim_bind *b, int writable, int index)
{
	uintptr_t begin = (uintptr_t)b->base, end = begin + b->bytes;

	for (int i = 0; i < m->n_regions; i++)
		if (m->region[i].begin == begin && m->region[i].end == end) {
			m->region[i].writable |= writable;
			return;
		}
	if (m->n_regions == MAX_REGIONS) {
		fprintf(stderr, "metalsim: more than %d buffers in one dispatch\n", MAX_REGIONS);
		abort();
	}
	m->region[m->n_regions++] = (struct region){begin, end, writable, index, b->shadow};
}

/* Memory that the checker lets this dispatch touch. */
static void collect_regions(struct machine *m, const struct sim_dispatch *d)
{
	const struct sim_kernel *k = &d->lib->info[d->kernel];

	m->n_regions = 0;
	for (int i = 0; i < k->n_params; i++) {
		const struct sim_param *p = &k->p[i];

		if (p->kind == 1 && d->buf[p->index].base)
			add_region(m, &d->buf[p->index], !p->is_const && p->space == 1, p->index);
	}
	for (int i = 0; i < d->n_resident; i++)
		add_region(m, &d->resident[i], d->resident[i].writable, -1);
	qsort(m->region, (size_t)m->n_regions, sizeof m->region[0], by_address);
}

/* The library's own mappings, from /proc/self/maps. */
static void collect_images(struct machine *m, const char *path)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[600];

	m->n_images = 0;
	while (f && fgets(line, sizeof line, f) && m->n_images < 16) {
		unsigned long a, b;

		if (strstr(line, path) && sscanf(line, "%lx-%lx", &a, &b) == 2)
			m->image[m->n_images++] = (struct region){a, b, 0, -1, NULL};
	}
	if (f)
		fclose(f);
}

static void prepare(struct machine *m, struct sim_dispatch *d)
{
	static const struct sim_lib *last;
	struct sim_ctx *x = &m->ctx;

	m->d = d;
	m->thunk = d->lib->thunk[d->kernel];
	m->checking = d->lib->checked;
	m->first_serial = next_serial;
	m->timed_out = 0;
	x->simdw = LANES;
	for (int i = 0; i < SIM_BUFFERS; i++)
		x->buf[i] = d->buf[i].base ? (uintptr_t)d->buf[i].base + d->buf[i].offset : 0;
	for (int k = 0; k < 3; k++) {
		x->tgpg[k] = d->groups[k];
		x->tpg[k] = d->threads[k] ? d->threads[k] : d->groups[k] * d->group_size[k];
	}
	if (!m->checking)
		return;
	collect_regions(m, d);
	if (last != d->lib)
		collect_images(m, d->lib->path);
	last = d->lib;
}

static uint32_t *permutation(struct machine *m, uint32_t n)
{
	uint32_t *p = malloc(n * sizeof *p);

	for (uint32_t i = 0; i < n; i++)
		p[i] = sim.schedule == SIM_REVERSE ? n - 1 - i : i;
	for (uint32_t i = n; sim.schedule == SIM_RANDOM && i > 1; i--) {
		uint32_t j = machine_random(m) % i, t = p[i - 1];

		p[i - 1] = p[j];
		p[j] = t;
	}
	return p;
}

int sim_run(struct sim_dispatch *d)
{
	uint32_t n = d->groups[0] * d->groups[1] * d->groups[2], *order;
	unsigned status = __builtin_ia32_stmxcsr();
	uint64_t before = sim.reports;
	struct machine *m;

	if (sim.gpu)
		return sim.gpu(d);
	m = sim_machine ? sim_machine : machine_new();
	prepare(m, d);
	order = permutation(m, n);
	arm(sim.seconds);
	if (sim.flush)
		__builtin_ia32_ldmxcsr(status | 0x8040);
	for (uint32_t i = 0; i < n && !m->timed_out; i++)
		machine_run_group(m, order[i]);
	__builtin_ia32_ldmxcsr(status);
	arm(0);
	free(order);
	next_serial += n;
	m->cur = NULL;
	if (m->timed_out) {
		machine_reset_fibers(m);
		return SIM_TIMED_OUT;
	}
	return (int)(sim.reports - before);
}
