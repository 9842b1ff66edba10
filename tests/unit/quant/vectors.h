/* vectors.h - reading the files of tests/data/quant, for the tests of this folder. */
#ifndef TEST_QUANT_VECTORS_H
#define TEST_QUANT_VECTORS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "quant/half.h"

struct vectors {
	struct buf file;
	uint32_t count;		/* the u32 that every file starts with */
	const uint8_t *data;	/* what follows it */
	size_t bytes;
};

static inline struct vectors vectors_open(const char *name)
{
	struct vectors v = {.file = BUF_CAP(1 << 20)};
	char path[128];
	struct err err = {0};

	snprintf(path, sizeof path, "tests/data/quant/%s.bin", name);
	if (file_read(&v.file, path, &err) != OK)
		fail_msg("%s", err.msg);
	assert_true(v.file.len > sizeof v.count);
	memcpy(&v.count, v.file.data, sizeof v.count);
	assert_true(v.count > 0);
	v.data = (const uint8_t *)v.file.data + sizeof v.count;
	v.bytes = v.file.len - sizeof v.count;
	return v;
}

/* The same float, bit for bit; any NaN equals any NaN. */
static inline void expect_float(const char *what, size_t i, float want, float got)
{
	if (f32_bits(want) == f32_bits(got) || (isnan(want) && isnan(got)))
		return;
	fail_msg("%s, element %zu: expected %a (0x%08X), got %a (0x%08X)", what, i, (double)want,
		 (unsigned)f32_bits(want), (double)got, (unsigned)f32_bits(got));
}

#endif
