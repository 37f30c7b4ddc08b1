// SPDX-License-Identifier: GPL-2.0-only
/*
 * Swap out exactly 23 pages, read them back, exit: a workload whose trace is known beforehand.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 23
#define PAGE 4096

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static size_t swapped(char *pages)
{
	uint64_t entries[PAGES];
	size_t i, count = 0;
	FILE *pagemap = fopen("/proc/self/pagemap", "rb");

	if (!pagemap || fseek(pagemap, (long)((uintptr_t)pages / PAGE * 8), SEEK_SET) ||
	    fread(entries, 8, PAGES, pagemap) != PAGES) {
		perror("known23: pagemap");
		exit(1);
	}
	fclose(pagemap);
	for (i = 0; i < PAGES; i++)
		count += entries[i] >> 62 & 1;
	return count;
}

int main(void)
{
	size_t i, j;
	char *pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED) {
		perror("known23: mmap");
		return 1;
	}
	/*
	 * Page i starts with 100 * i bytes that do not compress, so all sizes differ. Another last
	 * byte: of a page of one word zram would keep the word and allocate nothing.
	 */
	srand(23);
	for (i = 0; i < PAGES; i++) {
		memset(pages + i * PAGE, 'a' + (int)i, PAGE);
		for (j = 0; j < 100 * i; j++)
			pages[i * PAGE + j] = (char)rand();
		pages[i * PAGE + PAGE - 1] = 1;
	}
	if (madvise(pages, PAGES * PAGE, MADV_PAGEOUT)) {
		perror("known23: madvise");
		return 1;
	}
	printf("known23: %zu of %d pages are swapped out\n", swapped(pages), PAGES);
	fflush(stdout);
	for (i = j = 0; i < PAGES; i++)
		j += (unsigned char)pages[i * PAGE];
	printf("known23: read back, sum %zu\n", j);
	return 0;
}
