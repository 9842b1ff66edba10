/* load.cu - weights from the mapped file to device memory, in the layout that the kernels read.
 *
 * What  load_weight() copies one tensor, splitting its blocks into planes (struct dw).
 * Why   A GGUF block of 34, 66 or 84 bytes cannot be read 16 bytes at a time; planes can.
 * How   Pieces of PIECE bytes: several host threads copy from the page cache into one of two pinned buffers, the device
 *       copies it over, a kernel moves its 16-bit units to their planes.  Small tensors take the direct way.
 *       Tensors that share bytes in the file (aliased test models) share them on the device.
 * Careful
 *       - A pinned buffer is filled again only when its copy has finished. */
#include "load.cuh"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <thread>

static const size_t PIECE = (size_t)64 << 20, SMALL = (size_t)1 << 20;

static const struct {
	const char *name;
	size_t elements, bytes;
} types[DTYPE_COUNT] = {
#define X(code, name, id, elements, bytes) {name, elements, bytes},
	DTYPE_MAP(X)
#undef X
};

static enum status say(struct err *err, enum status code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof err->msg, fmt, ap);
		va_end(ap);
	}
	return code;
}

/* Unit i (16 bits) of blocks first.. of Q8_0 and Q2_K goes to its place. */
static __global__ void split_kernel(struct dw d, const uint16_t *from, size_t first, size_t units)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	uint16_t *a = (uint16_t *)d.a, *b = (uint16_t *)d.b, *c = (uint16_t *)d.c;

	if (i >= units)
		return;
	if (d.type == DTYPE_Q8_0) {
		size_t n = first + i / 17, row = n / (d.in / 32);
		int o = (int)(i % 17), group = (int)(n % (d.in / 32));

		size_t at = block_at(row, d.stride / 64, group / 2);

		if (o)
			a[(at * 64 + place_of(group % 2 * 32 + 2 * (o - 1))) / 2] = from[i];
		else
			b[at * 2 + group % 2] = from[i];
	} else {
		size_t m = first + i / 42, n = block_at(m / (d.in / 256), d.in / 256, (int)(m % (d.in / 256)));
		int o = (int)(i % 42), q = 2 * (o - 8);

		if (o < 8) {	/* two sixteens of group o */
			((uint8_t *)b)[n * 16 + o] = (uint8_t)from[i];
			((uint8_t *)b)[n * 16 + 8 + o] = (uint8_t)(from[i] >> 8);
		} else if (o < 40) {
			a[(n * 64 + q % 32 / 8 * 16 + q / 32 * 8 + q % 8) / 2] = from[i];
		} else {
			c[n * 2 + o - 40] = from[i];
		}
	}
}

/* Two groups of a block of IQ2_XXS: the eighth sign of eight, left out in the file, is written down here. */
static __global__ void split_iq2_kernel(struct dw d, const uint16_t *from, size_t first, size_t pairs)
{
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	uint8_t *a = (uint8_t *)d.a, *b = (uint8_t *)d.b;
	int scales = 0;

	if (i >= pairs)
		return;
	size_t m = first + i / 4, n = block_at(m / (d.in / 256), d.in / 256, (int)(m % (d.in / 256)));

	from += i / 4 * 33;
	if (i % 4 == 0)
		((uint32_t *)b)[n * 2] = from[0];
	for (int j = 0; j < 2; j++) {
		int group = (int)(i % 4) * 2 + j;
		const uint16_t *u = from + 1 + 4 * group;
		uint32_t codes = u[0] | (uint32_t)u[1] << 16, bits = u[2] | (uint32_t)u[3] << 16;

		for (int t = 0; t < 4; t++) {
			uint32_t s = bits >> 7 * t & 127;

			a[n * 64 + t * 16 + group] = (uint8_t)(codes >> 8 * t);
			a[n * 64 + t * 16 + 8 + group] = (uint8_t)(s | (__popc(s) & 1) << 7);
		}
		scales |= (int)(bits >> 28) << 4 * j;
	}
	b[n * 8 + 4 + i % 4] = (uint8_t)scales;
}

static __global__ void widen_kernel(float *to, struct dw d, int n)
{
	int i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < n)
		to[i] = plain_at(d, i);
}

static void split(cudaStream_t stream, const struct dw *d, const uint8_t *from, size_t first, size_t bytes)
{
	if (d->type == DTYPE_IQ2_XXS)
		START(split_iq2_kernel, (unsigned)((bytes / 66 * 4 + 255) / 256), 256, 0, stream, *d, (const uint16_t *)from, first,
		      bytes / 66 * 4);
	else
		START(split_kernel, (unsigned)((bytes / 2 + 255) / 256), 256, 0, stream, *d, (const uint16_t *)from, first, bytes / 2);
}

static size_t aligned(size_t n)
{
	return (n + 255) / 256 * 256;
}

static bool splits(int type)
{
	return type == DTYPE_Q8_0 || type == DTYPE_IQ2_XXS || type == DTYPE_Q2_K;
}

/* Bytes of the planes of n blocks in `rows` rows. */
static void planes(int type, size_t n, size_t rows, size_t stride, size_t bytes, size_t out[3])
{
	out[0] = type == DTYPE_Q8_0 ? rows * stride : splits(type) ? n * 64 : bytes;
	out[1] = type == DTYPE_Q8_0 ? rows * stride / 16 : type == DTYPE_Q2_K ? n * 16 : type == DTYPE_IQ2_XXS ? n * 8 : 0;
	out[2] = type == DTYPE_Q2_K ? n * 4 : 0;
}

static bool buffers(struct loader *l)
{
	if (l->raw[1])
		return true;
	for (int i = 0; i < 2; i++)
		if (cudaMallocHost(&l->pinned[i], PIECE) != cudaSuccess || cudaMalloc(&l->raw[i], PIECE) != cudaSuccess ||
		    cudaEventCreateWithFlags(&l->free_again[i], cudaEventDisableTiming) != cudaSuccess) {
			cudaGetLastError();
			return false;
		}
	return true;
}

static void copy_threads(uint8_t *to, const uint8_t *from, size_t n)
{
	const size_t threads = n < 4 * SMALL ? 1 : std::min(8u, std::max(1u, std::thread::hardware_concurrency()));
	const size_t part = (n + threads - 1) / threads;
	std::vector<std::thread> workers;

	for (size_t i = 1; i < threads; i++)
		workers.emplace_back([=] {
			if (i * part < n)
				memcpy(to + i * part, from + i * part, std::min(part, n - i * part));
		});
	memcpy(to, from, std::min(part, n));
	for (auto &w : workers)
		w.join();
}

/* Sends bytes of a tensor: split (n blocks) or as they are. */
static cudaError_t send(struct loader *l, const struct dw *d, const uint8_t *from, size_t bytes, size_t block)
{
	const size_t piece = (bytes < SMALL ? SMALL : PIECE) / block * block;

	for (size_t at = 0; at < bytes; at += piece) {
		size_t n = std::min(piece, bytes - at);
		int i = l->turn ^= 1;
		const uint8_t *host = from + at;
		uint8_t *to = splits(d->type) ? l->raw[i] : (uint8_t *)d->a + at;

		cudaEventSynchronize(l->free_again[i]);
		copy_threads(l->pinned[i], host, n);
		cudaMemcpyAsync(to, l->pinned[i], n, cudaMemcpyHostToDevice, l->stream);
		if (splits(d->type))
			split(l->stream, d, l->raw[i], at / block, n);
		cudaEventRecord(l->free_again[i], l->stream);
	}
	return cudaGetLastError();
}

/* A few hundred kilobytes, without the pinned buffers. */
static cudaError_t send_small(struct loader *l, const struct dw *d, const uint8_t *from, size_t bytes)
{
	uint8_t *raw = NULL;
	cudaError_t st;

	if (!splits(d->type)) {
		cudaMemcpyAsync((void *)d->a, from, bytes, cudaMemcpyHostToDevice, l->stream);
		return cudaStreamSynchronize(l->stream);
	}
	st = cudaMalloc(&raw, bytes);
	if (st != cudaSuccess)
		return st;
	cudaMemcpyAsync(raw, from, bytes, cudaMemcpyHostToDevice, l->stream);
	split(l->stream, d, raw, 0, bytes);
	st = cudaStreamSynchronize(l->stream);
	cudaFree(raw);
	return st == cudaSuccess ? cudaGetLastError() : st;
}

enum status load_weight(struct loader *l, struct dw *d, const struct weight *w, struct err *err)
{
	size_t rows = (size_t)w->out * (size_t)w->n, bytes = rows * w->row_bytes, size[3], free_bytes = 0, total = 0;
	size_t block = types[w->type].bytes, n = bytes / block;
	uint8_t *p = NULL;
	cudaError_t st;

	auto range = l->known.equal_range(w->data);
	for (auto i = range.first; i != range.second; ++i)
		if (i->second.bytes == bytes && i->second.d.type == (int)w->type && i->second.d.in == w->in &&
		    i->second.d.out == w->out) {
			*d = i->second.d;
			return OK;
		}
	if (w->type != DTYPE_I32 && rows > 1 && w->in % 32)
		return say(err, ERR_FORMAT, "%s: the cuda kernels read rows of a multiple of 32 elements, it has %d", w->name, w->in);
	const size_t elements = (size_t)w->in * rows;
	const bool small = (w->type == DTYPE_F32 || w->type == DTYPE_F16 || w->type == DTYPE_BF16) && elements <= SMALL_WEIGHT;

	const size_t full = splits(w->type) ? (rows + 15) / 16 * 16 : rows;

	planes(w->type, w->type == DTYPE_Q8_0 ? n : full * (n / rows), full, (size_t)up256(w->in), bytes, size);
	st = cudaMalloc(&p, aligned(size[0]) + aligned(size[1]) + aligned(size[2]) + (small ? elements * 4 : 0) + 256);
	if (st != cudaSuccess) {
		cudaGetLastError();
		cudaMemGetInfo(&free_bytes, &total);
		return say(err, ERR_MEMORY, "%s: no device memory for %.1f MB: %.2f GB of weights are loaded, %.2f of %.2f GB are "
			   "free; the weights of this model do not fit on this device", w->name, bytes / 1e6, l->bytes / 1e9,
			   free_bytes / 1e9, total / 1e9);
	}
	l->memory.push_back(p);
	float *wide = small ? (float *)(p + aligned(size[0]) + aligned(size[1]) + aligned(size[2])) : NULL;

	*d = dw{p, p + aligned(size[0]), p + aligned(size[0]) + aligned(size[1]), wide, (int32_t)w->type, w->in, w->out, w->n, up256(w->in), 0};
	if (splits(w->type) && (w->in % 256 || rows % 16))
		cudaMemsetAsync(p, 0, aligned(size[0]) + aligned(size[1]) + size[2], l->stream);
	l->bytes += size[0] + size[1] + size[2];
	if (bytes < SMALL)
		st = send_small(l, d, (const uint8_t *)w->data, bytes);
	else if (!buffers(l))
		st = cudaErrorMemoryAllocation;
	else
		st = send(l, d, (const uint8_t *)w->data, bytes, block);
	if (st != cudaSuccess)
		return say(err, st == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE, "%s: copying to the device: %s", w->name,
			   cudaGetErrorString(st));
	if (small)
		START(widen_kernel, (unsigned)((elements + 255) / 256), 256, 0, l->stream, wide, *d, (int)elements);
	l->known.emplace(w->data, loaded{bytes, *d});
	return OK;
}

void loader_close(struct loader *l)
{
	cudaStreamSynchronize(l->stream);
	for (uint8_t *p : l->memory)
		cudaFree(p);
	for (int i = 0; i < 2; i++) {
		cudaFreeHost(l->pinned[i]);
		cudaFree(l->raw[i]);
		if (l->free_again[i])
			cudaEventDestroy(l->free_again[i]);
	}
}
