/* decode.c - bytes of the source to floats.
 *
 * What  BF16, F16, F32, F64 and integers one by one; FP8 (E4M3) with a power-of-two scale for each 128 x
 *       128; FP4 (E2M1) with one for each 32 elements of a row; rows of any GGUF type.
 * How   The 256 values of an E4M3 byte and of an E8M0 byte are looked up.  Only the rows asked for are read
 *       from the file.
 * Careful
 *       - FP4 has its first element in the low nibble; GGUF's MXFP4 does not.
 *       - A scale of FP8 counts for 128 rows: row r of the piece uses row r / 128 of the scales.
 *       - NaN is refused wherever it comes from: an E4M3 byte 7F or FF, a scale byte FF, a plain value.
 * Source: docs/formats/gguf.md section 7. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "quant/half.h"
#include "quant/quant.h"
#include "workshop/convert.h"

struct code_tables {
	float e4m3[256], e8m0[256], e2m1[16];
};

static void fill_tables(struct code_tables *t)
{
	for (int i = 0; i < 256; i++) {
		t->e4m3[i] = e4m3_to_f32((uint8_t)i);
		t->e8m0[i] = e8m0_to_f32((uint8_t)i);
	}
	for (int i = 0; i < 16; i++)
		t->e2m1[i] = e2m1_to_f32((uint8_t)i);
}

static void plain_values(float *dst, const uint8_t *p, enum st_dtype t, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint16_t h;
		float f;
		double d;
		int32_t i32;
		int64_t i64;

		switch (t) {
		case ST_BF16:
			memcpy(&h, p + 2 * i, 2);
			dst[i] = bf16_to_f32(h);
			break;
		case ST_F16:
			memcpy(&h, p + 2 * i, 2);
			dst[i] = f16_to_f32(h);
			break;
		case ST_F32:
			memcpy(&f, p + 4 * i, 4);
			dst[i] = f;
			break;
		case ST_F64:
			memcpy(&d, p + 8 * i, 8);
			dst[i] = (float)d;
			break;
		case ST_I32:
			memcpy(&i32, p + 4 * i, 4);
			dst[i] = (float)i32;
			break;
		case ST_I64:
			memcpy(&i64, p + 8 * i, 8);
			dst[i] = (float)i64;
			break;
		default:
			dst[i] = NAN;
		}
	}
}

static uint64_t scale_cols(const struct target *t, enum coding coding)
{
	return coding == CODING_FP8 ? (t->cols + 127) / 128 : t->cols / 32;
}

static uint64_t row_bytes(const struct target *t, const struct piece *p)
{
	switch (p->coding) {
	case CODING_PLAIN:
		return t->cols * st_dtype_bytes(p->w->dtype);
	case CODING_FP8:
		return t->cols;
	case CODING_FP4:
		return t->cols / 2;
	case CODING_GGUF:
		return dtype_bytes(t->source_type, t->cols);
	}
	return 0;
}

size_t piece_scratch(const struct target *t, uint64_t rows)
{
	const struct piece *p = &t->piece[0];

	if (p->coding == CODING_GGUF)
		return 0;
	return (size_t)(rows * row_bytes(t, p) +
	                (p->coding == CODING_PLAIN ? 0 : (rows + 128) * scale_cols(t, p->coding)));
}

static void fp8_values(float *dst, const struct target *t, const uint8_t *w, const uint8_t *scale, uint64_t row0,
		       uint64_t rows, const struct code_tables *k)
{
	uint64_t n = scale_cols(t, CODING_FP8);

	for (uint64_t r = 0; r < rows; r++) {
		const uint8_t *s = scale + ((row0 + r) / 128 - row0 / 128) * n;

		for (uint64_t c = 0; c < t->cols; c++)
			dst[r * t->cols + c] = k->e4m3[w[r * t->cols + c]] * k->e8m0[s[c / 128]];
	}
}

static void fp4_values(float *dst, const struct target *t, const uint8_t *w, const uint8_t *scale, uint64_t rows,
		       const struct code_tables *k)
{
	for (uint64_t b = 0; b < rows * t->cols / 32; b++) {
		float s = k->e8m0[scale[b]];

		for (int i = 0; i < 16; i++) {
			uint8_t byte = w[16 * b + (uint64_t)i];

			dst[32 * b + 2 * (uint64_t)i] = s * k->e2m1[byte & 15];
			dst[32 * b + 2 * (uint64_t)i + 1] = s * k->e2m1[byte >> 4];
		}
	}
}

static enum status read_coded(float *dst, const struct checkpoint *c, const struct target *t,
                              const struct piece *p, uint64_t row0, uint64_t rows, uint8_t *scratch,
                              struct err *err)
{
	uint64_t wb = row_bytes(t, p), sc = scale_cols(t, p->coding), first = row0, count = rows;
	uint8_t *scale = scratch + rows * wb;
	struct code_tables k;

	fill_tables(&k);
	TRY(checkpoint_read(c, p->w, row0 * wb, scratch, (size_t)(rows * wb), err));
	if (p->coding == CODING_FP8) {
		first = row0 / 128;
		count = (row0 + rows - 1) / 128 - first + 1;
	}
	TRY(checkpoint_read(c, p->scale, first * sc, scale, (size_t)(count * sc), err));
	if (p->coding == CODING_FP8)
		fp8_values(dst, t, scratch, scale, row0, rows, &k);
	else
		fp4_values(dst, t, scratch, scale, rows, &k);
	return OK;
}

enum status piece_read(float *dst, const struct checkpoint *c, const struct target *t, size_t piece,
                       uint64_t row0, uint64_t rows, void *scratch, struct err *err)
{
	const struct piece *p = &t->piece[piece];
	size_t n = (size_t)(rows * t->cols);

	if (p->coding == CODING_GGUF) {
		quant_decode(dst, p->data + row0 * row_bytes(t, p), t->source_type, n);
	} else if (p->coding == CODING_PLAIN) {
		TRY(checkpoint_read(c, p->w, row0 * row_bytes(t, p), scratch,
		                    (size_t)(rows * row_bytes(t, p)), err));
		plain_values(dst, scratch, p->w->dtype, n);
	} else {
		TRY(read_coded(dst, c, t, p, row0, rows, scratch, err));
	}
	for (size_t i = 0; i < n; i++)
		if (!isfinite(dst[i]))
			return err_set(err, ERR_FORMAT,
			               "%s: row %" PRIu64 ", column %" PRIu64
			               ": expected a number, found %s",
			               p->w ? p->w->name : t->name, row0 + i / t->cols,
			               (uint64_t)(i % t->cols), isnan(dst[i]) ? "NaN" : "an infinity");
	return OK;
}
