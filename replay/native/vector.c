/* SPDX-License-Identifier: GPL-2.0-only */
#include "vector.h"

#include <stdlib.h>
#include <string.h>

void zv_give_up(struct zv_escape *escape, int code)
{
	escape->code = code;
	longjmp(escape->jump, 1);
}

void *zv_grown(struct zv_escape *escape, void *at, size_t *cap, size_t need, size_t bytes)
{
	size_t more = *cap < 8 ? 16 : 2 * *cap;
	if (more < need)
		more = need;
	void *moved = more <= SIZE_MAX / bytes ? realloc(at, more * bytes) : NULL;
	if (!moved)
		zv_give_up(escape, ZC_NO_MEMORY);
	*cap = more;
	return moved;
}

void zv_add(struct zv_escape *escape, zv_bytes *to, const void *bytes, size_t len)
{
	if (!len)
		return;
	ROOM(escape, *to, len);
	memcpy(to->at + to->len, bytes, len);
	to->len += len;
}

void zv_put_key(struct zv_escape *escape, struct zc_map *map, uint64_t key, uint64_t value)
{
	struct zc_slot *slot = zc_map_put(map, key);
	if (!slot)
		zv_give_up(escape, ZC_NO_MEMORY);
	slot->value = value;
}

void zv_empty(struct zv_escape *escape, struct zc_map *map)
{
	if (!map->len)
		return;
	if (map->mask < 1024) {
		zc_map_wipe(map);
		return;
	}
	zc_map_clear(map);
	if (zc_map_init(map))
		zv_give_up(escape, ZC_NO_MEMORY);
}

static uint64_t hash_of(const uint8_t *bytes, size_t len)
{
	uint64_t hash = len, word;
	for (size_t at = 0; at < len; at += 8) {
		word = 0;
		memcpy(&word, bytes + at, len - at < 8 ? len - at : 8);
		hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
		hash ^= hash >> 29;
	}
	return hash;
}

void zv_forget(struct zv_escape *escape, struct zv_met *met)
{
	zv_empty(escape, &met->map);
	met->entries.len = met->bytes.len = 0;
}

bool zv_was_met(struct zv_escape *escape, struct zv_met *met, const zv_bytes *bytes)
{
	uint64_t hash = hash_of(bytes->at, bytes->len), first = zc_map_get(&met->map, hash);
	for (uint64_t number = first; number; number = met->entries.at[number - 1].next) {
		const struct zv_entry *entry = &met->entries.at[number - 1];
		if (entry->len == bytes->len &&
		    !memcmp(met->bytes.at + entry->at, bytes->at, bytes->len))
			return true;
	}
	*PUSH(escape, met->entries) =
		(struct zv_entry){met->bytes.len, first, (uint32_t)bytes->len};
	zv_add(escape, &met->bytes, bytes->at, bytes->len);
	zv_put_key(escape, &met->map, hash, met->entries.len);
	return false;
}
