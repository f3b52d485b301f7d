/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is measured, seen from the cases: a buffer of either kind, behind one set of functions.
 *
 * The indirection costs the same on both sides: one call through a pointer for each call of the
 * buffer.
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of a long and of a short key, and the most updates in a call and in a batch. */
#define KEY_SIZE ((size_t)96)
#define SHORT_KEY_SIZE ((size_t)16)
#define CALL ((size_t)100)

/* What one update carries. */
struct payload {
    uint64_t stamp;
    uint64_t words[3];
};

/* Keys of the same size, which lie end to end. */
struct keys {
    const char *bytes;
    const uint32_t *numbers; /* Which keys they are: zero to the number of keys. */
    size_t size, count;
};

/* Statuses and kinds have the same values on both sides: those of CDedupe.h. */
enum { STATUS_WAIT = 0, STATUS_RESYNC, STATUS_IN_SYNC };
enum { KIND_NEW = 0, KIND_UPDATED, KIND_DELETED, KIND_STATUS };

/* One item of a batch, as a sink sees it during its call. */
struct delivered {
    const char *key;
    size_t key_length;
    const struct payload *payload; /* NULL if there is none. */
    int kind;
    int status;
};

typedef void sink_fn(void *context, const struct delivered *item);

struct subject {
    void *(*create)(void);
    void (*destroy)(void *buffer);
    void (*stop)(void *buffer);

    /* One producing thread's own arrays. */
    void *(*producer_create)(void *buffer);
    void (*producer_destroy)(void *producer);

    /* Puts values, at most CALL. One value goes by the entry point for one, if there is one. */
    void (*put)(void *producer, struct keys keys, uint64_t stamp);
    /* Puts the deletion of the first key. */
    void (*delete_key)(void *producer, struct keys keys);
    void (*put_status)(void *buffer, int status);
    void (*restart)(void *buffer);

    /* The one consumer; `loop`: it waits when the queue is empty. */
    void *(*consumer_create)(void *buffer, bool loop);
    void (*consumer_destroy)(void *consumer);

    /*
     * Takes a batch and gives back what it carried. `each` gets every item; NULL is the sink that
     * does nothing. Returns how many items; 0 if the queue is empty, or, for a loop, if the buffer
     * was stopped.
     */
    size_t (*take)(void *consumer, sink_fn *each, void *context);

    /* Bytes that the buffer holds. */
    uint64_t (*memory)(void *buffer);
};

extern const struct subject ours;      /* CDedupe, on the level of handles. */
extern const struct subject our_bytes; /* CDedupe, on the level of bytes; takes one value a call. */
extern const struct subject ours_pinned; /* As `ours`, but values are put by pins. */
extern const struct subject yardstick;   /* The plain port. */

/* Ends the program. */
_Noreturn void fail(const char *what);

#endif
