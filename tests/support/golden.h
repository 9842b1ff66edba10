/* golden.h - reads tests/data/golden: results of the numpy reference.  tests/golden/make_golden.py describes
 * what is in there and how it was made.
 *
 * Paths are relative to the repository's root, where test programs run.  Every failure (no such array, wrong
 * length, stale model) ends the program with a sentence: a golden test without its data has nothing to say. */
#ifndef DS4_TESTS_GOLDEN_H
#define DS4_TESTS_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

struct golden {		/* one array; exactly one of the pointers is set */
	int n_dims;
	size_t dims[4];	/* unused ones are 1 */
	size_t count;	/* elements in all */
	int32_t *i32;
	float *f32;
	double *f64;
};

/* Loads the array that INDEX calls `name` ("tiny-1/logits_wide.f64"). */
struct golden golden_load(const char *name);
void golden_free(struct golden *g);

/* A file of model tiny-`number` with the bytes the stored results belong to (checked), made anew for this
 * process in the folder $TMPDIR or /tmp; it disappears when the program ends.  The string lives as long. */
const char *golden_tiny_path(int number);

/* Streams [n_tokens, 4, d] that a half layer starts from; half: 0 attention, 1 experts.  Free with free(). */
float *golden_half_input(int number, int layer, int half, size_t n_tokens, size_t d);

/* sqrt(sum (a - b)^2 / sum b^2), b expected: relative L2 distance. */
double golden_distance(const double *a, const double *b, size_t n);

#endif
