/* places.h - where the program keeps things between runs: $XDG_..._HOME/ds4, else the folders of the XDG standard. */
#ifndef DS4_CLI_PLACES_H
#define DS4_CLI_PLACES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

#define PLACE_SIZE 4096

/* Each writes a path to out [PLACE_SIZE]; false when neither the variable nor $HOME says where. */
bool place_history(char *out);	/* file: $XDG_STATE_HOME/ds4/history, ~/.local/state/ds4/history */
bool place_chats(char *out);	/* folder: $XDG_DATA_HOME/ds4/chats, ~/.local/share/ds4/chats */

/* Makes the folders of a path up to its last slash, for the owner only. */
enum status place_make(const char *path, struct err *err);

#endif
