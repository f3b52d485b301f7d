/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Index: from a key to its entry; see index.h. The calls:
 *
 *     index_find, index_find_fingerprint   -> find_set, ck_hs_get
 *     index_make_room
 *       split           -> double_directory, distribute, replace_in_directory
 *       set_rebuild     a map with more cells, or one without tombstones
 *     index_add       -> set_add; index_remove -> ck_hs_remove
 *     index_tidy      -> tidy_next
 *       tidy_set        -> make_smaller: one sparse set, or two neighbours
 *       halve_directory
 */
#include "state/index.h"

#include <ck_hs.h>
#include <string.h>

#include "state/entry.h"

/*
 * A set's map has 32 to 2,048 cells (16 KiB), at most half of them in use. A full set with 2,048
 * cells is split into two. ck_hs would grow a map by itself, but it ignores a failure to do so.
 * Therefore index_make_room() makes room before each insertion and reports the failure.
 */
enum {
    SET_CAPACITY_MIN = TEST_SIZED(32, 8),
    SET_CAPACITY_MAX = TEST_SIZED(2048, 32),
    SET_ALIGNMENT = 64
};

/*
 * The directory uses at most this many of the fingerprint's 32 bits, because a map finds a cell by
 * the fingerprint's low bits.
 */
enum { DEPTH_MAX = TEST_SIZED(20, 8) };

/*
 * A set is sparse if at most an eighth of its cells is in use. That is half of what is in use right
 * after a full map of a large index has doubled. Two neighbours are merged if their keys together
 * would be as sparse in the largest map. Sixteen removals pay for a visit to one set.
 */
enum { SPARSE = 8, TIDY_PRICE = TEST_SIZED(16, 2), TIDY_STEPS = TEST_SIZED(8, 2) };

/*
 * A map's cells begin two cache lines after its start, because its own fields come first. Only
 * prefetching relies on this.
 */
enum { MAP_CELLS_OFFSET = 128 };

struct set {
    ck_hs_t map;
    uint32_t depth;
    uint32_t capacity; /* The map's number of cells. ck_hs may have made the map larger. */
    uint32_t count;
    uint32_t tombstones; /* Removals since the map was made: at least the number of tombstones. */
};

/* A directory that is published changes only in its pointers. */
struct directory {
    uint64_t depth; /* The directory has 2^depth places. */
    struct set *sets[];
};

_Static_assert(sizeof(void *) == 8, "a stored word takes the place of a pointer");

/* ---------------------------------------------------------------------------------------------- */
/* Blocks: tables that readers without the lock use. The notes on a table lie behind its end.     */

static size_t
block_size(size_t size)
{
    return ((size + 7) & ~(size_t)7) + sizeof(struct block);
}

static void *
block_take(struct reserve *reserve, size_t size)
{
    return reserve_take(reserve, block_size(size), SET_ALIGNMENT);
}

/* Gives back a table that no reader has seen. */
static void
block_put_back(struct reserve *reserve, void *memory, size_t size)
{
    reserve_put_back(reserve, memory, block_size(size), SET_ALIGNMENT);
}

/* Gives back a table that readers may still use. */
static void
block_defer(struct reserve *reserve, void *memory, size_t size)
{
    unsigned char *end = (unsigned char *)memory + block_size(size);

    reserve_defer(reserve, (struct block *)(void *)(end - sizeof(struct block)), memory,
                  block_size(size), SET_ALIGNMENT);
}

/* ---------------------------------------------------------------------------------------------- */
/* ck_hs's hooks. ck_hs passes no context, so the thread with the lock sets these variables.      */

static _Thread_local struct reserve *hook_reserve;
static _Thread_local bool hook_seen; /* Readers may still use the map that ck_hs frees now. */

static void *
hook_malloc(size_t size)
{
    return block_take(hook_reserve, size);
}

static void *
hook_realloc(void *memory, size_t old_size, size_t size, bool defer)
{
    (void)memory, (void)old_size, (void)size, (void)defer;
    return NULL;
}

/*
 * ck_hs sets `defer` for a map that it has replaced, because readers may still use that map. It
 * frees a map at once in two cases. Either ck_hs has tried the map and found it too small; the next
 * attempt wants the same size again. Or the map's set is discarded; then `hook_seen` tells whether
 * readers may use it.
 */
static void
hook_free(void *memory, size_t size, bool defer)
{
    if (defer || hook_seen)
        block_defer(hook_reserve, memory, size);
    else
        block_put_back(hook_reserve, memory, size);
}

static struct ck_malloc hooks = {.malloc = hook_malloc, .realloc = hook_realloc, .free = hook_free};

/* ---------------------------------------------------------------------------------------------- */
/* Stored words and look-up records                                                               */

struct lookup {
    uint32_t fingerprint;
    const struct arena *entries; /* NULL: an equal fingerprint is enough, keys are not compared. */
    uint64_t hash;
    const void *key;
    size_t length;
};

_Static_assert(_Alignof(struct lookup) > 1, "a look-up record's address has a low bit of zero");

static const void *
stored_make(uint32_t fingerprint, uint32_t entry)
{
    return (const void *)(uintptr_t)(((uint64_t)fingerprint << 32) | ((uint64_t)entry << 1) | 1);
}

static bool
is_stored(const void *word)
{
    return ((uintptr_t)word & 1) != 0;
}

static uint32_t
stored_fingerprint(const void *word)
{
    return (uint32_t)((uintptr_t)word >> 32);
}

static uint32_t
stored_entry(const void *word)
{
    return word_entry((uint64_t)(uintptr_t)word);
}

/* The hash that ck_hs uses is the fingerprint alone, so growing a map reads no entry. */
static unsigned long
hook_hash(const void *word, unsigned long seed)
{
    (void)seed;
    return stored_fingerprint(word);
}

static bool
has_key(const struct entry *entry, const struct lookup *lookup)
{
    return entry->hash == lookup->hash && entry_has_key(entry, lookup->key, lookup->length);
}

/*
 * Insertion and removal pass a stored word as `wanted`. Two stored words are equal only if they are
 * identical, and ck_hs has found identical words before this call.
 */
static bool
hook_compare(const void *stored, const void *wanted)
{
    const struct lookup *lookup = wanted;

    if (is_stored(wanted) || stored_fingerprint(stored) != lookup->fingerprint)
        return false;
    return lookup->entries == NULL ||
           has_key(entry_at(lookup->entries, stored_entry(stored)), lookup);
}

/* ---------------------------------------------------------------------------------------------- */
/* Sets                                                                                           */

static struct set *
set_create(uint32_t depth, uint32_t capacity, struct reserve *reserve)
{
    struct set *set = block_take(reserve, sizeof(*set));
    ck_hs_t map;

    hook_reserve = reserve;
    if (!ck_hs_init(&map, CK_HS_MODE_SPMC | CK_HS_MODE_DIRECT, hook_hash, hook_compare, &hooks,
                    capacity, 0)) {
        if (set != NULL)
            block_put_back(reserve, set, sizeof(*set));
        return NULL;
    }
    if (set == NULL) {
        ck_hs_destroy(&map);
        return NULL;
    }
    set->map = map;
    set->depth = depth;
    set->capacity = capacity;
    return set;
}

/* Gives a set and its map back. `seen`: readers may still use them. */
static void
set_discard(struct set *set, bool seen, struct reserve *reserve)
{
    if (set == NULL)
        return;
    hook_reserve = reserve;
    hook_seen = seen;
    ck_hs_destroy(&set->map);
    hook_seen = false;
    if (seen)
        block_defer(reserve, set, sizeof(*set));
    else
        block_put_back(reserve, set, sizeof(*set));
}

static bool
set_add(struct set *set, const void *stored, struct reserve *reserve)
{
    hook_reserve = reserve;
    if (!ck_hs_put_unique(&set->map, stored_fingerprint(stored), stored))
        return false;
    set->count++;
    return true;
}

/* Model step I4: the set's words move to a map of `capacity` cells without tombstones. */
static bool
set_rebuild(struct set *set, uint32_t capacity, struct reserve *reserve)
{
    hook_reserve = reserve;
    if (!ck_hs_grow(&set->map, capacity)) {
        /*
         * If the reserve wants nothing, the map already has more cells than `capacity`. ck_hs has
         * made it larger before, because an insertion had reached the probe limit.
         */
        if (reserve->wanted > 0)
            return false;
        sync_store_relaxed_32(&set->capacity, capacity);
        return true;
    }
    sync_store_relaxed_32(&set->capacity, capacity);
    set->tombstones = 0;
    return true;
}

/*
 * Model steps F1 and F2: loads the directory, then the set. Both loads acquire. The other sides are
 * the release stores of double_directory() and halve_directory() for a directory, and those of
 * replace_in_directory() and tidy_set() for a set. Without the acquire a reader without the lock
 * could search a directory or a set that is not filled yet.
 */
static struct set *
find_set(const struct index *index, uint32_t fingerprint)
{
    const struct directory *directory = sync_load_pointer(&index->directory);

    return sync_load_pointer(&directory->sets[(uint64_t)fingerprint >> (32 - directory->depth)]);
}

/* ---------------------------------------------------------------------------------------------- */
/* Hints                                                                                          */

/* Every word of the index goes into new hints. */
static void
fill_hints(struct hints *hints, const struct directory *directory)
{
    for (size_t i = 0; i < (size_t)1 << directory->depth;) {
        struct set *set = directory->sets[i];
        ck_hs_iterator_t iterator = CK_HS_ITERATOR_INITIALIZER;
        void *stored;

        while (ck_hs_next(&set->map, &iterator, &stored))
            hints_add(hints, (uint64_t)(uintptr_t)stored);
        i += (size_t)1 << (directory->depth - set->depth);
    }
}

/* Hints of this size take the place of the present ones; zero: there are none. */
static bool
replace_hints(struct index *index, uint64_t size, struct reserve *reserve)
{
    struct hints *old = index->hints, *hints = NULL;

    if (size > 0) {
        hints = block_take(reserve, hints_bytes(size));
        if (hints == NULL)
            return false;
        hints->size = size;
        fill_hints(hints, index->directory);
    }
    sync_store_pointer(&index->hints, hints);
    if (old != NULL)
        block_defer(reserve, old, hints_bytes(old->size));
    return true;
}

/* Before an insertion: two words for each key, as long as the index is small. */
static bool
make_room_for_hint(struct index *index, struct reserve *reserve)
{
    uint64_t wanted = 2 * (index->count + 1), size = HINTS_MIN;

    if (index->hints != NULL ? wanted <= index->hints->size : wanted > HINTS_MAX / 2)
        return true;
    if (wanted > HINTS_MAX)
        return replace_hints(index, 0, reserve);
    while (size < wanted)
        size *= 2;
    return replace_hints(index, size, reserve);
}

/* Hints with more than eight words for each key become smaller. False: the reserve wants memory. */
static bool
shrink_hints(struct index *index, struct reserve *reserve)
{
    const struct hints *hints = index->hints;

    if (hints == NULL || hints->size == HINTS_MIN || hints->size <= 8 * index->count)
        return true;
    return replace_hints(index, hints->size / 2, reserve);
}

/* ---------------------------------------------------------------------------------------------- */
/* Splitting                                                                                      */

static size_t
directory_size(uint64_t depth)
{
    return sizeof(struct directory) + (sizeof(struct set *) << depth);
}

/*
 * Model step I5: a directory with one more bit replaces the old one. The store releases; the other
 * side is the acquire in find_set(). Without the release a reader could find places that are not
 * filled yet.
 */
static bool
double_directory(struct index *index, struct reserve *reserve)
{
    struct directory *old = index->directory,
                     *directory = block_take(reserve, directory_size(old->depth + 1));

    if (directory == NULL)
        return false;
    directory->depth = old->depth + 1;
    for (size_t i = 0; i < (size_t)1 << old->depth; i++)
        directory->sets[2 * i] = directory->sets[2 * i + 1] = old->sets[i];
    sync_store_pointer(&index->directory, directory);
    block_defer(reserve, old, directory_size(old->depth));
    return true;
}

/*
 * Model step I6: the words of `set` are distributed to two sets by the next bit of the fingerprint.
 */
static bool
distribute(struct set *set, struct set *halves[2], struct reserve *reserve)
{
    ck_hs_iterator_t iterator = CK_HS_ITERATOR_INITIALIZER;
    void *stored;

    while (ck_hs_next(&set->map, &iterator, &stored)) {
        uint32_t bit = stored_fingerprint(stored) >> (31 - set->depth) & 1;

        if (!set_add(halves[bit], stored, reserve))
            return false;
    }
    return true;
}

/*
 * Model step I7: the two halves take the places of the set that was split, one place after the
 * other. The stores release; the other side is the acquire in find_set(). Without the release a
 * reader could search a half whose words are not there yet.
 */
static void
replace_in_directory(struct index *index, uint32_t fingerprint, uint32_t depth,
                     struct set *halves[2])
{
    struct directory *directory = index->directory;
    uint64_t spread = directory->depth - depth;
    size_t first = (size_t)((uint64_t)fingerprint >> (32 - depth) << spread),
           half = (size_t)1 << (spread - 1);

    for (size_t i = 0; i < half; i++) {
        sync_store_pointer(&directory->sets[first + i], halves[0]);
        sync_store_pointer(&directory->sets[first + half + i], halves[1]);
    }
}

static bool
split(struct index *index, struct set *set, uint32_t fingerprint, struct reserve *reserve)
{
    struct set *halves[2];

    if (set->depth == index->directory->depth && !double_directory(index, reserve))
        return false;

    halves[0] = set_create(set->depth + 1, set->capacity, reserve);
    halves[1] = set_create(set->depth + 1, set->capacity, reserve);
    if (halves[0] == NULL || halves[1] == NULL || !distribute(set, halves, reserve)) {
        set_discard(halves[0], false, reserve);
        set_discard(halves[1], false, reserve);
        return false;
    }
    replace_in_directory(index, fingerprint, set->depth, halves);
    set_discard(set, true, reserve);
    index->saw_deepest = true;
    return true;
}

/*
 * Whether a full set is split, or else gets a larger map. Splitting is useful as long as it halves
 * sets. If all hashes begin with the same bits, splitting would double the directory in vain.
 * Hashes do that only in tests with a bad hash function.
 */
static bool
should_split(const struct index *index, const struct set *set)
{
    uint64_t places = (uint64_t)1 << set->depth;

    return set->capacity >= SET_CAPACITY_MAX && set->depth < DEPTH_MAX &&
           places * (SET_CAPACITY_MAX / 16) <= index->count + SET_CAPACITY_MAX;
}

static bool
make_room_in_set(struct index *index, uint32_t fingerprint, struct reserve *reserve)
{
    for (;;) {
        struct set *set = find_set(index, fingerprint);
        bool done;

        if ((set->count + 1) * 2 <= set->capacity) {
            if (set->tombstones <= set->capacity / 4)
                return true;
            return set_rebuild(set, set->capacity, reserve);
        }
        done = should_split(index, set) ? split(index, set, fingerprint, reserve)
                                        : set_rebuild(set, set->capacity * 2, reserve);
        if (!done)
            return false;
    }
}

bool
index_make_room(struct index *index, uint64_t hash, struct reserve *reserve)
{
    /* Both are asked, so that one refill brings what both lack. */
    bool room = make_room_for_hint(index, reserve);

    return make_room_in_set(index, hash_fingerprint(hash), reserve) && room;
}

/* ---------------------------------------------------------------------------------------------- */
/* Giving memory back                                                                             */

/* Model step I8: the words of `from` are added to `set`. */
static bool
copy_words(struct set *from, struct set *set, struct reserve *reserve)
{
    ck_hs_iterator_t iterator = CK_HS_ITERATOR_INITIALIZER;
    void *stored;

    while (ck_hs_next(&from->map, &iterator, &stored))
        if (!set_add(set, stored, reserve))
            return false;
    return true;
}

/* The capacity of the smallest map in which `count` words use at most a quarter of the cells. */
static uint32_t
fitting_capacity(uint32_t count)
{
    uint32_t capacity = SET_CAPACITY_MIN;

    while (capacity < count * 4)
        capacity *= 2;
    return capacity;
}

/*
 * Makes a set of this depth with the words of `one` and of `two`; `two` may be NULL. Returns NULL
 * if the reserve wants memory.
 */
static struct set *
make_smaller(struct set *one, struct set *two, uint32_t depth, struct reserve *reserve)
{
    uint32_t count = one->count + (two == NULL ? 0 : two->count);
    struct set *smaller = set_create(depth, fitting_capacity(count), reserve);

    if (smaller == NULL)
        return NULL;
    if (!copy_words(one, smaller, reserve) || (two != NULL && !copy_words(two, smaller, reserve))) {
        set_discard(smaller, false, reserve);
        return NULL;
    }
    return smaller;
}

/*
 * The neighbour of the set at `place`: the set whose hashes begin with the same bits, except the
 * last one. Returns NULL if that part of the directory has deeper sets.
 */
static struct set *
find_neighbour(const struct directory *directory, size_t place, const struct set *set)
{
    struct set *neighbour;

    if (set->depth == 0)
        return NULL;
    neighbour = directory->sets[place ^ (size_t)1 << (directory->depth - set->depth)];
    return neighbour->depth == set->depth ? neighbour : NULL;
}

/*
 * Model step I9: a smaller set replaces the set at `place`, or that set and its neighbour, one
 * place after the other. The set stays if it is not sparse and cannot be merged. Returns false if
 * the reserve wants memory.
 */
static bool
tidy_set(struct index *index, size_t place, struct reserve *reserve)
{
    struct directory *directory = index->directory;
    struct set *set = directory->sets[place], *neighbour = find_neighbour(directory, place, set),
               *smaller;
    bool merge = neighbour != NULL && (set->count + neighbour->count) * SPARSE <= SET_CAPACITY_MAX;
    uint32_t depth = set->depth - merge;
    size_t places = (size_t)1 << (directory->depth - depth), first = place & ~(places - 1);

    if (!merge && (set->capacity == SET_CAPACITY_MIN || set->count * SPARSE > set->capacity))
        return true;
    smaller = make_smaller(set, merge ? neighbour : NULL, depth, reserve);
    if (smaller == NULL)
        return false;
    /*
     * Release. The other side is the acquire in find_set(). Without it a reader could search the
     * smaller set before its words are there.
     */
    for (size_t i = 0; i < places; i++)
        sync_store_pointer(&directory->sets[first + i], smaller);
    set_discard(set, true, reserve);
    if (merge)
        set_discard(neighbour, true, reserve);
    return true;
}

/*
 * Model step I11: a directory with one bit less replaces the old one. The store releases; the other
 * side is the acquire in find_set(). Without the release a reader could find places that are not
 * filled yet.
 */
static bool
halve_directory(struct index *index, struct reserve *reserve)
{
    struct directory *old = index->directory,
                     *directory = block_take(reserve, directory_size(old->depth - 1));

    if (directory == NULL)
        return false;
    directory->depth = old->depth - 1;
    for (size_t i = 0; i < (size_t)1 << directory->depth; i++)
        directory->sets[i] = old->sets[2 * i];
    sync_store_pointer(&index->directory, directory);
    block_defer(reserve, old, directory_size(old->depth));
    return true;
}

/*
 * Model step I10: visits the set at the cursor and moves the cursor to the next set. At the end of
 * a round it starts the next one, and halves the directory if no set needs the directory's full
 * depth. Returns false if the reserve wants memory.
 */
static bool
tidy_next(struct index *index, struct reserve *reserve)
{
    struct directory *directory = index->directory;
    const struct set *set;

    if (index->cursor >= (uint64_t)1 << directory->depth) {
        if (!shrink_hints(index, reserve))
            return false;
        if (!index->saw_deepest && directory->depth > 0 && !halve_directory(index, reserve))
            return false;
        index->cursor = 0;
        index->saw_deepest = false;
        return true;
    }
    if (!tidy_set(index, (size_t)index->cursor, reserve))
        return false;
    set = directory->sets[index->cursor];
    index->saw_deepest |= set->depth == directory->depth;
    /* A merged set may have places before the cursor. The next set begins after its last place. */
    index->cursor = (index->cursor | (((uint64_t)1 << (directory->depth - set->depth)) - 1)) + 1;
    return true;
}

bool
index_tidy(struct index *index, struct reserve *reserve)
{
    for (unsigned i = 0; i < TIDY_STEPS && index_is_untidy(index); i++) {
        if (!tidy_next(index, reserve))
            return false;
        sync_store_relaxed(&index->removed, index->removed - TIDY_PRICE);
    }
    return true;
}

bool
index_is_untidy(const struct index *index)
{
    return sync_load_relaxed(&index->removed) >= TIDY_PRICE;
}

/* ---------------------------------------------------------------------------------------------- */
/* Beginning and end                                                                              */

bool
index_init(struct index *index, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    index->count = 0;
    index->hints = NULL;
    do {
        struct directory *directory = block_take(&reserve, directory_size(0));
        struct set *set = set_create(0, SET_CAPACITY_MIN, &reserve);

        if (directory != NULL && set != NULL) {
            directory->sets[0] = set;
            index->directory = directory;
            return true;
        }
        if (directory != NULL)
            block_put_back(&reserve, directory, directory_size(0));
        set_discard(set, false, &reserve);
    } while (reserve_fill(&reserve, memory));
    reserve_release(&reserve, memory);
    return false;
}

void
index_destroy(struct index *index, struct memory *memory)
{
    struct directory *directory = index->directory;
    struct reserve reserve;

    reserve_init(&reserve);
    for (size_t i = 0; i < (size_t)1 << directory->depth;) {
        struct set *set = directory->sets[i];

        i += (size_t)1 << (directory->depth - set->depth);
        set_discard(set, false, &reserve);
    }
    block_put_back(&reserve, directory, directory_size(directory->depth));
    if (index->hints != NULL)
        block_put_back(&reserve, index->hints, hints_bytes(index->hints->size));
    reserve_release(&reserve, memory);
}

/* ---------------------------------------------------------------------------------------------- */
/* Looking up, adding and removing                                                                */

/* Whether the hints alone decide a look-up under the lock; then `number` is what they say. */
static bool
find_in_hints(const struct index *index, const struct lookup *lookup, uint32_t *number)
{
    uint64_t word =
        index->hints == NULL ? HINTS_UNKNOWN : hints_find(index->hints, lookup->fingerprint);

    *number = word_entry(word);
    if (*number == 0)
        return word != HINTS_UNKNOWN;
    /* Another key may have the same fingerprint, and the set has both. */
    return has_key(entry_at(lookup->entries, *number), lookup);
}

/* Model step I1: the caller holds the lock, so the result is exact. */
uint32_t
index_find(const struct index *index, const struct arena *entries, uint64_t hash, const void *key,
           size_t length)
{
    struct lookup lookup = {.fingerprint = hash_fingerprint(hash),
                            .entries = entries,
                            .hash = hash,
                            .key = key,
                            .length = length};
    uint32_t number;

    if (find_in_hints(index, &lookup, &number))
        return number;
    return stored_entry(
        ck_hs_get(&find_set(index, lookup.fingerprint)->map, lookup.fingerprint, &lookup));
}

void
index_prefetch_set(const struct index *index, uint64_t hash)
{
    sync_prefetch(find_set(index, hash_fingerprint(hash)));
}

void
index_prefetch_cells(const struct index *index, uint64_t hash)
{
    const struct set *set = find_set(index, hash_fingerprint(hash));
    const unsigned char *map = sync_load_pointer(&set->map.map);
    uint32_t cell = hash_fingerprint(hash) & (SET_CAPACITY_MAX - 1) &
                    (sync_load_relaxed_32(&set->capacity) - 1);

    sync_prefetch(map);
    sync_prefetch(map + MAP_CELLS_OFFSET + cell * sizeof(void *));
}

/*
 * Model steps F3 and F4: ck_hs_get() loads the map, and then a word of the map with the
 * fingerprint.
 */
uint32_t
index_find_in_set(const struct index *index, uint64_t hash)
{
    struct lookup lookup = {.fingerprint = hash_fingerprint(hash), .entries = NULL};

    return stored_entry(
        ck_hs_get(&find_set(index, lookup.fingerprint)->map, lookup.fingerprint, &lookup));
}

/* Model step I2: the word of a new entry joins its set. */
bool
index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve)
{
    uint32_t fingerprint = hash_fingerprint(hash);

    if (!set_add(find_set(index, fingerprint), stored_make(fingerprint, entry), reserve))
        return false;
    if (index->hints != NULL)
        hints_add(index->hints, (uint64_t)(uintptr_t)stored_make(fingerprint, entry));
    sync_store_relaxed(&index->count, index->count + 1);
    return true;
}

/* Model step I3: the word of a dead entry leaves its set. */
void
index_remove(struct index *index, uint64_t hash, uint32_t entry)
{
    uint32_t fingerprint = hash_fingerprint(hash);
    struct set *set = find_set(index, fingerprint);

    ck_hs_remove(&set->map, fingerprint, stored_make(fingerprint, entry));
    if (index->hints != NULL)
        hints_remove(index->hints, (uint64_t)(uintptr_t)stored_make(fingerprint, entry));
    set->count--;
    set->tombstones++;
    sync_store_relaxed(&index->count, index->count - 1);
    sync_store_relaxed(&index->removed, index->removed + 1);
}

/* ---------------------------------------------------------------------------------------------- */
/* Validation                                                                                     */

/* The hints name the entry of a stored word, or its pair is marked. */
static bool
hints_know(const struct hints *hints, const void *stored)
{
    uint64_t place = hints_place(hints, stored_fingerprint(stored));

    for (unsigned i = 0; i < 2; i++) {
        uint64_t hint = hints->words[place ^ i];

        if (hint & HINT_MISSING || word_entry(hint) == stored_entry(stored))
            return true;
    }
    return false;
}

static const char *
validate_set(const struct index *index, const struct set *set, size_t place,
             const struct arena *entries)
{
    uint64_t directory_depth = index->directory->depth;
    ck_hs_iterator_t iterator = CK_HS_ITERATOR_INITIALIZER;
    ck_hs_t map = set->map;
    uint32_t count = 0;
    void *stored;

    while (ck_hs_next(&map, &iterator, &stored)) {
        const struct entry *entry;

        count++;
        if (!is_stored(stored) || stored_entry(stored) == 0)
            return "index: a set holds something strange";
        entry = entry_at(entries, stored_entry(stored));
        if (hash_fingerprint(entry->hash) != stored_fingerprint(stored))
            return "index: a stored fingerprint is not its entry's";
        if ((uint64_t)stored_fingerprint(stored) >> (32 - directory_depth) >>
                (directory_depth - set->depth) !=
            place >> (directory_depth - set->depth))
            return "index: an entry is in the wrong set";
        if (sync_load_relaxed(&entry->word) == 0)
            return "index: a dead entry is indexed";
        if (index->hints != NULL && !hints_know(index->hints, stored))
            return "index: the hints lack an entry, and its pair has no mark";
    }
    if (count != set->count || ck_hs_count(&map) != count)
        return "index: a set's count is wrong";
    return NULL;
}

/* Every hint names an entry that is alive, by its fingerprint. */
static const char *
validate_hints(const struct index *index, const struct arena *entries)
{
    const struct hints *hints = index->hints;

    for (uint64_t i = 0; hints != NULL && i < hints->size; i++) {
        const struct entry *entry;

        if (hints->words[i] <= HINT_MISSING)
            continue;
        if (hints_place(hints, hints->words[i] >> 32) >> 1 != i >> 1)
            return "index: a hint is in the wrong place";
        entry = entry_at(entries, word_entry(hints->words[i]));
        if (sync_load_relaxed(&entry->word) == 0)
            return "index: a hint names a dead entry";
        if (hash_fingerprint(entry->hash) != hints->words[i] >> 32)
            return "index: a hint's fingerprint is not its entry's";
    }
    return NULL;
}

const char *
index_validate(const struct index *index, const struct arena *entries)
{
    const struct directory *directory = index->directory;
    uint64_t count = 0;

    for (size_t i = 0; i < (size_t)1 << directory->depth;) {
        const struct set *set = directory->sets[i];
        size_t places = (size_t)1 << (directory->depth - set->depth);
        const char *fault = validate_set(index, set, i, entries);

        if (fault != NULL)
            return fault;
        for (size_t j = 1; j < places; j++)
            if (directory->sets[i + j] != set)
                return "index: a set's places in the directory are torn";
        count += set->count;
        i += places;
    }
    if (count != index->count)
        return "index: the count is wrong";
    return validate_hints(index, entries);
}
