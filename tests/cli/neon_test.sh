# The inner loops of the cpu backend for 64-bit ARM: cross-compiled, warnings as errors, and run under qemu's user emulation
# on an emulated processor with both extensions, and on one with the dot product alone.
. tests/cli/lib.sh

CROSS=${CROSS:-aarch64-linux-gnu-gcc}
QEMU=$(command -v qemu-aarch64 || command -v qemu-aarch64-static)
if ! command -v "$CROSS" >/dev/null; then
	echo "ok neon_products_have_the_bits_of_plain_c # SKIP $CROSS is not installed (package gcc-aarch64-linux-gnu)"
	exit 0
fi
if [ -z "$QEMU" ]; then
	echo "ok neon_products_have_the_bits_of_plain_c # SKIP qemu-aarch64 is not installed (package qemu-user)"
	exit 0
fi

flags="-std=gnu11 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wshadow -Werror -Isrc -Itests"
program=$tmp/neon_dot
compile() {
	for f in src/backend/cpu/dot.c src/backend/cpu/dot_scalar.c src/backend/cpu/dot_dotprod.c src/backend/cpu/dot_i8mm.c \
		src/quant/quant.c src/quant/dtype.c; do
		case $f in
		*_dotprod.c) isa=-march=armv8.2-a+dotprod ;;
		*_i8mm.c) isa=-march=armv8.2-a+dotprod+i8mm ;;
		*) isa= ;;
		esac
		$CROSS $flags $isa -c -o "$tmp/$(basename $f .c).o" $f || return 1
	done
	# The test's own file and the small stand-in for cmocka: their warnings are judged elsewhere.
	for f in tests/unit/backend/cpu_dot_test.c tests/device/stub/stub.c; do
		$CROSS -std=gnu11 -O1 -w -Isrc -Itests -Itests/device/stub -c -o "$tmp/$(basename $f .c).o" $f || return 1
	done
	$CROSS -static -o "$program" "$tmp"/*.o -lm
}

if compile 2>"$tmp/errors"; then
	pass the_arm_files_compile_without_warnings
else
	fail the_arm_files_compile_without_warnings "$(tail -n 20 "$tmp/errors")"
	finish
fi
for cpu in max cortex-a76; do
	name=neon_products_have_the_bits_of_plain_c_on_$(echo $cpu | tr - _)
	if timeout 200 "$QEMU" -cpu $cpu "$program" >"$tmp/log" 2>&1; then
		pass "$name"
	else
		fail "$name" "$(tail -n 30 "$tmp/log")"
	fi
done
finish
