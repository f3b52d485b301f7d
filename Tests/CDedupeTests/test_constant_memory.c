/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounded memory: a scene that goes on forever takes no more memory than one that went on for a
 * while.
 *
 *     test_constant_memory [rounds] [keys]     default: 200000 rounds, of which scenes with large
 *                                              rounds make fewer, and 1000000 keys of a peak
 *
 * Each scene repeats a round. The first quarter of the rounds is for warming up. After it, neither
 * the bytes that the allocator's hooks count nor the resident memory of the process may exceed what
 * they were then, except by a margin. The buffer's own count must equal the count of the hooks. The
 * figures are printed. No scene clears after restarts, because none calls cdedupe_collect().
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"
#include "resident.h"
#include "hooks.h"

enum {
    BATCH = 100,
    KEY_MAX = 60 * 1024,
    SAMPLES = 64, /* Of the resident memory, per scene. */
    ROUNDS_MIN = 40,
    ROUNDS_TO_TELL = 100000, /* With fewer, resident memory is what the process itself needs. */
    HELD_MARGIN = 64 * 1024, /* A slab more or less, unless a scene's memory is exact. */
    RESIDENT_MARGIN = 2 * 1024 * 1024,
};

static uint64_t rounds = 200000;
static hooks_t hooks;
static cdedupe_t *buffer;
static uint64_t live_keys; /* Of the scenes that begin with some. */
static uint64_t fresh;     /* The number of the next key that nobody has had yet. */

/* ---------------------------------------------------------------------------------------------- */
/* Small things                                                                                   */

static void
put_key(const void *key, size_t length, bool deletion)
{
    cdedupe_update_t update = {.key = key, .key_length = length, .deletion = deletion};

    CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
}

/* A key of 8 to 57 bytes. */
static void
put_number(uint64_t number, bool deletion)
{
    unsigned char key[64] = {0};

    memcpy(key, &number, sizeof(number));
    put_key(key, sizeof(number) + number % 50, deletion);
}

static size_t
take_batch(void)
{
    cdedupe_item_t items[BATCH];
    size_t count = 0;

    cdedupe_take(buffer, items, BATCH, &count);
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    return count;
}

static void
take_all(void)
{
    while (take_batch() > 0)
        continue;
}

static void
send_status(cdedupe_status_t status)
{
    CHECK(cdedupe_put_status(buffer, status) == CDEDUPE_OK);
}

static void
restart(void)
{
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
}

static cdedupe_statistics_t
statistics(void)
{
    cdedupe_statistics_t s;

    cdedupe_statistics(buffer, &s, sizeof(s));
    return s;
}

/* What a scene may begin with: `live_keys` fresh keys, pending or delivered. */

static void
begin_with_pending_keys(void)
{
    for (uint64_t i = 0; i < live_keys; i++)
        put_number(fresh++, false);
}

static void
begin_with_live_keys(void)
{
    begin_with_pending_keys();
    take_all();
}

/* ---------------------------------------------------------------------------------------------- */
/* Rounds                                                                                         */

/* The sink is stalled: it never takes. */
static void
add_flip_delete(uint64_t number)
{
    put_key("a", 1, false);
    send_status(number % 2 == 0 ? CDEDUPE_STATUS_RESYNC_IN_PROGRESS : CDEDUPE_STATUS_IN_SYNC);
    put_key("a", 1, true);
}

/* The same, among others that are pending, and never the same key. */
static void
add_flip_delete_fresh(uint64_t number)
{
    put_number(fresh, false);
    send_status(number % 2 == 0 ? CDEDUPE_STATUS_RESYNC_IN_PROGRESS : CDEDUPE_STATUS_IN_SYNC);
    put_number(fresh++, true);
}

static void
deliver_and_delete_fresh(uint64_t number)
{
    (void)number;
    put_number(fresh, false);
    CHECK_EQ(take_batch(), 1);
    put_number(fresh++, true);
    CHECK_EQ(take_batch(), 1);
}

static void
restart_with_nothing_between(uint64_t number)
{
    (void)number;
    restart();
}

/* New, updated, deleted, one after the other, and each dropped. */
static void
restart_with_an_update_between(uint64_t number)
{
    if (number % 3 == 0)
        put_number(fresh++, false);
    else
        put_number(number % live_keys, number % 3 == 1);
    restart();
}

/* A connection that is lost again and again before a single update came. */
static void
restart_with_a_status_between(uint64_t number)
{
    (void)number;
    send_status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    restart();
}

static void
restart_with_both_between(uint64_t number)
{
    send_status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    restart_with_an_update_between(number);
}

/*
 * A resync in which every tenth key does not come again, and as many others come for the first
 * time. Every third time the connection is lost again half way.
 */
static void
resync_with_a_tenth_missing(uint64_t number)
{
    uint64_t first = fresh - live_keys, missing = live_keys / 10;

    restart();
    send_status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    if (number % 3 == 0) {
        for (uint64_t i = 0; i < live_keys / 2; i++)
            put_number(first + i, false);
        if (number % 2 == 0)
            take_batch();
        restart();
    }
    for (uint64_t i = missing; i < live_keys; i++)
        put_number(first + i, false);
    for (uint64_t i = 0; i < missing; i++)
        put_number(fresh++, false);
    send_status(CDEDUPE_STATUS_IN_SYNC);
    take_all();
    CHECK_EQ(statistics().live_keys, live_keys);
}

/* A batch of keys of 60 KiB. */
static void
deliver_and_delete_long(uint64_t number)
{
    static unsigned char key[KEY_MAX];

    (void)number;
    for (unsigned deletion = 0; deletion < 2; deletion++) {
        for (uint64_t i = 0; i < BATCH; i++) {
            uint64_t name = fresh + i;

            memcpy(key + KEY_MAX - sizeof(name), &name, sizeof(name));
            put_key(key, KEY_MAX - name % 1000, deletion != 0);
        }
        if (number % 5 == 4)
            restart();
        take_all();
    }
    fresh += BATCH;
}

/* ---------------------------------------------------------------------------------------------- */
/* Scenes                                                                                         */

typedef struct scene {
    const char *name;
    void (*begin)(void);
    void (*round)(uint64_t number);
    uint64_t live_keys;
    uint64_t rounds_divisor;
    bool is_exact; /* Memory does not even go up and down. */
} scene_t;

static const scene_t scenes[] = {
    {"add, flip the status, delete", NULL, add_flip_delete, 0, 1, true},
    {"the same with fresh keys", begin_with_pending_keys, add_flip_delete_fresh, 1000, 1, false},
    {"fresh keys, deleted after delivery", begin_with_live_keys, deliver_and_delete_fresh, 1000, 1,
     false},
    {"restarts with nothing between", begin_with_live_keys, restart_with_nothing_between, 1000, 1,
     true},
    {"restarts with an update between", begin_with_live_keys, restart_with_an_update_between, 1000,
     1, false},
    {"restarts with a status between", begin_with_pending_keys, restart_with_a_status_between, 1000,
     1, true},
    {"restarts with both between", begin_with_live_keys, restart_with_both_between, 1000, 1, false},
    {"resyncs with a tenth missing", begin_with_live_keys, resync_with_a_tenth_missing, 1000, 1000,
     false},
    {"the same with more keys", begin_with_live_keys, resync_with_a_tenth_missing, 100000, 25000,
     false},
    {"keys of 60 KiB", NULL, deliver_and_delete_long, 0, 10000, false},
};

/* The most that was seen in the first quarter, and after it. */
typedef struct peaks {
    uint64_t held[2];
    uint64_t resident[2];
} peaks_t;

static void
raise_to(uint64_t *peak, uint64_t value)
{
    if (*peak < value)
        *peak = value;
}

static peaks_t
run_rounds(const scene_t *scene, uint64_t count)
{
    uint64_t every = count < SAMPLES ? 1 : count / SAMPLES;
    peaks_t peaks = {{0}, {0}};

    for (uint64_t number = 0; number < count; number++) {
        unsigned late = number >= count / 4;

        scene->round(number);
        raise_to(&peaks.held[late], hooks.held_bytes);
        if (number % every == every - 1)
            raise_to(&peaks.resident[late], resident_bytes());
    }
    return peaks;
}

static void
run_scene(const scene_t *scene)
{
    cdedupe_options_t options = cdedupe_options();
    uint64_t count = rounds / scene->rounds_divisor;
    peaks_t peaks;

    if (count < ROUNDS_MIN)
        count = ROUNDS_MIN;
    check_test = scene->name;
    hooks = (hooks_t){0};
    hooks_use(&hooks, &options);
    live_keys = scene->live_keys < rounds / 8 ? scene->live_keys : rounds / 8;
    fresh = 0;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    if (scene->begin != NULL)
        scene->begin();
    peaks = run_rounds(scene, count);
    printf("%-36s %9" PRIu64 " rounds, KiB held %8" PRIu64 " then %8" PRIu64 ", resident %8" PRIu64
           " then %8" PRIu64 "\n",
           scene->name, count, peaks.held[0] / 1024, peaks.held[1] / 1024, peaks.resident[0] / 1024,
           peaks.resident[1] / 1024);
    CHECK(peaks.held[1] <=
          peaks.held[0] + (scene->is_exact ? 0 : peaks.held[0] / 20 + HELD_MARGIN));
    if (rounds >= ROUNDS_TO_TELL)
        CHECK(peaks.resident[1] <= peaks.resident[0] + peaks.resident[0] / 10 + RESIDENT_MARGIN);
    CHECK_EQ(statistics().memory, hooks.held_bytes);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------- */
/* Peaks                                                                                          */

/*
 * After a peak, memory goes back to the system. The test fills a buffer with keys, takes them,
 * deletes them and takes the deletions. Then it reads how much memory is left, by the buffer's own
 * count and by the system's.
 */
enum { CHUNK = 100, KEY_LENGTH = 96, PAYLOAD = 32, PEAKS = 3, KEYS_TO_TELL = 500000 };

static uint64_t
report(cdedupe_t *filled, const char *when)
{
    cdedupe_statistics_t statistics;

    cdedupe_statistics(filled, &statistics, sizeof(statistics));
    printf("  %-18s %8llu pending %8llu live %10llu KiB held %10llu KiB resident\n", when,
           (unsigned long long)statistics.pending_keys, (unsigned long long)statistics.live_keys,
           (unsigned long long)statistics.memory / 1024,
           (unsigned long long)resident_bytes() / 1024);
    CHECK_NO_FAULT(cdedupe_validate(filled));
    return statistics.memory;
}

static void
put_keys(cdedupe_t *filled, unsigned long keys, bool deletion)
{
    static char bytes[CHUNK][KEY_LENGTH];
    cdedupe_update_t updates[CHUNK];
    cdedupe_slot_t slots[CHUNK];

    for (unsigned long i = 0; i < keys; i += CHUNK) {
        CHECK(cdedupe_acquire(filled, slots, CHUNK) == CDEDUPE_OK);
        for (unsigned long j = 0; j < CHUNK; j++) {
            memset(bytes[j], 'x', KEY_LENGTH);
            /* 7,919 is prime: every key once, in an order of its own. */
            snprintf(bytes[j], 32, "%020lu", (i + j) * 7919 % keys);
            updates[j] = (cdedupe_update_t){
                .key = bytes[j], .key_length = KEY_LENGTH, .slot = slots[j], .deletion = deletion};
        }
        CHECK(cdedupe_put(filled, updates, CHUNK) == CDEDUPE_OK);
    }
}

static void
take_keys(cdedupe_t *filled)
{
    cdedupe_item_t items[CHUNK];
    cdedupe_slot_t slots[CHUNK];
    size_t count;

    CHECK(cdedupe_claim(filled, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    while (cdedupe_take(filled, items, CHUNK, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++)
            slots[i] = items[i].slot;
        cdedupe_discard(filled, slots, count);
    }
    cdedupe_release(filled);
}

static void
fill_and_empty(cdedupe_t *filled, unsigned long keys)
{
    uint64_t peak, left, resident;

    put_keys(filled, keys, false);
    peak = report(filled, "filled");
    resident = resident_bytes();
    take_keys(filled);
    report(filled, "taken");
    put_keys(filled, keys, true);
    report(filled, "deletions pending");
    take_keys(filled);
    left = report(filled, "deleted");

    /* Few keys are lost in what the process needs anyway; and sanitizers keep what is freed. */
    if (keys < KEYS_TO_TELL)
        return;
    CHECK(left * 20 < peak);
    CHECK(resident_bytes() * 4 < resident);
}

static void
memory_after_a_peak_goes_back(unsigned long keys)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *filled;

    check_test = "memory_after_a_peak_goes_back";
    options.payload_size = PAYLOAD;
    CHECK(cdedupe_create(&options, &filled) == CDEDUPE_OK);
    for (int round = 0; round < PEAKS; round++)
        fill_and_empty(filled, keys);
    cdedupe_destroy(filled);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        rounds = strtoull(argv[1], NULL, 10);
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
        run_scene(&scenes[i]);
    memory_after_a_peak_goes_back(argc > 2 ? strtoul(argv[2], NULL, 10) : 1000000);
    return check_finish();
}
