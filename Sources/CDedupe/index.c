#include "index.h"

#include <ck_hs.h>
#include <string.h>

#include "entry.h"

/*
 * A set's map has 64 to 2,048 cells (16 KiB), at most half of them in use. A full one of 2,048 is split into two. ck_hs
 * would grow by itself, but ignores a failure to; so room is made before each insertion, where failure can be told.
 */
enum { SET_CAPACITY_MIN = 64, SET_CAPACITY_MAX = 2048, SET_ALIGNMENT = 64 };

/* The directory takes no more bits than the tag has to give: the map's offset needs some too. */
enum { DEPTH_MAX = 20 };

struct set {
    ck_hs_t map;
    uint32_t depth;
    uint32_t capacity;   /* Of the map; ck_hs may have made it larger. */
    uint32_t count;
    uint32_t tombstones; /* At most so many: removals since the map was made. */
};

_Static_assert(sizeof(void *) == 8, "a stored word takes the place of a pointer");
_Static_assert(sizeof(struct set) >= sizeof(struct block), "retired sets are chained through their own memory");

/* ---------------------------------------------------------------------------------------------------- */
/* ck_hs's hooks. They get no context: it is passed by the thread, which holds the lock.                */

static _Thread_local struct reserve *hook_reserve;

static void *
hook_malloc(size_t size)
{
    return reserve_take(hook_reserve, size, SET_ALIGNMENT);
}

static void *
hook_realloc(void *memory, size_t old_size, size_t size, bool defer)
{
    (void)memory, (void)old_size, (void)size, (void)defer;
    return NULL;
}

/* Immediate frees are of maps that were tried and found too small: the next attempt wants the same again. */
static void
hook_free(void *memory, size_t size, bool defer)
{
    if (defer)
        reserve_retire(hook_reserve, memory, size, SET_ALIGNMENT);
    else
        reserve_put_back(hook_reserve, memory, size, SET_ALIGNMENT);
}

static struct ck_malloc hooks = {.malloc = hook_malloc, .realloc = hook_realloc, .free = hook_free};

/* ---------------------------------------------------------------------------------------------------- */
/* Stored words and look-up records                                                                     */

struct lookup {
    uint32_t tag;
    const struct arena *entries;
    uint64_t hash;
    const void *key;
    size_t length;
};

_Static_assert(_Alignof(struct lookup) > 1, "a look-up record's address has a low bit of zero");

static uint32_t
hash_tag(uint64_t hash)
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
stored_tag(const void *word)
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
    return stored_tag(word);
}

/*
 * Insertion and removal pass a stored word: those are equal only if identical, which ck_hs has found already.
 */
static bool
hook_compare(const void *stored, const void *wanted)
{
    const struct lookup *lookup = wanted;
    const struct entry *entry;

    if (is_stored(wanted) || stored_tag(stored) != lookup->tag)
        return false;
    entry = entry_at(lookup->entries, stored_entry(stored));
    return entry->hash == lookup->hash && entry->key_length == lookup->length &&
           (lookup->length == 0 || memcmp(entry->key, lookup->key, lookup->length) == 0);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Sets                                                                                                 */

static struct set *
set_create(uint32_t depth, uint32_t capacity, struct reserve *reserve)
{
    struct set *set = reserve_take(reserve, sizeof(*set), SET_ALIGNMENT);
    ck_hs_t map;

    hook_reserve = reserve;
    if (!ck_hs_init(&map, CK_HS_MODE_SPMC | CK_HS_MODE_DIRECT, hook_hash, hook_compare, &hooks, capacity, 0)) {
        if (set != NULL)
            reserve_put_back(reserve, set, sizeof(*set), SET_ALIGNMENT);
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

static void
set_discard(struct set *set, struct reserve *reserve)
{
    if (set == NULL)
        return;
    hook_reserve = reserve;
    ck_hs_destroy(&set->map);
    reserve_put_back(reserve, set, sizeof(*set), SET_ALIGNMENT);
}

static bool
set_add(struct set *set, const void *stored, struct reserve *reserve)
{
    hook_reserve = reserve;
    if (!ck_hs_put_unique(&set->map, stored_tag(stored), stored))
        return false;
    set->count++;
    return true;
}

/* Moves the set's words to a map of `capacity` cells without tombstones. */
static bool
set_rebuild(struct set *set, uint32_t capacity, struct reserve *reserve)
{
    hook_reserve = reserve;
    if (!ck_hs_grow(&set->map, capacity)) {
        /* Nothing wanted: a probe limit had made the map larger than we knew. */
        if (reserve->wanted > 0)
            return false;
        set->capacity = capacity;
        return true;
    }
    set->capacity = capacity;
    set->tombstones = 0;
    return true;
}

static struct set *
find_set(const struct index *index, uint32_t tag)
{
    return index->directory[(uint64_t)tag >> (32 - index->depth)];
}

/* ---------------------------------------------------------------------------------------------------- */
/* Splitting                                                                                            */

static size_t
directory_size(uint32_t depth)
{
    return sizeof(struct set *) << depth;
}

static bool
double_directory(struct index *index, struct reserve *reserve)
{
    struct set **directory = reserve_take(reserve, directory_size(index->depth + 1), SET_ALIGNMENT);

    if (directory == NULL)
        return false;
    for (size_t i = 0; i < (size_t)1 << index->depth; i++)
        directory[2 * i] = directory[2 * i + 1] = index->directory[i];
    reserve_retire(reserve, index->directory, directory_size(index->depth), SET_ALIGNMENT);
    index->directory = directory;
    index->depth++;
    return true;
}

/* Shares the words of `set` between the two halves of its hashes. */
static bool
distribute(struct set *set, struct set *halves[2], struct reserve *reserve)
{
    ck_hs_iterator_t iterator = CK_HS_ITERATOR_INITIALIZER;
    void *stored;

    while (ck_hs_next(&set->map, &iterator, &stored)) {
        uint32_t bit = stored_tag(stored) >> (31 - set->depth) & 1;

        if (!set_add(halves[bit], stored, reserve))
            return false;
    }
    return true;
}

static void
replace_in_directory(struct index *index, uint32_t tag, uint32_t depth, struct set *halves[2])
{
    uint32_t spread = index->depth - depth;
    size_t first = (size_t)((uint64_t)tag >> (32 - depth) << spread), half = (size_t)1 << (spread - 1);

    for (size_t i = 0; i < half; i++) {
        index->directory[first + i] = halves[0];
        index->directory[first + half + i] = halves[1];
    }
}

static bool
split(struct index *index, struct set *set, uint32_t tag, struct reserve *reserve)
{
    struct set *halves[2];

    if (set->depth == index->depth && !double_directory(index, reserve))
        return false;

    halves[0] = set_create(set->depth + 1, set->capacity, reserve);
    halves[1] = set_create(set->depth + 1, set->capacity, reserve);
    if (halves[0] == NULL || halves[1] == NULL || !distribute(set, halves, reserve)) {
        set_discard(halves[0], reserve);
        set_discard(halves[1], reserve);
        return false;
    }
    replace_in_directory(index, tag, set->depth, halves);
    set_discard(set, reserve);
    return true;
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

/* Room for one more word with this tag. */
static bool
make_room(struct index *index, uint32_t tag, struct reserve *reserve)
{
    for (;;) {
        struct set *set = find_set(index, tag);
        bool done;

        if ((set->count + 1) * 2 <= set->capacity) {
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

bool
index_init(struct index *index, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    index->depth = 0;
    index->count = 0;
    do {
        struct set **directory = reserve_take(&reserve, directory_size(2), SET_ALIGNMENT);
        struct set *set = set_create(0, SET_CAPACITY_MIN, &reserve);

        if (directory != NULL && set != NULL) {
            index->depth = 2;
            for (size_t i = 0; i < 4; i++)
                directory[i] = set;
            index->directory = directory;
            return true;
        }
        if (directory != NULL)
            reserve_put_back(&reserve, directory, directory_size(2), SET_ALIGNMENT);
        set_discard(set, &reserve);
    } while (reserve_fill(&reserve, memory));
    reserve_release(&reserve, memory);
    return false;
}

void
index_destroy(struct index *index, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    for (size_t i = 0; i < (size_t)1 << index->depth;) {
        struct set *set = index->directory[i];

        i += (size_t)1 << (index->depth - set->depth);
        set_discard(set, &reserve);
    }
    reserve_retire(&reserve, index->directory, directory_size(index->depth), SET_ALIGNMENT);
    reserve_release(&reserve, memory);
}

uint32_t
index_find(const struct index *index, const struct arena *entries, uint64_t hash, const void *key, size_t length)
{
    struct lookup lookup = {
        .tag = hash_tag(hash), .entries = entries, .hash = hash, .key = key, .length = length};
    struct set *set = find_set(index, lookup.tag);

    return stored_entry(ck_hs_get(&set->map, lookup.tag, &lookup));
}

bool
index_add(struct index *index, uint64_t hash, uint32_t entry, struct reserve *reserve)
{
    uint32_t tag = hash_tag(hash);

    if (!make_room(index, tag, reserve) || !set_add(find_set(index, tag), stored_make(tag, entry), reserve))
        return false;
    index->count++;
    return true;
}

void
index_remove(struct index *index, uint64_t hash, uint32_t entry)
{
    uint32_t tag = hash_tag(hash);
    struct set *set = find_set(index, tag);

    ck_hs_remove(&set->map, tag, stored_make(tag, entry));
    set->count--;
    set->tombstones++;
    index->count--;
}

/* ---------------------------------------------------------------------------------------------------- */

static const char *
validate_set(const struct set *set, size_t place, uint32_t directory_depth, const struct arena *entries)
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
        if (hash_tag(entry->hash) != stored_tag(stored))
            return "index: a stored tag is not its entry's";
        if ((uint64_t)stored_tag(stored) >> (32 - directory_depth) >> (directory_depth - set->depth) !=
            place >> (directory_depth - set->depth))
            return "index: an entry is in the wrong set";
        if (entry->word == 0)
            return "index: a dead entry is indexed";
    }
    if (count != set->count || ck_hs_count(&map) != count)
        return "index: a set's count is wrong";
    return NULL;
}

const char *
index_validate(const struct index *index, const struct arena *entries)
{
    uint64_t count = 0;

    for (size_t i = 0; i < (size_t)1 << index->depth;) {
        const struct set *set = index->directory[i];
        size_t places = (size_t)1 << (index->depth - set->depth);
        const char *fault = validate_set(set, i, index->depth, entries);

        if (fault != NULL)
            return fault;
        for (size_t j = 1; j < places; j++)
            if (index->directory[i + j] != set)
                return "index: a set's places in the directory are torn";
        count += set->count;
        i += places;
    }
    return count == index->count ? NULL : "index: the count is wrong";
}
