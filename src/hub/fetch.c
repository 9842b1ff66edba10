/* fetch.c - one run of a download, from the lock to the final name.
 *
 * What  Lock, look at what is there, check the space, move the bytes (transfer.c), compare the digest, rename.
 * Why   Each step is cheap next to what it saves: an hour of network, or a broken model under a good name.
 * Careful
 *       - The digest is of the whole file.  When it is wrong nobody can say which bytes are: the partial file goes.
 *       - Whatever else fails, the partial file and its journal stay, and the error wins over a failing journal. */
#include "hub/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "hub/keeper_int.h"
#include "hub/part_int.h"
#include "hub/request_int.h"
#include "hub/transfer_int.h"

struct watch {
	const struct hub_access *a;
	const struct fetch_options *o;
	uint64_t total;
};

static bool on_checked(void *ctx, uint64_t done)
{
	const struct watch *w = ctx;
	struct fetch_progress p = {.total = w->total, .done = w->total, .hashed = done, .checking = true};

	if (w->o->progress)
		w->o->progress(w->o->ctx, &p);
	return !request_cancelled(w->a);
}

static enum status is_another(const char *path, const struct fetch_options *o, const char *what, struct err *err)
{
	if (o->force)
		return OK;
	return err_set(err, ERR_ARGUMENT, "%s: exists and %s; --force replaces it", path, what);
}

/* The finished file may be there already.  *there: and it is the right one. */
static enum status look_at_destination(bool *there, const struct hub_file *file, const struct hub_access *a,
				       const struct fetch_options *o, struct err *err)
{
	struct watch w = {a, o, file->size};
	char sha256[HUB_SHA256_CHARS + 1];
	int fd = open(o->path, O_RDONLY | O_CLOEXEC);
	enum status st = OK;
	struct stat sb;

	*there = false;
	if (fd < 0 && errno == ENOENT)
		return OK;
	if (fd < 0 || fstat(fd, &sb) < 0 || !S_ISREG(sb.st_mode)) {
		st = err_set(err, ERR_IO, "%s: %s", o->path, fd < 0 ? strerror(errno) : "is not a regular file");
	} else if ((uint64_t)sb.st_size != file->size) {
		st = is_another(o->path, o, "is a file of another size", err);
	} else if (!file->sha256[0]) {
		*there = true;
	} else {
		st = digest_file(sha256, fd, o->path, file->size, on_checked, &w, err);
		*there = st == OK && !strcmp(sha256, file->sha256);
		if (st == OK && !*there)
			st = is_another(o->path, o, "its SHA-256 is not the one that the hub names", err);
	}
	if (fd >= 0)
		close(fd);
	return st;
}

/* Waits until the keeper has hashed everything. */
static enum status wait_for_digest(struct keeper *k, const struct hub_file *file, const struct hub_access *a,
				   const struct fetch_options *o, struct err *err)
{
	struct fetch_progress p = {.total = file->size, .checking = true};

	for (;;) {
		TRY(keeper_state(k, &p.done, &p.hashed, err));
		if (p.hashed == file->size)
			return OK;
		if (o->progress)
			o->progress(o->ctx, &p);
		TRY(request_sleep(a, 0.005, err));
	}
}

static enum status move_bytes(struct part *part, struct ranges *done, struct hub_file *file, const struct hub_access *a,
			      const struct fetch_options *o, char sha256[HUB_SHA256_CHARS + 1],
			      struct fetch_report *report, struct err *err)
{
	struct keeper *k;
	enum status st;

	TRY(keeper_open(&k, part->fd, part->part, part->journal, file, o->journal_s, done, err));
	st = transfer_run(part, k, file, a, o, report, err);
	if (st == OK)
		st = wait_for_digest(k, file, a, o, err);
	if (st == OK)
		st = keeper_finish(k, sha256, err);
	else
		keeper_finish(k, NULL, NULL);
	keeper_close(k);
	return st;
}

static enum status run(struct part *part, struct hub_file *file, const struct hub_access *a,
		       const struct fetch_options *o, struct fetch_report *report, struct err *err)
{
	char sha256[HUB_SHA256_CHARS + 1];
	struct ranges done = {0};
	enum status st;

	TRY(look_at_destination(&report->was_there, file, a, o, err));
	report->verified = report->was_there && file->sha256[0];
	if (report->was_there)
		return OK;
	TRY(part_load(part, &done, file, o->restart, err));
	report->resumed_bytes = done.bytes;
	TRY_TO(out, part_check_space(part, file, err));
	TRY_TO(out, journal_write(part->journal, file, &done, err));
	TRY_TO(out, move_bytes(part, &done, file, a, o, sha256, report, err));
	if (file->sha256[0] && strcmp(sha256, file->sha256)) {
		part_remove(part);
		TRY_TO(out, err_set(err, ERR_FORMAT,
				    "%s: expected SHA-256 %s, what arrived has %s: damaged on its way, and thrown away",
				    file->name, file->sha256, sha256));
	}
	report->verified = file->sha256[0];
	st = part_publish(part, o->force, err);
out:
	ranges_clear(&done);
	return st;
}

enum status fetch_run(struct hub_file *file, const struct hub_access *a, const struct fetch_options *o,
		      struct fetch_report *report, struct err *err)
{
	double start = clock_seconds();
	struct part part;
	enum status st;

	memset(report, 0, sizeof *report);
	if (!file->sha256[0] && !o->unverified)
		return err_set(err, ERR_FORMAT,
			       "%s: the server names no SHA-256 for it; give one with --sha256, or take it unchecked with "
			       "--no-verify", file->name);
	st = part_open(&part, o->path, err);
	if (st == OK) {
		st = run(&part, file, a, o, report, err);
		part_remove_empty(&part);
	}
	part_close(&part);
	report->seconds = clock_seconds() - start;
	return st;
}
