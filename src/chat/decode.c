/* decode.c - the streaming parser of generated tokens; see decode.h.
 *
 * What  Four states: THINK and TEXT pass text on, STRAY swallows a closing tag without a block, BLOCK hands
 *       everything to dsml_read.c.
 * Why   A model forgets "</think>" before a call, misspells the opener, or writes about tool calls in prose.
 *       Which of these it is shows only at the end of the block.
 * How   A block starts provisional: its bytes are kept raw and what the reader reports is queued.
 *       commit   the queue goes out, reasoning or content is over: at the first call when the block is in TEXT
 *                and its opener is "tool_calls"; at a call's closer when there is no proper opener; at the
 *                block's closer when it stands in reasoning.
 *       release  the raw bytes were text after all: they go out with the bars of control tokens doubled.
 * Careful
 *       - The white space before a block is its separator, not content.  The same goes for an empty block
 *         and for a stray closer, unless text follows.
 *       - A call whose name was reported cannot be taken back: cut off there, the answer ends with
 *         FINISH_LENGTH, never with an error.
 *       - The last incomplete character of one channel must not join the first bytes of the next. */
#include "chat/decode.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

#define BAR "｜"
#define MAX_CLOSER 64	/* longest stray closing tag that is swallowed */

enum decode_state { STATE_THINK, STATE_TEXT, STATE_STRAY, STATE_BLOCK };

struct queued {
	enum piece_kind kind;
	size_t start, n;	/* in queue_text */
};

struct decode {
	const struct tokenizer *tokenizer;
	struct decode_options options;
	enum decode_state state;
	enum decode_state outside;	/* THINK or TEXT: where the block or closer stands */
	bool over, failed;

	struct buf held;	/* white space, "<", "</" that may belong to a block */
	bool separator;		/* the white space in held stood before something swallowed */
	struct buf raw;		/* of a provisional block or a stray closer, as text to release */

	struct dsml_events events;
	struct dsml_reader reader;	/* live in STATE_BLOCK */
	bool provisional, refuted;	/* refuted: names a tool that is not declared */
	struct buf queue, queue_text;	/* struct queued [], what a provisional block reports */
	size_t n_calls;			/* reported */

	enum piece_kind channel;	/* what out holds: reasoning, content or arguments */
	struct buf out, clean;		/* bytes not delivered yet; the same as whole characters */
	struct detok detok;
};

/* --- delivery --- */

static void deliver(struct decode *d, const struct piece *piece)
{
	d->options.take(d->options.ctx, piece);
}

/* Delivers the whole characters in out; at the end of a channel also what is left of one. */
static void flush(struct decode *d, bool end)
{
	if (d->out.len)
		detok_push(&d->detok, d->out.data, d->out.len, &d->clean);
	if (end)
		detok_finish(&d->detok, &d->clean);
	d->failed |= !buf_ok(&d->out) || !buf_ok(&d->clean);
	if (d->clean.len)
		deliver(d, &(struct piece){.kind = d->channel, .index = d->n_calls ? d->n_calls - 1 : 0,
					   .text = d->clean.data, .n = d->clean.len});
	buf_cut(&d->out, 0);
	buf_cut(&d->clean, 0);
}

static void put(struct decode *d, enum piece_kind channel, const char *text, size_t n)
{
	if (d->channel != channel)
		flush(d, true);
	d->channel = channel;
	buf_add(&d->out, text, n);
}

static void put_call_event(struct decode *d, enum piece_kind kind, const char *text, size_t n)
{
	struct buf name = BUF_CAP(BUF_MAX);

	if (kind != PIECE_TOOL_BEGIN && !d->n_calls)
		return;		/* its beginning was lost for want of memory */
	if (kind == PIECE_TOOL_ARGUMENTS) {
		put(d, kind, text, n);
		return;
	}
	flush(d, true);
	if (kind == PIECE_TOOL_BEGIN) {
		utf8_add_lossy(&name, text, n);
		d->failed |= !buf_ok(&name);
		d->n_calls++;
		text = buf_cstr(&name);
		n = name.len;
	}
	deliver(d, &(struct piece){.kind = kind, .index = d->n_calls - 1,
				   .text = kind == PIECE_TOOL_BEGIN ? text : NULL, .n = n});
	buf_clear(&name);
}

/* Text of the current state, outside any block. */
static void put_text(struct decode *d, const char *text, size_t n)
{
	put(d, d->state == STATE_THINK ? PIECE_REASONING : PIECE_CONTENT, text, n);
}

/* A control token as text to be shown: with doubled bars it cannot be taken for the token. */
static void add_shown(struct buf *out, const struct symbol *s)
{
	size_t bar = strlen(BAR), i = 0;

	while (i < s->n) {
		bool is_bar = s->mark != MARK_TEXT && s->n - i >= bar && memcmp(s->text + i, BAR, bar) == 0;
		size_t n = is_bar ? bar : 1;

		buf_add(out, s->text + i, n);
		if (is_bar)
			buf_str(out, BAR);
		i += n;
	}
}

/* --- hold-back outside blocks --- */

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool held_ends(const struct decode *d, const char *end)
{
	size_t n = strlen(end);

	return d->held.len >= n && memcmp(d->held.data + d->held.len - n, end, n) == 0;
}

static void flush_held(struct decode *d)
{
	d->failed |= !buf_ok(&d->held);
	put_text(d, d->held.data, d->held.len);
	buf_cut(&d->held, 0);
	d->separator = false;
}

static void text_byte(struct decode *d, char c)
{
	bool open = held_ends(d, "<");

	if (is_space(c) || c == '<') {
		if (open || held_ends(d, "</"))
			flush_held(d);
		buf_byte(&d->held, c);
	} else if (c == '/' && open) {
		buf_byte(&d->held, c);
	} else {
		if (d->held.len)
			flush_held(d);
		put_text(d, &c, 1);
	}
}

/* --- provisional blocks --- */

static void queue_event(struct decode *d, enum piece_kind kind, const char *text, size_t n)
{
	struct queued q = {.kind = kind, .start = d->queue_text.len, .n = n};

	if (!d->provisional) {
		put_call_event(d, kind, text, n);
		return;
	}
	buf_add(&d->queue, &q, sizeof q);
	if (text)
		buf_add(&d->queue_text, text, n);
}

static void forget_block(struct decode *d)
{
	dsml_reader_clear(&d->reader);
	d->failed |= !buf_ok(&d->queue) || !buf_ok(&d->queue_text) || !buf_ok(&d->raw) || d->reader.failed;
	buf_cut(&d->queue, 0);
	buf_cut(&d->queue_text, 0);
	buf_cut(&d->raw, 0);
	d->provisional = false;
}

static void commit(struct decode *d)
{
	struct queued q;

	d->provisional = false;
	d->reader.hold = false;
	buf_cut(&d->held, 0);
	for (size_t at = 0; at + sizeof q <= d->queue.len; at += sizeof q) {
		memcpy(&q, d->queue.data + at, sizeof q);
		if (q.kind != PIECE_TOOL_END && !buf_ok(&d->queue_text))
			q.start = q.n = 0;
		put_call_event(d, q.kind, buf_cstr(&d->queue_text) + q.start, q.n);
	}
	buf_cut(&d->queue, 0);
	buf_cut(&d->queue_text, 0);
	buf_cut(&d->raw, 0);
}

static void release(struct decode *d)
{
	struct buf text = d->raw;

	d->raw = (struct buf)BUF_CAP(BUF_MAX);
	d->failed |= !buf_ok(&text);
	forget_block(d);
	d->state = d->outside;
	for (size_t i = 0; i < text.len; i++)
		text_byte(d, text.data[i]);
	buf_clear(&text);
}

static void on_begin(void *ctx, const char *name, size_t n)
{
	struct decode *d = ctx;

	if (d->provisional && d->outside == STATE_TEXT && d->reader.proper)
		commit(d);
	else if (d->provisional && d->options.tools && !dsml_find_tool(d->options.tools, name, n))
		d->refuted = true;
	queue_event(d, PIECE_TOOL_BEGIN, name, n);
}

static void on_arguments(void *ctx, const char *json, size_t n)
{
	queue_event(ctx, PIECE_TOOL_ARGUMENTS, json, n);
}

static void on_end(void *ctx, size_t members)
{
	queue_event(ctx, PIECE_TOOL_END, NULL, members);
}

static void start_block(struct decode *d, const struct symbol *s)
{
	buf_cut(&d->held, d->held.len - 1);
	buf_byte(&d->raw, '<');
	add_shown(&d->raw, s);
	dsml_reader_start(&d->reader, &d->events, d->options.tools);
	d->outside = d->state;
	d->state = STATE_BLOCK;
	d->provisional = true;
	d->refuted = false;
}

/* --- states --- */

static void step(struct decode *d, const struct symbol *s);

static void step_text(struct decode *d, const struct symbol *s)
{
	switch (s->mark) {
	case MARK_TEXT:
		text_byte(d, s->text[0]);
		return;
	case MARK_THINK:
		return;
	case MARK_END_THINK:
		if (d->state == STATE_THINK) {
			flush_held(d);
			d->state = STATE_TEXT;
		}
		return;
	case MARK_EOS:
		decode_finish(d, FINISH_STOP);
		return;
	case MARK_DSML:
		if (d->options.tools_active && held_ends(d, "<")) {
			start_block(d, s);
			return;
		}
		if (d->options.tools_active && held_ends(d, "</")) {
			buf_cut(&d->held, d->held.len - 2);
			buf_str(&d->raw, "</");
			add_shown(&d->raw, s);
			d->outside = d->state;
			d->state = STATE_STRAY;
			return;
		}
		break;
	case MARK_OTHER:
		break;
	}
	flush_held(d);
	add_shown(&d->held, s);
	flush_held(d);
}

/* After "</" and the control token where no block is open. */
static void step_stray(struct decode *d, const struct symbol *s)
{
	char c = s->text[0];
	bool name = (c >= 'a' && c <= 'z') || c == '_' || is_space(c);

	if (s->mark == MARK_TEXT && c == '>') {
		forget_block(d);
		d->state = d->outside;
		d->separator = true;
	} else if (s->mark == MARK_TEXT && name && d->raw.len < MAX_CLOSER) {
		buf_byte(&d->raw, c);
	} else {
		release(d);
		step(d, s);
	}
}

static void end_block(struct decode *d, enum finish finish)
{
	if (d->provisional)
		commit(d);
	forget_block(d);
	d->state = STATE_TEXT;
	buf_cut(&d->held, 0);
	decode_finish(d, finish);
}

/* Is a provisional block proved by a complete call, without waiting for the block's closer? */
static bool proved(const struct decode *d)
{
	const struct dsml_reader *r = &d->reader;

	return r->n_calls && !r->in_call && r->state == DSML_BETWEEN && (d->outside == STATE_TEXT || !r->opened);
}

static void step_block(struct decode *d, const struct symbol *s)
{
	if (s->mark == MARK_EOS) {
		decode_finish(d, FINISH_STOP);
		return;
	}
	if (s->mark == MARK_END_THINK && d->provisional && d->outside == STATE_THINK) {
		release(d);	/* the thought goes on to its proper end: it only spoke of calls */
		step(d, s);
		return;
	}
	switch (dsml_read(&d->reader, s)) {
	case DSML_MORE:
		if (d->provisional)
			add_shown(&d->raw, s);
		if (d->provisional && d->refuted)
			release(d);
		else if (d->provisional && proved(d))
			commit(d);
		break;
	case DSML_JUNK:
		if (!d->provisional)
			break;
		release(d);
		step(d, s);
		break;
	case DSML_EMPTY:
		forget_block(d);
		d->state = d->outside;
		d->separator = true;
		break;
	case DSML_END:
		end_block(d, FINISH_TOOL_CALLS);
		break;
	}
}

static void step(struct decode *d, const struct symbol *s)
{
	switch (d->state) {
	case STATE_THINK:
	case STATE_TEXT:
		step_text(d, s);
		break;
	case STATE_STRAY:
		step_stray(d, s);
		break;
	case STATE_BLOCK:
		step_block(d, s);
		break;
	}
}

/* --- the end --- */

/* Decides about an open block; false: it is text (or nothing) and the state is outside again. */
static bool finish_block(struct decode *d, enum finish *finish)
{
	struct dsml_reader *r = &d->reader;
	bool whole;

	if (*finish == FINISH_LENGTH && !d->provisional)
		return true;
	if (*finish == FINISH_LENGTH) {
		release(d);
		return false;
	}
	if (!r->n_calls && r->opened && r->state == DSML_BETWEEN && !r->n_tail) {
		forget_block(d);	/* an opener and nothing else */
		d->state = d->outside;
		d->separator = true;
		return false;
	}
	whole = r->n_calls && dsml_reader_finish(r, d->provisional && d->outside == STATE_TEXT);
	if (!whole && d->provisional) {
		release(d);
		return false;
	}
	*finish = whole ? FINISH_TOOL_CALLS : FINISH_LENGTH;
	return true;
}

static bool held_is_separator(const struct decode *d)
{
	return d->separator && !held_ends(d, "<") && !held_ends(d, "</");
}

void decode_finish(struct decode *d, enum finish finish)
{
	if (d->over)
		return;
	d->over = true;
	if (d->state == STATE_STRAY) {
		forget_block(d);
		d->state = d->outside;
		d->separator = true;
	}
	if (d->state == STATE_BLOCK && finish_block(d, &finish)) {
		if (d->provisional)
			commit(d);
		forget_block(d);
	} else {
		if (held_is_separator(d))
			buf_cut(&d->held, 0);
		flush_held(d);
	}
	flush(d, true);
	deliver(d, &(struct piece){.kind = PIECE_FINISH, .finish = finish});
}

struct decode *decode_new(const struct tokenizer *t, const struct decode_options *o)
{
	struct decode *d = mem_zero(sizeof *d);

	if (!d)
		return NULL;
	d->tokenizer = t;
	d->options = *o;
	d->state = o->thinking == THINKING_ON ? STATE_THINK : STATE_TEXT;
	d->events = (struct dsml_events){d, on_begin, on_arguments, on_end};
	d->held = d->raw = d->queue = d->queue_text = d->out = d->clean = (struct buf)BUF_CAP(BUF_MAX);
	return d;
}

void decode_free(struct decode *d)
{
	if (!d)
		return;
	dsml_reader_clear(&d->reader);
	buf_clear(&d->held);
	buf_clear(&d->raw);
	buf_clear(&d->queue);
	buf_clear(&d->queue_text);
	buf_clear(&d->out);
	buf_clear(&d->clean);
	mem_free(d);
}

bool decode_feed(struct decode *d, enum mark mark, const char *text, size_t n)
{
	if (mark != MARK_TEXT && !d->over)
		step(d, &(struct symbol){mark, text, n});
	for (size_t i = 0; mark == MARK_TEXT && i < n && !d->over; i++)
		step(d, &(struct symbol){MARK_TEXT, text + i, 1});
	if (!d->over)
		flush(d, false);
	return !d->over;
}

static enum mark mark_of(const struct tokenizer *t, int32_t id)
{
	static const struct {
		enum special special;
		enum mark mark;
	} table[] = {
		{SPECIAL_EOS, MARK_EOS},
		{SPECIAL_THINK, MARK_THINK},
		{SPECIAL_END_THINK, MARK_END_THINK},
		{SPECIAL_DSML, MARK_DSML},
	};

	if (!tokenizer_is_added(t, id))
		return MARK_TEXT;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (id == tokenizer_special(t, table[i].special))
			return table[i].mark;
	return MARK_OTHER;
}

bool decode_push(struct decode *d, int32_t id)
{
	size_t n;
	const char *text = token_bytes(d->tokenizer, id, &n);

	return decode_feed(d, mark_of(d->tokenizer, id), text, n);
}

bool decode_ok(const struct decode *d)
{
	return !d->failed && !d->reader.failed && buf_ok(&d->held) && buf_ok(&d->raw);
}

bool decode_in_structure(const struct decode *d)
{
	return d->state == STATE_BLOCK && !d->over && d->reader.state != DSML_IN_VALUE;
}
