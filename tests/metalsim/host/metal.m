/* metal.m - Metal's objects on the simulator: records commands, validates them, runs them on a "GPU" thread.
 *
 * What  Buffers, libraries, pipelines, command buffers and compute encoders with the API's rules: bindings present and
 *       large enough, argument structs of the shader's size, offsets aligned, lengths in their limits, encoders ended,
 *       nothing committed twice.
 * Why   On a Mac these are warnings of a validation layer, crashes, or silence.
 * How   A dispatch is copied when it is encoded; commit hands the list to a thread that runs it, so host code that reads
 *       results too early reads old ones.  Buffers stand between inaccessible pages.
 * Careful
 *       - A committed buffer is kept alive by the queue; waitUntilCompleted returns after the queue has let go of it.
 *       - Sources are compiled by mslcc once per content and mode; a lock file keeps two processes from doing it twice. */
#import <Metal/Metal.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../rt/sim.h"
#include "sim_host.h"

enum { PAGE = 16384, MAX_RESIDENT = 4000 };
#define MAX_BUFFER ((NSUInteger)32 << 30)

struct sim_host sim_host;

__attribute__((format(printf, 1, 2))) static void misuse(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sim_host.last_misuse, sizeof sim_host.last_misuse, fmt, ap);
	va_end(ap);
	sim_host.misuse++;
	if (!sim_host.tolerant) {
		fprintf(stderr, "metalsim: API validation: %s\n", sim_host.last_misuse);
		abort();
	}
}

#define EXPECT(condition, ...)               \
	do {                                 \
		if (!(condition))            \
			misuse(__VA_ARGS__); \
	} while (0)

/* ------------------------------------------------------------------ buffers */

@interface SimBuffer : NSObject <MTLBuffer> {
@public
	char *p;
	NSUInteger len, mapped;		/* mapped: 0 = memory of the caller */
	void *shadow;
	BOOL private_memory, foreign;	/* foreign: of sim.allocate */
}
@end

@implementation SimBuffer

- (NSUInteger)length
{
	return len;
}

- (uint64_t)gpuAddress
{
	return (uint64_t)(uintptr_t)p;
}

- (void *)contents
{
	EXPECT(!private_memory, "contents of a private buffer");
	return private_memory ? NULL : p;
}

- (void)dealloc
{
	if (foreign)
		sim.release(p);
	else if (mapped)
		munmap(p - PAGE, mapped + 2 * PAGE);
	sim_shadow_free(shadow, len);
	[super dealloc];
}

@end

/* ------------------------------------------------------------------ libraries, pipelines */

@implementation MTLCompileOptions
@synthesize languageVersion, fastMathEnabled, mathMode;
@end

@implementation MTLResidencySetDescriptor
@synthesize initialCapacity;
@end

@implementation MTLFunctionConstantValues

- (void)setConstantValue:(const void *)v type:(MTLDataType)t atIndex:(NSUInteger)i
{
	struct sim_constant_value *c = &value[n++];

	EXPECT(n <= 32, "more than 32 function constants");
	c->number = (int)i;
	c->size = t == MTLDataTypeBool ? 1 : 4;
	memcpy(c->v, v, (size_t)c->size);
}

@end

@interface SimLibrary : NSObject <MTLLibrary> {
@public
	struct sim_lib *lib;
}
@end

@interface SimFunction : NSObject <MTLFunction> {
@public
	SimLibrary *library;
	int kernel;
	struct sim_constant_value value[32];
	int n;
}
@end

@implementation SimFunction

- (void)dealloc
{
	[library release];
	[super dealloc];
}

@end

@implementation SimLibrary

- (id<MTLFunction>)newFunctionWithName:(NSString *)name
{
	return [self newFunctionWithName:name constantValues:nil error:NULL];
}

- (id<MTLFunction>)newFunctionWithName:(NSString *)name
			constantValues:(MTLFunctionConstantValues *)values
				 error:(NSError **)error
{
	int kernel = sim_find(lib, [name UTF8String]);
	SimFunction *f;

	if (kernel < 0) {
		if (error)
			*error = [NSError simError:"no such function"];
		return nil;
	}
	for (int i = 0; values && i < values->n; i++)
		EXPECT(sim_set_constant(lib, values->value[i].number, values->value[i].v, (size_t)values->value[i].size) == 0,
		       "function constant %d: not in the source, or of another type", values->value[i].number);
	f = [SimFunction new];
	f->library = [self retain];
	f->kernel = kernel;
	if (values) {
		memcpy(f->value, values->value, sizeof f->value);
		f->n = values->n;
	}
	return f;
}

- (void)dealloc
{
	sim_close(lib);
	[super dealloc];
}

@end

@interface SimPipeline : NSObject <MTLComputePipelineState> {
@public
	SimFunction *function;
}
@end

@implementation SimPipeline

- (NSUInteger)maxTotalThreadsPerThreadgroup
{
	return sim_host.max_threads ? sim_host.max_threads : 1024;
}

- (NSUInteger)threadExecutionWidth
{
	return 32;
}

- (void)dealloc
{
	[function release];
	[super dealloc];
}

@end

@interface SimResidency : NSObject <MTLResidencySet> {
@public
	SimBuffer *member[MAX_RESIDENT];
	int n;
}
@end

@implementation SimResidency

- (void)addAllocation:(id<MTLAllocation>)a
{
	EXPECT(n < MAX_RESIDENT, "more than %d members of a residency set", MAX_RESIDENT);
	member[n++] = [(SimBuffer *)a retain];
}

- (void)removeAllocation:(id<MTLAllocation>)a
{
	for (int i = 0; i < n; i++)
		if (member[i] == (SimBuffer *)a) {
			[member[i] release];
			member[i] = member[--n];
			return;
		}
	misuse("removal of what is not in the residency set");
}

- (void)commit
{
}

- (void)requestResidency
{
}

- (void)dealloc
{
	for (int i = 0; i < n; i++)
		[member[i] release];
	[super dealloc];
}

@end

/* ------------------------------------------------------------------ commands */

struct binding {
	SimBuffer *buffer;
	NSUInteger offset, n;
	char *bytes;		/* setBytes: a copy that the command buffer owns */
};

struct command {
	SimPipeline *pipeline;
	struct binding buf[SIM_BUFFERS];
	uint32_t tg_bytes[SIM_TG_BUFFERS], groups[3], size[3];
	BOOL concurrent, barrier;
	int n_resident;		/* of the encoder's list, when this was encoded */
	struct resident *resident;
};

struct resident {		/* one encoder's useResource list */
	SimBuffer *buffer[MAX_RESIDENT];
	BOOL writable[MAX_RESIDENT];
	int n;
	struct resident *next;
};

@class SimCommandBuffer;

@interface SimEncoder : NSObject <MTLComputeCommandEncoder> {
@public
	SimCommandBuffer *owner;
	struct command cur;
	struct resident *resident;
	BOOL ended, concurrent;
}
@end

@interface SimQueue : NSObject <MTLCommandQueue> {
@public
	SimResidency *residency;
}
@end

@interface SimCommandBuffer : NSObject <MTLCommandBuffer> {
@public
	struct command **command;
	int n, room, barriers;
	char **bytes;
	int n_bytes, bytes_room;
	struct resident *residents;
	SimEncoder *open;
	SimQueue *queue;
	SimCommandBuffer *next;
	MTLCommandBufferStatus state;
	uint64_t ticket;
	NSError *problem;
	double start, end;
}
- (void)add:(struct command *)c;
- (char *)keep:(const void *)p length:(NSUInteger)length;
- (void)run;
@end

@implementation SimEncoder

#define ALIVE EXPECT(!ended, "%s on an encoder that has ended", sel_getName(_cmd))

- (void)setComputePipelineState:(id<MTLComputePipelineState>)p
{
	ALIVE;
	EXPECT(p, "the pipeline is nil");
	cur.pipeline = (SimPipeline *)p;
}

- (void)setBuffer:(id<MTLBuffer>)b offset:(NSUInteger)o atIndex:(NSUInteger)i
{
	SimBuffer *s = (SimBuffer *)b;

	ALIVE;
	EXPECT(i < SIM_BUFFERS, "buffer index %lu, expected below 31", i);
	EXPECT(!s || o < s->len, "offset %lu of buffer %lu is not below its length %lu", o, i, s ? s->len : 0);
	cur.buf[i] = (struct binding){.buffer = s, .offset = o};
}

- (void)setBytes:(const void *)p length:(NSUInteger)n atIndex:(NSUInteger)i
{
	ALIVE;
	EXPECT(i < SIM_BUFFERS && n && n <= 4096, "setBytes of %lu bytes at %lu, expected 1..4096", n, i);
	cur.buf[i] = (struct binding){.bytes = [owner keep:p length:n], .n = n};
}

- (void)setThreadgroupMemoryLength:(NSUInteger)n atIndex:(NSUInteger)i
{
	ALIVE;
	EXPECT(i < SIM_TG_BUFFERS && n % 16 == 0, "threadgroup memory of %lu bytes at %lu, expected a multiple of 16", n, i);
	cur.tg_bytes[i] = (uint32_t)n;
}

- (BOOL)check:(const struct sim_param *)p of:(const char *)name
{
	struct binding *b = &cur.buf[p->index];
	NSUInteger left;

	if (p->kind == 2)
		EXPECT(cur.tg_bytes[p->index], "%s: threadgroup memory %d has no length", name, p->index);
	if (p->kind != 1)
		return YES;
	if (!b->buffer && !b->bytes) {
		misuse("%s: nothing is bound at buffer index %d", name, p->index);
		return NO;
	}
	left = b->buffer ? b->buffer->len - b->offset : b->n;
	if (p->ref)
		EXPECT(left >= p->size, "%s: buffer %d has %lu bytes left, the shader's struct has %lu", name, p->index, left,
		       p->size);
	if (b->bytes && p->ref)
		EXPECT(b->n == p->size, "%s: setBytes of %lu bytes at %d, the shader's struct has %lu", name, b->n, p->index,
		       p->size);
	if (b->bytes)
		EXPECT(p->space != 1 || p->is_const, "%s: setBytes at the writable buffer %d", name, p->index);
	if (b->buffer)
		EXPECT(b->offset % (p->align < 4 && p->space == 2 ? 4 : p->align) == 0,
		       "%s: offset %lu of buffer %d is not aligned to %lu", name, b->offset, p->index, p->align);
	return YES;
}

- (void)dispatchThreadgroups:(MTLSize)g threadsPerThreadgroup:(MTLSize)t
{
	NSUInteger most = cur.pipeline ? [cur.pipeline maxTotalThreadsPerThreadgroup] : 0, memory = 0;
	int before = sim_host.misuse;
	const struct sim_kernel *k;

	ALIVE;
	EXPECT(cur.pipeline, "dispatch without a pipeline");
	if (!cur.pipeline)
		return;
	k = sim_info(cur.pipeline->function->library->lib, cur.pipeline->function->kernel);
	EXPECT(g.width && g.height && g.depth, "%s: empty grid %lux%lux%lu", k->name, g.width, g.height, g.depth);
	EXPECT(t.width * t.height * t.depth && t.width * t.height * t.depth <= most,
	       "%s: %lux%lux%lu threads per threadgroup, expected 1..%lu", k->name, t.width, t.height, t.depth, most);
	for (int i = 0; i < SIM_TG_BUFFERS; i++)
		memory += cur.tg_bytes[i];
	EXPECT(memory <= SIM_TG_BYTES, "%s: %lu bytes of threadgroup memory", k->name, memory);
	for (int i = 0; i < k->n_params; i++)
		if (![self check:&k->p[i] of:k->name])
			break;
	if (sim_host.misuse != before)
		return;
	cur.concurrent = concurrent;
	cur.groups[0] = (uint32_t)g.width;
	cur.groups[1] = (uint32_t)g.height;
	cur.groups[2] = (uint32_t)g.depth;
	cur.size[0] = (uint32_t)t.width;
	cur.size[1] = (uint32_t)t.height;
	cur.size[2] = (uint32_t)t.depth;
	cur.resident = resident;
	cur.n_resident = resident->n;
	[owner add:&cur];
	cur.barrier = NO;
}

- (void)memoryBarrierWithScope:(MTLBarrierScope)s
{
	ALIVE;
	EXPECT(s == MTLBarrierScopeBuffers, "barrier of scope %lu", s);
	sim_host.barriers++;
	if (sim_host.skip_barrier && ++owner->barriers == sim_host.skip_barrier) {
		sim_host.skipped++;
		return;
	}
	cur.barrier = YES;
}

- (void)useResource:(id<MTLResource>)r usage:(MTLResourceUsage)u
{
	ALIVE;
	EXPECT(resident->n < MAX_RESIDENT, "more than %d resources in one encoder", MAX_RESIDENT);
	resident->writable[resident->n] = (u & MTLResourceUsageWrite) != 0;
	resident->buffer[resident->n++] = [(SimBuffer *)r retain];
}

- (void)endEncoding
{
	ALIVE;
	ended = YES;
	owner->open = nil;
}

- (void)dealloc
{
	EXPECT(ended, "an encoder is released without endEncoding");
	[super dealloc];
}

@end

/* ------------------------------------------------------------------ the GPU */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static SimCommandBuffer *first, *last;
static uint64_t committed, finished;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *gpu(void *unused)
{
	(void)unused;
	for (;;) {
		SimCommandBuffer *b;

		pthread_mutex_lock(&lock);
		while (!first)
			pthread_cond_wait(&changed, &lock);
		b = first;
		first = b->next;
		if (!first)
			last = nil;
		pthread_mutex_unlock(&lock);
		@autoreleasepool {
			[b run];
			[b release];
		}
		pthread_mutex_lock(&lock);
		finished++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static struct sim_bind bind_buffer(SimBuffer *b, NSUInteger offset, BOOL checked, int writable)
{
	if (checked && b->mapped && !b->shadow)
		b->shadow = sim_shadow_new(b->len);
	return (struct sim_bind){b->p, b->len, offset, b->shadow, writable, 0};
}

/* Runs one dispatch.  hazard: serial of the first threadgroup since the last barrier. */
static int run_command(struct command *c, SimResidency *set, uint64_t *hazard)
{
	static struct sim_bind reachable[2 * MAX_RESIDENT];
	SimFunction *f = c->pipeline->function;
	struct sim_dispatch d = {.lib = f->library->lib, .kernel = f->kernel, .resident = reachable};
	BOOL checked = sim_checked(d.lib) != 0;

	for (int i = 0; i < f->n; i++)
		sim_set_constant(d.lib, f->value[i].number, f->value[i].v, (size_t)f->value[i].size);
	for (int i = 0; i < SIM_BUFFERS; i++) {
		struct binding *b = &c->buf[i];

		if (b->buffer)
			d.buf[i] = bind_buffer(b->buffer, b->offset, checked, 0);
		else if (b->bytes)
			d.buf[i] = (struct sim_bind){b->bytes, b->n, 0, NULL, 0, 1};
	}
	for (int i = 0; checked && i < c->n_resident; i++)
		reachable[d.n_resident++] = bind_buffer(c->resident->buffer[i], 0, YES, c->resident->writable[i]);
	for (int i = 0; checked && set && i < set->n; i++)
		reachable[d.n_resident++] = bind_buffer(set->member[i], 0, YES, 1);
	memcpy(d.tg_bytes, c->tg_bytes, sizeof d.tg_bytes);
	memcpy(d.groups, c->groups, sizeof d.groups);
	memcpy(d.group_size, c->size, sizeof d.group_size);
	if (!c->concurrent)
		*hazard = 0;
	else if (!*hazard || c->barrier)
		*hazard = sim_serial();
	d.hazard_base = *hazard;
	sim_host.dispatches++;
	return sim_run(&d);
}

@implementation SimCommandBuffer

- (void)add:(struct command *)c
{
	if (n == room) {
		room = room ? room * 2 : 64;
		command = realloc(command, (size_t)room * sizeof *command);
	}
	command[n] = malloc(sizeof *c);
	*command[n++] = *c;
	[c->pipeline retain];
	for (int i = 0; i < SIM_BUFFERS; i++)
		[c->buf[i].buffer retain];
}

- (char *)keep:(const void *)p length:(NSUInteger)length
{
	if (n_bytes == bytes_room) {
		bytes_room = bytes_room ? bytes_room * 2 : 64;
		bytes = realloc(bytes, (size_t)bytes_room * sizeof *bytes);
	}
	bytes[n_bytes] = malloc(length + 64);
	memcpy(bytes[n_bytes], p, length);
	return bytes[n_bytes++];
}

- (id<MTLComputeCommandEncoder>)computeCommandEncoder
{
	return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}

- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)t
{
	SimEncoder *e = [SimEncoder new];

	EXPECT(state < MTLCommandBufferStatusCommitted, "an encoder on a committed command buffer");
	EXPECT(!open, "a second encoder before endEncoding of the first");
	e->owner = self;
	e->concurrent = t == MTLDispatchTypeConcurrent;
	e->resident = calloc(1, sizeof *e->resident);
	e->resident->next = residents;
	residents = e->resident;
	open = e;
	return [e autorelease];
}

- (void)commit
{
	static BOOL started;
	pthread_t t;

	EXPECT(!open, "commit with an encoder that has not ended");
	EXPECT(state < MTLCommandBufferStatusCommitted, "commit twice");
	[self retain];
	pthread_mutex_lock(&lock);
	if (!started)
		pthread_create(&t, NULL, gpu, NULL);
	started = YES;
	state = MTLCommandBufferStatusCommitted;
	ticket = ++committed;
	if (last)
		last->next = self;
	else
		first = self;
	last = self;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

- (void)run
{
	uint64_t hazard = 0;
	int result = 0;

	if (sim_host.delay > 0)
		usleep((useconds_t)(sim_host.delay * 1e6));
	start = now();
	sim_host.command_buffers++;
	if (sim_host.fail_after && !--sim_host.fail_after) {
		problem = [[NSError simError:"Internal Error (0000000e:Internal Error), as asked by the test"] retain];
	} else {
		for (int i = 0; i < n && result != SIM_TIMED_OUT; i++)
			result = run_command(command[i], queue->residency, &hazard);
		if (result == SIM_TIMED_OUT)
			problem = [[NSError simError:"Caused GPU Timeout Error (00000002)"] retain];
	}
	end = now();
	pthread_mutex_lock(&lock);
	state = problem ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
	pthread_mutex_unlock(&lock);
}

- (void)waitUntilCompleted
{
	EXPECT(state >= MTLCommandBufferStatusCommitted, "waitUntilCompleted before commit");
	pthread_mutex_lock(&lock);
	while (finished < ticket)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

- (MTLCommandBufferStatus)status
{
	return state;
}

- (NSError *)error
{
	return problem;
}

- (CFTimeInterval)GPUStartTime
{
	return start;
}

- (CFTimeInterval)GPUEndTime
{
	return end;
}

- (void)dealloc
{
	for (int i = 0; i < n; i++) {
		[command[i]->pipeline release];
		for (int j = 0; j < SIM_BUFFERS; j++)
			[command[i]->buf[j].buffer release];
		free(command[i]);
	}
	free(command);
	for (int i = 0; i < n_bytes; i++)
		free(bytes[i]);
	free(bytes);
	while (residents) {
		struct resident *r = residents;

		residents = r->next;
		for (int i = 0; i < r->n; i++)
			[r->buffer[i] release];
		free(r);
	}
	[queue release];
	[problem release];
	[super dealloc];
}

@end

@implementation SimQueue

- (id<MTLCommandBuffer>)commandBuffer
{
	SimCommandBuffer *b = [SimCommandBuffer new];

	b->queue = [self retain];
	return [b autorelease];
}

- (void)addResidencySet:(id<MTLResidencySet>)s
{
	EXPECT(!residency, "the simulator keeps one residency set per queue");
	residency = [(SimResidency *)s retain];
}

- (void)dealloc
{
	[residency release];
	[super dealloc];
}

@end

/* ------------------------------------------------------------------ the device */

static const char *setting(const char *name, const char *otherwise)
{
	const char *v = getenv(name);

	return v && *v ? v : otherwise;
}

static NSError *compiler_error(const char *log)
{
	static char text[60000];
	FILE *f = fopen(log, "r");
	size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

	text[n] = 0;
	if (f)
		fclose(f);
	return [NSError simError:text];
}

/* Another source in place of the host's: the mutation test. */
static NSError *compile_other(const char *source, const char *cc, const char *mode, char *path, size_t room)
{
	char command[1600];

	snprintf(path, room, "%s.%s.so", source, mode);
	if (access(path, R_OK) == 0)
		return nil;
	snprintf(command, sizeof command, "'%s' -m %s -o '%s' '%s' > '%s.log' 2>&1", cc, mode, path, source, source);
	return system(command) ? [NSError simError:"the other source does not compile"] : nil;
}

/* Compiles a source into the cache; path is where the shared object then is. */
static NSError *compile(const char *source, const char *mode, char *path, size_t room)
{
	const char *folder = setting("METALSIM_CACHE", "build/metalsim/cache"), *cc = setting("METALSIM_CC", "tests/metalsim/front/mslcc");
	char stem[400], text[420], log[420], guard[420], command[1600];
	uint64_t h = 1469598103934665603u;
	NSError *problem = nil;
	FILE *f;
	int fd;

	if (getenv("METALSIM_SOURCE"))
		return compile_other(getenv("METALSIM_SOURCE"), cc, mode, path, room);
	for (const char *p = source; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211u;
	mkdir(folder, 0755);
	snprintf(stem, sizeof stem, "%s/%016lx.%s", folder, (unsigned long)h, mode);
	snprintf(path, room, "%s.so", stem);
	snprintf(text, sizeof text, "%s.metal", stem);
	snprintf(log, sizeof log, "%s.log", stem);
	snprintf(guard, sizeof guard, "%s.lock", stem);
	fd = open(guard, O_CREAT | O_RDWR, 0644);
	flock(fd, LOCK_EX);
	if (access(path, R_OK)) {
		f = fopen(text, "w");
		if (!f)
			return [NSError simError:"the cache of compiled sources is not writable"];
		fputs(source, f);
		fclose(f);
		snprintf(command, sizeof command, "'%s' -m %s -o '%s' '%s' > '%s' 2>&1", cc, mode, path, text, log);
		if (system(command))
			problem = compiler_error(log);
	}
	close(fd);
	return problem;
}

@interface SimDevice : NSObject <MTLDevice>
@end

@implementation SimDevice

- (NSString *)name
{
	return @"metalsim";
}

- (BOOL)hasUnifiedMemory
{
	return !sim_host.not_unified;
}

- (uint64_t)recommendedMaxWorkingSetSize
{
	return sim_host.working_set ? sim_host.working_set : (uint64_t)48 << 30;
}

- (NSUInteger)maxBufferLength
{
	return MAX_BUFFER;
}

- (NSUInteger)maxThreadgroupMemoryLength
{
	return SIM_TG_BYTES;
}

- (BOOL)supportsFamily:(MTLGPUFamily)f
{
	return f <= MTLGPUFamilyApple9 || f == MTLGPUFamilyMetal3;
}

- (id<MTLCommandQueue>)newCommandQueue
{
	return [SimQueue new];
}

- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)n options:(MTLResourceOptions)o
{
	SimBuffer *b = [SimBuffer new];
	char *m;

	EXPECT(n && n <= MAX_BUFFER, "a buffer of %lu bytes", n);
	b->len = n;
	b->mapped = (n + PAGE - 1) / PAGE * PAGE;
	b->private_memory = (o & 0xf0) == MTLResourceStorageModePrivate;
	if (sim.allocate) {
		b->foreign = YES;
		b->p = sim.allocate(n);
		return b;
	}
	m = mmap(NULL, b->mapped + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m == MAP_FAILED || mprotect(m + PAGE, b->mapped, PROT_READ | PROT_WRITE)) {
		b->mapped = 0;
		[b release];
		return nil;
	}
	b->p = m + PAGE;
	return b;
}

- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)p
				   length:(NSUInteger)n
				  options:(MTLResourceOptions)o
			      deallocator:(void (^)(void *p, NSUInteger n))d
{
	SimBuffer *b;

	EXPECT((uintptr_t)p % PAGE == 0, "bytesNoCopy: address %p is not a multiple of the page size %d", p, PAGE);
	EXPECT(n && n % PAGE == 0 && n <= MAX_BUFFER, "bytesNoCopy: %lu bytes, expected a multiple of the page size", n);
	EXPECT(o == MTLResourceStorageModeShared && !d, "bytesNoCopy: only shared memory without a deallocator is simulated");
	if (sim.allocate)	/* this GPU does not see ordinary memory */
		return nil;
	b = [SimBuffer new];
	b->p = p;
	b->len = n;
	return b;
}

- (id<MTLLibrary>)newLibraryWithSource:(NSString *)s options:(MTLCompileOptions *)o error:(NSError **)error
{
	char path[500], why[600] = "";
	NSError *problem = compile([s UTF8String], setting("METALSIM_MODE", "fast"), path, sizeof path);
	struct sim_lib *lib = problem ? NULL : sim_open(path, why, sizeof why);
	SimLibrary *l;

	(void)o;
	if (!lib) {
		if (error)
			*error = problem ? problem : [NSError simError:why];
		return nil;
	}
	l = [SimLibrary new];
	l->lib = lib;
	return l;
}

- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)f error:(NSError **)error
{
	SimFunction *function = (SimFunction *)f;
	SimPipeline *p;

	EXPECT(f, "a pipeline of a nil function");
	for (int i = 0; sim_constant(function->library->lib, i) >= 0; i++) {
		int set = 0;

		for (int j = 0; j < function->n; j++)
			set |= function->value[j].number == sim_constant(function->library->lib, i);
		if (!set) {
			if (error)
				*error = [NSError simError:"a function constant of the library has no value"];
			return nil;
		}
	}
	p = [SimPipeline new];
	p->function = [function retain];
	return p;
}

- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)d error:(NSError **)error
{
	(void)d;
	(void)error;
	return [SimResidency new];
}

@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void)
{
	const char *skip = getenv("METALSIM_SKIP_BARRIER");

	if (skip)
		sim_host.skip_barrier = atoi(skip);
	return sim_host.no_device ? nil : [SimDevice new];
}
