/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pins: their life in every state of a key, what they must not change, and producers that put by
 * pins. That pinned keys follow all other rules is shown by the tests that `make run-pins` runs.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "check.h"
#include "hooks.h"
#include "random.h"

enum { BATCH = 8, TEXT = 400 };

static hooks_t hooks;
static cdedupe_t *buffer;
static cdedupe_item_t items[BATCH];
static size_t taken;
static char text[TEXT];

/* ---------------------------------------------------------------------------------------------- */
/* A buffer whose payloads are numbers                                                            */

static void
sum_up(void *context, void *older, void *newer)
{
    (void)context;
    *(uint64_t *)newer += *(uint64_t *)older;
}

static cdedupe_options_t
usual_options(void)
{
    cdedupe_options_t options = cdedupe_options();

    hooks = (hooks_t){0};
    hooks_use(&hooks, &options);
    options.payload_size = sizeof(uint64_t);
    options.batch_size = BATCH;
    options.hash_seed = 1;
    return options;
}

static void
open_with(const cdedupe_options_t *options)
{
    CHECK_EQ(cdedupe_create(options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    taken = 0;
}

static void
open_it(void)
{
    cdedupe_options_t options = usual_options();

    open_with(&options);
}

static void
close_it(void)
{
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
}

static cdedupe_statistics_t
statistics(void)
{
    cdedupe_statistics_t now;

    cdedupe_statistics(buffer, &now, sizeof(now));
    return now;
}

static cdedupe_pin_t
pin(const char *key)
{
    cdedupe_pin_t pinned = 0;

    CHECK_EQ(cdedupe_pin(buffer, key, strlen(key), &pinned), CDEDUPE_OK);
    CHECK(pinned != 0);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return pinned;
}

static void
unpin(cdedupe_pin_t pinned)
{
    CHECK_EQ(cdedupe_unpin(buffer, pinned), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static cdedupe_slot_t
slot_of(uint64_t number)
{
    cdedupe_slot_t slot = 0;

    if (number != 0 && CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK))
        *(uint64_t *)cdedupe_payload(buffer, slot) = number;
    return slot;
}

static cdedupe_outcome_t
put_update(cdedupe_update_t update)
{
    cdedupe_result_t result = cdedupe_put(buffer, &update, 1);
    cdedupe_slot_t back[2] = {update.slot, update.displaced};

    CHECK(result == CDEDUPE_OK || result == CDEDUPE_OVERFLOWED);
    cdedupe_discard(buffer, back, 2);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return (cdedupe_outcome_t)update.outcome;
}

static cdedupe_outcome_t
put(const char *key, uint64_t number)
{
    return put_update((cdedupe_update_t){
        .key = key, .key_length = strlen(key), .slot = slot_of(number), .deletion = number == 0});
}

/* The key's length must not be read. */
static cdedupe_outcome_t
put_by(cdedupe_pin_t pinned, uint64_t number)
{
    return put_update((cdedupe_update_t){
        .pin = pinned, .key_length = SIZE_MAX, .slot = slot_of(number), .deletion = number == 0});
}

/* Takes one batch; its payloads stay. Returns it as text: "+a=1 ~b=2 -c", or "empty". */
static const char *
take(void)
{
    static const char signs[] = {'+', '~', '-', '<'};
    cdedupe_result_t result = cdedupe_take(buffer, items, BATCH, &taken);
    size_t length = 0;

    strcpy(text, result == CDEDUPE_EMPTY ? "empty" : "");
    for (size_t i = 0; i < taken; i++) {
        const cdedupe_item_t *item = &items[i];

        length += (size_t)snprintf(text + length, TEXT - length, "%s%c%.*s", i > 0 ? " " : "",
                                   signs[item->kind], (int)item->key_length,
                                   item->key_length > 0 ? (const char *)item->key : "");
        if (item->slot != 0)
            length += (size_t)snprintf(text + length, TEXT - length, "=%" PRIu64,
                                       *(uint64_t *)cdedupe_payload(buffer, item->slot));
    }
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return text;
}

static void
put_back(size_t count)
{
    size_t left = count;

    CHECK_EQ(cdedupe_put_back(buffer, items + (taken - count), &left), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
restart(void)
{
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
}

static void
collect(void)
{
    cdedupe_slot_t slots[BATCH];
    size_t count;

    while (cdedupe_collect(buffer, slots, BATCH, &count) == CDEDUPE_OK)
        cdedupe_discard(buffer, slots, count);
}

static void
in_sync(void)
{
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
}

/* Puts, takes and deletes other keys, so that freed entries are used for them. */
static void
use_freed_entries(void)
{
    char key[32];

    for (unsigned i = 0; i < 40; i++) {
        snprintf(key, sizeof(key), "other%u", i);
        put(key, 1);
        put(key, 0);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Arguments                                                                                      */

static void
a_pin_names_a_key(void)
{
    cdedupe_pin_t a, b;

    open_it();
    a = pin("a");
    b = pin("b");
    CHECK(a != b);
    CHECK_EQ(pin("a"), a);
    CHECK_EQ(statistics().pinned_keys, 2);
    CHECK_EQ(put_by(b, 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put("a", 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(a, 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put("b", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(take(), "+b=4 +a=3");
    close_it();
}

static void
arguments_out_of_range_are_refused(void)
{
    static const char key[] = "a";
    cdedupe_pin_t pinned = 7;

    open_it();
    CHECK_EQ(cdedupe_pin(buffer, key, CDEDUPE_KEY_MAX + 1, &pinned), CDEDUPE_KEY_TOO_LONG);
    CHECK_EQ(pinned, 0);
    CHECK_EQ(cdedupe_unpin(buffer, 0), CDEDUPE_INVALID_ARGUMENT);
    CHECK_EQ(statistics().pinned_keys, 0);
    close_it();
}

static void
the_empty_and_the_longest_key_can_be_pinned(void)
{
    char *key = calloc(CDEDUPE_KEY_MAX, 1);
    cdedupe_pin_t empty, longest;

    open_it();
    CHECK_EQ(cdedupe_pin(buffer, NULL, 0, &empty), CDEDUPE_OK);
    CHECK_EQ(cdedupe_pin(buffer, key, CDEDUPE_KEY_MAX, &longest), CDEDUPE_OK);
    CHECK_EQ(put_by(longest, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(empty, 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(cdedupe_take(buffer, items, BATCH, &taken), CDEDUPE_OK);
    CHECK_EQ(items[0].key_length, CDEDUPE_KEY_MAX);
    CHECK(memcmp(items[0].key, key, CDEDUPE_KEY_MAX) == 0);
    CHECK_EQ(items[1].key_length, 0);
    close_it();
    free(key);
}

static void
a_key_has_at_most_so_many_pins(void)
{
    cdedupe_pin_t a, more = 7;

    open_it();
    a = pin("a");
    for (uint32_t i = 1; i < CDEDUPE_PINS_MAX; i++)
        if (cdedupe_pin(buffer, "a", 1, &more) != CDEDUPE_OK || more != a)
            CHECK_EQ(i, 0);
    CHECK_EQ(cdedupe_pin(buffer, "a", 1, &more), CDEDUPE_TOO_MANY_PINS);
    CHECK_EQ(more, 0);
    CHECK_TEXT(cdedupe_result_text(CDEDUPE_TOO_MANY_PINS), "key has too many pins");
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    CHECK_EQ(put_by(a, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=1");
    put("a", 0);
    CHECK_TEXT(take(), "-a");
    for (uint32_t i = 1; i < CDEDUPE_PINS_MAX; i++)
        if (cdedupe_unpin(buffer, a) != CDEDUPE_OK)
            CHECK_EQ(i, 0);
    CHECK_EQ(statistics().pinned_keys, 1);
    CHECK_EQ(put_by(a, 2), CDEDUPE_OUTCOME_QUEUED);
    put("a", 0);
    unpin(a);
    CHECK_EQ(statistics().pinned_keys, 0);
    close_it();
}

/* A value needs a slot, whether it is put by a key or by a pin. */
static void
an_invalid_update_by_pin_is_rejected(void)
{
    cdedupe_pin_t a;

    open_it();
    a = pin("a");
    put_by(a, 1);
    for (size_t before = 0; before < 3; before++) {
        cdedupe_update_t updates[4] = {{0}};
        size_t i;

        for (i = 0; i < before; i++)
            updates[i] = (cdedupe_update_t){.pin = a, .slot = slot_of(i + 2)};
        updates[before].pin = a;
        updates[before + 1] = (cdedupe_update_t){.pin = a, .slot = slot_of(9)};
        CHECK_EQ(cdedupe_put(buffer, updates, before + 2), CDEDUPE_INVALID_ARGUMENT);
        for (i = 0; i < before; i++) {
            CHECK_EQ(updates[i].outcome, CDEDUPE_OUTCOME_REPLACED);
            CHECK(updates[i].displaced != 0 && updates[i].slot == 0);
            cdedupe_discard(buffer, &updates[i].displaced, 1);
        }
        CHECK_EQ(updates[before].outcome, CDEDUPE_OUTCOME_REJECTED);
        CHECK_EQ(updates[before + 1].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
        CHECK(updates[before + 1].slot != 0);
        cdedupe_discard(buffer, &updates[before + 1].slot, 1);
    }
    CHECK_TEXT(take(), "+a=3");
    close_it();
}

/* Updates of one key by pin and by key, in calls of any length, stay in order. */
static void
one_call_puts_by_pin_and_by_key_in_order(void)
{
    enum { MOST = 350 };
    static cdedupe_update_t updates[MOST];
    uint64_t random = 1;
    cdedupe_pin_t a;

    open_it();
    a = pin("a");
    for (size_t round = 0; round < 2000; round++) {
        size_t count = 1 + random_below(&random, round % 10 == 0 ? MOST : 6);
        uint64_t last = 0;
        char wanted[32];

        for (size_t i = 0; i < count; i++) {
            bool deletion = random_below(&random, 20) == 0;

            last = deletion ? 0 : round * 1000 + i + 1;
            updates[i] = (cdedupe_update_t){.slot = slot_of(last), .deletion = deletion};
            if (random_below(&random, 3) > 0)
                updates[i].pin = a;
            else
                updates[i].key = "a", updates[i].key_length = 1;
        }
        CHECK_EQ(cdedupe_put(buffer, updates, count), CDEDUPE_OK);
        for (size_t i = 0; i < count; i++) {
            cdedupe_slot_t back[2] = {updates[i].slot, updates[i].displaced};

            cdedupe_discard(buffer, back, 2);
        }
        if (last != 0 && round % 3 == 0) {
            snprintf(wanted, sizeof(wanted), "a=%" PRIu64, last);
            CHECK_TEXT(take() + 1, wanted);
            cdedupe_discard(buffer, &items[0].slot, 1);
        }
    }
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Life                                                                                           */

/* The states of a key in which it is pinned, and those in which it is unpinned. */
enum state {
    ABSENT,
    NEW_VALUE,
    DELETION_NOT_LIVE,
    LIVE,
    LIVE_VALUE,
    LIVE_DELETION,
    STALE_NOT_LIVE,
    STALE_LIVE,
    UNSEEN,
    SYNTHESIZED,
    DELETION_TAKEN,
    VALUE_PUT_BACK_AND_GONE,
    CANCELLED,
    STATES,
};

static void
make_live(void)
{
    put("a", 1);
    take();
}

/* Brings the key "a" of a new buffer into a state. Does not use pins. */
static void
bring_into(enum state state)
{
    switch (state) {
    case ABSENT:
    case STATES:
        return;
    case NEW_VALUE:
        put("a", 1);
        return;
    case DELETION_NOT_LIVE:
        put("a", 0);
        return;
    case LIVE:
        make_live();
        return;
    case LIVE_VALUE:
        make_live();
        put("a", 2);
        return;
    case LIVE_DELETION:
        make_live();
        put("a", 0);
        return;
    case STALE_NOT_LIVE:
        put("a", 1);
        restart();
        return;
    case STALE_LIVE:
        make_live();
        put("a", 2);
        restart();
        return;
    case UNSEEN:
        make_live();
        restart();
        return;
    case SYNTHESIZED:
        make_live();
        restart();
        in_sync();
        return;
    case DELETION_TAKEN:
        make_live();
        put("a", 0);
        take();
        return;
    case VALUE_PUT_BACK_AND_GONE:
        make_live();
        put("a", 0);
        put_back(1);
        return;
    case CANCELLED:
        put("a", 1);
        put("a", 0);
        return;
    }
}

/* What the sink gets from now on, with an in-sync at the end. */
static void
rest(char *into)
{
    *into = '\0';
    in_sync();
    while (strcmp(take(), "empty") != 0) {
        strcat(into, text);
        strcat(into, " | ");
    }
    put("a", 5);
    strcat(into, take());
}

static void
compare_lives(enum state pinned_in, enum state unpinned_in)
{
    char plain[TEXT], with_pin[TEXT];
    cdedupe_statistics_t without, with;
    cdedupe_pin_t a;

    open_it();
    bring_into(pinned_in);
    bring_into(unpinned_in);
    without = statistics();
    rest(plain);
    close_it();

    open_it();
    bring_into(pinned_in);
    a = pin("a");
    CHECK_EQ(statistics().pinned_keys, 1);
    bring_into(unpinned_in);
    unpin(a);
    use_freed_entries();
    if (unpinned_in == DELETION_TAKEN)
        CHECK(items[0].key_length == 1 && *(const char *)items[0].key == 'a');
    with = statistics();
    CHECK_EQ(with.pinned_keys, 0);
    CHECK_EQ(with.live_keys, without.live_keys);
    CHECK_EQ(with.pending_keys, without.pending_keys);
    CHECK_EQ(with.dropped, without.dropped);
    CHECK_EQ(with.delivered, without.delivered);
    rest(with_pin);
    CHECK_TEXT(with_pin, plain);
    close_it();
}

/* A key that is pinned in one state and unpinned in another is as if it had never been pinned. */
static void
pins_begin_and_end_in_every_state(void)
{
    for (enum state one = ABSENT; one < STATES; one++)
        for (enum state two = ABSENT; two < STATES; two++)
            compare_lives(one, two);
}

static void
a_pinned_key_that_is_absent_is_not_live(void)
{
    cdedupe_pin_t a;

    open_it();
    a = pin("a");
    CHECK_EQ(statistics().live_keys, 0);
    CHECK_EQ(statistics().pending_keys, 0);
    restart();
    in_sync();
    CHECK_TEXT(take(), "<");
    CHECK_EQ(statistics().synthesized_deletions, 0);
    CHECK_EQ(put_by(a, 0), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(a, 0), CDEDUPE_OUTCOME_REPLACED);
    CHECK_TEXT(take(), "-a");
    CHECK_EQ(put_by(a, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(a, 0), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_TEXT(take(), "empty");
    CHECK_EQ(put_by(a, 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=2");
    CHECK_EQ(put_by(a, 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "~a=3");
    close_it();
}

/* Also if no other call comes. */
static void
unpinOfManyKeys_givesTheIndexsMemoryBack(void)
{
    enum { MANY = 20000 };
    static cdedupe_pin_t pins[MANY];
    uint64_t peak;

    open_it();
    for (uint32_t i = 0; i < MANY; i++)
        CHECK_EQ(cdedupe_pin(buffer, &i, sizeof(i), &pins[i]), CDEDUPE_OK);
    peak = statistics().memory;
    for (uint32_t i = 0; i < MANY; i++)
        CHECK_EQ(cdedupe_unpin(buffer, pins[i]), CDEDUPE_OK);
    CHECK(statistics().memory < peak / 4);
    close_it();
}

static void
an_entry_stays_until_its_last_unpin(void)
{
    cdedupe_pin_t a;

    open_it();
    a = pin("a");
    CHECK_EQ(pin("a"), a);
    CHECK_EQ(statistics().pinned_keys, 1);
    unpin(a);
    CHECK_EQ(statistics().pinned_keys, 1);
    use_freed_entries();
    CHECK_EQ(put_by(a, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=1");
    put("a", 0);
    CHECK_TEXT(take(), "-a");
    use_freed_entries();
    CHECK_EQ(put_by(a, 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=2");
    unpin(a);
    CHECK_EQ(statistics().pinned_keys, 0);
    put("a", 0);
    CHECK_TEXT(take(), "-a");
    close_it();
}

/* No end of the buffer takes pins away, and none is needed before the end. */
static void
pins_stay_after_the_end(void)
{
    for (unsigned how = 0; how < 3; how++) {
        cdedupe_pin_t a, b;

        open_it();
        a = pin("a");
        put_by(a, 1);
        if (how == 0)
            cdedupe_stop(buffer);
        else
            CHECK_EQ(cdedupe_finish(buffer, how == 1 ? CDEDUPE_FINISH_WHEN_DELIVERED
                                                     : CDEDUPE_FINISH_WHEN_EMPTY),
                     CDEDUPE_OK);
        CHECK_EQ(put_by(a, 2), how == 0 ? CDEDUPE_OUTCOME_DROPPED : CDEDUPE_OUTCOME_REPLACED);
        b = pin("b");
        CHECK_EQ(put_by(b, 2), how == 2 ? CDEDUPE_OUTCOME_QUEUED : CDEDUPE_OUTCOME_DROPPED);
        CHECK_EQ(statistics().pinned_keys, 2);
        if (how == 1)
            CHECK_TEXT(take(), "+a=2");
        unpin(a);
        close_it();
    }
}

static void
an_overflow_leaves_pins(void)
{
    cdedupe_options_t options = usual_options();
    cdedupe_pin_t a, b;

    options.maximum_pending_keys = 1;
    open_with(&options);
    a = pin("a");
    b = pin("b");
    CHECK_EQ(put_by(a, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(b, 1), CDEDUPE_OUTCOME_OVERFLOWED);
    CHECK_EQ(put_by(a, 2), CDEDUPE_OUTCOME_DROPPED);
    collect();
    CHECK_EQ(statistics().pinned_keys, 2);
    restart();
    CHECK_EQ(put_by(a, 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_TEXT(take(), "+a=3");
    close_it();
}

static void
a_bound_of_bytes_counts_updates_by_pin(void)
{
    cdedupe_options_t options = usual_options();
    cdedupe_pin_t a;

    options.maximum_pending_bytes = 10;
    open_with(&options);
    a = pin("a");
    put_by(a, 3);
    put_by(a, 7);
    CHECK_EQ(statistics().pending_bytes, 7);
    CHECK_EQ(put("b", 4), CDEDUPE_OUTCOME_OVERFLOWED);
    close_it();
}

static void
every_update_by_pin_is_counted(void)
{
    cdedupe_statistics_t now;
    cdedupe_pin_t a;

    open_it();
    a = pin("a");
    for (uint64_t i = 1; i <= 10; i++)
        put_by(a, i);
    now = statistics();
    CHECK_EQ(now.received, 10);
    CHECK_EQ(now.replaced, 9);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* The sink's keys                                                                                */

/* A key that the sink borrows stays, although its entry lost its pins, was used again and died. */
static void
a_borrowed_key_outlives_its_pin(void)
{
    for (unsigned how = 0; how < 3; how++) {
        cdedupe_pin_t a;

        open_it();
        a = pin("a");
        put_by(a, 1);
        take();
        put_by(a, 0);
        CHECK_TEXT(take(), "-a");
        if (how > 0)
            put_by(a, 2);
        unpin(a);
        if (how == 1)
            CHECK_EQ(put("a", 0), CDEDUPE_OUTCOME_CANCELLED);
        if (how == 2) {
            restart();
            collect();
        }
        use_freed_entries();
        CHECK(items[0].key_length == 1 && *(const char *)items[0].key == 'a');
        CHECK_TEXT(take(), "empty");
        use_freed_entries();
        close_it();
    }
}

/* What a sink may do with a deletion that it took of a pinned key, and the pins meanwhile. */
enum meanwhile {
    NOTHING,
    UNPINNED,
    UNPINNED_AND_PINNED,
    UNPINNED_AND_PUT,
    PUT,
    PUT_AND_UNPINNED,
    PUT_CANCELLED_AND_UNPINNED,
    PINNED_LATE,
    MEANWHILES
};

static void
do_meanwhile(enum meanwhile what, cdedupe_pin_t a)
{
    if (what == PUT || what == PUT_AND_UNPINNED || what == PUT_CANCELLED_AND_UNPINNED)
        put("a", 7);
    if (what != NOTHING && what != PUT && a != 0)
        unpin(a);
    if (what == PUT_CANCELLED_AND_UNPINNED)
        put("a", 0);
    if (what == UNPINNED_AND_PUT)
        put("a", 7);
    if (a != 0 && (what == UNPINNED_AND_PINNED || what == PINNED_LATE))
        pin("a");
    use_freed_entries();
}

/* The scene with a pin (a key that is pinned from the beginning, or only later) or without any. */
static void
put_deletion_back(enum meanwhile what, bool pinned, bool live, unsigned restarts, char *into)
{
    cdedupe_options_t options = usual_options();
    cdedupe_pin_t a = 0;

    options.suppress_unchanged = true;
    open_with(&options);
    if (pinned && what != PINNED_LATE)
        a = pin("a");
    if (live)
        make_live();
    put("a", 0);
    take();
    if (restarts > 0)
        restart();
    if (restarts > 1)
        in_sync();
    if (pinned && what == PINNED_LATE)
        a = pin("a");
    do_meanwhile(what == PINNED_LATE ? NOTHING : what, a);
    put_back(1);
    collect();
    snprintf(into, TEXT, "%" PRIu64 " %" PRIu64 " ", statistics().live_keys,
             statistics().pending_keys);
    /* The sink has this revision, if the key was live and nothing else is pending. */
    snprintf(into + strlen(into), TEXT - strlen(into), "%d ", (int)put("a", 1));
    rest(into + strlen(into));
    close_it();
}

static void
deletions_of_pinned_keys_are_put_back(void)
{
    char plain[TEXT], with_pin[TEXT];

    for (enum meanwhile what = NOTHING; what < MEANWHILES; what++) {
        for (unsigned live = 0; live < 2; live++) {
            for (unsigned restarts = 0; restarts < 3; restarts++) {
                put_deletion_back(what, false, live, restarts, plain);
                put_deletion_back(what, true, live, restarts, with_pin);
                CHECK_TEXT(with_pin, plain);
            }
        }
    }
}

/* Deletions of three keys, each of which has no pin, has one, or has lost one since the take. */
static void
deletions_of_several_keys_are_put_back(void)
{
    static const char *const keys[] = {"a", "b", "c"};

    for (unsigned choice = 0; choice < 27; choice++) {
        unsigned kinds[] = {choice % 3, choice / 3 % 3, choice / 9};
        cdedupe_pin_t pins[3];

        open_it();
        for (unsigned i = 0; i < 3; i++) {
            if (kinds[i] > 0)
                pins[i] = pin(keys[i]);
            put(keys[i], 1);
        }
        take();
        for (unsigned i = 0; i < 3; i++)
            put(keys[i], 0);
        CHECK_TEXT(take(), "-a -b -c");
        for (unsigned i = 0; i < 3; i++)
            if (kinds[i] == 2)
                unpin(pins[i]);
        put_back(3);
        CHECK_TEXT(take(), "-a -b -c");
        CHECK_EQ(statistics().live_keys, 0);
        close_it();
    }
}

/* The entry died after its deletion was taken, so putting back needs a new one, and memory. */
static void
putting_back_without_memory_can_be_repeated(void)
{
    bool failed = false;

    for (uint64_t n = 1; n <= 10; n++) {
        cdedupe_options_t options = usual_options();
        static char key[40000];
        cdedupe_pin_t a;
        size_t left = 1;

        open_with(&options);
        memset(key, 'k', sizeof(key));
        CHECK_EQ(cdedupe_pin(buffer, key, sizeof(key), &a), CDEDUPE_OK);
        put_by(a, 1);
        CHECK_EQ(cdedupe_take(buffer, items, 1, &taken), CDEDUPE_OK);
        put_by(a, 0);
        CHECK_EQ(cdedupe_take(buffer, items, 1, &taken), CDEDUPE_OK);
        unpin(a);
        hooks.fail_at = hooks.allocations + n;
        hooks.fail_onwards = true;
        if (cdedupe_put_back(buffer, items, &left) != CDEDUPE_OK) {
            failed = true;
            CHECK_EQ(left, 1);
            CHECK_NO_FAULT(cdedupe_validate(buffer));
            hooks.fail_at = 0;
            CHECK_EQ(cdedupe_put_back(buffer, items, &left), CDEDUPE_OK);
        }
        hooks.fail_at = 0;
        CHECK_EQ(cdedupe_take(buffer, items, 1, &taken), CDEDUPE_OK);
        CHECK_EQ(items[0].kind, CDEDUPE_ITEM_DELETED);
        CHECK(items[0].key_length == sizeof(key) && memcmp(items[0].key, key, sizeof(key)) == 0);
        close_it();
    }
    CHECK(failed);
}

static void
pinning_without_memory_changes_nothing(void)
{
    unsigned failures = 0;

    for (uint64_t n = 1; n <= 300; n++) {
        char key[16];
        cdedupe_pin_t pinned = 7;
        cdedupe_result_t result;

        if (n == 1)
            open_it();
        snprintf(key, sizeof(key), "%" PRIu64, n);
        hooks.fail_at = hooks.allocations + 1;
        hooks.fail_onwards = true;
        result = cdedupe_pin(buffer, key, strlen(key), &pinned);
        hooks.fail_at = 0;
        CHECK(result == CDEDUPE_OK || (result == CDEDUPE_NO_MEMORY && pinned == 0));
        CHECK_NO_FAULT(cdedupe_validate(buffer));
        if (result != CDEDUPE_OK) {
            failures++;
            pinned = pin(key);
        }
        CHECK_EQ(statistics().pinned_keys, n);
        put_by(pinned, n);
    }
    CHECK(failures > 5);
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Merging                                                                                        */

static cdedupe_pin_t called_with;

static void
call_back(void *context, void *older, void *newer)
{
    cdedupe_pin_t other = 7;

    sum_up(context, older, newer);
    CHECK_EQ(cdedupe_pin(buffer, "b", 1, &other), CDEDUPE_REENTRANT);
    CHECK_EQ(other, 0);
    CHECK_EQ(cdedupe_unpin(buffer, called_with), CDEDUPE_REENTRANT);
}

static void
values_by_pin_are_merged(void)
{
    cdedupe_options_t options = usual_options();
    cdedupe_pin_t a;

    options.merge = call_back;
    open_with(&options);
    a = called_with = pin("a");
    CHECK_EQ(put_by(a, 1), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put_by(a, 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put("a", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(put_by(a, 8), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(statistics().pinned_keys, 1);
    CHECK_TEXT(take(), "+a=15");
    put_by(a, 0);
    CHECK_TEXT(take(), "-a");
    put_by(a, 16);
    unpin(a);
    CHECK_TEXT(take(), "+a=16");
    close_it();
}

/* Updates of one call, in which keys die, so that what was looked up is void. */
static void
one_merging_call_puts_by_pin_and_by_key(void)
{
    cdedupe_options_t options = usual_options();
    cdedupe_update_t updates[6];
    cdedupe_pin_t a;

    options.merge = sum_up;
    open_with(&options);
    a = pin("a");
    put("a", 1);
    put("b", 1);
    updates[0] = (cdedupe_update_t){.key = "b", .key_length = 1, .deletion = true};
    updates[1] = (cdedupe_update_t){.pin = a, .slot = slot_of(2)};
    updates[2] = (cdedupe_update_t){.key = "a", .key_length = 1, .slot = slot_of(4)};
    updates[3] = (cdedupe_update_t){.key = "b", .key_length = 1, .slot = slot_of(8)};
    updates[4] = (cdedupe_update_t){.pin = a, .slot = slot_of(16)};
    updates[5] = (cdedupe_update_t){.key = "b", .key_length = 1, .slot = slot_of(32)};
    CHECK_EQ(cdedupe_put(buffer, updates, 6), CDEDUPE_OK);
    CHECK_TEXT(take(), "+a=23 +b=40");
    close_it();
}

/* ---------------------------------------------------------------------------------------------- */
/* Memory                                                                                         */

static void
pins_come_and_go_in_constant_memory(void)
{
    uint64_t held = 0;

    for (unsigned claimed = 0; claimed < 2; claimed++) {
        open_it();
        if (claimed == 0)
            cdedupe_release(buffer);
        for (uint64_t i = 0; i < 20000; i++) {
            char key[32];
            cdedupe_pin_t pinned;

            snprintf(key, sizeof(key), "key %" PRIu64, i);
            CHECK_EQ(cdedupe_pin(buffer, key, strlen(key), &pinned), CDEDUPE_OK);
            if (i % 2 == 0)
                CHECK_EQ(put_by(pinned, 1), CDEDUPE_OUTCOME_QUEUED);
            if (i % 2 == 0)
                CHECK_EQ(put_by(pinned, 0), CDEDUPE_OUTCOME_CANCELLED);
            CHECK_EQ(cdedupe_unpin(buffer, pinned), CDEDUPE_OK);
            if (i == 2000)
                held = statistics().memory;
        }
        CHECK(statistics().memory <= held);
        close_it();
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Threads                                                                                        */

enum { PRODUCERS = 12, KEYS = 6, ROUNDS = 3000 };

static atomic_bool running;
static atomic_uint_fast64_t written, returned;

/* Numbers of one producer go up: thousands are its number, and the rest counts. */
static void *
produce_by_pins(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument + 1;
    cdedupe_pin_t pins[KEYS];
    char key[2] = "a";

    for (unsigned i = 0; i < KEYS; i++) {
        key[0] = (char)('a' + i);
        CHECK_EQ(cdedupe_pin(buffer, key, 1, &pins[i]), CDEDUPE_OK);
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        cdedupe_update_t updates[5];
        size_t count = 1 + random_below(&random, 5);

        for (size_t i = 0; i < count; i++)
            updates[i] = (cdedupe_update_t){.pin = pins[random_below(&random, KEYS)],
                                            .slot = slot_of(round + 1),
                                            .deletion = random_below(&random, 8) == 0};
        CHECK_EQ(cdedupe_put(buffer, updates, count), CDEDUPE_OK);
        atomic_fetch_add(&written, count);
        for (size_t i = 0; i < count; i++) {
            cdedupe_slot_t back[2] = {updates[i].slot, updates[i].displaced};

            atomic_fetch_add(&returned, (back[0] != 0) + (back[1] != 0));
            cdedupe_discard(buffer, back, 2);
        }
        if (round % 16 == 15) { /* Another pin of the same key, which it may share with others. */
            unsigned i = (unsigned)random_below(&random, KEYS);

            key[0] = (char)('a' + i);
            CHECK_EQ(cdedupe_unpin(buffer, pins[i]), CDEDUPE_OK);
            CHECK_EQ(cdedupe_pin(buffer, key, 1, &pins[i]), CDEDUPE_OK);
        }
    }
    for (unsigned i = 0; i < KEYS; i++)
        CHECK_EQ(cdedupe_unpin(buffer, pins[i]), CDEDUPE_OK);
    return NULL;
}

/* Takes, puts back now and then, and looks at each payload and each key. */
static void
take_some(uint64_t *random)
{
    size_t count, left;

    if (cdedupe_take(buffer, items, BATCH, &count) != CDEDUPE_OK)
        return;
    left = random_below(random, 4) == 0 ? random_below(random, count + 1) : 0;
    count -= left;
    if (left > 0)
        CHECK_EQ(cdedupe_put_back(buffer, items + count, &left), CDEDUPE_OK);
    for (size_t i = 0; i < BATCH; i++) {
        cdedupe_slot_t slot = items[i].slot;

        if (i < count && items[i].kind != CDEDUPE_ITEM_STATUS) {
            const char *key = items[i].key;

            CHECK(items[i].key_length == 1 && *key >= 'a' && *key < 'a' + KEYS);
        }
        if (slot != 0) {
            uint64_t number = *(uint64_t *)cdedupe_payload(buffer, slot);

            CHECK(number > 0 && number <= ROUNDS);
            atomic_fetch_add(&returned, 1);
            cdedupe_discard(buffer, &slot, 1);
        }
        items[i].slot = 0;
    }
}

static void *
sink(void *argument)
{
    uint64_t random = 99;

    (void)argument;
    while (atomic_load(&running))
        take_some(&random);
    return NULL;
}

static void *
disturb(void *argument)
{
    uint64_t random = 7;

    (void)argument;
    while (atomic_load(&running)) {
        cdedupe_slot_t slots[BATCH];
        size_t count;

        CHECK_NO_FAULT(cdedupe_validate(buffer));
        if (random_below(&random, 8) == 0)
            restart();
        if (random_below(&random, 8) == 0)
            in_sync();
        while (cdedupe_collect(buffer, slots, BATCH, &count) == CDEDUPE_OK) {
            atomic_fetch_add(&returned, count);
            cdedupe_discard(buffer, slots, count);
        }
    }
    return NULL;
}

/* More producers than tallies, so that some of them count in contexts. */
static void
producers_put_by_pins(void)
{
    cdedupe_options_t options = usual_options();
    pthread_t threads[PRODUCERS], others[2];
    cdedupe_statistics_t now;
    uint64_t cursor = 0;

    open_with(&options);
    memset(items, 0, sizeof(items)); /* The sink discards every slot in them. */
    atomic_store(&running, true);
    atomic_store(&written, 0);
    atomic_store(&returned, 0);
    CHECK_EQ(pthread_create(&others[0], NULL, sink, NULL), 0);
    CHECK_EQ(pthread_create(&others[1], NULL, disturb, NULL), 0);
    for (uintptr_t i = 0; i < PRODUCERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, produce_by_pins, (void *)i), 0);
    for (size_t i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&running, false);
    pthread_join(others[0], NULL);
    pthread_join(others[1], NULL);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    now = statistics();
    CHECK_EQ(now.pinned_keys, 0);
    CHECK_EQ(now.received, atomic_load(&written));
    CHECK_EQ(now.received + now.synthesized_deletions,
             now.delivered + now.replaced + now.cancelled + now.dropped + now.pending_keys);
    while (cdedupe_drain_next(buffer, &cursor) != 0)
        atomic_fetch_add(&returned, 1);
    CHECK_EQ(atomic_load(&returned), atomic_load(&written));
    cdedupe_destroy(buffer);
    hooks_close(&hooks);
}

int
main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1;

    RUN(a_pin_names_a_key);
    RUN(arguments_out_of_range_are_refused);
    RUN(the_empty_and_the_longest_key_can_be_pinned);
    RUN(a_key_has_at_most_so_many_pins);
    RUN(an_invalid_update_by_pin_is_rejected);
    RUN(one_call_puts_by_pin_and_by_key_in_order);
    RUN(pins_begin_and_end_in_every_state);
    RUN(a_pinned_key_that_is_absent_is_not_live);
    RUN(unpinOfManyKeys_givesTheIndexsMemoryBack);
    RUN(an_entry_stays_until_its_last_unpin);
    RUN(pins_stay_after_the_end);
    RUN(an_overflow_leaves_pins);
    RUN(a_bound_of_bytes_counts_updates_by_pin);
    RUN(every_update_by_pin_is_counted);
    RUN(a_borrowed_key_outlives_its_pin);
    RUN(deletions_of_pinned_keys_are_put_back);
    RUN(deletions_of_several_keys_are_put_back);
    RUN(putting_back_without_memory_can_be_repeated);
    RUN(pinning_without_memory_changes_nothing);
    RUN(values_by_pin_are_merged);
    RUN(one_merging_call_puts_by_pin_and_by_key);
    RUN(pins_come_and_go_in_constant_memory);
    for (unsigned i = 0; i < rounds; i++)
        RUN(producers_put_by_pins);
    return check_finish();
}
