/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes for fuzzing. Built with CDEDUPE_TINY, whatever grows, splits, becomes sparse or goes on in steps does so with a
 * handful of keys, so that short sequences of calls get everywhere. Nobody else defines it.
 */
#ifndef CDEDUPE_TINY_H
#define CDEDUPE_TINY_H

#ifdef CDEDUPE_TINY
#define OR_TINY(usual, tiny) (tiny)
#else
#define OR_TINY(usual, tiny) (usual)
#endif

#endif
