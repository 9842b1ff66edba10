/* ref.h - the reference backend: every operation is its formula in a loop, in float64.  It defines what the
 * other backends must compute. */
#ifndef DS4_BACKEND_REF_REF_H
#define DS4_BACKEND_REF_REF_H

#include "backend/backend.h"

enum status ref_open(struct backend **out, const struct be_options *opt, struct err *err);

#endif
