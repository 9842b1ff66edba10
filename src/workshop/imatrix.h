/* imatrix.h - which columns of the routed experts matter: sums of squares collected while the model reads text.
 *
 * For each layer and expert, over the tokens that were sent to it:
 *
 *	gate, up  [E, d]   x_j^2              x = the normed input of the expert half
 *	down      [E, F]   (w h_f)^2          h = silu(min(gate x, limit)) clamp(up x), w = the expert's weight
 *
 * In a file (imatrix_file.h) an entry bears the name of its GGUF tensor, and its values are normalised expert by
 * expert: value / calls is the mean square over the expert's own tokens, whatever their number; calls is the
 * number of tokens read.  An expert that was never chosen has zeros.  Beside each entry stands one more, NAME.counts
 * with [E] numbers of tokens: with it files are added exactly and coverage can be told.  Programs that look tensors
 * up by name do not notice it.
 * Thread: one thread drives a collector; it uses several inside. */
#ifndef DS4_WORKSHOP_IMATRIX_H
#define DS4_WORKSHOP_IMATRIX_H

#include "model/forward.h"
#include "workshop/imatrix_file.h"

struct imatrix_collector;

/* down_every: only rows at positions divisible by it enter the down columns, which cost as much as running the
 * experts once more; 1 = all.  Shape and weights are borrowed. */
enum status imatrix_open(struct imatrix_collector **out, const struct shape *s, const struct weights *w, int threads,
			 int32_t down_every, struct err *err);
void imatrix_close(struct imatrix_collector *c);

/* The observer to hang into the forward pass (forward_tap). */
struct tap imatrix_tap(struct imatrix_collector *c);

/* Rows at lower positions pass uncounted: what was counted before an interruption is only read again. */
void imatrix_skip_below(struct imatrix_collector *c, int32_t pos);

/* The first failure inside the observer (no memory); ask after each step. */
enum status imatrix_check(const struct imatrix_collector *c, struct err *err);

/* Writes what was collected as entries; chunks and dataset are the caller's.  On failure *out is empty. */
enum status imatrix_export(const struct imatrix_collector *c, struct imatrix *out, struct err *err);

/* Adds the entries of an earlier export.  ERR_FORMAT: a missing entry or another number of values. */
enum status imatrix_import(struct imatrix_collector *c, const struct imatrix *m, struct err *err);

/* Adds two files: sums weighted by the tokens of each expert.  Entries without counts on either side are added as
 * plain sums over calls; counts on one side only are refused (ERR_FORMAT). */
enum status imatrix_combine(struct imatrix *into, const struct imatrix *from, struct err *err);

/* How often the experts of one entry were chosen. */
struct imatrix_coverage {
	int32_t experts, unseen;
	int64_t min, median, max, tokens;	/* tokens: the sum */
};

/* False: the entry has no counts. */
bool imatrix_coverage(const struct imatrix *m, const char *name, struct imatrix_coverage *out);
const struct imatrix_entry *imatrix_counts(const struct imatrix *m, const char *name);	/* NULL: none */

#endif
