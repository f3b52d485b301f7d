/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one call of the API needs of another's file.
 */
#ifndef CDEDUPE_CALLS_CALLS_H
#define CDEDUPE_CALLS_CALLS_H

#include "state/bounds.h"
#include "state/item.h"
#include "state/queue.h"
#include "state/scope.h"

/*
 * options.c: copies the members that the caller knows, and sets the others to their defaults.
 * Returns NULL, or a text that names the wrong option.
 */
const char *options_read(const cdedupe_options_t *given, cdedupe_options_t *options);

/*
 * life.c, unlocked, at the end of a call that may have removed keys: the index gives memory back.
 */
void tidy_index(struct cdedupe *buffer);

/*
 * status.c: a restart or an overflow drops everything that is pending, and makes live keys unseen.
 */
void drop_everything(struct lock_scope *scope);

/* collect.c: clears one dropped link; `slot` gets its payload, or zero. False: nothing is left. */
bool clear_one(struct lock_scope *scope, cdedupe_slot_t *slot);

/* collect.c: a restart moves the links of the queue to the dropped list. */
void dropped_add_queue(struct lock_scope *scope);

/*
 * collect.c: removes a stale entry's link from the dropped list; the caller has changed its word.
 */
void dropped_remove(struct lock_scope *scope, uint32_t link);

/* collect.c: keeps a payload that lost its entry, if there is one. There is room for a link. */
void detached_add(struct lock_scope *scope, cdedupe_slot_t slot);

#endif
