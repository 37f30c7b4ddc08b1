// SPDX-License-Identifier: GPL-2.0-only
/*
 * churn MIB WORKERS TOUCHES SEED
 *
 * WORKERS processes hold MIB MiB together and touch random pages, half of the time to rewrite
 * them with contents of another compressibility, half to read and check them. Run it in a
 * cgroup with less memory than that. Exit 1 if a page came back with other contents.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static uint64_t state;

static uint64_t draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* How many bytes of a page do not compress: a few tiny, most around 1500, some anything. */
static size_t incompressible(void)
{
	switch (draw() % 5) {
	case 0:
		return draw() % 400;
	case 1:
		return draw() % PAGE;
	default:
		return (draw() % 1000 + draw() % 1000 + draw() % 1000);
	}
}

/* A page is its version, a run of random words made from it, and a repeated word. */
static void fill(uint64_t *page, uint64_t version)
{
	size_t i, words = incompressible() / 8;
	uint64_t word = version * 0x9e3779b97f4a7c15u | 1;

	page[0] = version;
	page[1] = words;
	for (i = 2; i < PAGE / 8; i++) {
		if (i < words + 2) {
			word ^= word << 13;
			word ^= word >> 7;
			word ^= word << 17;
		}
		page[i] = word;
	}
}

static int damaged(const uint64_t *page, uint64_t version)
{
	size_t i;
	uint64_t word = version * 0x9e3779b97f4a7c15u | 1;

	if (page[0] != version)
		return 1;
	for (i = 2; i < PAGE / 8; i++) {
		if (i < page[1] + 2) {
			word ^= word << 13;
			word ^= word >> 7;
			word ^= word << 17;
		}
		if (page[i] != word)
			return 1;
	}
	return 0;
}

static int work(size_t pages, size_t touches, uint64_t seed)
{
	size_t i, n;
	uint64_t *data = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *versions = calloc(pages, sizeof(*versions));

	if (data == MAP_FAILED || !versions) {
		perror("churn");
		return 1;
	}
	state = seed * 2654435761u + 88172645463325252u;
	for (i = 0; i < pages; i++)
		fill(data + i * (PAGE / 8), versions[i] = draw());
	for (n = 0; n < touches; n++) {
		i = draw() % pages;
		if (draw() & 1) {
			fill(data + i * (PAGE / 8), versions[i] = draw());
		} else if (damaged(data + i * (PAGE / 8), versions[i])) {
			fprintf(stderr, "churn: page %zu came back with other contents\n", i);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	size_t pages, workers, touches, i;
	int status, failed = 0;

	if (argc != 5) {
		fprintf(stderr, "usage: churn MIB WORKERS TOUCHES SEED\n");
		return 2;
	}
	pages = strtoul(argv[1], NULL, 0) * 256;
	workers = strtoul(argv[2], NULL, 0);
	touches = strtoul(argv[3], NULL, 0);
	for (i = 0; i < workers; i++) {
		pid_t child = fork();

		if (child < 0) {
			perror("churn: fork");
			return 1;
		}
		if (!child)
			_exit(work(pages / workers, touches / workers,
				   strtoul(argv[4], NULL, 0) + i));
	}
	for (i = 0; i < workers; i++) {
		wait(&status);
		failed |= !WIFEXITED(status) || WEXITSTATUS(status);
	}
	return failed;
}
