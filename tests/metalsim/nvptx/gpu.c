/* gpu.c - runs the simulator's dispatches on an NVIDIA GPU: linked in, it takes the place of the fibers.
 *
 * What  The shipped Metal kernels, compiled by mslcc to PTX and by ptxas to a cubin beside the library ("X.so" and "X.so.cubin").
 * Why   Whole models at GPU speed, and a second opinion from hardware with real warps, under the same host code.
 * How   Buffers are managed memory, so one address serves both sides; every dispatch is one launch, waited for.  The driver is
 *       loaded when the first buffer is made: nothing of CUDA is needed to build this.
 * Careful
 *       - Arguments of setBytes are copied to managed memory first.
 *       - A kernel that fails poisons the context: every later dispatch then fails too. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metalsim/rt/sim.h"

enum { PARAMS = 22, IMMEDIATE = 4096, SHARED = 24576 };

static struct {
	int ready;
	void *context, *module, **function;
	const struct sim_lib *lib;
	char *immediate;
	/* the driver's functions */
	int (*name)(int code, const char **text);
	int (*set_current)(void *context);
	int (*alloc)(uint64_t *p, size_t bytes, unsigned flags);
	int (*release)(uint64_t p);
	int (*load)(void **module, const char *path);
	int (*get)(void **function, void *module, const char *name);
	int (*launch)(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
		      void *stream, void **param, void **extra);
	int (*sync)(void);
} cu;

static void stop(const char *what, int code)
{
	const char *name = "unknown";

	if (cu.name)
		cu.name(code, &name);
	fprintf(stderr, "metalsim: %s: %s (%d)\n", what, name, code);
	exit(1);
}

static void expect(const char *what, int code)
{
	if (code)
		stop(what, code);
}

/* dlsym gives an object pointer; POSIX promises that the bits are a function's address. */
static void find(void *h, const char *name, void *fn, size_t size)
{
	void *p = dlsym(h, name);

	if (!p)
		stop(name, -1);
	memcpy(fn, &p, size);
}

static void *allocate(size_t bytes);

static void start(void)
{
	void *h = dlopen("libcuda.so.1", RTLD_NOW);
	int (*init)(unsigned flags), (*get_device)(int *device, int number), (*retain)(void **context, int device), device = 0;

	if (!h)
		stop("libcuda.so.1", -1);
	find(h, "cuGetErrorName", &cu.name, sizeof cu.name);
	find(h, "cuCtxSetCurrent", &cu.set_current, sizeof cu.set_current);
	find(h, "cuMemAllocManaged", &cu.alloc, sizeof cu.alloc);
	find(h, "cuMemFree_v2", &cu.release, sizeof cu.release);
	find(h, "cuModuleLoad", &cu.load, sizeof cu.load);
	find(h, "cuModuleGetFunction", &cu.get, sizeof cu.get);
	find(h, "cuLaunchKernel", &cu.launch, sizeof cu.launch);
	find(h, "cuCtxSynchronize", &cu.sync, sizeof cu.sync);
	find(h, "cuInit", &init, sizeof init);
	find(h, "cuDeviceGet", &get_device, sizeof get_device);
	find(h, "cuDevicePrimaryCtxRetain", &retain, sizeof retain);
	expect("cuInit", init(0));
	expect("cuDeviceGet", get_device(&device, 0));
	expect("cuDevicePrimaryCtxRetain", retain(&cu.context, device));
	cu.ready = 1;
	cu.immediate = allocate(PARAMS * IMMEDIATE);
}

/* Contexts belong to threads: every entry says which. */
static void enter(void)
{
	if (!cu.ready)
		start();
	expect("cuCtxSetCurrent", cu.set_current(cu.context));
}

static void *allocate(size_t bytes)
{
	uint64_t p = 0;

	enter();
	expect("cuMemAllocManaged", cu.alloc(&p, bytes, 1));
	memset((void *)(uintptr_t)p, 0, bytes);
	return (void *)(uintptr_t)p;
}

static void release(void *p)
{
	enter();
	expect("cuMemFree", cu.release((uint64_t)(uintptr_t)p));
}

static void load(const struct sim_lib *l)
{
	static char loaded[600];
	char path[600];

	cu.lib = l;
	snprintf(path, sizeof path, "%s.cubin", sim_path(l));
	if (!strcmp(path, loaded))	/* the backend was opened again: the same kernels */
		return;
	memcpy(loaded, path, sizeof path);
	expect(path, cu.load(&cu.module, path));
	free(cu.function);
	cu.function = calloc((size_t)sim_count(l), sizeof *cu.function);
	for (int i = 0; i < sim_count(l); i++) {
		char name[64];

		snprintf(name, sizeof name, "msl_entry_%d", i);
		expect(name, cu.get(&cu.function[i], cu.module, name));
	}
}

static int run(struct sim_dispatch *d)
{
	uint64_t address[PARAMS];
	void *param[PARAMS];

	enter();
	if (cu.lib != d->lib)
		load(d->lib);
	for (int i = 0; i < PARAMS; i++) {
		const struct sim_bind *b = &d->buf[i];

		address[i] = (uint64_t)(uintptr_t)b->base + b->offset;
		if (b->immediate) {
			memcpy(cu.immediate + i * IMMEDIATE, b->base, b->bytes);
			address[i] = (uint64_t)(uintptr_t)(cu.immediate + i * IMMEDIATE);
		}
		param[i] = &address[i];
	}
	expect(sim_info(d->lib, d->kernel)->name,
	       cu.launch(cu.function[d->kernel], d->groups[0], d->groups[1], d->groups[2], d->group_size[0], d->group_size[1],
			 d->group_size[2], SHARED, NULL, param, NULL));
	expect(sim_info(d->lib, d->kernel)->name, cu.sync());
	return 0;
}

__attribute__((constructor)) static void take_over(void)
{
	sim.gpu = run;
	sim.allocate = allocate;
	sim.release = release;
}
