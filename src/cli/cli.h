/* cli.h - what the sub-commands of `ds4` share: their form, the signals, the choice of a model, common options.
 *
 * A sub-command is an options struct with defaults, the table that fills it, and a function that returns a status
 * and a sentence.  Only main.c prints that sentence and turns the status into an exit code. */
#ifndef DS4_CLI_CLI_H
#define DS4_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/args.h"
#include "base/buf.h"
#include "base/status.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "kvstore/kvstore.h"

struct cli_command {
	struct arg_command args;
	const void *defaults;	/* the options before parsing */
	size_t size;		/* bytes of the options */
	enum status (*run)(void *options, struct err *err);
};

extern const struct cli_command chat_command, run_command, tokenize_command, render_command, parse_command,
	logits_command, inspect_command, perplexity_command, pull_command, quantize_command, bench_command, imatrix_command,
	quality_command, kv_command, serve_command;

/* ------------------------------------------------------------------ signals (signals.c) */

void cli_signals_install(void);
void cli_interrupt_twice_kills(void);	/* for commands that answer once; the chat survives any number */
void cli_end_in_order(void);		/* SIGHUP and SIGTERM only ask for the end; a second one ends the process */
bool cli_ending(void);			/* they did */
bool cli_interrupted(void);		/* Ctrl-C since the last clear */
void cli_clear_interrupted(void);
const volatile int *cli_interrupt_flag(void);
bool cli_resized(void);
void cli_clear_resized(void);
bool cli_continued(void);		/* back from Ctrl-Z */
void cli_clear_continued(void);

/* ------------------------------------------------------------------ common options (common.c) */

struct engine_args {
	const char *model;
	int backend, isa;		/* indices into backend_names, isa_names */
	int64_t threads, context, chunk, memory;
};

struct numerics_args {
	bool fp8, fp4, wide_rows;
};

struct sampling_args {
	double temp, top_p, min_p;	/* temp < 0: the model's default */
	int64_t top_k;
	int64_t seed;			/* < 0: from the clock */
	int64_t max_tokens;		/* 0: until the context is full */
};

/* The row for -m, for a command's own struct with a field `model`. */
#define CLI_FLASH "models/ds4flash.gguf"
#define CLI_MODEL_ROW(S)                                                       \
	ARG_TEXT("model", 'm', S, model, "FILE",                                \
		 "GGUF file (else $DS4_MODEL, else " CLI_FLASH ", else the bundled ds4-nano)")

#define ENGINE_ARGS_DEFAULT {0}
#define NUMERICS_ARGS_DEFAULT {.fp8 = true, .fp4 = true}
#define SAMPLING_ARGS_DEFAULT {.temp = -1, .top_p = 1, .seed = -1}

extern const struct arg_spec engine_arg_table[], numerics_arg_table[], sampling_arg_table[];

/* The file to use: -m, else $DS4_MODEL, else models/ds4flash.gguf, else the bundled nano; looked for in the current
 * folder, beside the program, and where it is installed.  Says on standard error which one and why, except for -m.
 * ERR_NOT_FOUND names the places.  *out is borrowed until the end of the process. */
enum status cli_choose_model(const char **out, const char *asked, struct err *err);

/* What opening the engine will be asked: the same without doing it, for who wants to change something. */
enum status cli_engine_options(struct engine_options *o, const struct engine_args *a,
			       const struct numerics_args *numerics, int32_t max_logits, struct err *err);

/* Opens the engine.  numerics may be NULL (the model's own); max_logits as in engine_options, 0 = one. */
enum status cli_open_engine(struct engine **out, const struct engine_args *a, const struct numerics_args *numerics,
			    int32_t max_logits, struct err *err);

/* Blocks and checkpoints on disk (kv_open.c): --kv-dir, --kv-space-mb, --no-kv. */
struct kv_args {
	bool kv;
	const char *dir;		/* NULL: the usual one */
	int64_t space_mb;
};

#define KV_ARGS_DEFAULT {.kv = true, .space_mb = KVSTORE_BUDGET_DEFAULT >> 20}

extern const struct arg_spec kv_arg_table[];

/* `asked`, else $XDG_CACHE_HOME/ds4/kv, else ~/.cache/ds4/kv (macOS: ~/Library/Caches/ds4/kv).  False: no folder. */
bool cli_kv_dir(char *out, size_t room, const char *asked);

/* Opens the store and attaches it to e's tree; NULL with --no-kv or without a folder.  Troubles of the disk are notes. */
enum status cli_open_kv(struct kvstore **out, const struct kv_args *a, struct engine *e, struct err *err);
/* Writes what is not on disk yet and closes; after sessions, before the engine.  NULL allowed. */
void cli_close_kv(struct kvstore *ks);

/* Sampling parameters with the defaults of this model filled in. */
struct sampler_params cli_sampling(const struct sampling_args *a, const struct engine *e);

bool cli_is_nano(const struct engine *e);

/* Ends standard output: ERR_IO when something written did not arrive (a full disk). */
enum status cli_flush(struct err *err);

/* Parses "0,4,9" or whitespace-separated whole numbers into a new array; ERR_FORMAT names `what` and the bad word. */
enum status cli_numbers(int32_t **out, int32_t *n, const char *what, const char *text, size_t bytes,
			struct err *err);

#endif
