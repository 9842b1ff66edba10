/* sim_host.h - what tests set and ask of the fake Metal.
 *
 * Environment, read when the device is made: METALSIM_MODE (fast, loose, check), METALSIM_CACHE (folder of compiled
 * sources), METALSIM_CC (path of mslcc), METALSIM_SOURCE (a file to compile instead of the host's source),
 * METALSIM_SKIP_BARRIER (sets skip_barrier). */
#ifndef DS4_TESTS_METALSIM_SIM_HOST_H
#define DS4_TESTS_METALSIM_SIM_HOST_H

#include <stdint.h>

extern struct sim_host {
	int no_device;			/* MTLCreateSystemDefaultDevice gives nil */
	int not_unified;		/* the device says that its memory is its own */
	uint64_t working_set;		/* recommendedMaxWorkingSetSize; 0 = 48 GB */
	unsigned max_threads;		/* maxTotalThreadsPerThreadgroup; 0 = 1024 */
	int fail_after;			/* n > 0: the n-th command buffer from now ends with an error */
	double delay;			/* seconds before a command buffer starts */
	int skip_barrier;		/* n > 0: the n-th memoryBarrier of every command buffer is ignored (mutation test) */
	int tolerant;			/* misuse of the API is counted and reported, not fatal */
	int misuse;			/* how often */
	uint64_t dispatches, barriers, command_buffers, skipped;
	char last_misuse[300];
} sim_host;

#endif
