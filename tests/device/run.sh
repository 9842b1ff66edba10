#!/bin/sh
# Builds the CUDA backend and its tests on a machine with nvcc, gcc and a GPU, and runs them.
#   sh tests/device/run.sh [parity|ops|nano|sanitize|speed|full|all]...     default: parity nano speed
# Needs neither cmocka nor jansson nor libedit nor a network.  Details go to $OUT (default build/device).
#   parity    ops, and the golden invariants in the vector class (slow)
#   ops       every operation against ref, in the vector class and in the matrix class
#   nano      golden logits of ds4-nano, bits of graphs and step sizes
#   sanitize  memcheck and racecheck on the tiny model (slow)
#   speed     full width, layers share bytes (8.4 GB file in /dev/shm)
#   full      the full 86.7 GB file in /dev/shm: H200 with 128 GB of memory
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${OUT:=build/device}" "${CC:=gcc}" "${ARCH:=90a}" "${SYNTH:=/dev/shm}"
export DS4_CUDA_LIB="$PWD/build/device-obj/libds4_cuda.so"
B=build/device-obj
mkdir -p "$OUT" $B
CUDA=${CUDA_HOME:-/usr/local/cuda}
NVCC=$(command -v nvcc || echo "$CUDA/bin/nvcc")
status=0

say() { printf '%s\n' "== $*"; }
seconds() { date +%s.%N; }
since() { awk "BEGIN { printf \"%.1f\", $(seconds) - $1 }"; }

# NAME command...: runs it, keeps the log, shows its end (lines: KEEP).
step() {
	name=$1
	shift
	t0=$(seconds)
	if "$@" > "$OUT/$name.log" 2>&1; then
		r=ok
	else
		r="FAILED ($?)"
		status=1
	fi
	say "$name: $r, $(since "$t0") s"
	if [ "$r" = ok ]; then tail -n "${KEEP:-3}" "$OUT/$name.log"; else tail -n 25 "$OUT/$name.log"; fi
}

build() {
	flags="-std=gnu11 -O3 -g -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd -pthread"
	flags="$flags -Isrc -Itests -Itests/device/stub"
	fail=0
	wgmma=
	[ "$ARCH" = 90a ] && wgmma=-DDS4_CUDA_WGMMA
	for f in src/backend/cuda/*.cu; do
		o=$B/$(basename "$f" .cu).cu.o
		[ "$o" -nt "$f" ] && [ -z "$(find src/backend -name '*.cuh' -newer "$o")" ] && continue
		"$NVCC" -std=c++20 -O3 -gencode="arch=compute_$ARCH,code=sm_$ARCH" $wgmma -lineinfo -Isrc -Xcompiler -fPIC -c -o "$o" "$f" &
	done
	for f in src/base/*.c src/quant/*.c src/gguf/*.c src/backend/*.c src/backend/cpu/*.c src/backend/ref/*.c \
		src/backend/cuda/*.c src/backend/metal/*.c src/model/*.c tests/support/kit.c tests/support/model_kit.c tests/support/golden.c tests/support/tiny_model.c \
		tests/device/stub/stub.c tests/device/*.c \
		tests/parity/*.c tests/golden/invariants_test.c; do
		case $f in
		*json*|src/base/hash.c|*_neon.c|*_dotprod.c|*_i8mm.c) continue ;;
		*_avx2.c) isa="-mavx2 -mfma -mf16c" ;;
		*_avx512.c) isa="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mgfni -mf16c -mfma" ;;
		*_amx.c) isa="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mgfni -mf16c -mfma -mamx-tile -mamx-int8 -mamx-bf16" ;;
		*) isa= ;;
		esac
		o=$B/$(echo "$f" | tr / _).o
		[ "$o" -nt "$f" ] && [ "$o" -nt src/backend/backend.h ] && [ "$o" -nt src/model/kv.h ] && continue
		echo "$CC $flags $isa -c -o $o $f"
	done | xargs -P "$(nproc)" -I{} sh -c '{} || echo "FAILED: {}"'
	wait
	for f in src/backend/cuda/*.cu; do [ -f "$B/$(basename "$f" .cu).cu.o" ] || fail=1; done
	[ $fail = 0 ] || return 1
	"$NVCC" -shared -cudart static -gencode="arch=compute_$ARCH,code=sm_$ARCH" -o $B/libds4_cuda.so $B/*.cu.o || return 1
	rm -f $B/lib.a
	ar rcs $B/lib.a $B/src_*.o $B/tests_support_*.o $B/tests_device_stub_stub.c.o || return 1
	for p in tests_parity_ops_test tests_parity_history_test tests_golden_invariants_test tests_device_cuda_check \
		tests_device_cuda_bench; do
		$CC -pthread -o "$B/$p" "$B/$p.c.o" $B/lib.a -lm -ldl || return 1
	done
}

ops() {
	KEEP=14 step parity-ops env DS4_CUDA_VECTOR_ROWS=512 timeout 150 $B/tests_parity_ops_test
	KEEP=4 step parity-history env DS4_CUDA_VECTOR_ROWS=512 timeout 150 $B/tests_parity_history_test
	KEEP=4 step history-matrix env DS4_CUDA_VECTOR_ROWS=0 timeout 100 $B/tests_parity_history_test
	KEEP=40 step parity-matrix timeout 120 $B/tests_device_cuda_check ops
}

parity() {
	ops
	KEEP=5 step invariants env DS4_CUDA_VECTOR_ROWS=512 timeout 120 $B/tests_golden_invariants_test
}

synth() { # FILE options...
	file=$1
	shift
	[ -s "$file" ] && return 0
	gcc -O3 -march=native -ffp-contract=off -pthread -o $B/make_synth tools/synth/make_synth_gguf.c -lm &&
		python3 tools/synth/tok_from_gguf.py tests/data/text/tokenizer_only.gguf $B/tok.bin &&
		$B/make_synth -o "$file" --tok $B/tok.bin --seed 1 "$@"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null
[ $# -gt 0 ] || set -- parity nano speed
KEEP=1 step build build
[ $status = 0 ] || exit 1
for what; do
	case $what in
	parity) parity ;;
	ops) ops ;;
	nano) KEEP=45 step nano timeout 180 $B/tests_device_cuda_check nano ;;
	sanitize)
		for tool in memcheck racecheck; do
			KEEP=8 step $tool timeout 280 compute-sanitizer --tool $tool --error-exitcode 9 \
				$B/tests_device_cuda_bench models/ds4-nano-q2.gguf 160
		done ;;
	speed)
		KEEP=1 step synth synth "$SYNTH/ds4-synth.gguf"
		KEEP=120 step speed timeout 200 $B/tests_device_cuda_bench "$SYNTH/ds4-synth.gguf" 4096 ;;
	full)
		mount -o remount,size=110G /dev/shm 2>/dev/null
		KEEP=1 step synth-full synth "$SYNTH/ds4-synth-full.gguf" --no-alias
		KEEP=120 step full timeout 250 $B/tests_device_cuda_bench "$SYNTH/ds4-synth-full.gguf" 16384 ;;
	all) parity; KEEP=45 step nano timeout 180 $B/tests_device_cuda_check nano
		KEEP=1 step synth synth "$SYNTH/ds4-synth.gguf"
		KEEP=120 step speed timeout 200 $B/tests_device_cuda_bench "$SYNTH/ds4-synth.gguf" 4096 ;;
	*) say "unknown part: $what"; exit 2 ;;
	esac
done
exit $status
