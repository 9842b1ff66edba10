/* cuda.h - the CUDA backend as the rest of the program sees it: a shared object that is loaded when a device answers.
 *
 * libds4_cuda.so is looked for beside the program, in ../lib/ds4 and ../lib from there, then where $DS4_CUDA_LIB
 * points; the plain program runs on machines without CUDA. */
#ifndef DS4_BACKEND_CUDA_CUDA_H
#define DS4_BACKEND_CUDA_CUDA_H

#include <stdbool.h>

#include "backend/backend.h"

/* Is the shared object there and does a device answer?  Asked once; later calls are free. */
bool cuda_available(void);

/* ERR_NOT_FOUND: no shared object; ERR_DEVICE: no driver, no device, or one it was not built for. */
enum status cuda_open(struct backend **out, const struct be_options *opt, struct err *err);

#endif
