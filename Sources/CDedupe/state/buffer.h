/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The buffer: its parts, and which files write each of them. All parts after the lock change only
 * while a thread holds it, unless a comment says otherwise.
 */
#ifndef CDEDUPE_STATE_BUFFER_H
#define CDEDUPE_STATE_BUFFER_H

#include "CDedupe.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/test_sizes.h"
#include "memory/allocator.h"
#include "memory/arena.h"
#include "memory/context.h"
#include "memory/retired.h"
#include "state/entry.h"
#include "state/index.h"
#include "state/ring.h"
#include "state/word.h"

/* The most that one call does in one lock scope: how long another call may have to wait. */
enum {
    PUTS_PER_LOCK = TEST_SIZED(100, 4),
    TAKES_PER_LOCK = TEST_SIZED(32, 3),
    PUT_BACKS_PER_LOCK = TAKES_PER_LOCK,
    SWEEPS_PER_LOCK = TEST_SIZED(64, 4),
    SLOTS_PER_LOCK = TEST_SIZED(256, 4),
};

/* An offset in payloads that nothing is read at. */
#define OFFSET_UNUSED SIZE_MAX

/* The three lists of links, each by the number of its head. Written by queue.c and collect.c. */
struct queue {
    uint32_t ring;      /* Pending updates and statuses, in the order of delivery. */
    uint32_t dropped;   /* Links of updates and statuses that a restart dropped. */
    uint32_t detached;  /* Payloads that lost their entry. */
    uint64_t uncleared; /* Links in `dropped` and `detached`. Read as a hint without the lock. */
};

/* The progress of resyncs. Written by status.c and put_back.c. */
struct resync {
    uint32_t restart;            /* 1 to WORD_RESTART_MAX. Read without the lock. */
    bool deletions_due;          /* The next in-sync must synthesize deletions. */
    bool received_since_restart; /* An update or a status. Also written by the puts. */
    uint8_t latest_received;     /* A cdedupe_status_t. */
    uint8_t latest_taken;        /* The same. Written by take.c too. */
    bool dropped_equal_status;   /* Since the restart, or since the last status that was queued. */
    uint32_t unseen_generation;  /* Counts entries that a put back made unseen: running sweeps may
                                    have passed them. */
    uint64_t restarts;           /* As `restart`, and never begins again. */
};

enum claim { CLAIM_NONE, CLAIM_SINGLE_BATCH, CLAIM_LOOP };

/* Written by take.c; scope.h clears `asleep`. */
struct sink {
    enum claim claim;
    bool asleep; /* The loop found nothing to take and waits for the wake callback. */
};

/* The last batch. Written by take.c and put_back.c. */
struct batch {
    uint32_t count;    /* Items that can still be put back. */
    uint32_t barrier;  /* During a take: the last link that may be in the batch, or the ring's head.
                          queue.c moves it when its link leaves. */
    bool restarted;    /* A restart came after the first item was taken. Set by status.c. */
    uint32_t borrowed; /* Dead entries whose keys the sink may still read, chained by their links,
                          the latest first. */
    uint32_t borrowed_put_back; /* The same, of items that were put back. */
};

enum finishing { FINISHING_NOT, FINISHING_WHEN_DELIVERED, FINISHING_WHEN_EMPTY };

/* Written by life.c and take.c. */
struct end {
    uint32_t stopped; /* Read without the lock. */
    enum finishing finishing;
};

/* The limits are never changed. Written by put_locked.c (overflow) and status.c (restart). */
struct bounds {
    uint64_t keys; /* Without a bound, the largest number. */
    uint64_t bytes;
    size_t weight_offset; /* OFFSET_UNUSED: there is no bound of bytes. */
    bool overflowed;      /* Everything is dropped until the next restart. */
};

/* Written by slots.c. */
struct magazines {
    uint32_t sparse;   /* Fewer than half of the slots are in use. Read without the lock. */
    uint64_t returned; /* Slots that came back to the arena since the magazines were emptied. */
};

/*
 * On a buffer that merges, every call that changes words holds this mutex. The merge callback runs
 * under it alone. Written by merge.c.
 */
struct merge_lock {
    pthread_mutex_t mutex;
    pthread_cond_t sink_came; /* For puts that let a waiting sink go first. */
    uint64_t calling;         /* The thread that is inside the merge callback, or zero. */
    uint32_t sink;            /* An enum merge_sink. */
};

/* The sink's state after it found the merge lock held. */
enum merge_sink {
    SINK_AWAY,
    SINK_REFUSED, /* The loop waits for the wake callback. */
    SINK_WAITS,   /* The sink waits for the mutex. */
};

/* For cdedupe_take_wait(). Written by wait.c. */
struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    bool woken;    /* Under the mutex: the loop has to look again. */
    uint32_t used; /* Set under the lock when cdedupe_take_wait() is called, and never cleared. */
};

struct cdedupe {
    /* Never changed, except the allocator's byte count. */
    struct memory memory;
    struct hash_secret secret;
    struct clock clock;
    void (*wake)(void *context);
    void *wake_context;
    void (*merge)(void *context, void *older, void *newer); /* NULL: values are not merged. */
    void *merge_context;
    size_t batch_size;
    size_t revision_offset; /* OFFSET_UNUSED: nothing is suppressed. */

    struct merge_lock merge_lock;
    struct waiter waiter;

    _Alignas(64) struct lock lock;
    struct end end;
    struct resync resync;
    struct sink sink;
    struct queue queue;
    struct batch batch;
    struct bounds bounds;
    struct magazines magazines;
    cdedupe_statistics_t statistics;

    struct arena entries;
    struct arena slots;
    struct arena links;
    struct slab_class entry_classes[ENTRY_CLASSES];
    struct slab_class slot_class;
    struct slab_class link_class;
    struct index index;
    struct retired retired;
    struct context_pool contexts; /* Claimed without the lock. */
};

#endif
