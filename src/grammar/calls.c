/* calls.c - tools -> what a block of calls may be; and grammar_new().
 *
 *	\n\n<M tool_calls>\n { <M invoke name="NAME">\n { <M parameter name="KEY" string="true|false">VALUE</M parameter>\n }
 *	</M invoke>\n } </M tool_calls>			M: the control token, GRAMMAR_MARKER here
 *
 * How   What may stand at a parameter's place is a list of words: the tag of every property, once for its value as text
 *       and once as JSON, and the end of the call.  Strings are raw text, everything else is JSON (docs/chat.md 7).
 * Careful
 *       - Names are not escaped: one that holds a quote or ">" could not be read back, so it is refused.
 *       - A property's node is split: as text it is a string (or a listed one, unquoted), as JSON all else. */
#include <string.h>

#include "base/mem.h"
#include "grammar/grammar_int.h"

#define M "\xFF"

static enum status no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory for a grammar");
}

static const json_t *function_of(const json_t *tool)
{
	const json_t *f = json_object_get(tool, "function");

	return f ? f : tool;
}

static bool is_strict(const json_t *tool)
{
	return json_is_true(json_object_get(function_of(tool), "strict")) || json_is_true(json_object_get(tool, "strict"));
}

bool grammar_any_strict(const json_t *tools)
{
	for (size_t i = 0; i < json_array_size(tools); i++)
		if (is_strict(json_array_get(tools, i)))
			return true;
	return false;
}

/* ------------------------------------------------------------------ nodes of parameters */

/* A new node without alternatives, which may get up to n; NULL without memory. */
static struct node *new_node(struct grammar *g, uint32_t n, int32_t *number)
{
	struct node *more = mem_grow(g->node, g->n_node + 1, sizeof *more), *out;

	if (!more)
		return NULL;
	g->node = more;
	g->node_room = g->n_node + 1;
	out = &g->node[g->n_node];
	*out = (struct node){.alt = grammar_alloc(g, n, sizeof *out->alt), .needs = NEVER};
	*number = (int32_t)g->n_node++;
	return out->alt ? out : NULL;
}

static bool add_copy(struct grammar *g, struct node *node, const struct alt *a)
{
	struct alt copy = *a, *more = mem_grow(g->alt, g->n_alt + 1, sizeof *more);

	if (!more)
		return false;
	g->alt = more;
	g->alt_room = g->n_alt + 1;
	g->alt[g->n_alt] = copy;
	node->alt[node->n_alt++] = (int32_t)g->n_alt++;
	node->needs = copy.needs < node->needs ? copy.needs : node->needs;
	return true;
}

/* The words that are strings (unquoted), or those that are not. */
static bool split_words(struct grammar *g, const struct words *w, bool strings, struct words *out)
{
	*out = (struct words){.word = grammar_alloc(g, w->n, sizeof *out->word)};
	for (uint32_t i = 0; out->word && i < w->n; i++) {
		struct word x = w->word[i];
		json_t *v;

		if ((x.p[0] == '"') != strings)
			continue;
		if (strings) {
			v = json_parse(x.p, x.n, NULL);
			if (!v)
				return false;
			x.n = (uint32_t)json_string_length(v);
			x.p = grammar_copy(g, json_string_value(v), x.n);
			json_decref(v);
			if (!x.p)
				return false;
		}
		out->word[out->n++] = x;
	}
	if (out->word)
		words_sort(out);
	return out->word != NULL;
}

/* Which half of node's alternatives: as text, or as JSON.  *out = -1 when there are none. */
static enum status half(struct grammar *g, int32_t node, bool text, int32_t *out, struct err *err)
{
	uint32_t n = g->node[node].n_alt;
	struct node *made = new_node(g, n, out);

	if (!made)
		return no_memory(err);
	for (uint32_t i = 0; i < n; i++) {
		struct alt a = g->alt[g->node[node].alt[i]];

		if (a.kind == ALT_WORDS) {
			struct words all = a.words;

			if (!split_words(g, &all, text, &a.words))
				return no_memory(err);
			if (!a.words.n)
				continue;
		} else if ((a.kind == ALT_STRING) != text) {
			continue;
		}
		if (!add_copy(g, made, &a))
			return no_memory(err);
	}
	if (!made->n_alt)
		*out = -1;
	return OK;
}

/* ------------------------------------------------------------------ a tool */

static bool add_word(struct grammar *g, struct words *w, int32_t number, const char *before, const char *name, const char *after)
{
	struct buf b = BUF_CAP(BUF_MAX);
	const char *p;

	buf_str(&b, before);
	buf_str(&b, name);
	buf_str(&b, after);
	p = buf_ok(&b) ? grammar_copy(g, buf_cstr(&b), b.len) : NULL;
	if (p)
		w->word[w->n++] = (struct word){p, (uint32_t)b.len, number};
	buf_clear(&b);
	return p != NULL;
}

/* The object that a tool's parameters are; NULL = it takes none, or not an object. */
static const struct alt *object_of(const struct grammar *g, int32_t node)
{
	for (uint32_t i = 0; i < g->node[node].n_alt; i++)
		if (g->alt[g->node[node].alt[i]].kind == ALT_OBJECT)
			return &g->alt[g->node[node].alt[i]];
	return NULL;
}

static bool plain_name(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] == '"' || p[i] == '>' || p[i] == '\\' || (unsigned char)p[i] < 0x20)
			return false;
	return n > 0;
}

static enum status add_property(struct grammar *g, struct tool *t, const struct property *p, uint32_t i,
				const struct word *name, const char *tool, struct err *err)
{
	struct property *out = &t->property[i];
	char key[256];

	snprintf(key, sizeof key, "%.*s", (int)name->n - 1, name->p);
	if (name->n > sizeof key || !plain_name(key, strlen(key)))
		return err_set(err, ERR_ARGUMENT, "tool \"%.60s\": the parameter name \"%.60s\" cannot be written in a "
			       "call: it is too long or holds a quote, \">\", a backslash or a control character", tool, key);
	*out = *p;
	out->node = out->raw_node = -1;
	if (p->needs > MAX_FRAMES - 4)
		return OK;
	TRY(half(g, p->node, false, &out->node, err));
	TRY(half(g, p->node, true, &out->raw_node, err));
	if (out->node >= 0 && !add_word(g, &t->words, 2 * (int32_t)i, "<" M "parameter name=\"", key, "\" string=\"false\">"))
		return no_memory(err);
	if (out->raw_node >= 0 &&
	    !add_word(g, &t->words, 2 * (int32_t)i + 1, "<" M "parameter name=\"", key, "\" string=\"true\">"))
		return no_memory(err);
	return OK;
}

static enum status add_tool(struct grammar *g, struct tool *t, const struct alt *object, const char *name, struct err *err)
{
	struct alt o = object ? *object : (struct alt){.kind = ALT_OBJECT};

	t->n_property = o.n_property;
	t->property = grammar_alloc(g, o.n_property, sizeof *t->property);
	t->words.word = grammar_alloc(g, 2 * (size_t)o.n_property + 2, sizeof *t->words.word);
	if (!t->property || !t->words.word)
		return no_memory(err);
	for (uint32_t i = 0; i < o.words.n; i++) {
		uint32_t number = (uint32_t)o.words.word[i].number;

		TRY(add_property(g, t, &o.property[number], number, &o.words.word[i], name, err));
	}
	if (!add_word(g, &t->words, TAG_END, "</" M "invoke>\n", "", "") ||
	    !add_word(g, &t->words, TAG_EMPTY, "\n</" M "invoke>\n", "", ""))
		return no_memory(err);
	words_sort(&t->words);
	return OK;
}

static enum status check_possible(const struct grammar *g, int32_t node, const char *path, struct err *err)
{
	if (g->node[node].needs > MAX_FRAMES - 4)
		return err_set(err, ERR_ARGUMENT, "%s: no value can satisfy the schema, or only one nested too deep", path);
	return OK;
}

static enum status make_invokes(struct grammar *g, const struct grammar_options *o, const int32_t *node, struct err *err)
{
	size_t n = json_array_size(o->tools);

	g->tool = grammar_alloc(g, n, sizeof *g->tool);
	g->n_tool = (uint32_t)n;
	g->invoke.word = grammar_alloc(g, n + 1, sizeof *g->invoke.word);
	if (!g->tool || !g->invoke.word)
		return no_memory(err);
	for (size_t i = 0; i < n; i++) {
		const char *name = json_get_text(function_of(json_array_get(o->tools, i)), "name", &(size_t){0});
		char path[160];

		if (!name || !plain_name(name, strlen(name)) || (o->only_tool && strcmp(name, o->only_tool) != 0))
			continue;
		g->tool[i].strict = node[i] >= 0;
		snprintf(path, sizeof path, "tools/%zu/parameters", i);
		if (node[i] >= 0) {
			TRY(check_possible(g, node[i], path, err));
			TRY(add_tool(g, &g->tool[i], object_of(g, node[i]), name, err));
		}
		if (!add_word(g, &g->invoke, (int32_t)i, "<" M "invoke name=\"", name, "\">\n"))
			return no_memory(err);
	}
	if (!g->invoke.n)
		return err_set(err, ERR_ARGUMENT, "tools: none that may be called");
	if (!add_word(g, &g->invoke, -1, "</" M "tool_calls>", "", ""))
		return no_memory(err);
	words_sort(&g->invoke);
	return OK;
}

/* ------------------------------------------------------------------ the whole */

static enum status build_nodes(struct grammar *g, const struct grammar_options *o, int32_t *node, struct err *err)
{
	struct build *b;
	enum status st = build_open(&b, g, err);

	if (st == OK && o->schema)
		st = build_root(b, o->schema, "#", &g->root);
	for (size_t i = 0; st == OK && i < json_array_size(o->tools); i++) {
		const json_t *tool = json_array_get(o->tools, i), *p = json_object_get(function_of(tool), "parameters");
		char path[64];
		const char *kept;

		node[i] = -1;
		if (!o->strict || !is_strict(tool) || !p)
			continue;
		snprintf(path, sizeof path, "tools/%zu/parameters#", i);
		kept = grammar_copy(g, path, strlen(path));
		st = kept ? build_root(b, p, kept, &node[i]) : no_memory(err);
	}
	build_close(b);
	if (st == OK)
		build_finish(g);
	return st;
}

enum status grammar_new(struct grammar **out, const struct grammar_options *o, struct err *err)
{
	struct grammar *g = mem_zero(sizeof *g);
	int32_t *node = mem_array(json_array_size(o->tools) + 1, sizeof *node);
	enum status st = OK;

	*out = NULL;
	if (!g || !node) {
		st = no_memory(err);
		goto out;
	}
	g->root = -1;
	g->calls = o->tools != NULL;
	g->one_call = o->one_call;
	TRY_TO(out, build_nodes(g, o, node, err));
	if (o->schema)
		TRY_TO(out, check_possible(g, g->root, "#", err));
	if (o->tools)
		TRY_TO(out, make_invokes(g, o, node, err));
	*out = g;
	g = NULL;
out:
	mem_free(node);
	grammar_free(g);
	return st;
}

void grammar_free(struct grammar *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n_memory; i++)
		mem_free(g->memory[i]);
	for (size_t i = 0; i < g->n_dfa; i++)
		dfa_free(g->dfa[i]);
	mem_free(g->memory);
	mem_free(g->dfa);
	mem_free(g->node);
	mem_free(g->alt);
	mem_free(g);
}
