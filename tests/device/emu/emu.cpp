/* emu.cpp - the emulator's fibers; see cuda_runtime.h. */
#include "cuda_runtime.h"

#include <sys/mman.h>

emu_block emu;

enum { STACK = 32 << 10 };

extern "C" void emu_switch(void **save, void *to);
asm(".text\n.globl emu_switch\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void next()
{
	int from = emu.current, to = from;

	do
		to = (to + 1) % emu.n;
	while (emu.fiber[to].done && to != from);
	if (emu.fiber[to].done) {
		void *junk;

		emu_switch(&junk, emu.main_sp);
	}
	if (to == from)
		return;
	emu.current = to;
	emu_switch(&emu.fiber[from].sp, emu.fiber[to].sp);
}

void emu_yield()
{
	next();
}

static void entry()
{
	emu_fiber &f = emu.fiber[emu.current];
	emu_warp &w = emu.warp[f.index / 32];

	(*emu.body)();
	f.done = 1;
	emu.live--;
	w.live--;
	if (emu.live && emu.arrived == emu.live) {	/* those who left no longer hold the others up */
		emu.arrived = 0;
		emu.gen++;
	}
	if (w.live && w.arrived == w.live) {
		w.arrived = 0;
		w.gen++;
	}
	next();
	abort();
}

void emu_launch(dim3 grid, dim3 block, size_t smem, const std::function<void()> &body)
{
	static uint8_t *stacks = (uint8_t *)mmap(NULL, (size_t)1024 * STACK, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static uint8_t *dynamic = (uint8_t *)aligned_alloc(64, 1 << 20);

	emu.grid = grid;
	emu.block = block;
	emu.body = &body;
	emu.dynamic = dynamic;
	emu.n = block.x;
	if (!grid.x || !grid.y || !grid.z || smem > 227 << 10 || block.x > 1024) {
		fprintf(stderr, "emu: bad launch: grid %u %u %u, block %u, shared %zu\n", grid.x, grid.y, grid.z, block.x, smem);
		abort();
	}
	for (unsigned z = 0; z < grid.z; z++)
		for (unsigned y = 0; y < grid.y; y++)
			for (unsigned x = 0; x < grid.x; x++) {
				emu.at = dim3(x, y, z);
				emu.arrived = emu.gen = 0;
				emu.live = emu.n;
				memset(emu.warp, 0, sizeof emu.warp);
				memset(dynamic, 0xA7, smem);
				for (int i = 0; i < emu.n; i++) {
					void **top = (void **)(stacks + (size_t)(i + 1) * STACK) - 1;

					*--top = (void *)entry;		/* keeps the stack aligned as after a call */
					for (int r = 0; r < 6; r++)
						*--top = NULL;
					emu.fiber[i] = {top, dim3(i, 0, 0), i, 0};
					emu.warp[i / 32].live++;
				}
				emu.current = 0;
				emu_switch(&emu.main_sp, emu.fiber[0].sp);
			}
}
