/* backing.c - what stands behind the answers: engine, its thread, replay, disk cache, opened in the background.
 *
 * Careful
 *   - The disk cache belongs to the engine's thread: it is attached before that thread starts and flushed after it has
 *     ended.
 *   - Turns borrow all of this: it is closed when the last generation has gone. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kvstore/kvstore.h"
#include "server/server_int.h"

static void warn(void *ctx, const char *text)
{
	struct server *s = ctx;

	log_line(s->log, "warning: %s", text);
}

/* History and answers on disk stand in one folder, which the store makes. */
static enum status open_disk(struct server *s, struct err *err)
{
	struct kvstore_options o = {.dir = s->o.kv_dir, .budget = s->o.kv_bytes, .warn = warn, .warn_ctx = s};

	if (!s->o.kv_dir)
		return OK;
	server_phase(&s->progress, "opening the disk cache");
	TRY(kvstore_open(&s->kvstore, &o, err));
	return kvstore_attach(s->kvstore, s->engine->tree, &s->engine->pool, engine_fingerprint(s->engine), err);
}

static enum status open_replay(struct server *s, struct err *err)
{
	struct replay_options o = {.max_bytes = s->o.replay_bytes, .tokenizer = s->engine->tokenizer, .warn = warn,
				   .ctx = s};
	char path[PATH_MAX];

	if (!s->o.replay)
		return OK;
	if (s->o.kv_dir) {
		snprintf(path, sizeof path, "%s/replay-%016llx", s->o.kv_dir,
			 (unsigned long long)replay_vocabulary(s->engine->tokenizer));
		o.path = path;
	}
	return replay_open(&s->replay, &o, err);
}

static void fill_env(struct server *s)
{
	struct tree_key key = engine_fingerprint(s->engine);

	snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%010llx",
		 (unsigned long long)(key.low ^ tree_key_of(s->o.version, strlen(s->o.version)).low) & 0xffffffffffULL);
	s->turn = (struct turn_context){.engine = s->engine, .worker = s->worker, .replay = s->replay, .tables = s->tables};
	s->turn.profile = s->o.profile >= 0 ? (enum profile)s->o.profile :
			  profile_guess(s->engine->name, strlen(s->engine->name));
	s->env = (struct dialect_env){.tokenizer = s->engine->tokenizer, .model = s->o.model_id,
				      .fingerprint = s->fingerprint, .profile = s->turn.profile,
				      .context = s->engine->opt.context, .thinking_samples = s->o.thinking_samples,
				      .completions_chat = s->o.completions_chat};
}

enum status backing_open(struct server *s, struct err *err)
{
	TRY(s->o.load(s->o.load_ctx, &s->engine, &s->progress, err));
	server_phase(&s->progress, "preparing");
	TRY(turn_tables_new(&s->tables, s->engine->tokenizer, err));
	TRY(open_disk(s, err));
	TRY(open_replay(s, err));
	if (s->o.stub)
		TRY(stub_open(&s->stub, s->o.stub, err));
	TRY(worker_open(&s->worker, s->engine, NULL, 2 * s->o.limits.send_seconds + 10, err));
	fill_env(s);
	server_phase(&s->progress, "ready");
	return OK;
}

void backing_save(struct server *s)
{
	struct err err = {0};

	worker_close(s->worker);
	s->worker = NULL;
	if (s->kvstore && kvstore_flush(s->kvstore, &err) != OK)
		log_line(s->log, "warning: %s", err.msg);
	kvstore_close(s->kvstore);
	s->kvstore = NULL;
	replay_close(s->replay);
	s->replay = NULL;
}

void backing_close(struct server *s)
{
	backing_save(s);
	stub_close(s->stub);
	turn_tables_free(s->tables);
	engine_close(s->engine);
	s->stub = NULL;
	s->tables = NULL;
	s->engine = NULL;
}
