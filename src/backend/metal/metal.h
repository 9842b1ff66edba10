/* metal.h - the Metal backend as the rest of the program sees it: the GPU of an Apple-silicon Mac.
 *
 * On other systems metal_none.c stands in: never available, and opening it says so. */
#ifndef DS4_BACKEND_METAL_METAL_H
#define DS4_BACKEND_METAL_METAL_H

#include <stdbool.h>

#include "backend/backend.h"

/* Is there a device that can run it?  Asked once; later calls are free. */
bool metal_available(void);

/* ERR_NOT_FOUND: not in this build; ERR_DEVICE: no device, one without unified memory or Metal 3, or its compiler refused the
 * shaders; ERR_ARGUMENT: numerics other than the model's. */
enum status metal_open(struct backend **out, const struct be_options *opt, struct err *err);

#endif
