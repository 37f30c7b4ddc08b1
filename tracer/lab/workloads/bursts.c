// SPDX-License-Identifier: GPL-2.0-only
/*
 * bursts ROUNDS BATCH SEED [SHRINK]
 *
 * Swap out batches of pages and drop them again in random order, so that few objects are live
 * and an allocator's blocks keep becoming empty: the oldest, the newest and those between.
 * Every SHRINK rounds (0: never) the kernel is asked to shrink its caches, as when memory is
 * short; that is when zsmalloc compacts.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include "pages.h"

#define PAGES 1024

static int shrink_caches(void)
{
	FILE *file = fopen("/proc/sys/vm/drop_caches", "w");

	return !file || fputs("2", file) < 0 || fclose(file) ? -1 : 0;
}

int main(int argc, char **argv)
{
	unsigned long round, rounds, batch, shrink, i;
	char in_use[PAGES] = { 0 };
	char *pages;

	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: bursts ROUNDS BATCH SEED [SHRINK]\n");
		return 2;
	}
	rounds = strtoul(argv[1], NULL, 0);
	batch = strtoul(argv[2], NULL, 0);
	state = strtoul(argv[3], NULL, 0) * 2654435761u + 88172645463325252u;
	shrink = argc == 5 ? strtoul(argv[4], NULL, 0) : 0;
	pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED) {
		perror("bursts: mmap");
		return 1;
	}
	for (round = 0; round < rounds; round++) {
		/* How many pages live on differs from round to round, down to none. */
		unsigned long keep = draw() % 4 ? draw() % PAGES : 0, live = 0;

		for (i = 0; i < 1 + draw() % batch; i++) {
			char *page = pages + draw() % PAGES * PAGE;

			fill(page, 1);
			if (madvise(page, PAGE, MADV_PAGEOUT)) {
				perror("bursts: madvise");
				return 1;
			}
			in_use[(page - pages) / PAGE] = 1;
		}
		for (i = 0; i < PAGES; i++)
			live += in_use[i];
		while (live > keep) {
			i = draw() % PAGES;
			if (!in_use[i])
				continue;
			madvise(pages + i * PAGE, PAGE, MADV_DONTNEED);
			in_use[i] = 0;
			live--;
		}
		if (shrink && round % shrink == shrink - 1 && shrink_caches()) {
			perror("bursts: drop_caches");
			return 1;
		}
	}
	return 0;
}
