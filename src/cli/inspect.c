/* inspect.c - `ds4 inspect FILE`: what is in a model file, what a token reads of it, what running it needs.
 *
 * What  Metadata, tensors, bytes by class, bytes read per decoded token, and the memory plan for a context size and
 *       a number of timelines; as text for people, as JSON for scripts.
 * Why   The first question about a 90 GB file is whether it fits and how fast it can be: bytes read per token over
 *       memory bandwidth is the upper bound of the speed.
 * How   Everything comes from the same functions that load the model (shape_read, weights_bind, memory_plan_make),
 *       so what is printed is what would happen.  A file that cannot be run is still shown, with the reason.
 * Careful
 *       - Strings in a GGUF are counted and may hold anything: they are escaped before they reach a terminal.
 *       - A vocabulary alone and an MTP block alone are valid files without a shape. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "engine/engine.h"
#include "gguf/gguf.h"
#include "model/shape.h"
#include "model/weights.h"

#define DEFAULT_CHUNK 256	/* prompt tokens of a step, as engine_open() chooses it for the cpu backend */

enum file_kind { FILE_MODEL, FILE_VOCABULARY, FILE_MTP, FILE_OTHER };

static const char *const kind_text[] = {"model", "vocabulary only", "MTP block only", "not a DeepSeek V4 model"};

struct report {
	struct gguf *g;
	enum file_kind kind;
	struct shape shape;
	struct weights weights;
	struct memory_plan plan;
	bool runs;		/* shape, weights and plan are there */
	struct err why;		/* else: what is wrong */
	uint64_t tensor_bytes;
};

/* Tensors that differ only in the layer number, as one line. */
struct group {
	char pattern[96];	/* blk.*.attn_kv.weight */
	const struct gguf_tensor *first;
	uint64_t count, bytes;
};

/* ------------------------------------------------------------------ looking */

static enum file_kind find_kind(const struct gguf *g)
{
	for (uint64_t i = 0; i < g->n_tensors; i++)
		if (g->tensor[i].name.n > 6 && !memcmp(g->tensor[i].name.p, "mtp.0.", 6))
			return FILE_MTP;
	if (g->n_tensors == 0)
		return gguf_find(g, "tokenizer.ggml.tokens") ? FILE_VOCABULARY : FILE_OTHER;
	return gguf_tensor(g, "token_embd.weight") && gguf_find(g, "deepseek4.block_count") ? FILE_MODEL
											    : FILE_OTHER;
}

static enum status look(struct report *r, const char *path, int32_t context, int32_t timelines, struct err *err)
{
	struct be_options bo = {.threads = 1, .numerics = BE_NUMERICS_MODEL};
	struct backend *be = NULL;
	int32_t chunk;

	memset(r, 0, sizeof *r);
	TRY(gguf_open(&r->g, path, err));
	r->kind = find_kind(r->g);
	for (uint64_t i = 0; i < r->g->n_tensors; i++)
		r->tensor_bytes += r->g->tensor[i].bytes;
	if (r->kind != FILE_MODEL)
		return OK;
	if (shape_read(&r->shape, r->g, &r->why) != OK ||
	    weights_bind(&r->weights, r->g, &r->shape, NULL, &r->why) != OK)
		return OK;
	TRY(be_open(&be, "cpu", &bo, err));
	if (!context)
		context = r->shape.context < 32768 ? r->shape.context : 32768;
	chunk = context < DEFAULT_CHUNK ? context : DEFAULT_CHUNK;
	memory_plan_make(&r->plan, &r->shape, be, r->tensor_bytes, context, timelines, chunk, timelines);
	be_close(be);
	r->runs = true;
	return OK;
}

static void forget(struct report *r)
{
	weights_clear(&r->weights);
	gguf_close(r->g);
}

/* ------------------------------------------------------------------ values */

/* Appends text safe for a terminal: at most `most` bytes, control characters as \xNN. */
static void add_safe(struct buf *out, struct gguf_string s, size_t most)
{
	struct buf clean = BUF_CAP(BUF_MAX);
	size_t n = s.n < most ? s.n : most;

	utf8_add_lossy(&clean, s.p, n < s.n ? utf8_whole(s.p, n) : n);
	for (size_t i = 0; i < clean.len; i++) {
		unsigned char c = (unsigned char)clean.data[i];

		if (c < 32 || c == 127)
			buf_printf(out, "\\x%02x", c);
		else
			buf_byte(out, (char)c);
	}
	if (n < s.n)
		buf_printf(out, "… (%zu bytes)", s.n);
	buf_clear(&clean);
}

static bool is_real(enum gguf_type t)
{
	return t == GGUF_F32 || t == GGUF_F64;
}

static void add_scalar(struct buf *out, const struct gguf_kv *kv, enum gguf_type type, uint64_t i)
{
	if (is_real(type))
		buf_printf(out, "%g", gguf_number(kv, i));
	else if (type == GGUF_BOOL)
		buf_str(out, gguf_number(kv, i) != 0 ? "true" : "false");
	else if (type == GGUF_U64)
		buf_printf(out, "%llu", (unsigned long long)gguf_integer(kv, i));
	else
		buf_printf(out, "%lld", (long long)gguf_integer(kv, i));
}

#define ARRAY_SHOWN 12	/* elements of a long array */

static void add_array(struct buf *out, const struct gguf_kv *kv)
{
	const uint8_t *cursor = kv->value;
	uint64_t shown = kv->count < ARRAY_SHOWN ? kv->count : ARRAY_SHOWN;

	if (kv->element == GGUF_ARRAY) {
		buf_printf(out, "[%llu arrays]", (unsigned long long)kv->count);
		return;
	}
	buf_byte(out, '[');
	for (uint64_t i = 0; i < shown; i++) {
		if (i)
			buf_str(out, ", ");
		if (kv->element == GGUF_STRING) {
			buf_byte(out, '"');
			add_safe(out, gguf_next_string(&cursor), 24);
			buf_byte(out, '"');
		} else {
			add_scalar(out, kv, kv->element, i);
		}
	}
	if (shown < kv->count)
		buf_printf(out, ", … %llu in all", (unsigned long long)kv->count);
	buf_byte(out, ']');
}

static void add_value(struct buf *out, const struct gguf_kv *kv)
{
	const uint8_t *cursor = kv->value;

	if (kv->type == GGUF_ARRAY)
		add_array(out, kv);
	else if (kv->type == GGUF_STRING)
		add_safe(out, gguf_next_string(&cursor), 160);
	else
		add_scalar(out, kv, kv->type, 0);
}

static void add_dims(struct buf *out, const struct gguf_tensor *t)
{
	buf_byte(out, '[');
	for (uint32_t i = 0; i < t->n_dims; i++)
		buf_printf(out, "%s%llu", i ? ", " : "", (unsigned long long)t->dims[i]);
	buf_byte(out, ']');
}

/* 86714775900 -> "80.76 GiB" */
static const char *human(char *out, size_t room, uint64_t bytes)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double v = (double)bytes;
	int u = 0;

	while (v >= 1024 && u < 5) {
		v /= 1024;
		u++;
	}
	snprintf(out, room, u ? "%.2f %s" : "%.0f %s", v, unit[u]);
	return out;
}

/* ------------------------------------------------------------------ text */

static void print_metadata(const struct gguf *g)
{
	struct buf line = BUF_CAP(BUF_MAX);

	printf("\nmetadata (%llu keys)\n", (unsigned long long)g->n_kv);
	for (uint64_t i = 0; i < g->n_kv; i++) {
		const struct gguf_kv *kv = &g->kv[i];
		size_t start;

		buf_cut(&line, 0);
		add_safe(&line, kv->key, 120);
		start = line.len;
		while (start++ < 48)
			buf_byte(&line, ' ');
		buf_byte(&line, ' ');
		add_value(&line, kv);
		printf("  %s\n", buf_cstr(&line));
	}
	buf_clear(&line);
}

/* "blk.12.attn_kv.weight" -> "blk.*.attn_kv.weight" */
static void make_pattern(char *out, size_t room, const struct gguf_tensor *t)
{
	struct buf b = BUF_CAP(BUF_MAX);
	const char *p;
	char *end;

	add_safe(&b, t->name, room - 1);
	snprintf(out, room, "%s", buf_cstr(&b));
	if (!strncmp(out, "blk.", 4)) {
		p = out + 4 + strspn(out + 4, "0123456789");
		if (p > out + 4 && *p == '.') {
			end = out + 4;
			*end++ = '*';
			memmove(end, p, strlen(p) + 1);
		}
	}
	buf_clear(&b);
}

static struct group *find_group(struct group *list, size_t n, const struct group *want)
{
	for (size_t i = 0; i < n; i++) {
		const struct gguf_tensor *a = list[i].first, *b = want->first;

		if (!strcmp(list[i].pattern, want->pattern) && a->type == b->type &&
		    !memcmp(a->dims, b->dims, sizeof a->dims))
			return &list[i];
	}
	return NULL;
}

static enum status print_tensors(const struct gguf *g, bool each, struct err *err)
{
	struct group *list = mem_array((size_t)g->n_tensors + 1, sizeof *list), *same;
	struct buf dims = BUF_CAP(BUF_MAX);
	char bytes[32];
	size_t n = 0;

	if (!list)
		return err_set(err, ERR_MEMORY, "no memory for a list of %llu tensors",
			       (unsigned long long)g->n_tensors);
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		struct group one = {.first = &g->tensor[i], .count = 1, .bytes = g->tensor[i].bytes};

		make_pattern(one.pattern, sizeof one.pattern, one.first);
		if (each)
			snprintf(one.pattern, sizeof one.pattern, "%.*s", (int)one.first->name.n,
				 one.first->name.p);
		same = each ? NULL : find_group(list, n, &one);
		if (same) {
			same->count++;
			same->bytes += one.bytes;
		} else {
			list[n++] = one;
		}
	}
	printf("\ntensors (%llu)\n", (unsigned long long)g->n_tensors);
	for (size_t i = 0; i < n; i++) {
		buf_cut(&dims, 0);
		add_dims(&dims, list[i].first);
		printf("  %-42s %4llu x %-20s %-8s %12s\n", list[i].pattern, (unsigned long long)list[i].count,
		       buf_cstr(&dims), dtype_info(list[i].first->type)->name,
		       human(bytes, sizeof bytes, list[i].bytes));
	}
	buf_clear(&dims);
	mem_free(list);
	return OK;
}

static void print_classes(const struct weights *w)
{
	uint64_t bytes = 0, read = 0;
	char a[32], b[32];

	printf("\n%-24s %12s %20s\n", "class", "in the file", "read per token");
	for (int c = 0; c < CLASS_COUNT; c++) {
		printf("  %-22s %12s %20s\n", weight_class_name((enum weight_class)c),
		       human(a, sizeof a, w->class_bytes[c]), human(b, sizeof b, w->class_read[c]));
		bytes += w->class_bytes[c];
		read += w->class_read[c];
	}
	printf("  %-22s %12s %20s\n", "all", human(a, sizeof a, bytes), human(b, sizeof b, read));
}

static void print_plan(const struct memory_plan *p)
{
	const struct { const char *name; uint64_t bytes; } row[] = {
		{"weights (mapped)", p->weights}, {"history blocks", p->blocks}, {"tails", p->tails},
		{"checkpoints", p->checkpoints}, {"work", p->work}, {"logits", p->logits},
		{"all but weights", p->total},
	};
	char a[32];

	printf("\nmemory for %d token%s of context, %d timeline%s, steps of %d\n", (int)p->context,
	       p->context == 1 ? "" : "s", (int)p->timelines, p->timelines == 1 ? "" : "s", (int)p->chunk);
	for (size_t i = 0; i < sizeof row / sizeof *row; i++)
		printf("  %-22s %12s\n", row[i].name, human(a, sizeof a, row[i].bytes));
}

static void print_shape(const struct shape *s)
{
	int n[3] = {0, 0, 0};

	for (int32_t l = 0; l < s->n_layer; l++)
		n[s->ratio[l] == 0 ? 0 : s->ratio[l] == 4 ? 1 : 2]++;
	printf("layers      %d: %d window only, %d ratio 4, %d ratio 128; %d hash-routed\n", (int)s->n_layer, n[0],
	       n[1], n[2], (int)s->n_hash);
	printf("width       %d, %d heads, vocabulary %d, context %d\n", (int)s->d, (int)s->heads, (int)s->vocab,
	       (int)s->context);
	printf("experts     %d, %d used, width %d, 1 shared\n", (int)s->experts, (int)s->used, (int)s->ff);
}

static enum status print_text(const struct report *r, bool each, struct err *err)
{
	struct buf name = BUF_CAP(BUF_MAX);
	struct gguf_string s;
	char a[32];

	if (gguf_str(r->g, "general.name", &s, NULL) == OK) {
		add_safe(&name, s, 160);
		printf("name        %s\n", buf_cstr(&name));
	}
	printf("file        %s, %s\n", r->g->path, human(a, sizeof a, r->g->map_bytes));
	printf("kind        %s\n", kind_text[r->kind]);
	if (r->runs)
		print_shape(&r->shape);
	print_metadata(r->g);
	if (r->g->n_tensors)
		TRY(print_tensors(r->g, each, err));
	if (r->runs) {
		print_classes(&r->weights);
		print_plan(&r->plan);
	}
	buf_clear(&name);
	return OK;
}

/* ------------------------------------------------------------------ JSON */

static json_t *json_bytes(const char *p, size_t n)
{
	struct buf clean = BUF_CAP(BUF_MAX);
	json_t *v;

	utf8_add_lossy(&clean, p, n);
	v = json_stringn(clean.data ? clean.data : "", clean.len);
	buf_clear(&clean);
	return v;
}

static json_t *json_scalar(const struct gguf_kv *kv, enum gguf_type type, uint64_t i)
{
	if (is_real(type))
		return json_real(gguf_number(kv, i));	/* NULL for NaN and infinity: shown as null */
	if (type == GGUF_BOOL)
		return json_boolean(gguf_number(kv, i) != 0);
	return json_integer(gguf_integer(kv, i));
}

static json_t *json_value(const struct gguf_kv *kv)
{
	const uint8_t *cursor = kv->value;
	uint64_t shown = kv->count < ARRAY_SHOWN ? kv->count : ARRAY_SHOWN;
	json_t *list, *v;

	if (kv->type == GGUF_STRING) {
		struct gguf_string s = gguf_next_string(&cursor);

		return json_bytes(s.p, s.n);
	}
	if (kv->type != GGUF_ARRAY) {
		v = json_scalar(kv, kv->type, 0);
		return v ? v : json_null();
	}
	list = json_array();
	for (uint64_t i = 0; i < shown && kv->element != GGUF_ARRAY; i++) {
		if (kv->element == GGUF_STRING) {
			struct gguf_string s = gguf_next_string(&cursor);

			v = json_bytes(s.p, s.n);
		} else {
			v = json_scalar(kv, kv->element, i);
		}
		json_array_append_new(list, v ? v : json_null());
	}
	return json_pack("{s:s, s:I, s:o}", "array", gguf_type_name(kv->element), "count", (json_int_t)kv->count,
			 "first", list);
}

static json_t *json_tensors(const struct gguf *g)
{
	json_t *all = json_array();

	for (uint64_t i = 0; i < g->n_tensors; i++) {
		const struct gguf_tensor *t = &g->tensor[i];
		json_t *dims = json_array();

		for (uint32_t d = 0; d < t->n_dims; d++)
			json_array_append_new(dims, json_integer((json_int_t)t->dims[d]));
		json_array_append_new(
			all, json_pack("{s:o, s:s, s:o, s:I, s:I}", "name", json_bytes(t->name.p, t->name.n),
				       "type", dtype_info(t->type)->name, "dims", dims, "bytes",
				       (json_int_t)t->bytes, "offset", (json_int_t)(t->data - g->map)));
	}
	return all;
}

static json_t *json_run(const struct report *r)
{
	const struct memory_plan *p = &r->plan;
	json_t *classes = json_object();
	json_int_t read = 0;

	for (int c = 0; c < CLASS_COUNT; c++) {
		json_object_set_new(classes, weight_class_name((enum weight_class)c),
				    json_pack("{s:I, s:I}", "bytes", (json_int_t)r->weights.class_bytes[c],
					      "read_per_token", (json_int_t)r->weights.class_read[c]));
		read += (json_int_t)r->weights.class_read[c];
	}
	return json_pack("{s:o, s:I, s:{s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I}}", "classes", classes,
			 "read_per_token", read, "memory", "context", (int)p->context, "timelines",
			 (int)p->timelines, "chunk", (int)p->chunk, "weights", (json_int_t)p->weights, "blocks",
			 (json_int_t)p->blocks, "tails", (json_int_t)p->tails, "checkpoints",
			 (json_int_t)p->checkpoints, "work", (json_int_t)p->work, "logits",
			 (json_int_t)p->logits, "total", (json_int_t)p->total);
}

static enum status print_json(const struct report *r, struct err *err)
{
	json_t *meta = json_object(), *all;
	char *text;

	for (uint64_t i = 0; i < r->g->n_kv; i++) {
		struct buf key = BUF_CAP(BUF_MAX);

		utf8_add_lossy(&key, r->g->kv[i].key.p, r->g->kv[i].key.n);
		json_object_set_new(meta, buf_cstr(&key), json_value(&r->g->kv[i]));
		buf_clear(&key);
	}
	all = json_pack("{s:o, s:I, s:s, s:b, s:o, s:o}", "file", json_bytes(r->g->path, strlen(r->g->path)),
			"bytes", (json_int_t)r->g->map_bytes, "kind", kind_text[r->kind], "runs", r->runs,
			"metadata", meta, "tensors", json_tensors(r->g));
	if (all && r->runs)
		json_object_update_new(all, json_run(r));
	if (all && r->why.code != OK)
		json_object_set_new(all, "error", json_string(r->why.msg));
	text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
	json_decref(all);
	if (!text)
		return err_set(err, ERR_MEMORY, "%s: no memory for the JSON text", r->g->path);
	puts(text);
	free(text);
	return OK;
}

/* ------------------------------------------------------------------ the command */

struct inspect_args {
	struct arg_list file;
	int64_t context, timelines;
	bool json, all;
};

static enum status inspect(void *options, struct err *err)
{
	struct inspect_args *a = options;
	const char *path = a->file.n ? a->file.item[0] : NULL;
	struct report r;
	enum status st;

	TRY(cli_choose_model(&path, path, err));
	st = look(&r, path, (int32_t)a->context, (int32_t)a->timelines, err);
	if (st == OK)
		st = a->json ? print_json(&r, err) : print_text(&r, a->all, err);
	if (st == OK && r.why.code != OK)		/* shown, but it would not run: say why and fail */
		st = err_set(err, r.why.code, "%s", r.why.msg);
	forget(&r);
	return st;
}

static const struct arg_spec inspect_args[] = {
	ARG_REST("FILE", struct inspect_args, file, 0, 1, "GGUF file; without one, the model that would be used"),
	ARG_FLAG("json", 0, struct inspect_args, json, "one JSON object, every tensor listed"),
	ARG_FLAG("all", 'a', struct inspect_args, all, "every tensor on a line of its own"),
	ARG_INT("ctx", 'c', struct inspect_args, context, 1, 1 << 20, "N",
		"plan for N tokens of context, for example 32k (the model's, at most 32k)"),
	ARG_INT("timelines", 0, struct inspect_args, timelines, 1, 4096, "N", "plan for N conversations at once"),
	ARG_END
};

static const char *const inspect_examples[] = {
	"ds4 inspect models/ds4-nano-q2.gguf",
	"ds4 inspect big.gguf --ctx 1m --timelines 4     # how much memory four long conversations need",
	"ds4 inspect --json big.gguf | jq .read_per_token",
	NULL
};

static const struct inspect_args inspect_defaults = {.timelines = 1};

const struct cli_command inspect_command = {
	.args = {"inspect", "what is in a model file and what running it needs",
		 "Prints the metadata, the tensors, bytes by class, bytes that one decoded token reads, and the "
		 "memory that a context size and a number of conversations need.  Any GGUF file can be shown; "
		 "one that would not run says why, and the exit code is not 0.",
		 inspect_args, inspect_examples},
	.defaults = &inspect_defaults,
	.size = sizeof inspect_defaults,
	.run = inspect,
};
