/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cdedupe_validate() detects each broken invariant. The test uses the core's internals: it breaks
 * one invariant at a time, expects the text that names the invariant, and repairs it.
 */
#include <string.h>

#include "calls/calls.h"
#include "check.h"

enum { KEYS = 40 };

static void
put(cdedupe_t *buffer, unsigned char key)
{
    cdedupe_update_t update = {.key = &key, .key_length = 1};

    CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, &update.displaced, 1);
}

/* Some keys are live, some pending, some both, some garbage; two statuses are queued. */
static cdedupe_t *
make_busy_buffer(void)
{
    cdedupe_t *buffer = NULL;
    cdedupe_item_t items[KEYS];
    size_t count;

    CHECK(cdedupe_create(NULL, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    for (unsigned char key = 0; key < KEYS / 2; key++)
        put(buffer, key);
    CHECK(cdedupe_take(buffer, items, KEYS, &count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    for (unsigned char key = 10; key < 30; key++)
        put(buffer, key);
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS) == CDEDUPE_OK);
    for (unsigned char key = 5; key < 12; key++)
        put(buffer, key);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_STATUS_WAIT_FOR_DATASTORE) == CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return buffer;
}

#define IS_TOLD(fault) CHECK_TEXT(cdedupe_validate(buffer), (fault))

#define BREAK(what, value, fault)                 \
    do {                                          \
        __typeof__(what) before = (what);         \
        (what) = (value);                         \
        IS_TOLD(fault);                           \
        (what) = before;                          \
        CHECK_NO_FAULT(cdedupe_validate(buffer)); \
    } while (0)

/* The entry of the n-th update in a list. */
static struct entry *
listed_entry(cdedupe_t *buffer, uint32_t list, unsigned n)
{
    uint32_t link = ring_first(&buffer->links, list);

    while (item_is_status(link_at(&buffer->links, link)->item) || n-- > 0)
        link = link_at(&buffer->links, link)->next;
    return entry_at(&buffer->entries, link_at(&buffer->links, link)->item);
}

static struct entry *
idle_entry(cdedupe_t *buffer)
{
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        struct entry *entry = entry_at(&buffer->entries, number++);

        if (entry->word != 0 && !(entry->word & WORD_PENDING))
            return entry;
    }
    return NULL;
}

static void
words_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();
    struct entry *one = listed_entry(buffer, buffer->queue.ring, 0),
                 *two = listed_entry(buffer, buffer->queue.ring, 1);
    struct entry *stale = listed_entry(buffer, buffer->queue.dropped, 0),
                 *idle = idle_entry(buffer);
    uint32_t number = link_at(&buffer->links, one->link)->item;
    struct reserve reserve;
    cdedupe_pin_t pin;

    CHECK(cdedupe_pin(buffer, "dead", 4, &pin) == CDEDUPE_OK);
    CHECK(cdedupe_unpin(buffer, pin) == CDEDUPE_OK);
    BREAK(entry_at(&buffer->entries, pin)->shape, 4 + SHAPE_PIN, "entry: dead, but pinned");
    BREAK(one->word, one->word & ~WORD_PENDING,
          "entry: not pending, but has a payload or a deletion");
    BREAK(one->word, one->word ^ WORD_LIVE, "entries: the count of live keys is wrong");
    BREAK(one->word, one->word & ~WORD_INDEXED, "entry: a word that is not zero is not indexed");
    BREAK(one->word,
          word_pending(one->word, word_slot(one->word), buffer->resync.restart + 1, false),
          "ring: a link's entry is not current");
    BREAK(stale->word,
          word_pending(stale->word, word_slot(stale->word), buffer->resync.restart, false),
          "dropped: a link's entry is not stale");
    BREAK(idle->word, WORD_VACANT, "entry: neither pending, idle nor pinned");
    BREAK(idle->word, idle->word & ~WORD_LIVE, "entry: neither pending, idle nor pinned");
    BREAK(idle->word, idle->word | WORD_DELETION,
          "entry: not pending, but has a payload or a deletion");
    BREAK(idle->word, idle->word | (uint64_t)1 << 32,
          "entry: not pending, but has a payload or a deletion");
    BREAK(one->shape, one->shape + SHAPE_PIN, "entries: the count of pinned keys is wrong");
    BREAK(buffer->statistics.pinned_keys, 1, "entries: the count of pinned keys is wrong");
    BREAK(one->word, 0, "index: a dead entry is indexed");
    BREAK(one->hash, one->hash ^ 1, "entry: its hash is not its key's");
    BREAK(one->hash, one->hash ^ (uint64_t)1 << 63,
          "index: a stored fingerprint is not its entry's");
    BREAK(one->key[0], 200, "entry: its hash is not its key's");
    BREAK(one->link, two->link, "entry: pending, but its link names another entry");

    index_remove(&buffer->index, one->hash, number);
    IS_TOLD("entry: not found by its key");
    reserve_init(&reserve);
    CHECK(index_add(&buffer->index, one->hash, number, &reserve));
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

static void
slots_are_checked(void)
{
    enum { MANY = MAGAZINE_SIZE + 100 };
    cdedupe_t *buffer = make_busy_buffer();
    struct entry *one = listed_entry(buffer, buffer->queue.ring, 0),
                 *two = listed_entry(buffer, buffer->queue.ring, 1);
    cdedupe_slot_t slots[MANY];
    struct tally *tally;
    uint32_t free_slot;
    uint64_t word;

    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    cdedupe_discard(buffer, slots, MANY);
    free_slot = buffer->slots.slabs[buffer->slots.classes[0].head].free_head;
    CHECK(free_slot != 0);
    BREAK(one->word, word_pending(one->word, word_slot(two->word), buffer->resync.restart, false),
          "slots: one is owned twice, or free and owned");
    BREAK(one->word, word_pending(one->word, free_slot, buffer->resync.restart, false),
          "slots: one is owned twice, or free and owned");
    /* While a thread replaces, slots are not judged. */
    tally = context_begin_tally(&buffer->contexts);
    word = one->word;
    one->word = word_pending(word, free_slot, buffer->resync.restart, false);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    context_end_tally(tally, 0);
    IS_TOLD("slots: one is owned twice, or free and owned");
    one->word = word;
    cdedupe_destroy(buffer);
}

static void
the_queue_is_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();
    struct link *first = link_at(&buffer->links, ring_first(&buffer->links, buffer->queue.ring));
    uint32_t second_number = first->next,
             last_number = ring_last(&buffer->links, buffer->queue.ring);
    struct link *second = link_at(&buffer->links, second_number),
                *last = link_at(&buffer->links, last_number);
    uint32_t key = second->item, status = last->item;

    CHECK(item_is_status(first->item) && !item_is_status(key) && item_is_status(status));
    BREAK(second->item, ITEM_STATUS, "entry: pending, but its link names another entry");
    BREAK(second->previous, buffer->queue.ring, "ring: the links are torn");
    BREAK(first->next, second->next, "ring: the links are torn");
    BREAK(link_at(&buffer->links, buffer->queue.ring)->previous, first->next,
          "ring: the end is torn");

    /* The last status changes places with the key behind the first. */
    second->item = status, last->item = key;
    entry_at(&buffer->entries, key)->link = last_number;
    IS_TOLD("ring: two statuses are neighbours");
    second->item = key, last->item = status;
    entry_at(&buffer->entries, key)->link = second_number;
    CHECK_NO_FAULT(cdedupe_validate(buffer));

    cdedupe_destroy(buffer);
}

static void
counters_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();
    cdedupe_statistics_t *statistics = &buffer->statistics;
    struct lock_scope hold;
    uint32_t link;

    BREAK(statistics->pending_keys, statistics->pending_keys + 1, "ring: the counters are wrong");
    BREAK(statistics->pending_statuses, 0, "ring: the counters are wrong");
    BREAK(statistics->live_keys, 0, "entries: the count of live keys is wrong");
    BREAK(statistics->received, statistics->received + 1,
          "statistics: an update ended in no way, or in two");
    BREAK(statistics->dropped, 0, "statistics: an update ended in no way, or in two");
    BREAK(buffer->queue.uncleared, 0, "dropped: the count is wrong");
    BREAK(buffer->index.count, buffer->index.count + 1, "index: the count is wrong");
    BREAK(buffer->sink.asleep, true, "loop: asleep although it has something to do");
    BREAK(buffer->retired.open.count, buffer->retired.open.count + 1,
          "entries: one is neither alive, borrowed, retired nor free");

    scope_init(&hold, buffer);
    link = link_new(&hold, 0);
    IS_TOLD("links: one is in no list");
    link_free(&hold, link);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

static void
keep_the_newer(void *context, void *older, void *newer)
{
    (void)context, (void)older, (void)newer;
}

/* A buffer that merges and weighs. */
static cdedupe_t *
make_merging_buffer(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer = NULL;
    cdedupe_update_t updates[4] = {
        {.key = "a", .key_length = 1},
        {.key = "b", .key_length = 1},
        {.key = "c", .key_length = 1, .deletion = true},
        {.key = "a", .key_length = 1},
    };
    uint64_t weight = 3;

    options.payload_size = sizeof(weight);
    options.merge = keep_the_newer;
    options.maximum_pending_bytes = 100;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    for (size_t i = 0; i < 4; i++) {
        CHECK(cdedupe_acquire(buffer, &updates[i].slot, 1) == CDEDUPE_OK);
        memcpy(cdedupe_payload(buffer, updates[i].slot), &weight, sizeof(weight));
    }
    CHECK(cdedupe_put(buffer, updates, 4) == CDEDUPE_OK);
    CHECK(updates[3].outcome == CDEDUPE_OUTCOME_REPLACED);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return buffer;
}

static void
merges_and_weights_are_checked(void)
{
    cdedupe_t *buffer = make_merging_buffer();
    struct entry *value = listed_entry(buffer, buffer->queue.ring, 1);
    struct entry *deletion = listed_entry(buffer, buffer->queue.ring, 2);
    uint64_t *payload = arena_at(&buffer->slots, word_slot(value->word));

    CHECK(buffer->statistics.pending_bytes == 9);
    BREAK(buffer->statistics.pending_bytes, 6, "entries: the sum of the pending weights is wrong");
    BREAK(*payload, 4, "entries: the sum of the pending weights is wrong");
    BREAK(deletion->word, deletion->word | WORD_MERGE_BARRIER,
          "entry: has a merge barrier, but is not a pending value");
    BREAK(buffer->bounds.overflowed, true, "overflow: the queue is not empty");
    cdedupe_destroy(buffer);

    buffer = make_busy_buffer();
    value = listed_entry(buffer, buffer->queue.ring, 0);
    BREAK(value->word, value->word | WORD_MERGE_BARRIER,
          "entry: has a merge barrier, but is not a pending value");
    cdedupe_destroy(buffer);
}

/*
 * After a stop inside the merge callback the loop sleeps until the merging call has unlocked the
 * merge lock and looked for it. Validation may come between the two.
 */
static void
validate_afterAStopInsideAMerge_acceptsALoopThatIsAboutToBeWoken(void)
{
    cdedupe_t *buffer = make_merging_buffer();

    buffer->sink.asleep = true;
    buffer->end.stopped = 1;
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

static void
arenas_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();

    BREAK(buffer->entries.used, buffer->entries.used + 1, "arena: used cells do not add up");
    BREAK(buffer->links.used, buffer->links.used - 1, "arena: used cells do not add up");
    BREAK(buffer->slots.slabs[1].used, buffer->slots.slabs[1].used + 1,
          "arena: a slab counts more cells than it has");
    BREAK(buffer->links.classes[0].head, 0, "arena: slabs of a class do not add up");
    BREAK(buffer->links.classes[0].slabs, 7, "arena: slabs of a class do not add up");
    cdedupe_destroy(buffer);
}

int
main(void)
{
    RUN(words_are_checked);
    RUN(slots_are_checked);
    RUN(the_queue_is_checked);
    RUN(counters_are_checked);
    RUN(merges_and_weights_are_checked);
    RUN(validate_afterAStopInsideAMerge_acceptsALoopThatIsAboutToBeWoken);
    RUN(arenas_are_checked);
    return check_finish();
}
