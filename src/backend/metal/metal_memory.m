/* metal_memory.m - memory of the Metal backend: chunks for what alloc gives out, views of the mapped file for weights.
 *
 * What  alloc, release, upload, download, copy; weight_load; scratch; what must be resident.
 * Why   CPU and GPU share one memory, so weights stay where the file is mapped, and moving data is memcpy.
 * How   Chunks of 64 MB are cut first fit; an address that alloc gave is a chunk plus an offset.  A weight is a buffer over
 *       the pages that hold it, made without a copy; small ones are copied, as are those whose address is not aligned for
 *       16-byte loads.  Tensors that share bytes share the buffer.
 * Careful
 *       - Buffers over existing memory begin and end on pages of 16 KiB: what lies beside a tensor is in view, never read.
 *       - Memory is taken only up to what the device recommends: beyond it macOS swaps the machine to a standstill.
 *       - Memory is zeroed and given back only when no command is in flight. */
#import "backend/metal/metal_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { PAGE = 16384, UNIT = 64 };

#if !defined(__APPLE__) || (defined(__MAC_OS_X_VERSION_MAX_ALLOWED) && __MAC_OS_X_VERSION_MAX_ALLOWED >= 150000)
#define HAVE_RESIDENCY 1
#endif

struct metal_range {
	size_t offset, bytes;
	bool used;
	struct metal_range *next;
};

/* ------------------------------------------------------------------ residency */

/* On macOS 15 and later one set keeps everything resident; before, each command buffer names what it reaches. */
static void make_residency(struct metal *m)
{
#ifdef HAVE_RESIDENCY
#ifdef __APPLE__
	if (@available(macOS 15.0, *))
#endif
	{
		MTLResidencySetDescriptor *d = [MTLResidencySetDescriptor new];
		id<MTLResidencySet> set;

		d.initialCapacity = 256;
		set = getenv("DS4_METAL_NO_RESIDENCY") ? nil : [m->device newResidencySetWithDescriptor:d error:NULL];
		[d release];
		if (set)
			[m->queue addResidencySet:set];
		m->residency = set;
	}
#else
	(void)m;
#endif
}

static void change_residency(struct metal *m, id<MTLBuffer> b, bool add)
{
#ifdef HAVE_RESIDENCY
#ifdef __APPLE__
	if (@available(macOS 15.0, *))
#endif
	{
		id<MTLResidencySet> set = m->residency;

		if (add)
			[set addAllocation:b];
		else
			[set removeAllocation:b];
		[set commit];
	}
#else
	(void)m, (void)b, (void)add;
#endif
}

void metal_use_chunks(struct metal *m)
{
	for (struct metal_chunk *c = m->chunks; c && !m->residency; c = c->next)
		[m->encoder useResource:c->buffer usage:MTLResourceUsageRead | MTLResourceUsageWrite];
}

/* ------------------------------------------------------------------ chunks */

static struct metal_chunk *new_chunk(struct metal *m, size_t bytes)
{
	struct metal_chunk *c = mem_zero(sizeof *c);
	struct metal_range *r = mem_zero(sizeof *r);

	bytes = bytes > m->chunk_bytes ? bytes : m->chunk_bytes;
	if (!c || !r || m->used + bytes > m->limit || bytes > [m->device maxBufferLength])
		goto fail;
	c->buffer = [m->device newBufferWithLength:bytes options:MTLResourceStorageModeShared];
	if (!c->buffer)
		goto fail;
	c->cpu = [c->buffer contents];
	c->bytes = r->bytes = bytes;
	c->ranges = r;
	c->next = m->chunks;
	m->chunks = c;
	m->used += bytes;
	change_residency(m, c->buffer, true);
	if (m->encoder && !m->residency)
		[m->encoder useResource:c->buffer usage:MTLResourceUsageRead | MTLResourceUsageWrite];
	return c;
fail:
	mem_free(c);
	mem_free(r);
	return NULL;
}

static void free_chunk(struct metal *m, struct metal_chunk *c)
{
	struct metal_chunk **at = &m->chunks;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	while (c->ranges) {
		struct metal_range *r = c->ranges;

		c->ranges = r->next;
		mem_free(r);
	}
	change_residency(m, c->buffer, false);
	m->used -= c->bytes;
	[c->buffer release];
	mem_free(c);
}

/* Takes the first free range of a chunk that is large enough; NULL if there is none. */
static void *cut(struct metal_chunk *c, size_t bytes)
{
	for (struct metal_range *r = c->ranges; r; r = r->next) {
		if (r->used || r->bytes < bytes)
			continue;
		if (r->bytes > bytes) {
			struct metal_range *rest = mem_zero(sizeof *rest);

			if (!rest)
				return NULL;
			*rest = (struct metal_range){r->offset + bytes, r->bytes - bytes, false, r->next};
			r->bytes = bytes;
			r->next = rest;
		}
		r->used = true;
		return c->cpu + r->offset;
	}
	return NULL;
}

static struct metal_chunk *chunk_of(struct metal *m, const void *p)
{
	for (struct metal_chunk *c = m->chunks; c; c = c->next)
		if ((const uint8_t *)p >= c->cpu && (const uint8_t *)p < c->cpu + c->bytes)
			return c;
	assert(!"an address that alloc did not give");
	return NULL;
}

static void *metal_alloc(struct backend *be, size_t bytes)
{
	struct metal *m = metal_of(be);
	struct metal_chunk *c;
	void *p = NULL;

	if (bytes > SIZE_MAX - PAGE)
		return NULL;
	bytes = bytes ? (bytes + UNIT - 1) / UNIT * UNIT : UNIT;
	for (c = m->chunks; c && !p && m->chunk_bytes; c = c->next)
		p = cut(c, bytes);
	if (!p) {
		c = new_chunk(m, bytes);
		p = c ? cut(c, bytes) : NULL;
	}
	if (p)
		memset(p, 0, bytes);
	return p;
}

static void metal_release(struct backend *be, void *p)
{
	struct metal *m = metal_of(be);
	struct metal_chunk *c = chunk_of(m, p);
	struct metal_range *before = NULL, *r = c->ranges;

	metal_flush(m);		/* commands may still use it */
	while (c->cpu + r->offset != (uint8_t *)p) {
		before = r;
		r = r->next;
	}
	r->used = false;
	if (r->next && !r->next->used) {
		struct metal_range *gone = r->next;

		r->bytes += gone->bytes;
		r->next = gone->next;
		mem_free(gone);
	}
	if (before && !before->used) {
		before->bytes += r->bytes;
		before->next = r->next;
		mem_free(r);
	}
	if (!c->ranges->used && !c->ranges->next)
		free_chunk(m, c);
}

id<MTLBuffer> metal_buffer(struct metal *m, const void *p, size_t *offset)
{
	struct metal_chunk *c = chunk_of(m, p);

	*offset = (size_t)((const uint8_t *)p - c->cpu);
	return c->buffer;
}

uint64_t metal_address(struct metal *m, const void *p)
{
	struct metal_chunk *c = p ? chunk_of(m, p) : NULL;

	return c ? [c->buffer gpuAddress] + (uint64_t)((const uint8_t *)p - c->cpu) : 0;
}

static void metal_upload(struct backend *be, void *device, const void *host, size_t bytes)
{
	metal_flush(metal_of(be));
	memcpy(device, host, bytes);
}

static void metal_download(struct backend *be, void *host, const void *device, size_t bytes)
{
	metal_flush(metal_of(be));
	memcpy(host, device, bytes);
}

static void metal_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
	metal_flush(metal_of(be));
	memmove(dst, src, bytes);
}

bool metal_scratch(struct metal *m, enum metal_scratch s, size_t bytes)
{
	if (m->scratch[s] && [m->scratch[s] length] >= bytes)
		return true;
	if (m->scratch[s])
		m->used -= [m->scratch[s] length];
	[m->scratch[s] release];	/* commands in flight keep it */
	m->scratch[s] = nil;
	bytes += bytes / 8 + UNIT;
	if (m->used + bytes <= m->limit && bytes <= [m->device maxBufferLength])
		m->scratch[s] = [m->device newBufferWithLength:bytes options:MTLResourceStorageModeShared];
	if (!m->scratch[s]) {
		be_fail(&m->be, ERR_MEMORY, "metal: no memory for %zu bytes of work space: %.2f of %.2f GB are in use", bytes,
			(double)m->used / 1e9, (double)m->limit / 1e9);
		return false;
	}
	m->used += bytes;
	return true;
}

/* ------------------------------------------------------------------ weights */

/* A buffer over the pages of the file that hold the tensor; nil when the system refuses. */
static id<MTLBuffer> view(struct metal *m, const void *data, size_t bytes, size_t *offset)
{
	uintptr_t begin = (uintptr_t)data / PAGE * PAGE, end = ((uintptr_t)data + bytes + PAGE - 1) / PAGE * PAGE;

	*offset = (uintptr_t)data - begin;
	if (end - begin > [m->device maxBufferLength])
		return nil;
	return [m->device newBufferWithBytesNoCopy:(void *)begin
					    length:end - begin
					   options:MTLResourceStorageModeShared
				       deallocator:nil];
}

static id<MTLBuffer> duplicate(struct metal *m, const void *data, size_t bytes)
{
	id<MTLBuffer> b = [m->device newBufferWithLength:bytes + UNIT options:MTLResourceStorageModeShared];

	if (b)
		memcpy([b contents], data, bytes);
	return b;
}

static enum status readable(const struct weight *w, struct err *err)
{
	if (w->type != DTYPE_I32 && (w->out > 1 || w->n > 1) && w->in % 8)
		return err_set(err, ERR_FORMAT, "%s: the metal kernels read rows of a multiple of 8 elements, it has %d", w->name,
			       (int)w->in);
	if (w->row_bytes > UINT32_MAX)
		return err_set(err, ERR_FORMAT, "%s: rows of %zu bytes are too long for the metal kernels", w->name, w->row_bytes);
	return OK;
}

static enum status weight_load(struct backend *be, struct weight *w, struct err *err)
{
	struct metal *m = metal_of(be);
	size_t bytes = (size_t)w->out * (size_t)w->n * w->row_bytes;
	struct metal_weight *d;

	TRY(readable(w, err));
	if (w->type != DTYPE_I32)
		TRY(metal_pipelines(m, w->type, err));
	for (d = m->weights; d; d = d->next)
		if (d->data == w->data && d->bytes == bytes) {
			w->device = d;
			return OK;
		}
	if (m->used + bytes > m->limit)
		return err_set(err, ERR_MEMORY,
			       "%s: the weights do not fit: with it they need %.1f GB, and macOS recommends at most %.1f GB for this GPU "
			       "(sysctl iogpu.wired_limit_mb raises that at your own risk; a smaller quantisation fits)",
			       w->name, (double)(m->used + bytes) / 1e9, (double)m->limit / 1e9);
	d = mem_zero(sizeof *d);
	if (!d)
		return err_set(err, ERR_MEMORY, "%s: no memory to keep it", w->name);
	if (bytes >= m->copy_below && (uintptr_t)w->data % 16 == 0)
		d->buffer = view(m, w->data, bytes, &d->offset);
	if (!d->buffer) {
		d->offset = 0;
		d->buffer = duplicate(m, w->data, bytes);
	}
	if (!d->buffer) {
		mem_free(d);
		return err_set(err, ERR_MEMORY, "%s: the device neither maps nor copies its %zu bytes", w->name, bytes);
	}
	change_residency(m, d->buffer, true);
	m->used += bytes;
	d->data = w->data;
	d->bytes = bytes;
	d->next = m->weights;
	m->weights = w->device = d;
	return OK;
}

/* ------------------------------------------------------------------ life */

static size_t setting(const char *name, size_t otherwise)
{
	const char *v = getenv(name);

	return v ? (size_t)strtoull(v, NULL, 10) : otherwise;
}

static uint64_t room(struct backend *be)
{
	struct metal *m = metal_of(be);

	return m->limit > m->used ? m->limit - m->used : 0;
}

void metal_memory_open(struct metal *m)
{
	m->be.room = room;
	m->be.host_memory = true;	/* one memory; nothing is in flight between steps */
	m->be.alloc = metal_alloc;
	m->be.release = metal_release;
	m->be.upload = metal_upload;
	m->be.download = metal_download;
	m->be.copy = metal_copy;
	m->be.weight_load = weight_load;
	m->limit = [m->device recommendedMaxWorkingSetSize];
	m->chunk_bytes = setting("DS4_METAL_CHUNK", (size_t)64 << 20);
	m->copy_below = setting("DS4_METAL_COPY_BELOW", (size_t)1 << 20);
	make_residency(m);
}

void metal_memory_close(struct metal *m)
{
	while (m->chunks)
		free_chunk(m, m->chunks);
	while (m->weights) {
		struct metal_weight *d = m->weights;

		m->weights = d->next;
		change_residency(m, d->buffer, false);
		[d->buffer release];
		mem_free(d);
	}
	for (int i = 0; i < SCRATCHES; i++)
		[m->scratch[i] release];
}
