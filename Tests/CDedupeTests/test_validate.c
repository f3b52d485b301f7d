/*
 * Does cdedupe_validate() bite? The one test that knows the core's insides: it breaks one invariant at a time, expects to
 * be told, and puts it right again.
 */
#include <string.h>

#include "buffer.h"
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
    CHECK(cdedupe_claim(buffer, CDEDUPE_BY_HAND) == CDEDUPE_OK);
    for (unsigned char key = 0; key < KEYS / 2; key++)
        put(buffer, key);
    CHECK(cdedupe_take(buffer, items, KEYS, &count) == CDEDUPE_OK);
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(buffer, &items[i].slot, 1);
    for (unsigned char key = 10; key < 30; key++)
        put(buffer, key);
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_RESYNC_IN_PROGRESS) == CDEDUPE_OK);
    for (unsigned char key = 5; key < 12; key++)
        put(buffer, key);
    CHECK(cdedupe_put_status(buffer, CDEDUPE_WAIT_FOR_DATASTORE) == CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return buffer;
}

#define BREAK(what, value)                                                                                     \
    do {                                                                                                       \
        __typeof__(what) before = (what);                                                                      \
        (what) = (value);                                                                                      \
        CHECK(cdedupe_validate(buffer) != NULL);                                                               \
        (what) = before;                                                                                       \
        CHECK_NO_FAULT(cdedupe_validate(buffer));                                                              \
    } while (0)

/* The entry of the n-th update in the queue. */
static struct entry *
queued_entry(cdedupe_t *buffer, unsigned n)
{
    uint32_t link = ring_first(&buffer->links, buffer->ring);

    while (item_is_status(link_at(&buffer->links, link)->item) || n-- > 0)
        link = link_at(&buffer->links, link)->next;
    return entry_at(&buffer->entries, link_at(&buffer->links, link)->item);
}

static void
words_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();
    struct entry *one = queued_entry(buffer, 0), *two = queued_entry(buffer, 1);

    BREAK(one->word, one->word & ~WORD_PENDING);
    BREAK(one->word, one->word ^ WORD_LIVE);
    BREAK(one->word, one->word & ~WORD_INDEXED);
    BREAK(one->word, word_pending(one->word, word_slot(one->word), buffer->restart + 1, false));
    BREAK(one->word, word_pending(one->word, word_slot(two->word), buffer->restart, false));
    BREAK(one->word, 0);
    BREAK(one->hash, one->hash ^ 1);
    BREAK(one->hash, one->hash ^ (uint64_t)1 << 63);
    BREAK(one->key[0], 200);
    BREAK(one->link, two->link);
    cdedupe_destroy(buffer);
}

static void
the_queue_is_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();
    struct link *first = link_at(&buffer->links, ring_first(&buffer->links, buffer->ring));
    struct link *second = link_at(&buffer->links, first->next);

    CHECK(item_is_status(first->item));
    BREAK(second->item, ITEM_STATUS);
    BREAK(second->previous, buffer->ring);
    BREAK(first->next, second->next);
    BREAK(link_at(&buffer->links, buffer->ring)->previous, first->next);
    cdedupe_destroy(buffer);
}

static void
counters_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();

    BREAK(buffer->statistics.pending_keys, buffer->statistics.pending_keys + 1);
    BREAK(buffer->statistics.pending_statuses, 0);
    BREAK(buffer->statistics.live_keys, 0);
    BREAK(buffer->statistics.received, buffer->statistics.received + 1);
    BREAK(buffer->statistics.dropped, 0);
    BREAK(buffer->uncleared, 0);
    BREAK(buffer->index.count, buffer->index.count + 1);
    BREAK(buffer->asleep, true);
    cdedupe_destroy(buffer);
}

static void
arenas_are_checked(void)
{
    cdedupe_t *buffer = make_busy_buffer();

    BREAK(buffer->entries.used, buffer->entries.used + 1);
    BREAK(buffer->links.used, buffer->links.used - 1);
    BREAK(buffer->slots.slabs[1].used, buffer->slots.slabs[1].used + 1);
    BREAK(buffer->links.classes[0].head, 0);
    BREAK(buffer->links.classes[0].slabs, 7);
    cdedupe_destroy(buffer);
}

int
main(void)
{
    RUN(words_are_checked);
    RUN(the_queue_is_checked);
    RUN(counters_are_checked);
    RUN(arenas_are_checked);
    return check_finish();
}
