/* quality.h - shared by the files of `ds4 quality`. */
#ifndef DS4_CLI_QUALITY_H
#define DS4_CLI_QUALITY_H

#include "cli/cli.h"

struct quality_args {
	struct engine_args engine;
	struct arg_list file;
	const char *save, *continuations, *than;
	bool chat, control, json;
	int64_t top, resamples, seed;
	double margin;
};

/* quality_continue.c: `ds4 quality --continuations`. */
enum status quality_continuations(const struct quality_args *a, struct err *err);

#endif
