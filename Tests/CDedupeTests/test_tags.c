/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What belongs to a pending key rather than to one of its updates: its tag. Rule by rule; then tags with
 * memory that runs out, and with producers at work. test_exhaustive.c compares tags with the model in all short sequences.
 *
 * The subject keeps book of tags; it gives one to every other update before it is asked for it, and to the rest when
 * they need one.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "random.h"
#include "subject.h"

static subject_t subject;

#define TICK ((uint64_t)1000000) /* A millisecond of the clock. */

static uint64_t now;

static uint64_t
clock_by_hand(void *context)
{
    CHECK(context == NULL);
    return now;
}

static void
open_with_tags(bool tags)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.tags = tags;
    options.clock = clock_by_hand;
    now = 1000 * TICK;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
}

/* Both ways round: which update gets its tag early. */
static void
with_tags(void (*test)(void))
{
    for (uint64_t first = 0; first < 2; first++) {
        open_with_tags(true);
        subject.turns = first;
        test();
        subject_collect(&subject, 3);
        subject_close(&subject);
    }
}

static void
put_back(size_t count)
{
    uint64_t back[16];

    CHECK_EQ(subject_put_back(&subject, count, back), CDEDUPE_OK);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Tags, by a subject                                                                                   */

static void
a_pending_key_has_one_tag_whatever_replaces_its_update(void)
{
    put(&subject, "a", 1);
    put(&subject, "a", 2);
    put(&subject, "b", 3);
    del(&subject, "b");
    del_id(&subject, "c", 4);
    put(&subject, "c", 5);
    CHECK_EQ(subject.tags.living, 2);
    CHECK_TEXT(step(&subject), "+a=2 +c=5");
    CHECK(subject.items[0].tagged && subject.items[1].tagged);
}

static void
a_deletion_that_somebody_sent_has_one(void)
{
    del(&subject, "a");
    CHECK_TEXT(step(&subject), "-a");
    CHECK(subject.items[0].tagged);
}

static void
a_deletion_that_nobody_sent_has_none(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
    CHECK(!subject.items[0].tagged && !subject.items[1].tagged);
}

/* Not even that of the update which the restart dropped, and which nobody has cleared up. */
static void
so_if_something_was_pending_before_the_restart(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    put(&subject, "a", 3);
    del(&subject, "b");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(subject_take(&subject, 10), CDEDUPE_OK);
    CHECK(!subject.items[0].tagged && !subject.items[1].tagged);
    subject_collect(&subject, 3);
    CHECK_EQ(subject.tags.living, 0);
}

static void
what_replaces_a_deletion_that_nobody_sent_has_one(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(del(&subject, "b"), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(subject.tags.living, 4); /* Two in the batch. */
    CHECK_EQ(subject_take(&subject, 10), CDEDUPE_OK);
    CHECK(subject.items[0].tagged && subject.items[1].tagged);
}

static void
so_if_a_restart_dropped_the_deletion(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    subject_restart(&subject);
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(del(&subject, "b"), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(step(&subject), "~a=2 -b");
    CHECK(subject.items[0].tagged && subject.items[1].tagged);
}

static void
after_a_restart_a_key_has_the_old_tag_or_a_new_one(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    del(&subject, "c");
    subject_restart(&subject);
    put(&subject, "a", 3);
    put(&subject, "b", 4);
    put(&subject, "c", 5);
    CHECK_TEXT(step(&subject), "+a=3 +b=4 +c=5");
}

static void
tags_that_a_restart_dropped_come_back(void)
{
    put(&subject, "a", 1);
    del(&subject, "b");
    subject_restart(&subject);
    subject_collect(&subject, 1);
    CHECK_EQ(subject.tags.living, 0);
    CHECK_EQ(subject.payloads.living, 0);
}

static void
what_is_put_back_has_its_tag_again(void)
{
    put(&subject, "a", 1);
    del(&subject, "b");
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "+a=1 -b | <in-sync>");
    put_back(3);
    CHECK_EQ(subject.tags.living, 2);
    CHECK_TEXT(step(&subject), "+a=1 -b | <in-sync>");
    CHECK(subject.items[0].tagged && subject.items[1].tagged);
}

static void
what_takes_the_place_of_the_put_back_has_one(void)
{
    put(&subject, "a", 1);
    put(&subject, "b", 2);
    CHECK_TEXT(step(&subject), "+a=1 +b=2");
    put(&subject, "a", 3);
    del(&subject, "b");
    put_back(2);
    subject_collect(&subject, 3); /* That of the deletion which met a value that was new. */
    CHECK_EQ(subject.tags.living, 1);
    CHECK_TEXT(step(&subject), "+a=3");
}

/* The tag of a deletion that met a value which was new; it has no payload, and nobody has cleared it up. */
static void
a_tag_alone_is_no_payload(void)
{
    put(&subject, "a", 1);
    del(&subject, "b");
    CHECK_TEXT(step(&subject), "+a=1 -b");
    del(&subject, "a");
    put_back(2);
    CHECK_NO_FAULT(subject_validate(&subject));
    put(&subject, "b", 2);
    CHECK_NO_FAULT(subject_validate(&subject));
    CHECK_TEXT(step(&subject), "+b=2");
}

static void
what_a_restart_dropped_of_the_put_back_comes_back(void)
{
    put(&subject, "a", 1);
    del(&subject, "b");
    CHECK_TEXT(step(&subject), "+a=1 -b");
    subject_restart(&subject);
    put_back(2);
    CHECK_EQ(subject.tags.living, 0);
}

static void
a_deletion_that_nobody_sent_goes_back_without(void)
{
    put(&subject, "a", 1);
    CHECK_TEXT(step(&subject), "+a=1");
    subject_restart(&subject);
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
    put_back(2);
    CHECK_TEXT(step(&subject), "-a | <in-sync>");
    CHECK(!subject.items[0].tagged);
    put(&subject, "a", 2);
    put_back(2);
    CHECK_TEXT(step(&subject), "~a=2 | <in-sync>");
    CHECK(subject.items[0].tagged);
}

/* The in-sync is long past when a deletion is put back: it is owed at once. */
static void
a_deletion_owed_at_once_has_its_own(void)
{
    for (int again = 0; again < 2; again++) {
        put(&subject, "a", 1);
        CHECK_EQ(subject_take(&subject, 10), CDEDUPE_OK);
        del(&subject, "a");
        CHECK_EQ(subject_take(&subject, 10), CDEDUPE_OK);
        if (again == 1) { /* This is dropped, and nobody has cleared it up. */
            put(&subject, "a", 2);
        }
        subject_restart(&subject);
        subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
        put_back(1);
        CHECK_EQ(subject_take(&subject, 10), CDEDUPE_OK);
        CHECK_EQ(subject.items[0].kind, CDEDUPE_ITEM_DELETED);
        CHECK(subject.items[0].tagged);
    }
}

static void
leftovers_have_theirs(void)
{
    put(&subject, "a", 1);
    del(&subject, "b");
    subject_restart(&subject);
    put(&subject, "b", 2);
    del(&subject, "c");
    subject_stop(&subject);
    put(&subject, "d", 3);
    CHECK(subject.tags.living >= 2);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Tags, call by call                                                                                   */

static cdedupe_t *
create_with_tags(size_t size, size_t alignment, cdedupe_result_t wanted)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    options.tag_size = size;
    options.tag_alignment = alignment;
    CHECK_EQ(cdedupe_create(&options, &buffer), wanted);
    CHECK_EQ(buffer != NULL, wanted == CDEDUPE_OK);
    return buffer;
}

static void
tags_have_limits_as_payloads_do(void)
{
    cdedupe_destroy(create_with_tags(1, 1, CDEDUPE_OK));
    cdedupe_destroy(create_with_tags(CDEDUPE_PAYLOAD_MAX, CDEDUPE_ALIGNMENT_MAX, CDEDUPE_OK));
    create_with_tags(CDEDUPE_PAYLOAD_MAX + 1, 8, CDEDUPE_INVALID_ARGUMENT);
    create_with_tags(8, 2 * CDEDUPE_ALIGNMENT_MAX, CDEDUPE_INVALID_ARGUMENT);
    create_with_tags(8, 0, CDEDUPE_INVALID_ARGUMENT);
    create_with_tags(8, 12, CDEDUPE_INVALID_ARGUMENT);
}

static void
a_tags_memory_is_aligned_and_its_own(void)
{
    enum { MANY = 3000, SIZE = 72, ALIGNMENT = 64 };
    static cdedupe_tag_t tags[MANY];
    cdedupe_t *buffer = create_with_tags(SIZE, ALIGNMENT, CDEDUPE_OK);

    CHECK_EQ(cdedupe_acquire_tags(buffer, tags, MANY), CDEDUPE_OK);
    for (size_t i = 0; i < MANY; i++) {
        CHECK_EQ((uintptr_t)cdedupe_tag(buffer, tags[i]) % ALIGNMENT, 0);
        memset(cdedupe_tag(buffer, tags[i]), (int)(i % 251), SIZE);
    }
    for (size_t i = 0; i < MANY; i++) {
        const unsigned char *bytes = cdedupe_tag(buffer, tags[i]);

        CHECK(bytes[0] == i % 251 && bytes[SIZE - 1] == i % 251);
    }
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_discard_tags(buffer, tags, MANY);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* Whatever they say. */
static void
bytes_have_no_use_for_such_options(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *buffer;

    options.payload_size = SIZE_MAX;
    options.payload_alignment = 3;
    options.tag_size = SIZE_MAX;
    options.tag_alignment = 3;
    options.revision_offset = SIZE_MAX;
    options.weight_offset = SIZE_MAX;
    options.suppress_unchanged = true;
    options.maximum_pending_bytes = 100;
    CHECK_EQ(cdedupe_bytes_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, NULL), CDEDUPE_OK);
    cdedupe_bytes_destroy(buffer);
}

static void
without_the_option_there_are_none(void)
{
    cdedupe_t *buffer = create_with_tags(0, 8, CDEDUPE_OK);
    cdedupe_tag_t tag = 7;

    CHECK_EQ(cdedupe_acquire_tags(buffer, &tag, 1), CDEDUPE_INVALID_ARGUMENT);
    cdedupe_destroy(buffer);
    open_with_tags(false);
    put(&subject, "a", 1); /* The subject checks that none appear. */
    del(&subject, "a");
    subject_restart(&subject);
    subject_collect(&subject, 1);
    subject_close(&subject);
}

static cdedupe_slot_t
slot_in(cdedupe_t *buffer)
{
    cdedupe_slot_t slot = 0;

    CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK);
    return slot;
}

/* It is not counted, it changes nothing, and what is handed in is handed back. */
static void
an_update_that_needs_a_tag_was_not_put(void)
{
    cdedupe_t *buffer = create_with_tags(8, 8, CDEDUPE_OK);
    cdedupe_update_t updates[3] = {
        {.key = "a", .key_length = 1}, {.key = "b", .key_length = 1}, {.key = "c"}};
    cdedupe_statistics_t statistics;
    cdedupe_slot_t given[3];
    cdedupe_tag_t tag;

    for (size_t i = 0; i < 3; i++) {
        updates[i].key_length = 1;
        updates[i].slot = given[i] = slot_in(buffer);
    }
    CHECK_EQ(cdedupe_acquire_tags(buffer, &updates[0].tag, 1), CDEDUPE_OK);
    tag = updates[0].tag;
    CHECK_EQ(cdedupe_put(buffer, updates, 3), CDEDUPE_INCOMPLETE);
    CHECK_EQ(updates[0].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(updates[0].tag, 0);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_NEEDS_TAG);
    CHECK_EQ(updates[1].slot, given[1]);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    CHECK_EQ(updates[2].slot, given[2]);
    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    CHECK_EQ(statistics.received, 1);
    CHECK_EQ(statistics.pending_keys, 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    CHECK_EQ(cdedupe_acquire_tags(buffer, &updates[1].tag, 1), CDEDUPE_OK);
    CHECK(updates[1].tag != tag);
    CHECK_EQ(cdedupe_acquire_tags(buffer, &updates[2].tag, 1), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put(buffer, updates + 1, 2), CDEDUPE_OK);
    CHECK_EQ(updates[2].outcome, CDEDUPE_OUTCOME_QUEUED);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* The key was new: a call that goes no further leaves no trace of it. */
static void
it_may_be_given_up(void)
{
    cdedupe_t *buffer = create_with_tags(8, 8, CDEDUPE_OK);
    cdedupe_statistics_t statistics;
    char key[32];

    for (int i = 0; i < 5000; i++) {
        cdedupe_update_t update = {.key = key, .deletion = true};

        update.key_length = (size_t)snprintf(key, sizeof(key), "a key that is given up %d", i);
        CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_INCOMPLETE);
        CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_NEEDS_TAG);
    }
    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    CHECK_EQ(statistics.received, 0);
    CHECK_EQ(statistics.pending_keys, 0);
    CHECK(statistics.memory < 100000);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* What would overflow does not go to the back of the queue: it needs none. */
static void
what_is_refused_needs_no_tag(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_update_t update = {.key = "a", .key_length = 1, .deletion = true};
    cdedupe_t *buffer;

    options.tag_size = 8;
    options.maximum_pending_keys = 1;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_acquire_tags(buffer, &update.tag, 1), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    update.key = "b";
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OVERFLOWED);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OVERFLOWED);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_DROPPED);
    cdedupe_stop(buffer);
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_DROPPED);
    cdedupe_destroy(buffer);
}

static void
a_suppressed_value_needs_no_tag(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.tags = true;
    options.suppress = true;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    put(&subject, "a", 5);
    CHECK_TEXT(step(&subject), "+a=5");
    for (int i = 0; i < 4; i++) { /* With a tag and without. */
        subject.turns++;
        CHECK_EQ(put(&subject, "a", 5), CDEDUPE_OUTCOME_SUPPRESSED);
        CHECK_EQ(subject.tags.living, 0);
    }
    subject_close(&subject);
}

/* Collecting hands out pairs, of which one half may be missing. */
static void
collected_in_pairs(void)
{
    cdedupe_t *buffer = create_with_tags(8, 8, CDEDUPE_OK);
    cdedupe_update_t updates[2] = {{.key = "a", .key_length = 1},
                                   {.key = "b", .key_length = 1, .deletion = true}};
    cdedupe_slot_t slots[4] = {9, 9, 9, 9}, slot;
    cdedupe_tag_t tags[4] = {9, 9, 9, 9}, given[2];
    size_t count, found = 0;

    slot = updates[0].slot = slot_in(buffer);
    CHECK_EQ(cdedupe_acquire_tags(buffer, given, 2), CDEDUPE_OK);
    updates[0].tag = given[0];
    updates[1].tag = given[1];
    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK(cdedupe_has_dropped(buffer));
    while (cdedupe_collect(buffer, slots, tags, 4, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++, found++) {
            CHECK((tags[i] == given[0] && slots[i] == slot) ||
                  (tags[i] == given[1] && slots[i] == 0));
        }
    }
    CHECK_EQ(found, 2);
    CHECK(!cdedupe_has_dropped(buffer));
    cdedupe_destroy(buffer);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Memory runs out                                                                                      */

static hooks_t hooks;

/* What lacked memory is done again, until there is some. */
static void
insist(const char *key, bool deletion, uint64_t id)
{
    subject_update_t update = {key, strlen(key), deletion, id, CDEDUPE_OUTCOME_UNTOUCHED, 0};
    cdedupe_result_t result;

    while ((result = subject_put(&subject, &update, 1)) != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        if (hooks.failures > 3) {
            hooks.fail_at = 0;
        }
    }
}

static void
insist_on_putting_back(size_t count)
{
    uint64_t back[100];

    while (subject_put_back(&subject, count, back) == CDEDUPE_NO_MEMORY) {
        count = subject.left;
        hooks.fail_at = 0;
    }
}

/* Hundreds of keys and tags, restarts, putting back. */
static void
much_happens(void)
{
    char key[32];
    size_t delivered = 0;

    for (uint64_t i = 0; i < 300; i++) {
        snprintf(key, sizeof(key), "a key, and a long one, %d", (int)(i * 7 % 200));
        insist(key, i % 5 == 0, i % 10 == 0 ? 0 : i + 1);
        if (i % 90 == 40) {
            subject_restart(&subject);
        }
        if (i % 60 == 50) {
            CHECK_EQ(subject_take(&subject, 30), CDEDUPE_OK);
            insist_on_putting_back(20);
        }
        if (i % 100 == 70) {
            subject_collect(&subject, 7);
        }
    }
    while (subject_take(&subject, 100) == CDEDUPE_OK) {
        delivered += subject.count;
    }
    CHECK_EQ(subject_statistics(&subject).pending_keys, 0);
    CHECK(delivered > 0);
}

static void
the_nth_allocation_fails(void)
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);
    uint64_t allocations = 0;
    bool failed = true;

    options.hooks = &hooks;
    options.tags = true;
    options.suppress = true;
    options.hash_seed = 1;
    options.merging = true;
    for (uint64_t n = 1; failed; n++) {
        hooks.failures = 0;
        hooks.fail_at = hooks.allocations + n;
        hooks.fail_onwards = n % 2 == 0;
        if (subject_open(&subject, &options) == CDEDUPE_OK) {
            subject.keeps_batch = true;
            CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
            much_happens();
            subject_close(&subject);
        }
        failed = hooks.failures > 0;
        allocations = n;
        CHECK_EQ(hooks.held_blocks, 0);
    }
    CHECK(allocations > 20);
    hooks_close(&hooks);
}

/* A call for many gets all of them or none; what it had by then is free again. */
static void
many_tags_are_acquired_all_or_none(void)
{
    enum { MANY = 2000, FEW = 20 };
    static cdedupe_tag_t tags[MANY];
    cdedupe_options_t options = cdedupe_options();
    cdedupe_statistics_t statistics;
    cdedupe_t *tagged;
    uint64_t memory = 0;

    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    options.tag_size = 64;
    CHECK_EQ(cdedupe_create(&options, &tagged), CDEDUPE_OK);
    for (int round = 0; round < 20; round++) {
        hooks.fail_at = hooks.allocations + 1;
        hooks.fail_onwards = true;
        CHECK_EQ(cdedupe_acquire_tags(tagged, tags, MANY), CDEDUPE_NO_MEMORY);
        hooks.fail_at = 0;
        hooks.fail_onwards = false;
        for (size_t i = 0; i < MANY; i++) {
            CHECK_EQ(tags[i], 0);
        }
        /* What the last round had is there. */
        CHECK_EQ(cdedupe_acquire_tags(tagged, tags, FEW), CDEDUPE_OK);
        cdedupe_discard_tags(tagged, tags, FEW);
        cdedupe_statistics(tagged, &statistics, sizeof(statistics));
        memory = round == 0 ? statistics.memory : memory;
        CHECK_EQ(statistics.memory, memory);
    }
    cdedupe_destroy(tagged);
    hooks_close(&hooks);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Producers at work                                                                                    */

enum { PRODUCERS = 3, KEYS = 20, CALLS = 15000, TAG_FREE = 0x66726565, TAG_USED = 0x75736564 };

typedef struct crowd {
    cdedupe_t *buffer;
    atomic_uint running;
    atomic_ullong made, gone; /* Tags. */
} crowd_t;

typedef struct mark {
    uint32_t state;
    uint32_t key;
} mark_t;

typedef struct member {
    crowd_t *crowd;
    uint64_t random;
} member_t;

static void
end_tag(crowd_t *crowd, cdedupe_tag_t tag)
{
    if (tag != 0) {
        mark_t *mark = cdedupe_tag(crowd->buffer, tag);

        CHECK_EQ(mark->state, TAG_USED);
        mark->state = TAG_FREE;
        cdedupe_discard_tags(crowd->buffer, &tag, 1);
        atomic_fetch_add(&crowd->gone, 1);
    }
}

static cdedupe_tag_t
begin_tag(crowd_t *crowd, uint32_t key)
{
    cdedupe_tag_t tag = 0;

    CHECK_EQ(cdedupe_acquire_tags(crowd->buffer, &tag, 1), CDEDUPE_OK);
    *(mark_t *)cdedupe_tag(crowd->buffer, tag) = (mark_t){TAG_USED, key};
    atomic_fetch_add(&crowd->made, 1);
    return tag;
}

static void
produce_one(member_t *member)
{
    crowd_t *crowd = member->crowd;
    uint32_t key = (uint32_t)random_below(&member->random, KEYS);
    uint64_t choice = random_below(&member->random, 100);
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = choice < 20};

    if (choice == 99) {
        CHECK_EQ(cdedupe_restart(crowd->buffer), CDEDUPE_OK);
        CHECK_EQ(cdedupe_put_status(crowd->buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
        return;
    }
    update.slot = choice % 4 == 0 && update.deletion ? 0 : slot_in(crowd->buffer);
    update.tag = choice % 2 == 0 ? begin_tag(crowd, key) : 0;
    if (cdedupe_put(crowd->buffer, &update, 1) == CDEDUPE_INCOMPLETE) {
        CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_NEEDS_TAG);
        update.tag = begin_tag(crowd, key);
        CHECK_EQ(cdedupe_put(crowd->buffer, &update, 1), CDEDUPE_OK);
    }
    cdedupe_discard(crowd->buffer, &update.slot, 1);
    cdedupe_discard(crowd->buffer, &update.displaced, 1);
    end_tag(crowd, update.tag);
    end_tag(crowd, update.displaced_tag);
}

static void *
produce(void *argument)
{
    member_t *member = argument;

    for (size_t i = 0; i < CALLS; i++) {
        produce_one(member);
    }
    atomic_fetch_sub(&member->crowd->running, 1);
    return NULL;
}

static void
consume(crowd_t *crowd, cdedupe_item_t *batch, size_t count, uint64_t *random)
{
    size_t back = (size_t)random_below(random, count + 1), left = back;

    for (size_t i = 0; i < count; i++) {
        const cdedupe_item_t *item = &batch[i];

        CHECK(item->tag != 0 || item->kind == CDEDUPE_ITEM_STATUS ||
              item->kind == CDEDUPE_ITEM_DELETED);
        CHECK(item->tag == 0 ||
              memcmp(&((mark_t *)cdedupe_tag(crowd->buffer, item->tag))->key, item->key, 4) == 0);
    }
    CHECK_EQ(cdedupe_put_back(crowd->buffer, batch + count - back, &left), CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        cdedupe_discard(crowd->buffer, &batch[i].slot, 1);
        end_tag(crowd, batch[i].tag);
    }
}

static void
consume_all(crowd_t *crowd)
{
    cdedupe_item_t batch[16];
    cdedupe_slot_t slots[4];
    cdedupe_tag_t tags[4];
    uint64_t random = 5;
    size_t count;

    for (;;) {
        bool last = atomic_load(&crowd->running) == 0;

        if (cdedupe_take(crowd->buffer, batch, 16, &count) == CDEDUPE_OK) {
            consume(crowd, batch, count, &random);
        } else if (last) {
            break;
        }
        if (random_below(&random, 4) == 0 &&
            cdedupe_collect(crowd->buffer, slots, tags, 4, &count) == CDEDUPE_OK) {
            for (size_t i = 0; i < count; i++) {
                end_tag(crowd, tags[i]);
            }
            cdedupe_discard(crowd->buffer, slots, count);
        }
    }
}

static void
every_tag_comes_back_once_and_goes_with_its_key(void)
{
    static member_t members[PRODUCERS];
    cdedupe_options_t options = cdedupe_options();
    pthread_t threads[PRODUCERS];
    uint64_t cursor = 0;
    cdedupe_tag_t tag = 0;
    crowd_t crowd;

    options.tag_size = sizeof(mark_t);
    CHECK_EQ(cdedupe_create(&options, &crowd.buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(crowd.buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    atomic_init(&crowd.running, PRODUCERS);
    atomic_init(&crowd.made, 0);
    atomic_init(&crowd.gone, 0);
    for (size_t i = 0; i < PRODUCERS; i++) {
        members[i].crowd = &crowd;
        members[i].random = i + 1;
        pthread_create(&threads[i], NULL, produce, &members[i]);
    }
    consume_all(&crowd);
    for (size_t i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_NO_FAULT(cdedupe_validate(crowd.buffer));
    while (cdedupe_drain_next(crowd.buffer, &cursor, &tag) != 0 || tag != 0) {
        atomic_fetch_add(&crowd.gone, tag != 0);
    }
    CHECK_EQ(atomic_load(&crowd.gone), atomic_load(&crowd.made));
    cdedupe_destroy(crowd.buffer);
}

#define RUN_WITH_TAGS(test) (check_test = #test, with_tags(test))

static void
run_tags(void)
{
    RUN_WITH_TAGS(a_pending_key_has_one_tag_whatever_replaces_its_update);
    RUN_WITH_TAGS(a_deletion_that_somebody_sent_has_one);
    RUN_WITH_TAGS(a_deletion_that_nobody_sent_has_none);
    RUN_WITH_TAGS(so_if_something_was_pending_before_the_restart);
    RUN_WITH_TAGS(what_replaces_a_deletion_that_nobody_sent_has_one);
    RUN_WITH_TAGS(so_if_a_restart_dropped_the_deletion);
    RUN_WITH_TAGS(after_a_restart_a_key_has_the_old_tag_or_a_new_one);
    RUN_WITH_TAGS(tags_that_a_restart_dropped_come_back);
    RUN_WITH_TAGS(what_is_put_back_has_its_tag_again);
    RUN_WITH_TAGS(what_takes_the_place_of_the_put_back_has_one);
    RUN_WITH_TAGS(a_tag_alone_is_no_payload);
    RUN_WITH_TAGS(what_a_restart_dropped_of_the_put_back_comes_back);
    RUN_WITH_TAGS(a_deletion_that_nobody_sent_goes_back_without);
    RUN_WITH_TAGS(a_deletion_owed_at_once_has_its_own);
    RUN_WITH_TAGS(leftovers_have_theirs);
    RUN(tags_have_limits_as_payloads_do);
    RUN(a_tags_memory_is_aligned_and_its_own);
    RUN(bytes_have_no_use_for_such_options);
    RUN(without_the_option_there_are_none);
    RUN(an_update_that_needs_a_tag_was_not_put);
    RUN(it_may_be_given_up);
    RUN(what_is_refused_needs_no_tag);
    RUN(a_suppressed_value_needs_no_tag);
    RUN(collected_in_pairs);
    RUN(the_nth_allocation_fails);
    RUN(many_tags_are_acquired_all_or_none);
    RUN(every_tag_comes_back_once_and_goes_with_its_key);
}

int
main(void)
{
    run_tags();
    return check_finish();
}
