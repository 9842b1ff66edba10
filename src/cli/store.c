/* store.c - see store.h. */
#include "cli/store.h"

#include <stdio.h>
#include <string.h>

#include "cli/places.h"
#include "cli/term.h"

const struct arg_spec store_arg_table[] = {
	ARG_GROUP("What was read, on disk"),
	ARG_FLAG("kv", 0, struct store_args, kv, "keep what was read on disk: no prompt is read twice, not even by the next run"),
	ARG_TEXT("kv-dir", 0, struct store_args, kv_dir, "DIR", "where ($XDG_CACHE_HOME/ds4/kv, ~/.cache/ds4/kv)"),
	ARG_INT("kv-space", 0, struct store_args, kv_space, 1 << 20, 0x1p60, "BYTES", "most it may take (8g)"),
	ARG_END
};

enum status store_folder(char out[], size_t room, const char *kv_dir, struct err *err)
{
	char place[PLACE_SIZE];

	if (!kv_dir) {
		if (!place_kv(place))
			return err_set(err, ERR_ARGUMENT, "no folder is known for what was read: name one with --kv-dir DIR");
		kv_dir = place;
	}
	if ((size_t)snprintf(out, room, "%s", kv_dir) >= room)
		return err_set(err, ERR_ARGUMENT, "--kv-dir: expected at most %zu bytes, got %zu", room - 1, strlen(kv_dir));
	return OK;
}

static void notice(void *ctx, const char *sentence)
{
	(void)ctx;
	term_note("%s", sentence);
}

enum status store_open(struct kvstore **out, const struct store_args *a, struct engine *e, struct err *err)
{
	char folder[PLACE_SIZE];
	struct kvstore_options o = {.dir = folder, .budget = a->kv_space ? (uint64_t)a->kv_space : KVSTORE_BUDGET_DEFAULT,
				    .warn = notice};
	enum status st;

	*out = NULL;
	if (!a->kv || store_folder(folder, sizeof folder, a->kv_dir, NULL) != OK)
		return OK;
	TRY(kvstore_open(out, &o, err));
	st = kvstore_attach(*out, e->tree, &e->pool, engine_fingerprint(e), err);
	if (st != OK) {
		kvstore_close(*out);
		*out = NULL;
	}
	return st;
}

void store_close(struct kvstore *ks)
{
	struct err err = {.code = OK};

	if (!ks)
		return;
	if (kvstore_flush(ks, &err) != OK)
		term_note("%s", err.msg);
	kvstore_close(ks);
}
