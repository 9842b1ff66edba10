/* metal_int.h - shared by the files of the Metal backend.  Objective-C, manual reference counting.
 *
 * How an operation runs.  It encodes its dispatches into the step's one command buffer, through one concurrent encoder.  For each
 * it says what it reads and writes (metal_reads, metal_writes); a memory barrier goes in only when something it touches
 * was touched since the last one.  be_submit, or any look at memory, commits and sleeps until the GPU is done. */
#ifndef DS4_BACKEND_METAL_METAL_INT_H
#define DS4_BACKEND_METAL_METAL_INT_H

#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include "backend/backend.h"
#include "backend/metal/metal_args.h"

/* Kernels by name.  TYPED ones exist once per element type of weights. */
#define METAL_KERNELS(K)                                                                                              \
	K(rms_norm) K(rope) K(hc_finish) K(hc_out) K(route) K(swiglu) K(add) K(expert_count) K(expert_list)            \
	K(expert_swiglu) K(expert_sum) K(pack_rows) K(ring_write) K(index_query) K(pool_emit) K(pool_keep)             \
	K(key_scores) K(choose_rows) K(attend)
#define METAL_TYPED_KERNELS(K)                                                                                        \
	K(embed) K(hc_mix) K(matvec) K(matvec_rows) K(matvec_group) K(matmat) K(expert_in) K(expert_out) K(expert_matmat)

enum metal_kernel {
#define K(name) KERNEL_##name,
	METAL_KERNELS(K)
	METAL_TYPED_KERNELS(K)
#undef K
	KERNEL_COUNT
};

/* Memory that alloc hands out pieces of: one buffer, a list of free ranges in ascending order. */
struct metal_chunk {
	id<MTLBuffer> buffer;
	uint8_t *cpu;
	size_t bytes;
	struct metal_range *ranges;	/* used and free, covering the chunk */
	struct metal_chunk *next;
};

/* A weight on the device: a view of the mapped file, or a copy. */
struct metal_weight {
	const void *data;		/* on the host, where it came from */
	size_t bytes;
	id<MTLBuffer> buffer;
	size_t offset;
	struct metal_weight *next;
};

enum metal_scratch {
	SCRATCH_MIX, SCRATCH_SCORES, SCRATCH_HIDDEN, SCRATCH_UP, SCRATCH_DOWN, SCRATCH_COUNT, SCRATCH_LIST, SCRATCHES
};

/* What operations touch besides tensors: names for parts of the timelines' memory. */
enum metal_part { PART_RING, PART_ROWS, PART_KEYS, PART_FRONT, PART_FRONT_KEYS, PARTS };

struct metal_use {
	const void *what;
	bool write;
};

enum { METAL_USES = 64 };

struct metal {
	struct backend be;
	id<MTLDevice> device;
	char name[64];			/* of the device */
	id<MTLCommandQueue> queue;
	id<MTLLibrary> library;
	id<MTLComputePipelineState> pipeline[KERNEL_COUNT][DTYPE_COUNT];
	id residency;			/* MTLResidencySet where the system has them, or nil */
	id<MTLBuffer> nothing;		/* bound where a kernel has a parameter that this call does not use */

	struct metal_chunk *chunks;
	struct metal_weight *weights;
	size_t chunk_bytes;		/* smallest chunk; 0 = every allocation is its own buffer */
	size_t copy_below;		/* weights smaller than this are copied */
	uint64_t limit, used;		/* bytes: what the device should hold, what it holds */
	id<MTLBuffer> scratch[SCRATCHES];

	id<MTLCommandBuffer> commands;	/* of the step being encoded, or nil */
	id<MTLComputeCommandEncoder> encoder;
	const struct step *step;	/* whose block is on the device, or NULL */
	id<MTLBuffer> step_buffer;
	size_t step_offset[6];		/* of MTL_ROW .. MTL_BLOCK */
	int32_t vector_rows;		/* steps of up to this many rows use the vector class */

	struct metal_use since[METAL_USES];	/* since the last barrier */
	int n_since;
	struct metal_use now[METAL_USES];	/* of the dispatch being encoded */
	int n_now;
};

static inline struct metal *metal_of(struct backend *be)
{
	return be->self;
}

/* metal.m: pipelines, and the encoder.
 *
 * metal_begin opens the step's command buffer and sends the step block (s NULL: the operation needs none); false when the
 * backend has failed.  Then, for each dispatch: arguments and buffers by index, metal_dispatch. */
enum status metal_pipelines(struct metal *m, enum dtype type, struct err *err);
bool metal_begin(struct metal *m, const struct step *s);
void metal_flush(struct metal *m);	/* commits and waits; afterwards the step block counts as stale */
void metal_args(struct metal *m, const void *args, size_t bytes);		/* index 0 */
/* Memory of alloc: p is what it gave, skip the bytes in front of what the kernel sees.  in: read; out: written, maybe read. */
void metal_in(struct metal *m, int index, const void *p, size_t skip);
void metal_out(struct metal *m, int index, const void *p, size_t skip);
void metal_weight(struct metal *m, int index, const struct weight *w);		/* NULL: nothing */
void metal_scratch_in(struct metal *m, int index, enum metal_scratch s);
void metal_scratch_out(struct metal *m, int index, enum metal_scratch s);
void metal_touch(struct metal *m, enum metal_part part, bool write);		/* reached through the step block */
void metal_dispatch(struct metal *m, enum metal_kernel k, enum dtype type, uint32_t gx, uint32_t gy, uint32_t gz,
		    uint32_t threads);

/* metal_memory.m */
void metal_memory_open(struct metal *m);
void metal_memory_close(struct metal *m);
id<MTLBuffer> metal_buffer(struct metal *m, const void *p, size_t *offset);	/* of an address that alloc gave */
uint64_t metal_address(struct metal *m, const void *p);				/* the GPU's name for it; 0 for NULL */
bool metal_scratch(struct metal *m, enum metal_scratch s, size_t bytes);	/* makes it that large; false after be_fail */
void metal_use_chunks(struct metal *m);						/* all memory reachable by address */

/* metal_ops.m */
void metal_ops(struct ops *ops);

static inline uint32_t metal_groups(uint32_t n, uint32_t each)
{
	return (n + each - 1) / each;
}

#endif
