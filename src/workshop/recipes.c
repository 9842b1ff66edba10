/* recipes.c - the built-in recipes, as the text that a file of your own would have (`ds4 quantize
 * --show-recipe q2`). */
#include <stddef.h>
#include <string.h>

#include "workshop/recipe.h"

/* What all recipes share: everything that is not a large matrix. */
#define SMALL                                                  \
	"*.ffn_gate_tid2eid.weight        I32     optional\n"  \
	"*norm.weight                     F32\n"               \
	"*.attn_sinks.weight              F32\n"               \
	"*.exp_probs_b.bias               F32     optional\n"  \
	"*_base.weight                    F32\n"               \
	"*_scale.weight                   F32\n"

#define REST                                                   \
	"*                                F16\n"

#define DENSE(type)                                            \
	"output.weight                    " type "\n"          \
	"*.attn_q_?.weight                " type "\n"          \
	"*.attn_kv.weight                 " type "\n"          \
	"*.attn_output_?.weight           " type "\n"          \
	"*_shexp.weight                   " type "\n"

/* The MTP block, a file of its own; small: its hyper-connections and router. */
#define MTP_BLOCK(experts, dense, small)                       \
	"# the MTP block (--mtp)\n"                            \
	"mtp.*norm.weight                 F32\n"               \
	"mtp.*.attn_sinks.weight          F32\n"               \
	"mtp.*.exp_probs_b.bias           F32\n"               \
	"mtp.*_base.weight                F32\n"               \
	"mtp.*_scale.weight               F32\n"               \
	"mtp.*.hc_head_fn.weight          F32\n"               \
	"mtp.*.hc_*_fn.weight             " small "\n"         \
	"mtp.*.ffn_gate_inp.weight        " small "\n"         \
	"mtp.*_exps.weight                " experts "\n"       \
	"mtp.*                            " dense "\n"

#define MTP(experts, dense) MTP_BLOCK(experts, dense, "F32")

/* indexer.attn_q_b is an indexer matrix: it goes with the rest, so it comes before the attention's. */
#define INDEXER                                                \
	"*.indexer.*                      F16     optional\n"

static const struct {
	const char *name, *text;
} builtin[] = {
	{"q2",
         "# q2: routed experts in 2 bits, attention, shared experts and output in 8, the rest in 16 or 32; "
         "80.8 GiB\n"
         "file_type 19\n"
         "*.ffn_gate_exps.weight           IQ2_XXS\n"
         "*.ffn_up_exps.weight             IQ2_XXS\n"
         "*.ffn_down_exps.weight           Q2_K\n" SMALL INDEXER DENSE("Q8_0") REST MTP("Q4_K", "Q8_0")},
	{"q4",
         "# q4: routed experts in 4 bits, the rest as q2; 153.3 GiB\n"
         "file_type 15\n"
         "*_exps.weight                    Q4_K\n" SMALL INDEXER DENSE("Q8_0") REST MTP("Q4_K", "Q8_0")},
	{"q2-q4",
         "# q2-q4: q2, but the experts of the last six layers in 4 bits; 90.9 GiB\n"
         "file_type 19\n"
         "blk.{-6..-1}.ffn_*_exps.weight   Q4_K\n"
         "*.ffn_gate_exps.weight           IQ2_XXS\n"
         "*.ffn_up_exps.weight             IQ2_XXS\n"
         "*.ffn_down_exps.weight           Q2_K\n" SMALL INDEXER DENSE("Q8_0") REST MTP("Q4_K", "Q8_0")},
	{"q8",
         "# q8: every large matrix in 8 bits\n"
         "file_type 7\n"
         "*_exps.weight                    Q8_0\n" SMALL INDEXER DENSE("Q8_0") REST MTP("Q8_0", "Q8_0")},
	{"f16", "# f16: every matrix in 16 bits\n"
                "file_type 1\n" SMALL REST MTP("F16", "F16")},
	{"nano", "# nano: the bundled ds4-nano, the same types as q2 on a small model\n"
                 "file_type 19\n"
                 "*.ffn_gate_exps.weight           IQ2_XXS\n"
                 "*.ffn_up_exps.weight             IQ2_XXS\n"
                 "*.ffn_down_exps.weight           Q2_K\n" SMALL INDEXER DENSE("Q8_0")
                         REST MTP_BLOCK("Q4_K", "Q8_0", "F16")},
	{"keep", "# keep: every tensor as it is in the source (a GGUF file)\n"
                 "mtp.*                            KEEP\n"
                 "*                                KEEP\n"},
};

const char *recipe_builtin(const char *name)
{
	for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
		if (!strcmp(builtin[i].name, name))
			return builtin[i].text;
	return NULL;
}
