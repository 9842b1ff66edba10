/* json_file.h - JSON that comes from a file: what is wrong with it is a malformed file, and the path is named. */
#ifndef DS4_WORKSHOP_JSON_FILE_H
#define DS4_WORKSHOP_JSON_FILE_H

#include "base/json.h"

/* NULL on failure: ERR_FORMAT, ERR_MEMORY.  what may be "" or "header: ". */
json_t *json_file_text(const char *text, size_t n, const char *path, const char *what, struct err *err);

/* Reads at most cap bytes.  NULL on failure: ERR_NOT_FOUND, ERR_IO, ERR_LIMIT too. */
json_t *json_file_read(const char *path, size_t cap, struct err *err);

#endif
