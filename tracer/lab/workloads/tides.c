// SPDX-License-Identifier: GPL-2.0-only
/*
 * tides ROUNDS PAGES SEED
 *
 * Let swap fill and drain again: in each round all pages are written and swapped out, a tenth of
 * them read back, and then three of four given up. A pool with a limit below PAGES becomes full in
 * each round, and accepts again in the next.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

/* A page with a random part that does not compress. */
static void fill(char *page)
{
	size_t i, random = draw() % 3800;

	memset(page, (int)(draw() % 256), PAGE);
	for (i = 0; i < random; i += 8)
		*(uint64_t *)(page + i) = draw();
}

int main(int argc, char **argv)
{
	unsigned long round, rounds, count, i;
	unsigned int sum = 0;
	char *pages;

	if (argc != 4) {
		fprintf(stderr, "usage: tides ROUNDS PAGES SEED\n");
		return 2;
	}
	rounds = strtoul(argv[1], NULL, 0);
	count = strtoul(argv[2], NULL, 0);
	state = strtoul(argv[3], NULL, 0) * 2654435761u + 88172645463325252u;
	pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED) {
		perror("tides: mmap");
		return 1;
	}
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < count; i++) {
			fill(pages + i * PAGE);
			if (madvise(pages + i * PAGE, PAGE, MADV_PAGEOUT)) {
				perror("tides: madvise");
				return 1;
			}
		}
		for (i = 0; i < count / 10; i++)
			sum += (unsigned char)pages[draw() % count * PAGE];
		for (i = 0; i < count; i++)
			if (draw() % 4)
				madvise(pages + i * PAGE, PAGE, MADV_DONTNEED);
	}
	return sum == 1; /* so that the reads are made */
}
