/* talks_list.c - what is in the folder of saved conversations, and which of them somebody means.
 *
 * Careful
 *       - Numbers refer to the list that was shown last: a turn in between would change the order.
 *       - A file that cannot be read is shown as damaged, not left out: somebody may miss it. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>

#include "base/mem.h"
#include "cli/places.h"
#include "cli/talks.h"

#define SUFFIX ".chat"

/* The id in a file's name; false: it is no conversation's. */
static bool id_of(const char *file, char id[TALK_ID])
{
	size_t n = strlen(file), suffix = strlen(SUFFIX);

	if (n <= suffix || n - suffix >= TALK_ID || file[0] == '.' || strcmp(file + n - suffix, SUFFIX))
		return false;
	snprintf(id, TALK_ID, "%.*s", (int)(n - suffix), file);
	return true;
}

static void look_at(const struct talks *t, struct talk_entry *e)
{
	char path[PLACE_SIZE];
	struct timespec now;
	struct stat sb;

	if (snprintf(path, sizeof path, "%s/%s" SUFFIX, t->folder, e->id) >= (int)sizeof path || stat(path, &sb) < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	e->age = difftime(now.tv_sec, sb.st_mtime);
#ifdef __linux__
	e->age += ((double)now.tv_nsec - (double)sb.st_mtim.tv_nsec) * 1e-9;
#endif
	if (chatlog_peek(path, &e->info, NULL) != OK)
		e->info = (struct chatlog_info){.damaged = true, .bytes = (uint64_t)sb.st_size};
}

static int latest_first(const void *pa, const void *pb)
{
	const struct talk_entry *a = pa, *b = pb;

	return a->age < b->age ? -1 : a->age > b->age ? 1 : strcmp(b->id, a->id);
}

static bool add(struct talk_entry **list, int *n, size_t *room, const char *id)
{
	if ((size_t)*n == *room) {
		size_t wide = *room ? *room * 2 : 32;
		struct talk_entry *grown = mem_grow(*list, wide, sizeof **list);

		if (!grown)
			return false;
		*list = grown;
		*room = wide;
	}
	(*list)[*n] = (struct talk_entry){.age = 0};
	snprintf((*list)[(*n)++].id, TALK_ID, "%s", id);
	return true;
}

enum status talks_list(struct talks *t, struct talk_entry **out, int *n, struct err *err)
{
	struct talk_entry *list = NULL;
	const struct dirent *d;
	char id[TALK_ID];
	size_t room = 0;
	bool ok = true;
	DIR *dir;

	*out = NULL;
	*n = 0;
	dir = t->folder ? opendir(t->folder) : NULL;
	if (!dir && t->folder && errno != ENOENT)
		return err_set(err, ERR_IO, "%s: %s", t->folder, strerror(errno));
	while (dir && ok && (d = readdir(dir)) != NULL)
		if (id_of(d->d_name, id))
			ok = add(&list, n, &room, id);
	if (dir)
		closedir(dir);
	if (!ok) {
		mem_free(list);
		*n = 0;
		return err_set(err, ERR_MEMORY, "no memory for a list of conversations");
	}
	for (int i = 0; i < *n; i++)
		look_at(t, &list[i]);
	if (list)
		qsort(list, (size_t)*n, sizeof *list, latest_first);
	*out = list;
	return OK;
}

void talks_remember_list(struct talks *t, const struct talk_entry *list, int n)
{
	mem_free(t->listed);
	t->listed = mem_array((size_t)n, sizeof *t->listed);
	t->n_listed = t->listed ? n : 0;
	for (int i = 0; i < t->n_listed; i++)
		memcpy(t->listed[i], list[i].id, TALK_ID);
}

/* How well does an entry fit?  3 id or name, 2 beginning of the name, 1 of the title, 0 not at all. */
static int fits(const struct talk_entry *e, const char *what)
{
	size_t n = strlen(what);

	if (!strcmp(e->id, what) || (e->info.name[0] && !strcasecmp(e->info.name, what)))
		return 3;
	if (e->info.name[0] && !strncasecmp(e->info.name, what, n))
		return 2;
	return strncasecmp(e->info.title, what, n) == 0;
}

static enum status find_in(const struct talk_entry *list, int n, const char *what, char id[TALK_ID], struct err *err)
{
	int best = 0, many = 0;

	for (int i = 0; i < n; i++) {
		int fit = fits(&list[i], what);

		if (!fit || fit < best)
			continue;
		many = fit > best ? 1 : many + 1;
		if (fit > best)
			memcpy(id, list[i].id, TALK_ID);
		best = fit;
	}
	if (!best)
		return err_set(err, ERR_NOT_FOUND, "no conversation '%.60s'; /list shows them", what);
	if (many > 1 && best < 3)
		return err_set(err, ERR_ARGUMENT, "'%.60s' could be %d conversations; /list shows them", what, many);
	return OK;	/* of several with one name the latest */
}

enum status talks_find(struct talks *t, const char *what, char id[TALK_ID], struct err *err)
{
	struct talk_entry *list;
	enum status st;
	char *end;
	long number = strtol(what, &end, 10);
	int n;

	if (!*what)
		return err_set(err, ERR_ARGUMENT, "expected the number or the name of a conversation; /list shows them");
	TRY(talks_list(t, &list, &n, err));
	if (!t->listed)
		talks_remember_list(t, list, n);
	if (!*end && number >= 1 && number <= t->n_listed) {
		memcpy(id, t->listed[number - 1], TALK_ID);
		st = OK;
	} else {
		st = find_in(list, n, what, id, err);
	}
	mem_free(list);
	return st;
}

enum status talks_latest(struct talks *t, char id[TALK_ID], struct err *err)
{
	struct talk_entry *list;
	enum status st = OK;
	int n;

	TRY(talks_list(t, &list, &n, err));
	if (n)
		memcpy(id, list[0].id, TALK_ID);
	else
		st = err_set(err, ERR_NOT_FOUND, "%s: there is no saved conversation to continue",
			     t->folder ? t->folder : "chats");
	mem_free(list);
	return st;
}
