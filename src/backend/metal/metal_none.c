/* metal_none.c - the Metal backend where there is no Metal: on everything but macOS.
 *
 * Tests on Linux link the real thing, built against the simulator, in front of the library; then this file's object is not
 * pulled in. */
#include "backend/metal/metal.h"

#ifndef __APPLE__

bool metal_available(void)
{
	return false;
}

enum status metal_open(struct backend **out, const struct be_options *opt, struct err *err)
{
	(void)opt;
	*out = NULL;
	return err_set(err, ERR_NOT_FOUND, "this build has no Metal backend: it is for Macs with Apple silicon");
}

#endif
