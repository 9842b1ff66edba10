/* json_file.c - see json_file.h; json_parse() takes its text for a request and answers ERR_ARGUMENT. */
#include "workshop/json_file.h"

#include "base/file.h"

json_t *json_file_text(const char *text, size_t n, const char *path, const char *what, struct err *err)
{
	struct err why = {.code = OK};
	json_t *v = json_parse(text, n, &why);

	if (!v)
		err_set(err, why.code == ERR_ARGUMENT ? ERR_FORMAT : why.code, "%s: %s%s", path, what, why.msg);
	return v;
}

json_t *json_file_read(const char *path, size_t cap, struct err *err)
{
	struct buf text = BUF_CAP(cap);
	json_t *v = NULL;

	if (file_read(&text, path, err) == OK)
		v = json_file_text(buf_cstr(&text), text.len, path, "", err);
	buf_clear(&text);
	return v;
}
