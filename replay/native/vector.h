/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory of the checker: arrays that grow, maps, byte strings that were met. Where none is left, a
 * long jump leads back to the call from outside: all that was allocated belongs to what was called,
 * which is not used any more.
 */
#ifndef ZTRACE_VECTOR_H
#define ZTRACE_VECTOR_H

#include "core.h"

#include <setjmp.h>

struct zv_escape {
	jmp_buf jump;
	int code; /* why it was taken; 0 before */
};

_Noreturn void zv_give_up(struct zv_escape *escape, int code);

#define VECTOR(type)                                                                               \
	struct {                                                                                   \
		type *at;                                                                          \
		size_t len, cap;                                                                   \
	}

void *zv_grown(struct zv_escape *escape, void *at, size_t *cap, size_t need, size_t bytes);

/* Room for ``n`` more; a new last element. */
#define ROOM(escape, v, n)                                                                         \
	((v).cap - (v).len >= (size_t)(n)                                                          \
		 ? (void)0                                                                         \
		 : (void)((v).at = zv_grown(escape, (v).at, &(v).cap, (v).len + (n),               \
					    sizeof(*(v).at))))
#define PUSH(escape, v) (ROOM(escape, v, 1), &(v).at[(v).len++])

typedef VECTOR(uint8_t) zv_bytes;

void zv_add(struct zv_escape *escape, zv_bytes *to, const void *bytes, size_t len);

void zv_put_key(struct zv_escape *escape, struct zc_map *map, uint64_t key, uint64_t value);
/* Empty a map; one that has grown gives its memory back. */
void zv_empty(struct zv_escape *escape, struct zc_map *map);

/*
 * 128 bits for a set of pairs, to which one is added and from which it is taken alike. That two sets
 * of all that a search ever meets have the same is less likely than a fault of the memory.
 */
struct zv_hash {
	uint64_t words[2];
};

static inline uint64_t zv_mixed(uint64_t word)
{
	word = (word ^ word >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	word = (word ^ word >> 27) * UINT64_C(0x94D049BB133111EB);
	return word ^ word >> 31;
}

static inline void zv_hash_toggle(struct zv_hash *hash, uint64_t one, uint64_t other)
{
	uint64_t first = zv_mixed(one + UINT64_C(0x9E3779B97F4A7C15));
	hash->words[0] ^= zv_mixed(first ^ other);
	hash->words[1] ^= zv_mixed(first + zv_mixed(other + UINT64_C(0xD1B54A32D192ED03)));
}

/* Byte strings that were met; found by their hash. */
struct zv_entry {
	uint64_t at, next;
	uint32_t len;
};

struct zv_met {
	struct zc_map map;
	VECTOR(struct zv_entry) entries;
	zv_bytes bytes;
};

void zv_forget(struct zv_escape *escape, struct zv_met *met);
/* Whether these bytes were met before; from now on they were. */
bool zv_was_met(struct zv_escape *escape, struct zv_met *met, const zv_bytes *bytes);

#endif
