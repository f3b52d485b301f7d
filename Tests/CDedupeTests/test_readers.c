/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that readers without the lock can still reach, and other states that need access to the
 * core's internals: read sections that stay open, magazines that are claimed elsewhere, and keys
 * whose hashes are alike. One thread does everything, so that each state occurs every time. The
 * index is compiled into this file.
 */
#include "state/index.c"

#include <sched.h>
#include <stdlib.h>

#include "calls/calls.h"
#include "check.h"
#include "hooks.h"

static hooks_t allocator;

static cdedupe_t *
open_buffer(cdedupe_options_t options)
{
    cdedupe_t *buffer = NULL;

    memset(&allocator, 0, sizeof(allocator));
    if (options.allocate == NULL)
        hooks_use(&allocator, &options);
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    return buffer;
}

static void
close_buffer(cdedupe_t *buffer)
{
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    hooks_close(&allocator);
}

static cdedupe_slot_t
acquire_one(cdedupe_t *buffer)
{
    cdedupe_slot_t slot;

    CHECK(cdedupe_acquire(buffer, &slot, 1) == CDEDUPE_OK);
    return slot;
}

static cdedupe_outcome_t
put(cdedupe_t *buffer, const void *key, size_t length, bool deletion)
{
    cdedupe_update_t update = {.key = key, .key_length = length, .deletion = deletion};

    if (!deletion)
        update.slot = acquire_one(buffer);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
    return (cdedupe_outcome_t)update.outcome;
}

static cdedupe_outcome_t
put_number(cdedupe_t *buffer, uint32_t key, bool deletion)
{
    return put(buffer, &key, sizeof(key), deletion);
}

/* ---------------------------------------------------------------------------------------------- */
/* Readers                                                                                        */

enum { READERS = 2, SEEN_MAX = 200, KEYS = 4000 };

/* A section, and what could be reached at its beginning. */
struct reader {
    struct context *context; /* NULL: not in a section. */
    const void *tables[SEEN_MAX];
    size_t table_count;
    uint32_t entries[KEYS];
    size_t entry_count;
};

static struct reader readers[READERS];

static void
note_table(struct reader *reader, const void *table)
{
    if (CHECK(reader->table_count < SEEN_MAX))
        reader->tables[reader->table_count++] = table;
}

static void
begin_read_section(struct reader *reader, cdedupe_t *buffer)
{
    struct directory *directory = buffer->index.directory;
    uint32_t number = 0;

    reader->context = context_claim(&buffer->contexts);
    reader->table_count = reader->entry_count = 0;
    note_table(reader, directory);
    for (size_t i = 0; i < (size_t)1 << directory->depth;
         i += (size_t)1 << (directory->depth - directory->sets[i]->depth)) {
        note_table(reader, directory->sets[i]);
        note_table(reader, directory->sets[i]->map.map);
    }
    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        if (entry_at(&buffer->entries, number)->word != 0)
            reader->entries[reader->entry_count++] = number;
        number++;
    }
}

static void
end_read_section(struct reader *reader, cdedupe_t *buffer)
{
    context_give_back(&buffer->contexts, reader->context);
    reader->context = NULL;
}

/*
 * Whether any reader may be in the block. Maps begin somewhere in theirs, which ck_hs aligns by
 * itself.
 */
static bool
is_reachable(const void *block, size_t size)
{
    const unsigned char *start = block;

    for (unsigned i = 0; i < READERS; i++)
        for (size_t j = 0; readers[i].context != NULL && j < readers[i].table_count; j++)
            if ((const unsigned char *)readers[i].tables[j] >= start &&
                (const unsigned char *)readers[i].tables[j] < start + size)
                return true;
    return false;
}

static void
deallocate_unreachable(void *context, void *memory, size_t size, size_t alignment)
{
    CHECK(!is_reachable(memory, size));
    hooks_deallocate(context, memory, size, alignment);
}

/* An entry that a reader may look at is not free, so nobody else gets it. */
static void
check_entries(cdedupe_t *buffer, const struct reader *reader)
{
    for (size_t i = 0; i < reader->entry_count; i++) {
        const struct slab *slab = &buffer->entries.slabs[reader->entries[i] >> SLAB_SHIFT];
        uint32_t number = slab->free_head;

        if (!CHECK(slab->cells != 0))
            return;
        while (number != 0 && number != reader->entries[i])
            number = entry_at(&buffer->entries, number)->link;
        if (!CHECK_EQ(number, 0))
            return;
    }
}

static void
enter_or_leave(cdedupe_t *buffer)
{
    struct reader *reader = &readers[rand() % READERS];

    if (reader->context == NULL) {
        begin_read_section(reader, buffer);
    } else {
        check_entries(buffer, reader);
        end_read_section(reader, buffer);
    }
}

/*
 * Keys come until there are very many, and go until there are none; readers come and go meanwhile,
 * and overlap.
 */
static void
what_a_section_can_reach_stays(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer;

    hooks_use(&allocator, &options);
    options.deallocate = deallocate_unreachable;
    buffer = open_buffer(options);
    srand(1);
    for (unsigned round = 0; round < 40; round++) {
        uint32_t keys = 1 + (uint32_t)rand() % KEYS;

        for (uint32_t key = 0; key < 2 * keys; key++) {
            put_number(buffer, key % keys, key >= keys);
            if (rand() % 100 == 0)
                enter_or_leave(buffer);
        }
    }
    for (unsigned i = 0; i < READERS; i++)
        if (readers[i].context != NULL)
            end_read_section(&readers[i], buffer);
    close_buffer(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* Waiting for readers                                                                            */

static cdedupe_t *waited_for;
static unsigned yields;
static uint64_t most_in_limbo;

/*
 * In place of the system's: who waits for readers calls it, and here the reader leaves when it is
 * called.
 */
int
sched_yield(void)
{
    uint64_t waiting = waited_for == NULL ? 0 : retired_count(&waited_for->retired);

    yields++;
    most_in_limbo = waiting > most_in_limbo ? waiting : most_in_limbo;
    if (readers[0].context != NULL)
        end_read_section(&readers[0], waited_for);
    return 0;
}

/* A key comes and goes, because it is put and deleted. */
static void
put_and_delete(cdedupe_t *buffer, uint32_t key)
{
    put_number(buffer, key, false);
    put_number(buffer, key, true);
}

/* The same, because it is pinned and unpinned. */
static void
pin_and_unpin(cdedupe_t *buffer, uint32_t key)
{
    cdedupe_pin_t pin;

    CHECK(cdedupe_pin(buffer, &key, sizeof(key), &pin) == CDEDUPE_OK);
    CHECK(cdedupe_unpin(buffer, pin) == CDEDUPE_OK);
}

/*
 * Keys come and go under a reader that does not leave: calls that add keys wait before the dead
 * take too much memory.
 */
static void
bound_dead_entries(void (*come_and_go)(cdedupe_t *buffer, uint32_t key))
{
    enum { MANY = 40000 };
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    waited_for = buffer;
    yields = 0;
    begin_read_section(&readers[0], buffer);
    for (uint32_t key = 0; key < MANY; key++) {
        come_and_go(buffer, key);
        if (yields == 0)
            most_in_limbo = retired_count(&buffer->retired);
    }
    CHECK(yields > 0);
    CHECK(most_in_limbo < MANY);
    CHECK(retired_count(&buffer->retired) < MANY / 2);
    waited_for = NULL;
    close_buffer(buffer);
}

static void
dead_entries_under_a_reader_are_bounded(void)
{
    bound_dead_entries(put_and_delete);
    bound_dead_entries(pin_and_unpin);
}

/* ---------------------------------------------------------------------------------------------- */
/* Keys whose hashes are alike                                                                    */

/* Makes the key's entry one that has another key's hash. */
static void
forge_hash(cdedupe_t *buffer, const void *key, size_t length, uint64_t forged)
{
    uint64_t hash = hash_key(&buffer->secret, key, length);
    uint32_t number = index_find(&buffer->index, &buffer->entries, hash, key, length);
    struct lock_scope hold;
    bool done;

    CHECK(number != 0);
    scope_init(&hold, buffer);
    index_remove(&buffer->index, hash, number);
    entry_at(&buffer->entries, number)->hash = forged;
    do {
        scope_lock(&hold);
        done = index_make_room(&buffer->index, forged, &hold.reserve) &&
               index_add(&buffer->index, forged, number, &hold.reserve);
        scope_unlock(&hold);
    } while (!done && scope_refill(&hold));
    scope_finish(&hold);
    CHECK(done);
}

/* A look-up without the lock finds a key by its fingerprint and then compares the key's bytes. */
static void
keys_with_one_hash_are_told_apart(void)
{
    static const char *const pairs[][2] = {{"a", "b"}, {"ab", "a"}, {"abc", ""}};

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        cdedupe_t *buffer = open_buffer(cdedupe_options());
        const char *key = pairs[i][0], *other = pairs[i][1];

        CHECK_EQ(put(buffer, key, strlen(key), false), CDEDUPE_OUTCOME_QUEUED);
        forge_hash(buffer, key, strlen(key), hash_key(&buffer->secret, other, strlen(other)));
        CHECK_EQ(put(buffer, other, strlen(other), false), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(put(buffer, other, strlen(other), false), CDEDUPE_OUTCOME_REPLACED);
        CHECK_EQ(buffer->statistics.pending_keys, 2);
        cdedupe_destroy(buffer);
        hooks_close(&allocator);
    }
}

static uint64_t
count_alive(const cdedupe_t *buffer)
{
    uint64_t alive = 0;
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0)
        alive += entry_at(&buffer->entries, number++)->word != 0;
    return alive;
}

/*
 * More and more keys with one hash, until an insertion probes longer than ck_hs is willing to and
 * wants a larger map though there is room: whether that attempt or an earlier one lacks memory,
 * nothing is left of it.
 */
static void
an_insertion_without_memory_leaves_nothing(void)
{
    enum { ALIKE = 300 };
    static const char victim[] = "victim";
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    uint64_t hash = hash_key(&buffer->secret, victim, sizeof(victim));
    unsigned failed = 0;

    for (uint32_t key = 0; key < ALIKE; key++) {
        cdedupe_slot_t slot = acquire_one(buffer);
        cdedupe_update_t update = {.key = victim, .key_length = sizeof(victim), .slot = slot};
        uint32_t links, entries;

        put_number(buffer, key, false);
        forge_hash(buffer, &key, sizeof(key), hash);
        links = buffer->links.used,
        entries = buffer->entries.used - (uint32_t)retired_count(&buffer->retired);
        allocator.fail_at = allocator.allocations + 1, allocator.fail_onwards = true;
        if (cdedupe_put(buffer, &update, 1) == CDEDUPE_NO_MEMORY) {
            CHECK_EQ(buffer->links.used, links);
            CHECK_EQ(buffer->entries.used - retired_count(&buffer->retired), entries);
            CHECK_EQ(count_alive(buffer), key + 1);
            failed++;
            cdedupe_discard(buffer, &update.slot, 1);
        } else {
            CHECK_EQ(put(buffer, victim, sizeof(victim), true), CDEDUPE_OUTCOME_CANCELLED);
        }
        allocator.fail_at = 0;
        CHECK_EQ(put(buffer, victim, sizeof(victim), false), CDEDUPE_OUTCOME_QUEUED);
        CHECK_EQ(put(buffer, victim, sizeof(victim), true), CDEDUPE_OUTCOME_CANCELLED);
        CHECK_NO_FAULT(index_validate(&buffer->index, &buffer->entries));
    }
    CHECK(failed > 0);
    cdedupe_destroy(buffer);
    hooks_close(&allocator);
}

/* ---------------------------------------------------------------------------------------------- */
/* Slots                                                                                          */

static uint64_t
slots_in_magazines(const cdedupe_t *buffer)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < buffer->contexts.count; i++)
        sum += buffer->contexts.contexts[i]->slot_count;
    return sum;
}

/*
 * Whichever allocation fails, the slots that were taken before it are given back, and none is
 * shown.
 */
static void
an_acquisition_that_fails_keeps_nothing(void)
{
    enum { MANY = 20000 };
    static cdedupe_slot_t slots[MANY];

    for (uint64_t fail_at = 1; fail_at <= 3; fail_at++) {
        cdedupe_t *buffer = open_buffer(cdedupe_options());

        allocator.fail_at = allocator.allocations + fail_at;
        memset(slots, 0xff, sizeof(slots));
        CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_NO_MEMORY);
        for (size_t i = 0; i < MANY; i++)
            if (!CHECK_EQ(slots[i], 0))
                break;
        CHECK_EQ(buffer->slots.used, slots_in_magazines(buffer));
        CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
        CHECK_EQ(buffer->slots.used, MANY + slots_in_magazines(buffer));
        cdedupe_discard(buffer, slots, MANY);
        close_buffer(buffer);
    }
}

/*
 * After a peak nothing is put into magazines, and one that was claimed when they were emptied is
 * emptied later, when as much again has come back. Some slots of each slab stay out: so none is
 * unmapped, and the arena stays sparse.
 */
static void
magazines_are_empty_after_a_peak(void)
{
    enum { MANY = 40000, SHARE = 100, OUT = MANY / SHARE };
    static cdedupe_slot_t slots[MANY], out[OUT];
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    struct context *one, *two;
    size_t next, end;

    /* Two contexts, each with a full magazine; one stays claimed. */
    one = context_claim(&buffer->contexts), two = context_claim(&buffer->contexts);
    context_give_back(&buffer->contexts, one), context_give_back(&buffer->contexts, two);
    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    CHECK_EQ(slots_in_magazines(buffer), 0);
    two = context_claim(&buffer->contexts);
    while (two->slot_count < MAGAZINE_SIZE) {
        two->slots[two->slot_count] = slots[two->slot_count];
        two->slot_count++;
    }
    cdedupe_discard(buffer, slots + MAGAZINE_SIZE, MAGAZINE_SIZE);
    CHECK_EQ(slots_in_magazines(buffer), 2 * MAGAZINE_SIZE);
    for (size_t i = 2 * MAGAZINE_SIZE; i < MANY; i += SHARE)
        out[i / SHARE] = slots[i], slots[i] = 0;

    for (next = 2 * MAGAZINE_SIZE; !buffer->magazines.sparse; next += SHARE)
        cdedupe_discard(buffer, slots + next, SHARE);
    CHECK_EQ(slots_in_magazines(buffer), MAGAZINE_SIZE);
    context_give_back(&buffer->contexts, two);
    for (end = next + buffer->slots.cells / 4; next < end; next += SHARE)
        cdedupe_discard(buffer, slots + next, SHARE);
    CHECK(buffer->magazines.sparse);
    CHECK_EQ(slots_in_magazines(buffer), 0);
    cdedupe_discard(buffer, slots + next, MANY - next);
    CHECK(buffer->slots.used > 0 && buffer->slots.used <= OUT);
    cdedupe_discard(buffer, out, OUT);
    CHECK_EQ(buffer->slots.used, 0);
    close_buffer(buffer);
}

static void
magazines_whenTheArenaIsNoLongerSparse_areFilledAgain(void)
{
    enum { MANY = 10000, LEFT = 100 };
    static cdedupe_slot_t slots[MANY];
    cdedupe_t *buffer = open_buffer(cdedupe_options());

    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    cdedupe_discard(buffer, slots + LEFT, MANY - LEFT);
    CHECK(buffer->magazines.sparse);
    CHECK(cdedupe_acquire(buffer, slots + LEFT, MANY - LEFT) == CDEDUPE_OK);
    /* The first discard notices that the arena is full again. */
    cdedupe_discard(buffer, slots, 1);
    CHECK(!buffer->magazines.sparse);
    cdedupe_discard(buffer, slots + 1, LEFT - 1);
    CHECK_EQ(slots_in_magazines(buffer), MAGAZINE_SIZE);
    cdedupe_discard(buffer, slots + LEFT, MANY - LEFT);
    close_buffer(buffer);
}

/* One update by cdedupe_single_begin(), _put() and _end(). */
static cdedupe_outcome_t
put_single_number(cdedupe_t *buffer, uint32_t key, bool deletion)
{
    cdedupe_single_t single;

    CHECK(cdedupe_single_begin(buffer, &single) == CDEDUPE_OK);
    CHECK(cdedupe_single_put(buffer, &single, &key, sizeof(key), deletion) == CDEDUPE_OK);
    cdedupe_single_end(buffer, &single);
    return (cdedupe_outcome_t)single.outcome;
}

static void
discard_ofMoreThanAMagazineHolds_fillsIt_andNoMore(void)
{
    enum { MANY = MAGAZINE_SIZE + 1 };
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    cdedupe_slot_t slots[MANY];

    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    CHECK_EQ(slots_in_magazines(buffer), 0);
    cdedupe_discard(buffer, slots, MANY);
    CHECK_EQ(slots_in_magazines(buffer), MAGAZINE_SIZE);
    CHECK_EQ(buffer->slots.used, MAGAZINE_SIZE);
    close_buffer(buffer);
}

/* So few slots never make an arena sparse. */
static void
magazine_ofABufferWithFewSlots_staysFull(void)
{
    enum { MANY = 1000 };
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    cdedupe_slot_t slots[MANY];

    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    cdedupe_discard(buffer, slots, MANY);
    CHECK(!buffer->magazines.sparse);
    CHECK_EQ(slots_in_magazines(buffer), MAGAZINE_SIZE);
    CHECK(cdedupe_acquire(buffer, slots, MAGAZINE_SIZE) == CDEDUPE_OK);
    CHECK_EQ(slots_in_magazines(buffer), 0);
    cdedupe_discard(buffer, slots, MAGAZINE_SIZE);
    CHECK_EQ(slots_in_magazines(buffer), MAGAZINE_SIZE);
    close_buffer(buffer);
}

static cdedupe_t *held_from;
static struct context *held_context;

/* Claims a context at the first allocation, as another thread's call might. */
static void *
allocate_while_a_context_is_claimed(void *context, size_t size, size_t alignment)
{
    if (held_from != NULL && held_context == NULL)
        held_context = context_claim(&held_from->contexts);
    return hooks_allocate(context, size, alignment);
}

/*
 * The single update finds its context's magazine empty, and no free slot. While memory comes for
 * it, another call claims that context. The update goes on with another context, whose magazine is
 * full.
 */
static void
singleUpdate_thatGetsAContextWithAFullMagazine_leavesItAsItIs(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_slot_t slots[MAGAZINE_SIZE + 1], more[1000];
    cdedupe_single_t single;
    struct context *one, *two;
    uint32_t key = 0, free_slots;
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key)};
    cdedupe_t *buffer;

    held_from = NULL, held_context = NULL;
    hooks_use(&allocator, &options);
    options.allocate = allocate_while_a_context_is_claimed;
    buffer = open_buffer(options);
    one = context_claim(&buffer->contexts), two = context_claim(&buffer->contexts);
    context_give_back(&buffer->contexts, one), context_give_back(&buffer->contexts, two);
    /* Of both, the first is the one that this thread finds first. */
    one = context_claim(&buffer->contexts), two = context_claim(&buffer->contexts);
    context_give_back(&buffer->contexts, two);
    CHECK(cdedupe_acquire(buffer, slots, MAGAZINE_SIZE + 1) == CDEDUPE_OK);
    cdedupe_discard(buffer, slots, MAGAZINE_SIZE);
    CHECK_EQ(two->slot_count, MAGAZINE_SIZE);
    context_give_back(&buffer->contexts, one);
    update.slot = slots[MAGAZINE_SIZE];
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
    free_slots = buffer->slots.cells - buffer->slots.used;
    CHECK(free_slots <= 1000 && cdedupe_acquire(buffer, more, free_slots) == CDEDUPE_OK);

    held_from = buffer;
    CHECK(cdedupe_single_begin(buffer, &single) == CDEDUPE_OK);
    CHECK(held_context == one && single.opaque == two);
    CHECK(cdedupe_single_put(buffer, &single, &key, sizeof(key), false) == CDEDUPE_OK);
    CHECK_EQ(single.outcome, CDEDUPE_OUTCOME_REPLACED);
    cdedupe_single_end(buffer, &single);
    CHECK_EQ(two->slot_count, MAGAZINE_SIZE);
    held_from = NULL;
    context_give_back(&buffer->contexts, held_context);
    cdedupe_discard(buffer, more, free_slots);
    close_buffer(buffer);
}

/*
 * After a peak one pending value is left in each slab. Single updates replace these values, and
 * each slab goes back with the value that came out of it.
 */
static void
singleUpdates_onASparseArena_fillNoMagazine_andKeepNoSlab(void)
{
    enum { MANY = 40000, SHARE = 500, LEFT = MANY / SHARE };
    static cdedupe_slot_t slots[MANY];
    cdedupe_t *buffer = open_buffer(cdedupe_options());
    uint64_t before;

    CHECK(cdedupe_acquire(buffer, slots, MANY) == CDEDUPE_OK);
    for (uint32_t i = 0; i < LEFT; i++) {
        cdedupe_update_t update = {.key = &i, .key_length = sizeof(i), .slot = slots[i * SHARE]};

        CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
        slots[i * SHARE] = 0;
    }
    cdedupe_discard(buffer, slots, MANY);
    CHECK(buffer->magazines.sparse);
    CHECK_EQ(buffer->slots.used, LEFT);
    before = allocator.held_bytes;
    for (uint32_t i = 0; i < LEFT; i++) {
        CHECK_EQ(put_single_number(buffer, i, false), CDEDUPE_OUTCOME_REPLACED);
        if (buffer->magazines.sparse)
            CHECK_EQ(slots_in_magazines(buffer), 0);
    }
    CHECK_EQ(buffer->slots.used, LEFT + slots_in_magazines(buffer));
    CHECK(allocator.held_bytes < before / 2);
    close_buffer(buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* The secret                                                                                     */

static bool
hash_alike(const cdedupe_t *one, const cdedupe_t *two, size_t length)
{
    static const unsigned char key[1000];

    return hash_key(&one->secret, key, length) == hash_key(&two->secret, key, length);
}

/* Each of the secret's words is drawn, and each counts, for short keys and for long ones. */
static void
every_buffer_has_a_secret_of_its_own(void)
{
    static const size_t lengths[] = {1, 4, 9, 17, 129, 241, 1000};
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *one = open_buffer(options), *two = open_buffer(options), *seeded[3];

    for (size_t i = 0; i < sizeof(one->secret.words) / sizeof(one->secret.words[0]); i++)
        CHECK(one->secret.words[i] != 0 && one->secret.words[i] != two->secret.words[i]);
    for (unsigned i = 0; i < 3; i++) {
        options.hash_seed = 1 + i / 2;
        seeded[i] = open_buffer(options);
    }
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        CHECK(!hash_alike(one, two, lengths[i]));
        CHECK(!hash_alike(one, seeded[0], lengths[i]));
        CHECK(hash_alike(seeded[0], seeded[1], lengths[i]));
        CHECK(!hash_alike(seeded[0], seeded[2], lengths[i]));
    }
    cdedupe_destroy(one);
    cdedupe_destroy(two);
    for (unsigned i = 0; i < 3; i++)
        cdedupe_destroy(seeded[i]);
}

int
main(void)
{
    RUN(what_a_section_can_reach_stays);
    RUN(dead_entries_under_a_reader_are_bounded);
    RUN(keys_with_one_hash_are_told_apart);
    RUN(an_insertion_without_memory_leaves_nothing);
    RUN(an_acquisition_that_fails_keeps_nothing);
    RUN(magazines_are_empty_after_a_peak);
    RUN(magazines_whenTheArenaIsNoLongerSparse_areFilledAgain);
    RUN(discard_ofMoreThanAMagazineHolds_fillsIt_andNoMore);
    RUN(magazine_ofABufferWithFewSlots_staysFull);
    RUN(singleUpdate_thatGetsAContextWithAFullMagazine_leavesItAsItIs);
    RUN(singleUpdates_onASparseArena_fillNoMagazine_andKeepNoSlab);
    RUN(every_buffer_has_a_secret_of_its_own);
    return check_finish();
}
