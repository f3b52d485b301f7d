/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The yardstick: Calico's dedupebuffer, ported to C in the plain way, which is what one would write
 * by hand.
 *
 *   one mutex, held for all of a call
 *   a hash map from key to the pending update's node, which is also a node of the queue
 *   the queue, a doubly linked list of updates and statuses
 *   two sets of keys: those that are live, and those not seen since the reconnection
 *
 * Map and sets are uthash: the hash map that C programs use most, kept since 2003, one header. It
 * is given XXH3 instead of its own hash function, so that both sides hash alike; each update is
 * hashed once, inside the lock, as the original does. Keys are stored in the nodes; payloads are
 * values and are moved.
 *
 * It does what the original does, with the original's known faults repaired.
 */
#ifndef YARDSTICK_H
#define YARDSTICK_H

#include "subject.h"

struct plain;
struct plain_node;

struct plain_update {
    const void *key;
    size_t key_length;
    struct payload payload;
    bool deletion;
};

struct plain_item {
    const void *key; /* Valid until the next take. */
    size_t key_length;
    struct payload payload;
    int kind;
    int status;
};

struct plain *plain_create(void);
void plain_destroy(struct plain *plain);

void plain_put(struct plain *plain, const struct plain_update *updates, size_t count);
void plain_put_status(struct plain *plain, int status);
void plain_restart(struct plain *plain);

/*
 * Takes up to `capacity` entries; waits for one if `wait`. Returns how many: 0 if the queue is
 * empty, or the buffer was stopped. `batch` keeps the keys alive; it is NULL before the first take.
 */
size_t plain_take(struct plain *plain, struct plain_item *items, size_t capacity, bool wait,
                  struct plain_node **batch);

/* Frees a batch without taking another. */
void plain_release(struct plain_node **batch);

void plain_stop(struct plain *plain);

#endif
