#!/bin/sh
# front_test.sh - the strict pass refuses what is not Metal, and accepts what is.
#
# Each line below is one kernel source: `bad NAME SOURCE` must be refused, `ok NAME SOURCE` accepted.
set -u
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

lint() {
	printf '#include <metal_stdlib>\nusing namespace metal;\n%s\n' "$1" >"$tmp/x.metal"
	tests/metalsim/front/mslcc -m lint -o "$tmp/x" "$tmp/x.metal" >"$tmp/log" 2>&1
}

bad() {
	if lint "$2"; then
		echo "nook refuses $1: it was accepted"
	elif grep -q 'error' "$tmp/log"; then
		echo "ok refuses $1"
	else
		echo "nook refuses $1: no error was named: $(tail -n 1 "$tmp/log")"
	fi
}

ok() {
	if lint "$2"; then
		echo "ok accepts $1"
	else
		echo "nook accepts $1: $(grep -m 1 error "$tmp/log")"
	fi
}

ok plain 'kernel void k(device float *y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = 1; }'
bad threadgroup-to-device 'kernel void k(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]]) { device float *p = s; p[0] = y[0]; }'
bad device-to-thread 'void f(thread float &x) { x = 1; } kernel void k(device float *y [[buffer(0)]]) { f(y[0]); }'
bad constant-to-device 'kernel void k(constant float *c [[buffer(0)]], device float *y [[buffer(1)]]) { device const float *p = c; y[0] = p[0]; }'
bad write-constant 'kernel void k(constant float *c [[buffer(0)]]) { c[0] = 1; }'
bad write-const-device 'kernel void k(device const float *c [[buffer(0)]]) { c[0] = 1; }'
bad cast-between-spaces 'kernel void k(device float *y [[buffer(0)]]) { threadgroup float *s = (threadgroup float *)y; s[0] = 1; }'
bad pointer-without-space 'float f(const float *p) { return p[0]; } kernel void k(device float *y [[buffer(0)]]) { y[0] = f(y); }'
bad reference-without-space 'float f(const float4 &p) { return p.x; } kernel void k(device float4 *y [[buffer(0)]]) { y[0] = f(y[1]); }'
bad param-without-attribute 'kernel void k(device float *y [[buffer(0)]], uint i) { y[i] = 1; }'
bad vector-implicit-conversion 'kernel void k(device half4 *h [[buffer(0)]], device float4 *y [[buffer(1)]]) { y[0] = h[0]; }'
bad vector-wrong-arity 'kernel void k(device float4 *y [[buffer(0)]]) { y[0] = float4(1, 2, 3); }'
bad double 'kernel void k(device float *y [[buffer(0)]]) { double d = y[0]; y[0] = d; }'
bad double-literal-is-float 'kernel void k(device float *y [[buffer(0)]]) { static_assert(sizeof(1.0) == 8, ""); }'
bad new-delete 'kernel void k(device float *y [[buffer(0)]]) { thread float *p = new float[3]; y[0] = p[0]; }'
bad throw 'kernel void k(device float *y [[buffer(0)]]) { throw 1; }'
bad virtual 'struct S { virtual int f() { return 1; } }; kernel void k(device float *y [[buffer(0)]]) { S s; y[0] = s.f(); }'
bad function-pointer 'float g(float x) { return x; } kernel void k(device float *y [[buffer(0)]]) { float (*p)(float) = g; y[0] = p(1); }'
bad recursion 'int f(int n) { return n ? f(n - 1) : 0; } kernel void k(device float *y [[buffer(0)]]) { y[0] = f(3); }'
bad static-local 'kernel void k(device float *y [[buffer(0)]]) { static int n = 0; y[0] = n++; }'
bad global-variable 'int counter = 0; kernel void k(device float *y [[buffer(0)]]) { y[0] = counter++; }'
bad tg-initialiser 'kernel void k(device float *y [[buffer(0)]]) { threadgroup float s[4] = { 1 }; y[0] = s[0]; }'
bad tg-in-helper 'float f(uint i) { threadgroup float s[4]; s[i] = 1; return s[0]; } kernel void k(device float *y [[buffer(0)]]) { y[0] = f(1); }'
bad atomic-on-plain 'kernel void k(device uint *y [[buffer(0)]]) { atomic_fetch_add_explicit(y, 1u, memory_order_relaxed); }'
bad atomic-seq-cst 'kernel void k(device atomic_uint *y [[buffer(0)]]) { atomic_fetch_add_explicit(y, 1u, memory_order_seq_cst); }'
bad simdgroup-load-type 'kernel void k(device float *y [[buffer(0)]]) { simdgroup_half8x8 m; simdgroup_load(m, y, 8); }'
bad printf-libc 'kernel void k(device float *y [[buffer(0)]]) { y[0] = expf(1.0f); }'
bad goto 'kernel void k(device float *y [[buffer(0)]]) { goto x; x: y[0] = 1; }'
bad duplicate-buffer 'kernel void k(device float *y [[buffer(0)]], device float *z [[buffer(0)]]) { y[0] = z[0]; }'
bad buffer-index-31 'kernel void k(device float *y [[buffer(31)]]) { y[0] = 1; }'
bad kernel-returns 'kernel int k(device float *y [[buffer(0)]]) { y[0] = 1; return 1; }'
bad private-by-value 'kernel void k(float y [[buffer(0)]]) { }'
bad narrowing-position 'kernel void k(device float *y [[buffer(0)]], float i [[thread_position_in_grid]]) { y[0] = i; }'
ok constant-table 'constant float T[4] = { 1, 2, 3, 4 }; kernel void k(device float *y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = T[i & 3]; }'
ok overload-by-space 'float f(device const float *p) { return 1; } float f(threadgroup const float *p) { return 2; } kernel void k(device float *y [[buffer(0)]], threadgroup float *s [[threadgroup(0)]]) { y[0] = f(y) + f(s); }'
ok as_type 'kernel void k(device uint *y [[buffer(0)]]) { y[0] = as_type<uint>(1.0f) + as_type<ushort>(half(1)); }'
bad missing-functions-of-libm 'kernel void k(device float *y [[buffer(0)]]) { y[0] = log1p(y[0]); }'
bad derived-constants 'constant bool a [[function_constant(0)]]; constant bool b = is_function_constant_defined(a); kernel void k(device float *y [[buffer(0)]]) { y[0] = b; }'
bad simd-function-on-long 'kernel void k(device long *y [[buffer(0)]]) { y[0] = simd_sum(y[0]); }'
ok function-constant 'constant uint n [[function_constant(0)]]; kernel void k(device uint *y [[buffer(0)]]) { y[0] = n; }'
