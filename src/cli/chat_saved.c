/* chat_saved.c - /list /save /switch /fork /del: the chat's commands about whole conversations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cli/chat.h"
#include "cli/term.h"

#define LIST_SHOWN 20

static bool failed(struct chat *c, enum status st, const struct err *err)
{
	if (st == OK)
		return false;
	if (term_in_tty())
		term_note("%s", err->msg);
	else
		chat_fail(c, err);
	return true;
}

/* "40 s", "3 min", "5 h", "12 days" */
static void format_age(char *out, size_t room, double seconds)
{
	if (seconds < 60)
		snprintf(out, room, "%d s", seconds > 0 ? (int)seconds : 0);
	else if (seconds < 3600)
		snprintf(out, room, "%d min", (int)(seconds / 60));
	else if (seconds < 172800)
		snprintf(out, room, "%d h", (int)(seconds / 3600));
	else
		snprintf(out, room, "%d days", (int)(seconds / 86400));
}

/* A title shortened to some columns, "…" at its end; counts characters, which is near enough for a list. */
static void shorten(char *out, size_t room, const char *text, size_t columns)
{
	size_t n = strlen(text), used = 0, count = 0, keep = 0;
	uint32_t cp;

	while (used < n && count < columns) {
		if (++count == columns)
			keep = used;
		used += utf8_decode(text + used, n - used, &cp, NULL);
	}
	if (used < n)
		snprintf(out, room, "%.*s…", (int)keep, text);
	else
		snprintf(out, room, "%s%*s", text, (int)(columns - count), "");
}

static void show_entry(const struct chat *c, const struct talk_entry *e, int number)
{
	bool now = !strcmp(c->talks.now->id, e->id);
	char age[24], text[4 * CHATLOG_TITLE], title[CHATLOG_TITLE + CHATLOG_NAME + 4];
	int width = term_width() - 31;

	if (e->info.damaged && !e->info.turns)
		snprintf(title, sizeof title, "(cannot be read: %s)", e->id);
	else if (e->info.name[0])
		snprintf(title, sizeof title, "%s: %s", e->info.name, e->info.title);
	else
		snprintf(title, sizeof title, "%s", e->info.turns ? e->info.title : "(empty)");
	format_age(age, sizeof age, e->age);
	shorten(text, sizeof text, title, width < 16 ? 16 : width > 100 ? 100 : (size_t)width);
	term_note("%3d%c %s %4zu turn%s %7s ago", number, now ? '*' : ' ', text, e->info.turns,
		  e->info.turns == 1 ? " " : "s", age);
}

void chat_list(struct chat *c, const char *argument)
{
	struct talk_entry *list;
	struct err err = {.code = OK};
	int n, shown;

	talks_save(&c->talks, false);
	if (failed(c, talks_list(&c->talks, &list, &n, &err), &err))
		return;
	talks_remember_list(&c->talks, list, n);
	shown = !strcmp(argument, "all") || n <= LIST_SHOWN ? n : LIST_SHOWN;
	for (int i = 0; i < shown; i++)
		show_entry(c, &list[i], i + 1);
	if (!n)
		term_note("no conversation is saved yet");
	else if (shown < n)
		term_note("and %d more: /list all", n - shown);
	if (!c->talks.now->log)
		term_note("this one is not saved%s", c->talks.saving ? " until something is said" : "; /save saves it");
	mem_free(list);
}

/* A name that /switch would take for a number would not be found again. */
static bool is_number(const char *s)
{
	return *s && s[strspn(s, "0123456789")] == 0;
}

void chat_name(struct chat *c, const char *argument)
{
	if (is_number(argument)) {
		term_note("/save: a name of digits alone would be taken for a number of /list");
		return;
	}
	if (strlen(argument) >= CHATLOG_NAME) {
		term_note("/save: expected a name of at most %d bytes, found %zu", CHATLOG_NAME - 1, strlen(argument));
		return;
	}
	if (*argument)
		talks_name(&c->talks, argument);
	else
		talks_save(&c->talks, true);
	if (!c->talks.now->log)
		return;
	chatlog_sync(c->talks.now->log);
	if (c->talks.now->name[0])
		term_note("saved as %s; /switch %s comes back to it", c->talks.now->name, c->talks.now->name);
	else
		term_note("saved; /save NAME gives it a name");
}

void chat_switch(struct chat *c, const char *argument)
{
	char id[TALK_ID];
	struct err err = {.code = OK};

	talks_save(&c->talks, false);
	if (failed(c, talks_find(&c->talks, argument, id, &err), &err))
		return;
	if (!strcmp(id, c->talks.now->id)) {
		term_note("this is it");
		return;
	}
	failed(c, chat_enter(c, id, &err), &err);
}

void chat_fork(struct chat *c, const char *argument)
{
	struct err err = {.code = OK};

	talks_save(&c->talks, false);
	if (failed(c, talks_fork(&c->talks, &err), &err))
		return;
	if (*argument)
		chat_name(c, argument);
	else
		talks_save(&c->talks, false);
	term_note("a copy of the conversation; the other stays as it is");
}

void chat_delete(struct chat *c, const char *argument)
{
	char id[TALK_ID];
	struct err err = {.code = OK};

	if (*argument) {
		if (failed(c, talks_find(&c->talks, argument, id, &err), &err))
			return;
	} else {
		snprintf(id, sizeof id, "%s", c->talks.now->id);
	}
	if (!*id || !strcmp(id, c->talks.now->id)) {
		bool saved = *id;

		if (failed(c, chat_reset(c, &err), &err))
			return;
		if (saved && failed(c, talks_delete(&c->talks, id, &err), &err))
			return;
		term_note("the conversation is deleted; this is a new one");
		return;
	}
	if (!failed(c, talks_delete(&c->talks, id, &err), &err))
		term_note("deleted");
	talks_remember_list(&c->talks, NULL, 0);
}
