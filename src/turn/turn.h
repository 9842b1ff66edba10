/* turn.h - one answer, whoever asked: a conversation and limits in, neutral events out.
 *
 *   turn_request --> render, splice exact ids, check sizes --> worker --> tokens --> decode, stop strings --> events
 *
 * API dialects, the terminal and the evaluator are translators of these events; thinking, tool calls, stop strings,
 * whole characters, forced starts and constrained output are handled here, once.
 * Promises
 *   U1  Everything a caller can get wrong is found by turn_open(): after it, only the engine can fail.
 *   U2  Order of events: { WAITING }, STARTED, { READ }, { REASONING }, { CONTENT }, { CALL_BEGIN { CALL_ARGUMENTS }
 *       CALL_END }, then exactly one FINISH.  A call that was cut off has no CALL_END; a turn that was cancelled or
 *       refused before it began has no STARTED.
 *   U3  Texts of each kind, joined, do not depend on how tokens cut the bytes, nor on streaming.
 *   U4  max_tokens counts reasoning and answer together; an answer never has more tokens.  A reasoning that the budget,
 *       max_tokens or the context ends is closed with </think>, which is then the last token that they leave.
 *   U5  With required or named tool_choice the answer is a call of a declared (the named) tool, unless it is cut off.
 *       With a format it is one JSON value of that schema, unless it is cut off or a tool is called instead.
 *   U6  What was answered is remembered for exact replay under the carrier and the call ids, before FINISH is told.
 * Thread: one reader; what runs on the engine's thread is inside. */
#ifndef DS4_TURN_TURN_H
#define DS4_TURN_TURN_H

#include "chat/replay.h"
#include "chat/render.h"
#include "engine/engine.h"
#include "engine/stops.h"
#include "engine/worker.h"

struct turn;
struct turn_tables;

/* What all turns of a process share; borrowed, outlives them. */
struct turn_context {
	struct engine *engine;
	struct worker *worker;
	struct replay *replay;		/* NULL: history is always rendered */
	const struct turn_tables *tables;
	enum profile profile;
};

/* What is worked out once from a vocabulary: legal tokens, their bytes in the order that constraints walk them. */
enum status turn_tables_new(struct turn_tables **out, const struct tokenizer *t, struct err *err);
void turn_tables_free(struct turn_tables *t);	/* accepts NULL */

enum tool_choice {
	TOOL_CHOICE_AUTO,
	TOOL_CHOICE_NONE,	/* tools that the conversation declares are not shown to the model */
	TOOL_CHOICE_REQUIRED,	/* some call */
	TOOL_CHOICE_NAMED	/* this one */
};

enum turn_format {
	TURN_FORMAT_TEXT,
	TURN_FORMAT_JSON_OBJECT,	/* any JSON object */
	TURN_FORMAT_JSON_SCHEMA
};

struct turn_request {
	struct conversation *conversation;	/* taken over by turn_open, also when it fails; NULL: raw */
	const int32_t *raw;			/* [n_raw] prompt ids when there is no conversation; copied */
	int32_t n_raw;
	enum thinking thinking;
	enum effort effort;
	int32_t thinking_budget;	/* reasoning tokens after which </think> is forced; < 0 = no limit */
	int32_t max_tokens;		/* < 0 = until the context is full; 0 = only read (logprobs of the prompt) */
	struct sampler_params sampling;
	const struct stop_string *stop;	/* [n_stop], copied; they end the visible content only */
	int n_stop;
	enum tool_choice tool_choice;
	const char *tool_name;		/* of NAMED; copied */
	bool one_call;			/* end the answer after the first call (the block is closed properly) */
	bool strict_tools;		/* tools that say "strict": true get arguments that match their schema */
	enum turn_format format;	/* also written into the prompt, unless a message has a response_format */
	const json_t *schema;		/* of JSON_SCHEMA; borrowed for turn_open */
	int32_t top_logprobs;		/* -1 = no log-probabilities, 0..20 = with this many alternatives */
	bool prompt_logprobs;		/* also of the prompt's tokens but the first, in READ events; needs top_logprobs >= 0.
					 * The prompt is then read token by token, at the speed of an answer */
	int32_t priority;
	const int32_t *script;		/* [n_script] tokens to "sample" instead, then EOS: scripted answers; copied.  What
					 * is forced (budget, tool_choice) comes all the same; a format is not enforced */
	int32_t n_script;
};

#define TURN_REQUEST_DEFAULT {.thinking_budget = -1, .max_tokens = -1, .sampling = SAMPLER_DEFAULT, .top_logprobs = -1}

enum turn_kind {
	TURN_WAITING,		/* wait: why it has not begun */
	TURN_STARTED,		/* done: prompt tokens that need not be read */
	TURN_READ,		/* done of total prompt tokens; logprob with prompt_logprobs */
	TURN_REASONING,		/* text */
	TURN_CONTENT,		/* text */
	TURN_CALL_BEGIN,	/* index, call_id; text is the name */
	TURN_CALL_ARGUMENTS,	/* index; text is JSON: fragments, joined one object */
	TURN_CALL_END,		/* index */
	TURN_FINISH		/* finish, err, stop, usage, carrier */
};

enum turn_finish {
	TURN_STOP,		/* the model ended its answer */
	TURN_STOP_STRING,	/* stop: which */
	TURN_TOOL_CALLS,
	TURN_LENGTH,		/* max_tokens */
	TURN_CONTEXT,		/* the context is full */
	TURN_CANCELLED,
	TURN_ERROR		/* err */
};

struct turn_logprob {		/* of one generated token */
	int32_t token;
	float logprob;
	int n_top;
	struct { int32_t token; float logprob; } top[20];	/* best first */
};

struct turn_usage {
	int32_t prompt;		/* tokens */
	int32_t cached;		/* of them not read now: from memory or disk */
	int32_t generated;	/* end of sentence not counted */
	int32_t reasoning;	/* of generated, up to and including </think> */
};

struct turn_event {
	enum turn_kind kind;
	const char *text;	/* borrowed for the call */
	size_t n;
	size_t index;		/* of the call, from 0 */
	const char *call_id;	/* "call_" and 32 hexadecimal digits */
	const struct turn_logprob *logprob;	/* [n_logprob] of the tokens that this text came from, if asked for */
	int n_logprob;			/* tokens of tags and control tokens are not reported */
	enum sched_wait wait;
	int32_t done, total;
	enum turn_finish finish;
	int stop;			/* index of the stop string */
	const struct err *err;
	struct turn_usage usage;	/* whole with FINISH; prompt and cached from STARTED on */
	const char *carrier;	/* in every event; names this turn for exact replay: Anthropic's signature, Responses'
				 * encrypted content; "" without a replay */
};

/* Renders, applies exact replay, compiles constraints, checks that the prompt fits.  Errors: ERR_LIMIT (prompt >=
 * context, "prompt is too long: N tokens > M maximum"; or more memory than there is), ERR_ARGUMENT (unsupported schema
 * keyword, unknown tool, ... named), ERR_MEMORY.  When the prompt could be rendered *n_prompt is its length, else 0;
 * it may be NULL. */
enum status turn_open(struct turn **out, const struct turn_context *c, struct turn_request *q, int32_t *n_prompt,
		      struct err *err);
/* Cancels when it still runs, without waiting; what was computed stays in the prefix tree. */
void turn_close(struct turn *t);	/* accepts NULL */

/* The length of the prompt that turn_open() would make, whatever the context; takes over q's conversation. */
enum status turn_count(const struct turn_context *c, struct turn_request *q, int32_t *n_prompt, struct err *err);

int32_t turn_prompt_tokens(const struct turn *t);
const int32_t *turn_prompt(const struct turn *t);	/* [turn_prompt_tokens] */

/* The tokens of the answer without end of sentence; none before its FINISH is near.  Borrowed until turn_close(). */
const int32_t *turn_answer(const struct turn *t, int32_t *n);

/* Hands the turn to the engine's thread.  notify, called from any thread and possibly often, says that turn_read() has
 * something; it must not block.  NULL = the reader waits in turn_read. */
enum status turn_start(struct turn *t, void (*notify)(void *ctx), void *ctx, struct err *err);
void turn_cancel(struct turn *t);	/* from any thread; FINISH comes soon */

/* Calls take for every event there is; waits up to `seconds` for the first.  False after FINISH was handed out.
 * take returning false = cancel, and stop handing out until the next call. */
bool turn_read(struct turn *t, double seconds, bool (*take)(void *ctx, const struct turn_event *ev), void *ctx);

#endif
