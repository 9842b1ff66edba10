/* bench_report.c - results of `ds4 bench` for people (80 columns), for spreadsheets and for scripts.
 *
 * Careful
 *       - A figure that was not measured is "-" or an empty field, never 0.
 *       - Made-up contexts and shared blocks are said in every form of output: they change what a figure means. */
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"

const char *bench_phase_name(enum bench_phase p)
{
	return p == BENCH_PREFILL ? "prefill" : "decode";
}

static double per_second(double amount, const struct bench_row *r)
{
	return amount / (r->ms / 1e3);
}

/* "9.20 GB", "24.0 MB" */
static const char *size(char *out, size_t room, double bytes)
{
	if (bytes >= 1e9)
		snprintf(out, room, "%.2f GB", bytes / 1e9);
	else
		snprintf(out, room, "%.1f MB", bytes / 1e6);
	return out;
}

/* ------------------------------------------------------------------ the table */

void bench_print_about(const struct bench_about *a)
{
	char bytes[32];

	printf("%s: %s, %d thread%s, prefill in steps of %d\n", a->model, a->backend, a->threads, a->threads == 1 ? "" : "s",
	       (int)a->chunk);
	printf("%s\n", a->machine);
	printf("weights read per token: %s (one timeline, every layer)\n", size(bytes, sizeof bytes, (double)a->read_per_token));
	if (a->probed)
		printf("limits: read %.1f GB/s of memory, int8 %.0f GOP/s in cache (%s), %d thread%s\n",
		       a->probe.bytes_per_s / 1e9, a->probe.int8_ops_per_s / 1e9, a->probe.int8_name, a->probe.threads,
		       a->probe.threads == 1 ? "" : "s");
	printf("contexts: %s\n", a->fake ? "MADE UP: the history holds random rows, only measured steps are read"
					 : "random tokens, read from the beginning");
	printf("batches: %s\n", a->share ? "copies of one timeline that share its history" : "each timeline has its own history");
	if (a->load > 0.5 * a->cores)
		printf("NOTE: load average %.1f on %d core%s before the start: a busy machine gives too low figures\n", a->load,
		       a->cores, a->cores == 1 ? "" : "s");
}

#define COLUMNS "%-8s%8s%6s%10s%10s%6s%11s%7s%8s%6s\n"

void bench_print_head(void)
{
	printf("\n" COLUMNS, "phase", "context", "batch", "tokens/s", "ms/step", "steps", "weights", "GB/s", "GOP/s", "limit");
}

void bench_print_row(const struct bench_row *r)
{
	char limit[16] = "-", bytes[32], rate[24], ms[24], gb[24], gop[24], context[16], batch[16], steps[16];

	if (r->limit > 0)
		snprintf(limit, sizeof limit, "%.0f%%", 100 * r->limit);
	snprintf(rate, sizeof rate, "%.2f", bench_rate(r));
	snprintf(ms, sizeof ms, "%.2f", r->ms);
	snprintf(gb, sizeof gb, "%.1f", per_second(r->weight_bytes, r) / 1e9);
	snprintf(gop, sizeof gop, "%.1f", per_second(r->ops, r) / 1e9);
	snprintf(context, sizeof context, "%d", (int)r->context);
	snprintf(batch, sizeof batch, "%d", (int)r->batch);
	snprintf(steps, sizeof steps, "%d", (int)r->steps);
	printf(COLUMNS, bench_phase_name(r->phase), context, batch, rate, ms, steps,
	       size(bytes, sizeof bytes, r->weight_bytes), gb, gop, limit);
}

/* ------------------------------------------------------------------ operations */

static int by_seconds(const void *a, const void *b)
{
	const struct timed_row *x = a, *y = b;

	return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

/* The nearer of the two limits, as a share; 0 = unknown. */
static double share_of_limit(const struct timed_row *t, const struct bench_about *a)
{
	double read, ops;

	if (!a->probed || t->seconds <= 0)
		return 0;
	read = (t->weight_bytes + t->history_bytes) / t->seconds / a->probe.bytes_per_s;
	ops = t->ops / t->seconds / a->probe.int8_ops_per_s;
	return read > ops ? read : ops;
}

/* "-" when there is none. */
static const char *number(char *out, size_t room, double v, const char *unit)
{
	if (v > 0)
		snprintf(out, room, v < 0.95 && !*unit ? "%.2f%s" : *unit ? "%.0f%s" : "%.1f%s", v, unit);
	else
		snprintf(out, room, "-");
	return out;
}

static const char *time_text(char *out, size_t room, double seconds)
{
	snprintf(out, room, seconds < 1 ? "%.3f" : "%.1f", 1e3 * seconds);
	return out;
}

void bench_print_ops(const struct bench_ops *o, const struct bench_about *a)
{
	struct timed_row op[TIMED_MAX_ROWS];
	char types[32], ms[24], mb[24], gb[24], gop[24], limit[24];
	double sum = 0, all = o->seconds > 0 ? o->seconds : 1e-9;

	memcpy(op, o->op, sizeof op);
	qsort(op, (size_t)o->n, sizeof *op, by_seconds);
	printf("\n%s at %d, batch %d: operations of %d step%s of %d token%s\n", bench_phase_name(o->of.phase),
	       (int)o->of.context, (int)o->of.batch, o->steps, o->steps == 1 ? "" : "s", (int)o->of.tokens,
	       o->of.tokens == 1 ? "" : "s");
	printf("%-15s%-13s%6s%9s%7s%9s%7s%8s%6s\n", "operation", "weights", "calls", "ms/step", "share", "MB/step", "GB/s",
	       "GOP/s", "limit");
	for (int i = 0; i < o->n; i++) {
		const struct timed_row *t = &op[i];
		double bytes = t->weight_bytes + t->history_bytes, s = t->seconds > 0 ? t->seconds : 1e-9;

		sum += t->seconds;
		printf("%-15s%-13s%6lld%9s%6.1f%%%9s%7s%8s%6s\n", t->op, timed_types(types, sizeof types, t),
		       (long long)(t->calls / o->steps), time_text(ms, sizeof ms, t->seconds / o->steps),
		       100 * t->seconds / all,
		       number(mb, sizeof mb, bytes / o->steps / 1e6, ""), number(gb, sizeof gb, bytes / s / 1e9, ""),
		       number(gop, sizeof gop, t->ops / s / 1e9, ""),
		       number(limit, sizeof limit, 100 * share_of_limit(t, a), "%"));
	}
	printf("%-15s%-13s%6s%9s%6.1f%%\n", "between them", "", "", time_text(ms, sizeof ms, (all - sum) / o->steps),
	       100 * (all - sum) / all);
	printf("%-15s%-13s%6s%9s%6.1f%%\n", "step", "", "", time_text(ms, sizeof ms, all / o->steps), 100.0);
}

/* ------------------------------------------------------------------ CSV */

static void csv_text(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++) {
		if (*s == '"')
			fputc('"', f);
		fputc((unsigned char)*s < 32 ? ' ' : *s, f);
	}
	fputc('"', f);
}

void bench_csv_head(FILE *f)
{
	fputs("machine,model,backend,threads,chunk,phase,context,batch,history,blocks,steps,tokens_per_second,ms,ms_min,ms_max,"
	      "weight_bytes,gb_per_second,gop_per_second,read_limit_gb_per_second,int8_limit_gop_per_second,limit_share,load\n",
	      f);
}

void bench_csv_row(FILE *f, const struct bench_about *a, const struct bench_row *r)
{
	csv_text(f, a->machine);
	fputc(',', f);
	csv_text(f, a->model);
	fprintf(f, ",%s,%d,%d,%s,%d,%d,%s,%s,%d,%.4f,%.4f,%.4f,%.4f,%.0f,%.3f,%.3f,", a->backend, a->threads, (int)a->chunk,
		bench_phase_name(r->phase), (int)r->context, (int)r->batch, a->fake ? "made up" : "read",
		a->share ? "shared" : "own", (int)r->steps, bench_rate(r), r->ms, r->ms_min, r->ms_max, r->weight_bytes,
		per_second(r->weight_bytes, r) / 1e9, per_second(r->ops, r) / 1e9);
	if (a->probed)
		fprintf(f, "%.3f,%.3f,%.4f,", a->probe.bytes_per_s / 1e9, a->probe.int8_ops_per_s / 1e9, r->limit);
	else
		fputs(",,,", f);
	fprintf(f, "%.2f\n", a->load);
}

/* ------------------------------------------------------------------ JSON */

json_t *bench_about_json(const struct bench_about *a)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:f, s:I}", "machine", a->machine, "model", a->model,
			      "backend", a->backend, "threads", a->threads, "chunk", (int)a->chunk, "history",
			      a->fake ? "made up" : "read", "blocks", a->share ? "shared" : "own", "load", a->load,
			      "weight_bytes_per_token", (json_int_t)a->read_per_token);

	if (o && a->probed)
		json_object_set_new(o, "limits", json_pack("{s:f, s:f, s:s, s:i}", "read_gb_per_second",
							   a->probe.bytes_per_s / 1e9, "int8_gop_per_second",
							   a->probe.int8_ops_per_s / 1e9, "int8_unit", a->probe.int8_name,
							   "threads", a->probe.threads));
	return o;
}

json_t *bench_row_json(const struct bench_row *r)
{
	json_t *o = json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "phase", bench_phase_name(r->phase),
			      "context", (int)r->context, "batch", (int)r->batch, "steps", (int)r->steps,
			      "tokens_per_second", bench_rate(r), "ms", r->ms, "ms_min", r->ms_min, "ms_max", r->ms_max,
			      "weight_bytes", r->weight_bytes, "gb_per_second", per_second(r->weight_bytes, r) / 1e9,
			      "gop_per_second", per_second(r->ops, r) / 1e9);

	if (o && r->limit > 0)
		json_object_set_new(o, "limit_share", json_real(r->limit));
	return o;
}

json_t *bench_ops_json(const struct bench_ops *o)
{
	json_t *list = json_array();
	char types[32];

	for (int i = 0; i < o->n; i++) {
		const struct timed_row *t = &o->op[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f}", "op", t->op, "weights",
						      timed_types(types, sizeof types, t), "calls", (json_int_t)t->calls,
						      "seconds", t->seconds, "weight_bytes", t->weight_bytes,
						      "history_bytes", t->history_bytes, "ops", t->ops));
	}
	return json_pack("{s:s, s:i, s:i, s:i, s:f, s:o}", "phase", bench_phase_name(o->of.phase), "context",
			 (int)o->of.context, "batch", (int)o->of.batch, "steps", o->steps, "seconds", o->seconds, "operations",
			 list);
}
