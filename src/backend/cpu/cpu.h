/* cpu.h - the practical CPU backend: float32 activations, quantised weights read in place, all cores. */
#ifndef DS4_BACKEND_CPU_CPU_H
#define DS4_BACKEND_CPU_CPU_H

#include "backend/backend.h"

/* opt->threads: 0 = as many as cpu_count() says.  ERR_ARGUMENT for numerics other than BE_NUMERICS_MODEL. */
enum status cpu_open(struct backend **out, const struct be_options *opt, struct err *err);

#endif
