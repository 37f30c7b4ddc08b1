/* SPDX-License-Identifier: GPL-2.0-only */
/* Where an object lies, by the functions of the zsmalloc that was just compiled with this. */

#ifdef __MM_ZPDESC_H__ /* since 6.14 pages of zsmalloc have a type of their own */
#define Z_PAGE struct zpdesc
#else
#define Z_PAGE struct page
#endif

/* The zspage's address above 16 bits of the slot's number in it, as the recorder has it. */
static u64 z_object_place(unsigned long handle)
{
	unsigned int slot;
	Z_PAGE *page;

	obj_to_location(handle_to_obj(handle), &page, &slot);
	return (u64)(unsigned long)get_zspage(page) << 16 | slot;
}

static int __init z_register(void)
{
	ztrace_register(&z_backend);
	return 0;
}
late_initcall(z_register);
