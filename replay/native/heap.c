/* SPDX-License-Identifier: GPL-2.0-only */
#include "heap.h"

#include <stdlib.h>

static uint64_t block_of(const struct zv_heap *heap, const struct zc_map *blocks, int64_t key)
{
	return zc_map_get(blocks, (uint64_t)(heap->sign * key));
}

static void push(struct zv_escape *escape, struct zv_heap *heap, int64_t key)
{
	(void)PUSH(escape, heap->keys);
	int64_t *keys = heap->keys.at;
	size_t at = heap->keys.len - 1;
	for (; at && keys[(at - 1) / 2] > key; at = (at - 1) / 2)
		keys[at] = keys[(at - 1) / 2];
	keys[at] = key;
}

static void pop(struct zv_heap *heap)
{
	int64_t *keys = heap->keys.at, key = keys[--heap->keys.len];
	size_t at = 0, len = heap->keys.len;
	for (size_t child; (child = 2 * at + 1) < len; at = child) {
		if (child + 1 < len && keys[child + 1] < keys[child])
			child++;
		if (keys[child] >= key)
			break;
		keys[at] = keys[child];
	}
	keys[at] = key;
}

static int compare(const void *a, const void *b)
{
	int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
	return (one > other) - (one < other);
}

/* Leave out what is not there, or twice. */
static void renew(struct zv_heap *heap, const struct zc_map *blocks)
{
	int64_t *keys = heap->keys.at;
	size_t kept = 0;
	qsort(keys, heap->keys.len, sizeof(*keys), compare);
	for (size_t i = 0; i < heap->keys.len; i++)
		if ((!kept || keys[kept - 1] != keys[i]) && block_of(heap, blocks, keys[i]))
			keys[kept++] = keys[i];
	heap->keys.len = kept; /* sorted, which is a heap too */
}

void zv_heap_note(struct zv_escape *escape, struct zv_heap *heap, const struct zc_map *blocks,
		  uint64_t index)
{
	push(escape, heap, heap->sign * (int64_t)index);
	if (heap->keys.len > 2 * blocks->len + 64)
		renew(heap, blocks);
}

uint64_t zv_heap_top(struct zv_heap *heap, const struct zc_map *blocks)
{
	while (heap->keys.len) {
		uint64_t block = block_of(heap, blocks, heap->keys.at[0]);
		if (block)
			return block;
		pop(heap);
	}
	return 0;
}
