/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a peak, memory goes back to the system. The test fills a buffer with keys, takes them,
 * deletes them and takes the deletions. Then it reads how much memory is left, by the buffer's own
 * count and by the system's.
 *
 *     test_memory [keys]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"
#include "resident.h"

enum { SHARE = 100, KEY_LENGTH = 96, PAYLOAD = 32, ROUNDS = 3, KEYS_TO_TELL = 500000 };

static uint64_t
report(cdedupe_t *buffer, const char *when)
{
    cdedupe_statistics_t statistics;

    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    printf("  %-18s %8llu pending %8llu live %10llu KiB held %10llu KiB resident\n", when,
           (unsigned long long)statistics.pending_keys, (unsigned long long)statistics.live_keys,
           (unsigned long long)statistics.memory / 1024,
           (unsigned long long)resident_bytes() / 1024);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return statistics.memory;
}

static void
put_all(cdedupe_t *buffer, unsigned long keys, bool deletion)
{
    static char bytes[SHARE][KEY_LENGTH];
    cdedupe_update_t updates[SHARE];
    cdedupe_slot_t slots[SHARE];

    for (unsigned long i = 0; i < keys; i += SHARE) {
        CHECK(cdedupe_acquire(buffer, slots, SHARE) == CDEDUPE_OK);
        for (unsigned long j = 0; j < SHARE; j++) {
            memset(bytes[j], 'x', KEY_LENGTH);
            /* 7,919 is prime: every key once, in an order of its own. */
            snprintf(bytes[j], 32, "%020lu", (i + j) * 7919 % keys);
            updates[j] = (cdedupe_update_t){
                .key = bytes[j], .key_length = KEY_LENGTH, .slot = slots[j], .deletion = deletion};
        }
        CHECK(cdedupe_put(buffer, updates, SHARE) == CDEDUPE_OK);
    }
}

static void
take_all(cdedupe_t *buffer)
{
    cdedupe_item_t items[SHARE];
    cdedupe_slot_t slots[SHARE];
    size_t count;

    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    while (cdedupe_take(buffer, items, SHARE, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++)
            slots[i] = items[i].slot;
        cdedupe_discard(buffer, slots, count);
    }
    cdedupe_release(buffer);
}

static void
fill_and_empty(cdedupe_t *buffer, unsigned long keys)
{
    uint64_t peak, left, resident;

    put_all(buffer, keys, false);
    peak = report(buffer, "filled");
    resident = resident_bytes();
    take_all(buffer);
    report(buffer, "taken");
    put_all(buffer, keys, true);
    report(buffer, "deletions pending");
    take_all(buffer);
    left = report(buffer, "deleted");

    /* Few keys are lost in what the process needs anyway; and sanitizers keep what is freed. */
    if (keys < KEYS_TO_TELL)
        return;
    CHECK(left * 20 < peak);
    CHECK(resident_bytes() * 4 < resident);
}

int
main(int argc, char **argv)
{
    unsigned long keys = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    options.payload_size = PAYLOAD;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    for (int round = 0; round < ROUNDS; round++)
        fill_and_empty(buffer, keys);
    cdedupe_destroy(buffer);
    return check_finish();
}
