/* cuda_abi.h - what the program and libds4_cuda.so agree on: two functions, and a number that changes with the
 * contract so that a stale library is refused instead of crashing. */
#ifndef DS4_BACKEND_CUDA_CUDA_ABI_H
#define DS4_BACKEND_CUDA_CUDA_ABI_H

#include "backend/backend.h"

#define CUDA_ABI ((int)(sizeof(struct backend) * 4096 + sizeof(struct step) * 64 + sizeof(struct expert_args)))

#ifdef __cplusplus
extern "C" {
#endif

/* Returns CUDA_ABI of the library. */
int ds4_cuda_abi(void);

/* Devices that answer; 0 with a sentence in err when none does. */
int ds4_cuda_devices(struct err *err);

/* Same contract as cuda_open. */
enum status ds4_cuda_open(struct backend **out, const struct be_options *opt, struct err *err);

#ifdef __cplusplus
}
#endif

#endif
