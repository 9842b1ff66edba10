/* talks.c - open conversations, their sessions and files; see talks.h.
 *
 * How   talks.open is a small array of pointers; `now` is one of them.  The pool's reclaim, which is the prefix tree's, is
 *       wrapped: when the tree has nothing to give, a session goes, and then the tree has.
 * Careful
 *       - A session is closed from within a step of another one (reclaim): it must not be the current one.
 *       - A conversation without a user message has no file and is forgotten when it is left.
 *       - Files of other vocabularies are read as texts; what is said then is saved into a file of this vocabulary. */
#include "cli/talks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "chat/replay.h"
#include "cli/places.h"
#include "cli/term.h"

#define SUFFIX ".chat"

static bool path_of(const struct talks *t, const char *id, char out[PLACE_SIZE])
{
	return t->folder && snprintf(out, PLACE_SIZE, "%s/%s" SUFFIX, t->folder, id) < PLACE_SIZE;
}

/* ------------------------------------------------------------------ sessions */

/* Lets go of the session that was not used for longest, but not of the current one. */
static bool drop_session(struct talks *t)
{
	struct talk *oldest = NULL;

	for (int i = 0; i < t->n; i++)
		if (t->open[i] != t->now && t->open[i]->session && (!oldest || t->open[i]->used < oldest->used))
			oldest = t->open[i];
	if (!oldest)
		return false;
	session_close(oldest->session);
	oldest->session = NULL;
	return true;
}

static bool reclaim(void *ctx, bool check)
{
	struct talks *t = ctx;

	while (!t->reclaim(t->reclaim_ctx, check))
		if (!drop_session(t))
			return false;
	return true;
}

static int count_sessions(const struct talks *t)
{
	int n = 0;

	for (int i = 0; i < t->n; i++)
		n += t->open[i]->session != NULL;
	return n;
}

enum status talks_session(struct talks *t, struct session **out, struct err *err)
{
	while (count_sessions(t) > TALKS_SESSIONS - (t->now->session ? 0 : 1) && drop_session(t))
		;
	if (!t->now->session)
		TRY(session_open(&t->now->session, t->e, err));
	*out = t->now->session;
	return OK;
}

/* ------------------------------------------------------------------ open ones */

static void talk_free(struct talk *talk)
{
	if (!talk)
		return;
	chatlog_close(talk->log);
	session_close(talk->session);
	conversation_free(talk->conversation);
	mem_free(talk);
}

static void forget(struct talks *t, struct talk *talk)
{
	int i = 0;

	while (i < t->n && t->open[i] != talk)
		i++;
	if (i < t->n)
		t->open[i] = t->open[--t->n];
	if (t->now == talk)
		t->now = NULL;
	talk_free(talk);
}

static bool has_question(const struct conversation *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->messages[i].role == ROLE_USER)
			return true;
	return false;
}

/* Nothing was said in it, and it has no name: it goes, its file too. */
static void forget_empty(struct talks *t, struct talk *talk)
{
	char path[PLACE_SIZE];
	bool file = talk->log && !talk->name[0] && path_of(t, talk->id, path);

	if (has_question(talk->conversation) && talk->log)
		return;
	forget(t, talk);
	if (file)
		unlink(path);
}

/* Makes `talk` the current one.  What is left behind stays open if anything was said and can be found again. */
static void go_to(struct talks *t, struct talk *talk)
{
	struct talk *left = t->now, *oldest = NULL;

	if (t->n == TALKS_OPEN) {
		for (int i = 0; i < t->n; i++)
			if (t->open[i] != left && (!oldest || t->open[i]->used < oldest->used))
				oldest = t->open[i];
		forget(t, oldest);
	}
	talk->used = ++t->clock;
	t->open[t->n++] = talk;
	t->now = talk;
	if (left)
		forget_empty(t, left);
}

enum status talks_begin(struct talks *t, struct conversation *fresh, struct err *err)
{
	struct talk *talk = mem_zero(sizeof *talk);

	if (!talk) {
		conversation_free(fresh);
		return err_set(err, ERR_MEMORY, "no memory for a conversation");
	}
	talk->conversation = fresh;
	go_to(t, talk);
	return OK;
}

enum status talks_enter(struct talks *t, const char *id, struct chatlog_info *info, bool *read, struct err *err)
{
	struct talk *talk, *left = t->now;
	char path[PLACE_SIZE];
	enum status st;

	*read = false;
	for (int i = 0; i < t->n; i++) {
		if (strcmp(t->open[i]->id, id))
			continue;
		t->now = t->open[i];
		t->now->used = ++t->clock;
		if (left && left != t->now)
			forget_empty(t, left);
		return OK;
	}
	if (!path_of(t, id, path))
		return err_set(err, ERR_ARGUMENT, "%s: there is no folder for saved conversations", id);
	talk = mem_zero(sizeof *talk);
	if (!talk)
		return err_set(err, ERR_MEMORY, "no memory for a conversation");
	st = chatlog_open(&talk->log, path, t->e->tokenizer, &talk->conversation, info, err);
	if (st != OK) {
		mem_free(talk);
		return st;
	}
	snprintf(talk->id, sizeof talk->id, "%s", id);
	snprintf(talk->name, sizeof talk->name, "%s", info->name);
	talk->thinking = info->thinking ? THINKING_ON : THINKING_OFF;
	talk->cut_off = info->cut_off;
	if (info->other_vocabulary) {	/* its ids are not ours: goes on in a file of its own */
		chatlog_close(talk->log);
		talk->log = NULL;
		talk->id[0] = 0;
	}
	go_to(t, talk);
	*read = true;
	return OK;
}

/* A copy of all messages, ids included. */
static struct conversation *copy_conversation(const struct conversation *from, const struct tokenizer *tokenizer)
{
	struct conversation *c = conversation_new();

	for (size_t i = 0; c && i < from->n; i++) {
		const struct message *m = &from->messages[i];
		struct message *copy = conversation_add(c, m->role, m->content.n ? m->content.p : "", m->content.n);

		if (!copy)
			break;
		if (m->reasoning.n)
			conversation_set_reasoning(c, copy, m->reasoning.p, m->reasoning.n);
		for (size_t k = 0; k < m->n_calls; k++)
			conversation_add_call(c, copy, &m->calls[k]);
		if (m->tool_call_id.n) {
			copy->tool_call_id.p = mem_strn(m->tool_call_id.p, m->tool_call_id.n);
			copy->tool_call_id.n = copy->tool_call_id.p ? m->tool_call_id.n : 0;
			c->failed |= !copy->tool_call_id.p;
		}
		copy->task = m->task;
		copy->tools = json_incref(m->tools);
		copy->response_format = json_incref(m->response_format);
		if (m->exact.n)
			conversation_set_exact(c, copy, tokenizer, m->exact.thinking, m->exact.id, m->exact.n);
	}
	if (c && conversation_ok(c))
		return c;
	conversation_free(c);
	return NULL;
}

enum status talks_fork(struct talks *t, struct err *err)
{
	struct talk *from = t->now;
	struct session *session = NULL;
	struct conversation *copy = copy_conversation(from->conversation, t->e->tokenizer);

	if (!copy)
		return err_set(err, ERR_MEMORY, "no memory for a copy of the conversation");
	if (from->session && session_fork(&session, from->session, err) != OK)
		session = NULL;		/* it is read again, from the prefix tree */
	if (talks_begin(t, copy, err) != OK) {
		session_close(session);
		return err->code;
	}
	t->now->session = session;
	t->now->thinking = from->thinking;
	return OK;
}

/* ------------------------------------------------------------------ files */

/* Date, time and four digits. */
static bool make_id(const struct talks *t, char id[TALK_ID], char path[PLACE_SIZE])
{
	char random[REPLAY_CALL_ID_SIZE], when[20];
	time_t now = time(NULL);
	struct tm tm;

	localtime_r(&now, &tm);
	strftime(when, sizeof when, "%Y%m%d-%H%M%S", &tm);
	replay_call_id(random);
	snprintf(id, TALK_ID, "%s-%.4s", when, random + 5);
	return path_of(t, id, path);
}

static enum status make_file(struct talks *t, struct talk *talk, struct err *err)
{
	char path[PLACE_SIZE];
	enum status st;

	if (!t->folder)
		return err_set(err, ERR_ARGUMENT, "there is no folder for conversations: name one with --chats DIR");
	for (int tries = 0;; tries++) {
		if (!make_id(t, talk->id, path))
			return err_set(err, ERR_ARGUMENT, "%.60s...: the path is too long", t->folder);
		TRY(place_make(path, err));
		st = chatlog_create(&talk->log, path, t->e->tokenizer, t->e->name, err);
		if (st != ERR_IO || tries == 10 || access(path, F_OK) < 0)
			return st;
	}
}

void talks_save(struct talks *t, bool force)
{
	struct talk *talk = t->now;
	struct err err = {.code = OK};

	if (!talk->log && !talk->told && (force || (t->saving && has_question(talk->conversation)))) {
		if (make_file(t, talk, &err) != OK) {
			talk->id[0] = 0;
			talk->told = true;
			term_note("the conversation is not saved: %s", err.msg);
		} else if (talk->name[0]) {
			chatlog_set_name(talk->log, talk->name);
		}
	}
	if (!talk->log)
		return;
	chatlog_save(talk->log, talk->conversation);
	if (chatlog_trouble(talk->log) && !talk->told) {
		talk->told = true;
		term_note("%s", chatlog_trouble(talk->log));
	}
}

void talks_name(struct talks *t, const char *name)
{
	snprintf(t->now->name, sizeof t->now->name, "%s", name);
	t->now->told = false;
	talks_save(t, true);
	if (t->now->log)
		chatlog_set_name(t->now->log, t->now->name);
}

enum status talks_delete(struct talks *t, const char *id, struct err *err)
{
	char path[PLACE_SIZE];

	for (int i = 0; i < t->n; i++) {
		if (strcmp(t->open[i]->id, id) || t->open[i] == t->now)
			continue;
		forget(t, t->open[i]);
		break;
	}
	if (!path_of(t, id, path))
		return err_set(err, ERR_ARGUMENT, "%s: there is no folder for saved conversations", id);
	if (unlink(path) < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
	return OK;
}

/* ------------------------------------------------------------------ begin and end */

enum status talks_init(struct talks *t, struct engine *e, const char *folder, bool saving, struct err *err)
{
	*t = (struct talks){.e = e, .saving = saving && folder};
	if (folder && !(t->folder = mem_str(folder)))
		return err_set(err, ERR_MEMORY, "no memory for the folder of conversations");
	t->reclaim = e->pool.reclaim;
	t->reclaim_ctx = e->pool.reclaim_ctx;
	e->pool.reclaim = reclaim;
	e->pool.reclaim_ctx = t;
	return OK;
}

void talks_clear(struct talks *t)
{
	while (t->n)
		forget(t, t->open[t->n - 1]);
	if (t->reclaim) {
		t->e->pool.reclaim = t->reclaim;
		t->e->pool.reclaim_ctx = t->reclaim_ctx;
	}
	mem_free(t->listed);
	mem_free(t->folder);
	*t = (struct talks){0};
}
