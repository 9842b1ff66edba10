/* serve.c - `ds4 serve`: the command line of the API server, its signals, and the loading of its model.
 *
 * How   src/server does the work; this file turns options into server_options, prints where it listens, and opens the
 *       engine when the server asks for it, on a thread of the server's.
 * Careful
 *   - As many timelines as memory allows, up to --parallel: the plan is refused before anything is allocated, so trying
 *     with fewer costs nothing.
 *   - Options that ds4-server of old has and that mean nothing here are refused in words, so that a script's author
 *     learns of it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "server/server.h"

#ifndef DS4_VERSION
#define DS4_VERSION "unknown"
#endif

struct serve_args {
	struct engine_args engine;
	bool metal, cuda, cpu, warm;
	int64_t parallel, tokens;
	const char *chdir;
	/* who may come */
	const char *host, *api_key, *tls_cert, *tls_key;
	int64_t port, connections, queue, per_client, body;
	bool cors;
	double header_seconds, idle_seconds, send_seconds, request_seconds, drain_seconds, comment_seconds;
	/* answers */
	const char *model_id, *stub;
	int profile;
	bool thinking_sampling, completions_chat, pad;
	/* memory on disk */
	bool kv;
	const char *kv_dir;
	int64_t kv_mb, replay_bytes;
	bool no_replay;
	/* files */
	const char *log, *trace;
	bool quiet;
	/* refused */
	const char *mtp, *mtp_draft, *mtp_margin, *steer, *steer_ffn, *steer_attn, *tool_ids, *cold_max, *interval, *trim,
		*align, *min_tokens;
	bool quality, reject_quant;
};

static const char *const profile_names[] = {"auto", "preview", "0731", NULL};

static const struct serve_args defaults = {
	.engine = ENGINE_ARGS_DEFAULT, .port = 8000, .parallel = 16, .tokens = 393216, .connections = 4096, .queue = 256,
	.body = 64 << 20, .header_seconds = 10, .idle_seconds = 120, .send_seconds = 30, .drain_seconds = 10,
	.comment_seconds = 5, .model_id = "deepseek-v4-flash", .thinking_sampling = true,
	.kv = true, .kv_mb = KVSTORE_BUDGET_DEFAULT >> 20,
};

#define HIDDEN_TEXT(n, field) ARG_TEXT(n, 0, struct serve_args, field, "X", NULL)

static const struct arg_spec table[] = {
	ARG_INCLUDE(struct serve_args, engine, engine_arg_table),
	ARG_INT("parallel", 0, struct serve_args, parallel, 1, 256, "N",
		"conversations computed at once; fewer when memory does not allow so many"),
	ARG_FLAG("warm-weights", 0, struct serve_args, warm,
		"read the whole file before serving, so that no answer waits for the disk"),
	ARG_GROUP("Address"),
	ARG_TEXT("host", 0, struct serve_args, host, "ADDRESS",
		"where to listen (127.0.0.1 and ::1); 0.0.0.0 is everywhere"),
	ARG_INT("port", 0, struct serve_args, port, 0, 65535, "N", "0 takes a free one"),
	ARG_TEXT("tls-cert", 0, struct serve_args, tls_cert, "FILE",
		"PEM certificate: speak HTTPS"),
	ARG_TEXT("tls-key", 0, struct serve_args, tls_key, "FILE", "its PEM key"),
	ARG_GROUP("Who may ask, and how much"),
	ARG_TEXT("api-key", 0, struct serve_args, api_key, "FILE|ENV",
		"file, or environment variable, with the keys that are accepted"),
	ARG_FLAG("cors", 0, struct serve_args, cors, "let web pages of any origin ask"),
	ARG_INT("queue", 0, struct serve_args, queue, 1, 100000, "N",
		"requests that may wait; more are told to come back"),
	ARG_INT("per-client", 0, struct serve_args, per_client, 0, 100000, "N",
		"requests of one address at once; 0 = no limit"),
	ARG_INT("connections", 0, struct serve_args, connections, 1, 1000000, "N",
		"open connections"),
	ARG_INT("max-body", 0, struct serve_args, body, 1024, 0x40000000, "BYTES",
		"longest request, for example 64m"),
	ARG_REAL("header-seconds", 0, struct serve_args, header_seconds, 0.1, 3600, "S",
		"time for a request's head, and for each 64 KiB of its body"),
	ARG_REAL("idle-seconds", 0, struct serve_args, idle_seconds, 0.1, 86400, "S",
		"how long an unused connection stays open"),
	ARG_REAL("send-seconds", 0, struct serve_args, send_seconds, 0.1, 3600, "S",
		"a client that takes nothing for so long is dropped"),
	ARG_REAL("request-seconds", 0, struct serve_args, request_seconds, 0, 1e6, "S",
		"longest time of one answer; 0 = no limit"),
	ARG_REAL("drain-seconds", 0, struct serve_args, drain_seconds, 0, 86400, "S",
		"at the end: time for running answers"),
	ARG_GROUP("Answers"),
	ARG_INT("tokens", 'n', struct serve_args, tokens, 1, 1 << 20, "N",
		"longest answer when a request names no limit"),
	ARG_TEXT("model-id", 0, struct serve_args, model_id, "NAME",
		"the model's name in /v1/models; requests may use any"),
	ARG_CHOICE("profile", 0, struct serve_args, profile, profile_names,
		"which release of the weights the prompt is written for"),
	ARG_FLAG("thinking-sampling", 0, struct serve_args, thinking_sampling,
		"temperature and the like count while the model thinks; --no-... copies the "
		"hosted API, which ignores them"),
	ARG_FLAG("completions-chat", 0, struct serve_args, completions_chat,
		"/v1/completions wraps its prompt in a chat"),
	ARG_REAL("comment-seconds", 0, struct serve_args, comment_seconds, 0.05, 3600, "S",
		"between the comments that keep a silent stream open"),
	ARG_FLAG("nonstream-pad", 0, struct serve_args, pad,
		"white space keeps answers without a stream open, too"),
	ARG_TEXT("stub", 0, struct serve_args, stub, "FILE",
		"answers from a file of JSON lines instead of the model's, to test clients with"),
	ARG_GROUP("Memory of earlier conversations"),
	ARG_FLAG("kv", 0, struct serve_args, kv,
		"keep history and answers on disk: conversations go on after a restart"),
	ARG_TEXT("kv-disk-dir", 0, struct serve_args, kv_dir, "DIR",
		"where (the user's folder for caches, ds4/kv)"),
	HIDDEN_TEXT("kv-dir", kv_dir),
	ARG_INT("kv-disk-space-mb", 0, struct serve_args, kv_mb, 0, 1 << 30, "N",
		"MiB it may take; 0 = no limit"),
	ARG_INT("replay-memory", 0, struct serve_args, replay_bytes, 0, 0x1p40, "BYTES",
		"for the exact tokens of earlier answers (256m)"),
	ARG_FLAG("disable-exact-dsml-tool-replay", 0, struct serve_args, no_replay,
		"render earlier answers from what the client sends back"),
	ARG_GROUP("Files"),
	ARG_TEXT("log", 0, struct serve_args, log, "FILE",
		"instead of standard error; no contents of requests"),
	ARG_FLAG("quiet", 0, struct serve_args, quiet, "no line for each request"),
	ARG_TEXT("trace", 0, struct serve_args, trace, "FILE",
		"everything about every request, with its contents, as JSON lines"),
	ARG_TEXT("chdir", 0, struct serve_args, chdir, "DIR", "go there first"),
	/* of the server that this one follows */
	ARG_FLAG("metal", 0, struct serve_args, metal, NULL),
	ARG_FLAG("cuda", 0, struct serve_args, cuda, NULL),
	ARG_FLAG("cpu", 0, struct serve_args, cpu, NULL),
	ARG_FLAG("quality", 0, struct serve_args, quality, NULL),
	ARG_FLAG("kv-cache-reject-different-quant", 0, struct serve_args, reject_quant, NULL),
	HIDDEN_TEXT("mtp", mtp), HIDDEN_TEXT("mtp-draft", mtp_draft), HIDDEN_TEXT("mtp-margin", mtp_margin),
	HIDDEN_TEXT("dir-steering-file", steer), HIDDEN_TEXT("dir-steering-ffn", steer_ffn),
	HIDDEN_TEXT("dir-steering-attn", steer_attn), HIDDEN_TEXT("tool-memory-max-ids", tool_ids),
	HIDDEN_TEXT("kv-cache-cold-max-tokens", cold_max), HIDDEN_TEXT("kv-cache-min-tokens", min_tokens),
	HIDDEN_TEXT("kv-cache-continued-interval-tokens", interval),
	HIDDEN_TEXT("kv-cache-boundary-trim-tokens", trim), HIDDEN_TEXT("kv-cache-boundary-align-tokens", align),
	ARG_END
};

/* ------------------------------------------------------------------ what is refused */

static enum status refuse_old(const struct serve_args *a, struct err *err)
{
	static const char boundary[] = "the prefix tree keeps every block of 128 tokens, there is no boundary to choose";
	const struct {
		const char *name;
		bool given;
		const char *why;
	} old[] = {
		{"mtp", a->mtp != NULL, "drafting with a second model is not part of this server"},
		{"mtp-draft", a->mtp_draft != NULL, "drafting with a second model is not part of this server"},
		{"mtp-margin", a->mtp_margin != NULL, "drafting with a second model is not part of this server"},
		{"dir-steering-file", a->steer != NULL, "steering is not part of this server"},
		{"dir-steering-ffn", a->steer_ffn != NULL, "steering is not part of this server"},
		{"dir-steering-attn", a->steer_attn != NULL, "steering is not part of this server"},
		{"quality", a->quality, "there is one set of kernels here, and it is the exact one"},
		{"metal", a->metal, "this build has no Metal backend; see --backend"},
		{"tool-memory-max-ids", a->tool_ids != NULL, "answers are remembered up to --replay-memory BYTES"},
		{"kv-cache-min-tokens", a->min_tokens != NULL, boundary},
		{"kv-cache-cold-max-tokens", a->cold_max != NULL, boundary},
		{"kv-cache-continued-interval-tokens", a->interval != NULL, boundary},
		{"kv-cache-boundary-trim-tokens", a->trim != NULL, boundary},
		{"kv-cache-boundary-align-tokens", a->align != NULL, boundary},
		{"kv-cache-reject-different-quant", a->reject_quant, "history of other weights is never used"},
	};

	for (size_t i = 0; i < sizeof old / sizeof *old; i++)
		if (old[i].given)
			return err_set(err, ERR_ARGUMENT, "--%s: %s", old[i].name, old[i].why);
	if (getenv("DS4_MTP_SPEC_DISABLE"))
		term_note("DS4_MTP_SPEC_DISABLE is set: there is no drafting to disable");
	return OK;
}

static enum status check(const struct serve_args *a, struct err *err)
{
	TRY(refuse_old(a, err));
	if (!a->tls_cert != !a->tls_key)
		return err_set(err, ERR_ARGUMENT, "--tls-cert and --tls-key are given together, got only --tls-%s",
			       a->tls_cert ? "cert" : "key");
	if (a->cpu && a->cuda)
		return err_set(err, ERR_ARGUMENT, "--cpu and --cuda exclude each other");
	return OK;
}

/* ------------------------------------------------------------------ the model */

struct loader {
	struct engine_options options;
	bool warm;
	int32_t parallel;
};

/* Reads the file once, so that the system has it in memory. */
static enum status warm(const char *path, struct server_progress *p, struct err *err)
{
	enum { STEP = 8 << 20 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *step = mem_alloc(STEP);
	enum status st = OK;
	struct stat info;
	uint64_t all = 0;
	ssize_t n = 0;

	if (fd < 0 || fstat(fd, &info) != 0)
		st = err_set(err, ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
	else if (!step)
		st = err_set(err, ERR_MEMORY, "no memory to read %s", path);
	if (st == OK) {
		server_phase(p, "reading the file");
		while ((n = read(fd, step, STEP)) > 0)
			server_bytes(p, all += (uint64_t)n, (uint64_t)info.st_size);
		if (n < 0)
			st = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
	}
	mem_free(step);
	if (fd >= 0)
		close(fd);
	return st;
}

static enum status load(void *ctx, struct engine **out, struct server_progress *p, struct err *err)
{
	struct loader *l = ctx;
	struct engine_options o = l->options;
	enum status st = ERR_MEMORY;

	if (l->warm)
		TRY(warm(o.model, p, err));
	server_phase(p, "opening the model");
	for (o.timelines = l->parallel; o.timelines >= 1 && st == ERR_MEMORY; o.timelines /= 2)
		st = engine_open(out, &o, err);
	if (st == OK && (*out)->opt.timelines < l->parallel)
		term_note("memory allows %d conversations at once, --parallel asked for %d", (int)(*out)->opt.timelines,
			  (int)l->parallel);
	return st;
}

/* ------------------------------------------------------------------ signals */

static struct server *serving;
static volatile sig_atomic_t stops;

static void on_signal(int sig)
{
	if (sig == SIGHUP) {
		server_signal(serving, SERVER_REOPEN);
	} else {
		if (stops)
			_exit(130);
		stops = 1;
		server_signal(serving, SERVER_STOP);
	}
}

static void handle_signals(void)
{
	const int all[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction a;

	memset(&a, 0, sizeof a);
	a.sa_handler = on_signal;
	a.sa_flags = SA_RESTART;
	sigemptyset(&a.sa_mask);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		sigaction(all[i], &a, NULL);
}

/* Thousands of connections need thousands of descriptors; the system's soft limit is often 1024. */
static void raise_descriptors(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > 65536 ? 65536 : r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

/* ------------------------------------------------------------------ serving */

static struct server_options options_of(const struct serve_args *a, struct loader *l)
{
	struct server_options o = SERVER_OPTIONS_DEFAULT;

	o.host = a->host;
	o.port = (int)a->port;
	o.api_key = a->api_key;
	o.tls_cert = a->tls_cert;
	o.tls_key = a->tls_key;
	o.cors = a->cors;
	o.limits.connections = (int)a->connections;
	o.limits.body_bytes = (size_t)a->body;
	o.limits.bodies_bytes = 8 * (size_t)a->body;
	o.limits.head_seconds = o.limits.body_seconds = a->header_seconds;
	o.limits.idle_seconds = a->idle_seconds;
	o.limits.send_seconds = a->send_seconds;
	o.max_queue = (int)a->queue;
	o.max_per_client = (int)a->per_client;
	o.request_seconds = a->request_seconds;
	o.drain_seconds = a->drain_seconds;
	o.comment_seconds = a->comment_seconds;
	o.pad = a->pad;
	o.log = a->log;
	o.trace = a->trace;
	o.quiet = a->quiet;
	o.model_id = a->model_id;
	o.version = "ds4 " DS4_VERSION;
	o.thinking_samples = a->thinking_sampling;
	o.completions_chat = a->completions_chat;
	o.max_tokens = (int32_t)a->tokens;
	o.profile = a->profile - 1;
	o.stub = a->stub;
	o.replay = !a->no_replay;
	o.replay_bytes = (uint64_t)a->replay_bytes;
	o.kv_bytes = (uint64_t)a->kv_mb << 20;
	o.load = load;
	o.load_ctx = l;
	return o;
}

static void say_where(const struct serve_args *a, const struct server *s)
{
	const char *scheme = a->tls_cert ? "https" : "http", *host = a->host ? a->host : "127.0.0.1";
	bool v6 = strchr(host, ':') != NULL;

	if (!http_loopback(a->host) && !a->api_key)
		term_note("warning: %s can be reached from other machines and asks for no key: anybody there can use it; "
			  "--api-key FILE sets one", host);
	printf("ds4 serve: listening on %s://%s%s%s:%d\n", scheme, v6 ? "[" : "", host, v6 ? "]" : "", server_port(s));
	fflush(stdout);
}

static enum status serve_run(void *options, struct err *err)
{
	struct serve_args *a = options;
	struct loader l = {.options = ENGINE_OPTIONS_DEFAULT, .warm = a->warm, .parallel = (int32_t)a->parallel};
	struct server_options o = options_of(a, &l);
	char kv_dir[4000];
	enum status st;

	TRY(check(a, err));
	if (a->chdir && chdir(a->chdir) != 0)
		return err_set(err, ERR_NOT_FOUND, "--chdir %s: %s", a->chdir, strerror(errno));
	TRY(cli_engine_options(&l.options, &a->engine, NULL, 0, err));
	if (a->cpu || a->cuda)
		l.options.backend = a->cpu ? "cpu" : "cuda";
	if (a->kv && cli_kv_dir(kv_dir, sizeof kv_dir, a->kv_dir))
		o.kv_dir = kv_dir;
	raise_descriptors();
	TRY(server_open(&serving, &o, err));
	handle_signals();
	say_where(a, serving);
	st = server_run(serving, err);
	server_close(serving);
	return st;
}

static const char *const examples[] = {
	"ds4 serve                                   the API on http://127.0.0.1:8000, for programs of this machine",
	"ds4 serve -m FILE -c 128k --kv-disk-dir /big/ds4        a longer context, history on a large disk",
	"ds4 serve --host 0.0.0.0 --api-key keys.txt             for other machines: whoever knows a key",
	"curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}'",
	NULL
};

const struct cli_command serve_command = {
	.args = {
		.name = "serve",
		.summary = "serve the model to programs: OpenAI's and Anthropic's API",
		.about = "Serves the model over HTTP as coding agents and SDKs expect it: /v1/chat/completions, "
			 "/v1/completions, /v1/responses, /v1/messages, /v1/models, /tokenize, /health and /metrics.  "
			 "Clients set the base URL to http://127.0.0.1:8000/v1 (OpenAI) or http://127.0.0.1:8000 "
			 "(Anthropic); any model name and, without --api-key, any key will do.  Ctrl-C or SIGTERM ends "
			 "running answers properly and saves; a second one ends at once.  SIGHUP reopens the log.",
		.args = table,
		.examples = examples,
	},
	.defaults = &defaults,
	.size = sizeof(struct serve_args),
	.run = serve_run,
};
