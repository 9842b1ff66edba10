/* prompt.c - a request's conversation -> prompt ids; see turn_int.h.
 *
 * Careful
 *       - With tool_choice none no tools are shown, but old reasoning is kept all the same when they were declared:
 *         the next request of the same client will have them again.
 *       - Message ends are found by the markers in the ids; text cannot hold one. */
#include <string.h>

#include "base/mem.h"
#include "turn/turn_int.h"

json_t *prompt_tools(const struct conversation *c)
{
	for (size_t i = c ? c->n : 0; i-- > 0;)
		if (json_array_size(c->messages[i].tools))
			return c->messages[i].tools;
	return NULL;
}

static void hide_tools(struct conversation *c)
{
	for (size_t i = 0; i < c->n; i++) {
		json_decref(c->messages[i].tools);
		c->messages[i].tools = NULL;
	}
}

/* The first system message; made when there is none.  NULL without memory. */
static struct message *system_message(struct conversation *c)
{
	struct message *m, added;

	for (size_t i = 0; i < c->n; i++)
		if (c->messages[i].role == ROLE_SYSTEM)
			return &c->messages[i];
	m = conversation_add(c, ROLE_SYSTEM, "", 0);
	if (!m)
		return NULL;
	added = *m;
	memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof *m);
	c->messages[0] = added;
	return c->messages;
}

/* Writes the format into the prompt, unless the caller did. */
static enum status show_format(struct conversation *c, const struct turn_request *q, struct err *err)
{
	struct message *m;

	if (q->format == TURN_FORMAT_TEXT)
		return OK;
	for (size_t i = 0; i < c->n; i++)
		if (c->messages[i].response_format)
			return OK;
	m = system_message(c);
	if (m && q->format == TURN_FORMAT_JSON_SCHEMA)
		m->response_format = json_incref((json_t *)q->schema);
	else if (m)
		m->response_format = json_pack("{s:s}", "type", "object");
	return m && m->response_format ? OK : err_set(err, ERR_MEMORY, "no memory for the response format");
}

enum status prompt_make(const struct turn_context *c, const struct turn_request *q, struct token_list *out,
			struct err *err)
{
	struct conversation *k = q->conversation;
	struct render_options o = {.profile = c->profile, .thinking = q->thinking, .effort = q->effort};

	if (!k) {
		token_append(out, q->raw, (size_t)(q->n_raw > 0 ? q->n_raw : 0));
	} else {
		if (q->tool_choice == TOOL_CHOICE_NONE && prompt_tools(k)) {
			o.keep_reasoning = true;
			hide_tools(k);
		}
		TRY(show_format(k, q, err));
		if (!conversation_ok(k))
			return err_set(err, ERR_MEMORY, "no memory for the conversation");
		if (c->replay)
			replay_apply(c->replay, k);
		TRY(chat_render_ids(k, &o, c->engine->tokenizer, out, err));
	}
	return out->failed ? err_set(err, ERR_MEMORY, "no memory for the prompt's tokens") : OK;
}

int32_t prompt_message_ends(const struct tokenizer *t, const int32_t *id, int32_t n, int32_t end[PROMPT_ENDS])
{
	int32_t user = tokenizer_special(t, SPECIAL_USER), eos = tokenizer_special(t, SPECIAL_EOS), found = 0;

	for (int32_t i = 1; i < n; i++) {
		if (id[i] != user && id[i - 1] != eos)
			continue;
		if (found == PROMPT_ENDS)	/* the first stays: it is the end of the system text */
			memmove(end + 1, end + 2, (PROMPT_ENDS - 2) * sizeof *end);
		else
			found++;
		end[found - 1] = i;
	}
	return found;
}
