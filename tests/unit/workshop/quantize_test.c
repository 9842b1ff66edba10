/* quantize_test.c - a checkpoint in the official layout becomes a model file: every value, interruptions,
 * editing. */
#include "common.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "backend/backend.h"
#include "gguf/gguf.h"
#include "model/shape.h"
#include "model/weights.h"
#include "workshop/imatrix_file.h"

static struct gguf *open_file(const char *path)
{
	struct gguf *g;
	struct err err = {0};

	if (gguf_open(&g, path, &err) != OK)
		fail_msg("%s", err.msg);
	return g;
}

static const struct gguf_tensor *tensor(const struct gguf *g, const char *name, enum dtype type)
{
	const struct gguf_tensor *t = gguf_tensor(g, name);

	if (!t)
		fail_msg("%s is missing", name);
	if (t->type != type)
		fail_msg("%s: expected %s, got %s", name, dtype_info(type)->name, dtype_info(t->type)->name);
	return t;
}

/* Slice `e` of a tensor holds the values of a tensor of the checkpoint. */
static void holds(const struct gguf *g, const char *name, enum dtype type, int e, struct t_checkpoint *c,
                  const char *hf)
{
	const struct gguf_tensor *t = tensor(g, name, type);
	uint64_t cols = t->dims[0], rows = t->dims[1];
	float *x = mem_array(cols * rows, sizeof *x);

	quant_decode(x, t->data + dtype_bytes(type, (size_t)e * cols * rows), type, cols * rows);
	for (uint64_t i = 0; i < cols * rows; i++)
		if ((double)x[i] != t_value(c, hf, i / cols, i % cols))
			fail_msg("%s, expert %d, row %d, column %d: expected %.9g, got %.9g", name, e,
			         (int)(i / cols), (int)(i % cols), t_value(c, hf, i / cols, i % cols),
			         (double)x[i]);
	mem_free(x);
}

static void every_kind_of_tensor_arrives_with_its_values_and_its_shape_reversed(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "f16", .threads = 2};
	const struct gguf_tensor *t;
	struct gguf *g;
	char hf[96];

	(void)state;
	t_write(c);
	t_good(&o);
	g = open_file(o.destination);
	holds(g, "token_embd.weight", DTYPE_F16, 0, c, "embed.weight");
	holds(g, "output.weight", DTYPE_F16, 0, c, "head.weight");
	holds(g, "output_hc_base.weight", DTYPE_F32, 0, c, "hc_head_base");
	holds(g, "blk.0.attn_q_b.weight", DTYPE_F16, 0, c, "layers.0.attn.wq_b.weight");
	holds(g, "blk.2.attn_output_a.weight", DTYPE_F16, 0, c, "layers.2.attn.wo_a.weight");
	holds(g, "blk.1.indexer.attn_q_b.weight", DTYPE_F16, 0, c, "layers.1.attn.indexer.wq_b.weight");
	holds(g, "blk.1.attn_compressor_ape.weight", DTYPE_F16, 0, c, "layers.1.attn.compressor.ape");
	holds(g, "blk.1.attn_norm.weight", DTYPE_F32, 0, c, "layers.1.attn_norm.weight");
	holds(g, "blk.0.ffn_gate_tid2eid.weight", DTYPE_I32, 0, c, "layers.0.ffn.gate.tid2eid");
	holds(g, "blk.2.exp_probs_b.bias", DTYPE_F32, 0, c, "layers.2.ffn.gate.bias");
	holds(g, "blk.0.ffn_down_shexp.weight", DTYPE_F16, 0, c, "layers.0.ffn.shared_experts.w2.weight");
	for (int e = 0; e < T_EXPERTS; e++) {
		snprintf(hf, sizeof hf, "layers.2.ffn.experts.%d.w1.weight", e);
		holds(g, "blk.2.ffn_gate_exps.weight", DTYPE_F16, e, c, hf);
		snprintf(hf, sizeof hf, "layers.2.ffn.experts.%d.w3.weight", e);
		holds(g, "blk.2.ffn_up_exps.weight", DTYPE_F16, e, c, hf);
		snprintf(hf, sizeof hf, "layers.2.ffn.experts.%d.w2.weight", e);
		holds(g, "blk.2.ffn_down_exps.weight", DTYPE_F16, e, c, hf);
	}
	t = tensor(g, "blk.1.attn_compressor_kv.weight", DTYPE_F16);
	assert_int_equal(t->dims[0], T_D);
	assert_int_equal(t->dims[1], 2 * T_HEAD);
	gguf_close(g);
	t_free(c);
}

static void the_file_is_a_model_that_the_engine_binds(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q2"};
	struct err err = {0};
	struct shape s;
	struct weights w;
	struct gguf *g;
	uint64_t v;
	double x;

	(void)state;
	t_write(c);
	t_good(&o);
	g = open_file(o.destination);
	if (shape_read(&s, g, &err) != OK || weights_bind(&w, g, &s, NULL, &err) != OK)
		fail_msg("%s", err.msg);
	weights_clear(&w);
	assert_int_equal(s.n_layer, 3);
	assert_int_equal(s.ratio[1], 4);
	assert_int_equal(s.ratio[2], 128);
	assert_int_equal(s.n_hash, 1);
	assert_int_equal(s.window, 64);			/* from config.json */
	assert_int_equal(gguf_u64(g, "deepseek4.expert_gating_func", &v, &err), OK);
	assert_int_equal(v, 4);
	assert_int_equal(gguf_f64(g, "deepseek4.rope.scaling.factor", &x, &err), OK);
	assert_true(x == 8);
	tensor(g, "blk.0.ffn_gate_exps.weight", DTYPE_IQ2_XXS);
	tensor(g, "blk.0.ffn_down_exps.weight", DTYPE_Q2_K);
	tensor(g, "blk.0.attn_q_a.weight", DTYPE_Q8_0);
	tensor(g, "blk.1.indexer.attn_q_b.weight", DTYPE_F16);
	gguf_close(g);
	t_free(c);
}

static void the_vocabulary_comes_from_tokenizer_json(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "f16"};
	static const char *const want[] = {NULL, NULL, "a", "b", "ab", "<think>", "[PAD6]"};
	static const int types[] = {3, 3, 1, 1, 1, 4, 5};
	const struct gguf_kv *kv;
	const uint8_t *p;
	struct gguf *g;
	struct gguf_string s;

	(void)state;
	t_write(c);
	t_good(&o);
	g = open_file(o.destination);
	kv = gguf_find(g, "tokenizer.ggml.tokens");
	assert_int_equal(kv->count, T_VOCAB);
	p = kv->value;
	for (int i = 0; i < 7; i++) {
		s = gguf_next_string(&p);
		if (want[i])
			assert_true(s.n == strlen(want[i]) && !memcmp(s.p, want[i], s.n));
		assert_int_equal(gguf_integer(gguf_find(g, "tokenizer.ggml.token_type"), (uint64_t)i), types[i]);
	}
	kv = gguf_find(g, "tokenizer.ggml.merges");
	assert_int_equal(kv->count, 2);
	p = kv->value;
	s = gguf_next_string(&p);
	assert_true(s.n == 3 && !memcmp(s.p, "a b", 3));
	assert_int_equal(gguf_integer(gguf_find(g, "tokenizer.ggml.eos_token_id"), 0), 1);
	gguf_close(g);
	t_free(c);
}

static void tensors_lie_once_one_behind_the_other_and_the_file_ends_with_the_last(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q4"};
	struct gguf *g;
	const uint8_t *at;

	(void)state;
	t_write(c);
	t_good(&o);
	g = open_file(o.destination);
	at = g->map + g->data_offset;
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		assert_ptr_equal(g->tensor[i].data, at);
		assert_true(strncmp(g->tensor[i].name.p, "mtp.", 4));
		at += (g->tensor[i].bytes + 31) / 32 * 32;
	}
	assert_ptr_equal(at, g->map + g->map_bytes);
	gguf_close(g);
	t_free(c);
}

static void the_mtp_block_becomes_a_file_of_its_own(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q2", .mtp = true};
	struct gguf *g;

	(void)state;
	t_write(c);
	t_good(&o);
	g = open_file(o.destination);
	assert_int_equal(g->n_tensors, 32);
	for (uint64_t i = 0; i < g->n_tensors; i++)
		assert_false(strncmp(g->tensor[i].name.p, "mtp.0.", 6));
	assert_null(gguf_find(g, "tokenizer.ggml.tokens"));
	tensor(g, "mtp.0.ffn_gate_exps.weight", DTYPE_Q4_K);
	tensor(g, "mtp.0.e_proj.weight", DTYPE_Q8_0);
	tensor(g, "mtp.0.hc_attn_fn.weight", DTYPE_F32);
	tensor(g, "mtp.0.ffn_gate_inp.weight", DTYPE_F32);
	holds(g, "mtp.0.hnorm.weight", DTYPE_F32, 0, c, "mtp.0.hnorm.weight");
	gguf_close(g);
	t_free(c);
}

/* ------------------------------------------------------------------ determinism and interruption */

static void one_thread_and_five_give_the_same_bytes(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q2", .threads = 1};
	struct quantize_options two = o;

	(void)state;
	t_write(c);
	t_good(&o);
	two.destination = t_path(c, "two.gguf");
	two.threads = 5;
	t_good(&two);
	t_same_files(t_path(c, "out.gguf"), t_path(c, "two.gguf"));
	t_free(c);
}

static volatile int stop;

static void stop_in_the_middle(void *ctx, const struct quantize_progress *p)
{
	(void)ctx;
	if (!p->checking && p->done > p->total / 2)
		stop = 1;
}

/* Leaves an interrupted run of two.gguf. */
static void interrupt(struct t_checkpoint *c, struct quantize_options *o)
{
	struct err err = {0};

	stop = 0;
	*o = (struct quantize_options){.source = c->dir, .destination = t_path(c, "two.gguf"), .recipe = "q8", .threads = 2,
				       .cancel = &stop, .progress = stop_in_the_middle};
	assert_int_equal(t_quantize(o, NULL, &err), ERR_CANCELLED);
	assert_false(t_exists(t_path(c, "two.gguf")));
	assert_true(t_exists(t_path(c, "two.gguf.part")));
	assert_true(t_exists(t_path(c, "two.gguf.part.journal")));
	o->cancel = NULL;
	o->progress = NULL;
}

static void finish_and_compare(struct t_checkpoint *c, struct quantize_options *o, bool some_kept)
{
	struct quantize_options whole = {
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q8", .force = true};
	struct quantize_report report;
	struct err err = {0};

	o->destination = t_path(c, "two.gguf");
	if (t_quantize(o, &report, &err) != OK)
		fail_msg("%s", err.msg);
	assert_int_equal(report.kept > 0, some_kept);
	assert_true(report.kept < report.tensors);
	whole.destination = t_path(c, "out.gguf");
	t_good(&whole);
	t_same_files(t_path(c, "out.gguf"), t_path(c, "two.gguf"));
	assert_false(t_exists(t_path(c, "two.gguf.part")));
	assert_false(t_exists(t_path(c, "two.gguf.part.journal")));
}

static void an_interrupted_run_continues_and_ends_with_the_same_bytes(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o;

	(void)state;
	t_write(c);
	interrupt(c, &o);
	finish_and_compare(c, &o, true);
	t_free(c);
}

/* Stands in for the C library's: after `room` bytes the disk is full. */
static _Atomic int64_t room = INT64_MAX;

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	struct iovec v = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};

	if (atomic_fetch_sub(&room, (int64_t)n) < (int64_t)n) {
		errno = ENOSPC;
		return -1;
	}
	return pwritev(fd, &v, 1, at);
}

static void a_disk_that_fills_up_in_the_middle_keeps_what_was_written(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {
		.source = c->dir, .destination = t_path(c, "two.gguf"), .recipe = "q8", .threads = 2};
	struct err err = {0};
	enum status st;

	(void)state;
	t_write(c);
	atomic_store(&room, 300000);
	st = t_quantize(&o, NULL, &err);
	atomic_store(&room, INT64_MAX);
	assert_int_equal(st, ERR_IO);
	if (!strstr(err.msg, "two.gguf.part: the disk is full"))
		fail_msg("expected the file's name and what is wrong, found: %s", err.msg);
	assert_false(t_exists(t_path(c, "two.gguf")));
	finish_and_compare(c, &o, true);
	t_free(c);
}

/* Flips a byte in the middle of what lies there, and cuts the journal's last line short. */
static void damaged_leftovers_are_converted_again(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o;
	struct stat sb;
	FILE *f;
	int byte;

	(void)state;
	t_write(c);
	interrupt(c, &o);
	f = fopen(t_path(c, "two.gguf.part"), "r+b");
	fseek(f, 40000, SEEK_SET);
	byte = fgetc(f);
	fseek(f, 40000, SEEK_SET);
	fputc(byte ^ 1, f);
	fclose(f);
	assert_int_equal(stat(t_path(c, "two.gguf.part.journal"), &sb), 0);
	assert_int_equal(truncate(t_path(c, "two.gguf.part.journal"), sb.st_size - 5), 0);
	finish_and_compare(c, &o, true);
	t_free(c);
}

static void a_source_that_changed_is_refused_and_force_begins_again(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o;

	(void)state;
	t_write(c);
	interrupt(c, &o);
	t_find(c, "layers.1.attn_norm.weight")->data[0] ^= 1;
	t_write(c);
	o.destination = t_path(c, "two.gguf");
	t_bad(&o, ERR_ARGUMENT, "source changed", "two.gguf.part");
	assert_false(t_exists(t_path(c, "two.gguf")));
	o.force = true;
	finish_and_compare(c, &o, false);
	t_free(c);
}

static void other_options_than_those_of_the_interrupted_run_are_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o;

	(void)state;
	t_write(c);
	interrupt(c, &o);
	o.destination = t_path(c, "two.gguf");
	o.recipe = "q4";
	t_bad(&o, ERR_ARGUMENT, "other options", "--force");
	t_free(c);
}

static void an_existing_destination_is_kept_unless_forced(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q8"};
	struct stat sb;

	(void)state;
	t_write(c);
	t_put(c, "out.gguf", "mine", 4);
	o.destination = t_path(c, "out.gguf");
	t_bad(&o, ERR_ARGUMENT, "out.gguf", "--force");
	assert_int_equal(stat(t_path(c, "out.gguf"), &sb), 0);
	assert_int_equal(sb.st_size, 4);
	o.force = true;
	t_good(&o);
	t_free(c);
}

/* ------------------------------------------------------------------ importance */

static void add_importance(struct imatrix *m, const char *name, int n)
{
	struct imatrix_entry *e = imatrix_add(m, name, n);

	assert_non_null(e);
	e->calls = 3;
	for (int i = 0; i < n; i++)
		e->value[i] = i % 7 ? 1 : 50;
}

static double error_of_columns(struct t_checkpoint *c, const char *file)
{
	struct gguf *g = open_file(file);
	const struct gguf_tensor *t = tensor(g, "blk.1.ffn_gate_exps.weight", DTYPE_IQ2_XXS);
	float x[T_D];
	double sum = 0;

	for (int row = 0; row < T_FF; row++) {
		quant_decode(x, t->data + dtype_bytes(t->type, (size_t)row * T_D), t->type, T_D);
		for (int col = 0; col < T_D; col += 7)
			sum += pow((double)x[col] - t_value(c, "layers.1.ffn.experts.0.w1.weight",
			                                    (uint64_t)row, (uint64_t)col),
			           2);
	}
	gguf_close(g);
	return sum;
}

static void important_columns_of_experts_are_stored_better(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q2"};
	struct imatrix m = IMATRIX_EMPTY;
	struct quantize_report report;
	struct err err = {0};
	double with, without;

	(void)state;
	t_write(c);
	t_good(&o);
	add_importance(&m, "blk.1.ffn_gate_exps.weight", T_D * T_EXPERTS);
	assert_int_equal(imatrix_write(&m, t_path(c, "i.dat"), &err), OK);
	o.destination = t_path(c, "two.gguf");
	o.imatrix = t_path(c, "i.dat");
	assert_int_equal(t_quantize(&o, &report, &err), OK);
	assert_int_equal(report.with_importance, 1);
	without = error_of_columns(c, t_path(c, "out.gguf"));
	with = error_of_columns(c, t_path(c, "two.gguf"));
	if (!(with < 0.7 * without))
		fail_msg("expected less than 0.7 of %g, got %g", without, with);
	imatrix_clear(&m);
	t_free(c);
}

static void importance_of_another_model_is_refused(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .recipe = "q2"};
	struct imatrix m = IMATRIX_EMPTY;
	struct err err = {0};

	(void)state;
	t_write(c);
	add_importance(&m, "blk.1.ffn_gate_exps.weight", 4096);
	assert_int_equal(imatrix_write(&m, t_path(c, "i.dat"), &err), OK);
	o.imatrix = t_path(c, "i.dat");
	t_bad(&o, ERR_FORMAT, "blk.1.ffn_gate_exps.weight", "another model");
	imatrix_clear(&m);
	add_importance(&m, "layers.1.mlp.up_proj", 4096);
	assert_int_equal(imatrix_write(&m, t_path(c, "i.dat"), &err), OK);
	o.imatrix = t_path(c, "i.dat");
	t_bad(&o, ERR_FORMAT, "layers.1.mlp.up_proj", "is a tensor of this model");
	imatrix_clear(&m);
	t_free(c);
}

/* ------------------------------------------------------------------ GGUF to GGUF */

static void a_model_file_is_quantised_again_spliced_and_stripped(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "f16"};
	const char *drop[] = {"*.exp_probs_b.bias"}, *splice[1];
	char spliced[200];
	struct gguf *a, *b;

	(void)state;
	t_write(c);
	t_good(&o);
	o = (struct quantize_options){.source = t_path(c, "out.gguf"),
	                              .destination = t_path(c, "two.gguf"),
	                              .recipe = "q4",
	                              .drop = drop,
	                              .n_drop = 1,
	                              .splice = splice,
	                              .n_splice = 1};
	snprintf(spliced, sizeof spliced, "1..1=%s", t_path(c, "out.gguf"));
	splice[0] = spliced;
	o.source = t_path(c, "out.gguf");
	o.destination = t_path(c, "two.gguf");
	t_good(&o);
	a = open_file(t_path(c, "out.gguf"));
	b = open_file(t_path(c, "two.gguf"));
	assert_int_equal(b->n_tensors, a->n_tensors - 2);
	assert_null(gguf_tensor(b, "blk.1.exp_probs_b.bias"));
	tensor(b, "blk.0.ffn_up_exps.weight", DTYPE_Q4_K);
	tensor(b, "blk.2.ffn_up_exps.weight", DTYPE_Q4_K);
	holds(b, "blk.1.ffn_up_exps.weight", DTYPE_F16, 3, c, "layers.1.ffn.experts.3.w3.weight");
	assert_int_equal(gguf_find(b, "tokenizer.ggml.tokens")->count, T_VOCAB);
	gguf_close(a);
	gguf_close(b);
	t_free(c);
}

static void quantising_again_gives_what_the_checkpoint_gives(void **state)
{
	struct t_checkpoint *c = t_new();
	struct quantize_options o = {.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "f16"};
	struct gguf *a, *b;

	(void)state;
	t_write(c);
	t_good(&o);		/* exact: the values of FP4 and FP8 with these scales fit in F16 */
	o = (struct quantize_options){
		.source = t_path(c, "out.gguf"), .destination = t_path(c, "two.gguf"), .recipe = "q2"};
	t_good(&o);
	o = (struct quantize_options){
		.source = c->dir, .destination = t_path(c, "out.gguf"), .recipe = "q2", .force = true};
	t_good(&o);
	a = open_file(t_path(c, "out.gguf"));
	b = open_file(t_path(c, "two.gguf"));
	for (uint64_t i = 0; i < a->n_tensors; i++) {
		assert_int_equal(a->tensor[i].bytes, b->tensor[i].bytes);
		assert_memory_equal(a->tensor[i].data, b->tensor[i].data, a->tensor[i].bytes);
	}
	gguf_close(a);
	gguf_close(b);
	t_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_tensor_arrives_with_its_values_and_its_shape_reversed),
		cmocka_unit_test(the_file_is_a_model_that_the_engine_binds),
		cmocka_unit_test(the_vocabulary_comes_from_tokenizer_json),
		cmocka_unit_test(tensors_lie_once_one_behind_the_other_and_the_file_ends_with_the_last),
		cmocka_unit_test(the_mtp_block_becomes_a_file_of_its_own),
		cmocka_unit_test(one_thread_and_five_give_the_same_bytes),
		cmocka_unit_test(an_interrupted_run_continues_and_ends_with_the_same_bytes),
		cmocka_unit_test(a_disk_that_fills_up_in_the_middle_keeps_what_was_written),
		cmocka_unit_test(damaged_leftovers_are_converted_again),
		cmocka_unit_test(a_source_that_changed_is_refused_and_force_begins_again),
		cmocka_unit_test(other_options_than_those_of_the_interrupted_run_are_refused),
		cmocka_unit_test(an_existing_destination_is_kept_unless_forced),
		cmocka_unit_test(important_columns_of_experts_are_stored_better),
		cmocka_unit_test(importance_of_another_model_is_refused),
		cmocka_unit_test(a_model_file_is_quantised_again_spliced_and_stripped),
		cmocka_unit_test(quantising_again_gives_what_the_checkpoint_gives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
