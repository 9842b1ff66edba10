/* chatlog.c - appends a conversation to its file while it is held; see chatlog.h.
 *
 * How   Everything that belongs together (messages taken back, new ones, an answer's beginning) is one write().  What is in
 *       the file is known by the hash of each message, so saving is comparing: callers change the conversation as they
 *       like and save it.  A thread syncs: at once when asked, else a second after the first unsynced write.
 * Careful
 *       - Tokens that come slower than every tenth of a second are written each: then nothing waits.
 *       - After a failed write the file ends in half a line; it is cut off again, and nothing is written any more.
 *       - Two processes must not append to one file: it is locked as long as it is open. */
#include "chat/chatlog.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "chat/chatlog_int.h"

#define WRITE_SECONDS 0.1
#define SYNC_SECONDS 1

struct chatlog {
	const struct tokenizer *t;
	char *path;
	int fd;
	uint64_t bytes;			/* whole lines in the file */
	struct hash128 *known;		/* [n] the messages in the file */
	size_t n, room;
	bool answering;
	enum thinking thinking;
	struct token_list ids;		/* of the answer that is coming */
	size_t n_written;		/* of them in the file */
	double written;			/* when */
	bool failed;
	char trouble[300];
	/* the syncing thread */
	bool threaded;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	bool dirty, syncing, now, stop;	/* unsynced writes; ...; do not wait for the second to pass; the end */
};

/* ------------------------------------------------------------------ JSON */

void chatlog_line(struct buf *out, const char *json, size_t n)
{
	buf_printf(out, "%016llx ", (unsigned long long)hash64(json, n));
	buf_add(out, json, n);
	buf_byte(out, '\n');
}

static void member(struct buf *b, const char *name, const struct text *t)
{
	if (!t->n)
		return;
	buf_printf(b, ", \"%s\": ", name);
	json_write_string(b, t->p, t->n);
}

static void write_calls(struct buf *b, const struct message *m)
{
	buf_str(b, ", \"tool_calls\": [");
	for (size_t i = 0; i < m->n_calls; i++) {
		const struct tool_call *call = &m->calls[i];

		buf_str(b, i ? ", {\"type\": \"function\"" : "{\"type\": \"function\"");
		member(b, "id", &call->id);
		buf_str(b, ", \"function\": {\"name\": ");
		json_write_string(b, call->name.p ? call->name.p : "", call->name.n);
		buf_str(b, ", \"arguments\": ");
		json_write_string(b, call->arguments.p ? call->arguments.p : "", call->arguments.n);
		buf_str(b, "}}");
	}
	buf_byte(b, ']');
}

void chatlog_message(struct buf *b, const struct message *m)
{
	buf_printf(b, "{\"role\": \"%s\"", role_name(m->role));
	member(b, "reasoning_content", &m->reasoning);
	buf_str(b, ", \"content\": ");
	json_write_string(b, m->content.n ? m->content.p : "", m->content.n);
	member(b, "tool_call_id", &m->tool_call_id);
	if (m->n_calls)
		write_calls(b, m);
	if (m->task != TASK_NONE)
		buf_printf(b, ", \"task\": \"%s\"", task_name(m->task));
	if (m->unfinished)
		buf_str(b, ", \"wo_eos\": true");
	if (m->tools) {
		buf_str(b, ", \"tools\": ");
		json_write_python(b, m->tools);
	}
	if (m->response_format) {
		buf_str(b, ", \"response_format\": ");
		json_write_python(b, m->response_format);
	}
	buf_byte(b, '}');
}

static struct hash128 hash_message(const struct message *m)
{
	struct buf b = BUF_CAP(BUF_MAX);
	struct hash128 h;

	chatlog_message(&b, m);
	buf_add(&b, m->exact.id ? m->exact.id : (const int32_t *)"", m->exact.n * sizeof *m->exact.id);
	h = hash128(buf_cstr(&b), b.len);
	buf_clear(&b);
	return h;
}

/* {"key": VALUE} as a line: begin, VALUE into json, end. */
static void line_begin(struct buf *json, const char *key)
{
	buf_cut(json, 0);
	buf_printf(json, "{\"%s\": ", key);
}

static void line_end(struct buf *out, struct buf *json)
{
	buf_byte(json, '}');
	chatlog_line(out, buf_cstr(json), json->len);
	out->failed |= json->failed;
}

static void put_message(struct buf *out, const char *key, const struct message *m)
{
	struct buf json = BUF_CAP(BUF_MAX);

	line_begin(&json, key);
	chatlog_message(&json, m);
	line_end(out, &json);
	buf_clear(&json);
}

static void put_ids(struct buf *out, const int32_t *id, size_t n)
{
	struct buf json = BUF_CAP(BUF_MAX);

	if (!n)
		return;
	line_begin(&json, "ids");
	for (size_t i = 0; i < n; i++)
		buf_printf(&json, i ? ",%d" : "[%d", (int)id[i]);
	buf_byte(&json, ']');
	line_end(out, &json);
	buf_clear(&json);
}

static void put_answer(struct buf *out, enum thinking thinking)
{
	const char *json = thinking == THINKING_ON ? "{\"answer\": {\"thinking\": true}}" :
						     "{\"answer\": {\"thinking\": false}}";

	chatlog_line(out, json, strlen(json));
}

static void put_cut(struct buf *out, size_t n)
{
	char json[48];
	int bytes = snprintf(json, sizeof json, "{\"cut\": %zu}", n);

	chatlog_line(out, json, (size_t)bytes);
}

/* ------------------------------------------------------------------ writing */

static void fail(struct chatlog *l, const char *why)
{
	if (!l->failed)
		snprintf(l->trouble, sizeof l->trouble, "%s: %s; the conversation is not saved any more", l->path, why);
	l->failed = true;
}

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = write(fd, p, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

static void ask_sync(struct chatlog *l, bool now)
{
	if (!l->threaded)
		return;
	pthread_mutex_lock(&l->lock);
	if (!l->dirty || now)
		pthread_cond_signal(&l->work);
	l->dirty = true;
	l->now |= now;
	pthread_mutex_unlock(&l->lock);
}

static void write_lines(struct chatlog *l, struct buf *b, bool sync)
{
	if (l->failed)
		return;
	if (!buf_ok(b)) {
		fail(l, "no memory");
	} else if (!b->len || write_all(l->fd, b->data, b->len)) {
		l->bytes += b->len;
		ask_sync(l, sync);
	} else {
		fail(l, strerror(errno));
		if (ftruncate(l->fd, (off_t)l->bytes) < 0)
			return;		/* readers leave the half line out */
	}
}

static void *syncer(void *ctx)
{
	struct chatlog *l = ctx;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		while (!l->dirty && !l->stop)
			pthread_cond_wait(&l->work, &l->lock);
		if (!l->dirty)
			break;
		if (!l->now && !l->stop) {
			struct timespec until;

			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += SYNC_SECONDS;
			while (!l->now && !l->stop &&
			       pthread_cond_timedwait(&l->work, &l->lock, &until) != ETIMEDOUT)
				;
		}
		l->dirty = l->now = false;
		l->syncing = true;
		pthread_mutex_unlock(&l->lock);
		fsync(l->fd);	/* a failure shows in the next write, or nobody can help it */
		pthread_mutex_lock(&l->lock);
		l->syncing = false;
		pthread_cond_broadcast(&l->done);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ------------------------------------------------------------------ what is in the file */

static bool know(struct chatlog *l, struct hash128 h)
{
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 16;
		struct hash128 *wide = mem_grow(l->known, room, sizeof *wide);

		if (!wide) {
			fail(l, "no memory");
			return false;
		}
		l->known = wide;
		l->room = room;
	}
	l->known[l->n++] = h;
	return true;
}

/* Is m the answer whose tokens have been written as they came? */
static bool is_coming(const struct chatlog *l, const struct message *m)
{
	size_t n = l->ids.n;

	if (!l->answering || m->role != ROLE_ASSISTANT)
		return false;
	if (n && l->ids.id[n - 1] == tokenizer_special(l->t, SPECIAL_EOS))
		n--;
	return m->exact.n == n && (!n || memcmp(m->exact.id, l->ids.id, n * sizeof *l->ids.id) == 0);
}

static void put(struct chatlog *l, struct buf *out, const struct message *m)
{
	if (is_coming(l, m)) {
		put_ids(out, l->ids.id + l->n_written, l->ids.n - l->n_written);
		put_message(out, "end", m);
	} else if (m->exact.n) {
		put_answer(out, m->exact.thinking);
		put_ids(out, m->exact.id, m->exact.n);
		put_message(out, "end", m);
	} else {
		put_message(out, "message", m);
	}
	l->answering = false;
}

/* Appends to out what makes the file's messages those of c. */
static void catch_up(struct chatlog *l, struct buf *out, const struct conversation *c)
{
	size_t same = 0;

	while (same < l->n && same < c->n) {
		struct hash128 h = hash_message(&c->messages[same]);

		if (h.low != l->known[same].low || h.high != l->known[same].high)
			break;
		same++;
	}
	if (same < l->n || (l->answering && same == c->n)) {
		put_cut(out, same);
		l->answering = false;
	}
	l->n = same;
	for (size_t i = same; i < c->n && know(l, hash_message(&c->messages[i])); i++)
		put(l, out, &c->messages[i]);
}

void chatlog_save(struct chatlog *l, const struct conversation *c)
{
	struct buf out = BUF_CAP(BUF_MAX);

	catch_up(l, &out, c);
	if (out.len || !buf_ok(&out))
		write_lines(l, &out, true);
	buf_clear(&out);
}

void chatlog_begin(struct chatlog *l, const struct conversation *c, enum thinking thinking, const int32_t *id, size_t n)
{
	struct buf out = BUF_CAP(BUF_MAX);

	catch_up(l, &out, c);
	put_answer(&out, thinking);
	put_ids(&out, id, n);
	l->answering = true;
	l->thinking = thinking;
	token_list_clear(&l->ids);
	token_append(&l->ids, id, n);
	l->n_written = n;
	l->written = clock_seconds();
	write_lines(l, &out, true);
	buf_clear(&out);
}

void chatlog_token(struct chatlog *l, int32_t id)
{
	struct buf out = BUF_CAP(BUF_MAX);
	double now = clock_seconds();

	token_push(&l->ids, id);
	if (l->ids.failed)
		fail(l, "no memory");
	if (l->failed || !l->answering || now - l->written < WRITE_SECONDS)
		return;
	put_ids(&out, l->ids.id + l->n_written, l->ids.n - l->n_written);
	l->n_written = l->ids.n;
	l->written = now;
	write_lines(l, &out, false);
	buf_clear(&out);
}

void chatlog_set_name(struct chatlog *l, const char *name)
{
	struct buf out = BUF_CAP(BUF_MAX), json = BUF_CAP(BUF_MAX);

	line_begin(&json, "name");
	json_write_string(&json, name, strlen(name));
	line_end(&out, &json);
	write_lines(l, &out, true);
	buf_clear(&json);
	buf_clear(&out);
}

void chatlog_sync(struct chatlog *l)
{
	if (!l->threaded) {
		fsync(l->fd);
		return;
	}
	pthread_mutex_lock(&l->lock);
	l->dirty = l->now = true;
	pthread_cond_signal(&l->work);
	while (l->dirty || l->syncing)
		pthread_cond_wait(&l->done, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

const char *chatlog_trouble(const struct chatlog *l)
{
	return l->failed ? l->trouble : NULL;
}

/* ------------------------------------------------------------------ opening */

static struct chatlog *log_new(const char *path, const struct tokenizer *t)
{
	struct chatlog *l = mem_zero(sizeof *l);

	if (!l)
		return NULL;
	l->fd = -1;
	l->t = t;
	l->path = mem_str(path);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->work, NULL);
	pthread_cond_init(&l->done, NULL);
	return l;
}

static void start(struct chatlog *l)
{
	l->threaded = pthread_create(&l->thread, NULL, syncer, l) == 0;
}

void chatlog_close(struct chatlog *l)
{
	if (!l)
		return;
	if (l->threaded) {
		pthread_mutex_lock(&l->lock);
		l->stop = true;
		pthread_cond_signal(&l->work);
		pthread_mutex_unlock(&l->lock);
		pthread_join(l->thread, NULL);
	}
	if (l->fd >= 0)
		close(l->fd);
	pthread_cond_destroy(&l->done);
	pthread_cond_destroy(&l->work);
	pthread_mutex_destroy(&l->lock);
	token_list_clear(&l->ids);
	mem_free(l->known);
	mem_free(l->path);
	mem_free(l);
}

static void put_head(struct buf *out, const struct tokenizer *t, const char *model)
{
	struct buf json = BUF_CAP(BUF_MAX);

	buf_printf(&json, "{\"ds4_chat\": %d, \"created\": %lld, \"vocabulary\": \"%016llx\", \"model\": ", CHATLOG_VERSION,
		   (long long)time(NULL), (unsigned long long)chatlog_vocabulary(t));
	json_write_string(&json, model, strlen(model));
	line_end(out, &json);
	buf_clear(&json);
}

enum status chatlog_create(struct chatlog **out, const char *path, const struct tokenizer *t, const char *model,
			   struct err *err)
{
	struct chatlog *l = log_new(path, t);
	struct buf head = BUF_CAP(BUF_MAX);

	*out = NULL;
	if (!l || !l->path) {
		chatlog_close(l);
		return err_set(err, ERR_MEMORY, "%s: no memory", path);
	}
	l->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (l->fd < 0) {
		chatlog_close(l);
		return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
	}
	flock(l->fd, LOCK_EX | LOCK_NB);
	put_head(&head, t, model);
	write_lines(l, &head, false);
	buf_clear(&head);
	if (l->failed) {
		unlink(path);
		err_set(err, ERR_IO, "%s", l->trouble);
		chatlog_close(l);
		return ERR_IO;
	}
	start(l);
	*out = l;
	return OK;
}

static enum status read_all(struct buf *b, int fd, const char *path, struct err *err)
{
	char chunk[65536];
	ssize_t n;

	while ((n = read(fd, chunk, sizeof chunk)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
		buf_add(b, chunk, (size_t)n);
	}
	return buf_ok(b) ? OK : err_set(err, ERR_LIMIT, "%s: no memory, or longer than %zu bytes", path, CHATLOG_MAX);
}

/* Reads through fd, which is at the file's beginning. */
static enum status load(struct chatlog_state *s, struct buf *text, int fd, const char *path, const struct tokenizer *t,
			struct err *err)
{
	TRY(read_all(text, fd, path, err));
	if (chatlog_parse(s, buf_cstr(text), text->len, t, err) != OK)
		return err_prefix(err, "%s", path);
	return OK;
}

/* Cuts away what does not verify; more than a torn line is kept beside. */
static enum status repair(struct chatlog *l, const struct chatlog_state *s, const struct buf *text, struct err *err)
{
	struct buf beside = BUF_CAP(4096);
	enum status st = OK;

	l->bytes = s->good;
	if (s->good == text->len)
		return OK;
	if (s->info.damaged) {
		buf_printf(&beside, "%s.damaged", l->path);
		st = file_write(buf_cstr(&beside), text->data, text->len, err);
		buf_clear(&beside);
	}
	if (st == OK && ftruncate(l->fd, (off_t)s->good) < 0)
		st = err_set(err, ERR_IO, "%s: %s", l->path, strerror(errno));
	return st;
}

/* Takes over what was read: the messages that are in the file, and an answer that still lacks its end. */
static void adopt(struct chatlog *l, struct chatlog_state *s)
{
	size_t n = s->c->n - (s->answering ? 1 : 0);

	for (size_t i = 0; i < n && know(l, hash_message(&s->c->messages[i])); i++)
		;
	if (s->answering) {
		l->answering = true;
		l->thinking = s->thinking;
		l->ids = s->ids;
		l->n_written = s->ids.n;
		s->ids = (struct token_list){0};
	}
}

static enum status open_log(struct chatlog *l, struct chatlog_state *s, struct err *err)
{
	struct buf text = BUF_CAP(CHATLOG_MAX);
	enum status st;

	l->fd = open(l->path, O_RDWR | O_APPEND | O_CLOEXEC);
	if (l->fd < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", l->path, strerror(errno));
	if (flock(l->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return err_set(err, ERR_LIMIT, "%s: another ds4 has this conversation open", l->path);
	st = load(s, &text, l->fd, l->path, l->t, err);
	if (st == OK) {
		st = repair(l, s, &text, err);
		if (st != OK)
			chatlog_state_clear(s);
	}
	buf_clear(&text);
	return st;
}

enum status chatlog_open(struct chatlog **out, const char *path, const struct tokenizer *t, struct conversation **c,
			 struct chatlog_info *info, struct err *err)
{
	struct chatlog *l = log_new(path, t);
	struct chatlog_state s;
	enum status st;

	*out = NULL;
	*c = NULL;
	if (!l || !l->path) {
		chatlog_close(l);
		return err_set(err, ERR_MEMORY, "%s: no memory", path);
	}
	st = open_log(l, &s, err);
	if (st != OK) {
		chatlog_close(l);
		return st;
	}
	adopt(l, &s);
	start(l);
	*c = s.c;
	s.c = NULL;
	*info = s.info;
	chatlog_state_clear(&s);
	*out = l;
	chatlog_save(l, *c);
	return OK;
}

enum status chatlog_read(const char *path, const struct tokenizer *t, struct conversation **c, struct chatlog_info *info,
			 struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct buf text = BUF_CAP(CHATLOG_MAX);
	struct chatlog_state s;
	enum status st;

	if (c)
		*c = NULL;
	if (fd < 0)
		return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
	st = load(&s, &text, fd, path, t, err);
	close(fd);
	buf_clear(&text);
	if (st != OK)
		return st;
	*info = s.info;
	if (c) {
		*c = s.c;
		s.c = NULL;
	}
	chatlog_state_clear(&s);
	return OK;
}

enum status chatlog_peek(const char *path, struct chatlog_info *info, struct err *err)
{
	return chatlog_read(path, NULL, NULL, info, err);
}
