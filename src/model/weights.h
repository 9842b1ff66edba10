/* weights.h - every tensor of the model, bound by name with the type and shape the forward pass assumes. */
#ifndef DS4_MODEL_WEIGHTS_H
#define DS4_MODEL_WEIGHTS_H

#include "backend/backend.h"
#include "gguf/gguf.h"
#include "model/shape.h"

/* Classes for `ds4 inspect` and the memory plan. */
enum weight_class {
	CLASS_EMBEDDING, CLASS_ATTENTION, CLASS_COMPRESSOR, CLASS_INDEXER, CLASS_ROUTER, CLASS_EXPERTS,
	CLASS_SHARED, CLASS_HYPER, CLASS_NORMS, CLASS_OUTPUT, CLASS_COUNT
};

struct hc_triple {
	struct weight fn, scale, base;
};

struct layer_weights {
	struct hc_triple hc_attn, hc_ffn;
	struct weight attn_norm, ffn_norm;
	struct weight q_a, q_a_norm, q_b, kv, kv_norm, sinks, out_a, out_b;
	struct weight comp_ape, comp_kv, comp_gate, comp_norm;			/* ratio 4, 128 */
	struct weight index_q_b, index_proj;					/* ratio 4 */
	struct weight index_ape, index_kv, index_gate, index_norm;		/* ratio 4 */
	struct weight router, router_bias, hash_table;				/* bias or table; absent: data NULL */
	struct weight gate_exps, up_exps, down_exps, gate_sh, up_sh, down_sh;
};

struct weights {
	struct weight embed, output, output_norm;
	struct hc_triple hc_head;
	struct layer_weights *layer;			/* [n_layer] */
	uint64_t class_bytes[CLASS_COUNT];		/* in the file */
	uint64_t class_read[CLASS_COUNT];		/* per decoded token */
	int32_t n_layer;
	struct weight_name *names;			/* private: NUL-terminated names, newest first */
};

/* Binds all tensors and hands them to the backend.  ERR_FORMAT: "blk.3.attn_kv.weight: expected
 * [4096, 512], file has [4096, 576]".  be may be NULL: bind only (inspection). */
enum status weights_bind(struct weights *out, const struct gguf *g, const struct shape *s,
			 struct backend *be, struct err *err);
void weights_clear(struct weights *w);

const char *weight_class_name(enum weight_class c);

#endif
