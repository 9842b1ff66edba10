/* thread.h - a pool of threads for fork-join loops.
 *
 * parallel_for() cuts 0..n-1 into a few contiguous ranges per thread, runs fn on all of them (the caller takes
 * part, and takes over what a thread without a core has not begun) and returns when every range is done.  Which
 * thread does what never changes a result: callers must make each index independent of the cut.  Workers spin
 * briefly, then sleep, so an idle pool costs nothing.
 * Thread: one caller at a time per pool; calls do not nest. */
#ifndef DS4_BASE_THREAD_H
#define DS4_BASE_THREAD_H

#include "base/status.h"

struct pool;

/* n threads in all, the caller included; 1 makes every loop a plain call. */
enum status pool_open(struct pool **out, int n, struct err *err);
void pool_close(struct pool *p);
int pool_threads(const struct pool *p);

/* fn(ctx, begin, end, thread) with thread in 0..threads-1. */
void parallel_for(struct pool *p, long n, void (*fn)(void *ctx, long begin, long end, int thread), void *ctx);

/* The same in `per_thread` ranges for each thread (1..64): many for long work of uneven parts, few for short work. */
void parallel_for_ranges(struct pool *p, long n, int per_thread, void (*fn)(void *ctx, long begin, long end, int thread),
			 void *ctx);

/* Cores this process may use: affinity mask and control-group quota considered; at least 1. */
int cpu_count(void);

#endif
