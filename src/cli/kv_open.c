/* kv_open.c - where what was read is kept on disk: the options, the usual folder, opening and closing.
 *
 * Careful
 *   - The store never keeps a command from working: what is wrong with it is a note on standard error.
 *   - It is attached to the engine's tree and must be closed before the engine, after sessions. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/term.h"

const struct arg_spec kv_arg_table[] = {
	ARG_GROUP("What was read stays on disk"),
	ARG_FLAG("kv", 0, struct kv_args, kv, "keep what was read, so that nothing is read twice, not even after the end"),
	ARG_TEXT("kv-dir", 0, struct kv_args, dir, "DIR", "where (the user's folder for caches, ds4/kv)"),
	ARG_INT("kv-space-mb", 0, struct kv_args, space_mb, 1, 1 << 30, "N", "megabytes it may take"),
	ARG_END
};

bool cli_kv_dir(char *out, size_t room, const char *asked)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	int n;

	if (asked)
		n = snprintf(out, room, "%s", asked);
	else if (cache && cache[0] == '/')
		n = snprintf(out, room, "%s/ds4/kv", cache);
	else if (home && *home)
#ifdef __APPLE__
		n = snprintf(out, room, "%s/Library/Caches/ds4/kv", home);
#else
		n = snprintf(out, room, "%s/.cache/ds4/kv", home);
#endif
	else
		return false;
	return n > 0 && (size_t)n < room;
}

static void note(void *ctx, const char *sentence)
{
	(void)ctx;
	term_note("kv: %s", sentence);
}

enum status cli_open_kv(struct kvstore **out, const struct kv_args *a, struct engine *e, struct err *err)
{
	struct kvstore_options o = {.budget = (uint64_t)a->space_mb << 20, .warn = note};
	char dir[4000];

	*out = NULL;
	if (!a->kv)
		return OK;
	if (!cli_kv_dir(dir, sizeof dir, a->dir)) {
		if (a->dir)
			return err_set(err, ERR_ARGUMENT, "--kv-dir: expected a path of at most %zu bytes", sizeof dir - 1);
		term_note("kv: no folder for it: neither $XDG_CACHE_HOME nor $HOME is set; --kv-dir names one");
		return OK;
	}
	o.dir = dir;
	TRY(kvstore_open(out, &o, err));
	return kvstore_attach(*out, e->tree, &e->pool, engine_fingerprint(e), err);
}

void cli_close_kv(struct kvstore *ks)
{
	struct err err = {0};

	if (ks && kvstore_flush(ks, &err) != OK)
		term_note("kv: %s", err.msg);
	kvstore_close(ks);
}
