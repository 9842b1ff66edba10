/* chatlog_fuzz.c - any bytes as a conversation's file: as they are, and as lines whose checksums are right. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chatlog_int.h"
#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *vocabulary(void)
{
	struct gguf *g = NULL;
	struct tokenizer *t = NULL;

	if (gguf_open(&g, "models/ds4-nano-q2.gguf", NULL) != OK || tokenizer_open(&t, g, NULL) != OK)
		abort();
	gguf_close(g);
	return t;
}

static void read_once(const char *text, size_t n, const struct tokenizer *t)
{
	struct chatlog_state s;
	struct err err = {0};

	if (chatlog_parse(&s, text, n, t, &err) != OK)
		return;
	if (s.good > n || !conversation_ok(s.c))
		abort();
	for (size_t i = 0; i < s.c->n; i++)
		for (size_t k = 0; k < s.c->messages[i].exact.n; k++)
			if (s.c->messages[i].exact.id[k] < 0 || s.c->messages[i].exact.id[k] >= tokenizer_size(t))
				abort();
	chatlog_state_clear(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tokenizer *t;
	struct buf b = BUF_CAP(1 << 20);
	char head[100];
	size_t from = 0;

	if (!t)
		t = vocabulary();
	read_once((const char *)data, size, t);
	snprintf(head, sizeof head, "{\"ds4_chat\": 1, \"vocabulary\": \"%016llx\"}",
		 (unsigned long long)chatlog_vocabulary(t));
	chatlog_line(&b, head, strlen(head));
	for (size_t i = 0; i <= size; i++) {
		if (i < size && data[i] != '\n')
			continue;
		chatlog_line(&b, (const char *)data + from, i - from);
		from = i + 1;
	}
	if (buf_ok(&b))
		read_once(b.data, b.len, t);
	buf_clear(&b);
	return 0;
}
