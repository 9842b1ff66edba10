/* kv.c - `ds4 kv`: what is kept on disk of what was read, and looking after it.
 *
 * What  ls, show ID, rm ID..., verify, gc over a folder of the disk tier.  ls and show only read, also while a server runs.
 * Careful
 *       - Texts come from files: they pass the filter for terminals like an answer does.
 *       - rm takes what a conversation shares with others only when nothing else goes on from it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/kv.h"
#include "cli/places.h"
#include "cli/show.h"
#include "cli/term.h"

struct kv_options {
	const char *model, *kv_dir;
	int64_t space_mb;
	bool json, all, verify;
	struct arg_list what;
};

struct kv_run {
	const struct kv_options *a;
	struct kvstore *ks;
	struct kv_words words;
};

/* ------------------------------------------------------------------ small texts */

static void format_bytes(char out[24], uint64_t n)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double v = (double)n;
	int i = 0;

	for (; v >= 1000 && i < 4; i++)
		v /= 1024;
	snprintf(out, 24, v >= 100 || !i ? "%.0f %s" : "%.1f %s", v, unit[i]);
}

static void format_age(char out[24], uint64_t when)
{
	double s = difftime(time(NULL), (time_t)when);

	if (s < 120)
		snprintf(out, 24, "%.0f s", s > 0 ? s : 0);
	else if (s < 7200)
		snprintf(out, 24, "%.0f min", s / 60);
	else if (s < 172800)
		snprintf(out, 24, "%.0f h", s / 3600);
	else
		snprintf(out, 24, "%.0f days", s / 86400);
}

static void format_id(char out[40], struct tree_key k)
{
	snprintf(out, 40, "%016llx%016llx", (unsigned long long)k.high, (unsigned long long)k.low);
}

static void print(struct buf *b)
{
	show_safe(stdout, buf_cstr(b), b->len);
	buf_clear(b);
}

/* ------------------------------------------------------------------ ls */

static void json_talk(struct buf *b, const struct kv_talk *t)
{
	char id[40], model[40];

	format_id(id, t->last.key);
	format_id(model, t->last.fingerprint);
	buf_printf(b, "{\"id\": \"%s\", \"state_of\": \"%s\", \"tokens\": %d, \"bytes\": %llu, \"own_bytes\": %llu, "
		   "\"checkpoints\": %d, \"hits\": %llu, \"created\": %llu, \"used\": %llu, \"usable\": %s, "
		   "\"this_model\": %s, \"title\": ",
		   id, model, (int)t->last.end, (unsigned long long)t->bytes, (unsigned long long)t->own_bytes,
		   (int)t->checks, (unsigned long long)t->hits, (unsigned long long)t->last.created,
		   (unsigned long long)t->last.used, t->last.usable ? "true" : "false", t->fits ? "true" : "false");
	if (t->title[0])
		json_write_string(b, t->title, strlen(t->title));
	else
		buf_str(b, "null");
}

static void row(struct buf *b, const struct kv_talk *t)
{
	char id[40], bytes[24], age[24];
	const char *title = t->title[0] ? t->title : !t->last.usable ? "(its beginning is gone)" :
			    t->fits ? "(no text)" : "(another model's)";

	format_id(id, t->last.key);
	format_bytes(bytes, t->bytes);
	format_age(age, t->last.used);
	buf_printf(b, "%.*s %8d %10s %9s %5llu  %s\n", KV_ID, id, (int)t->last.end, bytes, age,
		   (unsigned long long)t->hits, title);
}

static enum status list(struct kv_run *r, struct err *err)
{
	struct buf b = BUF_CAP(BUF_MAX);
	struct kvstore_stats s;
	struct kv_talk *talk;
	char bytes[24];
	int n;

	TRY(kv_talks(r->ks, &r->words, &talk, &n, err));
	kvstore_stats(r->ks, &s);
	if (r->a->json)
		buf_str(&b, "[");
	else if (n)
		buf_printf(&b, "%-*s %8s %10s %9s %5s  %s\n", KV_ID, "id", "tokens", "bytes", "used", "hits", "first words");
	for (int i = 0; i < n; i++) {
		if (!r->a->json) {
			row(&b, &talk[i]);
			continue;
		}
		buf_str(&b, i ? ",\n " : "\n ");
		json_talk(&b, &talk[i]);
		buf_byte(&b, '}');
	}
	if (r->a->json)
		buf_str(&b, n ? "\n]\n" : "]\n");
	print(&b);
	mem_free(talk);
	format_bytes(bytes, s.bytes);
	if (!r->a->json)
		term_note("%d conversation%s, %llu blocks, %llu checkpoints, %s in %llu files; what is shared is there once",
			  n, n == 1 ? "" : "s", (unsigned long long)s.entries, (unsigned long long)s.checks, bytes,
			  (unsigned long long)s.files);
	return OK;
}

/* ------------------------------------------------------------------ show */

/* The conversation whose id begins so. */
static enum status find(struct kv_run *r, const char *id, struct kv_talk *out, struct err *err)
{
	struct kv_talk *talk;
	size_t digits = strlen(id);
	int n, found = 0;
	char full[40];

	TRY(kv_talks(r->ks, &r->words, &talk, &n, err));
	for (int i = 0; i < n; i++) {
		format_id(full, talk[i].last.key);
		if (digits > 32 || strncmp(full, id, digits))
			continue;
		*out = talk[i];
		found++;
	}
	mem_free(talk);
	if (!found)
		return err_set(err, ERR_NOT_FOUND, "%.40s: no conversation has this id; `ds4 kv ls` shows them", id);
	if (found > 1)
		return err_set(err, ERR_ARGUMENT, "%.40s: %d conversations have ids that begin so", id, found);
	return OK;
}

static void text_of(struct buf *b, const struct kv_words *w, const int32_t *token, int32_t n)
{
	struct detok d = {{0}, 0};

	for (int32_t i = 0; i < n; i++) {
		size_t size;
		const char *bytes;

		if (token[i] < 0 || token[i] >= tokenizer_size(w->tokenizer))
			continue;
		bytes = token_bytes(w->tokenizer, token[i], &size);
		detok_push(&d, bytes, size, b);
	}
	detok_finish(&d, b);
}

static void describe(struct buf *b, const struct kv_talk *t, const int32_t *check, int32_t n_check)
{
	char id[40], bytes[24], own[24], created[24], used[24];

	format_id(id, t->last.key);
	format_bytes(bytes, t->bytes);
	format_bytes(own, t->own_bytes);
	format_age(created, t->last.created);
	format_age(used, t->last.used);
	buf_printf(b, "id          %s\ntokens      %d in %d blocks\nbytes       %s, %s of them shared with no other\n", id,
		   (int)t->last.end, (int)t->last.end / GEOM_BLOCK, bytes, own);
	buf_printf(b, "hits        %llu\ncreated     %s ago\nused        %s ago\ncheckpoints", (unsigned long long)t->hits,
		   created, used);
	for (int32_t i = 0; i < n_check; i++)
		buf_printf(b, " %d", (int)check[i]);
	buf_str(b, n_check ? "\n" : " none\n");
	format_id(id, t->last.fingerprint);
	buf_printf(b, "state of    %s%s\n", id, t->fits ? " (this model)" : " (another model, backend or version)");
}

static void json_show(struct buf *b, const struct kv_run *r, const struct kv_talk *t, const int32_t *check, int32_t n_check,
		      const int32_t *token, int32_t n)
{
	struct buf text = BUF_CAP(BUF_MAX);

	json_talk(b, t);
	buf_str(b, ", \"checkpoint_at\": [");
	for (int32_t i = 0; i < n_check; i++)
		buf_printf(b, i ? ", %d" : "%d", (int)check[i]);
	buf_str(b, "], \"ids\": [");
	for (int32_t i = 0; i < n; i++)
		buf_printf(b, i ? ", %d" : "%d", (int)token[i]);
	buf_str(b, "], \"text\": ");
	if (t->fits) {
		text_of(&text, &r->words, token, n);
		json_write_string(b, buf_cstr(&text), text.len);
	} else {
		buf_str(b, "null");
	}
	buf_str(b, "}\n");
	buf_clear(&text);
}

static enum status show_one(struct kv_run *r, const char *id, struct err *err)
{
	struct buf b = BUF_CAP(BUF_MAX);
	int32_t *token = NULL, *check = NULL, n, n_check;
	struct kv_talk t;
	enum status st;

	TRY(find(r, id, &t, err));
	TRY_TO(out, kv_tokens(r->ks, &t.last, &token, &n, err));
	TRY_TO(out, kv_checks(r->ks, &t.last, &check, &n_check, err));
	if (r->a->json) {
		json_show(&b, r, &t, check, n_check, token, n);
	} else {
		describe(&b, &t, check, n_check);
		if (t.fits) {
			buf_byte(&b, '\n');
			text_of(&b, &r->words, token, n);
			buf_byte(&b, '\n');
		}
	}
	print(&b);
out:
	mem_free(token);
	mem_free(check);
	return st;
}

static enum status show(struct kv_run *r, struct err *err)
{
	if (r->a->what.n < 2)
		return err_set(err, ERR_ARGUMENT, "kv show: expected an id; `ds4 kv ls` shows them");
	for (int i = 1; i < r->a->what.n; i++)
		TRY(show_one(r, r->a->what.item[i], err));
	return OK;
}

/* ------------------------------------------------------------------ maintenance */

static enum status remove_one(struct kv_run *r, const struct kv_talk *t, uint64_t *freed, struct err *err)
{
	uint64_t bytes = 0;

	TRY(kvstore_remove(r->ks, t->last.key, true, &bytes, err));
	*freed += bytes;
	return OK;
}

static enum status remove_all(struct kv_run *r, int *removed, uint64_t *freed, struct err *err)
{
	struct kv_talk *talk;
	enum status st = OK;
	int n;

	TRY(kv_talks(r->ks, &r->words, &talk, &n, err));
	for (int i = 0; i < n && st == OK; i++) {
		st = remove_one(r, &talk[i], freed, err);
		*removed += st == OK;
	}
	mem_free(talk);
	return st;
}

static enum status remove_talks(struct kv_run *r, struct err *err)
{
	int removed = 0;
	uint64_t freed = 0;
	char bytes[24];

	if (r->a->all ? r->a->what.n > 1 : r->a->what.n < 2)
		return err_set(err, ERR_ARGUMENT, "kv rm: expected ids, or --all; `ds4 kv ls` shows them");
	if (r->a->all)
		TRY(remove_all(r, &removed, &freed, err));
	for (int i = 1; i < r->a->what.n; i++, removed++) {
		struct kv_talk t;

		TRY(find(r, r->a->what.item[i], &t, err));
		TRY(remove_one(r, &t, &freed, err));
	}
	format_bytes(bytes, freed);
	if (r->a->json)
		printf("{\"removed\": %d, \"freed_bytes\": %llu}\n", removed, (unsigned long long)freed);
	else
		term_note("%d conversation%s removed, %s freed", removed, removed == 1 ? "" : "s", bytes);
	return OK;
}

static bool on_progress(void *ctx, uint64_t done, uint64_t all)
{
	progress_show(ctx, (int64_t)(done >> 20), (int64_t)(all >> 20));
	return !cli_interrupted();
}

static void on_bad(void *ctx, const char *sentence)
{
	progress_clear(ctx);
	term_note("%s", sentence);
}

static enum status verify(struct kv_run *r, struct err *err)
{
	struct progress p = {.label = "verifying", .unit = "MiB"};
	struct kvstore_verify v;
	enum status st = kvstore_verify(r->ks, on_progress, on_bad, &p, &v, err);
	char bytes[24];

	progress_clear(&p);
	if (st != OK)
		return st;
	format_bytes(bytes, v.bytes);
	if (r->a->json)
		printf("{\"files\": %llu, \"sections\": %llu, \"bytes\": %llu, \"bad\": %llu}\n", (unsigned long long)v.files,
		       (unsigned long long)v.sections, (unsigned long long)v.bytes, (unsigned long long)v.bad);
	else
		term_note("%llu blocks and checkpoints in %llu files are right (%s)", (unsigned long long)v.sections,
			  (unsigned long long)v.files, bytes);
	if (v.bad)
		return err_set(err, ERR_FORMAT, "%s: %llu files or parts of them are damaged; they are not used, "
			       "`ds4 kv gc --verify` removes them", kvstore_dir(r->ks), (unsigned long long)v.bad);
	return OK;
}

static enum status collect_garbage(struct kv_run *r, struct err *err)
{
	struct progress p = {.label = "verifying", .unit = "MiB"};
	struct kvstore_verify v;
	struct kvstore_gc g;
	char before[24], after[24];

	if (r->a->verify)
		TRY(kvstore_verify(r->ks, on_progress, on_bad, &p, &v, err));
	progress_clear(&p);
	TRY(kvstore_gc(r->ks, (uint64_t)r->a->space_mb << 20, &g, err));
	format_bytes(before, g.before);
	format_bytes(after, g.after);
	if (r->a->json)
		printf("{\"blocks\": %llu, \"checkpoints\": %llu, \"files\": %llu, \"before\": %llu, \"after\": %llu}\n",
		       (unsigned long long)g.entries, (unsigned long long)g.checks, (unsigned long long)g.files,
		       (unsigned long long)g.before, (unsigned long long)g.after);
	else
		term_note("%s before, %s after: %llu blocks, %llu checkpoints and %llu files went", before, after,
			  (unsigned long long)g.entries, (unsigned long long)g.checks, (unsigned long long)g.files);
	return OK;
}

/* ------------------------------------------------------------------ the command */

static const struct action {
	const char *name;
	bool writes, words;
	enum status (*run)(struct kv_run *r, struct err *err);
} actions[] = {
	{"ls", false, true, list},
	{"show", false, true, show},
	{"rm", true, false, remove_talks},
	{"verify", false, false, verify},
	{"gc", true, false, collect_garbage},
};

static void notice(void *ctx, const char *sentence)
{
	(void)ctx;
	term_note("%s", sentence);
}

/* The vocabulary of the model that was named; without one, of the one that would be used, if there is one. */
static enum status open_words(struct kv_run *r, struct err *err)
{
	const char *path;

	if (r->a->model)
		return kv_words_open(&r->words, r->a->model, err);
	if (cli_choose_model(&path, NULL, NULL) != OK || kv_words_open(&r->words, path, NULL) != OK)
		r->words = (struct kv_words){.n = 0};
	return OK;
}

static enum status run_action(struct kv_run *r, const struct action *action, struct err *err)
{
	char folder[PLACE_SIZE];
	struct kvstore_options o = {.dir = folder, .read_only = !action->writes, .warn = notice};
	enum status st;

	if (!cli_kv_dir(folder, sizeof folder, r->a->kv_dir))
		return err_set(err, ERR_ARGUMENT, "kv: no folder is known: name one with --kv-dir DIR");
	if (action->words)
		TRY(open_words(r, err));
	st = kvstore_open(&r->ks, &o, err);
	if (st == OK && action->writes && !kvstore_writes(r->ks))
		st = err_set(err, ERR_IO, "%s: cannot be changed now: another process has it, or it is read-only", folder);
	if (st == OK)
		st = action->run(r, err);
	kvstore_close(r->ks);
	kv_words_clear(&r->words);
	return st;
}

static enum status kv(void *options, struct err *err)
{
	struct kv_run r = {.a = options};
	const char *name = r.a->what.n ? r.a->what.item[0] : "ls";

	cli_interrupt_twice_kills();
	for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
		if (!strcmp(actions[i].name, name))
			return run_action(&r, &actions[i], err);
	return err_set(err, ERR_ARGUMENT, "kv: expected ls, show, rm, verify or gc, found '%.40s'", name);
}

static const struct arg_spec kv_arg_rows[] = {
	ARG_REST("ls|show|rm|verify|gc [ID]", struct kv_options, what, 0, ARG_LIST_MAX,
		 "what to do (ls), with which conversations"),
	ARG_TEXT("kv-dir", 0, struct kv_options, kv_dir, "DIR", "the folder (the user's folder for caches, ds4/kv)"),
	ARG_INT("kv-space-mb", 0, struct kv_options, space_mb, 1, 1 << 30, "N", "gc: leave at most N megabytes"),
	ARG_FLAG("verify", 0, struct kv_options, verify, "gc: compare every checksum first, what is wrong goes"),
	ARG_FLAG("all", 0, struct kv_options, all, "rm: everything"),
	ARG_FLAG("json", 0, struct kv_options, json, "JSON instead of text"),
	CLI_MODEL_ROW(struct kv_options),
	ARG_END
};

static const char *const kv_examples[] = {
	"ds4 kv",
	"ds4 kv show 3f2a",
	"ds4 kv rm 3f2a 90bc",
	"ds4 kv gc --kv-space-mb 2k",
	"ds4 kv verify --json",
	NULL
};

static const struct kv_options kv_defaults = {.json = false};

const struct cli_command kv_command = {
	.args = {"kv", "what is kept on disk of what was read",
		 "Chat and server keep the state of what they have read, so that no prompt is read twice.  ls lists the "
		 "conversations in it by their first words, show tells everything about one, rm removes some, verify "
		 "compares every checksum, gc removes what is known to be damaged, unreachable or too much.  Deleting the "
		 "folder is safe, too.  Texts are shown for the model of -m.",
		 kv_arg_rows, kv_examples},
	.defaults = &kv_defaults,
	.size = sizeof kv_defaults,
	.run = kv,
};
