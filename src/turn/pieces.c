/* pieces.c - see pieces.h.
 *
 * What  token -> decoder -> stop strings -> the caller.
 * Careful
 *       - What the stop strings hold back is content after all when a call begins or the answer ends.
 *       - Behind a stop string nothing comes out any more but FINISH, although the token goes on. */
#include "turn/pieces.h"

static void hand_content(struct pieces *o)
{
	struct piece p = {.kind = PIECE_CONTENT, .text = buf_cstr(&o->text), .n = o->text.len};

	o->failed |= !buf_ok(&o->text);
	if (p.n)
		o->opt.take(o->opt.ctx, &p);
	buf_cut(&o->text, 0);
}

static void content(struct pieces *o, const char *text, size_t n)
{
	if (o->stopped)
		return;
	if (o->opt.stops)
		o->stopped = stops_push(o->opt.stops, text, n, &o->text);
	else
		buf_add(&o->text, text, n);
	hand_content(o);
}

static void flush_content(struct pieces *o)
{
	if (o->stopped || !o->opt.stops)
		return;
	o->stopped = stops_finish(o->opt.stops, &o->text);
	hand_content(o);
}

static void on_piece(void *ctx, const struct piece *p)
{
	struct pieces *o = ctx;
	struct piece end = *p;

	if (p->kind == PIECE_CONTENT) {
		content(o, p->text, p->n);
		return;
	}
	if (p->kind == PIECE_TOOL_BEGIN || p->kind == PIECE_FINISH)
		flush_content(o);
	if (p->kind != PIECE_FINISH) {
		if (!o->stopped)
			o->opt.take(o->opt.ctx, p);
		return;
	}
	o->over = true;
	o->finish = end.finish = o->stopped ? FINISH_STOP : p->finish;
	o->opt.take(o->opt.ctx, &end);
}

enum status pieces_init(struct pieces *o, const struct pieces_options *opt, struct err *err)
{
	struct decode_options d = {.thinking = opt->thinking, .tools_active = opt->tools_active, .tools = opt->tools,
				   .ctx = o, .take = on_piece};

	*o = (struct pieces){.opt = *opt, .text = BUF_CAP(BUF_MAX)};
	if (opt->stops)
		stops_reset(opt->stops);
	if (opt->raw)
		return OK;
	o->decode = decode_new(opt->tokenizer, &d);
	return o->decode ? OK : err_set(err, ERR_MEMORY, "no memory for an answer");
}

void pieces_clear(struct pieces *o)
{
	decode_free(o->decode);
	o->decode = NULL;
	buf_clear(&o->text);
}

/* False at the end of sentence. */
static bool push_raw(struct pieces *o, int32_t id)
{
	const struct tokenizer *t = o->opt.tokenizer;
	struct buf whole = BUF_CAP(BUF_MAX);
	const char *bytes;
	size_t n;

	if (id == tokenizer_special(t, SPECIAL_EOS))
		return false;
	bytes = token_bytes(t, id, &n);
	detok_push(&o->detok, bytes, n, &whole);
	o->failed |= !buf_ok(&whole);
	content(o, buf_cstr(&whole), whole.len);
	buf_clear(&whole);
	return true;
}

bool pieces_push(struct pieces *o, int32_t id)
{
	bool more;

	if (o->over)
		return false;
	more = o->decode ? decode_push(o->decode, id) : push_raw(o, id);
	if (!more || o->stopped)
		pieces_finish(o, FINISH_STOP);
	return !o->over;
}

void pieces_finish(struct pieces *o, enum finish how)
{
	struct buf tail = BUF_CAP(BUF_MAX);

	if (o->over)
		return;
	if (o->decode) {
		decode_finish(o->decode, how);
		return;
	}
	detok_finish(&o->detok, &tail);
	o->failed |= !buf_ok(&tail);
	content(o, buf_cstr(&tail), tail.len);
	buf_clear(&tail);
	on_piece(o, &(struct piece){.kind = PIECE_FINISH, .finish = how});
}

bool pieces_in_structure(const struct pieces *o)
{
	return o->decode && !o->over && decode_in_structure(o->decode);
}

bool pieces_ok(const struct pieces *o)
{
	return !o->failed && (!o->decode || decode_ok(o->decode)) && (!o->opt.stops || buf_ok(&o->opt.stops->held));
}
