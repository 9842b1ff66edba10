/* transfer.c - brings the missing bytes of one file over several connections.
 *
 * What  A few lanes, each with one connection and one chunk of the file.  A lane that is done takes the next missing
 *       chunk; a lane that failed waits and asks for the rest of its own.
 * Why   One TCP connection to a storage host seldom fills a line; eight do.  Chunks are handed out in order, so that
 *       the complete front, and with it the digest, keeps up.
 * How   One thread, libcurl's multi interface.  Bytes go straight from the callback to their place in the file.
 *       A server that ignores ranges (200 instead of 206) gets one lane and the file from byte 0.
 * Careful
 *       - An answer is checked before its first byte is written: 206, beginning where asked, of a file of this size.
 *       - What a server sends beyond the chunk is not written: it would land on another lane's bytes.
 *       - Failures are counted between two bytes of progress.  A line that drops every minute is slow, not broken.
 *       - An address that expired (401, 403, 404 from the storage host) is asked for again, once per byte of progress.
 *       - After 429 all lanes wait: the server means the client, not the connection. */
#include "hub/transfer_int.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "hub/request_int.h"

#define BODY_MAX (64 * 1024)	/* of an answer that is not the file */
#define CHUNK_MIN (256 * 1024)	/* a file is not cut smaller to use all lanes */
#define TICK_MS 100
#define CROWD_S 0.05		/* lanes start this far apart after a failure */

enum lane_state { LANE_IDLE, LANE_WAITING, LANE_RUNNING };

struct lane {
	struct transfer *t;
	CURL *easy;
	enum lane_state state;
	uint64_t pos, end;	/* still to come */
	uint64_t skip;		/* bytes of this answer that are on disk already (a server without ranges) */
	uint64_t came;		/* bytes of progress in this try */
	size_t ignored;		/* of a body that is not the file */
	int failures;		/* since the last progress */
	double not_before;
	bool checked;		/* the head of this answer fits */
	bool no_ranges;		/* it came as a whole */
	bool broken;		/* disk or memory: err of the transfer is set */
	bool hopeless;		/* the fault would be the same next time */
	int address;		/* which one this try uses */
	char fault[240];	/* what contradicts the request; "" = nothing */
	struct answer answer;
};

struct transfer {
	struct part *part;
	struct keeper *keeper;
	struct hub_file *file;
	const struct hub_access *a;
	const struct fetch_options *o;
	struct fetch_report *report;
	struct err *err;
	CURLM *multi;
	struct lane lane[FETCH_CONNECTIONS_MAX];
	int lanes;
	bool whole;		/* the server sends only whole files */
	int address;		/* how often the address was renewed */
	bool stale_tried;	/* it was, and has brought nothing since */
	uint64_t chunk_bytes;
	uint64_t cursor;	/* chunks below this have been handed out */
	double not_before;	/* for all lanes */
};

/* ------------------------------------------------------------------ one answer */

static void check_size(struct lane *l, uint64_t found)
{
	if (found == l->t->file->size)
		return;
	l->hopeless = true;
	snprintf(l->fault, sizeof l->fault, "expected a file of %llu bytes, the server's has %llu",
		 (unsigned long long)l->t->file->size, (unsigned long long)found);
}

static bool fits_range(struct lane *l)
{
	const struct answer *h = &l->answer;

	if (!h->has_range)
		snprintf(l->fault, sizeof l->fault, "the answer does not say which bytes it has");
	else if (h->first != l->pos || h->last >= l->end)
		snprintf(l->fault, sizeof l->fault, "asked for bytes %llu-%llu, got %llu-%llu", (unsigned long long)l->pos,
			 (unsigned long long)l->end - 1, (unsigned long long)h->first, (unsigned long long)h->last);
	else if (h->has_total)
		check_size(l, h->total);
	return !l->fault[0];
}

static bool fits_whole(struct lane *l)
{
	curl_off_t length = -1;

	if (!l->t->whole) {
		l->no_ranges = true;
		return false;
	}
	curl_easy_getinfo(l->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	if (length >= 0)
		check_size(l, (uint64_t)length);
	return !l->fault[0];
}

/* Is this the beginning of what was asked for? */
static bool check_head(struct lane *l)
{
	if (!l->checked)
		l->checked = l->answer.status == 206 ? fits_range(l) : fits_whole(l);
	return l->checked;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
	struct lane *l = ctx;
	size_t all = size * n, left = all, drop;
	bool over = false;

	if (l->answer.status != 206 && l->answer.status != 200) {
		l->ignored += all;
		return l->ignored > BODY_MAX ? 0 : all;
	}
	if (!check_head(l))
		return 0;
	l->t->report->fetched_bytes += all;
	drop = l->skip < left ? (size_t)l->skip : left;
	l->skip -= drop;
	data += drop;
	left -= drop;
	if (left > l->end - l->pos) {
		left = (size_t)(l->end - l->pos);
		over = true;
	}
	if (part_write(l->t->part, data, left, l->pos, l->t->err) != OK ||
	    keeper_add(l->t->keeper, l->pos, l->pos + left, l->t->err) != OK) {
		l->broken = true;
		return 0;
	}
	l->pos += left;
	l->came += left;
	if (left) {
		l->failures = 0;
		l->t->stale_tried = false;
	}
	return over ? 0 : all;	/* 0 ends the request; ended() sees that the chunk is whole */
}

/* ------------------------------------------------------------------ lanes */

/* The next chunk that nobody has; false when all are handed out. */
static bool next_chunk(struct lane *l)
{
	struct transfer *t = l->t;
	struct range gap;

	if (t->whole) {
		l->pos = keeper_prefix(t->keeper);
		l->end = t->file->size;
		return l == t->lane && l->pos < l->end;
	}
	gap = keeper_gap(t->keeper, t->cursor);
	if (gap.begin == gap.end)
		return false;
	l->pos = gap.begin;
	l->end = gap.end - gap.begin > t->chunk_bytes ? gap.begin + t->chunk_bytes : gap.end;
	t->cursor = l->end;
	return true;
}

static enum status start(struct lane *l)
{
	struct transfer *t = l->t;
	char range[64];

	TRY(request_prepare(l->easy, t->file->location, t->a, &l->answer, t->err));
	l->checked = l->no_ranges = l->hopeless = false;
	l->address = t->address;
	l->fault[0] = 0;
	l->came = l->ignored = 0;
	l->skip = t->whole ? l->pos : 0;
	if (!t->whole) {
		snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)l->pos, (unsigned long long)l->end - 1);
		curl_easy_setopt(l->easy, CURLOPT_RANGE, range);
	}
	curl_easy_setopt(l->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(l->easy, CURLOPT_WRITEDATA, l);
	curl_easy_setopt(l->easy, CURLOPT_PRIVATE, l);
	if (curl_multi_add_handle(t->multi, l->easy) != CURLM_OK)
		return err_set(t->err, ERR_MEMORY, "no memory for a connection");
	l->state = LANE_RUNNING;
	return OK;
}

static enum status start_lanes(struct transfer *t)
{
	double now = clock_seconds();

	for (int i = 0; i < t->lanes; i++) {
		struct lane *l = &t->lane[i];

		if (now < t->not_before || l->state == LANE_RUNNING)
			continue;
		if (l->state == LANE_IDLE && next_chunk(l))
			l->state = LANE_WAITING;
		if (l->state == LANE_WAITING && now >= l->not_before)
			TRY(start(l));
	}
	return OK;
}

static void stop(struct lane *l)
{
	if (l->state == LANE_RUNNING)
		curl_multi_remove_handle(l->t->multi, l->easy);
	l->state = LANE_IDLE;
}

/* From now on one lane, and the file from its first byte. */
static void go_whole(struct transfer *t)
{
	for (int i = 0; i < t->lanes; i++)
		stop(&t->lane[i]);
	keeper_keep_prefix(t->keeper);
	t->whole = true;
	t->lanes = 1;
}

/* ------------------------------------------------------------------ failures */

static enum status give_up(const struct lane *l, enum status code, const char *why, bool tried)
{
	char shown[160];

	url_shown(shown, sizeof shown, l->t->file->location);
	if (tried)
		return err_set(l->t->err, code, "%s: %s (tried %d times; the same command continues)", shown, why, l->failures);
	return err_set(l->t->err, code, "%s: %s", shown, why);
}

/* Asks the hub for a new address; all lanes use it from their next try on. */
static enum status renew(struct transfer *t)
{
	struct hub_file fresh = *t->file;
	enum status st;

	fresh.location = NULL;
	st = hub_resolve(&fresh, t->a, t->err);
	if (st == OK && (fresh.size != t->file->size || (fresh.sha256[0] && strcmp(fresh.sha256, t->file->sha256))))
		st = err_set(t->err, ERR_FORMAT, "%s: the hub has another version now than when this download began",
			     t->file->name);
	if (st != OK) {
		mem_free(fresh.location);
		return st;
	}
	mem_free(t->file->location);
	t->file->location = fresh.location;
	t->address++;
	t->stale_tried = true;
	return OK;
}

static enum status try_later(struct lane *l, const struct outcome *o)
{
	struct transfer *t = l->t;
	double wait = o->wait_s > 0 ? o->wait_s : request_backoff(t->a, l->failures);

	if (l->failures > t->a->retries)
		return give_up(l, o->code, o->why, true);
	if (l->failures == 1 && o->wait_s <= 0)
		wait = l->came ? t->a->backoff_s / 10 : t->a->backoff_s;
	l->not_before = clock_seconds() + wait + CROWD_S * (double)(l - t->lane) * t->a->backoff_s;
	if (o->wait_s > 0 || o->code == ERR_LIMIT)
		t->not_before = clock_seconds() + wait;
	l->state = LANE_WAITING;
	if (t->a->waiting && !l->came)
		t->a->waiting(t->a->ctx, o->why, wait);
	return OK;
}

static enum status failed(struct lane *l, CURLcode code)
{
	struct transfer *t = l->t;
	struct outcome o;

	t->report->failures++;
	l->failures++;
	if (t->whole) {		/* begins at byte 0 again, whatever came */
		l->pos = keeper_prefix(t->keeper);
		l->end = t->file->size;
	}
	request_judge(&o, l->easy, code, &l->answer, t->a);
	if (l->fault[0]) {
		o = (struct outcome){.verdict = l->hopeless ? VERDICT_FAIL : VERDICT_RETRY, .code = ERR_FORMAT};
		snprintf(o.why, sizeof o.why, "%s", l->fault);
	} else if (l->answer.status == 416) {
		if (l->answer.has_total && l->answer.total != t->file->size)
			snprintf(o.why, sizeof o.why, "416: expected a file of %llu bytes, the server's has %llu",
				 (unsigned long long)t->file->size, (unsigned long long)l->answer.total);
		else
			snprintf(o.why, sizeof o.why, "416: the server says that bytes %llu-%llu are not in its file of %llu",
				 (unsigned long long)l->pos, (unsigned long long)l->end - 1,
				 (unsigned long long)t->file->size);
		return give_up(l, ERR_FORMAT, o.why, false);
	}
	if (o.verdict == VERDICT_STALE) {
		if (l->address == t->address) {		/* else another lane renewed it meanwhile */
			if (t->stale_tried || !strcmp(t->file->location, t->file->url))
				return give_up(l, o.code, o.why, false);
			TRY(renew(t));
		}
		l->failures = 0;
		l->not_before = 0;
		l->state = LANE_WAITING;
		return OK;
	}
	return o.verdict == VERDICT_FAIL ? give_up(l, o.code, o.why, false) : try_later(l, &o);
}

static enum status ended(struct lane *l, CURLcode code)
{
	struct transfer *t = l->t;

	stop(l);
	if (l->broken)
		return t->err->code;
	if (request_cancelled(t->a))
		return err_set(t->err, ERR_CANCELLED, "stopped");
	if (l->no_ranges) {
		go_whole(t);
		return OK;
	}
	if (l->checked && l->pos == l->end) {
		l->failures = 0;
		return OK;
	}
	return failed(l, code);
}

/* ------------------------------------------------------------------ the loop */

static enum status tell(struct transfer *t, bool *complete)
{
	struct fetch_progress p = {.total = t->file->size};

	TRY(keeper_state(t->keeper, &p.done, &p.hashed, t->err));
	*complete = p.done == p.total;
	for (int i = 0; i < t->lanes; i++)
		p.connections += t->lane[i].state == LANE_RUNNING;
	if (t->o->progress)
		t->o->progress(t->o->ctx, &p);
	return OK;
}

static enum status loop(struct transfer *t)
{
	bool complete = false, went_on;
	CURLcode code;
	CURLMsg *m;
	struct lane *l;
	int n;

	for (;;) {
		TRY(tell(t, &complete));
		if (complete)
			return OK;
		if (request_cancelled(t->a))
			return err_set(t->err, ERR_CANCELLED, "stopped");
		TRY(start_lanes(t));
		went_on = false;
		if (curl_multi_perform(t->multi, &n) != CURLM_OK)
			return err_set(t->err, ERR_IO, "libcurl cannot go on");
		while ((m = curl_multi_info_read(t->multi, &n)) != NULL) {
			if (m->msg != CURLMSG_DONE)
				continue;
			code = m->data.result;
			curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&l);
			TRY(ended(l, code));
			went_on = true;
		}
		if (!went_on)
			curl_multi_poll(t->multi, NULL, 0, TICK_MS, NULL);
	}
}

/* As many lanes as wanted, and chunks small enough that each has one, within reason. */
static void cut_up(struct transfer *t)
{
	int n = t->o->connections;
	uint64_t share, chunks;

	t->lanes = n < 1 ? 1 : n > FETCH_CONNECTIONS_MAX ? FETCH_CONNECTIONS_MAX : n;
	share = (t->file->size - 1) / (uint64_t)t->lanes + 1;
	if (share < CHUNK_MIN)
		share = CHUNK_MIN;
	t->chunk_bytes = t->o->chunk_bytes && t->o->chunk_bytes < share ? t->o->chunk_bytes : share;
	chunks = (t->file->size - 1) / t->chunk_bytes + 1;
	if (chunks < (uint64_t)t->lanes)
		t->lanes = (int)chunks;
}

enum status transfer_run(struct part *part, struct keeper *keeper, struct hub_file *file, const struct hub_access *a,
			 const struct fetch_options *o, struct fetch_report *report, struct err *err)
{
	struct err own = {.code = OK};
	struct transfer t = {.part = part, .keeper = keeper, .file = file, .a = a, .o = o, .report = report,
			     .err = err ? err : &own};
	enum status st = request_global(t.err);

	cut_up(&t);
	if (st == OK && !(t.multi = curl_multi_init()))
		st = err_set(t.err, ERR_MEMORY, "no memory for connections");
	for (int i = 0; st == OK && i < t.lanes; i++) {
		t.lane[i].t = &t;
		t.lane[i].easy = curl_easy_init();
		if (!t.lane[i].easy)
			st = err_set(t.err, ERR_MEMORY, "no memory for connection %d", i + 1);
	}
	if (st == OK && !file->ranges)
		go_whole(&t);
	if (st == OK)
		st = loop(&t);
	for (int i = 0; i < FETCH_CONNECTIONS_MAX; i++)
		if (t.lane[i].easy) {
			stop(&t.lane[i]);
			curl_easy_cleanup(t.lane[i].easy);
		}
	curl_multi_cleanup(t.multi);
	return st;
}
