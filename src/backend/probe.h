/* probe.h - what this machine's cores can do at most: reading memory, multiplying int8 matrices.
 *
 * The two limits of a token: decode reads every active weight once (bandwidth), prefill multiplies (integer units).
 * Both probes use as many threads as the work they are compared with and report the best of several short rounds:
 * a limit is what the machine reaches when nothing disturbs it. */
#ifndef DS4_BACKEND_PROBE_H
#define DS4_BACKEND_PROBE_H

#include <stdint.h>

#include "base/status.h"

struct probe_result {
	double bytes_per_s;	/* all threads together */
	double int8_ops_per_s;	/* a multiply-add is two operations */
	const char *int8_name;	/* "amx", "avx512-vnni", "avx2", "scalar" */
	uint64_t read_bytes;	/* size of the memory that was read */
	int threads, rounds;	/* rounds of the bandwidth probe */
};

#define PROBE_READ_BYTES ((uint64_t)1 << 30)	/* several times the largest caches */

/* Runs both probes for about `seconds` each.  threads >= 1.  most_bytes: memory to read; less when there is little. */
enum status probe_run(struct probe_result *out, int threads, double seconds, uint64_t most_bytes, struct err *err);

/* Checks every int8 product this machine can run against a plain sum; names the first that is wrong.  For tests. */
enum status probe_check(int *n_checked, struct err *err);

#endif
