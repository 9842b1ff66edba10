/* make_tiny.c - writes one of the golden tests' small random models to a file, for looking at it or for the numpy
 * reference; prints its name, length and FNV-1a-64 checksum as in tests/data/golden/MODELS.
 *
 * Build: cc -std=gnu11 -O2 -Isrc -Itests -o make_tiny tools/synth/make_tiny.c tests/support/tiny_model.c */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "support/tiny_model.h"

int main(int argc, char **argv)
{
	int number = argc == 3 ? atoi(argv[1]) : 0;
	uint64_t bytes, checksum;

	if (number < 1 || number > TINY_MODELS) {
		fprintf(stderr, "usage: make_tiny 1..%d OUT.gguf\n", TINY_MODELS);
		return 2;
	}
	tiny_model_write(argv[2], number, &bytes, &checksum);
	printf("tiny-%d %" PRIu64 " %016" PRIx64 "\n", number, bytes, checksum);
	return 0;
}
