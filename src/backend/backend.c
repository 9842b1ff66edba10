/* backend.c - the registry of backends and what they all share: the sticky error, activation buffers, and
 * conversions between a backend's activations and float.
 *
 * To add a backend: one folder that implements the required operations, one row in `known` below; the parity test
 * finds it by itself. */
#include "backend/backend.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "backend/metal/metal.h"
#include "backend/ref/ref.h"
#include "base/mem.h"

static const struct {
	const char *name;
	enum status (*open)(struct backend **out, const struct be_options *opt, struct err *err);
	bool (*available)(void);	/* NULL: always */
} known[] = {
	{"cpu", cpu_open, NULL},
	{"ref", ref_open, NULL},
	{"cuda", cuda_open, cuda_available},
	{"metal", metal_open, metal_available},
};

enum { N_KNOWN = sizeof known / sizeof known[0] };

const char *be_name(int i)
{
	for (int k = 0; i >= 0 && k < N_KNOWN; k++)
		if ((!known[k].available || known[k].available()) && !i--)
			return known[k].name;
	return NULL;
}

enum status be_open(struct backend **out, const char *name, const struct be_options *opt, struct err *err)
{
	*out = NULL;
	for (int i = 0; i < N_KNOWN; i++) {
		if (strcmp(known[i].name, name))
			continue;
		TRY(known[i].open(out, opt, err));
		be_compose(&(*out)->ops);
		return OK;
	}
	return err_set(err, ERR_NOT_FOUND, "backend \"%s\" is not known; this build has: cpu, ref, cuda, metal", name);
}

void be_close(struct backend *be)
{
	if (be)
		be->close(be);
}

void be_fail(struct backend *be, enum status code, const char *fmt, ...)
{
	va_list ap;

	if (__atomic_exchange_n(&be->failing, 1, __ATOMIC_ACQ_REL))
		return;
	be->err.code = code;
	va_start(ap, fmt);
	vsnprintf(be->err.msg, sizeof be->err.msg, fmt, ap);
	va_end(ap);
}

enum status be_submit(struct backend *be, struct err *err)
{
	enum status code;

	if (be->wait)
		be->wait(be);
	code = be->err.code;
	if (code != OK && err)
		*err = be->err;
	memset(&be->err, 0, sizeof be->err);
	be->failing = 0;
	return code;
}

size_t be_tensor_bytes(const struct backend *be, enum tensor_type type, int32_t rows, int32_t width)
{
	size_t unit = type == TENSOR_REAL ? be->real_bytes : type == TENSOR_I32 ? sizeof(int32_t) : be->row_bytes;

	return (size_t)rows * (size_t)width * unit;
}

enum status be_tensor(struct backend *be, struct tensor *t, enum tensor_type type, int32_t rows, int32_t width,
		      struct err *err)
{
	size_t bytes = be_tensor_bytes(be, type, rows, width);

	*t = (struct tensor){.rows = rows, .width = width, .type = type};
	t->data = be->alloc(be, bytes);
	if (!t->data)
		return err_set(err, ERR_MEMORY, "no memory for an activation buffer of [%d, %d] (%zu bytes)", rows,
			       width, bytes);
	return OK;
}

void be_tensor_free(struct backend *be, struct tensor *t)
{
	if (t->data)
		be->release(be, t->data);
	memset(t, 0, sizeof *t);
}

void be_read(struct backend *be, const struct tensor *t, int32_t row0, int32_t n, float *out)
{
	size_t count = (size_t)n * (size_t)t->width, skip = (size_t)row0 * (size_t)t->width;
	double wide[512];

	assert(t->type == TENSOR_REAL && row0 + n <= t->rows);
	if (be->real_bytes == sizeof(float)) {
		be->download(be, out, (const float *)t->data + skip, count * sizeof(float));
		return;
	}
	for (size_t i = 0; i < count; i += 512) {
		size_t k = count - i < 512 ? count - i : 512;

		be->download(be, wide, (const double *)t->data + skip + i, k * sizeof(double));
		for (size_t j = 0; j < k; j++)
			out[i + j] = (float)wide[j];
	}
}

void be_write(struct backend *be, struct tensor *t, int32_t row0, int32_t n, const float *in)
{
	size_t count = (size_t)n * (size_t)t->width, skip = (size_t)row0 * (size_t)t->width;
	double wide[512];

	assert(t->type == TENSOR_REAL && row0 + n <= t->rows);
	if (be->real_bytes == sizeof(float)) {
		be->upload(be, (float *)t->data + skip, in, count * sizeof(float));
		return;
	}
	for (size_t i = 0; i < count; i += 512) {
		size_t k = count - i < 512 ? count - i : 512;

		for (size_t j = 0; j < k; j++)
			wide[j] = in[i + j];
		be->upload(be, (double *)t->data + skip + i, wide, k * sizeof(double));
	}
}
