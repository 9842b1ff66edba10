/* render.h - conversation -> the exact prompt, as DeepSeek's own encoder writes it.
 *
 *	prompt = BOS [effort prefix] { turn }
 *
 * Nothing is normalised here: what a dialect should do first (join system messages, move late ones into a
 * user turn) it does to the conversation.  No separators stand between turns.
 * Thread: no state; the conversation is only read.  Source: docs/chat.md. */
#ifndef DS4_CHAT_RENDER_H
#define DS4_CHAT_RENDER_H

#include "base/buf.h"
#include "base/status.h"
#include "chat/message.h"
#include "chat/segment.h"

enum profile {
	PROFILE_PREVIEW,	/* weights of April 2026 */
	PROFILE_0731		/* weights of July 2026: other effort levels, everything else the same */
};

enum effort {		/* only matters while thinking */
	EFFORT_DEFAULT,
	EFFORT_LOW,	/* 0731 only */
	EFFORT_HIGH,
	EFFORT_MAX
};

struct render_options {	/* zero is: preview, not thinking, defaults */
	enum profile profile;
	enum thinking thinking;
	enum effort effort;
	bool keep_reasoning;	/* keep that of earlier turns even without tools */
	bool no_bos;
};

/* Emits the prompt into sink.  Errors: ERR_ARGUMENT (an empty developer message, an effort that the profile does
 * not have), ERR_MEMORY. */
enum status chat_render(const struct conversation *c, const struct render_options *o, struct sink *sink,
			struct err *err);

/* The two common uses: appends the prompt as text (to look at), or as ids (to run). */
enum status chat_render_text(const struct conversation *c, const struct render_options *o,
			     const struct tokenizer *t, struct buf *out, struct err *err);
enum status chat_render_ids(const struct conversation *c, const struct render_options *o,
			    const struct tokenizer *t, struct token_list *out, struct err *err);

/* The profile that a model's name (general.name) tells: 0731 when it says so. */
enum profile profile_guess(const char *name, size_t n);

#endif
