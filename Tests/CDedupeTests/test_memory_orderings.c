/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each ordering of DESIGN.md's table in a scene of its own, for ThreadSanitizer to judge.
 *
 * One thread acts. It then tells other threads to look, in a way that orders nothing. They look
 * without the lock, each through a context of its own. Only the core's own orderings place what
 * they read after what was written. So if an acquire or a release is missing, ThreadSanitizer sees
 * a race each time, whatever the processor does. In other variants the test only checks that the
 * lock was not needed.
 *
 * The acting thread writes last what the others must see, because ThreadSanitizer reports nothing
 * about an access that it no longer remembers. The index is compiled into this file.
 */
#include "state/index.c"

#include <pthread.h>
#include <sched.h>

#include "calls/calls.h"
#include "check.h"

/* More than there are threads in a scene. */
enum { CONTEXTS = 4 };

/* How much the sanitizer remembers; it asks by this name. */
const char *__tsan_default_options(void);

const char *
__tsan_default_options(void)
{
    return "history_size=7";
}

typedef struct scene {
    cdedupe_t *buffer;
    uint32_t (*act)(struct scene *scene); /* Says which key is to be looked at. */
    void (*look)(struct scene *scene, uint32_t key, cdedupe_slot_t slot);
    /* Relaxed: they order nothing. */
    unsigned ready;
    unsigned acted; /* The key to be looked at, and one. */
} scene_t;

static unsigned
wait_for(const unsigned *value)
{
    unsigned seen;

    while ((seen = __atomic_load_n(value, __ATOMIC_RELAXED)) == 0)
        sched_yield();
    return seen;
}

static void *
run_actor(void *argument)
{
    scene_t *scene = argument;

    wait_for(&scene->ready);
    __atomic_store_n(&scene->acted, scene->act(scene) + 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Its slot it gets beforehand: the lock that this takes would order everything behind it. */
static void *
run_looker(void *argument)
{
    scene_t *scene = argument;
    cdedupe_slot_t slot;

    CHECK(cdedupe_acquire(scene->buffer, &slot, 1) == CDEDUPE_OK);
    *(uint64_t *)cdedupe_payload(scene->buffer, slot) = 0;
    __atomic_store_n(&scene->ready, 1, __ATOMIC_RELAXED);
    scene->look(scene, wait_for(&scene->acted) - 1, slot);
    return NULL;
}

/*
 * Threads are numbered as they come, and find contexts by that number; so neighbours have different
 * ones.
 */
static cdedupe_t *
open_buffer(unsigned context_count)
{
    struct context *contexts[CONTEXTS];
    cdedupe_t *buffer = NULL;

    CHECK(cdedupe_create(NULL, &buffer) == CDEDUPE_OK);
    for (unsigned i = 0; i < context_count; i++)
        contexts[i] = context_claim(&buffer->contexts);
    for (unsigned i = 0; i < context_count; i++)
        context_give_back(&buffer->contexts, contexts[i]);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    return buffer;
}

static void
play(unsigned context_count, uint32_t (*act)(scene_t *scene),
     void (*look)(scene_t *scene, uint32_t key, cdedupe_slot_t slot))
{
    scene_t scene = {.buffer = open_buffer(context_count), .act = act, .look = look};
    pthread_t actor, looker;

    CHECK(pthread_create(&actor, NULL, run_actor, &scene) == 0);
    CHECK(pthread_create(&looker, NULL, run_looker, &scene) == 0);
    pthread_join(actor, NULL);
    pthread_join(looker, NULL);
    CHECK_NO_FAULT(cdedupe_validate(scene.buffer));
    cdedupe_destroy(scene.buffer);
}

/* ---------------------------------------------------------------------------------------------- */
/* What actors and lookers do                                                                     */

/* A payload says which key it is of. */
static cdedupe_slot_t
make_payload(scene_t *scene, uint32_t key)
{
    cdedupe_slot_t slot;

    CHECK(cdedupe_acquire(scene->buffer, &slot, 1) == CDEDUPE_OK);
    *(uint64_t *)cdedupe_payload(scene->buffer, slot) = key;
    return slot;
}

static cdedupe_update_t
put_slot(scene_t *scene, uint32_t key, cdedupe_slot_t slot, bool deletion)
{
    cdedupe_update_t update = {
        .key = &key, .key_length = sizeof(key), .slot = slot, .deletion = deletion};

    CHECK(cdedupe_put(scene->buffer, &update, 1) == CDEDUPE_OK);
    return update;
}

static void
put(scene_t *scene, uint32_t key)
{
    cdedupe_update_t update = put_slot(scene, key, make_payload(scene, key), false);

    cdedupe_discard(scene->buffer, &update.displaced, 1);
}

/* The next item; its payload's key, or zero. */
static uint64_t
take(scene_t *scene)
{
    cdedupe_item_t item;
    uint64_t key = 0;
    size_t count;

    CHECK(cdedupe_take(scene->buffer, &item, 1, &count) == CDEDUPE_OK);
    if (item.slot != 0)
        key = *(uint64_t *)cdedupe_payload(scene->buffer, item.slot);
    cdedupe_discard(scene->buffer, &item.slot, 1);
    return key;
}

/* Replaces what is pending for the key, without the lock, and looks at what was there. */
static void
replace(scene_t *scene, uint32_t key, cdedupe_slot_t slot)
{
    uint64_t replaced = context_count_replaced(&scene->buffer->contexts);
    cdedupe_update_t update = put_slot(scene, key, slot, false);

    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(context_count_replaced(&scene->buffer->contexts), replaced + 1);
    if (update.displaced != 0)
        CHECK_EQ(*(uint64_t *)cdedupe_payload(scene->buffer, update.displaced), key);
}

/* ---------------------------------------------------------------------------------------------- */
/* Words                                                                                          */

enum { KEY = 7 };

static uint32_t
insert(scene_t *scene)
{
    put(scene, KEY);
    return KEY;
}

/* entry_new -> is_key, replace_unlocked */
static void
a_new_key_is_replaced(void)
{
    play(CONTEXTS, insert, replace);
}

static uint32_t
requeue_live(scene_t *scene)
{
    put(scene, KEY);
    take(scene);
    put(scene, KEY);
    return KEY;
}

/* requeue -> replace_unlocked */
static void
a_live_key_is_replaced(void)
{
    play(CONTEXTS, requeue_live, replace);
}

static uint32_t
revive_dropped(scene_t *scene)
{
    put(scene, KEY);
    CHECK(cdedupe_restart(scene->buffer) == CDEDUPE_OK);
    put(scene, KEY);
    return KEY;
}

/* revive -> replace_unlocked */
static void
a_revived_key_is_replaced(void)
{
    play(CONTEXTS, revive_dropped, replace);
}

/* The first of the two needs the lock, so the second gets it too. */
static uint32_t
replace_under_the_lock(scene_t *scene)
{
    uint32_t keys[] = {KEY + 1, KEY};
    cdedupe_update_t updates[2];

    put(scene, KEY);
    for (unsigned i = 0; i < 2; i++)
        updates[i] = (cdedupe_update_t){
            .key = &keys[i], .key_length = sizeof(keys[i]), .slot = make_payload(scene, keys[i])};
    CHECK(cdedupe_put(scene->buffer, updates, 2) == CDEDUPE_OK);
    CHECK_EQ(updates[1].outcome, CDEDUPE_OUTCOME_REPLACED);
    return KEY;
}

/* replace -> replace_unlocked */
static void
a_key_replaced_under_the_lock_is_replaced(void)
{
    play(CONTEXTS, replace_under_the_lock, replace);
}

static uint32_t
replace_without_the_lock(scene_t *scene)
{
    put(scene, KEY);
    replace(scene, KEY, make_payload(scene, KEY));
    return KEY;
}

/* replace_unlocked -> replace_unlocked */
static void
a_key_replaced_without_the_lock_is_replaced(void)
{
    play(CONTEXTS, replace_without_the_lock, replace);
}

static void
take_it(scene_t *scene, uint32_t key, cdedupe_slot_t slot)
{
    CHECK_EQ(take(scene), key);
    cdedupe_discard(scene->buffer, &slot, 1);
}

/* replace_unlocked -> take_word */
static void
a_key_replaced_without_the_lock_is_taken(void)
{
    play(CONTEXTS, replace_without_the_lock, take_it);
}

static void
cancel_it(scene_t *scene, uint32_t key, cdedupe_slot_t slot)
{
    cdedupe_update_t update = put_slot(scene, key, 0, true);

    CHECK_EQ(update.outcome, CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(*(uint64_t *)cdedupe_payload(scene->buffer, update.displaced), key);
    cdedupe_discard(scene->buffer, &slot, 1);
}

/* replace_unlocked -> delete_not_live */
static void
a_key_replaced_without_the_lock_is_cancelled(void)
{
    play(CONTEXTS, replace_without_the_lock, cancel_it);
}

/* ---------------------------------------------------------------------------------------------- */
/* Tables                                                                                         */

/* So long that slabs are many before the index has more than one set. */
struct long_key {
    uint32_t number;
    unsigned char rest[20000];
};

static cdedupe_update_t
put_long(scene_t *scene, uint32_t number, cdedupe_slot_t slot)
{
    struct long_key key = {.number = number};
    cdedupe_update_t update = {
        .key = &key, .key_length = sizeof(key), .slot = slot, .deletion = slot == 0};

    CHECK(cdedupe_put(scene->buffer, &update, 1) == CDEDUPE_OK);
    return update;
}

static uint32_t
insert_until_table_grows(scene_t *scene)
{
    for (uint32_t number = 0; number == 0 || scene->buffer->entries.table->outgrown == NULL;
         number++)
        put_long(scene, number, 0);
    return 0;
}

static void
replace_long(scene_t *scene, uint32_t number, cdedupe_slot_t slot)
{
    CHECK_EQ(put_long(scene, number, slot).outcome, CDEDUPE_OUTCOME_REPLACED);
}

/* grow_table -> arena_at */
static void
a_key_in_a_grown_arena_is_replaced(void)
{
    play(CONTEXTS, insert_until_table_grows, replace_long);
}

/* So many that look-ups fetch cells ahead, which is where the sanitizer sees them. */
enum { MANY = INDEX_SMALL * 3 / 2 };

static uint64_t
hash_of(const scene_t *scene, uint32_t key)
{
    return hash_key(&scene->buffer->secret, &key, sizeof(key));
}

static const struct set *
set_of(const scene_t *scene, uint32_t key)
{
    return find_set(&scene->buffer->index, hash_fingerprint(hash_of(scene, key)));
}

static uint32_t
insert_until_directory_doubles(scene_t *scene)
{
    const struct directory *directory;
    uint32_t key = 0;

    do {
        directory = scene->buffer->index.directory;
        put(scene, ++key);
    } while (key < MANY || scene->buffer->index.directory == directory);
    return key;
}

/*
 * Until a key's entry is the first of its slab, whose number has a place in the table. Among fewer
 * keys the hints would order what is behind an entry's number.
 */
static uint32_t
insert_until_slab_is_new(scene_t *scene)
{
    const struct arena *entries = &scene->buffer->entries;
    const struct slab_table *table;
    uint32_t slabs, key = 0;

    do {
        table = entries->table;
        slabs = entries->slab_count;
        put(scene, ++key);
    } while (key < MANY || entries->table != table || entries->slab_count == slabs);
    return key;
}

/* arena_make_room -> arena_at */
static void
a_key_in_a_new_slab_is_replaced(void)
{
    play(CONTEXTS, insert_until_slab_is_new, replace);
}

/* double_directory -> find_set */
static void
a_key_in_a_doubled_directory_is_replaced(void)
{
    play(CONTEXTS, insert_until_directory_doubles, replace);
}

/* Until a key's set is split, without the directory, and the key is in the second half. */
static uint32_t
insert_until_set_is_split(scene_t *scene)
{
    const struct directory *directory;
    const struct set *set;
    uint32_t depth, key = 0;

    do {
        directory = scene->buffer->index.directory;
        set = set_of(scene, ++key);
        depth = set->depth;
        put(scene, key);
    } while (key < MANY || scene->buffer->index.directory != directory ||
             set_of(scene, key) == set ||
             (hash_fingerprint(hash_of(scene, key)) >> (31 - depth) & 1) == 0);
    return key;
}

/* replace_in_directory -> find_set */
static void
a_key_in_a_split_set_is_replaced(void)
{
    play(CONTEXTS, insert_until_set_is_split, replace);
}

/* Keys go that share the last key's first bits, until its set becomes a smaller one. */
static uint32_t
insert_and_cancel_until_sets_merge(scene_t *scene)
{
    const struct set *set;
    unsigned shift;

    for (uint32_t key = 1; key <= MANY; key++)
        put(scene, key);
    set = set_of(scene, MANY);
    shift = 64 - set->depth + 1;
    for (uint32_t key = 1; key < MANY && set_of(scene, MANY) == set; key++)
        if (hash_of(scene, key) >> shift == hash_of(scene, MANY) >> shift) {
            cdedupe_update_t update = put_slot(scene, key, 0, true);

            cdedupe_discard(scene->buffer, &update.displaced, 1);
        }
    CHECK(set_of(scene, MANY) != set);
    CHECK(scene->buffer->index.count >= INDEX_SMALL);
    return MANY;
}

/* tidy_set -> find_set */
static void
a_key_in_a_merged_set_is_replaced(void)
{
    play(CONTEXTS, insert_and_cancel_until_sets_merge, replace);
}

/* ---------------------------------------------------------------------------------------------- */
/* Contexts                                                                                       */

enum { SLOTS = 10 };

static uint32_t
fill_magazine(scene_t *scene)
{
    cdedupe_slot_t slots[SLOTS];

    CHECK(cdedupe_acquire(scene->buffer, slots, SLOTS) == CDEDUPE_OK);
    cdedupe_discard(scene->buffer, slots, SLOTS);
    return 0;
}

static void
empty_magazine(scene_t *scene, uint32_t key, cdedupe_slot_t slot)
{
    cdedupe_slot_t slots[SLOTS];

    (void)key;
    CHECK(cdedupe_acquire(scene->buffer, slots, SLOTS) == CDEDUPE_OK);
    cdedupe_discard(scene->buffer, slots, SLOTS);
    cdedupe_discard(scene->buffer, &slot, 1);
}

/* context_give_back -> the next claim */
static void
a_magazine_changes_hands(void)
{
    play(1, fill_magazine, empty_magazine);
}

int
main(void)
{
    RUN(a_new_key_is_replaced);
    RUN(a_live_key_is_replaced);
    RUN(a_revived_key_is_replaced);
    RUN(a_key_replaced_under_the_lock_is_replaced);
    RUN(a_key_replaced_without_the_lock_is_replaced);
    RUN(a_key_replaced_without_the_lock_is_taken);
    RUN(a_key_replaced_without_the_lock_is_cancelled);
    RUN(a_key_in_a_grown_arena_is_replaced);
    RUN(a_key_in_a_new_slab_is_replaced);
    RUN(a_key_in_a_doubled_directory_is_replaced);
    RUN(a_key_in_a_split_set_is_replaced);
    RUN(a_key_in_a_merged_set_is_replaced);
    RUN(a_magazine_changes_hands);
    return check_finish();
}
