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

/* A key that gets an entry. */
struct new_key {
    const void *bytes;
    size_t length;
    uint64_t hash;
};

/* entries.c: makes room for one more entry. False: the reserve wants memory. */
bool entry_make_room(struct lock_scope *scope, const struct new_key *key);

/*
 * entries.c: adds an entry for a key that the index does not have; entry_make_room() has returned
 * true. Returns zero if the map has no room for the key: then the reserve wants memory.
 */
uint32_t entry_add(struct lock_scope *scope, const struct new_key *key, uint64_t word);

/*
 * entries.c: the key is neither pending nor live any more; the caller has exchanged the entry's
 * word for zero. An entry with pins becomes vacant. Another leaves the index, and is retired when
 * the sink no longer reads its key.
 */
void entry_leave(struct lock_scope *scope, uint32_t number);

/* entries.c: keeps a dead entry until the next take, because the sink may be reading its key. */
void entry_keep_borrowed(struct cdedupe *buffer, uint32_t number);

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
