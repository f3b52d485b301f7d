/* SPDX-License-Identifier: Apache-2.0 */
/* A subject beside the model; see beside_model.h. */
#include "beside_model.h"

#include "check.h"

enum { ITEMS_MAX = 1000 };

static uint64_t
revision_of_bytes(void *context, uint64_t id)
{
    (void)context;
    return id;
}

static uint64_t
revision_of_handles(void *context, uint64_t id)
{
    (void)context;
    return subject_revision(id);
}

static uint64_t
weight_of_bytes(void *context, uint64_t id, bool deletion)
{
    (void)context;
    (void)id;
    return deletion ? 0 : subject_value_length(id, false);
}

static uint64_t
weight_of_long_bytes(void *context, uint64_t id, bool deletion)
{
    (void)context;
    return deletion ? 0 : subject_value_length(id, true);
}

static uint64_t
weight_of_handles(void *context, uint64_t id, bool deletion)
{
    (void)context;
    (void)deletion;
    return subject_weight(id);
}

static uint64_t
merged(void *context, uint64_t older, uint64_t newer)
{
    (void)context;
    return subject_merged(older, newer);
}

void
beside_rules(const subject_options_t *options, model_rules_t *rules)
{
    bool bytes = options->level == SUBJECT_BYTES;

    rules->maximum_keys = options->maximum_keys;
    rules->maximum_bytes = options->maximum_bytes;
    rules->weight = !bytes                 ? weight_of_handles
                    : options->long_values ? weight_of_long_bytes
                                           : weight_of_bytes;
    rules->revision = !options->suppress ? NULL : bytes ? revision_of_bytes : revision_of_handles;
    rules->merged = options->merging ? merged : NULL;
}

void
beside_statistics(subject_t *subject, const model_t *model)
{
    cdedupe_statistics_t got = subject_statistics(subject);
    cdedupe_statistics_t wanted = model->statistics;

    wanted.memory =
        subject->options.hooks != NULL ? subject->options.hooks->held_bytes : got.memory;
    wanted.pinned_keys = got.pinned_keys;
    wanted.stopped = got.stopped;
    CHECK_EQ(got.stopped, model->stopped);
    if (memcmp(&got, &wanted, sizeof(got)) == 0) {
        check_passed++;
        return;
    }
    CHECK_EQ(got.pending_keys, wanted.pending_keys);
    CHECK_EQ(got.pending_statuses, wanted.pending_statuses);
    CHECK_EQ(got.peak_pending_keys, wanted.peak_pending_keys);
    CHECK_EQ(got.live_keys, wanted.live_keys);
    CHECK_EQ(got.received, wanted.received);
    CHECK_EQ(got.delivered, wanted.delivered);
    CHECK_EQ(got.replaced, wanted.replaced);
    CHECK_EQ(got.cancelled, wanted.cancelled);
    CHECK_EQ(got.dropped, wanted.dropped);
    CHECK_EQ(got.synthesized_deletions, wanted.synthesized_deletions);
    CHECK_EQ(got.statuses_received, wanted.statuses_received);
    CHECK_EQ(got.statuses_delivered, wanted.statuses_delivered);
    CHECK_EQ(got.batches, wanted.batches);
    CHECK_EQ(got.memory, wanted.memory);
    CHECK_EQ(got.suppressed, wanted.suppressed);
    CHECK_EQ(got.overflows, wanted.overflows);
    CHECK_EQ(got.pending_bytes, wanted.pending_bytes);
    CHECK_EQ(got.oldest_pending_age, wanted.oldest_pending_age);
    CHECK_EQ(got.overflowed, wanted.overflowed);
}

void
beside_state(subject_t *subject, const model_t *model)
{
    CHECK_EQ(subject->wakes, model->wakes);
    beside_statistics(subject, model);
    CHECK_NO_FAULT(subject_validate(subject));
}

void
beside_item(const subject_item_t *got, size_t got_key, const model_item_t *wanted)
{
    CHECK_EQ(got->kind, wanted->kind);
    CHECK_EQ(got_key, wanted->key);
    if (wanted->kind == CDEDUPE_ITEM_STATUS) {
        CHECK_EQ(got->status, wanted->status);
    } else {
        CHECK_EQ(got->id, wanted->id);
    }
}

cdedupe_result_t
beside_take(subject_t *subject, model_t *model, size_t capacity, beside_number_t *number)
{
    static size_t keys[ITEMS_MAX];
    static model_item_t wanted[ITEMS_MAX];
    size_t limit = capacity < subject->options.batch_size ? capacity : subject->options.batch_size;
    cdedupe_result_t result = subject_take(subject, capacity);
    size_t count, index;

    for (index = 0; index < subject->count; index++) {
        bool is_status = subject->items[index].kind == CDEDUPE_ITEM_STATUS;

        keys[index] = is_status ? MODEL_NO_KEY : number(&subject->items[index]);
    }
    CHECK_EQ(result, model_take(model, limit, keys, subject->count, wanted, &count));
    CHECK_EQ(subject->count, count);
    for (index = 0; index < count && index < subject->count; index++) {
        beside_item(&subject->items[index], keys[index], &wanted[index]);
    }
    return result;
}

cdedupe_result_t
beside_put_back(subject_t *subject, model_t *model, size_t count)
{
    static uint64_t got[ITEMS_MAX], wanted[ITEMS_MAX];
    cdedupe_result_t result = model_put_back(model, count, wanted);

    CHECK_EQ(subject_put_back(subject, count, got), result);
    for (size_t i = 0; result == CDEDUPE_OK && subject->core != NULL && i < count; i++) {
        CHECK_EQ(got[i], wanted[i]);
    }
    return result;
}

cdedupe_result_t
beside_finish(subject_t *subject, model_t *model, cdedupe_finish_t when)
{
    cdedupe_result_t result = subject_finish(subject, when);

    model_finish(model, when);
    /*
     * "OK if a loop has still to find out": of a loop that has, and has not yet released, nothing
     * is said.
     */
    CHECK(result == CDEDUPE_OK || (result == CDEDUPE_STOPPED && model->stopped));
    return result;
}
