/* prepare.c - decides everything before the first weight is read: source, tensors, types, metadata, importance.
 *
 * What  quantize_open(): the source is opened, its tensors become targets, patterns drop or replace some,
 *       the recipe gives each a type, and the head of the file is written into memory.
 * Why   Whatever can be wrong about names, shapes, recipe or metadata is said at once, not after an hour.
 * Careful
 *       - Splices come before the recipe: what is taken from another file keeps its type.
 *       - The head holds no date, no path and no release: equal input gives equal bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "quant/encode.h"
#include "workshop/metadata.h"
#include "workshop/quantize_int.h"

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool is_gguf(const char *path)
{
	size_t n = strlen(path);

	return n > 5 && !strcmp(path + n - 5, ".gguf");
}

static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* ------------------------------------------------------------------ source */

/* The file `name` beside the checkpoint, or NULL when it is not there. */
static char *beside(const struct checkpoint *c, const char *name)
{
	struct buf b = BUF_CAP(1 << 16);

	buf_printf(&b, "%s%s", c->folder, name);
	if (buf_ok(&b) && access(b.data, R_OK) == 0)
		return buf_take(&b);
	buf_clear(&b);
	return NULL;
}

static enum status open_checkpoint(struct quantize *q, struct err *err)
{
	char *config;
	enum status st = OK;

	TRY(checkpoint_open(&q->checkpoint, q->opt.source, err));
	TRY(numbers_from_checkpoint(&q->numbers, q->checkpoint, err));
	config = q->opt.config || q->opt.metadata_from ? NULL : beside(q->checkpoint, "config.json");
	if (q->opt.config || config)
		st = numbers_from_config(&q->numbers, q->opt.config ? q->opt.config : config, err);
	mem_free(config);
	TRY(st);
	q->layers = q->numbers.layers;
	q->mtp = q->opt.mtp;
	return plan_checkpoint(&q->plan, q->checkpoint, &q->numbers, q->mtp, err);
}

static enum status open_gguf(struct quantize *q, struct err *err)
{
	const struct quantize_options *o = &q->opt;
	int64_t layer;

	if (o->mtp || o->config || o->tokenizer)
		return err_set(err, ERR_ARGUMENT, "%s: %s is for checkpoints, the source is a GGUF file",
		               o->source,
		               o->mtp      ? "--mtp"
		               : o->config ? "--config"
		                           : "--tokenizer");
	TRY(gguf_open(&q->gguf, o->source, err));
	if (q->gguf->n_tensors == 0)
		return err_set(err, ERR_FORMAT, "%s: has no tensors", o->source);
	TRY(plan_gguf(&q->plan, q->gguf, err));
	q->mtp = true;
	for (size_t i = 0; i < q->plan.n; i++) {
		const char *name = q->plan.t[i].name;

		q->mtp &= !strncmp(name, "mtp.", 4);
		if (sscanf(name, "blk.%" SCNd64 ".", &layer) == 1 && layer >= q->layers && layer < MAX_LAYERS)
			q->layers = layer + 1;
	}
	return OK;
}

/* ------------------------------------------------------------------ drop and splice */

static void clear_target(struct target *t)
{
	mem_free(t->name);
	mem_free(t->piece);
}

static enum status drop(struct quantize *q, const char *pattern, struct err *err)
{
	size_t kept = 0, n = q->plan.n;

	for (size_t i = 0; i < n; i++)
		if (recipe_match(pattern, q->plan.t[i].name, q->layers))
			clear_target(&q->plan.t[i]);
		else
			q->plan.t[kept++] = q->plan.t[i];
	q->plan.n = kept;
	if (kept == n)
		return err_set(err, ERR_ARGUMENT, "--drop %s: matches no tensor", pattern);
	if (kept == 0)
		return err_set(err, ERR_ARGUMENT, "--drop %s: leaves no tensor", pattern);
	return OK;
}

/* Puts the tensor of the same name in g in the place of *t. */
static enum status replace(struct target *t, const struct gguf *g, struct err *err)
{
	const struct gguf_tensor *other = gguf_tensor(g, t->name);
	struct plan one = {0};

	if (!other)
		return err_set(err, ERR_FORMAT, "%s: has no tensor %s", g->path, t->name);
	if (memcmp(other->dims, t->dims, sizeof t->dims))
		return err_set(err, ERR_FORMAT,
		               "%s: %s is [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "], expected [%" PRIu64
		               ", %" PRIu64 ", %" PRIu64 "]",
		               g->path, t->name, other->dims[0], other->dims[1], other->dims[2], t->dims[0],
		               t->dims[1], t->dims[2]);
	TRY(plan_add_gguf(&one, other, err));
	clear_target(t);
	*t = one.t[0];
	t->spliced = true;
	mem_free(one.t);
	return OK;
}

static enum status splice(struct quantize *q, const char *text, struct err *err)
{
	const char *equals = strchr(text, '=');
	char pattern[RECIPE_MAX_PATTERN + 16];
	int a, b, end = 0, n = 0;

	if (!equals || equals == text || !equals[1] || equals - text >= RECIPE_MAX_PATTERN)
		return err_set(
			err, ERR_ARGUMENT,
			"--splice %s: expected LAYERS=FILE or PATTERN=FILE, for example 37..42=other.gguf",
			text);
	snprintf(pattern, sizeof pattern, "%.*s", (int)(equals - text), text);
	if (sscanf(pattern, "%d..%d%n", &a, &b, &end) == 2 && !pattern[end])
		snprintf(pattern, sizeof pattern, "blk.{%d..%d}.*", a, b);
	if (q->n_splice == MAX_SPLICES)
		return err_set(err, ERR_ARGUMENT, "--splice: given more than %d times", MAX_SPLICES);
	TRY(gguf_open(&q->splice[q->n_splice], equals + 1, err));
	for (size_t i = 0; i < q->plan.n; i++)
		if (recipe_match(pattern, q->plan.t[i].name, q->layers)) {
			TRY(replace(&q->plan.t[i], q->splice[q->n_splice], err));
			n++;
		}
	q->n_splice++;
	if (!n)
		return err_set(err, ERR_ARGUMENT, "--splice %s: %s matches no tensor", text, pattern);
	return OK;
}

/* ------------------------------------------------------------------ importance */

static enum status open_imatrix(struct quantize *q, struct err *err)
{
	const char *path = q->opt.imatrix;
	struct file_map map;
	size_t found = 0;

	TRY(imatrix_read(&q->imatrix, path, err));
	TRY(file_map(&map, path, err));
	q->imatrix_hash = hash64(map.data, map.bytes);
	file_unmap(&map);
	for (size_t i = 0; i < q->plan.n; i++) {
		const struct target *t = &q->plan.t[i];
		const struct imatrix_entry *e = imatrix_find(&q->imatrix, t->name);

		if (!e)
			continue;
		found++;
		if ((uint64_t)e->n != t->cols && (uint64_t)e->n != t->cols * t->n_pieces)
			return err_set(err, ERR_FORMAT,
			               "%s: %s has %d values, expected %" PRIu64 ": it is of another model",
			               path, t->name, e->n, t->cols * t->n_pieces);
	}
	if (!found)
		return err_set(err, ERR_FORMAT,
		               "%s: none of its %zu entries (%s, ...) is a tensor of this model", path,
		               q->imatrix.n, q->imatrix.entry[0].name);
	return OK;
}

/* ------------------------------------------------------------------ metadata */

static enum status with_gguf(struct gguf_builder *b, const char *path, const char *prefix,
                             const struct numbers *n, struct err *err)
{
	struct gguf *g;
	enum status st = OK;

	TRY(gguf_open(&g, path, err));
	if (n)
		st = metadata_check(g, n, err);
	if (st == OK && !n && !gguf_find(g, "tokenizer.ggml.tokens"))
		st = err_set(err, ERR_FORMAT, "%s: has no tokenizer.ggml.tokens", path);
	if (st == OK)
		metadata_copy(b, g, prefix);
	gguf_close(g);
	return st;
}

static enum status tokenizer(struct quantize *q, struct err *err)
{
	const char *asked = q->opt.tokenizer;
	char *found = asked ? NULL : beside(q->checkpoint, "tokenizer.json");
	char *config = asked ? NULL : beside(q->checkpoint, "tokenizer_config.json");
	enum status st;

	if (q->opt.tokenizer_from)
		st = with_gguf(q->builder, q->opt.tokenizer_from, "tokenizer.", NULL, err);
	else if (asked || found)
		st = metadata_tokenizer(q->builder, asked ? asked : found, config, q->numbers.vocab, err);
	else
		st = err_set(
			err, ERR_NOT_FOUND,
			"%stokenizer.json: not found; name one with --tokenizer, or a model file that has "
			"it with --tokenizer-from or --metadata-from",
			q->checkpoint->folder);
	mem_free(found);
	mem_free(config);
	return st;
}

/* The model's name: as asked, or the checkpoint's folder or file without its ending. */
static void default_name(const struct quantize *q, char *out, size_t room)
{
	const char *path = q->opt.source, *base;
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		n--;
	snprintf(out, room, "%.*s", (int)n, path);
	base = base_name(out);
	memmove(out, base, strlen(base) + 1);
	if (strstr(out, ".safetensors"))
		*strstr(out, ".safetensors") = 0;
	if (!out[0] || !strcmp(out, "."))
		snprintf(out, room, "model");
}

static enum status metadata_of_checkpoint(struct quantize *q, struct err *err)
{
	char name[256];

	default_name(q, name, sizeof name);
	if (q->mtp) {
		gguf_put_text(q->builder, "general.architecture", "deepseek4_mtp_support");
		gguf_put_text(q->builder, "general.name", name);
		return OK;
	}
	if (q->opt.metadata_from) {
		TRY(with_gguf(q->builder, q->opt.metadata_from, "", &q->numbers, err));
		if (q->opt.tokenizer || q->opt.tokenizer_from)
			TRY(tokenizer(q, err));
		gguf_put_u32(q->builder, "deepseek4.expert_gating_func", 4);
		return OK;
	}
	metadata_numbers(q->builder, &q->numbers, name);
	return tokenizer(q, err);
}

static enum status metadata(struct quantize *q, struct err *err)
{
	struct gguf_builder *b = q->builder;
	const struct gguf_kv *type = q->gguf ? gguf_find(q->gguf, "general.file_type") : NULL;

	if (q->checkpoint) {
		TRY(metadata_of_checkpoint(q, err));
	} else {
		metadata_copy(b, q->gguf, "");
		if (q->opt.metadata_from)
			TRY(with_gguf(b, q->opt.metadata_from, "", NULL, err));
		if (q->opt.tokenizer_from)
			TRY(with_gguf(b, q->opt.tokenizer_from, "tokenizer.", NULL, err));
		if (!q->mtp && gguf_has(b, "deepseek4.block_count"))
			gguf_put_u32(b, "deepseek4.expert_gating_func", 4);
	}
	if (q->opt.name)
		gguf_put_text(b, "general.name", q->opt.name);
	if (q->recipe.file_type >= 0)
		gguf_put_u32(b, "general.file_type", (uint32_t)q->recipe.file_type);
	else if (type)
		gguf_put_copy(b, type);
	gguf_put_u32(b, "general.quantization_version", 2);
	gguf_put_text(b, "quantize.program", "ds4");
	gguf_put_u32(b, "quantize.encoder", ENCODE_REVISION);
	gguf_put_text(b, "quantize.recipe", q->recipe.name);
	if (q->opt.imatrix) {
		gguf_put_text(b, "quantize.imatrix.file", base_name(q->opt.imatrix));
		gguf_put_text(b, "quantize.imatrix.dataset", q->imatrix.dataset);
		gguf_put_u32(b, "quantize.imatrix.entries_count", (uint32_t)q->imatrix.n);
		gguf_put_u32(b, "quantize.imatrix.chunks_count", (uint32_t)q->imatrix.chunks);
	}
	return OK;
}

/* ------------------------------------------------------------------ all of it */

static enum status check_destination(const struct quantize_options *o, struct err *err)
{
	if (!o->destination)
		return OK;
	if (same_file(o->source, o->destination))
		return err_set(err, ERR_ARGUMENT, "%s: is both source and destination", o->destination);
	if (!o->force && access(o->destination, F_OK) == 0)
		return err_set(err, ERR_ARGUMENT, "%s: exists; --force replaces it", o->destination);
	for (int i = 0; i < o->n_splice; i++) {
		const char *equals = strchr(o->splice[i], '=');

		if (equals && same_file(equals + 1, o->destination))
			return err_set(err, ERR_ARGUMENT, "%s: is both --splice source and destination",
			               o->destination);
	}
	return OK;
}

static enum status prepare(struct quantize *q, struct err *err)
{
	const struct quantize_options *o = &q->opt;
	const char *recipe = o->recipe;

	TRY(check_destination(o, err));
	if (!recipe && !is_gguf(o->source))
		return err_set(err, ERR_ARGUMENT,
		               "%s: say with --recipe what to store the weights as: " RECIPE_NAMES
		               " or a file",
		               o->source);
	TRY(recipe_load(&q->recipe, recipe ? recipe : "keep", err));
	TRY(is_gguf(o->source) ? open_gguf(q, err) : open_checkpoint(q, err));
	for (int i = 0; i < o->n_drop; i++)
		TRY(drop(q, o->drop[i], err));
	for (int i = 0; i < o->n_splice; i++)
		TRY(splice(q, o->splice[i], err));
	TRY(recipe_apply(&q->recipe, &q->plan, q->mtp, q->layers, err));
	if (o->imatrix)
		TRY(open_imatrix(q, err));
	q->builder = gguf_builder_new();
	if (!q->builder)
		return err_set(err, ERR_MEMORY, "%s: no memory for the plan", o->source);
	TRY(metadata(q, err));
	for (size_t i = 0; i < q->plan.n; i++)
		gguf_add_tensor(q->builder, q->plan.t[i].name, q->plan.t[i].type, q->plan.t[i].n_dims,
		                q->plan.t[i].dims);
	q->head.cap = BUF_MAX;
	return gguf_head(&q->head, q->builder, err);
}

static void count(struct quantize *q)
{
	struct quantize_report *r = &q->report;

	r->threads = q->opt.threads > 0 ? q->opt.threads : cpu_count();
	r->tensors = q->plan.n;
	r->file_bytes = q->head.len + gguf_data_bytes(q->builder);
	for (size_t i = 0; i < q->plan.n; i++) {
		const struct target *t = &q->plan.t[i];
		uint64_t n = t->cols * t->rows * t->n_pieces;

		r->source_bytes += t->source_bytes;
		r->type[t->type].tensors++;
		r->type[t->type].elements += n;
		r->type[t->type].bytes += dtype_bytes(t->type, n);
		if (t->copy || dtype_info(t->type)->block_elements == 1)
			continue;
		if (q->imatrix.n && imatrix_find(&q->imatrix, t->name))
			r->with_importance++;
		else
			r->without_importance++;
	}
	r->memory_bytes = (uint64_t)r->threads * thread_bytes(q) + 2 * q->head.len;
	for (size_t i = 0; i < q->imatrix.n; i++)
		r->memory_bytes += (uint64_t)q->imatrix.entry[i].n * sizeof(float);
	if (q->checkpoint)
		r->memory_bytes +=
			q->checkpoint->n_tensors * (sizeof(struct st_tensor) + sizeof(struct piece) + 96);
	r->disk_free = q->opt.destination ? output_free_bytes(q->opt.destination) : 0;
}

enum status quantize_open(struct quantize **out, const struct quantize_options *opt, struct err *err)
{
	struct quantize *q = mem_zero(sizeof *q);
	enum status st;

	*out = NULL;
	if (!q)
		return err_set(err, ERR_MEMORY, "%s: no memory to open it", opt->source);
	q->opt = *opt;
	st = prepare(q, err);
	if (st == OK) {
		count(q);
		*out = q;
	} else {
		quantize_close(q);
	}
	return st;
}

void quantize_close(struct quantize *q)
{
	if (!q)
		return;
	plan_clear(&q->plan);
	checkpoint_close(q->checkpoint);
	gguf_close(q->gguf);
	for (int i = 0; i < MAX_SPLICES; i++)
		gguf_close(q->splice[i]);
	recipe_clear(&q->recipe);
	imatrix_clear(&q->imatrix);
	gguf_builder_free(q->builder);
	buf_clear(&q->head);
	mem_free(q);
}
