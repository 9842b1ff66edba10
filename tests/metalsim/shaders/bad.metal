/* Each kernel has one planted bug; sim_test.c expects the report that names it. */
#include <metal_stdlib>
using namespace metal;

kernel void race_no_barrier(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                            threadgroup float *s [[threadgroup(0)]],
                            uint t [[thread_position_in_threadgroup]], uint nt [[threads_per_threadgroup]])
{
	s[t] = x[t];
	y[t] = s[(t + 1) % nt];
}

kernel void race_wrong_flag(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                            threadgroup float *s [[threadgroup(0)]],
                            uint t [[thread_position_in_threadgroup]], uint nt [[threads_per_threadgroup]])
{
	s[t] = x[t];
	threadgroup_barrier(mem_flags::mem_none);
	y[t] = s[(t + 1) % nt];
}

kernel void race_reuse(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                       threadgroup float *s [[threadgroup(0)]], uint t [[thread_position_in_threadgroup]],
                       uint nt [[threads_per_threadgroup]])
{
	float a = 0;
	for (int i = 0; i < 2; i++) {
		s[t] = x[t] + i;
		threadgroup_barrier(mem_flags::mem_threadgroup);
		a += s[(t + 40) % nt];
	}
	y[t] = a;
}

kernel void oob_device(device const float *x [[buffer(0)]], device float *y [[buffer(1)]],
                       uint i [[thread_position_in_grid]])
{
	y[i] = x[i + 1];
}

kernel void oob_tg(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]],
                   uint t [[thread_position_in_threadgroup]])
{
	s[t + 1] = t;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	y[t] = s[t + 1];
}

kernel void uninit_tg(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]],
                      uint t [[thread_position_in_threadgroup]])
{
	if (t > 0)
		s[t] = t;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	y[t] = s[t];
}

kernel void uninit_private(device float *y [[buffer(0)]], constant uint &n [[buffer(1)]],
                           uint t [[thread_position_in_threadgroup]])
{
	float a[4];
	for (uint i = 0; i < n; i++)
		a[i] = i;
	y[t] = a[t & 3];
}

kernel void divergent_barrier(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]],
                              uint t [[thread_position_in_threadgroup]])
{
	if (t < 32) {
		s[t] = t;
		threadgroup_barrier(mem_flags::mem_threadgroup);
	} else {
		threadgroup_barrier(mem_flags::mem_threadgroup);
		s[t] = 2;
	}
	y[t] = s[t];
}

kernel void early_return(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]],
                         uint t [[thread_position_in_threadgroup]], uint nt [[threads_per_threadgroup]])
{
	if (t >= 60)
		return;
	s[t] = t;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	y[t] = s[t];
}

kernel void divergent_simd(device float *y [[buffer(0)]], uint t [[thread_position_in_threadgroup]])
{
	float v = t;
	if (t < 10)
		v = simd_sum(v);
	threadgroup_barrier(mem_flags::mem_none);
	y[t] = v;
}

kernel void shuffle_inactive(device float *y [[buffer(0)]], uint t [[thread_position_in_threadgroup]])
{
	float v = t;
	if (t < 10)
		v = simd_shuffle_xor(v, 16);
	y[t] = v;
}

kernel void group_race(device float *y [[buffer(0)]], uint g [[threadgroup_position_in_grid]])
{
	y[0] = g;
}

kernel void group_order(device float *y [[buffer(0)]], uint g [[threadgroup_position_in_grid]])
{
	y[g + 1] = y[g] + 1;
}

kernel void device_no_fence(device float *y [[buffer(0)]], uint t [[thread_position_in_threadgroup]],
                            uint nt [[threads_per_threadgroup]])
{
	y[t] = t;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	float v = y[(t + 1) % nt];
	threadgroup_barrier(mem_flags::mem_device);
	y[t] = v;
}

kernel void misaligned(device const uchar *x [[buffer(0)]], device float *y [[buffer(1)]],
                       uint t [[thread_position_in_threadgroup]])
{
	device const float *p = (device const float *)(x + 1);
	y[t] = p[t];
}

kernel void inc(device float *y [[buffer(0)]], uint i [[thread_position_in_grid]])
{
	y[i] += 1;
}
kernel void endless(device float *y [[buffer(0)]], device atomic_uint *flag [[buffer(1)]],
                    uint t [[thread_position_in_threadgroup]])
{
	while (atomic_load_explicit(flag, memory_order_relaxed) == 0) /* nobody sets it */
		;
	y[t] = t;
}

kernel void lock_step(device float *y [[buffer(0)]], uint t [[thread_position_in_threadgroup]])
{
	threadgroup float s[32];

	s[t] = t;
	y[t] = simd_sum(y[t]) + s[31 - t];
}

kernel void undefined_lane(device float *y [[buffer(0)]], uint t [[thread_position_in_threadgroup]])
{
	y[t] = simd_shuffle_down(float(t), 4);
}
