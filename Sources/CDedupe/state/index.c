/* SPDX-License-Identifier: Apache-2.0 */
#include "state/index.h"

#include <ck_hs.h>
#include <string.h>

#include "state/entry.h"

/*
 * A set's map has 64 to 2,048 cells (16 KiB), at most half of them in use. A full one of 2,048 is split into two. ck_hs
 * would grow by itself, but ignores a failure to; so room is made before each insertion, where failure can be told.
 */
enum {
    SET_CAPACITY_MIN = TEST_SIZED(64, 8),
    SET_CAPACITY_MAX = TEST_SIZED(2048, 32),
    SET_ALIGNMENT = 64
};

/* The directory takes no more bits than the tag has to give: the map's offset needs some too. */
enum { DEPTH_MAX = TEST_SIZED(20, 8) };

/*
 * A set is sparse if an eighth of its cells or less is in use: half of what doubling leaves. Two neighbours become one
 * if they leave it as sparse as that in the largest map. Sixteen removals pay for a look at one set.
 */
enum { SPARSE = 8, TIDY_PRICE = TEST_SIZED(16, 2), TIDY_STEPS = TEST_SIZED(8, 2) };

/* A map's cells begin two cache lines behind its start: its own fields come first. Only prefetching relies on it. */
enum { MAP_CELLS_OFFSET = 128 };

struct set {
    ck_hs_t map;
    uint32_t depth;
    uint32_t capacity; /* Of the map; ck_hs may have made it larger. */
    uint32_t count;
    uint32_t tombstones; /* At most so many: removals since the map was made. */
};

/* Immutable but for its pointers. */
struct directory {
    uint64_t depth; /* It has 2^depth places. */
    struct set *sets[];
};

_Static_assert(sizeof(void *) == 8, "a stored word takes the place of a pointer");

/* ---------------------------------------------------------------------------------------------------- */
/* Blocks: tables that readers without the lock look at. Notes for freeing them lie behind their end.   */

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

/* No reader has seen it. */
static void
block_put_back(struct reserve *reserve, void *memory, size_t size)
{
    reserve_put_back(reserve, memory, block_size(size), SET_ALIGNMENT);
}

/* Readers may be in it. */
static void
block_defer(struct reserve *reserve, void *memory, size_t size)
{
    unsigned char *end = (unsigned char *)memory + block_size(size);

    reserve_defer(reserve, (struct block *)(void *)(end - sizeof(struct block)), memory,
                  block_size(size), SET_ALIGNMENT);
}

/* ---------------------------------------------------------------------------------------------------- */
/* ck_hs's hooks. They get no context: it is passed by the thread, which holds the lock.                */

static _Thread_local struct reserve *hook_reserve;
static _Thread_local bool hook_seen; /* What is freed has been seen by readers. */

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
 * Maps that ck_hs has replaced are deferred. Immediate frees are of maps that were tried and found too small (the next
 * attempt wants the same again), or of a set that is discarded.
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

/* ---------------------------------------------------------------------------------------------------- */
/* Stored words and look-up records                                                                     */

struct lookup {
    uint32_t tag;
    const struct arena *entries; /* NULL: the tag is enough. */
    uint64_t hash;
    const void *key;
    size_t length;
};

_Static_assert(_Alignof(struct lookup) > 1, "a look-up record's address has a low bit of zero");

static uint32_t
hash_fingerprint(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

static const void *
stored_make(uint32_t tag, uint32_t entry)
{
    return (const void *)(uintptr_t)(((uint64_t)tag << 32) | ((uint64_t)entry << 1) | 1);
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
    return (uint32_t)(uintptr_t)word >> 1;
}

/* What ck_hs goes by: the tag alone, so that growing needs no entry. */
static unsigned long
hook_hash(const void *word, unsigned long seed)
{
    (void)seed;
    return stored_fingerprint(word);
}

static bool
has_key(const struct entry *entry, const struct lookup *lookup)
{
    return entry->hash == lookup->hash && entry->key_length == lookup->length &&
           (lookup->length == 0 || memcmp(entry->key, lookup->key, lookup->length) == 0);
}

/*
 * Insertion and removal pass a stored word: those are equal only if identical, which ck_hs has found already.
 */
static bool
hook_compare(const void *stored, const void *wanted)
{
    const struct lookup *lookup = wanted;

    if (is_stored(wanted) || stored_fingerprint(stored) != lookup->tag)
        return false;
    return lookup->entries == NULL ||
           has_key(entry_at(lookup->entries, stored_entry(stored)), lookup);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Sets                                                                                                 */

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

/* `seen`: readers may be in it. */
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

/* Moves the set's words to a map of `capacity` cells without tombstones. [I4] */
static bool
set_rebuild(struct set *set, uint32_t capacity, struct reserve *reserve)
{
    hook_reserve = reserve;
    if (!ck_hs_grow(&set->map, capacity)) {
        /* Nothing wanted: a probe limit had made the map larger than we knew. */
        if (reserve->wanted > 0)
            return false;
        sync_store_relaxed_32(&set->capacity, capacity);
        return true;
    }
    sync_store_relaxed_32(&set->capacity, capacity);
    set->tombstones = 0;
    return true;
}

/* Acquire, with the release stores that publish directories [F1] and sets [F2]: what they point to is complete. */
static struct set *
find_set(const struct index *index, uint32_t tag)
{
    const struct directory *directory = sync_load_pointer(&index->directory);

    return sync_load_pointer(&directory->sets[(uint64_t)tag >> (32 - directory->depth)]);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Splitting                                                                                            */

static size_t
directory_size(uint64_t depth)
{
    return sizeof(struct directory) + (sizeof(struct set *) << depth);
}

/* [I5] */
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

/* Shares the words of `set` between the two halves of its hashes. [I6] */
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

/* [I7] */
static void
replace_in_directory(struct index *index, uint32_t tag, uint32_t depth, struct set *halves[2])
{
    struct directory *directory = index->directory;
    uint64_t spread = directory->depth - depth;
    size_t first = (size_t)((uint64_t)tag >> (32 - depth) << spread),
           half = (size_t)1 << (spread - 1);

    for (size_t i = 0; i < half; i++) {
        sync_store_pointer(&directory->sets[first + i], halves[0]);
        sync_store_pointer(&directory->sets[first + half + i], halves[1]);
    }
}

static bool
split(struct index *index, struct set *set, uint32_t tag, struct reserve *reserve)
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
    replace_in_directory(index, tag, set->depth, halves);
    set_discard(set, true, reserve);
    index->saw_deepest = true;
    return true;
}

/*
 * Half of a map's cells may be in use; of a small index's maps a quarter, since probes are what its look-ups cost, while
 * those of a large one wait for memory.
 */
static uint32_t
load_divisor(const struct index *index)
{
    return index->count < INDEX_SMALL ? 4 : 2;
}

/*
 * Splitting pays while it halves sets. If the hashes begin alike (they do not, but for tests with a bad hash function),
 * the directory would double for nothing; then the map grows.
 */
static bool
should_split(const struct index *index, const struct set *set)
{
    uint64_t places = (uint64_t)1 << set->depth;

    return set->capacity >= SET_CAPACITY_MAX && set->depth < DEPTH_MAX &&
           places * (SET_CAPACITY_MAX / 16) <= index->count + SET_CAPACITY_MAX;
}

bool
index_make_room(struct index *index, uint64_t hash, struct reserve *reserve)
{
    uint32_t tag = hash_fingerprint(hash);

    for (;;) {
        struct set *set = find_set(index, tag);
        bool done;

        if ((set->count + 1) * load_divisor(index) <= set->capacity) {
            if (set->tombstones <= set->capacity / 4)
                return true;
            return set_rebuild(set, set->capacity, reserve);
        }
        done = should_split(index, set) ? split(index, set, tag, reserve)
                                        : set_rebuild(set, set->capacity * 2, reserve);
        if (!done)
            return false;
    }
}

/* ---------------------------------------------------------------------------------------------------- */
/* Giving memory back                                                                                   */

/* Adds the words of `from` to `set`. [I8] */
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

/* A map in which so many words take a quarter of the cells at most. */
static uint32_t
fitting_capacity(uint32_t count)
{
    uint32_t capacity = SET_CAPACITY_MIN;

    while (capacity < count * 4)
        capacity *= 2;
    return capacity;
}

/* A set of this depth with the words of one or two (the second may be NULL), or NULL: the reserve wants memory. */
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

/* The set that shares all but the last bit with the one at `place`, if it is as deep. */
static struct set *
find_neighbour(const struct directory *directory, size_t place, const struct set *set)
{
    struct set *neighbour;

    if (set->depth == 0)
        return NULL;
    neighbour = directory->sets[place ^ (size_t)1 << (directory->depth - set->depth)];
    return neighbour->depth == set->depth ? neighbour : NULL;
}

/* Makes the set at `place` smaller if it is sparse, or one with its neighbour. False: the reserve wants memory. [I9] */
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
    for (size_t i = 0; i < places; i++)
        sync_store_pointer(&directory->sets[first + i], smaller);
    set_discard(set, true, reserve);
    if (merge)
        set_discard(neighbour, true, reserve);
    return true;
}

/* [I11] */
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

/* One set, or the end of a round. False: the reserve wants memory. [I10] */
static bool
tidy_next(struct index *index, struct reserve *reserve)
{
    struct directory *directory = index->directory;
    const struct set *set;

    if (index->cursor >= (uint64_t)1 << directory->depth) {
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
    /* A merged set may begin before the cursor. */
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

/* ---------------------------------------------------------------------------------------------------- */

bool
index_init(struct index *index, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    index->count = 0;
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
    reserve_release(&reserve, memory);
}

/* [I1] */
uint32_t
index_find(const struct index *index, const struct arena *entries, uint64_t hash, const void *key,
           size_t length)
{
    struct lookup lookup = {.tag = hash_fingerprint(hash),
                            .entries = entries,
                            .hash = hash,
                            .key = key,
                            .length = length};

    return stored_entry(ck_hs_get(&find_set(index, lookup.tag)->map, lookup.tag, &lookup));
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

/* The map [F3], and a word in it [F4]. */
uint32_t
index_find_fingerprint(const struct index *index, uint64_t hash)
{
    struct lookup lookup;

    lookup.tag = hash_fingerprint(hash);
    lookup.entries = NULL;

    return stored_entry(ck_hs_get(&find_set(index, lookup.tag)->map, lookup.tag, &lookup));
}

/* [I2] */
bool
index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve)
{
    uint32_t tag = hash_fingerprint(hash);

    if (!set_add(find_set(index, tag), stored_make(tag, entry), reserve))
        return false;
    sync_store_relaxed(&index->count, index->count + 1);
    return true;
}

/* [I3] */
void
index_remove(struct index *index, uint64_t hash, uint32_t entry)
{
    uint32_t tag = hash_fingerprint(hash);
    struct set *set = find_set(index, tag);

    ck_hs_remove(&set->map, tag, stored_make(tag, entry));
    set->count--;
    set->tombstones++;
    sync_store_relaxed(&index->count, index->count - 1);
    sync_store_relaxed(&index->removed, index->removed + 1);
}

/* ---------------------------------------------------------------------------------------------------- */

static const char *
validate_set(const struct set *set, size_t place, uint64_t directory_depth,
             const struct arena *entries)
{
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
            return "index: a stored tag is not its entry's";
        if ((uint64_t)stored_fingerprint(stored) >> (32 - directory_depth) >>
                (directory_depth - set->depth) !=
            place >> (directory_depth - set->depth))
            return "index: an entry is in the wrong set";
        if (sync_load_relaxed(&entry->word) == 0)
            return "index: a dead entry is indexed";
    }
    if (count != set->count || ck_hs_count(&map) != count)
        return "index: a set's count is wrong";
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
        const char *fault = validate_set(set, i, directory->depth, entries);

        if (fault != NULL)
            return fault;
        for (size_t j = 1; j < places; j++)
            if (directory->sets[i + j] != set)
                return "index: a set's places in the directory are torn";
        count += set->count;
        i += places;
    }
    return count == index->count ? NULL : "index: the count is wrong";
}
