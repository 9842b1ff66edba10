/* host_test.m - the fake Metal's rules: right use gives right results, each kind of misuse is named, errors arrive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#import <Metal/Metal.h>

#include "metalsim/host/sim_host.h"
#include "metalsim/rt/sim.h"

enum { N = 256 };

static const char source[] =
	"#include <metal_stdlib>\nusing namespace metal;\n"
	"struct args { uint n; float by; };\n"
	"kernel void add(constant args &a [[buffer(0)]], device float *x [[buffer(1)]],"
	"	uint i [[thread_position_in_grid]]) { if (i < a.n) x[i] += a.by; }\n"
	"kernel void spin(device atomic_uint *x [[buffer(1)]]) {"
	"	while (atomic_load_explicit(x, memory_order_relaxed) == 0) ; }\n";

static id<MTLDevice> device;
static id<MTLCommandQueue> queue;
static id<MTLComputePipelineState> add, spin;
static id<MTLBuffer> x;

static id<MTLComputePipelineState> pipeline(id<MTLLibrary> l, NSString *name)
{
	NSError *e = nil;
	id<MTLFunction> f = [l newFunctionWithName:name];
	id<MTLComputePipelineState> p = [device newComputePipelineStateWithFunction:f error:&e];

	[f release];
	assert_non_null(p);
	return p;
}

static int set_up(void **state)
{
	NSError *e = nil;

	(void)state;
	setenv("METALSIM_MODE", "check", 1);
	@autoreleasepool {
		id<MTLLibrary> l;

		device = MTLCreateSystemDefaultDevice();
		l = [device newLibraryWithSource:[NSString stringWithUTF8String:source] options:nil error:&e];
		if (!l)
			fail_msg("%s", [[e localizedDescription] UTF8String]);
		add = pipeline(l, @"add");
		spin = pipeline(l, @"spin");
		[l release];
		queue = [device newCommandQueue];
		x = [device newBufferWithLength:N * 4 options:MTLResourceStorageModeShared];
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	[x release];
	[queue release];
	[add release];
	[spin release];
	[device release];
	if (sim_objects) {
		sim_list_objects();
		return 1;
	}
	return 0;
}

struct args {
	uint32_t n;
	float by;
};

static void dispatch(id<MTLComputeCommandEncoder> e, float by)
{
	struct args a = {N, by};

	[e setComputePipelineState:add];
	[e setBytes:&a length:sizeof a atIndex:0];
	[e setBuffer:x offset:0 atIndex:1];
	[e dispatchThreadgroups:MTLSizeMake(N / 64, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
}

static void clear(void)
{
	memset([x contents], 0, N * 4);
	sim_host.misuse = 0;
}

static void results_are_there_after_waiting_and_not_before(void **state)
{
	(void)state;
	clear();
	sim_host.delay = 0.05;
	@autoreleasepool {
		id<MTLCommandBuffer> cb = [queue commandBuffer];
		id<MTLComputeCommandEncoder> e = [cb computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];

		dispatch(e, 1);
		[e memoryBarrierWithScope:MTLBarrierScopeBuffers];
		dispatch(e, 2);
		[e endEncoding];
		[cb commit];
		assert_true(((float *)[x contents])[N - 1] == 0);
		[cb waitUntilCompleted];
		assert_int_equal([cb status], MTLCommandBufferStatusCompleted);
		assert_null([cb error]);
	}
	sim_host.delay = 0;
	assert_true(((float *)[x contents])[N - 1] == 3);
	assert_int_equal(sim.reports, 0);
}

static void a_missing_barrier_is_reported(void **state)
{
	(void)state;
	clear();
	sim.quiet = 1;
	sim_host.skip_barrier = 1;
	@autoreleasepool {
		id<MTLCommandBuffer> cb = [queue commandBuffer];
		id<MTLComputeCommandEncoder> e = [cb computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];

		dispatch(e, 1);
		[e memoryBarrierWithScope:MTLBarrierScopeBuffers];
		dispatch(e, 2);
		[e endEncoding];
		[cb commit];
		[cb waitUntilCompleted];
	}
	sim_host.skip_barrier = 0;
	assert_true(sim.reports > 0);
	assert_non_null(strstr(sim.last, "missing memoryBarrier"));
}

static void expect_misuse(const char *what)
{
	if (sim_host.misuse != 1 || !strstr(sim_host.last_misuse, what))
		fail_msg("%d misuses, the last is \"%s\", expected one with \"%s\"", sim_host.misuse, sim_host.last_misuse,
			 what);
	sim_host.misuse = 0;
}

static void each_misuse_is_named(void **state)
{
	struct args a = {N, 1};

	(void)state;
	clear();
	sim_host.tolerant = 1;
	@autoreleasepool {
		id<MTLCommandBuffer> cb = [queue commandBuffer];
		id<MTLComputeCommandEncoder> e = [cb computeCommandEncoder];

		[e setComputePipelineState:add];
		[e setBytes:&a length:sizeof a atIndex:0];
		[e dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
		expect_misuse("nothing is bound at buffer index 1");
		[e setBuffer:x offset:2 atIndex:1];
		[e dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
		expect_misuse("offset 2 of buffer 1 is not aligned to 4");
		[e setBuffer:x offset:N * 4 atIndex:1];
		expect_misuse("is not below its length");
		[e setBuffer:x offset:0 atIndex:1];
		[e setBytes:&a length:4 atIndex:0];
		[e dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
		assert_int_equal(sim_host.misuse, 2);	/* too short, and not the struct's size */
		sim_host.misuse = 0;
		[e setBytes:&a length:sizeof a atIndex:0];
		[e dispatchThreadgroups:MTLSizeMake(0, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
		expect_misuse("empty grid");
		[e dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 32, 1)];
		expect_misuse("threads per threadgroup");
		[e setThreadgroupMemoryLength:20 atIndex:0];
		expect_misuse("multiple of 16");
		[cb commit];
		expect_misuse("commit with an encoder that has not ended");
		[e endEncoding];
		[e endEncoding];
		expect_misuse("an encoder that has ended");
		[cb waitUntilCompleted];
	}
	sim_host.tolerant = 0;
}

static void a_failing_command_buffer_says_so_and_the_next_one_works(void **state)
{
	(void)state;
	clear();
	for (int round = 0; round < 3; round++) {
		@autoreleasepool {
			id<MTLCommandBuffer> cb = [queue commandBuffer];
			id<MTLComputeCommandEncoder> e = [cb computeCommandEncoder];

			sim_host.fail_after = round == 0;
			sim.seconds = round == 1 ? 0.2 : 60;
			if (round == 1) {
				[e setComputePipelineState:spin];
				[e setBuffer:x offset:0 atIndex:1];
				[e dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
			} else {
				dispatch(e, 1);
			}
			[e endEncoding];
			[cb commit];
			[cb waitUntilCompleted];
			if (round == 2) {
				assert_int_equal([cb status], MTLCommandBufferStatusCompleted);
				break;
			}
			assert_int_equal([cb status], MTLCommandBufferStatusError);
			assert_non_null(strstr([[[cb error] localizedDescription] UTF8String], round ? "Timeout" : "Internal Error"));
		}
	}
	assert_true(((float *)[x contents])[0] == 1);
}

static void a_source_that_does_not_compile_gives_the_compilers_text(void **state)
{
	NSError *e = nil;

	(void)state;
	@autoreleasepool {
		id<MTLLibrary> l = [device newLibraryWithSource:@"#include <metal_stdlib>\nkernel void f(device float *x [[buffer(0)]]) { x[0] = y; }"
							options:nil
							  error:&e];

		assert_null(l);
		assert_non_null(strstr([[e localizedDescription] UTF8String], "undeclared identifier 'y'"));
	}
}

static void a_function_constant_without_a_value_fails_the_pipeline(void **state)
{
	(void)state;
	@autoreleasepool {
		NSError *e = nil;
		id<MTLLibrary> l = [device newLibraryWithSource:@"#include <metal_stdlib>\nconstant uint n [[function_constant(3)]];\n"
								"kernel void f(device uint *x [[buffer(0)]]) { x[0] = n; }"
							options:nil
							  error:&e];
		MTLFunctionConstantValues *v = [MTLFunctionConstantValues new];
		id<MTLFunction> without = [l newFunctionWithName:@"f"], with;
		id<MTLComputePipelineState> p;
		uint32_t seven = 7;

		assert_null([device newComputePipelineStateWithFunction:without error:&e]);
		[v setConstantValue:&seven type:MTLDataTypeUInt atIndex:3];
		with = [l newFunctionWithName:@"f" constantValues:v error:&e];
		p = [device newComputePipelineStateWithFunction:with error:&e];
		assert_non_null(p);
		[p release];
		[with release];
		[without release];
		[v release];
		[l release];
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(results_are_there_after_waiting_and_not_before),
		cmocka_unit_test(a_missing_barrier_is_reported),
		cmocka_unit_test(each_misuse_is_named),
		cmocka_unit_test(a_failing_command_buffer_says_so_and_the_next_one_works),
		cmocka_unit_test(a_source_that_does_not_compile_gives_the_compilers_text),
		cmocka_unit_test(a_function_constant_without_a_value_fails_the_pipeline),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
