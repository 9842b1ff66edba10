/* common.c - options that several sub-commands have, the choice of a model, and small helpers.
 *
 * Careful
 *   - The bundled ds4-nano is the last resort: a present models/ds4flash.gguf (a link that a download makes) wins.
 *   - Where the program lies is asked of the system, not of argv[0], which a caller may set to anything. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/term.h"

#ifndef DS4_PREFIX
#define DS4_PREFIX "/usr/local"
#endif

#define NANO_FILE "ds4-nano-q2.gguf"

static const char *const backend_names[] = {"auto", "cpu", "cuda", "metal", "ref", NULL};
static const char *const isa_names[] = {"auto", "scalar", "avx2", "avx512", "amx", "neon", NULL};

const struct arg_spec engine_arg_table[] = {
	ARG_GROUP("Model"),
	CLI_MODEL_ROW(struct engine_args),
	ARG_CHOICE("backend", 0, struct engine_args, backend, backend_names,
		   "auto takes the fastest that has room for the model; ref is the slow definition"),
	ARG_CHOICE("cpu", 0, struct engine_args, isa, isa_names, "instruction set of the cpu backend"),
	ARG_INT("threads", 't', struct engine_args, threads, 1, 1024, "N", "threads (as many as cores)"),
	ARG_INT("ctx", 'c', struct engine_args, context, 1, 1 << 20, "N",
		"tokens of context, for example 32k (the model's, at most 32k)"),
	ARG_INT("chunk", 0, struct engine_args, chunk, 1, 1 << 16, "N", "prompt tokens read in one step"),
	ARG_INT("memory", 0, struct engine_args, memory, 1, 0x1p60, "BYTES",
		"refuse to start if more is needed beside the weights, for example 8g (what the machine has)"),
	ARG_END
};

const struct arg_spec numerics_arg_table[] = {
	ARG_GROUP("Numerics (backend ref only)"),
	ARG_FLAG("fp8", 0, struct numerics_args, fp8, "round history rows to FP8, as the model was trained"),
	ARG_FLAG("fp4", 0, struct numerics_args, fp4, "round indexer keys and queries to FP4, as trained"),
	ARG_FLAG("wide-rows", 0, struct numerics_args, wide_rows,
		 "keep history in float64 instead of packed; implied by --no-fp8 and --no-fp4"),
	ARG_END
};

const struct arg_spec sampling_arg_table[] = {
	ARG_GROUP("Sampling"),
	ARG_REAL("temp", 0, struct sampling_args, temp, 0, 10, "T",
		 "temperature; 0 always takes the likeliest token (1, for ds4-nano 0.3)"),
	ARG_INT("top-k", 0, struct sampling_args, top_k, 0, 1 << 20, "K", "only the K likeliest tokens; 0 = all"),
	ARG_REAL("top-p", 0, struct sampling_args, top_p, 0, 1, "P", "only the likeliest tokens that sum to P"),
	ARG_REAL("min-p", 0, struct sampling_args, min_p, 0, 1, "P", "only tokens at least P times the likeliest"),
	ARG_INT("seed", 0, struct sampling_args, seed, 0, 9007199254740992.0, "N",
		"same seed, same answer (from the clock)"),
	ARG_INT("max-tokens", 'n', struct sampling_args, max_tokens, 1, 1 << 20, "N",
		"longest answer (until the context is full)"),
	ARG_END
};

/* ------------------------------------------------------------------ which model */

/* Folder of the running program, without a final slash; false when the system will not tell. */
static bool program_folder(char *out, size_t room)
{
	char *slash;
#ifdef __APPLE__
	uint32_t n = (uint32_t)room;
	char real[PATH_MAX];

	if (_NSGetExecutablePath(out, &n) != 0 || !realpath(out, real))
		return false;
	if ((size_t)snprintf(out, room, "%s", real) >= room)
		return false;
#else
	ssize_t n = readlink("/proc/self/exe", out, room - 1);

	if (n <= 0)
		return false;
	out[n] = 0;
#endif
	slash = strrchr(out, '/');
	if (!slash)
		return false;
	*slash = 0;
	return true;
}

static bool try_file(char *out, size_t room, const char *folder, const char *file)
{
	if ((size_t)snprintf(out, room, "%s%s%s", folder, *folder ? "/" : "", file) >= room)
		return false;
	return access(out, R_OK) == 0;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

enum status cli_choose_model(const char **out, const char *asked, struct err *err)
{
	static char path[PATH_MAX];
	const char *from_env = getenv("DS4_MODEL");
	char here[PATH_MAX], up[PATH_MAX + 16];
	bool know_here = program_folder(here, sizeof here);

	if (asked) {
		*out = asked;
		return OK;
	}
	*out = path;
	if (from_env && *from_env) {
		*out = from_env;
		term_note("model: %s ($DS4_MODEL)", base_name(from_env));
		return OK;
	}
	if (try_file(path, sizeof path, "", CLI_FLASH) ||
	    (know_here && try_file(path, sizeof path, here, CLI_FLASH))) {
		term_note("model: %s", path);
		return OK;
	}
	snprintf(up, sizeof up, "%s/../share/ds4", know_here ? here : "");
	if (try_file(path, sizeof path, "models", NANO_FILE) ||
	    (know_here && (try_file(path, sizeof path, here, "models/" NANO_FILE) ||
			   try_file(path, sizeof path, up, NANO_FILE))) ||
	    try_file(path, sizeof path, DS4_PREFIX "/share/ds4", NANO_FILE)) {
		term_note("model: %s (the bundled ds4-nano, a tiny demonstration)", NANO_FILE);
		return OK;
	}
	return err_set(err, ERR_NOT_FOUND,
		       "no model: name one with -m FILE or $DS4_MODEL; there is neither " CLI_FLASH
		       " nor models/" NANO_FILE " here or beside the program");
}

/* ------------------------------------------------------------------ engine and sampling */

enum status cli_engine_options(struct engine_options *o, const struct engine_args *a,
			       const struct numerics_args *numerics, int32_t max_logits, struct err *err)
{
	TRY(cli_choose_model(&o->model, a->model, err));
	o->backend = backend_names[a->backend];
	o->threads = (int)a->threads;
	o->isa = isa_names[a->isa];
	o->context = (int32_t)a->context;
	o->chunk = (int32_t)a->chunk;
	o->max_logits = max_logits;
	o->memory_limit = (uint64_t)a->memory;
	if (numerics) {
		o->numerics.fp8 = numerics->fp8;
		o->numerics.fp4 = numerics->fp4;
		/* Packed rows are rounded ones. */
		o->numerics.packed = numerics->fp8 && numerics->fp4 && !numerics->wide_rows;
		if ((!o->numerics.fp8 || !o->numerics.fp4 || !o->numerics.packed) && strcmp(o->backend, "ref"))
			return err_set(err, ERR_ARGUMENT,
				       "--no-fp8, --no-fp4 and --wide-rows need --backend ref, got %s",
				       o->backend);
	}
	return OK;
}

enum status cli_open_engine(struct engine **out, const struct engine_args *a, const struct numerics_args *numerics,
			    int32_t max_logits, struct err *err)
{
	struct engine_options o = ENGINE_OPTIONS_DEFAULT;

	TRY(cli_engine_options(&o, a, numerics, max_logits, err));
	TRY(engine_open(out, &o, err));
	if ((*out)->backend_why[0])
		term_note("%s", (*out)->backend_why);
	return OK;
}

bool cli_is_nano(const struct engine *e)
{
	return strstr(e->name, "ds4-nano") != NULL;
}

struct sampler_params cli_sampling(const struct sampling_args *a, const struct engine *e)
{
	struct sampler_params p = SAMPLER_DEFAULT;
	struct timespec now;

	p.temperature = a->temp >= 0 ? (float)a->temp : cli_is_nano(e) ? 0.3f : 1.0f;
	p.top_k = (int32_t)a->top_k;
	p.top_p = (float)a->top_p;
	p.min_p = (float)a->min_p;
	if (a->seed >= 0) {
		p.seed = (uint64_t)a->seed;
	} else {
		clock_gettime(CLOCK_REALTIME, &now);
		/* 32 bits: short enough to type again. */
		p.seed = ((uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec) & 0xffffffffu;
	}
	return p;
}

/* ------------------------------------------------------------------ small things */

enum status cli_flush(struct err *err)
{
	if (fflush(stdout) != 0 || ferror(stdout))
		return err_set(err, ERR_IO, "standard output: %s",
			       errno ? strerror(errno) : "could not be written");
	return OK;
}

static bool is_space_or_comma(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',';
}

enum status cli_numbers(int32_t **out, int32_t *n, const char *what, const char *text, size_t bytes,
			struct err *err)
{
	int32_t *list = NULL, *grown;
	size_t room = 0, i = 0, end;
	char word[32];
	int64_t v;

	*out = NULL;
	*n = 0;
	while (i < bytes) {
		if (is_space_or_comma(text[i])) {
			i++;
			continue;
		}
		for (end = i; end < bytes && !is_space_or_comma(text[end]); end++)
			;
		snprintf(word, sizeof word, "%.*s", (int)(end - i < sizeof word ? end - i : sizeof word - 1),
			 text + i);
		if (args_int(&v, what, word, 0, INT32_MAX, err) != OK)
			goto fail;
		if ((size_t)*n == room) {
			room = room ? room * 2 : 64;
			grown = mem_grow(list, room, sizeof *list);
			if (!grown) {
				err_set(err, ERR_MEMORY, "%s: no memory for %zu numbers", what, room);
				goto fail;
			}
			list = grown;
		}
		list[(*n)++] = (int32_t)v;
		i = end;
	}
	*out = list;
	return OK;
fail:
	mem_free(list);
	*n = 0;
	return err->code;
}
