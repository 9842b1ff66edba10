/* pull.c - `ds4 pull [q2|q4|mtp|URL]`: options in, progress and one link out; the work is in src/hub.
 *
 * What  Finds endpoint and token, asks the hub, downloads to models/, checks, links models/ds4flash.gguf.
 * How   On a terminal one line that is redrawn; elsewhere a plain line after two seconds, then every ten.
 * Careful
 *       - Ctrl-C sets a flag: the run ends at once, with a journal that the same command continues from.
 *       - ds4flash.gguf is only ever replaced when it is a link: a real file of that name is somebody's model.
 *       - Writing beyond the limit of a file's size must be an error, not a signal that kills. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "hub/fetch.h"
#include "hub/hub.h"

#define MIB 1048576
#define GIB ((uint64_t)1 << 30)
#define FIRST_LINE_S 2	/* where nothing can be redrawn: until the first line */
#define LINE_S 10	/* ... and between two */
#define LINK_NAME "ds4flash.gguf"

struct pull_args {
	struct arg_list what;
	const char *dir, *endpoint, *token, *revision, *sha256;
	int64_t connections, retries;
	double stall, backoff;
	bool verify, link, restart, force, dry_run;
};

struct meter {
	double at, started;	/* seconds; 0 = not begun */
	uint64_t done;
	double rate;		/* bytes per second */
};

struct pull {
	const struct pull_args *a;
	struct hub_access access;
	struct hub_file file;
	const struct hub_model *model;		/* NULL: an address was given */
	char endpoint[1024], token[HUB_TOKEN_MAX + 1], path[PATH_MAX];
	struct progress line;
	struct meter meter;
	double shown_at;
	bool shown, plain;			/* a line since the last change of work; no line can be redrawn */
	bool checking;
};

/* ------------------------------------------------------------------ progress */

static double size_value(uint64_t bytes)
{
	return bytes >= GIB ? (double)bytes / (double)GIB : (double)bytes / MIB;
}

static const char *size_unit(uint64_t bytes)
{
	return bytes >= GIB ? "GiB" : "MiB";
}

static void put_time(char *out, size_t room, double seconds)
{
	long s = seconds < 1e7 ? (long)(seconds + 0.5) : 10000000;

	if (s >= 3600)
		snprintf(out, room, "%ldh%02ldm", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(out, room, "%ldm%02lds", s / 60, s % 60);
	else
		snprintf(out, room, "%lds", s);
}

/* "41.20 of 80.76 GiB", "301.5 of 3631.2 MiB" */
static void put_share(char *out, size_t room, uint64_t done, uint64_t total)
{
	if (total >= 10 * GIB)
		snprintf(out, room, "%.2f of %.2f GiB", (double)done / 0x1p30, (double)total / 0x1p30);
	else
		snprintf(out, room, "%.1f of %.1f MiB", (double)done / MIB, (double)total / MIB);
}

/* The rate of the last ten seconds or so: what came long ago says nothing about what is left. */
static void measure(struct meter *m, uint64_t done)
{
	double now = clock_seconds(), pass = now - m->at, weight;

	if (m->at == 0) {
		*m = (struct meter){.at = now, .started = now, .done = done};
		return;
	}
	if (pass < 0.25)
		return;
	weight = pass / (now - m->started < 10 ? now - m->started : 10);
	m->rate += (weight < 1 ? weight : 1) * ((double)(done - m->done) / pass - m->rate);
	m->at = now;
	m->done = done;
}

/* On a terminal a line that is redrawn four times a second; in a log file one now and then. */
static void show(struct pull *p, const struct fetch_progress *s, uint64_t done)
{
	double now = clock_seconds();
	char line[200], share[64], left[32] = "some time";

	if (now - p->shown_at < (p->plain ? p->shown ? LINE_S : FIRST_LINE_S : 0.25))
		return;
	p->shown_at = now;
	put_share(share, sizeof share, done, s->total);
	if (p->meter.rate > 1)
		put_time(left, sizeof left, (double)(s->total - done) / p->meter.rate);
	snprintf(line, sizeof line, "%s %s (%d %%), %.1f MiB/s, %s left", s->checking ? "checking" : "downloading", share,
		 (int)(100 * (double)done / (double)s->total), p->meter.rate / MIB, left);
	if (!p->plain)
		p->plain = !progress_line(&p->line, line);
	else
		term_note("%s", line);
	p->shown = true;
}

static void on_progress(void *ctx, const struct fetch_progress *s)
{
	struct pull *p = ctx;
	uint64_t done = s->checking ? s->hashed : s->done;

	if (s->checking != p->checking || p->meter.at == 0) {
		progress_clear(&p->line);
		p->meter = (struct meter){.at = 0};
		p->checking = s->checking;
		p->shown = false;
		p->shown_at = clock_seconds();
	}
	measure(&p->meter, done);
	show(p, s, done);
}

static void on_waiting(void *ctx, const char *why, double seconds)
{
	struct pull *p = ctx;

	if (seconds < 2)	/* over before it is read */
		return;
	progress_clear(&p->line);
	term_note("%s; next try in %.0f s", why, seconds);
}

/* ------------------------------------------------------------------ the link */

/* models/ds4flash.gguf -> the file beside it, so that the link survives a move of the folder. */
static enum status make_link(const struct pull *p, struct err *err)
{
	char link_path[PATH_MAX + 32], fresh[PATH_MAX + 64];
	struct stat sb;

	snprintf(link_path, sizeof link_path, "%.*s" LINK_NAME, (int)(strlen(p->path) - strlen(p->file.name)), p->path);
	if (!strcmp(p->file.name, LINK_NAME))
		return OK;
	if (lstat(link_path, &sb) == 0 && !S_ISLNK(sb.st_mode)) {
		term_note("%s is a file, not a link, and stays as it is; use the new model with -m %s", link_path, p->path);
		return OK;
	}
	snprintf(fresh, sizeof fresh, "%s.%ld.tmp", link_path, (long)getpid());
	unlink(fresh);
	if (symlink(p->file.name, fresh) < 0)
		return err_set(err, ERR_IO, "%s: %s", link_path, strerror(errno));
	if (rename(fresh, link_path) < 0) {
		err_set(err, ERR_IO, "%s: %s", link_path, strerror(errno));
		unlink(fresh);
		return ERR_IO;
	}
	term_note("%s -> %s", link_path, p->file.name);
	return OK;
}

static bool wants_link(const struct pull *p)
{
	size_t n = strlen(p->file.name);

	if (!p->a->link || (p->model && !p->model->main_model))
		return false;
	return n > 5 && !strcmp(p->file.name + n - 5, ".gguf") && !strstr(p->file.name, "-MTP-");
}

/* ------------------------------------------------------------------ steps */

static enum status prepare(struct pull *p, struct err *err)
{
	const struct pull_args *a = p->a;
	const char *slash = *a->dir && a->dir[strlen(a->dir) - 1] == '/' ? "" : "/";

	TRY(hub_find_endpoint(p->endpoint, sizeof p->endpoint, a->endpoint, err));
	p->access = (struct hub_access){
		.endpoint = p->endpoint, .token = p->token, .retries = (int)a->retries, .backoff_s = a->backoff,
		.stall_s = a->stall, .cancel = cli_interrupt_flag(), .waiting = on_waiting, .ctx = p,
	};
	TRY(hub_find_token(p->token, &p->access.token_source, a->token, p->endpoint, err));
	TRY(hub_file_init(&p->file, &p->model, a->what.n ? a->what.item[0] : "q2", &p->access, a->revision, err));
	if ((size_t)snprintf(p->path, sizeof p->path, "%s%s%s", a->dir, slash, p->file.name) >= sizeof p->path - 16)
		return err_set(err, ERR_ARGUMENT, "--dir: expected a path of at most %zu characters, found %zu",
			       sizeof p->path - strlen(p->file.name) - 18, strlen(a->dir));
	return OK;
}

/* A digest that the caller knows counts as much as the hub's; two that differ are a reason to stop. */
static enum status apply_digest(struct pull *p, struct err *err)
{
	char digest[HUB_SHA256_CHARS + 1];
	const char *s = p->a->sha256;

	if (!s)
		return OK;
	if (strlen(s) != HUB_SHA256_CHARS || strspn(s, "0123456789abcdefABCDEF") != HUB_SHA256_CHARS)
		return err_set(err, ERR_ARGUMENT, "--sha256: expected %d hexadecimal digits, found '%s'", HUB_SHA256_CHARS, s);
	for (int i = 0; i <= HUB_SHA256_CHARS; i++)
		digest[i] = (char)tolower((unsigned char)s[i]);
	if (p->file.sha256[0] && strcmp(p->file.sha256, digest))
		return err_set(err, ERR_ARGUMENT, "--sha256: expected %s, the hub says %s", digest, p->file.sha256);
	memcpy(p->file.sha256, digest, sizeof digest);
	return OK;
}

static enum status dry_run(const struct pull *p, struct err *err)
{
	uint64_t needed, available;

	printf("from    %s\nto      %s\nsize    %.2f GiB (%llu bytes)\nsha256  %s\nparts   %s\n", p->file.url, p->path,
	       (double)p->file.size / 0x1p30, (unsigned long long)p->file.size,
	       p->file.sha256[0] ? p->file.sha256 : "not named by the server",
	       p->file.ranges ? "yes" : "no: one connection, and no resuming");
	TRY(fetch_space(&needed, &available, &p->file, p->path, err));
	printf("disk    %.2f GiB needed, %.2f GiB free: %s\n", (double)needed / 0x1p30, (double)available / 0x1p30,
	       needed <= available ? "enough" : "NOT enough");
	return cli_flush(err);
}

static void print_end(const struct pull *p, const struct fetch_report *r)
{
	const char *checked = r->verified ? "SHA-256 checked" : "NOT checked: the server names no SHA-256";
	char time[32];

	if (r->was_there) {
		term_note("%s: nothing to do, it is there (%s)", p->path, checked);
		return;
	}
	put_time(time, sizeof time, r->seconds);
	term_note("%s: %.1f %s in %s, %.1f MiB/s (%s)", p->path, size_value(p->file.size), size_unit(p->file.size), time,
		  r->seconds > 0 ? (double)r->fetched_bytes / MIB / r->seconds : 0.0, checked);
}

static enum status download(struct pull *p, struct err *err)
{
	struct fetch_options o = FETCH_OPTIONS_DEFAULT;
	struct fetch_report r;
	enum status st;

	o.path = p->path;
	o.connections = (int)p->a->connections;
	o.unverified = !p->a->verify;
	o.restart = p->a->restart;
	o.force = p->a->force;
	o.progress = on_progress;
	o.ctx = p;
	p->plain = !term_err_tty();
	term_note("%s: %.1f %s to %s", p->file.name, size_value(p->file.size), size_unit(p->file.size), p->a->dir);
	st = fetch_run(&p->file, &p->access, &o, &r, err);
	progress_clear(&p->line);
	if (st == OK)
		print_end(p, &r);
	else if (st == ERR_CANCELLED)
		term_note("stopped; the same command continues from here");
	if (st == OK && wants_link(p))
		st = make_link(p, err);
	return st;
}

static enum status pull(void *options, struct err *err)
{
	struct pull p = {.a = options};
	enum status st;

	signal(SIGXFSZ, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	cli_interrupt_twice_kills();
	st = prepare(&p, err);
	if (st == OK)
		st = hub_resolve(&p.file, &p.access, err);
	if (st == OK)
		st = apply_digest(&p, err);
	if (st == OK && !p.a->dry_run && mkdir(p.a->dir, 0777) < 0 && errno != EEXIST)
		st = err_set(err, ERR_IO, "%s: %s", p.a->dir, strerror(errno));
	if (st == OK)
		st = p.a->dry_run ? dry_run(&p, err) : download(&p, err);
	hub_file_clear(&p.file);
	return st;
}

static const struct arg_spec pull_args[] = {
	ARG_REST("q2|q4|mtp|URL", struct pull_args, what, 0, 1,
		 "q2: 2-bit experts, 81 GiB (the default); q4: 4-bit experts, 153 GiB; mtp: the drafter, 3.6 GiB; or any file"),
	ARG_TEXT("dir", 'd', struct pull_args, dir, "FOLDER", "where the file goes"),
	ARG_TEXT("endpoint", 0, struct pull_args, endpoint, "URL",
		 "a mirror of the hub (else $HF_ENDPOINT, else " HUB_ENDPOINT ")"),
	ARG_TEXT("token", 0, struct pull_args, token, "TEXT",
		 "access token; better in $HF_TOKEN, where other users of the machine cannot see it"),
	ARG_TEXT("revision", 0, struct pull_args, revision, "NAME", "branch, tag or commit of the repository"),
	ARG_TEXT("sha256", 0, struct pull_args, sha256, "HEX", "the digest that the file must have"),
	ARG_FLAG("verify", 0, struct pull_args, verify, "refuse a file whose digest nobody names"),
	ARG_FLAG("link", 0, struct pull_args, link, "point FOLDER/" LINK_NAME " at the file, for the other commands to find"),
	ARG_FLAG("restart", 0, struct pull_args, restart, "throw away what an interrupted run left"),
	ARG_FLAG("force", 0, struct pull_args, force, "replace a file of this name that is not the hub's"),
	ARG_FLAG("dry-run", 'n', struct pull_args, dry_run, "only ask the hub: size, digest, disk space"),
	ARG_GROUP("Network"),
	ARG_INT("connections", 'j', struct pull_args, connections, 1, FETCH_CONNECTIONS_MAX, "N", "side by side"),
	ARG_INT("retries", 0, struct pull_args, retries, 0, 1000, "N", "failures in a row that are borne"),
	ARG_REAL("backoff", 0, struct pull_args, backoff, 0.001, 60, "S", "wait after the first failure; doubles"),
	ARG_REAL("stall", 0, struct pull_args, stall, 1, 3600, "S", "give a silent connection up after this long"),
	ARG_END
};

static const char *const pull_examples[] = {
	"ds4 pull                    # the 2-bit model, then: ds4",
	"ds4 pull mtp                # its drafter",
	"HF_TOKEN=... ds4 pull https://huggingface.co/OWNER/REPOSITORY/resolve/main/FILE.gguf",
	"ds4 pull q4 --dir /data/models --endpoint https://mirror.example",
	NULL
};

static const struct pull_args pull_defaults = {
	.dir = "models", .revision = "main", .connections = 8, .retries = 10, .backoff = 0.5, .stall = 30, .verify = true,
	.link = true,
};

const struct cli_command pull_command = {
	.args = {"pull", "download a model",
		 "Downloads a published model file over several connections, checks its SHA-256, and links it where the "
		 "other commands look for a model.  A download that was interrupted, however that happened, continues when "
		 "the same command is given again.",
		 pull_args, pull_examples},
	.defaults = &pull_defaults,
	.size = sizeof pull_defaults,
	.run = pull,
};
