/* golden.c - the reader of tests/data/golden, and the tiny models that its results belong to.
 *
 * What  Arrays by name, the tiny model files, the inputs of the half-layer tests.
 * How   INDEX has one line an array: file, element type, dimensions; a file is the bare elements, little endian
 *       as the machines we run on.  MODELS has one line a model: name, length, checksum. */
#include "support/golden.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "support/tiny_model.h"

#define FOLDER "tests/data/golden/"

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("golden: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

/* The rest of the line in FOLDER/file that starts with `name` and a blank. */
static void find_line(char *rest, size_t room, const char *file, const char *name)
{
	char path[64], line[256];
	size_t n = strlen(name);
	FILE *f;

	snprintf(path, sizeof path, FOLDER "%s", file);
	f = fopen(path, "r");
	if (!f)
		die("cannot read %s (tests run in the repository's root)", path);
	while (fgets(line, sizeof line, f)) {
		if (strncmp(line, name, n) || line[n] != ' ')
			continue;
		snprintf(rest, room, "%s", line + n + 1);
		fclose(f);
		return;
	}
	die("%s does not list %s", path, name);
}

static void read_elements(const char *name, void *out, size_t bytes)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof path, FOLDER "%s", name);
	f = fopen(path, "rb");
	if (!f)
		die("cannot read %s", path);
	if (fread(out, 1, bytes, f) != bytes || fgetc(f) != EOF)
		die("%s: expected %zu bytes", path, bytes);
	fclose(f);
}

struct golden golden_load(const char *name)
{
	struct golden g = {.dims = {1, 1, 1, 1}, .count = 1};
	char rest[256], type[8], *p = rest;
	int used = 0;
	size_t size;
	void *data;

	find_line(rest, sizeof rest, "INDEX", name);
	if (sscanf(p, "%7s%n", type, &used) != 1)
		die("INDEX: no type for %s", name);
	for (p += used; g.n_dims < 4 && sscanf(p, "%zu%n", &g.dims[g.n_dims], &used) == 1; p += used)
		g.count *= g.dims[g.n_dims++];
	size = strcmp(type, "f64") ? 4 : 8;
	data = malloc(g.count * size);
	if (!data)
		die("no memory for %s", name);
	read_elements(name, data, g.count * size);
	if (!strcmp(type, "i32"))
		g.i32 = data;
	else if (!strcmp(type, "f32"))
		g.f32 = data;
	else
		g.f64 = data;
	return g;
}

void golden_free(struct golden *g)
{
	free(g->i32);
	free(g->f32);
	free(g->f64);
	memset(g, 0, sizeof *g);
}

static char tiny_path[TINY_MODELS][256];

static void remove_tiny_models(void)
{
	for (int i = 0; i < TINY_MODELS; i++)
		if (*tiny_path[i])
			unlink(tiny_path[i]);
}

const char *golden_tiny_path(int number)
{
	static int registered;
	const char *folder = getenv("TMPDIR");
	uint64_t bytes, checksum, want_bytes, want_checksum;
	char name[16], rest[256], *path;

	assert(number >= 1 && number <= TINY_MODELS);
	path = tiny_path[number - 1];
	if (*path)
		return path;
	if (!registered++)
		atexit(remove_tiny_models);
	snprintf(name, sizeof name, "tiny-%d", number);
	find_line(rest, sizeof rest, "MODELS", name);
	if (sscanf(rest, "%" SCNu64 " %" SCNx64, &want_bytes, &want_checksum) != 2)
		die("MODELS: no length and checksum for %s", name);
	snprintf(path, sizeof tiny_path[0], "%s/ds4-%s-%ld.gguf", folder ? folder : "/tmp", name, (long)getpid());
	tiny_model_write(path, number, &bytes, &checksum);
	if (bytes != want_bytes || checksum != want_checksum)
		die("%s: the stored results belong to %" PRIu64 " bytes with checksum %016" PRIx64
		    ", this one has %" PRIu64 " and %016" PRIx64 "; run tests/golden/make_golden.py",
		    name, want_bytes, want_checksum, bytes, checksum);
	return path;
}

float *golden_half_input(int number, int layer, int half, size_t n_tokens, size_t d)
{
	uint64_t x = 1000 * (uint64_t)number + 10 * (uint64_t)layer + (uint64_t)half;
	size_t n = n_tokens * 4 * d;
	float *v = malloc(n * sizeof *v);

	if (!v)
		die("no memory for %zu inputs", n);
	for (size_t i = 0; i < n; i++)
		v[i] = (float)((int32_t)(rng_mix(&x) >> 44) - (1 << 19)) * 7 * 0x1p-21f;
	return v;
}

double golden_distance(const double *a, const double *b, size_t n)
{
	double error = 0, norm = 0;

	for (size_t i = 0; i < n; i++) {
		error += (a[i] - b[i]) * (a[i] - b[i]);
		norm += b[i] * b[i];
	}
	return norm > 0 ? sqrt(error / norm) : sqrt(error);
}
