/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the compiler made of the interface's structures and codes. The bindings in Python compare
 * their own with it when the core is loaded, so a header is the only place that decides.
 */
#ifndef ZTRACE_LAYOUT_H
#define ZTRACE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* A structure "s", a field "s.f" of it, or a code; the last one's name is NULL. */
struct zc_layout {
	const char *name;
	int64_t at;     /* of a field: its offset; of a code: its value */
	uint64_t bytes; /* of a code: 0 */
};

#define ZC_CODE(c) {#c, c, 0}

/* ZC_LAYOUT(s, f, g): structure s and all of its fields, at most 24. */
#define ZC_LAYOUT(s, ...)                                                                          \
	{#s, 0, sizeof(struct s)}, ZC_FIELDS(ZC_COUNT(__VA_ARGS__), s, __VA_ARGS__)

#define ZC_FIELD(s, f) {#s "." #f, offsetof(struct s, f), sizeof(((struct s *)0)->f)}
#define ZC_FIELDS(n, s, ...) ZC_FIELDS_OF(n, s, __VA_ARGS__)
#define ZC_FIELDS_OF(n, s, ...) ZC_FIELDS_##n(s, __VA_ARGS__)
#define ZC_COUNT(...)                                                                              \
	ZC_COUNTED(__VA_ARGS__, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8,  \
		   7, 6, 5, 4, 3, 2, 1, 0)
#define ZC_COUNTED(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17,     \
		   _18, _19, _20, _21, _22, _23, _24, n, ...)                                      \
	n
#define ZC_FIELDS_1(s, f) ZC_FIELD(s, f)
#define ZC_FIELDS_2(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_1(s, __VA_ARGS__)
#define ZC_FIELDS_3(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_2(s, __VA_ARGS__)
#define ZC_FIELDS_4(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_3(s, __VA_ARGS__)
#define ZC_FIELDS_5(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_4(s, __VA_ARGS__)
#define ZC_FIELDS_6(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_5(s, __VA_ARGS__)
#define ZC_FIELDS_7(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_6(s, __VA_ARGS__)
#define ZC_FIELDS_8(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_7(s, __VA_ARGS__)
#define ZC_FIELDS_9(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_8(s, __VA_ARGS__)
#define ZC_FIELDS_10(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_9(s, __VA_ARGS__)
#define ZC_FIELDS_11(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_10(s, __VA_ARGS__)
#define ZC_FIELDS_12(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_11(s, __VA_ARGS__)
#define ZC_FIELDS_13(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_12(s, __VA_ARGS__)
#define ZC_FIELDS_14(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_13(s, __VA_ARGS__)
#define ZC_FIELDS_15(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_14(s, __VA_ARGS__)
#define ZC_FIELDS_16(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_15(s, __VA_ARGS__)
#define ZC_FIELDS_17(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_16(s, __VA_ARGS__)
#define ZC_FIELDS_18(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_17(s, __VA_ARGS__)
#define ZC_FIELDS_19(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_18(s, __VA_ARGS__)
#define ZC_FIELDS_20(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_19(s, __VA_ARGS__)
#define ZC_FIELDS_21(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_20(s, __VA_ARGS__)
#define ZC_FIELDS_22(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_21(s, __VA_ARGS__)
#define ZC_FIELDS_23(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_22(s, __VA_ARGS__)
#define ZC_FIELDS_24(s, f, ...) ZC_FIELD(s, f), ZC_FIELDS_23(s, __VA_ARGS__)

#endif
