/* SPDX-License-Identifier: GPL-2.0-only */
/* What workloads that swap out single pages share. Define _GNU_SOURCE before. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static uint64_t state;

static uint64_t draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* A page with a random part that does not compress, drawn STEP (1 to 8) bytes at a time. */
static void fill(char *page, size_t step)
{
	size_t i, random = draw() % 3800;

	memset(page, (int)(draw() % 256), PAGE);
	for (i = 0; i < random; i += step) {
		uint64_t value = draw();

		memcpy(page + i, &value, step);
	}
}
