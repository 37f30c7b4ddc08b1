// SPDX-License-Identifier: GPL-2.0-only
/*
 * tides ROUNDS PAGES SEED
 *
 * Let swap fill and drain again: in each round all pages are written and swapped out, a tenth of
 * them read back, and then three of four given up. A pool with a limit below PAGES becomes full in
 * each round, and accepts again in the next.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include "pages.h"

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
			fill(pages + i * PAGE, 8);
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
