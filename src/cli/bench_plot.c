/* bench_plot.c - `ds4 bench --plot FILE`: tokens per second over the context, drawn by gnuplot.
 *
 * How   A script with the data inside is written beside the picture and given to gnuplot; it stays if gnuplot fails.
 * Careful
 *       - Looked for before anything is measured: an hour of measuring should not end in "not found".
 *       - The file's name stands in single quotes, where gnuplot doubles a quote and nothing else is special. */
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/bench.h"

extern char **environ;

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n > m && !strcmp(s + n - m, end);
}

/* Is there a program of this name on the path? */
static bool on_path(const char *name)
{
	const char *path = getenv("PATH"), *end;
	char file[4096];

	for (; path && *path; path = *end ? end + 1 : end) {
		end = strchr(path, ':');
		if (!end)
			end = path + strlen(path);
		if ((size_t)snprintf(file, sizeof file, "%.*s/%s", (int)(end - path), path, name) < sizeof file &&
		    access(file, X_OK) == 0)
			return true;
	}
	return false;
}

enum status bench_plot_check(const char *path, struct err *err)
{
	if (!ends_with(path, ".svg") && !ends_with(path, ".png"))
		return err_set(err, ERR_ARGUMENT, "--plot: expected a name that ends in .svg or .png, found \"%s\"", path);
	if (!on_path("gnuplot"))
		return err_set(err, ERR_NOT_FOUND,
			       "--plot needs the program gnuplot, which is not on the PATH; install it (Debian and Ubuntu: "
			       "gnuplot-nox, macOS: brew install gnuplot) or use --csv");
	return OK;
}

static void add_quoted(struct buf *out, const char *s)
{
	buf_byte(out, '\'');
	for (; *s; s++) {
		if (*s == '\'')
			buf_byte(out, '\'');
		buf_byte(out, (unsigned char)*s < 32 ? ' ' : *s);
	}
	buf_byte(out, '\'');
}

static bool in_series(const struct bench_row *r, int32_t batch)
{
	return batch ? r->phase == BENCH_DECODE && r->batch == batch : r->phase == BENCH_PREFILL;
}

/* Data blocks and the plot command of prefill (batch 0) or of decode. */
static void add_panel(struct buf *out, const char *title, const struct bench_row *row, int n, bool decode)
{
	struct buf plot = BUF_CAP(BUF_MAX);
	int32_t done[BENCH_MAX_BATCH + 1];
	int n_done = 0, j;

	for (int i = 0; i < n; i++) {
		int32_t batch = decode ? row[i].batch : 0;

		if ((row[i].phase == BENCH_DECODE) != decode)
			continue;
		for (j = 0; j < n_done && done[j] != batch; j++)
			;
		if (j < n_done || n_done > BENCH_MAX_BATCH)
			continue;
		done[n_done++] = batch;
		buf_printf(out, "$d%d << EOD\n", (int)batch);
		for (int k = 0; k < n; k++)
			if (in_series(&row[k], batch))
				buf_printf(out, "%d %.4f\n", (int)row[k].context, bench_rate(&row[k]));
		buf_str(out, "EOD\n");
		buf_printf(&plot, "%s $d%d using 1:2 with linespoints lw 2 pt 7 ", n_done > 1 ? "," : "plot", (int)batch);
		if (batch)
			buf_printf(&plot, "title 'batch %d'", (int)batch);
		else
			buf_str(&plot, "title 'prefill'");
	}
	if (n_done) {
		buf_printf(out, "set title '%s'\n", title);
		buf_add(out, plot.data, plot.len);
		buf_byte(out, '\n');
	}
	buf_clear(&plot);
}

static void make_script(struct buf *out, const char *path, const struct bench_about *a, const struct bench_row *row, int n)
{
	char title[512];

	snprintf(title, sizeof title, "%s, %s, %d threads, %s%s", a->model, a->backend, a->threads, a->machine,
		 a->fake ? " (made-up contexts)" : "");
	buf_printf(out, "set terminal %s size 900,900 noenhanced\nset output ",
		   ends_with(path, ".svg") ? "svg background rgb 'white'" : "pngcairo");
	add_quoted(out, path);
	buf_str(out, "\nset multiplot layout 2,1 title ");
	add_quoted(out, title);
	buf_str(out, " noenhanced\nset xlabel 'tokens of context'\nset ylabel 'tokens per second'\nset logscale x 2\n"
		     "set yrange [0:*]\nset grid\nset key outside right\n");
	add_panel(out, "prefill", row, n, false);
	add_panel(out, "decode, all timelines of a batch together", row, n, true);
	buf_str(out, "unset multiplot\n");
}


static enum status run_gnuplot(const char *script, struct err *err)
{
	char *argv[] = {"gnuplot", (char *)(uintptr_t)script, NULL};
	pid_t pid;
	int e = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ), how;

	if (e)
		return err_set(err, ERR_NOT_FOUND, "gnuplot could not be started: %s", strerror(e));
	while (waitpid(pid, &how, 0) < 0)
		if (errno != EINTR)
			return err_set(err, ERR_IO, "gnuplot: %s", strerror(errno));
	if (!WIFEXITED(how) || WEXITSTATUS(how))
		return err_set(err, ERR_IO, "gnuplot failed (its message is above); the script is %s", script);
	return OK;
}

enum status bench_plot(const char *path, const struct bench_about *a, const struct bench_row *row, int n, struct err *err)
{
	struct buf script = BUF_CAP(BUF_MAX), name = BUF_CAP(BUF_MAX);
	enum status st;

	make_script(&script, path, a, row, n);
	buf_printf(&name, "%s.gnuplot", path);
	if (!buf_ok(&script) || !buf_ok(&name)) {
		st = err_set(err, ERR_MEMORY, "no memory for the gnuplot script");
		goto out;
	}
	TRY_TO(out, file_write(buf_cstr(&name), script.data, script.len, err));
	TRY_TO(out, run_gnuplot(buf_cstr(&name), err));
	unlink(buf_cstr(&name));
out:
	buf_clear(&script);
	buf_clear(&name);
	return st;
}
