/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small sizes for tests. Only test builds define CDEDUPE_TEST_SIZES: those for fuzzing, for the
 * search through interleavings, and for some mutants. In such a build a handful of keys is enough
 * to make a table grow, split or become sparse, and to make a call work in several steps. Short
 * sequences of calls then reach all of the code.
 */
#ifndef CDEDUPE_BASE_TEST_SIZES_H
#define CDEDUPE_BASE_TEST_SIZES_H

#ifdef CDEDUPE_TEST_SIZES
#define TEST_SIZED(usual, tiny) (tiny)
#else
#define TEST_SIZED(usual, tiny) (usual)
#endif

#endif
