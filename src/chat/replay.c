/* replay.c - the map from names of turns to turns, and the thread that writes them down; see replay.h.
 *
 * What  A table of keys (carrier, call ids, place), each leading to a turn; turns in order of use; a queue to the file.
 * How   A key leads to the newest turn that has it: an older one keeps its other keys.  Turns never change, so the
 *       writing thread only holds references; what it reads from the file enters as if it had been remembered.
 * Careful
 *       - Hashing and rendering are done outside of the lock, which guards the table and the queue only.
 *       - A turn may leave the table while it waits to be written: it is freed with the last reference. */
#include "chat/replay.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "chat/replay_int.h"

#define DEFAULT_BYTES ((uint64_t)256 << 20)

struct replay {
	const struct tokenizer *tokenizer;
	uint64_t max_bytes;
	pthread_mutex_t lock;
	/* guarded */
	struct turn_entry **bucket;		/* [n_buckets], a power of two */
	size_t n_buckets, n_entries;
	struct replay_turn *newest, *oldest;
	struct replay_stats stats;
	struct replay_turn *queue, **queue_end;
	uint64_t queued, written;		/* turns so far */
	bool stop;
	pthread_cond_t work, done;
	/* the writing thread's, once it runs */
	bool threaded;
	pthread_t thread;
	struct replay_file file;
};

/* ------------------------------------------------------------------ the table */

static struct turn_entry **bucket_of(struct replay *r, struct hash128 key)
{
	return &r->bucket[key.low & (r->n_buckets - 1)];
}

/* Twice the buckets when there are more keys than buckets; without memory the chains get longer. */
static void grow(struct replay *r)
{
	struct turn_entry **old = r->bucket, **wide;
	size_t n = r->n_buckets;

	if (r->n_entries < n)
		return;
	wide = mem_array(n * 2, sizeof *wide);
	if (!wide)
		return;
	r->bucket = wide;
	r->n_buckets = n * 2;
	for (size_t i = 0; i < n; i++) {
		for (struct turn_entry *e = old[i], *next; e; e = next) {
			next = e->next;
			e->next = *bucket_of(r, e->key);
			*bucket_of(r, e->key) = e;
		}
	}
	mem_free(old);
}

static struct turn_entry *find(struct replay *r, struct hash128 key)
{
	struct turn_entry *e = *bucket_of(r, key);

	while (e && !same_hash(e->key, key))
		e = e->next;
	return e;
}

static void unlink_entry(struct replay *r, struct turn_entry *e)
{
	struct turn_entry **at = bucket_of(r, e->key);

	if (!e->linked)
		return;
	while (*at != e)
		at = &(*at)->next;
	*at = e->next;
	e->linked = false;
	r->n_entries--;
}

static void link_entry(struct replay *r, struct turn_entry *e)
{
	struct turn_entry *same = find(r, e->key);

	if (!e->key.low && !e->key.high)	/* a call without an id */
		return;
	if (same)
		unlink_entry(r, same);
	grow(r);
	e->next = *bucket_of(r, e->key);
	*bucket_of(r, e->key) = e;
	e->linked = true;
	r->n_entries++;
}

/* ------------------------------------------------------------------ order of use */

static void take_out(struct replay *r, struct replay_turn *t)
{
	*(t->newer ? &t->newer->older : &r->newest) = t->older;
	*(t->older ? &t->older->newer : &r->oldest) = t->newer;
	t->newer = t->older = NULL;
}

static void put_newest(struct replay *r, struct replay_turn *t)
{
	t->newer = NULL;
	t->older = r->newest;
	*(r->newest ? &r->newest->newer : &r->oldest) = t;
	r->newest = t;
}

static void drop(struct replay_turn *t)
{
	if (--t->refs == 0)
		mem_free(t);
}

static void remove_turn(struct replay *r, struct replay_turn *t)
{
	for (size_t i = 0; i < 2 + (size_t)t->n_calls; i++)
		unlink_entry(r, &t->entry[i]);
	take_out(r, t);
	r->stats.turns--;
	r->stats.bytes -= t->bytes;
	drop(t);
}

static void evict(struct replay *r)
{
	while (r->oldest && r->stats.bytes > r->max_bytes) {
		remove_turn(r, r->oldest);
		r->stats.evicted++;
	}
}

/* The table takes over t's first reference. */
static void enter(struct replay *r, struct replay_turn *t)
{
	for (size_t i = 0; i < 2 + (size_t)t->n_calls; i++)
		link_entry(r, &t->entry[i]);
	put_newest(r, t);
	r->stats.turns++;
	r->stats.bytes += t->bytes;
	evict(r);
}

/* ------------------------------------------------------------------ the writing thread */

/* A turn from the file.  What is known is kept; what another process added while we run is as new as ours. */
static void take_from_file(void *ctx, struct replay_turn *t)
{
	struct replay *r = ctx;

	if (!t)
		return;
	pthread_mutex_lock(&r->lock);
	if (find(r, t->entry[0].key))
		mem_free(t);
	else
		enter(r, t);
	pthread_mutex_unlock(&r->lock);
}

/* All turns from the least recently used on, for writing the file anew: in this order they will be read. */
struct walk {
	struct replay *r;
	struct replay_turn **turn;	/* [n], references */
	size_t n, at;
	bool begun;
};

static void walk_begin(struct walk *w)
{
	struct replay *r = w->r;

	w->begun = true;
	pthread_mutex_lock(&r->lock);
	w->turn = mem_array(r->stats.turns, sizeof *w->turn);
	for (struct replay_turn *t = r->oldest; t && w->turn; t = t->newer) {
		t->refs++;
		w->turn[w->n++] = t;
	}
	pthread_mutex_unlock(&r->lock);
}

static bool walk_next(void *ctx, const struct replay_turn **t)
{
	struct walk *w = ctx;

	if (!w->begun)
		walk_begin(w);
	*t = w->at < w->n ? w->turn[w->at++] : NULL;
	return w->turn != NULL;
}

static void compact(struct replay *r)
{
	struct walk w = {.r = r};

	replay_file_compact(&r->file, walk_next, &w);
	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < w.n; i++)
		drop(w.turn[i]);
	pthread_mutex_unlock(&r->lock);
	mem_free(w.turn);
}

/* Writes a list of turns; those that are in the table are written with it when the file is written anew. */
static void write_down(struct replay *r, const struct replay_turn *first)
{
	bool damaged = r->file.garbage > 0;

	if (damaged)
		compact(r);
	else if (!replay_file_append(&r->file, first))
		compact(r);
}

static void *writer(void *ctx)
{
	struct replay *r = ctx;

	pthread_mutex_lock(&r->lock);
	while (!r->stop || r->queue) {
		struct replay_turn *first = r->queue;

		if (!first) {
			pthread_cond_wait(&r->work, &r->lock);
			continue;
		}
		r->queue = NULL;
		r->queue_end = &r->queue;
		pthread_mutex_unlock(&r->lock);
		write_down(r, first);
		pthread_mutex_lock(&r->lock);
		r->stats.file_bytes = r->file.fd >= 0 && !r->file.read_only ? r->file.known : 0;
		for (struct replay_turn *next; first; first = next) {
			next = first->next;
			r->written++;
			drop(first);
		}
		pthread_cond_broadcast(&r->done);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* ------------------------------------------------------------------ opening */

uint64_t replay_vocabulary(const struct tokenizer *t)
{
	uint64_t h = 0;

	for (int32_t id = 0; id < tokenizer_size(t); id++) {
		size_t n;
		const char *bytes = token_bytes(t, id, &n);
		uint64_t link[2] = {h, hash64(bytes, n)};

		h = hash64(link, sizeof link);
	}
	return h;
}

static enum status open_file(struct replay *r, const struct replay_options *o, struct err *err)
{
	struct replay_file *f = &r->file;

	f->path = mem_str(o->path);
	if (!f->path)
		return err_set(err, ERR_MEMORY, "no memory for a map of answers");
	f->vocab = (uint32_t)tokenizer_size(o->tokenizer);
	f->vocabulary = replay_vocabulary(o->tokenizer);
	f->limit = r->max_bytes * 2;
	f->warn = o->warn;
	f->warn_ctx = o->ctx;
	f->take = take_from_file;
	f->take_ctx = r;
	replay_file_open(f);
	r->stats.evicted = 0;
	if (f->fd < 0 || f->read_only)
		return OK;
	r->stats.file_bytes = f->known;
	if (f->garbage)
		compact(r);
	r->threaded = pthread_create(&r->thread, NULL, writer, r) == 0;
	if (!r->threaded && o->warn)
		o->warn(o->ctx, "no thread to write remembered answers: they are kept in memory only");
	return OK;
}

enum status replay_open(struct replay **out, const struct replay_options *o, struct err *err)
{
	struct replay *r = mem_zero(sizeof *r);
	enum status st = OK;

	*out = NULL;
	if (!r)
		return err_set(err, ERR_MEMORY, "no memory for a map of answers");
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	pthread_cond_init(&r->done, NULL);
	r->tokenizer = o->tokenizer;
	r->max_bytes = o->max_bytes ? o->max_bytes : DEFAULT_BYTES;
	r->queue_end = &r->queue;
	r->file.fd = -1;
	r->n_buckets = 64;
	r->bucket = mem_array(r->n_buckets, sizeof(struct turn_entry *));
	if (!r->bucket)
		st = err_set(err, ERR_MEMORY, "no memory for a map of answers");
	else if (o->path)
		st = open_file(r, o, err);
	if (st != OK) {
		replay_close(r);
		return st;
	}
	*out = r;
	return OK;
}

void replay_close(struct replay *r)
{
	if (!r)
		return;
	if (r->threaded) {
		pthread_mutex_lock(&r->lock);
		r->stop = true;
		pthread_cond_signal(&r->work);
		pthread_mutex_unlock(&r->lock);
		pthread_join(r->thread, NULL);
	}
	replay_file_close(&r->file);
	while (r->oldest)
		remove_turn(r, r->oldest);
	mem_free(r->bucket);
	pthread_cond_destroy(&r->done);
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	mem_free(r);
}

void replay_flush(struct replay *r)
{
	pthread_mutex_lock(&r->lock);
	for (uint64_t until = r->queued; r->written < until;)
		pthread_cond_wait(&r->done, &r->lock);
	pthread_mutex_unlock(&r->lock);
}

void replay_stats(struct replay *r, struct replay_stats *out)
{
	pthread_mutex_lock(&r->lock);
	*out = r->stats;
	pthread_mutex_unlock(&r->lock);
}

/* ------------------------------------------------------------------ names */

/* 128 bits that nobody can guess.  A system without its random source still gets names that do not repeat. */
static void random_hex(char out[33])
{
	struct {
		struct timespec now, up;
		uint64_t pid, thread;
	} seed = {.pid = (uint64_t)getpid(), .thread = (uint64_t)(uintptr_t)out};
	struct hash128 h;

	if (getentropy(&h, sizeof h) != 0) {
		clock_gettime(CLOCK_REALTIME, &seed.now);
		clock_gettime(CLOCK_MONOTONIC, &seed.up);
		h = hash128(&seed, sizeof seed);
	}
	snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high, (unsigned long long)h.low);
}

void replay_call_id(char out[REPLAY_CALL_ID_SIZE])
{
	memcpy(out, "call_", 5);
	random_hex(out + 5);
}

/* ------------------------------------------------------------------ remembering */

/* The place after the first n messages.  False without memory. */
static bool place_after(const struct conversation *c, size_t n, struct hash128 *out)
{
	struct hash128 at = {0, 0};

	for (size_t i = 0; i < n; i++) {
		struct look l = {.n_calls = 0};

		if (c->messages[i].role == ROLE_ASSISTANT && !look_message(&l, &c->messages[i]))
			return false;
		at = look_step(at, &c->messages[i], &l);
		look_clear(&l);
	}
	*out = at;
	return true;
}

/* What an answer goes on from: the unfinished message at the end, NULL when it begins a turn. */
static const struct message *beginning(const struct conversation *c)
{
	const struct message *last = c->n ? &c->messages[c->n - 1] : NULL;

	return last && last->role == ROLE_ASSISTANT && last->unfinished ? last : NULL;
}

static struct replay_turn *make_turn(const struct look *l, struct hash128 before, const struct exact *first,
				     const char *const *call_id, const int32_t *id, size_t n)
{
	struct replay_turn *t = replay_turn_new(l->n_calls, first->n + n);

	if (!t)
		return NULL;
	t->entry[1].key = look_place(before, l);
	t->content = l->content;
	for (size_t i = 0; i < l->n_calls; i++) {
		size_t bytes = call_id && call_id[i] ? strlen(call_id[i]) : 0;

		t->call[i] = l->call[i];
		if (bytes)
			t->entry[2 + i].key = key_of_text(KEY_CALL, call_id[i], bytes);
	}
	if (first->n)
		memcpy(t->id, first->id, first->n * sizeof *id);
	memcpy(t->id + first->n, id, n * sizeof *id);
	return t;
}

static void remember(struct replay *r, struct replay_turn *t)
{
	pthread_mutex_lock(&r->lock);
	if (r->threaded) {
		t->refs++;
		*r->queue_end = t;
		r->queue_end = &t->next;
		r->queued++;
		pthread_cond_signal(&r->work);
	}
	enter(r, t);
	pthread_mutex_unlock(&r->lock);
}

void replay_carrier(char out[REPLAY_CARRIER_SIZE])
{
	memcpy(out, "ds4_", 4);
	random_hex(out + 4);
}

enum status replay_remember(struct replay *r, const struct conversation *c, const struct answer *a,
			    const char *const *call_id, enum thinking thinking, const int32_t *id, size_t n,
			    const char *carrier, struct err *err)
{
	const struct message *first = beginning(c);
	struct exact none = {.thinking = thinking};
	const struct exact *exact = first ? &first->exact : &none;
	struct replay_turn *t = NULL;
	struct hash128 before;
	struct look l;

	if (n && id[n - 1] == tokenizer_special(r->tokenizer, SPECIAL_EOS))
		n--;
	if (!n || (first && (!exact->n || first->n_calls)) || exact->n + n > REPLAY_MAX_IDS ||
	    a->n_calls > REPLAY_MAX_CALLS)
		return OK;
	if (answer_ok(a) && look_answer(&l, first, a)) {
		if (place_after(c, c->n - (first != NULL), &before))
			t = make_turn(&l, before, exact, call_id, id, n);
		look_clear(&l);
	}
	if (!t)
		return err_set(err, ERR_MEMORY, "no memory to remember an answer of %zu tokens", n);
	t->thinking = exact->thinking;
	t->entry[0].key = key_of_text(KEY_CARRIER, carrier, strlen(carrier));
	remember(r, t);
	return OK;
}

/* ------------------------------------------------------------------ giving back */

static bool unchanged(const struct replay_turn *t, const struct look *l)
{
	if (t->n_calls != l->n_calls || !same_hash(t->content, l->content))
		return false;
	for (uint32_t i = 0; i < t->n_calls; i++)
		if (!same_hash(t->call[i], l->call[i]))
			return false;
	return true;
}

/* The turn that all of a message's call ids belong to. */
static struct replay_turn *turn_of_calls(struct replay *r, const struct message *m)
{
	struct replay_turn *t = NULL;

	for (size_t i = 0; i < m->n_calls; i++) {
		const struct text *id = &m->calls[i].id;
		struct turn_entry *e = id->n ? find(r, key_of_text(KEY_CALL, id->p, id->n)) : NULL;

		if (!e || (t && e->turn != t))
			return NULL;
		t = e->turn;
	}
	return t;
}

static struct replay_turn *look_up(struct replay *r, const struct message *m, const struct look *l, struct hash128 place)
{
	struct turn_entry *by_name = m->carrier.n ? find(r, key_of_text(KEY_CARRIER, m->carrier.p, m->carrier.n)) : NULL,
			  *by_place = find(r, place);
	struct replay_turn *candidate[3] = {by_name ? by_name->turn : NULL, turn_of_calls(r, m),
					    by_place ? by_place->turn : NULL};
	bool known = false;

	for (int i = 0; i < 3; i++) {
		known |= candidate[i] != NULL;
		if (candidate[i] && unchanged(candidate[i], l))
			return candidate[i];
	}
	*(known ? &r->stats.changed : &r->stats.misses) += 1;
	return NULL;
}

static bool give_back(struct replay *r, struct conversation *c, struct message *m, const struct look *l,
		      struct hash128 place)
{
	bool failed = c->failed;
	struct replay_turn *t;

	pthread_mutex_lock(&r->lock);
	t = look_up(r, m, l, place);
	if (t) {
		take_out(r, t);
		put_newest(r, t);
		r->stats.hits++;
		t->refs++;
	}
	pthread_mutex_unlock(&r->lock);
	if (!t)
		return false;
	conversation_set_exact(c, m, r->tokenizer, t->thinking, t->id, t->n);
	c->failed = failed;	/* then it is rendered */
	pthread_mutex_lock(&r->lock);
	drop(t);
	pthread_mutex_unlock(&r->lock);
	return m->exact.n > 0;
}

size_t replay_apply(struct replay *r, struct conversation *c)
{
	struct hash128 at = {0, 0};
	size_t given = 0;

	for (size_t i = 0; i < c->n; i++) {
		struct message *m = &c->messages[i];
		struct look l = {.n_calls = 0};

		if (m->role == ROLE_ASSISTANT && !look_message(&l, m))
			return given;
		if (m->role == ROLE_ASSISTANT && !m->exact.n)
			given += give_back(r, c, m, &l, look_place(at, &l));
		at = look_step(at, m, &l);
		look_clear(&l);
	}
	return given;
}
