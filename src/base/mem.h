/* mem.h - checked allocation.  Everything is released with mem_free().
 *
 * All functions return NULL on failure and on size overflow; callers turn that into ERR_MEMORY.
 * mem_fail_at(n) makes the n-th allocation from now fail (0 = never): fault tests walk n upwards.
 * Thread: allocation is thread-safe; mem_fail_at is for single-threaded tests. */
#ifndef DS4_BASE_MEM_H
#define DS4_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t bytes);			/* uninitialised */
void *mem_zero(size_t bytes);			/* zeroed */
void *mem_array(size_t n, size_t size);		/* zeroed, n * size checked for overflow */
void *mem_grow(void *p, size_t n, size_t size);	/* realloc to n * size, checked; p stays valid on NULL */
void *mem_aligned(size_t bytes, size_t align);	/* zeroed; align is a power of two */
char *mem_str(const char *s);			/* copy of a C string */
char *mem_strn(const char *s, size_t n);	/* copy of n bytes, NUL-terminated */
void *mem_copy(const void *p, size_t n);
void mem_free(void *p);				/* accepts NULL */

void mem_fail_at(long n);

/* Bytes of RAM that this process may still use: the least of what the system and its control
 * group offer.  0 when unknown. */
uint64_t mem_available_bytes(void);

#endif
