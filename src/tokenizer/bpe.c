/* bpe.c - byte-pair merges: from the bytes of a piece to the fewest tokens the merge list allows.
 *
 * What  Each pair of neighbours may have a rank in the merge list; the lowest rank is joined first, the
 *       leftmost of equals, again and again.
 * Why   A piece can be as long as the text (a line of base64, of blanks, of Chinese), so the obvious loop
 *       (find the best pair, join, repeat) would be quadratic on outside input.
 * How   Short pieces do run the obvious loop, on the stack.  Long ones keep symbols in a doubly linked list and
 *       pairs in a binary heap of (rank, position) packed in 64 bits, which is the order wanted.
 *       A heap entry is current when the symbol at its position still carries that rank.
 * Careful
 *       - A merge's result is found by text: ids need not follow ranks in other vocabularies.
 *       - An absorbed symbol carries NO_RANK, so its old heap entries die by themselves.
 *       - Two entries may be equal; when the first was taken and the second is current again, it is right.
 * Source: docs/tokenizer.md. */
#include "tokenizer/bpe_int.h"

#include <string.h>

#include "base/mem.h"

#define NO_RANK UINT32_MAX
#define NIL UINT32_MAX		/* no neighbour */
#define SHORT_PIECE 48		/* bytes; above, the heap wins */

#define RANK_BITS 24
#define RANK_MASK ((1u << RANK_BITS) - 1)
#define EMPTY UINT64_MAX

static uint64_t pair_key(int32_t left, int32_t right)
{
	return (uint64_t)left << 20 | (uint64_t)right;
}

/* Slot of the pair, or the empty one where it would go. */
static uint64_t probe(const struct bpe *b, uint64_t key)
{
	uint64_t at = (key * 0x9E3779B97F4A7C15u) >> 32 & b->slot_mask;

	while (b->slot[at] != EMPTY && b->slot[at] >> RANK_BITS != key)
		at = (at + 1) & b->slot_mask;
	return at;
}

static uint32_t rank_of(const struct bpe *b, int32_t left, int32_t right)
{
	uint64_t s = b->slot[probe(b, pair_key(left, right))];

	return s == EMPTY ? NO_RANK : (uint32_t)s & RANK_MASK;
}

/* One line of the merge list being read. */
struct merge_line {
	const struct gguf *g;
	uint32_t rank;
	struct gguf_string s;
};

static enum status bad_merge(const struct merge_line *m, struct err *err, const char *why)
{
	char shown[VOCAB_SHOWN];

	return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.merges[%u] \"%s\": %s", m->g->path, m->rank,
		       vocab_show(m->s.p, m->s.n, shown), why);
}

/* Finds the tokens of "left right"; scratch has room for twice the longest token. */
static enum status read_merge(const struct merge_line *m, const struct vocab *v, char *scratch, int32_t id[3],
			      struct err *err)
{
	const char *space = memchr(m->s.p, ' ', m->s.n);
	size_t n_left, n_right, at;

	if (!space)
		return bad_merge(m, err, "expected two parts with one space between, found no space");
	at = (size_t)(space - m->s.p);
	if (!vocab_decode(m->s.p, at, scratch, v->longest, &n_left) || !n_left)
		return bad_merge(m, err, "the left part is no token");
	if (!vocab_decode(space + 1, m->s.n - at - 1, scratch + n_left, v->longest, &n_right) || !n_right)
		return bad_merge(m, err, "the right part is no token");
	id[0] = vocab_find(v, scratch, n_left);
	id[1] = vocab_find(v, scratch + n_left, n_right);
	id[2] = vocab_find(v, scratch, n_left + n_right);
	if (id[0] < 0 || id[1] < 0)
		return bad_merge(m, err, id[0] < 0 ? "the left part is no token" : "the right part is no token");
	if (id[2] < 0)
		return bad_merge(m, err, "the parts together are no token");
	return OK;
}

static enum status read_merges(struct bpe *b, struct vocab *v, const struct gguf_kv *kv, char *scratch,
			       const struct gguf *g, struct err *err)
{
	const uint8_t *cursor = kv->value;
	struct merge_line m = {.g = g};

	for (; m.rank < b->n; m.rank++) {
		int32_t id[3] = {-1, -1, -1};
		uint64_t key, at;

		m.s = gguf_next_string(&cursor);
		TRY(read_merge(&m, v, scratch, id, err));
		key = pair_key(id[0], id[1]);
		at = probe(b, key);
		if (b->slot[at] != EMPTY)
			return bad_merge(&m, err, "the same pair is in the list before");
		b->slot[at] = key << RANK_BITS | m.rank;
		b->made[m.rank] = id[2];
		v->added[id[2]] = false;
	}
	return OK;
}

/* Every part of a merge must itself be reachable from bytes. */
static enum status check_parts(const struct bpe *b, const struct vocab *v, const struct gguf *g, struct err *err)
{
	for (uint64_t i = 0; i <= b->slot_mask; i++) {
		uint64_t key = b->slot[i] >> RANK_BITS;
		int32_t left = (int32_t)(key >> 20), right = (int32_t)(key & 0xFFFFF);

		if (b->slot[i] != EMPTY && (v->added[left] || v->added[right]))
			return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.merges[%u]: expected parts that are bytes or made "
				       "by merges, token %d is neither", g->path, (uint32_t)b->slot[i] & RANK_MASK,
				       v->added[left] ? left : right);
	}
	return OK;
}

enum status bpe_init(struct bpe *b, struct vocab *v, const struct gguf *g, struct err *err)
{
	const struct gguf_kv *kv;
	uint64_t slots = 4;
	char *scratch;
	enum status st;

	*b = (struct bpe){0};
	TRY(vocab_strings(g, "tokenizer.ggml.merges", &kv, err));
	if (kv->count > BPE_MERGES_MAX)
		return err_set(err, ERR_FORMAT, "%s: tokenizer.ggml.merges: expected at most %u merges, file has %llu",
			       g->path, BPE_MERGES_MAX, (unsigned long long)kv->count);
	while (slots < 2 * kv->count)
		slots *= 2;
	b->n = (uint32_t)kv->count;
	b->slot_mask = slots - 1;
	b->slot = mem_array(slots, sizeof *b->slot);
	b->made = mem_array(kv->count, sizeof *b->made);
	scratch = mem_array(v->longest, 2);
	if (!b->slot || !b->made || !scratch) {
		st = err_set(err, ERR_MEMORY, "%s: no memory for %u merges", g->path, b->n);
	} else {
		memset(b->slot, 0xFF, slots * sizeof *b->slot);
		st = read_merges(b, v, kv, scratch, g, err);
	}
	mem_free(scratch);
	return st == OK ? check_parts(b, v, g, err) : st;
}

void bpe_clear(struct bpe *b)
{
	mem_free(b->slot);
	mem_free(b->made);
	*b = (struct bpe){0};
}

static void encode_short(const struct bpe *b, const struct vocab *v, const char *p, size_t n, struct token_list *out)
{
	int32_t id[SHORT_PIECE];
	uint32_t rank[SHORT_PIECE];	/* of the pair (i, i + 1); the last symbol has NO_RANK */

	for (size_t i = 0; i < n; i++)
		id[i] = v->byte_id[(unsigned char)p[i]];
	for (size_t i = 0; i + 1 < n; i++)
		rank[i] = rank_of(b, id[i], id[i + 1]);
	rank[n - 1] = NO_RANK;
	for (;;) {
		size_t best = 0;

		for (size_t i = 1; i < n; i++)
			if (rank[i] < rank[best])
				best = i;
		if (rank[best] == NO_RANK)
			break;
		id[best] = b->made[rank[best]];
		n--;
		memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
		memmove(rank + best, rank + best + 1, (n - best) * sizeof *rank);
		if (best + 1 < n)
			rank[best] = rank_of(b, id[best], id[best + 1]);
		if (best)
			rank[best - 1] = rank_of(b, id[best - 1], id[best]);
	}
	token_append(out, id, n);
}

struct symbol {
	int32_t id;
	uint32_t prev, next;
	uint32_t rank;		/* of the pair with next, or NO_RANK */
};

struct long_piece {
	struct symbol *sym;	/* [n] */
	uint64_t *heap;		/* rank << 32 | position; at most 2 n entries: a merge takes one and adds two */
	size_t n_heap;
};

static void sift_down(uint64_t *heap, size_t n, size_t at)
{
	uint64_t x = heap[at];

	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= n)
			break;
		if (child + 1 < n && heap[child + 1] < heap[child])
			child++;
		if (heap[child] >= x)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = x;
}

static void heap_push(struct long_piece *l, uint64_t x)
{
	size_t at = l->n_heap++;

	for (; at && l->heap[(at - 1) / 2] > x; at = (at - 1) / 2)
		l->heap[at] = l->heap[(at - 1) / 2];
	l->heap[at] = x;
}

static uint64_t heap_pop(struct long_piece *l)
{
	uint64_t top = l->heap[0];

	l->heap[0] = l->heap[--l->n_heap];
	if (l->n_heap)
		sift_down(l->heap, l->n_heap, 0);
	return top;
}

/* Looks up the pair that begins at symbol i; true when it can be merged. */
static bool rank_pair(const struct bpe *b, struct long_piece *l, uint32_t i)
{
	struct symbol *s = &l->sym[i];

	s->rank = s->next == NIL ? NO_RANK : rank_of(b, s->id, l->sym[s->next].id);
	return s->rank != NO_RANK;
}

static uint64_t entry(const struct long_piece *l, uint32_t i)
{
	return (uint64_t)l->sym[i].rank << 32 | i;
}

static void start_long(struct long_piece *l, const struct bpe *b, const struct vocab *v, const char *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		l->sym[i] = (struct symbol){v->byte_id[(unsigned char)p[i]], i ? i - 1 : NIL, i + 1 < n ? i + 1 : NIL, 0};
	for (uint32_t i = 0; i < n; i++)
		if (rank_pair(b, l, i))
			l->heap[l->n_heap++] = entry(l, i);
	for (size_t i = l->n_heap / 2; i-- > 0;)
		sift_down(l->heap, l->n_heap, i);
}

/* Joins symbol i with its right neighbour and ranks the two pairs this makes. */
static void join(const struct bpe *b, struct long_piece *l, uint32_t i)
{
	struct symbol *s = &l->sym[i], *gone = &l->sym[s->next];

	s->id = b->made[s->rank];
	s->next = gone->next;
	gone->rank = NO_RANK;
	if (s->next != NIL)
		l->sym[s->next].prev = i;
	if (rank_pair(b, l, i))
		heap_push(l, entry(l, i));
	if (s->prev != NIL && rank_pair(b, l, s->prev))
		heap_push(l, entry(l, s->prev));
}

static void encode_long(const struct bpe *b, const struct vocab *v, const char *p, size_t n, struct token_list *out)
{
	struct long_piece l = {0};

	if (n < NIL) {		/* positions are 32 bits: a longer piece counts as out of memory */
		l.sym = mem_grow(NULL, n, sizeof *l.sym);
		l.heap = mem_grow(NULL, n, 2 * sizeof *l.heap);
	}
	if (!l.sym || !l.heap) {
		out->failed = true;
	} else {
		start_long(&l, b, v, p, (uint32_t)n);
		while (l.n_heap) {
			uint64_t top = heap_pop(&l);

			if (l.sym[(uint32_t)top].rank == top >> 32)
				join(b, &l, (uint32_t)top);
		}
		for (uint32_t i = 0; i != NIL; i = l.sym[i].next)
			token_push(out, l.sym[i].id);
	}
	mem_free(l.sym);
	mem_free(l.heap);
}

void bpe_encode(const struct bpe *b, const struct vocab *v, const char *p, size_t n, struct token_list *out)
{
	if (n <= SHORT_PIECE)
		encode_short(b, v, p, n, out);
	else
		encode_long(b, v, p, n, out);
}
