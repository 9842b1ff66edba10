/* build.c - specs -> nodes; see grammar_int.h.
 *
 * What  A node is what a value may be: a list of alternatives, one for every type that a spec leaves.  Children are
 *       nodes again.  At the end it is worked out how many frames of a stack each needs at least, and what needs too
 *       many, or cannot exist, is taken away.
 * How   A node is made once for a set of schemas that hold together, so recursive schemas end: the set is the key.
 *       Nodes are filled from a queue, not recursively.
 * Careful
 *       - A property's schemas are those that name it, and the additionalProperties of all others that have them.
 *       - Members that are not declared are only offered when a schema says so, or none declares any: fewer is valid. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "grammar/grammar_int.h"

enum { MAX_NODES = 20000, MAX_WORDS = 100000 };

#define LARGEST_INTEGER 999999999999999999	/* 18 digits */

struct build {
	struct schema_context x;
	json_t *known;			/* key -> number of the node */
	struct schema_list *list;	/* [n_node] what each node is made of */
	size_t n_list, list_room, done;
};

/* ------------------------------------------------------------------ memory */

static bool keep(struct grammar *g, void *p)
{
	if (p && g->n_memory == g->memory_room) {
		size_t room = g->memory_room ? 2 * g->memory_room : 64;
		void **more = mem_grow(g->memory, room, sizeof *more);

		if (!more) {
			mem_free(p);
			return false;
		}
		g->memory = more;
		g->memory_room = room;
	}
	if (p)
		g->memory[g->n_memory++] = p;
	return p != NULL;
}

void *grammar_alloc(struct grammar *g, size_t n, size_t size)
{
	void *p = mem_array(n ? n : 1, size);

	return keep(g, p) ? p : NULL;
}

const char *grammar_copy(struct grammar *g, const char *p, size_t n)
{
	char *out = grammar_alloc(g, n + 1, 1);

	if (out && n)
		memcpy(out, p, n);
	return out;
}

static enum status no_memory(struct build *b)
{
	return err_set(b->x.err, ERR_MEMORY, "no memory for a schema");
}

/* Appends an element to an array that doubles; NULL without memory. */
static void *append(void **array, size_t *n, size_t *room, size_t size)
{
	if (*n == *room) {
		size_t more = *room ? 2 * *room : 16;
		void *p = mem_grow(*array, more, size);

		if (!p)
			return NULL;
		*array = p;
		*room = more;
	}
	memset((char *)*array + *n * size, 0, size);
	return (char *)*array + (*n)++ * size;
}

/* ------------------------------------------------------------------ words */

static int by_bytes(const void *pa, const void *pb)
{
	const struct word *a = pa, *b = pb;
	int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);

	return c ? c : a->n < b->n ? -1 : a->n > b->n;
}

void words_sort(struct words *w)
{
	uint32_t n = 0;

	qsort(w->word, w->n, sizeof *w->word, by_bytes);
	for (uint32_t i = 0; i < w->n; i++)
		if (!n || by_bytes(&w->word[n - 1], &w->word[i]) != 0)
			w->word[n++] = w->word[i];
	w->n = n;
}

/* Adds what b holds as a word and empties it. */
static bool add_word(struct grammar *g, struct words *w, struct buf *b, int32_t number)
{
	const char *p = buf_ok(b) ? grammar_copy(g, buf_cstr(b), b->len) : NULL;

	if (p)
		w->word[w->n++] = (struct word){p, (uint32_t)b->len, number};
	buf_clear(b);
	return p != NULL;
}

/* ------------------------------------------------------------------ nodes */

static int by_pointer(const void *pa, const void *pb)
{
	const struct schema_ref *a = pa, *b = pb;

	return (uintptr_t)a->schema < (uintptr_t)b->schema ? -1 : (uintptr_t)a->schema > (uintptr_t)b->schema;
}

/* The set of schemas as text; those that say nothing are left out. */
static void write_key(const struct schema_list *list, struct buf *out)
{
	struct schema_ref *sorted = mem_copy(list->ref, (list->n + 1) * sizeof *sorted);

	out->failed |= !sorted;
	if (sorted)
		qsort(sorted, list->n, sizeof *sorted, by_pointer);
	for (size_t i = 0; sorted && i < list->n; i++) {
		const json_t *s = sorted[i].schema;

		if (json_is_true(s) || (json_is_object(s) && !json_object_size(s)) || (i && sorted[i - 1].schema == s))
			continue;
		buf_printf(out, "%lx.", (unsigned long)(uintptr_t)s);
	}
	mem_free(sorted);
}

static enum status build_node(struct build *b, const struct schema_list *list, int32_t *out)
{
	struct grammar *g = b->x.g;
	struct buf key = BUF_CAP(BUF_MAX);
	struct schema_list padded = {0}, *kept;
	const json_t *known;
	enum status st = OK;

	for (size_t i = 0; i < list->n; i++)
		if (!schema_list_add(&b->x, &padded, list->ref[i].schema, list->ref[i].path))
			return no_memory(b);
	if (!schema_list_add(&b->x, &padded, NULL, ""))		/* a place more, for write_key() */
		return no_memory(b);
	padded.n--;
	write_key(&padded, &key);
	known = json_object_get(b->known, buf_cstr(&key));
	*out = known ? (int32_t)json_integer_value(known) : (int32_t)g->n_node;
	if (known || !buf_ok(&key))
		goto out;
	if (g->n_node == MAX_NODES) {
		st = err_set(b->x.err, ERR_ARGUMENT, "the schema is too large: more than %d different values", MAX_NODES);
		goto out;
	}
	kept = append((void **)&b->list, &b->n_list, &b->list_room, sizeof *b->list);
	if (!kept || !append((void **)&g->node, &g->n_node, &g->node_room, sizeof *g->node) ||
	    json_object_set_new(b->known, buf_cstr(&key), json_integer(*out)))
		st = no_memory(b);
	else
		*kept = padded;
out:
	if (!buf_ok(&key))
		st = no_memory(b);
	buf_clear(&key);
	return st;
}

static struct alt *add_alt(struct build *b, struct node *node, enum alt_kind kind)
{
	struct grammar *g = b->x.g;
	struct alt *a = append((void **)&g->alt, &g->n_alt, &g->alt_room, sizeof *a);
	int32_t *more = a ? grammar_alloc(g, node->n_alt + 1, sizeof *more) : NULL;

	if (!more)
		return NULL;
	if (node->n_alt)
		memcpy(more, node->alt, node->n_alt * sizeof *more);
	more[node->n_alt++] = (int32_t)(g->n_alt - 1);
	node->alt = more;
	a->kind = kind;
	a->items = a->additional = -1;
	a->max = UINT32_MAX;
	return a;
}

/* ------------------------------------------------------------------ scalars */

static enum status make_dfa(struct build *b, const struct spec *s, const struct dfa **out)
{
	struct grammar *g = b->x.g;
	struct dfa *d, **at;
	enum status st = dfa_new(&d, s->pattern, s->n_pattern, s->min_length, s->max_length, b->x.err);

	if (st != OK) {
		err_prefix(b->x.err, "%.200s/pattern", s->path);
		return st;
	}
	at = append((void **)&g->dfa, &g->n_dfa, &g->dfa_room, sizeof(struct dfa *));
	if (!at) {
		dfa_free(d);
		return no_memory(b);
	}
	*out = *at = d;
	return OK;
}

static enum status make_string(struct build *b, struct node *node, const struct spec *s)
{
	struct alt *a;
	const struct dfa *dfa = NULL;

	if (s->min_length > s->max_length)
		return OK;
	if (s->n_pattern)
		TRY(make_dfa(b, s, &dfa));
	a = add_alt(b, node, ALT_STRING);
	if (!a)
		return no_memory(b);
	a->dfa = dfa;
	a->min = s->min_length;
	a->max = s->max_length;
	return OK;
}

/* The greatest k with k / 10^decimals <= v (< v when strict). */
static int64_t scaled_floor(double v, int decimals, bool strict)
{
	double scale = pow(10, decimals), limit = decimals ? 1e15 : (double)LARGEST_INTEGER;
	int64_t k;

	if (v >= limit / scale)
		return (int64_t)limit;
	if (v <= -limit / scale)
		return -(int64_t)limit - 1;
	if (!decimals) {
		k = (int64_t)floor(v);
		return strict && (double)k == v ? k - 1 : k;
	}
	k = (int64_t)floor(v * scale) + 1;
	while ((double)k / scale > v || (strict && (double)k / scale >= v))
		k--;
	return k;
}

static enum status make_number(struct build *b, struct node *node, const struct spec *s)
{
	bool bounded = s->has_minimum || s->has_maximum;
	int decimals = s->integer ? 0 : 6;
	int64_t limit = s->integer ? LARGEST_INTEGER : 1000000000000000, low = -limit, high = limit;
	struct alt *a;

	if (s->has_maximum)
		high = scaled_floor(s->maximum, decimals, s->below);
	if (s->has_minimum)
		low = -scaled_floor(-s->minimum, decimals, s->above);
	if (high > limit)
		high = limit;
	if (low < -limit)
		low = -limit;
	if (bounded && low > high)
		return err_set(b->x.err, ERR_ARGUMENT, "%.200s: no %s of at most %d digits is between the bounds",
			       s->bound_path, s->integer ? "integer" : "number", s->integer ? 18 : 15);
	a = add_alt(b, node, ALT_NUMBER);
	if (!a)
		return no_memory(b);
	a->integer = s->integer;
	a->bounded = bounded;
	a->decimals = decimals;
	a->low = low;
	a->high = high;
	return OK;
}

/* Names of values: null, true, false. */
static enum status make_names(struct build *b, struct node *node, unsigned types)
{
	static const struct {
		unsigned type;
		const char *text;
	} names[] = {{TYPE_BOOLEAN, "false"}, {TYPE_NULL, "null"}, {TYPE_BOOLEAN, "true"}};
	struct alt *a = add_alt(b, node, ALT_WORDS);

	if (a)
		a->words.word = grammar_alloc(b->x.g, 3, sizeof *a->words.word);
	if (!a || !a->words.word)
		return no_memory(b);
	for (size_t i = 0; i < 3; i++)
		if (types & names[i].type)
			a->words.word[a->words.n++] =
				(struct word){names[i].text, (uint32_t)strlen(names[i].text), 0};
	return OK;
}

/* ------------------------------------------------------------------ enum */

static uint32_t count_chars(const char *p, size_t n)
{
	uint32_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += ((unsigned char)p[i] & 0xC0) != 0x80;
	return count;
}

static bool string_fits(const struct spec *s, const struct dfa *d, const json_t *v)
{
	const char *p = json_string_value(v);
	size_t n = json_string_length(v), at = 0;
	uint32_t count = count_chars(p, n), cp;
	int32_t state = 0;

	while (d && at < n && state >= 0) {
		at += utf8_decode(p + at, n - at, &cp, NULL);
		state = dfa_step(d, state, cp);
	}
	return count >= s->min_length && count <= s->max_length && (!d || (state >= 0 && d->accept[state]));
}

static bool number_fits(const struct spec *s, const json_t *v)
{
	double x = json_is_big_integer(v) ? strtod(json_string_value(v) + 1, NULL) : json_number_value(v);

	if (s->integer && !json_is_big_integer(v) && (x != floor(x) || isinf(x)))
		return false;
	return !(s->has_minimum && (x < s->minimum || (s->above && x == s->minimum))) &&
	       !(s->has_maximum && (x > s->maximum || (s->below && x == s->maximum)));
}

/* Does a listed value satisfy what else the spec says? */
static bool value_fits(const struct spec *s, const struct dfa *d, const json_t *v)
{
	if (json_is_text(v))
		return (s->types & TYPE_STRING) && string_fits(s, d, v);
	if (json_is_number(v) || json_is_big_integer(v))
		return (s->types & TYPE_NUMBER) && number_fits(s, v);
	if (json_is_boolean(v))
		return s->types & TYPE_BOOLEAN;
	if (json_is_null(v))
		return s->types & TYPE_NULL;
	return s->types & (json_is_array(v) ? TYPE_ARRAY : TYPE_OBJECT);
}

static bool says_more_about(const struct spec *s, const json_t *v)
{
	if (json_is_object(v))
		return s->objects.n || json_object_size(s->required);
	return json_is_array(v) && (s->arrays.n || s->min_items || s->max_items != UINT32_MAX);
}

static enum status make_enum(struct build *b, struct node *node, const struct spec *s)
{
	size_t n = json_array_size(s->values);
	const struct dfa *d = NULL;
	struct alt *a = add_alt(b, node, ALT_WORDS);

	if (a)
		a->words.word = grammar_alloc(b->x.g, n, sizeof *a->words.word);
	if (!a || !a->words.word)
		return no_memory(b);
	if (n > MAX_WORDS)
		return err_set(b->x.err, ERR_ARGUMENT, "%.200s/enum: more than %d values", s->path, MAX_WORDS);
	if (s->n_pattern)
		TRY(make_dfa(b, s, &d));
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_array_get(s->values, i);
		struct buf text = BUF_CAP(BUF_MAX);

		if (says_more_about(s, v))
			return err_set(b->x.err, ERR_ARGUMENT, "unsupported keyword \"enum\" at %.200s/enum: objects or "
				       "arrays as values beside keywords about their members", s->path);
		if (!value_fits(s, d, v))
			continue;
		json_write_python(&text, v);
		if (!add_word(b->x.g, &a->words, &text, 0))
			return no_memory(b);
	}
	words_sort(&a->words);
	return OK;
}

/* ------------------------------------------------------------------ arrays and objects */

static enum status item_node(struct build *b, const struct spec *s, size_t index, int32_t *out)
{
	struct schema_list list = {0};

	for (size_t i = 0; i < s->arrays.n; i++) {
		const struct schema_ref *part = &s->arrays.ref[i];
		const json_t *prefix = json_object_get(part->schema, "prefixItems");
		const json_t *items = json_object_get(part->schema, "items");
		bool ok = true;

		if (index < json_array_size(prefix))
			ok = schema_list_add(&b->x, &list, json_array_get(prefix, index),
					     path_index(&b->x, path_join(&b->x, part->path, "prefixItems"), index));
		else if (items)
			ok = schema_list_add(&b->x, &list, items, path_join(&b->x, part->path, "items"));
		if (!ok)
			return no_memory(b);
	}
	return build_node(b, &list, out);
}

static enum status make_array(struct build *b, struct node *node, const struct spec *s)
{
	struct alt *a = add_alt(b, node, ALT_ARRAY);
	size_t at = b->x.g->n_alt - 1, n_item = 0;
	int32_t *item, items;

	for (size_t i = 0; i < s->arrays.n; i++) {
		size_t n = json_array_size(json_object_get(s->arrays.ref[i].schema, "prefixItems"));

		n_item = n > n_item ? n : n_item;
	}
	item = a ? grammar_alloc(b->x.g, n_item, sizeof *item) : NULL;
	if (!item)
		return no_memory(b);
	for (size_t i = 0; i < n_item; i++)
		TRY(item_node(b, s, i, &item[i]));
	TRY(item_node(b, s, n_item, &items));
	a = &b->x.g->alt[at];
	a->min = s->min_items;
	a->max = s->max_items;
	a->item = item;
	a->n_item = (uint32_t)n_item;
	a->items = items;
	return OK;
}

static bool declares(const struct schema_ref *part, const char *name)
{
	return json_object_get(json_object_get(part->schema, "properties"), name) != NULL;
}

/* The node of a property; name NULL: of members that nobody declares. */
static enum status member_node(struct build *b, const struct spec *s, const char *name, int32_t *out)
{
	struct schema_list list = {0};

	for (size_t i = 0; i < s->objects.n; i++) {
		const struct schema_ref *part = &s->objects.ref[i];
		const json_t *additional = json_object_get(part->schema, "additionalProperties");
		bool ok = true;

		if (name && declares(part, name))
			ok = schema_list_add(&b->x, &list,
					     json_object_get(json_object_get(part->schema, "properties"), name),
					     path_join(&b->x, path_join(&b->x, part->path, "properties"), name));
		else if (additional)
			ok = schema_list_add(&b->x, &list, additional, path_join(&b->x, part->path, "additionalProperties"));
		if (!ok)
			return no_memory(b);
	}
	return build_node(b, &list, out);
}

/* All names in the order of their declaration, undeclared required ones behind them; a new reference. */
static json_t *all_names(const struct spec *s, bool *open)
{
	json_t *names = json_object(), *v;
	const char *name;
	bool says = false;

	for (size_t i = 0; names && i < s->objects.n; i++) {
		says |= json_object_get(s->objects.ref[i].schema, "additionalProperties") != NULL;
		json_object_foreach(json_object_get(s->objects.ref[i].schema, "properties"), name, v)
			json_object_set_new(names, name, json_true());
	}
	*open = says || !json_object_size(names);
	json_object_foreach(s->required, name, v)
		json_object_set_new(names, name, json_true());
	return names;
}

static enum status fill_object(struct build *b, struct alt *out, const struct spec *s, json_t *names)
{
	struct grammar *g = b->x.g;
	size_t n = json_object_size(names), i = 0;
	const char *name;
	json_t *v;

	out->property = grammar_alloc(g, n, sizeof *out->property);
	out->words.word = grammar_alloc(g, n, sizeof *out->words.word);
	if (!out->property || !out->words.word)
		return no_memory(b);
	json_object_foreach(names, name, v) {
		struct buf text = BUF_CAP(BUF_MAX);
		struct property *p = &out->property[i];

		p->raw_node = -1;
		p->required = json_object_get(s->required, name) != NULL;
		TRY(member_node(b, s, name, &p->node));
		json_write_escaped(&text, name, strlen(name));
		buf_byte(&text, '"');
		if (!add_word(g, &out->words, &text, (int32_t)i++))
			return no_memory(b);
	}
	out->n_property = (uint32_t)n;
	words_sort(&out->words);
	return OK;
}

static enum status make_object(struct build *b, struct node *node, const struct spec *s)
{
	struct alt made = {0}, *a;
	enum status st = OK;
	bool open;
	json_t *names = all_names(s, &open);

	made.additional = -1;
	if (!names)
		return no_memory(b);
	st = fill_object(b, &made, s, names);
	json_decref(names);
	if (st == OK && open)
		st = member_node(b, s, NULL, &made.additional);
	if (st != OK)
		return st;
	a = add_alt(b, node, ALT_OBJECT);
	if (!a)
		return no_memory(b);
	a->property = made.property;
	a->n_property = made.n_property;
	a->words = made.words;
	a->additional = made.additional;
	return OK;
}

/* ------------------------------------------------------------------ the queue */

struct target {
	struct build *b;
	struct node made;
};

static enum status on_spec(void *ctx, struct spec *s)
{
	struct target *t = ctx;
	struct build *b = t->b;

	if (s->values)
		return make_enum(b, &t->made, s);
	if (s->types & TYPE_STRING)
		TRY(make_string(b, &t->made, s));
	if (s->types & TYPE_NUMBER)
		TRY(make_number(b, &t->made, s));
	if (s->types & (TYPE_NULL | TYPE_BOOLEAN))
		TRY(make_names(b, &t->made, s->types));
	if (s->types & TYPE_ARRAY)
		TRY(make_array(b, &t->made, s));
	return s->types & TYPE_OBJECT ? make_object(b, &t->made, s) : OK;
}

static enum status build_all(struct build *b)
{
	while (b->done < b->n_list) {
		struct schema_list list = b->list[b->done];
		struct target t = {.b = b};

		TRY(schema_expand(&b->x, &list, on_spec, &t));
		b->x.g->node[b->done++] = t.made;
	}
	return OK;
}

enum status build_open(struct build **out, struct grammar *g, struct err *err)
{
	struct build *b = mem_zero(sizeof *b);

	*out = NULL;
	if (b)
		b->known = json_object();
	if (!b || !b->known) {
		mem_free(b);
		return err_set(err, ERR_MEMORY, "no memory for a schema");
	}
	b->x.g = g;
	b->x.err = err;
	*out = b;
	return OK;
}

void build_close(struct build *b)
{
	if (!b)
		return;
	json_decref(b->known);
	mem_free(b->list);
	mem_free(b);
}

enum status build_root(struct build *b, const json_t *schema, const char *path, int32_t *out)
{
	struct schema_list list = {0};

	b->x.root = schema;
	b->x.root_path = path;
	if (!schema_list_add(&b->x, &list, schema, path))
		return no_memory(b);
	TRY(build_node(b, &list, out));
	return build_all(b);
}

/* ------------------------------------------------------------------ what is possible */

static int32_t node_needs(const struct grammar *g, int32_t node)
{
	return node < 0 ? NEVER : g->node[node].needs;
}

static int32_t array_needs(const struct grammar *g, const struct alt *a)
{
	int32_t most = 1;

	if (a->min > a->max)
		return NEVER;
	for (uint32_t i = 0; i < a->min && i <= a->n_item; i++) {
		int32_t n = node_needs(g, i < a->n_item ? a->item[i] : a->items);

		most = n > most ? n : most;
	}
	return most >= NEVER ? NEVER : 1 + most;
}

static int32_t object_needs(const struct grammar *g, const struct alt *a)
{
	int32_t most = 1;	/* the frame of a name */

	for (uint32_t i = 0; i < a->n_property; i++) {
		int32_t n = node_needs(g, a->property[i].node);

		if (a->property[i].required && n > most)
			most = n;
	}
	return most >= NEVER ? NEVER : 1 + most;
}

static int32_t alt_needs(const struct grammar *g, const struct alt *a)
{
	switch (a->kind) {
	case ALT_WORDS:
		return a->words.n ? 1 : NEVER;
	case ALT_ARRAY:
		return array_needs(g, a);
	case ALT_OBJECT:
		return object_needs(g, a);
	default:
		return 1;
	}
}

static void drop_impossible(struct grammar *g)
{
	for (size_t i = 0; i < g->n_node; i++) {
		struct node *n = &g->node[i];
		uint32_t kept = 0;

		for (uint32_t k = 0; k < n->n_alt; k++)
			if (g->alt[n->alt[k]].needs <= MAX_FRAMES)
				n->alt[kept++] = n->alt[k];
		n->n_alt = kept;
	}
	for (size_t i = 0; i < g->n_alt; i++) {
		struct alt *a = &g->alt[i];

		for (uint32_t k = 0; k < a->n_property; k++)
			a->property[k].needs = node_needs(g, a->property[k].node);
	}
}

void build_finish(struct grammar *g)
{
	bool changed = true;

	for (size_t i = 0; i < g->n_node; i++)
		g->node[i].needs = NEVER;
	for (size_t i = 0; i < g->n_alt; i++)
		g->alt[i].needs = NEVER;
	/* A need of n frames is known after n rounds; greater ones do not matter. */
	for (int round = 0; changed && round <= MAX_FRAMES; round++) {
		changed = false;
		for (size_t i = 0; i < g->n_node; i++) {
			struct node *n = &g->node[i];
			int32_t least = NEVER;

			for (uint32_t k = 0; k < n->n_alt; k++) {
				struct alt *a = &g->alt[n->alt[k]];

				a->needs = alt_needs(g, a);
				least = a->needs < least ? a->needs : least;
			}
			changed |= least < n->needs;
			n->needs = least;
		}
	}
	drop_impossible(g);
}
