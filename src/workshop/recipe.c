/* recipe.c - reads a recipe and decides every tensor's type by it.
 *
 * What  A line is a pattern and a type; the first line that matches a name decides.
 * Why   What a file will hold is a text that can be read, changed and kept beside the result.
 * Careful
 *       - A line that decides nothing is a typing error more often than not: all such lines are listed and
 *         nothing is done.
 *       - {-6..-1} counts from the number of layers, so the same recipe serves models of any depth.
 *       - Block types need rows of whole blocks: 32 elements for Q8_0, 256 for the others. */
#include "workshop/recipe.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/file.h"
#include "base/mem.h"

#define MAX_TEXT (1u << 20)

/* ------------------------------------------------------------------ patterns */

/* {A..B} at p: fills the range, returns what follows the brace, NULL when it is none. */
static const char *range(const char *p, int64_t layers, int64_t *low, int64_t *high)
{
	char *end;

	*low = strtol(p + 1, &end, 10);
	if (end == p + 1 || strncmp(end, "..", 2))
		return NULL;
	p = end + 2;
	*high = strtol(p, &end, 10);
	if (end == p || *end != '}')
		return NULL;
	*low += *low < 0 ? layers : 0;
	*high += *high < 0 ? layers : 0;
	return end + 1;
}

static bool match_number(const char *rest, const char *name, int64_t low, int64_t high, int64_t layers)
{
	int digits = 0;
	int64_t n = 0;

	while (isdigit((unsigned char)name[digits]) && digits < 9)
		n = 10 * n + (name[digits++] - '0');
	return digits && n >= low && n <= high && recipe_match(rest, name + digits, layers);
}

bool recipe_match(const char *pattern, const char *name, int64_t layers)
{
	int64_t low, high;
	const char *rest;

	for (;; pattern++, name++) {
		if (*pattern == '*') {
			while (*pattern == '*')
				pattern++;
			for (;; name++) {
				if (recipe_match(pattern, name, layers))
					return true;
				if (!*name)
					return false;
			}
		}
		rest = *pattern == '{' ? range(pattern, layers, &low, &high) : NULL;
		if (rest)
			return match_number(rest, name, low, high, layers);
		if (!*pattern || !*name)
			return *pattern == *name;
		if (*pattern != '?' && *pattern != *name)
			return false;
	}
}

/* ------------------------------------------------------------------ reading */

static bool type_by_name(enum dtype *out, const char *name)
{
	for (int t = 0; t < DTYPE_COUNT; t++)
		if (!strcmp(dtype_info((enum dtype)t)->name, name)) {
			*out = (enum dtype)t;
			return true;
		}
	return false;
}

/* Braces hold a range, and there are few enough stars that matching stays cheap. */
static bool good_pattern(const char *p)
{
	int64_t low, high;
	int stars = 0;

	for (; *p; p++) {
		if (*p == '{' && !range(p, 0, &low, &high))
			return false;
		stars += *p == '*';
	}
	return stars <= 6;
}

static enum status parse_line(struct recipe *r, const char *pattern, const char *type, const char *option,
                              int number, struct err *err)
{
	struct recipe_line *l = &r->line[r->n];

	if (!strcmp(pattern, "file_type")) {
		if (args_int(&r->file_type, "file_type", type, 0, 1000, err) == OK)
			return OK;
		err_prefix(err, "recipe %s: line %d", r->name, number);
		return err->code = ERR_FORMAT;
	}
	if (r->n == RECIPE_MAX_LINES)
		return err_set(err, ERR_FORMAT, "recipe %s: has more than %d lines", r->name, RECIPE_MAX_LINES);
	*l = (struct recipe_line){.number = number, .keep = !strcmp(type, "KEEP"), .optional = option[0] != 0};
	if (strlen(pattern) >= sizeof l->pattern || !good_pattern(pattern))
		return err_set(
			err, ERR_FORMAT,
			"recipe %s: line %d: %.60s: expected a name with *, ? and {A..B}, at most six "
			"stars and %d characters",
			r->name, number, pattern, RECIPE_MAX_PATTERN - 1);
	memcpy(l->pattern, pattern, strlen(pattern) + 1);
	if (!l->keep && !type_by_name(&l->type, type))
		return err_set(
			err, ERR_FORMAT,
			"recipe %s: line %d: type is %.30s, expected F32, F16, BF16, Q8_0, Q4_K, Q2_K, "
			"IQ2_XXS, I32 or KEEP",
			r->name, number, type);
	if (option[0] && strcmp(option, "optional"))
		return err_set(err, ERR_FORMAT,
		               "recipe %s: line %d: third word is %.30s, expected \"optional\" or nothing",
		               r->name, number, option);
	r->n++;
	return OK;
}

enum status recipe_parse(struct recipe *r, const char *name, const char *text, struct err *err)
{
	const char *slash = strrchr(name, '/'), *p = text;

	memset(r, 0, sizeof *r);
	r->file_type = -1;
	snprintf(r->name, sizeof r->name, "%s", slash ? slash + 1 : name);
	r->text = mem_str(text);
	if (!r->text)
		return err_set(err, ERR_MEMORY, "recipe %s: no memory for its text", r->name);
	for (int number = 1; *p; number++) {
		size_t n = strcspn(p, "\n");
		char line[256], word[4][200] = {{0}};
		int words;

		if (n >= sizeof line)
			return err_set(err, ERR_FORMAT, "recipe %s: line %d: longer than %zu characters",
			               r->name, number, sizeof line - 1);
		memcpy(line, p, n);
		line[n] = 0;
		line[strcspn(line, "#\r")] = 0;
		p += n + (p[n] == '\n');
		words = sscanf(line, "%199s %199s %199s %199s", word[0], word[1], word[2], word[3]);
		if (words <= 0)
			continue;
		if (words == 1 || words > 3)
			return err_set(err, ERR_FORMAT,
			               "recipe %s: line %d: expected a pattern and a type, found %d words",
			               r->name, number, words);
		TRY(parse_line(r, word[0], word[1], word[2], number, err));
	}
	if (r->n == 0)
		return err_set(err, ERR_FORMAT, "recipe %s: has no line with a pattern and a type", r->name);
	return OK;
}

enum status recipe_load(struct recipe *r, const char *name, struct err *err)
{
	const char *text = recipe_builtin(name);
	struct buf file = BUF_CAP(MAX_TEXT);
	enum status st;

	memset(r, 0, sizeof *r);
	if (text)
		return recipe_parse(r, name, text, err);
	st = file_read(&file, name, err);
	if (st == ERR_NOT_FOUND)
		err_set(err, st, "%s: is neither a file nor one of the recipes " RECIPE_NAMES, name);
	if (st == OK && strlen(buf_cstr(&file)) != file.len)
		st = err_set(err, ERR_FORMAT, "%s: holds a zero byte, expected text", name);
	if (st == OK)
		st = recipe_parse(r, name, buf_cstr(&file), err);
	buf_clear(&file);
	return st;
}

void recipe_clear(struct recipe *r)
{
	mem_free(r->text);
	memset(r, 0, sizeof *r);
}

/* ------------------------------------------------------------------ deciding */

static bool is_mtp(const char *name)
{
	return !strncmp(name, "mtp.", 4);
}

static enum status decide(struct target *t, const struct recipe_line *l, const struct recipe *r, struct err *err)
{
	enum dtype type = l->keep ? t->source_type : l->type;
	uint32_t block = dtype_info(type)->block_elements;
	bool gguf = t->piece[0].coding == CODING_GGUF;

	if (l->keep && !gguf)
		return err_set(err, ERR_FORMAT,
		               "recipe %s: line %d: KEEP is for GGUF sources, %s comes from a checkpoint",
		               r->name, l->number, t->name);
	if (t->integer != (type == DTYPE_I32))
		return err_set(err, ERR_FORMAT, "recipe %s: line %d: %s cannot be %s, it holds %s", r->name,
		               l->number, t->name, dtype_info(type)->name,
		               t->integer ? "whole numbers (I32)" : "weights");
	if (t->cols % block)
		return err_set(err, ERR_FORMAT,
		               "recipe %s: line %d: %s has rows of %" PRIu64
		               ", but %s needs a multiple of %" PRIu32,
		               r->name, l->number, t->name, t->cols, dtype_info(type)->name, block);
	t->type = type;
	t->copy = gguf && type == t->source_type;
	return OK;
}

/* The lines that decided nothing, as one sentence. */
static enum status report_unused(const struct recipe *r, const bool *used, bool mtp, struct err *err)
{
	struct buf list = BUF_CAP(4096);
	int n = 0;

	for (int i = 0; i < r->n; i++)
		if (!used[i] && !r->line[i].optional && is_mtp(r->line[i].pattern) == mtp)
			buf_printf(&list, "%s%s (line %d)", n++ ? ", " : "", r->line[i].pattern,
			           r->line[i].number);
	if (n)
		err_set(err, ERR_FORMAT, "recipe %s: %s no tensor: %s", r->name,
			n == 1 ? "this pattern decides" : "these patterns decide", buf_cstr(&list));
	buf_clear(&list);
	return n ? ERR_FORMAT : OK;
}

enum status recipe_apply(const struct recipe *r, struct plan *p, bool mtp, int64_t layers, struct err *err)
{
	bool used[RECIPE_MAX_LINES] = {false};

	for (size_t i = 0; i < p->n; i++) {
		struct target *t = &p->t[i];
		int l = 0;

		if (t->spliced)
			continue;
		while (l < r->n && (is_mtp(r->line[l].pattern) != mtp ||
		                    !recipe_match(r->line[l].pattern, t->name, layers)))
			l++;
		if (l == r->n)
			return err_set(err, ERR_FORMAT, "recipe %s: no line matches %s", r->name, t->name);
		used[l] = true;
		TRY(decide(t, &r->line[l], r, err));
	}
	return report_unused(r, used, mtp, err);
}
