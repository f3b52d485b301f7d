/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cdedupe_single_begin(), _put() and _end(): each outcome, and where the payloads go. The model
 * tests put half of their single updates by these calls too; see subject.c.
 */
#include <CDedupe.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static cdedupe_t *buffer;

static void
open_with(const cdedupe_options_t *options)
{
    CHECK_EQ(cdedupe_create(options, &buffer), CDEDUPE_OK);
}

static void
open_plain(void)
{
    open_with(NULL);
}

/* What one update brought back, as numbers; zero for none. */
struct back {
    cdedupe_result_t result;
    cdedupe_outcome_t outcome;
    uint64_t returned, displaced;
};

static struct back
put(const char *key, size_t length, uint64_t payload, bool deletion)
{
    struct back back = {0};
    cdedupe_single_t single;

    CHECK_EQ(cdedupe_single_begin(buffer, &single), CDEDUPE_OK);
    memcpy(single.payload, &payload, sizeof(payload));
    back.result = cdedupe_single_put(buffer, &single, key, length, deletion);
    if (single.returned != NULL)
        memcpy(&back.returned, single.returned, sizeof(back.returned));
    if (single.displaced != NULL)
        memcpy(&back.displaced, single.displaced, sizeof(back.displaced));
    back.outcome = (cdedupe_outcome_t)single.outcome;
    cdedupe_single_end(buffer, &single);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    return back;
}

static void
expect(struct back back, cdedupe_outcome_t outcome, uint64_t returned, uint64_t displaced)
{
    CHECK_EQ(back.outcome, outcome);
    CHECK_EQ(back.returned, returned);
    CHECK_EQ(back.displaced, displaced);
}

static void
take_all(void)
{
    cdedupe_item_t items[10];
    cdedupe_slot_t slots[10];
    size_t count;

    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    while (cdedupe_take(buffer, items, 10, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++)
            slots[i] = items[i].slot;
        cdedupe_discard(buffer, slots, count);
    }
    cdedupe_release(buffer);
}

static void
value_replaces_andTheOlderPayloadComesBack(void)
{
    open_plain();
    expect(put("a", 1, 1, false), CDEDUPE_OUTCOME_QUEUED, 0, 0);
    expect(put("a", 1, 2, false), CDEDUPE_OUTCOME_REPLACED, 0, 1);
    expect(put("a", 1, 3, false), CDEDUPE_OUTCOME_REPLACED, 0, 2);
    cdedupe_destroy(buffer);
}

static void
deletion_cancelsAValueThatWasNeverTaken_andBothPayloadsComeBack(void)
{
    open_plain();
    put("a", 1, 1, false);
    expect(put("a", 1, 2, true), CDEDUPE_OUTCOME_CANCELLED, 2, 1);
    put("a", 1, 3, false);
    take_all();
    expect(put("a", 1, 4, true), CDEDUPE_OUTCOME_QUEUED, 0, 0);
    expect(put("a", 1, 5, true), CDEDUPE_OUTCOME_REPLACED, 0, 4);
    expect(put("a", 1, 6, false), CDEDUPE_OUTCOME_REPLACED, 0, 5);
    cdedupe_destroy(buffer);
}

static void
update_ofAStoppedBuffer_comesBack(void)
{
    open_plain();
    put("a", 1, 1, false);
    cdedupe_stop(buffer);
    expect(put("a", 1, 2, false), CDEDUPE_OUTCOME_DROPPED, 2, 0);
    expect(put("b", 1, 3, false), CDEDUPE_OUTCOME_DROPPED, 3, 0);
    cdedupe_destroy(buffer);
}

static void
keyThatIsTooLong_isRejected(void)
{
    static char key[CDEDUPE_KEY_MAX + 1];
    struct back back;

    open_plain();
    back = put(key, sizeof(key), 1, false);
    CHECK_EQ(back.result, CDEDUPE_KEY_TOO_LONG);
    expect(back, CDEDUPE_OUTCOME_REJECTED, 1, 0);
    CHECK_EQ(put(key, CDEDUPE_KEY_MAX, 2, false).result, CDEDUPE_OK);
    CHECK_EQ(put(NULL, 0, 3, false).result, CDEDUPE_OK);
    cdedupe_destroy(buffer);
}

static void
payloadThatARestartDropped_comesBackLater(void)
{
    open_plain();
    put("a", 1, 1, false);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    expect(put("b", 1, 2, false), CDEDUPE_OUTCOME_QUEUED, 0, 1);
    cdedupe_destroy(buffer);
}

static void
bound_makesItOverflow(void)
{
    cdedupe_options_t options = cdedupe_options();
    struct back back;

    options.maximum_pending_keys = 1;
    open_with(&options);
    put("a", 1, 1, false);
    back = put("b", 1, 2, false);
    CHECK_EQ(back.result, CDEDUPE_OVERFLOWED);
    expect(back, CDEDUPE_OUTCOME_OVERFLOWED, 2, 0);
    cdedupe_destroy(buffer);
}

static void
value_thatTheSinkHas_comesBack(void)
{
    cdedupe_options_t options = cdedupe_options();

    options.suppress_unchanged = true;
    open_with(&options);
    put("a", 1, 7, false);
    take_all();
    expect(put("a", 1, 7, false), CDEDUPE_OUTCOME_SUPPRESSED, 7, 0);
    expect(put("a", 1, 8, false), CDEDUPE_OUTCOME_QUEUED, 0, 0);
    cdedupe_destroy(buffer);
}

static void
add(void *context, void *older, void *newer)
{
    uint64_t one, two;

    (void)context;
    memcpy(&one, older, sizeof(one));
    memcpy(&two, newer, sizeof(two));
    two += one;
    memcpy(newer, &two, sizeof(two));
}

static void
values_areMerged(void)
{
    cdedupe_options_t options = cdedupe_options();

    options.merge = add;
    open_with(&options);
    put("a", 1, 1, false);
    expect(put("a", 1, 2, false), CDEDUPE_OUTCOME_REPLACED, 0, 1);
    expect(put("a", 1, 4, false), CDEDUPE_OUTCOME_REPLACED, 0, 3);
    cdedupe_destroy(buffer);
}

static void *
refuse(void *context, size_t size, size_t alignment)
{
    bool *refuses = context;
    void *memory = *refuses ? NULL : aligned_alloc(64, (size + 63) / 64 * 64);

    (void)alignment;
    return memory == NULL ? NULL : memset(memory, 0, size);
}

static void
release(void *context, void *memory, size_t size, size_t alignment)
{
    (void)context, (void)size, (void)alignment;
    free(memory);
}

/* Each of many first insertions without memory fails whole, and succeeds with memory. */
static void
update_withoutMemory_isRejected(void)
{
    cdedupe_options_t options = cdedupe_options();
    unsigned failures = 0;
    bool refuses = false;

    options.allocate = refuse;
    options.deallocate = release;
    options.allocator_context = &refuses;
    open_with(&options);
    for (uint64_t key = 1; key <= 500; key++) {
        cdedupe_single_t single;
        cdedupe_result_t result;

        refuses = true;
        result = cdedupe_single_begin(buffer, &single);
        if (result == CDEDUPE_OK) {
            memcpy(single.payload, &key, sizeof(key));
            result = cdedupe_single_put(buffer, &single, &key, sizeof(key), false);
            CHECK_EQ(single.returned != NULL, result != CDEDUPE_OK);
            CHECK_EQ(single.outcome,
                     result == CDEDUPE_OK ? CDEDUPE_OUTCOME_QUEUED : CDEDUPE_OUTCOME_REJECTED);
            cdedupe_single_end(buffer, &single);
        }
        refuses = false;
        if (result == CDEDUPE_OK)
            continue;
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        failures++;
        expect(put((const char *)&key, sizeof(key), key, false), CDEDUPE_OUTCOME_QUEUED, 0, 0);
    }
    CHECK(failures > 5);
    cdedupe_destroy(buffer);
}

int
main(void)
{
    RUN(value_replaces_andTheOlderPayloadComesBack);
    RUN(deletion_cancelsAValueThatWasNeverTaken_andBothPayloadsComeBack);
    RUN(update_ofAStoppedBuffer_comesBack);
    RUN(keyThatIsTooLong_isRejected);
    RUN(payloadThatARestartDropped_comesBackLater);
    RUN(bound_makesItOverflow);
    RUN(value_thatTheSinkHas_comesBack);
    RUN(values_areMerged);
    RUN(update_withoutMemory_isRejected);
    return check_finish();
}
