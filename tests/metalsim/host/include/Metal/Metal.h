/* Metal.h - the compute part of Metal that a host program here may use, for Linux.
 *
 * Only selectors and constants that Apple's Metal has.  metal.m validates their use as Metal's API validation does, and
 * runs the commands on the simulator. */
#ifndef DS4_METALSIM_METAL_H
#define DS4_METALSIM_METAL_H

#import <Foundation/Foundation.h>

typedef struct {
	NSUInteger width, height, depth;
} MTLSize;

static inline MTLSize MTLSizeMake(NSUInteger w, NSUInteger h, NSUInteger d)
{
	MTLSize s = {w, h, d};

	return s;
}

typedef NSUInteger MTLResourceOptions;
enum {
	MTLResourceStorageModeShared = 0,
	MTLResourceStorageModePrivate = 2 << 4,
	MTLResourceHazardTrackingModeUntracked = 1 << 8
};
typedef NSUInteger MTLDataType;
enum {
	MTLDataTypeFloat = 3,
	MTLDataTypeInt = 29,
	MTLDataTypeUInt = 33,
	MTLDataTypeBool = 53
};
typedef NSUInteger MTLCommandBufferStatus;
enum {
	MTLCommandBufferStatusNotEnqueued,
	MTLCommandBufferStatusEnqueued,
	MTLCommandBufferStatusCommitted,
	MTLCommandBufferStatusScheduled,
	MTLCommandBufferStatusCompleted,
	MTLCommandBufferStatusError
};
typedef NSUInteger MTLDispatchType;
enum { MTLDispatchTypeSerial, MTLDispatchTypeConcurrent };
typedef NSUInteger MTLBarrierScope;
enum { MTLBarrierScopeBuffers = 1 };
typedef NSUInteger MTLResourceUsage;
enum { MTLResourceUsageRead = 1, MTLResourceUsageWrite = 2 };
typedef NSInteger MTLGPUFamily;
enum {
	MTLGPUFamilyApple7 = 1007,
	MTLGPUFamilyApple8 = 1008,
	MTLGPUFamilyApple9 = 1009,
	MTLGPUFamilyMetal3 = 5001
};
typedef NSUInteger MTLLanguageVersion;
enum { MTLLanguageVersion3_0 = 3 << 16, MTLLanguageVersion3_1 = (3 << 16) + 1 };
typedef NSInteger MTLMathMode;
enum { MTLMathModeSafe, MTLMathModeRelaxed, MTLMathModeFast };

@protocol MTLCommandBuffer, MTLComputeCommandEncoder, MTLResidencySet;

@protocol MTLAllocation <NSObject>
@end

@protocol MTLResource <MTLAllocation>
@end

@protocol MTLBuffer <MTLResource>
@property(readonly) NSUInteger length;
@property(readonly) uint64_t gpuAddress;
- (void *)contents;
@end

@interface MTLCompileOptions : NSObject {
	MTLLanguageVersion languageVersion;
	BOOL fastMathEnabled;
	MTLMathMode mathMode;
}
@property MTLLanguageVersion languageVersion;
@property BOOL fastMathEnabled;
@property MTLMathMode mathMode;
@end

struct sim_constant_value {
	int number, size;
	char v[8];
};

@interface MTLFunctionConstantValues : NSObject {
@public
	struct sim_constant_value value[32];
	int n;
}
- (void)setConstantValue:(const void *)v type:(MTLDataType)t atIndex:(NSUInteger)i;
@end

@interface MTLResidencySetDescriptor : NSObject {
	NSUInteger initialCapacity;
}
@property NSUInteger initialCapacity;
@end

@protocol MTLFunction <NSObject>
@end

@protocol MTLLibrary <NSObject>
- (id<MTLFunction>)newFunctionWithName:(NSString *)name;
- (id<MTLFunction>)newFunctionWithName:(NSString *)name
			constantValues:(MTLFunctionConstantValues *)values
				 error:(NSError **)error;
@end

@protocol MTLComputePipelineState <NSObject>
@property(readonly) NSUInteger maxTotalThreadsPerThreadgroup, threadExecutionWidth;
@end

@protocol MTLResidencySet <NSObject>
- (void)addAllocation:(id<MTLAllocation>)a;
- (void)removeAllocation:(id<MTLAllocation>)a;
- (void)commit;
- (void)requestResidency;
@end

@protocol MTLCommandEncoder <NSObject>
- (void)endEncoding;
@end

@protocol MTLComputeCommandEncoder <MTLCommandEncoder>
- (void)setComputePipelineState:(id<MTLComputePipelineState>)p;
- (void)setBuffer:(id<MTLBuffer>)b offset:(NSUInteger)o atIndex:(NSUInteger)i;
- (void)setBytes:(const void *)p length:(NSUInteger)n atIndex:(NSUInteger)i;
- (void)setThreadgroupMemoryLength:(NSUInteger)n atIndex:(NSUInteger)i;
- (void)dispatchThreadgroups:(MTLSize)g threadsPerThreadgroup:(MTLSize)t;
- (void)memoryBarrierWithScope:(MTLBarrierScope)s;
- (void)useResource:(id<MTLResource>)r usage:(MTLResourceUsage)u;
@end

@protocol MTLCommandBuffer <NSObject>
- (id<MTLComputeCommandEncoder>)computeCommandEncoder;
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)t;
- (void)commit;
- (void)waitUntilCompleted;
@property(readonly) MTLCommandBufferStatus status;
@property(readonly) NSError *error;
@property(readonly) CFTimeInterval GPUStartTime, GPUEndTime;
@end

@protocol MTLCommandQueue <NSObject>
- (id<MTLCommandBuffer>)commandBuffer;
- (void)addResidencySet:(id<MTLResidencySet>)s;
@end

@protocol MTLDevice <NSObject>
@property(readonly) NSString *name;
@property(readonly) BOOL hasUnifiedMemory;
@property(readonly) uint64_t recommendedMaxWorkingSetSize;
@property(readonly) NSUInteger maxBufferLength, maxThreadgroupMemoryLength;
- (id<MTLCommandQueue>)newCommandQueue;
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)n options:(MTLResourceOptions)o;
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)p
				   length:(NSUInteger)n
				  options:(MTLResourceOptions)o
			      deallocator:(void (^)(void *p, NSUInteger n))d;
- (id<MTLLibrary>)newLibraryWithSource:(NSString *)s options:(MTLCompileOptions *)o error:(NSError **)error;
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)f error:(NSError **)error;
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor *)d error:(NSError **)error;
- (BOOL)supportsFamily:(MTLGPUFamily)f;
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void);

#endif
