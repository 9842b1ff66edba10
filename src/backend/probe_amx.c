/* probe_amx.c - the int8 product of AMX: tdpbssd, a tile of 16 by 16 sums over 64 values at once.
 *
 * How   Two tiles of rows by two of columns: four sums (tiles 0..3), two tiles of a (4, 5), two of b (6, 7).  Loads
 *       stand between products, so that the unit has work while they come.
 * Careful
 *       - Linux wants to be asked (ARCH_REQ_XCOMP_PERM) before the first tile instruction of a process.
 *       - The tile shapes are a thread's own state: enter() sets them on every thread. */
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/probe_int.h"

enum { TILE = 16, DEPTH = 64, ROWS = 2 * TILE, COLS = 2 * TILE };

#define REQUEST_PERMISSION 0x1023	/* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18			/* XFEATURE_XTILEDATA */

static int32_t b_at(int32_t k, int32_t col)
{
	return probe_quads(k, col, TILE);
}

static bool enter(void)
{
	struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t row_bytes[16];
		uint8_t rows[16];
	} config;

#ifdef __linux__
	if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0)
		return false;
#else
	return false;
#endif
	memset(&config, 0, sizeof config);
	config.palette = 1;
	for (int i = 0; i < 8; i++) {
		config.row_bytes[i] = 64;
		config.rows[i] = TILE;
	}
	__asm__ volatile("" : : "r"(&config) : "memory");	/* gcc 12 believes that only 8 bytes of it are read */
	_tile_loadconfig(&config);
	return true;
}

static void run(int32_t *c, const int8_t *a, const int8_t *b, int64_t times)
{
	const int8_t *b1 = b + PROBE_K * TILE;

	for (int64_t n = 0; n < times; n++) {
		_tile_zero(0);
		_tile_zero(1);
		_tile_zero(2);
		_tile_zero(3);
		for (int k = 0; k < PROBE_K; k += DEPTH) {
			_tile_loadd(6, b + k * TILE, 4 * TILE);
			_tile_loadd(4, a + k, PROBE_K);
			_tile_dpbssd(0, 4, 6);
			_tile_loadd(5, a + TILE * PROBE_K + k, PROBE_K);
			_tile_dpbssd(2, 5, 6);
			_tile_loadd(7, b1 + k * TILE, 4 * TILE);
			_tile_dpbssd(1, 4, 7);
			_tile_dpbssd(3, 5, 7);
		}
		_tile_stored(0, c, COLS * 4);
		_tile_stored(1, c + TILE, COLS * 4);
		_tile_stored(2, c + TILE * COLS, COLS * 4);
		_tile_stored(3, c + TILE * COLS + TILE, COLS * 4);
		__asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");	/* the next round is not this one */
	}
}

const struct probe_product probe_amx = {
	.name = "amx", .rows = ROWS, .cols = COLS, .b_at = b_at, .run = run, .enter = enter};
