/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one thing that the core's target looks at inside a buffer: whether slots are lost. Nobody
 * misses them until the buffer has grown without bound.
 */
#ifndef INSIDE_H
#define INSIDE_H

#include "CDedupe.h"

/* Slots that were acquired and have not been discarded, whoever owns them. */
size_t slots_out(const cdedupe_t *buffer);

/* How much restarts and overflows left that is not cleared up. */
size_t dropped(const cdedupe_t *buffer);

cdedupe_t *core_of(cdedupe_bytes_t *buffer);

#endif /* INSIDE_H */
