/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A C program with a fast source and a slow sink, at the level of bytes: keys and values are bytes.
 *
 *     cc embedder.c $(pkg-config --cflags --libs --static cdedupe) -lpthread
 */
#define _POSIX_C_SOURCE 200809L /* nanosleep() */

#include <CDedupe.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static void
handle(const cdedupe_bytes_item_t *item)
{
    static const char *const kinds[] = {"new", "updated", "deleted"};
    static const char *const statuses[] = {"wait-for-ready", "resync", "in-sync"};

    if (item->kind == CDEDUPE_ITEM_STATUS)
        printf("-- %s\n", statuses[item->status]);
    else
        printf("%-8s%.*s = %.*s\n", kinds[item->kind], (int)item->key_length,
               (const char *)item->key, (int)item->value_length,
               item->value == NULL ? "" : (const char *)item->value);
    nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
}

/*
 * The delivery loop: takes batches until the buffer has finished, and waits while there is nothing.
 */
static void *
deliver(void *buffer)
{
    cdedupe_bytes_item_t items[10];
    size_t count;

    while (cdedupe_bytes_take_wait(buffer, items, 10, &count, -1) == CDEDUPE_OK)
        for (size_t i = 0; i < count; i++)
            handle(&items[i]);
    cdedupe_bytes_release(buffer);
    return NULL;
}

/* Ten sensors, ten thousand readings each. */
static cdedupe_result_t
produce(cdedupe_bytes_t *buffer)
{
    for (unsigned reading = 0; reading < 10000; reading++) {
        for (unsigned sensor = 0; sensor < 10; sensor++) {
            char key[32], value[32];
            size_t key_length = (size_t)snprintf(key, sizeof(key), "sensor/%u", sensor);
            size_t value_length = (size_t)snprintf(value, sizeof(value), "%u", reading);
            cdedupe_result_t result =
                cdedupe_bytes_put(buffer, key, key_length, value, value_length, reading + 1, NULL);

            if (result != CDEDUPE_OK)
                return result;
        }
    }
    return cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC);
}

int
main(void)
{
    cdedupe_statistics_t statistics;
    cdedupe_bytes_t *buffer;
    cdedupe_result_t result = cdedupe_bytes_create(NULL, &buffer);
    pthread_t thread;

    if (result == CDEDUPE_OK)
        result = cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP);
    if (result != CDEDUPE_OK || pthread_create(&thread, NULL, deliver, buffer) != 0) {
        fprintf(stderr, "cannot start: %s\n", cdedupe_result_text(result));
        return 1;
    }

    result = produce(buffer);
    if (result != CDEDUPE_OK)
        fprintf(stderr, "cannot put: %s\n", cdedupe_result_text(result));
    cdedupe_bytes_finish(buffer, CDEDUPE_FINISH_WHEN_DELIVERED);
    pthread_join(thread, NULL);

    cdedupe_bytes_statistics(buffer, &statistics, sizeof(statistics));
    printf("%llu updates in, %llu out\n", (unsigned long long)statistics.received,
           (unsigned long long)statistics.delivered);
    cdedupe_bytes_destroy(buffer);
    return result != CDEDUPE_OK;
}
