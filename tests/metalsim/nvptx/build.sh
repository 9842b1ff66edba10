#!/bin/sh
# build.sh - builds what nvptx/run.sh runs on a machine with an NVIDIA GPU, into build/metalsim/nvptx: three test programs that need
# only libc there, and the shaders as a cubin.  Needs what the simulator needs, ptxas (CUDA) and libobjc.a.
set -eu
cd "$(dirname "$0")/../../.." || exit 1
B=build/metalsim/nvptx
: "${CC:=gcc}" "${MSL_CLANG:=clang}" "${CUDA_HOME:=/usr/local/cuda}" "${ARCH:=90}"
mkdir -p $B/cache
make build/libds4.a build/metalsim/all.metal build/metalsim/metal_source.o build/metalsim/model_test >/dev/null

# The name under which the fake Metal looks for the compiled source: FNV-1a of its text.
hash=$(python3 -c "
h = 1469598103934665603
for b in open('build/metalsim/all.metal', 'rb').read():
    h = (h ^ b) * 1099511628211 & 0xffffffffffffffff
print('%016x' % h)")
if [ ! -f $B/cache/"$hash".fast.so.cubin ]; then
	rm -f $B/cache/*
	tests/metalsim/front/mslcc -m fast -o $B/cache/"$hash".fast.so build/metalsim/all.metal
	tests/metalsim/front/mslcc -m nvptx -o $B/all.ptx build/metalsim/all.metal
	"$CUDA_HOME/bin/ptxas" -arch=sm_"$ARCH" -o $B/cache/"$hash".fast.so.cubin $B/all.ptx
fi

flags="-std=gnu11 -O2 -g -ffp-contract=off -fno-math-errno -fopenmp-simd -pthread -Isrc -Itests -Itests/device/stub"
objects=
for f in tests/support/kit.c tests/support/model_kit.c tests/support/golden.c tests/support/tiny_model.c tests/device/stub/stub.c \
	tests/metalsim/nvptx/gpu.c tests/metalsim/rt/*.c; do
	o=$B/$(basename "$f" .c).o
	$CC $flags -c -o "$o" "$f"
	objects="$objects $o"
done
for f in tests/device/metal_check.c tests/parity/ops_test.c tests/parity/history_test.c; do
	name=$(basename "$f" .c)
	$CC $flags -c -o $B/$name.o "$f"
	$CC -rdynamic -o $B/$name $B/$name.o build/metalsim/src/backend/metal/*.o build/metalsim/metal_source.o \
		build/metalsim/host/*.o $objects build/libds4.a -Wl,--as-needed -l:libobjc.a -lgcc_s -lm -lpthread -ldl
done
ls -l $B/metal_check $B/ops_test $B/history_test $B/cache
