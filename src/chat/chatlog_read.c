/* chatlog_read.c - lines of a conversation's file -> the conversation, as far as they verify.
 *
 * How   Every line is one step of a small machine: message, answer, ids, end, cut, name.  An answer that is followed by
 *       anything but its ids and its end was given up; one that the file ends with was cut off by a kill, and its text
 *       is decoded from its ids.
 * Careful
 *       - The checksum is compared before anything is parsed, and a line that does not fit the machine counts as
 *         damage: what is behind it has no meaning.
 *       - A torn last line (no line break) is what a crash leaves; that alone is not called damage. */
#include <string.h>

#include "base/hash.h"
#include "base/utf8.h"
#include "chat/answer.h"
#include "chat/chatlog_int.h"
#include "chat/replay.h"

struct reader {
	struct chatlog_state *s;
	const struct tokenizer *t;
	bool other;		/* ids are of another vocabulary, or not asked for */
	bool begun;		/* the first line was read */
};

uint64_t chatlog_vocabulary(const struct tokenizer *t)
{
	return replay_vocabulary(t);
}

void chatlog_state_clear(struct chatlog_state *s)
{
	conversation_free(s->c);
	s->c = NULL;
	token_list_clear(&s->ids);
}

/* ------------------------------------------------------------------ small texts */

/* The first line, whole characters, nothing that commands a terminal. */
static void copy_line(char *out, size_t room, const char *text, size_t n)
{
	size_t i = 0;

	while (i < n && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t'))
		i++;
	text += i;
	n -= i;
	for (i = 0; i < n && text[i] != '\n' && text[i] != '\r'; i++)
		;
	n = i < room - 1 ? i : utf8_whole(text, room - 1);
	for (i = 0; i < n; i++)
		out[i] = (unsigned char)text[i] < 32 || text[i] == 127 ? ' ' : text[i];
	out[n] = 0;
}

static void count_messages(struct chatlog_info *info, const struct conversation *c)
{
	info->turns = 0;
	for (size_t i = 0; i < c->n; i++) {
		const struct message *m = &c->messages[i];

		if (m->role == ROLE_USER && info->turns++ == 0)
			copy_line(info->title, sizeof info->title, m->content.n ? m->content.p : "", m->content.n);
	}
}

/* ------------------------------------------------------------------ the machine */

static bool read_head(struct reader *r, const json_t *o)
{
	struct chatlog_info *info = &r->s->info;
	const char *vocabulary, *model;
	size_t n;

	if (json_integer_value(json_object_get(o, "ds4_chat")) != CHATLOG_VERSION)
		return false;
	vocabulary = json_get_text(o, "vocabulary", &n);
	if (!vocabulary)
		return false;
	if (r->t) {
		char want[24];

		snprintf(want, sizeof want, "%016llx", (unsigned long long)chatlog_vocabulary(r->t));
		info->other_vocabulary = strcmp(want, vocabulary) != 0;
	}
	r->other = !r->t || info->other_vocabulary;
	info->created = (uint64_t)json_integer_value(json_object_get(o, "created"));
	model = json_get_text(o, "model", &n);
	if (model)
		copy_line(info->model, sizeof info->model, model, n);
	r->begun = true;
	return true;
}

static bool add_message(struct reader *r, json_t *m)
{
	json_t *list = json_array();
	bool ok = list && json_array_append(list, m) == 0 && conversation_add_json(r->s->c, list, NULL) == OK;

	json_decref(list);
	return ok;
}

static bool read_ids(struct reader *r, const json_t *ids)
{
	if (!json_is_array(ids) || !r->s->answering)
		return false;
	r->s->info.tokens += json_array_size(ids);
	for (size_t i = 0; !r->other && i < json_array_size(ids); i++) {
		json_int_t id = json_integer_value(json_array_get(ids, i));

		if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= tokenizer_size(r->t))
			return false;
		token_push(&r->s->ids, (int32_t)id);
	}
	return true;
}

static bool read_end(struct reader *r, json_t *m)
{
	struct conversation *c = r->s->c;

	if (!r->s->answering || !add_message(r, m) || c->messages[c->n - 1].role != ROLE_ASSISTANT)
		return false;
	if (!r->other)
		conversation_set_exact(c, &c->messages[c->n - 1], r->t, r->s->thinking, r->s->ids.id, r->s->ids.n);
	r->s->answering = false;
	return true;
}

static bool read_cut(struct reader *r, const json_t *n)
{
	json_int_t keep = json_integer_value(n);

	r->s->answering = false;
	if (!json_is_integer(n) || keep < 0 || (size_t)keep > r->s->c->n)
		return false;
	conversation_cut(r->s->c, (size_t)keep);
	return true;
}

static bool read_answer(struct reader *r, const json_t *o)
{
	if (!json_is_object(o))
		return false;
	r->s->answering = true;
	r->s->thinking = json_is_true(json_object_get(o, "thinking")) ? THINKING_ON : THINKING_OFF;
	r->s->info.thinking = r->s->thinking == THINKING_ON;
	token_list_clear(&r->s->ids);
	return true;
}

static bool take_line(struct reader *r, const json_t *o)
{
	json_t *v;
	size_t n;
	const char *name;

	if (!r->begun)
		return read_head(r, o);
	v = json_object_get(o, "ids");
	if (v)
		return read_ids(r, v);
	v = json_object_get(o, "end");
	if (v)
		return read_end(r, v);
	v = json_object_get(o, "answer");
	if (v)
		return read_answer(r, v);
	v = json_object_get(o, "message");
	if (v) {
		r->s->answering = false;
		return add_message(r, v);
	}
	v = json_object_get(o, "cut");
	if (v)
		return read_cut(r, v);
	name = json_get_text(o, "name", &n);
	if (name)
		copy_line(r->s->info.name, sizeof r->s->info.name, name, n);
	return name != NULL;
}

/* The JSON of a line whose checksum is right; NULL otherwise. */
static const char *check_line(const char *line, size_t *n)
{
	char want[CHATLOG_SUM + 1];

	if (*n <= CHATLOG_SUM)
		return NULL;
	*n -= CHATLOG_SUM;
	snprintf(want, sizeof want, "%016llx ", (unsigned long long)hash64(line + CHATLOG_SUM, *n));
	return memcmp(want, line, CHATLOG_SUM) == 0 ? line + CHATLOG_SUM : NULL;
}

/* ------------------------------------------------------------------ an answer that was cut off */

static bool decode_rest(struct reader *r)
{
	struct chatlog_state *s = r->s;
	struct answer a;
	struct decode_options o = {.thinking = s->thinking, .ctx = &a, .take = answer_take};
	struct decode *d;
	struct message *m = NULL;

	for (size_t i = 0; i < s->c->n; i++)
		o.tools = s->c->messages[i].tools ? s->c->messages[i].tools : o.tools;
	o.tools_active = o.tools != NULL;
	d = decode_new(r->t, &o);
	answer_init(&a);
	for (size_t i = 0; d && i < s->ids.n && decode_push(d, s->ids.id[i]); i++)
		;
	if (d) {
		decode_finish(d, FINISH_LENGTH);
		m = decode_ok(d) && answer_ok(&a) ? answer_add(&a, s->c) : NULL;
	}
	if (m)
		conversation_set_exact(s->c, m, r->t, s->thinking, s->ids.id, s->ids.n);
	answer_clear(&a);
	decode_free(d);
	return m != NULL;
}

/* ------------------------------------------------------------------ whole files */

/* Takes lines until one is not good. */
static void take_lines(struct reader *r, const char *text, size_t n)
{
	struct chatlog_state *s = r->s;
	const char *end;

	while (s->good < n && (end = memchr(text + s->good, '\n', n - s->good)) != NULL) {
		size_t line = (size_t)(end - text) - s->good, bytes = line;
		const char *json = check_line(text + s->good, &bytes);
		json_t *o = json ? json_parse(json, bytes, NULL) : NULL;
		bool ok = o && take_line(r, o);

		json_decref(o);
		if (!ok)
			break;
		s->good += line + 1;
	}
	s->info.damaged = s->good < n && memchr(text + s->good, '\n', n - s->good) != NULL;
}

enum status chatlog_parse(struct chatlog_state *s, const char *text, size_t n, const struct tokenizer *t, struct err *err)
{
	struct reader r = {.s = s, .t = t};
	bool ok;

	*s = (struct chatlog_state){.c = conversation_new(), .info = {.bytes = n}};
	if (s->c)
		take_lines(&r, text, n);
	ok = s->c && !s->c->failed && !s->ids.failed;
	if (ok && r.begun && s->answering) {
		s->info.cut_off = s->ids.n > 0;
		ok = !s->ids.n || decode_rest(&r);
	}
	s->answering = ok && s->info.cut_off;
	if (!ok || !r.begun) {
		chatlog_state_clear(s);
		return ok ? err_set(err, ERR_FORMAT, "is no conversation of ds4 chat")
			  : err_set(err, ERR_MEMORY, "no memory to read it");
	}
	count_messages(&s->info, s->c);
	return OK;
}
