/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A put back makes a take undone, whatever comes between the lock scopes of the take.
 *
 * Two buffers get the same random updates and statuses. The test takes batches from one of them and
 * puts each batch back as a whole, with some of the updates between the lock scopes of the take.
 * Afterwards both buffers must have the same state for every key. The test uses the core's internal
 * headers, in order to tell the lock that a thread is waiting.
 *
 * On a buffer that merges nothing can come between, because a take holds the merge lock.
 */
#include "calls/calls.h"

#include <stdarg.h>
#include <stdlib.h>

#include "check.h"
#include "random.h"

/* Enough keys for two holds, or three of a tiny build. */
enum { KEYS = TAKES_PER_LOCK + 5, BATCH = 2 * KEYS, WAS_PUT_BACK = 0, NEVER_TAKEN = 1 };

static void (*between)(void);
static bool inside;
static unsigned long pauses;

/* Ours: a take that believes that somebody waits for the lock yields between its holds. */
int
sched_yield(void)
{
    if (between != NULL && !inside) {
        inside = true;
        between();
        inside = false;
    }
    return 0;
}

/* Which values it was made of: the first, the last, and how many. */
typedef struct value {
    uint64_t revision;
    uint64_t from, to;
    uint64_t count;
} value_t;

static cdedupe_t *buffers[2];
static bool suppress;
static uint64_t sequence, random_state, numbers;
static uint64_t revisions[KEYS]; /* Of each key's last value, or zero. */
static char text[8000];
static size_t length;

static void
describe(FILE *out)
{
    fprintf(out, "  sequence %" PRIu64 "%s:%s\n", sequence, suppress ? ", suppressing" : "", text);
}

static uint64_t
below(uint64_t limit)
{
    return random_below(&random_state, limit);
}

__attribute__((format(printf, 1, 2))) static void
note(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (length + 40 < sizeof(text))
        length += (size_t)vsnprintf(text + length, sizeof(text) - length, format, arguments);
    va_end(arguments);
}

/* ---------------------------------------------------------------------------------------------- */
/* Both buffers                                                                                   */

static void
put(cdedupe_t *buffer, uint8_t key, bool deletion, uint64_t number, uint64_t revision)
{
    cdedupe_update_t update = {.key = &key, .key_length = 1, .deletion = deletion};

    if (!deletion) {
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        *(value_t *)cdedupe_payload(buffer, update.slot) = (value_t){revision, number, number, 1};
    }
    cdedupe_put(buffer, &update, 1);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
}

/*
 * What equal revisions stand for is equal, too: so one that comes again has the number that it had.
 */
static void
put_both(void)
{
    uint8_t key = (uint8_t)below(below(2) == 0 ? KEYS : 4);
    bool deletion = below(3) == 0;
    uint64_t number = suppress && revisions[key] != 0 && below(2) == 0 ? revisions[key] : ++numbers;

    revisions[key] = deletion ? 0 : number;
    note(deletion ? " -%u" : " %u=%u", key, (unsigned)number);
    for (unsigned i = 0; i < 2; i++)
        put(buffers[i], key, deletion, number, number);
}

static void
put_many(uint64_t limit)
{
    for (uint64_t i = below(limit); i > 0; i--)
        put_both();
}

static void
meanwhile(void)
{
    pauses++;
    note(" |");
    put_many(5);
    if (below(6) == 0) {
        cdedupe_status_t status = (cdedupe_status_t)below(3);

        note(" <%d>", (int)status);
        for (unsigned i = 0; i < 2; i++)
            CHECK_EQ(cdedupe_put_status(buffers[i], status), CDEDUPE_OK);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* The sink                                                                                       */

/* Takes a batch, with something between the holds; and says whether a key is in it twice. */
static size_t
take_with_pauses(cdedupe_t *buffer, cdedupe_item_t *items)
{
    bool met[KEYS] = {false};
    size_t count;

    note(" take[");
    buffer->lock.waiting++;
    between = meanwhile;
    cdedupe_take(buffer, items, BATCH, &count);
    between = NULL;
    buffer->lock.waiting--;
    note("]");
    for (size_t i = 0; i < count; i++) {
        if (items[i].kind != CDEDUPE_ITEM_STATUS) {
            uint8_t key = *(const uint8_t *)items[i].key;

            CHECK(!met[key]);
            met[key] = true;
        }
    }
    return count;
}

static void
put_back(cdedupe_t *buffer, cdedupe_item_t *items, size_t count)
{
    size_t left = count;

    CHECK_EQ(cdedupe_put_back(buffer, items, &left), CDEDUPE_OK);
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    note(" put back;");
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

/* What came of a key, if anything. */
typedef struct delivery {
    bool came;
    uint8_t kind;
    value_t value; /* Zeros for a deletion. */
} delivery_t;

typedef struct deliveries {
    delivery_t keys[KEYS];
    int status; /* The last one; -1: none. */
} deliveries_t;

static void
deliver_item(cdedupe_t *buffer, const cdedupe_item_t *item, deliveries_t *deliveries)
{
    delivery_t *delivery;

    if (item->kind == CDEDUPE_ITEM_STATUS) {
        deliveries->status = item->status;
        return;
    }
    delivery = &deliveries->keys[*(const uint8_t *)item->key];
    CHECK(!delivery->came);
    delivery->came = true;
    delivery->kind = item->kind;
    if (item->slot != 0)
        delivery->value = *(const value_t *)cdedupe_payload(buffer, item->slot);
    cdedupe_discard(buffer, &item->slot, 1);
}

static deliveries_t
deliver_all(cdedupe_t *buffer)
{
    deliveries_t deliveries = {.status = -1};
    cdedupe_item_t items[BATCH];
    size_t count;

    while (cdedupe_take(buffer, items, BATCH, &count) == CDEDUPE_OK)
        for (size_t i = 0; i < count; i++)
            deliver_item(buffer, &items[i], &deliveries);
    return deliveries;
}

/*
 * A deletion of a key that the sink never heard of: whether it comes depends on what was true when
 * it was put.
 */
static bool
is_nothing(const delivery_t *delivery)
{
    return !delivery->came || delivery->kind == CDEDUPE_ITEM_DELETED;
}

static void
compare(const deliveries_t *put_back, const deliveries_t *never_taken, const bool *live)
{
    CHECK_EQ(put_back->status, never_taken->status);
    for (unsigned key = 0; key < KEYS; key++) {
        const delivery_t *a = &put_back->keys[key], *b = &never_taken->keys[key];

        if (!live[key] && is_nothing(a) && is_nothing(b))
            continue;
        CHECK_EQ(a->came, b->came);
        CHECK_EQ(a->kind, b->kind);
        CHECK(memcmp(&a->value, &b->value, sizeof(a->value)) == 0);
    }
}

/* ---------------------------------------------------------------------------------------------- */

static void
open_both(void)
{
    suppress = sequence % 2 != 0;
    random_state = (sequence + 1) * 0x9e3779b97f4a7c15u;
    numbers = 0;
    length = 0;
    text[0] = '\0';
    memset(revisions, 0, sizeof(revisions));
    for (unsigned i = 0; i < 2; i++) {
        cdedupe_options_t options = cdedupe_options();

        options.payload_size = sizeof(value_t);
        options.revision_offset = offsetof(value_t, revision);
        options.suppress_unchanged = suppress;
        options.hash_seed = 5;
        CHECK_EQ(cdedupe_create(&options, &buffers[i]), CDEDUPE_OK);
        CHECK_EQ(cdedupe_claim(buffers[i], CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    }
}

static void
one_sequence(void)
{
    cdedupe_item_t items[BATCH];
    deliveries_t deliveries[2];
    bool live[KEYS] = {false};

    open_both();
    /* Some keys are live. */
    put_many(KEYS);
    for (unsigned i = 0; i < 2; i++)
        deliveries[i] = deliver_all(buffers[i]);
    for (unsigned key = 0; key < KEYS; key++)
        live[key] =
            deliveries[0].keys[key].came && deliveries[0].keys[key].kind != CDEDUPE_ITEM_DELETED;
    note(" taken;");
    for (unsigned round = 0; round < 3; round++) {
        size_t count;

        put_many(2 * KEYS);
        count = take_with_pauses(buffers[WAS_PUT_BACK], items);
        put_many(6);
        put_back(buffers[WAS_PUT_BACK], items, count);
        CHECK_EQ(buffers[WAS_PUT_BACK]->statistics.live_keys,
                 buffers[NEVER_TAKEN]->statistics.live_keys);
    }
    for (unsigned i = 0; i < 2; i++)
        deliveries[i] = deliver_all(buffers[i]);
    compare(&deliveries[WAS_PUT_BACK], &deliveries[NEVER_TAKEN], live);
    for (unsigned i = 0; i < 2; i++)
        cdedupe_destroy(buffers[i]);
}

/* How many sequences, and the first one's number. */
int
main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;

    check_test = "put_back_is_as_never_taken";
    check_describe = describe;
    sequence = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    for (uint64_t i = 0; i < count && check_failed < 10; i++, sequence++)
        one_sequence();
    CHECK(count == 0 || pauses > count);
    return check_finish();
}
