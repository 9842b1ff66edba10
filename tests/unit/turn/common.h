/* common.h - what the tests of this folder share: an engine with its thread, and turns written down as text. */
#ifndef TEST_TURN_COMMON_H
#define TEST_TURN_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/session.h"
#include "support/golden.h"
#include "turn/turn.h"

#define TOOLS \
	"[{\"name\":\"get\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{" \
	"\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"}}}}," \
	"{\"name\":\"put\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}]"

#define D "｜DSML｜"
#define CALL(name, parameters) "<" D "invoke name=\"" name "\">\n" parameters "</" D "invoke>\n"
#define TEXT(name, value) "<" D "parameter name=\"" name "\" string=\"true\">" value "</" D "parameter>\n"
#define JSON(name, value) "<" D "parameter name=\"" name "\" string=\"false\">" value "</" D "parameter>\n"
#define BLOCK(calls) "\n\n<" D "tool_calls>\n" calls "</" D "tool_calls>"

enum { CONTEXT = 4096 };

static struct turn_context context;

static inline void open_all(const char *model, int32_t tokens)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;
	struct turn_tables *tables = NULL;
	struct err err = {0};

	o.model = model;
	o.backend = "cpu";
	o.threads = 1;
	o.chunk = 128;
	o.context = tokens;
	o.timelines = 2;
	if (engine_open(&context.engine, &o, &err) != OK ||
	    worker_open(&context.worker, context.engine, NULL, 10, &err) != OK ||
	    turn_tables_new(&tables, context.engine->tokenizer, &err) != OK)
		fail_msg("%s", err.msg);
	context.tables = tables;
}

static inline void close_all(void)
{
	worker_close(context.worker);
	turn_tables_free((struct turn_tables *)context.tables);
	engine_close(context.engine);
}

static inline struct conversation *ask(const char *text, const char *tools)
{
	struct conversation *c = conversation_new();
	json_t *j;

	conversation_add(c, ROLE_USER, text, strlen(text));
	if (tools) {
		j = json_parse(tools, strlen(tools), NULL);
		assert_int_equal(conversation_set_tools(c, j, NULL), OK);
		json_decref(j);
	}
	return c;
}

static inline void encode(const char *text, struct token_list *out)
{
	token_encode_control(context.engine->tokenizer, text, strlen(text), out);
}

/* What a turn said: "WAIT START READ r:reasoning c:content call0:name(arguments) end0 FINISH". */
struct record {
	struct buf reasoning, content, calls, order;
	char *ids;				/* the call ids, each with a blank */
	struct turn_event end;
	struct err err;
	int ends, events, stop_after;		/* stop_after: events until take says stop; 0 = never */
	struct turn_logprob logprob[256];
	int n_logprob;
};

static inline void record_clear(struct record *r)
{
	buf_clear(&r->reasoning);
	buf_clear(&r->content);
	buf_clear(&r->calls);
	buf_clear(&r->order);
}

static inline bool record_take(void *ctx, const struct turn_event *ev)
{
	static const char letter[] = "wsrtcBAEF";
	struct record *r = ctx;

	r->reasoning.cap = r->content.cap = r->calls.cap = r->order.cap = BUF_MAX;
	if (!r->order.len || r->order.data[r->order.len - 1] != letter[ev->kind])
		buf_byte(&r->order, letter[ev->kind]);
	for (int i = 0; i < ev->n_logprob && r->n_logprob < 256; i++)
		r->logprob[r->n_logprob++] = ev->logprob[i];
	switch (ev->kind) {
	case TURN_REASONING:
		buf_add(&r->reasoning, ev->text, ev->n);
		break;
	case TURN_CONTENT:
		buf_add(&r->content, ev->text, ev->n);
		break;
	case TURN_CALL_BEGIN:
		assert_int_equal(strlen(ev->call_id), 37);
		buf_printf(&r->calls, "%zu:%.*s", ev->index, (int)ev->n, ev->text);
		break;
	case TURN_CALL_ARGUMENTS:
		buf_add(&r->calls, ev->text, ev->n);
		break;
	case TURN_CALL_END:
		buf_str(&r->calls, ";");
		break;
	case TURN_FINISH:
		r->ends++;
		r->end = *ev;
		if (ev->err)
			r->err = *ev->err;
		break;
	default:
		break;
	}
	return !r->stop_after || ++r->events < r->stop_after;
}

static inline struct turn *open_turn(struct turn_request *q)
{
	struct turn *t = NULL;
	struct err err = {0};

	if (turn_open(&t, &context, q, NULL, &err) != OK)
		fail_msg("%s", err.msg);
	return t;
}

static inline void read_turn(struct turn *t, struct record *r)
{
	struct err err = {0};

	if (turn_start(t, NULL, NULL, &err) != OK)
		fail_msg("%s", err.msg);
	while (turn_read(t, 30, record_take, r))
		;
	assert_int_equal(r->ends, 1);
}

/* A whole turn; r is cleared by the caller. */
static inline void run(struct turn_request *q, struct record *r)
{
	struct turn *t = open_turn(q);

	read_turn(t, r);
	turn_close(t);
}

#endif
