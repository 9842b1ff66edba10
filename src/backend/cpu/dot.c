/* dot.c - chooses the inner loops for the machine that runs. */
#include "backend/cpu/dot.h"

const struct dot_table *dot_choose(void)
{
	return dot_scalar();
}
