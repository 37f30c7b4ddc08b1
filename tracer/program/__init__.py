# SPDX-License-Identifier: GPL-2.0-only
"""Calls played into real allocators: inside a kernel that is built as a program, or in this one.

A history of calls goes in as arrays, what the allocator answered and how long each call took comes
out as arrays. Nothing here knows a model of an allocator.
"""
