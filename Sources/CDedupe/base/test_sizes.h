/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes for fuzzing. Built with CDEDUPE_TEST_SIZES, whatever grows, splits, becomes sparse or goes on in steps does so with a
 * handful of keys, so that short sequences of calls get everywhere. Nobody else defines it.
 */
#ifndef CDEDUPE_BASE_TEST_SIZES_H
#define CDEDUPE_BASE_TEST_SIZES_H

#ifdef CDEDUPE_TEST_SIZES
#define TEST_SIZED(usual, tiny) (tiny)
#else
#define TEST_SIZED(usual, tiny) (usual)
#endif

#endif
