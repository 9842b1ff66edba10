/* load.cuh - weights from the mapped file to device memory. */
#ifndef DS4_CUDA_LOAD_CUH
#define DS4_CUDA_LOAD_CUH

#include <unordered_map>
#include <vector>

#include "cuda_int.cuh"

struct loaded {		/* tensors that share bytes in the file share them here */
	size_t bytes;
	struct dw d;
};

struct loader {
	cudaStream_t stream;
	std::unordered_multimap<const void *, loaded> known;
	std::vector<uint8_t *> memory;
	size_t bytes;			/* on the device */
	uint8_t *pinned[2], *raw[2];	/* double buffers, made for the first big weight */
	cudaEvent_t free_again[2];
	int turn;
};

/* Fills d; ERR_FORMAT: no kernel reads the type or its rows are misaligned, ERR_MEMORY: it does not fit. */
enum status load_weight(struct loader *l, struct dw *d, const struct weight *w, struct err *err);
void loader_close(struct loader *l);

#endif
