/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many keys of mixed lengths that come and go, at both levels: an index and arenas that grow and
 * shrink lose no key, its state or its revision.
 *
 *     test_many_keys [keys]     default 100000
 */
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "subject.h"

static subject_level_t level;
static hooks_t hooks;
static subject_t subject;
static subject_t *const s = &subject;
static uint64_t count = 100000;

static void
open_with(bool suppress)
{
    subject_options_t options = subject_defaults(level);

    memset(&hooks, 0, sizeof(hooks));
    options.batch_size = 1000;
    options.hooks = &hooks;
    options.suppress = suppress;
    options.hash_seed = 1; /* The same allocations each time. */
    CHECK_EQ(subject_open(s, &options), CDEDUPE_OK);
    CHECK_EQ(subject_claim(s, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    s->paranoid = false;
}

static void
close_it(void)
{
    subject_check(s);
    subject_close(s);
    hooks_close(&hooks);
}

/* Keys of mixed lengths: short ones, and now and then one of some kilobytes. */
static size_t
mixed_key(uint64_t number, char *key)
{
    size_t length = number % 1000 == 999 ? 3000 + number % 5000 : 8 + number * 7 % 150;

    memset(key, 'a' + (int)(number % 26), length);
    memcpy(key, &number, sizeof(number));
    return length;
}

static void
put_mixed(uint64_t number, bool deletion, uint64_t id)
{
    static char key[8192];
    subject_update_t update = {key, 0, deletion, id, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};

    update.length = mixed_key(number, key);
    CHECK_EQ(subject_put(s, &update, 1), CDEDUPE_OK);
}

/* Takes everything and checks that it is the keys from..to, in order. */
static void
take_mixed(uint64_t from, uint64_t to, cdedupe_item_kind_t kind)
{
    static char key[8192];
    size_t index;

    while (subject_take(s, 1000) == CDEDUPE_OK) {
        for (index = 0; index < s->count; index++, from++) {
            size_t length = mixed_key(from, key);

            if (s->items[index].length != length || memcmp(s->items[index].key, key, length) != 0 ||
                s->items[index].kind != kind) {
                CHECK_EQ(s->items[index].length, length);
                CHECK_EQ(s->items[index].kind, kind);
                CHECK(memcmp(s->items[index].key, key, length) == 0);
            }
        }
    }
    CHECK_EQ(from, to);
}

static void
many_keys_come_and_go(void)
{
    uint64_t number;
    uint64_t peak;

    open_with(false);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).pending_keys, count);
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    subject_check(s);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 2);
    }
    take_mixed(0, count, CDEDUPE_ITEM_UPDATED);
    for (number = 0; number < count; number++) {
        put_mixed(number, number % 2 == 1, 1);
    }
    subject_check(s);
    peak = subject_statistics(s).memory;
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    CHECK_EQ(subject_statistics(s).live_keys, (count + 1) / 2);
    subject_check(s);
    for (number = 0; number < count; number += 2) {
        put_mixed(number, true, 0);
    }
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).live_keys, 0);
    /* After a peak, memory goes back; not all of it, which few keys would show. */
    if (!CHECK(subject_statistics(s).memory <= peak / 2 || count < 20000)) {
        printf("  %" PRIu64 " of %" PRIu64 " bytes are still held\n", subject_statistics(s).memory,
               peak);
    }
    for (number = 0; number < count; number++) { /* And it works as on the first day. */
        put_mixed(number, false, number + 1);
    }
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    subject_check(s);
    close_it();
}

static void
many_keys_cancelled_or_dropped(void)
{
    uint64_t number;

    open_with(false);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    for (number = 0; number < count; number += 2) {
        put_mixed(number, true, 0); /* Out of the middle of the queue. */
    }
    subject_check(s);
    CHECK_EQ(subject_statistics(s).pending_keys, count / 2);
    CHECK_EQ(subject_restart(s), CDEDUPE_OK);
    subject_check(s);
    for (number = 0; number < count; number++) {
        put_mixed(number, false, number + 1);
    }
    subject_check(s);
    take_mixed(0, count, CDEDUPE_ITEM_NEW);
    CHECK_EQ(subject_restart(s), CDEDUPE_OK);
    CHECK_EQ(subject_status(s, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(subject_statistics(s).synthesized_deletions, count);
    subject_check(s);
    subject_collect(s, 64);
    while (subject_take(s, 1000) == CDEDUPE_OK) {
    }
    CHECK_EQ(subject_statistics(s).live_keys, 0);
    subject_check(s);
    close_it();
}

/*
 * Many keys, an index that grows and shrinks, slabs that go and come: each key keeps its own
 * revision.
 */
static void
many_keys_keep_their_revisions(void)
{
    const int many = (int)(count / 20);
    char key[32];

    open_with(true);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < many; i++) {
            bool is_known = round > 0 && i % 3 != 0;

            snprintf(key, sizeof(key), "key %d", i);
            CHECK_EQ(put(s, key, (uint64_t)(i % 9) + 1),
                     is_known ? CDEDUPE_OUTCOME_SUPPRESSED : CDEDUPE_OUTCOME_QUEUED);
        }
        while (subject_take(s, 100) == CDEDUPE_OK) {
        }
        for (int i = 0; i < many; i += 3) {
            snprintf(key, sizeof(key), "key %d", i);
            del(s, key);
        }
        while (subject_take(s, 100) == CDEDUPE_OK) {
        }
        subject_restart(s);
        CHECK_NO_FAULT(subject_validate(s));
    }
    close_it();
}

/* Eight bytes more for each key, as far as that can be seen from outside. */
static void
it_takes_eight_bytes_for_each_key(void)
{
    const int many = (int)count;
    uint64_t memory[2];

    for (int suppress = 0; suppress < 2; suppress++) {
        char key[32];

        open_with(suppress != 0);
        for (int i = 0; i < many; i++) {
            snprintf(key, sizeof(key), "key %d", i);
            put(s, key, 1);
            if (i % 100 == 99) {
                subject_take(s, 100);
            }
        }
        memory[suppress] = subject_statistics(s).memory;
        close_it();
    }
    CHECK(memory[1] >= memory[0]);
    CHECK(memory[1] - memory[0] <= 12 * count);
}

static void
describe(FILE *out)
{
    fprintf(out, "  at the %s level\n", level == SUBJECT_BYTES ? "bytes" : "handle");
}

int
main(int argc, char **argv)
{
    if (argc > 1) {
        count = strtoull(argv[1], NULL, 10);
    }
    check_describe = describe;
    for (level = SUBJECT_BYTES; level <= SUBJECT_HANDLES; level++) {
        RUN(many_keys_come_and_go);
        RUN(many_keys_cancelled_or_dropped);
        RUN(many_keys_keep_their_revisions);
    }
    level = SUBJECT_HANDLES;
    RUN(it_takes_eight_bytes_for_each_key);
    return check_finish();
}
