/* all.metal - the one source that is embedded in the program and compiled when the backend opens. */
#include "backend/metal/common.metal"
#include "backend/metal/rows.metal"
#include "backend/metal/product.metal"
#include "backend/metal/history.metal"
