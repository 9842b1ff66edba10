#!/bin/sh
# Runs the kernels of the CUDA backend on the CPU, through tests/device/emu: slow, but needs no GPU and no nvcc.
#   sh tests/device/emulate.sh PROGRAM [arguments]      for example build/tests/parity/ops_test
set -eu
cd "$(dirname "$0")/../.."
B=build/emu
mkdir -p $B
for f in src/backend/cuda/*.cu; do
	${CXX:-g++} -std=c++20 -O2 -g -fPIC -w -ffp-contract=off -fno-strict-aliasing -Itests/device/emu -Isrc -x c++ -c \
		-o "$B/$(basename "$f").o" "$f"
done
${CXX:-g++} -O2 -g -fPIC -Itests/device/emu -c -o $B/emu.o tests/device/emu/emu.cpp
${CXX:-g++} -shared -o $B/libds4_cuda.so $B/*.o
export DS4_CUDA_LIB="$PWD/$B/libds4_cuda.so" DS4_CUDA_VECTOR_ROWS="${DS4_CUDA_VECTOR_ROWS:-512}"
"$@"
