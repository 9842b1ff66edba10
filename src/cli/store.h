/* store.h - the disk tier of the engine's prefix tree, as commands use it: options, opening, the last flush. */
#ifndef DS4_CLI_STORE_H
#define DS4_CLI_STORE_H

#include "cli/cli.h"
#include "kvstore/kvstore.h"

struct store_args {
	bool kv;		/* --no-kv */
	const char *kv_dir;	/* NULL: places.h */
	int64_t kv_space;	/* bytes; 0 = KVSTORE_BUDGET_DEFAULT */
};

#define STORE_ARGS_DEFAULT {.kv = true}

extern const struct arg_spec store_arg_table[];

/* The folder: --kv-dir or the usual place.  ERR_ARGUMENT when there is none. */
enum status store_folder(char out[], size_t room, const char *kv_dir, struct err *err);

/* Opens the folder and attaches it to e's tree; *out stays NULL with --no-kv or where no folder is known.  Troubles are
 * notices.  ERR_MEMORY. */
enum status store_open(struct kvstore **out, const struct store_args *a, struct engine *e, struct err *err);

/* Writes what belongs on disk and lets go of the tree; before sessions and engine are closed.  NULL allowed. */
void store_close(struct kvstore *ks);

#endif
