/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where an object lies, without zsmalloc's own functions, on x86-64: the word that a handle points
 * to has the page's number above 24 bits, the page's private word is the zspage.
 */

/* Until 6.2 the lowest bit of the word is a tag. Two objects of a fresh page tell. */
static unsigned int z_tag_bits;

static unsigned long z_word(unsigned long handle)
{
	return READ_ONCE(*(unsigned long *)handle);
}

static u64 z_object_place(unsigned long handle)
{
	const unsigned long word = z_word(handle);
	const unsigned long slot = (word & ((1UL << 24) - 1)) >> z_tag_bits;

	return page_private(pfn_to_page(word >> 24)) << 16 | slot;
}

int ztrace_source_begin(void)
{
	void *pool = z_create();
	unsigned long first, second;

	if (IS_ERR_OR_NULL(pool))
		return -ENOMEM;
	if (!z_malloc(pool, 32, &first)) {
		if (!z_malloc(pool, 32, &second)) {
			z_tag_bits = (z_word(second) ^ z_word(first)) == 2;
			z_free(pool, second);
		}
		z_free(pool, first);
	}
	z_destroy(pool);
	ztrace_register(&z_backend);
	return 0;
}

void ztrace_source_end(void)
{
}
