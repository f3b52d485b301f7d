/* SPDX-License-Identifier: Apache-2.0 */
#include "yardstick.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* uthash keeps 32 bits of it. */
#define HASH_FUNCTION(key, length, hash) ((hash) = (unsigned)XXH3_64bits((key), (length)))
#include <uthash.h>
#include <utlist.h>

/* A queue entry: a pending update, which is in the map too, or a status. */
struct plain_node {
    UT_hash_handle hh;
    struct plain_node *prev, *next;
    struct payload payload;
    uint32_t key_length;
    bool is_status;
    bool deletion;
    uint8_t status;
    char key[];
};

/* A live key. */
struct live {
    UT_hash_handle hh;
    uint32_t key_length;
    char key[];
};

/*
 * A key not seen since the reconnection. Such a key is live, and its bytes are those of the live
 * key.
 */
struct unseen {
    UT_hash_handle hh;
};

struct plain {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    struct plain_node *queue;
    struct plain_node *pending;
    struct live *live;
    struct unseen *unseen;
    int latest_received;
    int latest_taken;
    bool stopped;
};

static void *
allocate(size_t size)
{
    void *memory = malloc(size);

    if (memory == NULL)
        fail("no memory");
    return memory;
}

struct plain *
plain_create(void)
{
    struct plain *plain = allocate(sizeof(*plain));

    memset(plain, 0, sizeof(*plain));
    pthread_mutex_init(&plain->lock, NULL);
    pthread_cond_init(&plain->not_empty, NULL);
    return plain;
}

static void
drop_queue(struct plain *plain)
{
    struct plain_node *node = plain->queue;

    HASH_CLEAR(hh, plain->pending);
    plain->queue = NULL;
    while (node != NULL) {
        struct plain_node *next = node->next;

        free(node);
        node = next;
    }
}

static void
drop_unseen(struct plain *plain)
{
    struct unseen *unseen, *next;

    HASH_ITER(hh, plain->unseen, unseen, next) {
        HASH_DELETE(hh, plain->unseen, unseen);
        free(unseen);
    }
}

void
plain_destroy(struct plain *plain)
{
    struct live *live, *next;

    drop_queue(plain);
    drop_unseen(plain);
    HASH_ITER(hh, plain->live, live, next) {
        HASH_DELETE(hh, plain->live, live);
        free(live);
    }
    pthread_mutex_destroy(&plain->lock);
    pthread_cond_destroy(&plain->not_empty);
    free(plain);
}

/* ---------------------------------------------------------------------------------------------- */
/* All below: the caller holds the lock                                                           */

static void
append(struct plain *plain, struct plain_node *node)
{
    DL_APPEND(plain->queue, node);
}

static void
append_update(struct plain *plain, const void *key, size_t key_length, unsigned hash,
              const struct payload *payload, bool deletion)
{
    struct plain_node *node = allocate(sizeof(*node) + key_length);

    memcpy(node->key, key, key_length);
    node->key_length = (uint32_t)key_length;
    node->payload = *payload;
    node->is_status = false;
    node->deletion = deletion;
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, plain->pending, node->key, node->key_length, hash, node);
    append(plain, node);
}

/*
 * A pending update leaves the queue. Two statuses that were to each side of it become one, the
 * later.
 */
static void
remove_update(struct plain *plain, struct plain_node *node)
{
    /* utlist: the head's `prev` is the tail. */
    struct plain_node *before = node == plain->queue ? NULL : node->prev;
    struct plain_node *after = node->next;

    HASH_DELETE(hh, plain->pending, node);
    DL_DELETE(plain->queue, node);
    free(node);
    if (before != NULL && after != NULL && before->is_status && after->is_status) {
        DL_DELETE(plain->queue, before);
        free(before);
    }
}

static void
put_update(struct plain *plain, const struct plain_update *update)
{
    struct plain_node *node;
    unsigned hash;

    HASH_VALUE(update->key, update->key_length, hash);
    if (plain->unseen != NULL) {
        struct unseen *unseen;

        HASH_FIND_BYHASHVALUE(hh, plain->unseen, update->key, update->key_length, hash, unseen);
        if (unseen != NULL) {
            HASH_DELETE(hh, plain->unseen, unseen);
            free(unseen);
        }
    }

    HASH_FIND_BYHASHVALUE(hh, plain->pending, update->key, update->key_length, hash, node);
    if (node == NULL) {
        append_update(plain, update->key, update->key_length, hash, &update->payload,
                      update->deletion);
        return;
    }
    if (update->deletion && !node->deletion) {
        struct live *live;

        HASH_FIND_BYHASHVALUE(hh, plain->live, update->key, update->key_length, hash, live);
        if (live == NULL) {
            remove_update(plain, node);
            return;
        }
    }
    node->payload = update->payload;
    node->deletion = update->deletion;
}

/* Keys that were not seen since the reconnection are gone. */
static void
queue_deletions(struct plain *plain)
{
    static const struct payload none;
    struct unseen *unseen, *next;

    HASH_ITER(hh, plain->unseen, unseen, next) {
        append_update(plain, unseen->hh.key, unseen->hh.keylen, unseen->hh.hashv, &none, true);
        HASH_DELETE(hh, plain->unseen, unseen);
        free(unseen);
    }
}

/* A pending update was taken: which kind it is, and which keys are live from now on. */
static int
commit(struct plain *plain, const struct plain_node *node)
{
    struct live *live;

    HASH_FIND_BYHASHVALUE(hh, plain->live, node->key, node->key_length, node->hh.hashv, live);
    if (node->deletion) {
        if (live != NULL) {
            HASH_DELETE(hh, plain->live, live);
            free(live);
        }
        return KIND_DELETED;
    }
    if (live != NULL)
        return KIND_UPDATED;
    live = allocate(sizeof(*live) + node->key_length);
    live->key_length = node->key_length;
    memcpy(live->key, node->key, node->key_length);
    HASH_ADD_KEYPTR_BYHASHVALUE(hh, plain->live, live->key, live->key_length, node->hh.hashv, live);
    return KIND_NEW;
}

/* ---------------------------------------------------------------------------------------------- */
/* Calls                                                                                          */

void
plain_put(struct plain *plain, const struct plain_update *updates, size_t count)
{
    pthread_mutex_lock(&plain->lock);
    if (!plain->stopped) {
        bool was_empty = plain->queue == NULL;

        for (size_t i = 0; i < count; i++)
            put_update(plain, &updates[i]);
        if (was_empty && plain->queue != NULL)
            pthread_cond_signal(&plain->not_empty);
    }
    pthread_mutex_unlock(&plain->lock);
}

void
plain_put_status(struct plain *plain, int status)
{
    pthread_mutex_lock(&plain->lock);
    if (!plain->stopped) {
        bool was_empty = plain->queue == NULL;

        if (status == STATUS_IN_SYNC)
            queue_deletions(plain);
        if (status != plain->latest_received) {
            plain->latest_received = status;
            if (plain->queue != NULL && plain->queue->prev->is_status) {
                plain->queue->prev->status = (uint8_t)status;
            } else {
                struct plain_node *node = allocate(sizeof(*node));

                node->is_status = true;
                node->status = (uint8_t)status;
                append(plain, node);
            }
        }
        if (was_empty && plain->queue != NULL)
            pthread_cond_signal(&plain->not_empty);
    }
    pthread_mutex_unlock(&plain->lock);
}

void
plain_restart(struct plain *plain)
{
    struct live *live;

    pthread_mutex_lock(&plain->lock);
    drop_queue(plain);
    plain->latest_received = plain->latest_taken;
    drop_unseen(plain);
    for (live = plain->live; live != NULL; live = live->hh.next) {
        struct unseen *unseen = allocate(sizeof(*unseen));

        HASH_ADD_KEYPTR_BYHASHVALUE(hh, plain->unseen, live->key, live->key_length, live->hh.hashv,
                                    unseen);
    }
    pthread_mutex_unlock(&plain->lock);
}

void
plain_release(struct plain_node **batch)
{
    while (*batch != NULL) {
        struct plain_node *next = (*batch)->next;

        free(*batch);
        *batch = next;
    }
}

size_t
plain_take(struct plain *plain, struct plain_item *items, size_t capacity, bool wait,
           struct plain_node **batch)
{
    size_t count = 0;

    plain_release(batch);
    pthread_mutex_lock(&plain->lock);
    while (wait && plain->queue == NULL && !plain->stopped)
        pthread_cond_wait(&plain->not_empty, &plain->lock);
    while (!plain->stopped && plain->queue != NULL && count < capacity) {
        struct plain_node *node = plain->queue;
        struct plain_item *item = &items[count++];

        DL_DELETE(plain->queue, node);
        if (node->is_status) {
            *item = (struct plain_item){.kind = KIND_STATUS, .status = node->status};
            plain->latest_taken = node->status;
        } else {
            HASH_DELETE(hh, plain->pending, node);
            item->key = node->key;
            item->key_length = node->key_length;
            item->payload = node->payload;
            item->kind = commit(plain, node);
        }
        LL_PREPEND(*batch, node);
    }
    pthread_mutex_unlock(&plain->lock);
    return count;
}

void
plain_stop(struct plain *plain)
{
    pthread_mutex_lock(&plain->lock);
    plain->stopped = true;
    pthread_cond_broadcast(&plain->not_empty);
    pthread_mutex_unlock(&plain->lock);
}

/* ---------------------------------------------------------------------------------------------- */
/* As a subject                                                                                   */

struct producer {
    struct plain *plain;
    struct plain_update updates[CALL];
};

struct consumer {
    struct plain *plain;
    bool loop;
    struct plain_node *batch;
    struct plain_item items[CALL];
};

static void *
create(void)
{
    return plain_create();
}

static void
destroy(void *buffer)
{
    plain_destroy(buffer);
}

static void
stop(void *buffer)
{
    plain_stop(buffer);
}

static void *
producer_create(void *buffer)
{
    struct producer *producer = allocate(sizeof(*producer));

    producer->plain = buffer;
    return producer;
}

static void
put(void *argument, struct keys keys, uint64_t stamp)
{
    struct producer *producer = argument;

    for (size_t i = 0; i < keys.count; i++) {
        struct plain_update *update = &producer->updates[i];

        update->key = keys.bytes + i * keys.size;
        update->key_length = keys.size;
        update->payload = (struct payload){stamp, {i, i, i}};
        update->deletion = false;
    }
    plain_put(producer->plain, producer->updates, keys.count);
}

static void
delete_key(void *argument, struct keys keys)
{
    struct producer *producer = argument;
    struct plain_update update = {.key = keys.bytes, .key_length = keys.size, .deletion = true};

    plain_put(producer->plain, &update, 1);
}

static void
put_status(void *buffer, int status)
{
    plain_put_status(buffer, status);
}

static void
restart(void *buffer)
{
    plain_restart(buffer);
}

static void *
consumer_create(void *buffer, bool loop)
{
    struct consumer *consumer = allocate(sizeof(*consumer));

    consumer->plain = buffer;
    consumer->loop = loop;
    consumer->batch = NULL;
    return consumer;
}

static void
consumer_destroy(void *argument)
{
    struct consumer *consumer = argument;

    plain_release(&consumer->batch);
    free(consumer);
}

static size_t
take(void *argument, sink_fn *each, void *context)
{
    struct consumer *consumer = argument;
    size_t count =
        plain_take(consumer->plain, consumer->items, CALL, consumer->loop, &consumer->batch);

    for (size_t i = 0; each != NULL && i < count; i++) {
        const struct plain_item *item = &consumer->items[i];

        each(context, &(struct delivered){item->key, item->key_length,
                                          item->kind < KIND_DELETED ? &item->payload : NULL,
                                          item->kind, item->status});
    }
    return count;
}

/*
 * All that malloc has handed out: nothing else in the program allocates while a case looks at it.
 */
static uint64_t
memory(void *buffer)
{
    struct mallinfo2 info = mallinfo2();

    (void)buffer;
    return info.uordblks + info.hblkhd;
}

const struct subject yardstick = {
    create,
    destroy,
    stop,
    producer_create,
    free,
    put,
    delete_key,
    put_status,
    restart,
    consumer_create,
    consumer_destroy,
    take,
    memory,
};
