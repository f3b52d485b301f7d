/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The yardstick must do the same work, or its times mean nothing: random operations, compared with
 * the core's answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "measure.h"
#include "subject.h"

#define KEYS 250
#define MAX_ITEMS 2000

struct record {
    char key[KEY_SIZE];
    uint64_t stamp;
    int kind;
    int status;
};

struct log {
    size_t count;
    struct record records[MAX_ITEMS];
};

static void
keep(void *context, const struct delivered *item)
{
    struct log *log = context;
    struct record *record = &log->records[log->count++];

    memset(record, 0, sizeof(*record));
    record->kind = item->kind;
    if (item->kind == KIND_STATUS)
        record->status = item->status;
    else
        memcpy(record->key, item->key, KEY_SIZE);
    if (item->kind < KIND_DELETED)
        record->stamp = item->payload->stamp;
}

static int
by_key(const void *left, const void *right)
{
    return memcmp(((const struct record *)left)->key, ((const struct record *)right)->key,
                  KEY_SIZE);
}

/* The order among the deletions that a resync finds is free. */
static void
sort_deletions(struct log *log)
{
    size_t end;

    for (size_t i = 0; i < log->count; i = end + 1) {
        for (end = i; end < log->count && log->records[end].kind == KIND_DELETED; end++)
            ;
        qsort(&log->records[i], end - i, sizeof(log->records[0]), by_key);
    }
}

void
check_yardstick(const struct parameters *parameters)
{
    static struct log logs[2];
    const struct subject *const sides[2] = {&ours, &yardstick};
    unsigned seed = (unsigned)parameters->seed;
    struct stream stream;
    size_t items = 0;

    stream_make(&stream, &(struct setting){KEYS, KEY_SIZE, 1, 1}, 1, parameters->seed);
    for (unsigned round = 0; round < 200; round++) {
        /* Few keys, so that they meet; many, so that a batch does not take all. */
        unsigned keys = round % 2 == 0 ? 5 : KEYS;
        void *buffers[2], *producers[2], *consumers[2];

        for (size_t side = 0; side < 2; side++) {
            buffers[side] = sides[side]->create();
            producers[side] = sides[side]->producer_create(buffers[side]);
            consumers[side] = sides[side]->consumer_create(buffers[side], false);
        }
        for (unsigned i = 0; i < 2000; i++) {
            unsigned what = (unsigned)rand_r(&seed) % 100;
            struct keys key = stream_keys(&stream, (unsigned)rand_r(&seed) % keys, 1);
            int status = (int)((unsigned)rand_r(&seed) % 3);

            for (size_t side = 0; side < 2; side++) {
                if (what < 55)
                    sides[side]->put(producers[side], key, i);
                else if (what < 80)
                    sides[side]->delete_key(producers[side], key);
                else if (what < 90)
                    sides[side]->put_status(buffers[side], status);
                else if (what < 92)
                    sides[side]->restart(buffers[side]);

                /*
                 * All of it after an in-sync: what later takes a deletion's place would show their
                 * free order.
                 */
                logs[side].count = 0;
                if (what >= 80 && what < 90 && status == STATUS_IN_SYNC)
                    while (sides[side]->take(consumers[side], keep, &logs[side]) > 0)
                        ;
                else if (what >= 98)
                    sides[side]->take(consumers[side], keep, &logs[side]);
                sort_deletions(&logs[side]);
            }
            items += logs[0].count;
            if (logs[0].count != logs[1].count ||
                memcmp(logs[0].records, logs[1].records, logs[0].count * sizeof(struct record)) !=
                    0) {
                fprintf(stderr, "round %u, operation %u, seed %llu: ", round, i,
                        (unsigned long long)parameters->seed);
                fail("the yardstick delivers something else than the core");
            }
        }
        for (size_t side = 0; side < 2; side++) {
            sides[side]->producer_destroy(producers[side]);
            sides[side]->consumer_destroy(consumers[side]);
            sides[side]->destroy(buffers[side]);
        }
    }
    stream_free(&stream);
    printf("the yardstick in C agrees with the core: %zu items compared\n", items);
}
