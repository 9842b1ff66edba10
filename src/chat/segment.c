/* segment.c - see segment.h.
 *
 * Careful
 *       - A run of text ends only at a control token or at spliced ids: tokenizing two neighbouring texts apart
 *         gives other ids than the model was trained on ("S" + "\n\n## Tools" is one run). */
#include "chat/segment.h"

#include <string.h>

void sink_control(struct sink *s, enum special control)
{
	s->take(s, &(struct segment){.kind = SEGMENT_CONTROL, .control = control});
}

void sink_text(struct sink *s, const char *text, size_t n)
{
	if (n)
		s->take(s, &(struct segment){.kind = SEGMENT_TEXT, .text = text, .n = n});
}

void sink_str(struct sink *s, const char *text)
{
	sink_text(s, text, strlen(text));
}

void sink_ids(struct sink *s, const int32_t *id, size_t n)
{
	if (n)
		s->take(s, &(struct segment){.kind = SEGMENT_IDS, .id = id, .n = n});
}

void sink_json(struct sink *s, const json_t *v)
{
	struct buf b = BUF_CAP(BUF_MAX);

	json_write_python(&b, v);
	s->failed |= !buf_ok(&b);
	sink_text(s, b.data, b.len);
	buf_clear(&b);
}

void sink_template(struct sink *s, const char *text)
{
	static const enum special marks[] = {SPECIAL_DSML, SPECIAL_THINK, SPECIAL_END_THINK};
	const char *start = text;

	while (*text) {
		size_t n = 0;

		for (size_t i = 0; i < sizeof marks / sizeof marks[0] && !n; i++) {
			size_t len = strlen(special_text(marks[i]));

			if (strncmp(text, special_text(marks[i]), len) == 0) {
				sink_text(s, start, (size_t)(text - start));
				sink_control(s, marks[i]);
				n = len;
				start = text + len;
			}
		}
		text += n ? n : 1;
	}
	sink_text(s, start, (size_t)(text - start));
}

static void text_take(struct sink *sink, const struct segment *segment)
{
	struct text_sink *s = (struct text_sink *)sink;

	switch (segment->kind) {
	case SEGMENT_CONTROL:
		buf_str(s->out, special_text(segment->control));
		break;
	case SEGMENT_TEXT:
		buf_add(s->out, segment->text, segment->n);
		break;
	case SEGMENT_IDS:
		for (size_t i = 0; i < segment->n; i++) {
			size_t n;
			const char *bytes = token_bytes(s->tokenizer, segment->id[i], &n);

			buf_add(s->out, bytes, n);
		}
		break;
	}
}

void text_sink_init(struct text_sink *s, const struct tokenizer *t, struct buf *out)
{
	*s = (struct text_sink){.sink = {.take = text_take}, .tokenizer = t, .out = out};
}

static void flush_run(struct id_sink *s)
{
	if (!s->run.len)
		return;
	token_encode_text(s->tokenizer, s->run.data, s->run.len, s->out);
	buf_cut(&s->run, 0);
}

static void id_take(struct sink *sink, const struct segment *segment)
{
	struct id_sink *s = (struct id_sink *)sink;
	int32_t id;

	if (segment->kind == SEGMENT_TEXT) {
		buf_add(&s->run, segment->text, segment->n);
		return;
	}
	flush_run(s);
	if (segment->kind == SEGMENT_IDS) {
		token_append(s->out, segment->id, segment->n);
		return;
	}
	id = tokenizer_special(s->tokenizer, segment->control);
	if (id < 0 && s->missing < 0)
		s->missing = (int)segment->control;
	token_push(s->out, id);
}

void id_sink_init(struct id_sink *s, const struct tokenizer *t, struct token_list *out)
{
	*s = (struct id_sink){.sink = {.take = id_take}, .tokenizer = t, .out = out, .missing = -1};
	s->run = (struct buf)BUF_CAP(BUF_MAX);
}

enum status id_sink_finish(struct id_sink *s, struct err *err)
{
	bool ok;

	flush_run(s);
	ok = buf_ok(&s->run) && !s->out->failed;
	buf_clear(&s->run);
	if (!ok)
		return err_set(err, ERR_MEMORY, "prompt: no memory for its tokens");
	if (s->missing >= 0)
		return err_set(err, ERR_ARGUMENT, "prompt: expected %s in the vocabulary, found no such token",
			       special_text((enum special)s->missing));
	return OK;
}
