/* metal.m - the Metal backend's device, pipelines, step block and command encoder.
 *
 * What  Opens the device, compiles the embedded shaders, and encodes a step as one command buffer.
 * Why   A decode step is about a thousand small kernels: one commit, one wait, no look at the CPU in between.
 * How   Every dispatch names the buffers it reads and writes.  The encoder runs dispatches concurrently; a memory barrier
 *       goes in front of a dispatch that touches what an earlier one wrote, or writes what an earlier one read.  Waiting
 *       sleeps in the driver.
 * Careful
 *       - The step block is one buffer, written by the CPU: it is not touched while commands that read it are in flight.
 *       - A failed command buffer fails the step, and only that: the next one starts clean.
 *       - Fast math is off: sin and cos of large angles, rounding to E4M3 and the shared bits of rows depend on it.
 *       - Manual reference counting: commandBuffer and encoder come autoreleased and are retained here. */
#import "backend/metal/metal_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/metal/metal.h"
#include "base/mem.h"

extern const char metal_source[];	/* tools/embed_metal.sh */

enum { WIDEST = 256 };	/* threads of the largest threadgroup */

_Static_assert(sizeof(struct mtl_row) == sizeof(struct row) && offsetof(struct mtl_row, pos) == offsetof(struct row, pos),
	       "rows are copied as they are");
_Static_assert(sizeof(struct mtl_span) == sizeof(struct span) && offsetof(struct mtl_span, pos0) == offsetof(struct span, pos0),
	       "spans are copied as they are");

/* ------------------------------------------------------------------ pipelines */

static const struct {
	const char *name;
	bool typed;
} kernels[KERNEL_COUNT] = {
#define K(name) {#name, false},
	METAL_KERNELS(K)
#undef K
#define K(name) {#name, true},
	METAL_TYPED_KERNELS(K)
#undef K
};

static enum status make_pipeline(struct metal *m, int k, enum dtype type, struct err *err)
{
	static const char *const suffix[DTYPE_COUNT] = {
		[DTYPE_F32] = "_f32", [DTYPE_F16] = "_f16", [DTYPE_BF16] = "_bf16", [DTYPE_Q8_0] = "_q8_0",
		[DTYPE_Q2_K] = "_q2_k", [DTYPE_Q4_K] = "_q4_k", [DTYPE_IQ2_XXS] = "_iq2_xxs",
	};
	id<MTLComputePipelineState> p;
	id<MTLFunction> f;
	NSError *e = nil;
	char name[64];

	snprintf(name, sizeof name, "%s%s", kernels[k].name, kernels[k].typed ? suffix[type] : "");
	f = [m->library newFunctionWithName:[NSString stringWithUTF8String:name]];
	if (!f)
		return err_set(err, ERR_DEVICE, "metal: the shaders have no kernel %s", name);
	p = [m->device newComputePipelineStateWithFunction:f error:&e];
	[f release];
	if (!p)
		return err_set(err, ERR_DEVICE, "metal: no pipeline for kernel %s: %s", name,
			       [[e localizedDescription] UTF8String]);
	if ([p maxTotalThreadsPerThreadgroup] < WIDEST) {
		unsigned long most = [p maxTotalThreadsPerThreadgroup];

		[p release];
		return err_set(err, ERR_DEVICE, "metal: kernel %s runs with at most %lu threads on this GPU, expected %d", name,
			       most, WIDEST);
	}
	m->pipeline[k][type] = p;
	return OK;
}

/* The kernels of one element type; those without a type count as DTYPE_F32's. */
enum status metal_pipelines(struct metal *m, enum dtype type, struct err *err)
{
	enum status st = OK;

	@autoreleasepool {
		for (int k = 0; k < KERNEL_COUNT && st == OK; k++)
			if (!m->pipeline[k][type] && (kernels[k].typed || type == DTYPE_F32))
				st = make_pipeline(m, k, type, err);
	}
	return st;
}

/* ------------------------------------------------------------------ step block */

static size_t up64(size_t n)
{
	return (n + 63) / 64 * 64;
}

/* Blocks of the step's timelines, and one past the highest timeline in use. */
static void count_step(const struct step *s, int32_t *blocks, int32_t *timelines)
{
	*blocks = *timelines = 0;
	for (int32_t i = 0; i < s->n_spans; i++) {
		if (s->span[i].timeline >= *timelines)
			*timelines = s->span[i].timeline + 1;
		*blocks += s->timeline[s->span[i].timeline].n_block;
	}
}

static bool room_for_step(struct metal *m, size_t bytes)
{
	if (m->step_buffer && [m->step_buffer length] >= bytes)
		return true;
	[m->step_buffer release];
	m->step_buffer = [m->device newBufferWithLength:bytes * 2 options:MTLResourceStorageModeShared];
	if (!m->step_buffer)
		be_fail(&m->be, ERR_MEMORY, "metal: no memory for a step block of %zu bytes", bytes * 2);
	return m->step_buffer != nil;
}

static bool send_step(struct metal *m, const struct step *s)
{
	int32_t blocks, timelines, at = 0;
	size_t bytes = 0, size[6];
	struct mtl_timeline *line;
	struct mtl_block *block;
	uint8_t *to;

	count_step(s, &blocks, &timelines);
	size[0] = (size_t)s->n_rows * sizeof(struct mtl_row);
	size[1] = (size_t)s->n_spans * sizeof(struct mtl_span);
	size[2] = (size_t)s->n_rows * sizeof(int32_t);
	size[3] = (size_t)s->n_logits * sizeof(int32_t);
	size[4] = (size_t)timelines * sizeof(struct mtl_timeline);
	size[5] = (size_t)blocks * sizeof(struct mtl_block);
	for (int i = 0; i < 6; i++) {
		m->step_offset[i] = bytes;
		bytes += up64(size[i] + 1);
	}
	if (!room_for_step(m, bytes))
		return false;
	to = [m->step_buffer contents];
	memcpy(to + m->step_offset[0], s->row, size[0]);
	memcpy(to + m->step_offset[1], s->span, size[1]);
	memcpy(to + m->step_offset[2], s->row_span, size[2]);
	memcpy(to + m->step_offset[3], s->logit_row, size[3]);
	line = (void *)(to + m->step_offset[4]);
	block = (void *)(to + m->step_offset[5]);
	memset(line, 0, size[4]);
	for (int32_t i = 0; i < s->n_spans; i++) {
		const struct be_timeline *from = &s->timeline[s->span[i].timeline];

		line[s->span[i].timeline] = (struct mtl_timeline){metal_address(m, from->tail), at, from->n_block};
		for (int32_t b = 0; b < from->n_block; b++)
			block[at++].at = metal_address(m, from->block[b]);
	}
	return true;
}

static void bind_step(struct metal *m)
{
	for (int i = 0; i < 6; i++)
		[m->encoder setBuffer:m->step_buffer offset:m->step_offset[i] atIndex:(NSUInteger)(MTL_ROW + i)];
}

/* ------------------------------------------------------------------ encoder */

static bool open_commands(struct metal *m)
{
	@autoreleasepool {
		m->commands = [[m->queue commandBuffer] retain];
		m->encoder = [[m->commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent] retain];
	}
	if (!m->encoder) {
		be_fail(&m->be, ERR_DEVICE, "metal: the device gave no command encoder");
		[m->commands release];
		m->commands = nil;
		return false;
	}
	m->n_since = m->n_now = 0;
	metal_use_chunks(m);
	return true;
}

bool metal_begin(struct metal *m, const struct step *s)
{
	if (m->be.failing)
		return false;
	if (s && m->step != s) {
		metal_flush(m);
		if (m->be.failing || !send_step(m, s))
			return false;
		m->step = s;
		if (!open_commands(m))
			return false;
		bind_step(m);
	} else if (!m->commands) {
		return open_commands(m);
	}
	return true;
}

void metal_flush(struct metal *m)
{
	m->step = NULL;
	if (!m->commands)
		return;
	@autoreleasepool {
		[m->encoder endEncoding];
		[m->commands commit];
		[m->commands waitUntilCompleted];
		if ([m->commands status] == MTLCommandBufferStatusError)
			be_fail(&m->be, ERR_DEVICE, "metal: the GPU gave this step up: %s",
				[[[m->commands error] localizedDescription] UTF8String]);
		[m->encoder release];
		[m->commands release];
	}
	m->encoder = nil;
	m->commands = nil;
}

void metal_args(struct metal *m, const void *args, size_t bytes)
{
	[m->encoder setBytes:args length:bytes atIndex:0];
}

static void note(struct metal *m, const void *what, bool write)
{
	if (m->n_now < METAL_USES)
		m->now[m->n_now++] = (struct metal_use){what, write};
}

static void bind(struct metal *m, int index, const void *p, size_t skip)
{
	size_t offset;
	id<MTLBuffer> b = metal_buffer(m, p, &offset);

	[m->encoder setBuffer:b offset:offset + skip atIndex:(NSUInteger)index];
}

void metal_in(struct metal *m, int index, const void *p, size_t skip)
{
	bind(m, index, p, skip);
	note(m, p, false);
}

void metal_out(struct metal *m, int index, const void *p, size_t skip)
{
	bind(m, index, p, skip);
	note(m, p, true);
}

void metal_weight(struct metal *m, int index, const struct weight *w)
{
	const struct metal_weight *d = w ? w->device : NULL;

	[m->encoder setBuffer:d ? d->buffer : m->nothing offset:d ? d->offset : 0 atIndex:(NSUInteger)index];
}

void metal_scratch_in(struct metal *m, int index, enum metal_scratch s)
{
	[m->encoder setBuffer:m->scratch[s] offset:0 atIndex:(NSUInteger)index];
	note(m, &m->scratch[s], false);
}

void metal_scratch_out(struct metal *m, int index, enum metal_scratch s)
{
	[m->encoder setBuffer:m->scratch[s] offset:0 atIndex:(NSUInteger)index];
	note(m, &m->scratch[s], true);
}

void metal_touch(struct metal *m, enum metal_part part, bool write)
{
	static const char names[PARTS];

	note(m, &names[part], write);
}

/* Does the dispatch touch what an earlier one since the last barrier wrote, or write what one touched? */
static bool conflicts(const struct metal *m)
{
	if (m->n_since + m->n_now > METAL_USES)
		return true;
	for (int i = 0; i < m->n_now; i++)
		for (int j = 0; j < m->n_since; j++)
			if (m->now[i].what == m->since[j].what && (m->now[i].write || m->since[j].write))
				return true;
	return false;
}

void metal_dispatch(struct metal *m, enum metal_kernel k, enum dtype type, uint32_t gx, uint32_t gy, uint32_t gz,
		    uint32_t threads)
{
	if (conflicts(m)) {
		[m->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
		m->n_since = 0;
	}
	memcpy(m->since + m->n_since, m->now, (size_t)m->n_now * sizeof m->now[0]);
	m->n_since += m->n_now;
	m->n_now = 0;
	[m->encoder setComputePipelineState:m->pipeline[k][type]];
	[m->encoder dispatchThreadgroups:MTLSizeMake(gx, gy, gz) threadsPerThreadgroup:MTLSizeMake(threads, 1, 1)];
}

/* ------------------------------------------------------------------ life */

static void metal_wait(struct backend *be)
{
	metal_flush(metal_of(be));
}

static void metal_close(struct backend *be)
{
	struct metal *m = metal_of(be);

	metal_flush(m);
	metal_memory_close(m);
	for (int k = 0; k < KERNEL_COUNT; k++)
		for (int t = 0; t < DTYPE_COUNT; t++)
			[m->pipeline[k][t] release];
	[m->step_buffer release];
	[m->nothing release];
	[m->residency release];
	[m->library release];
	[m->queue release];
	[m->device release];
	mem_free(m);
}

/* The compiler's text may be long: the whole of it goes to a file, its beginning into the message. */
static enum status compiler_failed(const char *text, struct err *err)
{
	const char *folder = getenv("TMPDIR");
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, "%s/ds4-metal-compiler.txt", folder && *folder ? folder : "/tmp");
	f = fopen(path, "w");
	if (f) {
		fwrite(text, 1, strlen(text), f);
		fclose(f);
	}
	return err_set(err, ERR_DEVICE, "metal: the shaders do not compile (all of the compiler's text is in %s): %.300s",
		       f ? path : "no file", text);
}

static enum status compile(struct metal *m, struct err *err)
{
	enum status st = OK;

	@autoreleasepool {
		MTLCompileOptions *options = [MTLCompileOptions new];
		NSError *e = nil;

		options.languageVersion = MTLLanguageVersion3_0;
#if defined(__MAC_OS_X_VERSION_MAX_ALLOWED) && __MAC_OS_X_VERSION_MAX_ALLOWED >= 150000
		if (@available(macOS 15.0, *))
			options.mathMode = MTLMathModeSafe;
		else
#endif
			options.fastMathEnabled = NO;
		m->library = [m->device newLibraryWithSource:[NSString stringWithUTF8String:metal_source] options:options error:&e];
		[options release];
		if (!m->library)
			st = compiler_failed(e ? [[e localizedDescription] UTF8String] : "no text", err);
	}
	return st != OK ? st : metal_pipelines(m, DTYPE_F32, err);
}

/* Can this device run it?  Apple silicon of any generation does: unified memory and Metal 3 (addresses in buffers). */
static enum status suitable(id<MTLDevice> d, struct err *err)
{
	if (!d)
		return err_set(err, ERR_DEVICE, "metal: this system has no Metal device");
	if (![d hasUnifiedMemory] || ![d supportsFamily:MTLGPUFamilyMetal3] || ![d supportsFamily:MTLGPUFamilyApple7])
		return err_set(err, ERR_DEVICE, "metal: the device \"%s\" will not do: Apple silicon (M1 or later) and macOS 13 are needed",
			       [[d name] UTF8String]);
	return OK;
}

bool metal_available(void)
{
	static int known = -1;

	if (known < 0) {
		@autoreleasepool {
			id<MTLDevice> d = MTLCreateSystemDefaultDevice();

			known = suitable(d, NULL) == OK;
			[d release];
		}
	}
	return known;
}

static enum status open_device(struct metal *m, struct err *err)
{
	TRY(suitable(m->device, err));
	m->queue = [m->device newCommandQueue];
	m->nothing = [m->device newBufferWithLength:64 options:MTLResourceStorageModeShared];
	if (!m->queue || !m->nothing)
		return err_set(err, ERR_DEVICE, "metal: the device \"%s\" gives no command queue", [[m->device name] UTF8String]);
	snprintf(m->name, sizeof m->name, "%s", [[m->device name] UTF8String]);
	m->be.device = m->name;
	metal_memory_open(m);
	return compile(m, err);
}

enum status metal_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	const char *rows = getenv("DS4_METAL_VECTOR_ROWS");
	struct metal *m;
	enum status st;

	*out = NULL;
	if (!opt->numerics.fp8 || !opt->numerics.fp4 || !opt->numerics.packed)
		return err_set(err, ERR_ARGUMENT, "the metal backend computes with the model's numerics only; use ref");
	m = mem_zero(sizeof *m);
	if (!m)
		return err_set(err, ERR_MEMORY, "no memory for the metal backend");
	m->vector_rows = rows ? (int32_t)strtol(rows, NULL, 10) : 8;
	m->be = (struct backend){.name = "metal", .numerics = opt->numerics, .real_bytes = sizeof(float),
				 .row_bytes = GEOM_ROW_BYTES, .key_bytes = GEOM_KEY_BYTES, .self = m, .wait = metal_wait,
				 .close = metal_close};
	metal_ops(&m->be.ops);
	@autoreleasepool {
		m->device = MTLCreateSystemDefaultDevice();
		st = open_device(m, err);
	}
	if (st != OK) {
		metal_close(&m->be);
		return st;
	}
	*out = &m->be;
	return OK;
}
