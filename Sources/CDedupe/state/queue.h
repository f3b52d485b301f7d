/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue's links: what all calls that change the queue share. Everything happens under the lock.
 */
#ifndef CDEDUPE_STATE_QUEUE_H
#define CDEDUPE_STATE_QUEUE_H

#include "state/scope.h"

/* Whether there is a free link. If not, the reserve wants memory. */
static inline bool
link_make_room(struct lock_scope *scope)
{
    return arena_make_room(&scope->buffer->links, 0, &scope->reserve);
}

/* A new link, in no list, queued at the scope's time. There is room. */
uint32_t link_new(struct lock_scope *scope, uint32_t item);
void link_free(struct lock_scope *scope, uint32_t link);

/* Puts an update's link at the back of the queue. */
void queue_entry(struct lock_scope *scope, uint32_t link);

/* Puts a status at the back of the queue. There is room for the link. */
void queue_status(struct lock_scope *scope, uint8_t status);

/*
 * Takes a link out of the queue and frees it. Of two statuses that become neighbours, the earlier
 * goes.
 */
void unqueue(struct lock_scope *scope, uint32_t link);

/* The same, except that the link is not freed and still counts as pending: it comes back. */
void unlink_queued(struct lock_scope *scope, uint32_t link);

/* Counts an update whose link is in the queue. */
void count_pending(struct cdedupe *buffer);

#endif
