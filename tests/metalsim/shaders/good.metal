/* Correct kernels, one for each thing the simulator has to get right; sim_test.c compares them with plain C. */
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

constant bool with_weight [[function_constant(0)]];
constant float scale [[function_constant(1)]];

struct norm_args {
	uint n;
	float eps;
	ulong stride;
};

/* Templates, function constants, SIMD sums, threadgroup memory. */
template <typename T4>
kernel void rms_norm(constant norm_args &a [[buffer(0)]], device const T4 *x [[buffer(1)]], device const T4 *w [[buffer(2)]],
		     device T4 *y [[buffer(3)]], threadgroup float *part [[threadgroup(0)]],
		     uint row [[threadgroup_position_in_grid]], uint t [[thread_position_in_threadgroup]],
		     uint nt [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
		     uint sg [[simdgroup_index_in_threadgroup]], uint nsg [[simdgroups_per_threadgroup]])
{
	device const T4 *xr = x + row * a.stride;
	float s = 0;

	for (uint i = t; i < a.n / 4; i += nt) {
		const float4 v = float4(xr[i]);

		s += dot(v, v);
	}
	s = simd_sum(s);
	if (lane == 0)
		part[sg] = s;
	threadgroup_barrier(mem_flags::mem_threadgroup);
	s = simd_sum(lane < nsg ? part[lane] : 0.0f);
	const float r = rsqrt(s / float(a.n) + a.eps) * scale;
	for (uint i = t; i < a.n / 4; i += nt) {
		float4 v = float4(xr[i]) * r;

		if (with_weight)
			v *= float4(w[i]);
		y[row * a.stride + i] = T4(v);
	}
}
template [[host_name("rms_norm_f32")]] kernel decltype(rms_norm<float4>) rms_norm<float4>;
template [[host_name("rms_norm_f16")]] kernel decltype(rms_norm<half4>) rms_norm<half4>;

struct mm_args {
	uint m, n, k;
};

/* C[m, n] = A[m, k] B[n, k]^T: 16x16 tiles of 8x8 matrices, edges through threadgroup memory. */
kernel void product(constant mm_args &a [[buffer(0)]], device const half *A [[buffer(1)]], device const float *B [[buffer(2)]],
		    device float *C [[buffer(3)]], uint2 tg [[threadgroup_position_in_grid]],
		    ushort t [[thread_index_in_threadgroup]], ushort sg [[simdgroup_index_in_threadgroup]])
{
	threadgroup half sa[16 * 8];
	threadgroup float sb[16 * 8], sc[16 * 16];
	const uint m0 = tg.y * 16, n0 = tg.x * 16, r = t / 8, c = t % 8;
	simdgroup_float8x8 acc = make_filled_simdgroup_matrix<float, 8>(0.0f);

	for (uint k0 = 0; k0 < a.k; k0 += 8) {
		sa[t] = m0 + r < a.m ? A[(m0 + r) * a.k + k0 + c] : half(0);
		sb[t] = n0 + r < a.n ? B[(n0 + r) * a.k + k0 + c] : 0.0f;
		threadgroup_barrier(mem_flags::mem_threadgroup);
		simdgroup_half8x8 ma;
		simdgroup_float8x8 mb;
		simdgroup_load(ma, sa + (sg / 2) * 64, 8);
		simdgroup_load(mb, sb + (sg % 2) * 64, 8, ulong2(0, 0), true);
		simdgroup_multiply_accumulate(acc, ma, mb, acc);
		threadgroup_barrier(mem_flags::mem_threadgroup);
	}
	simdgroup_store(acc, sc + (sg / 2) * 128 + (sg % 2) * 8, 16);
	threadgroup_barrier(mem_flags::mem_threadgroup);
	for (uint i = t; i < 256; i += 128)
		if (m0 + i / 16 < a.m && n0 + i % 16 < a.n)
			C[(m0 + i / 16) * a.n + n0 + i % 16] = sc[i];
}

/* Bitonic sort of indices by value, descending: many barriers, 1,024 threads. */
kernel void argsort(constant uint &n [[buffer(0)]], device const float *x [[buffer(1)]], device int *index [[buffer(2)]],
		    threadgroup int *s [[threadgroup(0)]], uint t [[thread_position_in_threadgroup]],
		    uint nt [[threads_per_threadgroup]])
{
	s[t] = int(t);
	threadgroup_barrier(mem_flags::mem_threadgroup);
	for (uint k = 2; k <= nt; k *= 2)
		for (uint j = k / 2; j > 0; j /= 2) {
			const uint u = t ^ j;

			if (u > t) {
				const int a = s[t], b = s[u];
				const bool greater = uint(a) < n && (uint(b) >= n || x[a] > x[b]);

				if ((t & k) == 0 ? !greater && a != b : greater) {
					s[t] = b;
					s[u] = a;
				}
			}
			threadgroup_barrier(mem_flags::mem_threadgroup);
		}
	if (t < n)
		index[t] = s[t];
}

kernel void histogram(device const uchar *x [[buffer(0)]], device atomic_uint *h [[buffer(1)]], constant uint &n [[buffer(2)]],
		      uint i [[thread_position_in_grid]])
{
	if (i < n)
		atomic_fetch_add_explicit(&h[x[i]], 1u, memory_order_relaxed);
}

kernel void compact(device const int *x [[buffer(0)]], device int *y [[buffer(1)]], device int *count [[buffer(2)]],
		    ushort lane [[thread_index_in_simdgroup]])
{
	const int v = x[lane], keep = v > 0;
	const int at = simd_prefix_exclusive_sum(keep);

	if (keep)
		y[at] = v;
	if (lane == 31)
		*count = at + keep;
}

struct far_args {
	device float *x;
};

/* Memory by address: a pointer inside a buffer. */
kernel void through_pointer(device const far_args &a [[buffer(0)]], uint i [[thread_position_in_grid]])
{
	a.x[i] = a.x[i] + 1.0f;
}
