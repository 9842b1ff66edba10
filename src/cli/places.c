/* places.c - see places.h.  Source: the XDG base directory specification, 0.8. */
#include "cli/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool place(char *out, const char *variable, const char *below_home, const char *rest)
{
	const char *set = getenv(variable), *home = getenv("HOME");
	int n;

	if (set && set[0] == '/')	/* the standard: relative ones are to be ignored */
		n = snprintf(out, PLACE_SIZE, "%s/ds4/%s", set, rest);
	else if (home && *home)
		n = snprintf(out, PLACE_SIZE, "%s/%s/ds4/%s", home, below_home, rest);
	else
		return false;
	return n > 0 && n < PLACE_SIZE;
}

bool place_history(char *out)
{
	return place(out, "XDG_STATE_HOME", ".local/state", "history");
}

bool place_chats(char *out)
{
	return place(out, "XDG_DATA_HOME", ".local/share", "chats");
}

enum status place_make(const char *path, struct err *err)
{
	char part[PLACE_SIZE];

	if ((size_t)snprintf(part, sizeof part, "%s", path) >= sizeof part)
		return err_set(err, ERR_ARGUMENT, "%.60s...: the path is too long", path);
	for (char *p = strchr(part + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return err_set(err, ERR_IO, "%s: %s", part, strerror(errno));
		*p = '/';
	}
	return OK;
}
