/* json_fuzz.c - any bytes through the JSON reader; what it accepts is written, read again and written the same. */
#define _GNU_SOURCE	/* memmem */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf one = BUF_CAP(BUF_MAX), two = BUF_CAP(BUF_MAX);
	struct err err;
	json_t *v = json_parse((const char *)data, size, &err), *again;

	if (!v)
		return 0;
	json_write_python(&one, v);
	again = json_parse(one.data, one.len, NULL);
	if (again) {	/* not when a number was beyond a double: Python's Infinity is not JSON */
		json_write_python(&two, again);
		if (one.len != two.len || memcmp(one.data, two.data, one.len))
			abort();
	} else if (!memmem(one.data, one.len, "Infinity", 8)) {
		abort();
	}
	json_decref(v);
	json_decref(again);
	buf_clear(&one);
	buf_clear(&two);
	return 0;
}
