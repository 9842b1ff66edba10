/* sim.h - executes kernels compiled by front/mslcc on the CPU, with the semantics of SIMD groups and threadgroup
 * barriers, and reports what a GPU would punish without a word.
 *
 * Every GPU thread is a fiber.  In a library compiled in check mode every memory access is checked: bounds, races in
 * threadgroup and device memory, uninitialised threadgroup memory, alignment, writes to read-only bindings, missing
 * barriers between concurrent dispatches.  Divergence is checked in every mode.
 * Thread: one thread at a time runs kernels. */
#ifndef DS4_TESTS_METALSIM_SIM_H
#define DS4_TESTS_METALSIM_SIM_H

#include <stddef.h>
#include <stdint.h>

enum { SIM_BUFFERS = 31, SIM_TG_BUFFERS = 8, SIM_TG_BYTES = 32768, SIM_MAX_THREADS = 1024 };

struct sim_param {
	int kind;		/* 0 grid value, 1 buffer, 2 threadgroup memory */
	int index;
	int space;		/* 1 device, 2 constant, 3 threadgroup */
	int ref, is_const;
	uint64_t size, align;	/* of what it points to */
};

struct sim_kernel {
	const char *name;
	int n_params;
	struct sim_param p[32];
};

struct sim_lib;

struct sim_lib *sim_open(const char *path, char *err, size_t room);
void sim_close(struct sim_lib *l);
int sim_find(const struct sim_lib *l, const char *name);	/* -1: no such kernel */
int sim_count(const struct sim_lib *l);
const struct sim_kernel *sim_info(const struct sim_lib *l, int kernel);
const char *sim_path(const struct sim_lib *l);
int sim_checked(const struct sim_lib *l);			/* compiled in check mode? */

/* Function constants.  0, -1 no such constant, -2 wrong size; sim_constant(l, i) lists the numbers, -1 past the end. */
int sim_set_constant(struct sim_lib *l, int number, const void *value, size_t size);
int sim_constant(const struct sim_lib *l, int i);

struct sim_bind {
	void *base;		/* the kernel sees base + offset */
	uint64_t bytes, offset;
	void *shadow;		/* from sim_shadow_new, or NULL: races through it are not seen */
	int writable;
	int immediate;		/* bytes of setBytes, in ordinary memory */
};

struct sim_dispatch {
	struct sim_lib *lib;
	int kernel;
	struct sim_bind buf[SIM_BUFFERS];
	const struct sim_bind *resident;	/* memory that kernels may reach by address */
	int n_resident;
	uint32_t tg_bytes[SIM_TG_BUFFERS];
	uint32_t groups[3], group_size[3];
	uint32_t threads[3];			/* 0, or where the grid ends inside its last groups */
	uint64_t hazard_base;			/* serial of the first group since the last barrier of a concurrent encoder, or 0 */
};

enum { SIM_TIMED_OUT = -1 };

/* Runs one dispatch.  Returns the number of new reports, or SIM_TIMED_OUT when it ran past sim.seconds. */
int sim_run(struct sim_dispatch *d);
uint64_t sim_serial(void);	/* serial that the next threadgroup will have */

void *sim_shadow_new(uint64_t bytes);
void sim_shadow_free(void *shadow, uint64_t bytes);

enum { SIM_ORDERED, SIM_REVERSE, SIM_RANDOM, SIM_SCHEDULES };

/* Settings and counters. */
extern struct sim {
	int schedule;		/* order of threads and threadgroups */
	unsigned seed;		/* of SIM_RANDOM */
	int lax;		/* SIMD-group functions order threadgroup memory too: what many kernels in the wild assume */
	int quiet;		/* no text on stderr */
	double seconds;		/* time limit of one dispatch */
	int flush;		/* denormals are zero */
	int (*gpu)(struct sim_dispatch *d);	/* runs dispatches instead of the fibers (nvptx/), or NULL */
	void *(*allocate)(size_t bytes);	/* where its buffers come from */
	void (*release)(void *p);
	uint64_t reports, switches;
	char last[200];		/* the last report */
} sim;

#endif
