/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index alone, with chosen hashes. The index is compiled into this file, so that the test can
 * read its internals.
 *
 * The test makes every call as the buffer does, attempt after attempt with a reserve. It frees
 * deferred blocks at once, because no thread reads without the lock here.
 */
#include "state/index.c"

#include <stdlib.h>

#include "check.h"
#include "hooks.h"

/* An index and the entries that it names. A key is a number, which is its bytes too. */
typedef struct bench {
    hooks_t hooks;
    struct memory memory;
    struct reserve reserve;
    struct arena entries;
    struct slab_class classes[ENTRY_CLASSES];
    struct index index;
} bench_t;

static uint64_t random_state;

static uint64_t
random_next(void)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7,
        random_state ^= random_state << 17;
    return random_state;
}

static void
bench_open(bench_t *bench)
{
    memset(bench, 0, sizeof(*bench));
    bench->memory = (struct memory){
        .allocate = hooks_allocate, .deallocate = hooks_deallocate, .context = &bench->hooks};
    reserve_init(&bench->reserve);
    entry_init_arena(&bench->entries, bench->classes);
    CHECK(index_init(&bench->index, &bench->memory));
}

/* What readers might still be in carries its notes where they do not look: at its end. */
static void
free_deferred(bench_t *bench)
{
    struct block *block;

    while ((block = bench->reserve.deferred) != NULL) {
        bench->reserve.deferred = block->next;
        CHECK((unsigned char *)(block + 1) == (unsigned char *)block->start + block->size);
        memory_free(&bench->memory, block->start, block->size, block->alignment);
    }
}

static void
bench_close(bench_t *bench)
{
    free_deferred(bench);
    reserve_release(&bench->reserve, &bench->memory);
    index_destroy(&bench->index, &bench->memory);
    arena_destroy(&bench->entries, &bench->memory);
    CHECK_EQ(bench->memory.bytes, 0);
    hooks_close(&bench->hooks);
}

static bool
refill(bench_t *bench)
{
    free_deferred(bench);
    return reserve_fill(&bench->reserve, &bench->memory);
}

static uint32_t
make_entry(bench_t *bench, uint64_t hash, const void *key, size_t length)
{
    uint32_t class_index = entry_class(length), number;
    struct entry *entry;

    while (!arena_make_room(&bench->entries, class_index, &bench->reserve))
        CHECK(refill(bench));
    number = arena_take(&bench->entries, class_index);
    entry = entry_at(&bench->entries, number);
    entry->word = 1;
    entry->hash = hash;
    entry->shape = (uint32_t)length;
    memcpy(entry->key, key, length);
    return number;
}

static bool
try_add(bench_t *bench, uint64_t hash, uint32_t number)
{
    do
        if (index_make_room(&bench->index, hash, &bench->reserve) &&
            index_add(&bench->index, hash, number, &bench->reserve))
            return true;
    while (refill(bench));
    return false;
}

static uint32_t
add(bench_t *bench, uint64_t hash, uint64_t key)
{
    uint32_t number = make_entry(bench, hash, &key, sizeof(key));

    CHECK(try_add(bench, hash, number));
    return number;
}

static void
tidy(bench_t *bench)
{
    while (index_is_untidy(&bench->index))
        if (!index_tidy(&bench->index, &bench->reserve))
            CHECK(refill(bench));
}

static void
drop(bench_t *bench, uint32_t number)
{
    struct entry *entry = entry_at(&bench->entries, number);

    index_remove(&bench->index, entry->hash, number);
    entry->word = 0;
    arena_give_back(&bench->entries, number, &bench->reserve);
    tidy(bench);
}

static uint32_t
find(bench_t *bench, uint64_t hash, const void *key, size_t length)
{
    return index_find(&bench->index, &bench->entries, hash, key, length);
}

static uint64_t
with_fingerprint(uint32_t fingerprint)
{
    return (uint64_t)fingerprint << 32;
}

/* ---------------------------------------------------------------------------------------------- */
/* Looking up                                                                                     */

static void
keys_with_one_hash_are_told_apart(void)
{
    static const char *const keys[] = {"", "a", "b", "aa", "ab", "abc"};
    enum { COUNT = sizeof(keys) / sizeof(keys[0]) };
    uint32_t numbers[COUNT];
    bench_t bench;

    bench_open(&bench);
    for (size_t i = 0; i < COUNT; i++) {
        CHECK_EQ(find(&bench, 7, keys[i], strlen(keys[i])), 0);
        numbers[i] = make_entry(&bench, 7, keys[i], strlen(keys[i]));
        CHECK(try_add(&bench, 7, numbers[i]));
    }
    for (size_t i = 0; i < COUNT; i++)
        CHECK_EQ(find(&bench, 7, keys[i], strlen(keys[i])), numbers[i]);
    bench_close(&bench);
}

/* The two keys have the same fingerprint, but different hashes. */
static void
keys_with_one_fingerprint_are_told_apart(void)
{
    uint32_t one, two;
    bench_t bench;

    bench_open(&bench);
    one = add(&bench, with_fingerprint(9) | 1, 1);
    two = add(&bench, with_fingerprint(9) | 2, 1);
    CHECK_EQ(find(&bench, with_fingerprint(9) | 1, &(uint64_t){1}, 8), one);
    CHECK_EQ(find(&bench, with_fingerprint(9) | 2, &(uint64_t){1}, 8), two);
    CHECK_EQ(find(&bench, with_fingerprint(9) | 3, &(uint64_t){1}, 8), 0);
    bench_close(&bench);
}

/* The hints of a small index say the same as its set. */
static void
check_found(const bench_t *bench, uint32_t fingerprint, uint32_t wanted)
{
    CHECK_EQ(index_find_fingerprint(&bench->index, with_fingerprint(fingerprint)), wanted);
    CHECK_EQ(index_find_in_set(&bench->index, with_fingerprint(fingerprint)), wanted);
}

/* These fingerprints want one cell: whose is not there first must not be given what is. */
static void
a_fingerprint_finds_its_own_entry(void)
{
    uint32_t one, two;
    bench_t bench;

    bench_open(&bench);
    one = add(&bench, with_fingerprint(0x10000000), 1);
    two = add(&bench, with_fingerprint(0x20000000), 2);
    check_found(&bench, 0x10000000, one);
    check_found(&bench, 0x20000000, two);
    check_found(&bench, 0x30000000, 0);
    bench_close(&bench);
}

/* ---------------------------------------------------------------------------------------------- */
/* Coming and going                                                                               */

/* The sums over all sets. */
struct shape {
    size_t sets;
    size_t cells;
    uint32_t largest; /* Cells of the largest set. */
    bool crowded;     /* A set has more words than its load allows. */
    bool deepest;     /* A set needs the directory's full depth. */
};

static struct shape
shape_of(const struct index *index)
{
    const struct directory *directory = index->directory;
    struct shape shape = {0};

    for (size_t i = 0; i < (size_t)1 << directory->depth; shape.sets++) {
        const struct set *set = directory->sets[i];

        shape.cells += set->capacity;
        shape.largest = set->capacity > shape.largest ? set->capacity : shape.largest;
        shape.crowded |= set->count * 2 > set->capacity;
        shape.deepest |= set->depth == directory->depth;
        i += (size_t)1 << (directory->depth - set->depth);
    }
    return shape;
}

enum { KEYS = 24 * SET_CAPACITY_MAX };

static uint32_t present[KEYS]; /* The entry of each key; zero: it is not there. */

static uint64_t
spread_hash(uint64_t key)
{
    return (key + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Half of the hashes begin with three zeroes, so that sets lie at very different depths. */
static uint64_t
uneven_hash(uint64_t key)
{
    return key % 2 == 0 ? spread_hash(key) : spread_hash(key) >> 3;
}

/* Many keys share the few bits that choose a cell: sets' maps get larger than they know. */
static uint64_t
clumped_hash(uint64_t key)
{
    return (spread_hash(key) & ~((uint64_t)(SET_CAPACITY_MAX - 1) << 32)) | (key % 16) << 32;
}

static void
check_presence(bench_t *bench, uint64_t (*hash)(uint64_t key), uint64_t keys)
{
    CHECK_NO_FAULT(index_validate(&bench->index, &bench->entries));
    for (uint64_t key = 0; key < keys; key++)
        if (find(bench, hash(key), &key, sizeof(key)) != present[key]) {
            CHECK_EQ(find(bench, hash(key), &key, sizeof(key)), present[key]);
            return;
        }
}

/*
 * Keys come until `above` are there, or go until `below` are, a few steps the other way in between.
 */
static void
move_to(bench_t *bench, uint64_t (*hash)(uint64_t key), uint64_t keys, uint64_t target)
{
    bool growing = bench->index.count < target;

    for (unsigned step = 0; growing ? bench->index.count < target : bench->index.count > target;
         step++) {
        uint64_t key = random_next() % keys;
        bool wants = random_next() % 8 == 0 ? !growing : growing;

        if (wants && present[key] == 0)
            present[key] = add(bench, hash(key), key);
        else if (!wants && present[key] != 0)
            drop(bench, present[key]), present[key] = 0;
        if (step % 4096 == 0)
            check_presence(bench, hash, keys);
    }
    check_presence(bench, hash, keys);
}

static void
drop_all(bench_t *bench, uint64_t keys)
{
    for (uint64_t key = 0; key < keys; key++)
        if (present[key] != 0)
            drop(bench, present[key]), present[key] = 0;
}

static void
come_and_go(uint64_t (*hash)(uint64_t key), uint64_t keys)
{
    uint64_t held;
    bench_t bench;

    memset(present, 0, sizeof(present));
    random_state = 88172645463325252;
    bench_open(&bench);
    held = bench.memory.bytes;
    for (unsigned round = 0; round < 2; round++) {
        move_to(&bench, hash, keys, keys * 3 / 4);
        CHECK(shape_of(&bench.index).deepest || bench.index.directory->depth == 0);
        move_to(&bench, hash, keys, keys / 4);
        move_to(&bench, hash, keys, keys / 2);
        drop_all(&bench, keys);
        CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));
    }
    /*
     * A few more looks, that the last keys to go did not pay for: now it is as it was in the
     * beginning.
     */
    bench.index.removed += (uint64_t)TIDY_PRICE * 8 << bench.index.directory->depth;
    tidy(&bench);
    CHECK_EQ(bench.index.directory->depth, 0);
    CHECK_EQ(bench.index.directory->sets[0]->capacity, SET_CAPACITY_MIN);
    /* An index that was large has no hints before its next insertion. */
    if (bench.index.hints != NULL) {
        CHECK_EQ(bench.index.hints->size, HINTS_MIN);
        held += hints_bytes(HINTS_MIN) + sizeof(struct block);
    }
    free_deferred(&bench);
    reserve_release(&bench.reserve, &bench.memory);
    arena_destroy(&bench.entries, &bench.memory);
    entry_init_arena(&bench.entries, bench.classes);
    CHECK_EQ(bench.memory.bytes, held);
    bench_close(&bench);
}

static void
keys_come_and_go(void)
{
    come_and_go(spread_hash, KEYS);
}

static void
keys_with_uneven_hashes_come_and_go(void)
{
    come_and_go(uneven_hash, KEYS);
}

static void
keys_with_clumped_hashes_come_and_go(void)
{
    come_and_go(clumped_hash, KEYS / 8);
}

/* ---------------------------------------------------------------------------------------------- */
/* Shape                                                                                          */

/*
 * No set grows past its largest map, no map past its load, and a large index wastes no more than
 * that.
 */
static void
sets_are_split_and_maps_are_used(void)
{
    struct shape shape;
    bench_t bench;

    bench_open(&bench);
    for (uint64_t key = 0; key < KEYS; key++) {
        add(&bench, spread_hash(key), key);
        if (key % 1000 == 0)
            CHECK(!shape_of(&bench.index).crowded);
    }
    shape = shape_of(&bench.index);
    CHECK_EQ(shape.largest, SET_CAPACITY_MAX);
    CHECK(shape.cells <= 4 * (size_t)KEYS);
    bench_close(&bench);
}

/* The number of keys that the hints have. */
static uint64_t
hinted(const bench_t *bench)
{
    uint64_t count = 0;

    for (uint64_t i = 0; bench->index.hints != NULL && i < bench->index.hints->size; i++)
        count += bench->index.hints->words[i] > HINT_MISSING;
    return count;
}

/* A small index has two words of hints for each key, and nine keys of ten are in them. */
static void
a_small_index_has_hints(void)
{
    bench_t bench;

    bench_open(&bench);
    for (uint64_t key = 0; key < HINTS_MAX / 2; key++) {
        add(&bench, spread_hash(key), key);
        CHECK(bench.index.hints->size >= 2 * (key + 1));
        CHECK(bench.index.hints->size <= 4 * (key + 1) || bench.index.hints->size == HINTS_MIN);
        if (key >= 100)
            CHECK(hinted(&bench) * 10 >= (key + 1) * 8);
    }
    CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));
    add(&bench, spread_hash(HINTS_MAX / 2), HINTS_MAX / 2);
    CHECK(bench.index.hints == NULL);
    bench_close(&bench);
}

/* Four fingerprints of one pair of places; the first two fit. */
static uint64_t
hash_of_one_pair(uint64_t i)
{
    return (i * HINTS_MIN + 5) << 32;
}

static uint32_t
find_under_lock(const bench_t *bench, uint64_t i)
{
    return index_find(&bench->index, &bench->entries, hash_of_one_pair(i), &i, sizeof(i));
}

/*
 * Keys of one pair of places come and go. A look-up under the lock finds each key that is there and
 * no other, also where the hints have lost a word, and after the words that took its place are
 * gone.
 */
static void
look_up_underLock_whenHintsLostAWord_findsExactlyTheKeysOfTheIndex(void)
{
    enum { COUNT = 4 };
    bench_t bench;

    for (unsigned steps = 0; steps < 1 << (2 * COUNT); steps++) {
        uint32_t numbers[COUNT] = {0};

        bench_open(&bench);
        for (unsigned step = 0; step < 2 * COUNT; step++) {
            uint64_t key = step % COUNT;

            if (steps >> step & 1) {
                if (numbers[key] != 0) {
                    drop(&bench, numbers[key]);
                    numbers[key] = 0;
                } else {
                    numbers[key] = add(&bench, hash_of_one_pair(key), key);
                }
            }
            CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));
            for (uint64_t i = 0; i < COUNT; i++)
                CHECK_EQ(find_under_lock(&bench, i), numbers[i]);
        }
        bench_close(&bench);
    }
}

/* Without a mark the hints alone say that a key is absent; a mark sends the look-up to the set. */
static void
hints_whenAThirdWordOfAPairComes_sayThatAWordIsMissing(void)
{
    bench_t bench;
    uint64_t absent = hash_of_one_pair(3) >> 32;
    uint32_t numbers[3];

    bench_open(&bench);
    for (uint64_t key = 0; key < 3; key++) {
        numbers[key] = add(&bench, hash_of_one_pair(key), key);
        CHECK_EQ(hints_find(bench.index.hints, absent), key < 2 ? 0 : HINTS_UNKNOWN);
    }
    for (uint64_t key = 0; key < 3; key++)
        drop(&bench, numbers[key]);
    CHECK_EQ(hints_find(bench.index.hints, absent), HINTS_UNKNOWN);
    bench_close(&bench);
}

/* An empty place is not taken for a word whose fingerprint is zero. */
static void
hints_whenFingerprintIsZero_andOtherPlaceIsEmpty_findTheWord(void)
{
    bench_t bench;
    uint64_t key = 7;
    uint32_t first, number;

    bench_open(&bench);
    first = add(&bench, (uint64_t)HINTS_MIN << 32, 1);
    number = add(&bench, 0, key);
    drop(&bench, first);
    CHECK_EQ(word_entry(hints_find(bench.index.hints, 0)), number);
    CHECK_EQ(index_find(&bench.index, &bench.entries, 0, &key, sizeof(key)), number);
    bench_close(&bench);
}

/* Hashes that splitting cannot separate do not double the directory forever. */
static void
hashes_that_begin_alike_grow_their_set(void)
{
    bench_t bench;

    bench_open(&bench);
    for (uint64_t key = 0; key < 4 * SET_CAPACITY_MAX; key++)
        add(&bench, spread_hash(key) >> 16, key);
    CHECK(bench.index.directory->depth <= 7);
    CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));
    bench_close(&bench);
}

/* Every key but one of a thousand goes: no map stays as large as it was, and none is too small. */
static void
sparse_sets_shrink(void)
{
    struct shape shape;
    bench_t bench;

    memset(present, 0, sizeof(present));
    bench_open(&bench);
    for (uint64_t key = 0; key < KEYS; key++)
        present[key] = add(&bench, spread_hash(key), key);
    for (uint64_t key = 0; key < KEYS; key++) {
        if (key % 64 != 0)
            drop(&bench, present[key]), present[key] = 0;
        if (key % 4096 == 0)
            CHECK(shape_of(&bench.index).largest <= SET_CAPACITY_MAX &&
                  !shape_of(&bench.index).crowded);
    }
    shape = shape_of(&bench.index);
    CHECK(shape.cells <= SPARSE * 2 * (KEYS / 64) + SET_CAPACITY_MAX);
    check_presence(&bench, spread_hash, KEYS);
    bench_close(&bench);
}

/*
 * Of two neighbours one empties, and the other keeps it from being made one with it: whichever it
 * is, it shrinks.
 */
static void
every_set_is_looked_at(void)
{
    bench_t bench;

    for (uint32_t side = 0; side < 2; side++) {
        const struct directory *directory;

        memset(present, 0, sizeof(present));
        bench_open(&bench);
        for (uint64_t key = 0; key < KEYS; key++)
            present[key] = add(&bench, spread_hash(key), key);
        directory = bench.index.directory;
        for (uint64_t key = 0; key < KEYS; key++)
            if ((hash_fingerprint(spread_hash(key)) >> (32 - directory->depth)) % 2 == side)
                drop(&bench, present[key]);
        CHECK(bench.index.directory == directory && directory->depth > 0);
        for (size_t i = side; i < (size_t)1 << directory->depth; i += 2)
            CHECK(directory->sets[i]->depth < directory->depth ||
                  directory->sets[i]->capacity < SET_CAPACITY_MAX / 2);
        bench_close(&bench);
    }
}

/*
 * One key that comes and goes leaves a tombstone each time. The map is rebuilt only after there are
 * many tombstones.
 */
static void
tombstones_are_swept_out(void)
{
    enum { ROUNDS = 64 * SET_CAPACITY_MIN };
    const struct set *set;
    uint64_t allocations;
    bench_t bench;

    bench_open(&bench);
    for (uint64_t key = 0; key < SET_CAPACITY_MIN / 8; key++)
        add(&bench, spread_hash(key), key);
    allocations = bench.hooks.allocations;
    for (uint64_t key = 1000; key < 1000 + ROUNDS; key++) {
        uint32_t number = add(&bench, spread_hash(key), key);

        index_remove(&bench.index, spread_hash(key), number);
        arena_give_back(&bench.entries, number, &bench.reserve);
        set = bench.index.directory->sets[0];
        CHECK(set->tombstones <= set->capacity / 4 + 1);
    }
    allocations = bench.hooks.allocations - allocations;
    CHECK(allocations >= ROUNDS / SET_CAPACITY_MIN);
    CHECK(allocations <= ROUNDS * 8 / SET_CAPACITY_MIN);
    bench_close(&bench);
}

/* ---------------------------------------------------------------------------------------------- */
/* Attempts                                                                                       */

/* An attempt without memory says so, and changes nothing. */
static void
growing_wants_memory(void)
{
    uint64_t key = 0;
    bench_t bench;

    bench_open(&bench);
    /* The first key brings the hints. */
    add(&bench, spread_hash(key), key), key++;
    while (index_make_room(&bench.index, spread_hash(key), &bench.reserve))
        add(&bench, spread_hash(key), key), key++;
    CHECK_EQ(bench.index.directory->sets[0]->capacity, SET_CAPACITY_MIN);
    CHECK(bench.reserve.wanted > 0);
    CHECK(!index_make_room(&bench.index, spread_hash(key), &bench.reserve));
    CHECK(refill(&bench));
    CHECK(index_make_room(&bench.index, spread_hash(key), &bench.reserve));
    CHECK_EQ(bench.index.directory->sets[0]->capacity, SET_CAPACITY_MIN * 2);
    bench_close(&bench);
}

/* Whichever allocation fails, nothing is lost, and nothing that was there. */
static void
growing_survives_failures(void)
{
    bench_t bench;

    for (uint64_t fail_at = 1; fail_at <= 3; fail_at++) {
        bench_t failed = {.hooks = {.fail_at = fail_at}};

        failed.memory = (struct memory){
            .allocate = hooks_allocate, .deallocate = hooks_deallocate, .context = &failed.hooks};
        CHECK(!index_init(&failed.index, &failed.memory));
        hooks_close(&failed.hooks);
    }

    memset(present, 0, sizeof(present));
    bench_open(&bench);
    for (uint64_t key = 0; key < 3 * SET_CAPACITY_MAX; key++) {
        uint32_t number = make_entry(&bench, uneven_hash(key), &key, sizeof(key));

        bench.hooks.fail_at = bench.hooks.allocations + 1 + key % 3;
        while (!try_add(&bench, uneven_hash(key), number))
            CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));
        bench.hooks.fail_at = 0;
        present[key] = number;
    }
    check_presence(&bench, uneven_hash, 3 * SET_CAPACITY_MAX);
    bench_close(&bench);
}

/* A removal pays for a look once; looks that nobody paid for are not made. */
static void
a_look_is_paid_for_once(void)
{
    bench_t bench;

    bench_open(&bench);
    CHECK(!index_is_untidy(&bench.index));
    bench.index.removed = TIDY_PRICE;
    CHECK(index_is_untidy(&bench.index));
    CHECK(index_tidy(&bench.index, &bench.reserve));
    CHECK(!index_is_untidy(&bench.index));
    bench_close(&bench);
}

/* ---------------------------------------------------------------------------------------------- */
/* Validation                                                                                     */

#define BREAK(what, value, fault)                                          \
    do {                                                                   \
        __typeof__(what) before = (what);                                  \
        (what) = (value);                                                  \
        CHECK_TEXT(index_validate(&bench.index, &bench.entries), (fault)); \
        (what) = before;                                                   \
        CHECK_NO_FAULT(index_validate(&bench.index, &bench.entries));      \
    } while (0)

static void
the_index_is_checked(void)
{
    struct directory *directory;
    struct entry *entry;
    size_t shallow = 0;
    bench_t bench;

    bench_open(&bench);
    entry = entry_at(&bench.entries, add(&bench, uneven_hash(1), 1));
    for (uint64_t key = 2; key < KEYS / 4; key++)
        add(&bench, uneven_hash(key), key);
    directory = bench.index.directory;
    while (directory->sets[shallow]->depth == directory->depth)
        shallow++;

    BREAK(entry->word, 0, "index: a dead entry is indexed");
    BREAK(entry->hash, entry->hash ^ (uint64_t)1 << 63,
          "index: a stored fingerprint is not its entry's");
    BREAK(bench.index.count, 0, "index: the count is wrong");
    BREAK(directory->sets[shallow]->count, 0, "index: a set's count is wrong");
    BREAK(directory->sets[shallow + 1], directory->sets[0],
          "index: a set's places in the directory are torn");
    BREAK(directory->sets[0], directory->sets[1], "index: an entry is in the wrong set");
    bench_close(&bench);
}

int
main(void)
{
    RUN(keys_with_one_hash_are_told_apart);
    RUN(keys_with_one_fingerprint_are_told_apart);
    RUN(a_fingerprint_finds_its_own_entry);
    RUN(a_small_index_has_hints);
    RUN(look_up_underLock_whenHintsLostAWord_findsExactlyTheKeysOfTheIndex);
    RUN(hints_whenAThirdWordOfAPairComes_sayThatAWordIsMissing);
    RUN(hints_whenFingerprintIsZero_andOtherPlaceIsEmpty_findTheWord);
    RUN(sets_are_split_and_maps_are_used);
    RUN(hashes_that_begin_alike_grow_their_set);
    RUN(sparse_sets_shrink);
    RUN(every_set_is_looked_at);
    RUN(tombstones_are_swept_out);
    RUN(growing_wants_memory);
    RUN(growing_survives_failures);
    RUN(a_look_is_paid_for_once);
    RUN(the_index_is_checked);
    RUN(keys_come_and_go);
    RUN(keys_with_uneven_hashes_come_and_go);
    RUN(keys_with_clumped_hashes_come_and_go);
    return check_finish();
}
