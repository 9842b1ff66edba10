/* sim_int.h - the machine's state, shared by sched.c, check.c and library.c. */
#ifndef DS4_TESTS_METALSIM_SIM_INT_H
#define DS4_TESTS_METALSIM_SIM_INT_H

#include "sim.h"

enum {
	LANES = 32,
	MAX_GROUPS = SIM_MAX_THREADS / LANES,
	STACK_BYTES = 128 * 1024,
	ARENA_BLOCKS = 64,		/* threadgroup variables and buffers in one kernel */
	RED_ZONE = 64,
	ARENA_BYTES = SIM_TG_BYTES + ARENA_BLOCKS * (RED_ZONE + 16),
	MAX_REGIONS = 4096
};

struct sim_ctx {		/* struct msl_ctx of include/msl_sim.h */
	uint64_t buf[32], tg[8];
	uint32_t tgpig[3], tpitg[3], tpig[3], ntg[3], tgpg[3], tpg[3], tiitg, tiisg, sgitg, simdw, nsg, pad;
};

struct sim_slot {		/* struct msl_slot of include/msl_sim.h */
	uint32_t mask, done, op, pad;
	uint64_t v[LANES][2], res[64], v2[LANES][2];
};

struct fiber {
	void *sp;
	struct fiber *next;
	char *stack;
};

struct gpu_thread {
	struct fiber *fiber;		/* NULL until it first waits */
	struct sim_slot *slot;
	void *site;			/* return address of the operation it waits at */
	uint16_t id, group;
	uint8_t lane;
};

struct simd_group {
	uint32_t running, waiting, at_barrier, live;	/* masks of lanes */
	int mismatch;			/* lanes wait at different sites */
	int phase;
	uint32_t op;
	void *site;
	uint16_t epoch;			/* simdgroup barriers passed */
	struct sim_slot slot[2];
};

struct tg_shadow {		/* one per byte of threadgroup memory */
	uint16_t writer, write_epoch, write_simd_epoch, reader, read_epoch, read_simd_epoch;
	uint8_t written, many_readers;
};

struct device_shadow {		/* one per byte of device memory */
	uint32_t write_serial, read_serial;
	uint16_t writer, write_epoch, reader, read_epoch;
};

struct region {
	uintptr_t begin, end;
	int writable, index;
	struct device_shadow *shadow;
};

struct machine {
	struct gpu_thread t[SIM_MAX_THREADS];
	struct simd_group sg[MAX_GROUPS];
	struct gpu_thread *cur;
	struct fiber fiber[SIM_MAX_THREADS], *free;
	void *main_sp;
	char *stacks;
	int n_threads, n_groups, n_live, n_waiting;
	void *barrier_site;
	uint32_t barrier_flags;
	uint16_t tg_epoch, device_epoch;
	uint32_t serial, first_serial;	/* of this group, of the dispatch */
	struct sim_ctx ctx;
	void (*thunk)(struct sim_ctx *ctx);
	struct sim_dispatch *d;
	int checking;
	volatile int timed_out;
	unsigned random;

	uint8_t *arena;
	uint32_t arena_top;
	struct { uint32_t offset, bytes; } block[ARENA_BLOCKS];
	int n_blocks;
	struct { uint32_t id, offset; } variable[ARENA_BLOCKS];
	int n_variables;
	struct tg_shadow *tg_shadow;

	struct region region[MAX_REGIONS];	/* ascending, disjoint */
	int n_regions;
	struct region image[16];		/* the library's own mappings: constants, tables */
	int n_images;
};

extern struct machine *sim_machine;	/* NULL until the first dispatch */

struct sim_lib {
	void *handle;
	char *path;
	uintptr_t base;
	int n, checked;
	const char **name;
	void (**thunk)(struct sim_ctx *ctx);
	struct sim_kernel *info;
	const uint32_t *constant;
};

/* sched.c */
struct machine *machine_new(void);
void machine_run_group(struct machine *m, uint32_t number);
void machine_reset_fibers(struct machine *m);
uint32_t machine_arena(struct machine *m, uint32_t bytes);
unsigned machine_random(struct machine *m);

/* check.c: reports once per place and kind; site is a return address inside the library, or NULL. */
void sim_report(void *site, const char *kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
