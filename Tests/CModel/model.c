/* SPDX-License-Identifier: Apache-2.0 */
/* The model of the contract; see model.h. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *
must_resize(void *memory, size_t size)
{
    void *moved = realloc(memory, size);

    if (moved == NULL) {
        fprintf(stderr, "the test program itself is out of memory\n");
        abort();
    }
    return moved;
}

void
model_open(model_t *model)
{
    memset(model, 0, sizeof(*model));
    model->latest = CDEDUPE_STATUS_WAIT_FOR_DATASTORE;
    model->latest_taken = CDEDUPE_STATUS_WAIT_FOR_DATASTORE;
}

void
model_close(model_t *model)
{
    free(model->queue);
    free(model->keys);
    free(model->batch);
}

static void
reserve_queue(model_t *model, size_t capacity)
{
    if (model->capacity < capacity) {
        model->capacity = capacity * 2 + 8;
        model->queue = must_resize(model->queue, model->capacity * sizeof(*model->queue));
    }
}

static void
reserve_keys(model_t *model, size_t capacity)
{
    if (model->key_capacity < capacity) {
        model->key_capacity = capacity * 2 + 8;
        model->keys = must_resize(model->keys, model->key_capacity * sizeof(*model->keys));
    }
}

static void
reserve_batch(model_t *model, size_t capacity)
{
    if (model->batch_capacity < capacity) {
        model->batch_capacity = capacity * 2 + 8;
        model->batch = must_resize(model->batch, model->batch_capacity * sizeof(*model->batch));
    }
}

/* Nothing is true of a key that the model has never received. */
static void
add_keys_up_to(model_t *model, size_t key)
{
    reserve_keys(model, key + 1);
    for (; model->key_count <= key; model->key_count++) {
        memset(&model->keys[model->key_count], 0, sizeof(*model->keys));
    }
}

void
model_copy(model_t *target, const model_t *source)
{
    model_t kept;

    reserve_queue(target, source->count);
    reserve_keys(target, source->key_count);
    reserve_batch(target, source->batch_count);
    kept = *target;
    *target = *source;
    target->queue = kept.queue;
    target->capacity = kept.capacity;
    target->keys = kept.keys;
    target->key_capacity = kept.key_capacity;
    target->batch = kept.batch;
    target->batch_capacity = kept.batch_capacity;
    if (source->count > 0) { /* Else it may be NULL, which the standard's functions do not take. */
        memcpy(target->queue, source->queue, source->count * sizeof(*source->queue));
    }
    if (source->key_count > 0) {
        memcpy(target->keys, source->keys, source->key_count * sizeof(*source->keys));
    }
    if (source->batch_count > 0) {
        memcpy(target->batch, source->batch, source->batch_count * sizeof(*source->batch));
    }
}

static bool
is_status(const model_t *model, size_t index)
{
    return model->queue[index].key == MODEL_NO_KEY;
}

static size_t
find(const model_t *model, size_t key)
{
    size_t index;

    for (index = 0; index < model->count; index++) {
        if (model->queue[index].key == key) {
            break;
        }
    }
    return index;
}

static void
count_entry(model_t *model, const model_entry_t *entry, bool arrives)
{
    uint64_t *counter = entry->key == MODEL_NO_KEY ? &model->statistics.pending_statuses
                                                   : &model->statistics.pending_keys;

    *counter = arrives ? *counter + 1 : *counter - 1;
    if (model->statistics.peak_pending_keys < model->statistics.pending_keys) {
        model->statistics.peak_pending_keys = model->statistics.pending_keys;
    }
}

/* Whatever ends a loop's sleep does so once. */
static void
wake(model_t *model)
{
    if (model->asleep) {
        model->asleep = false;
        model->wakes++;
    }
}

static void
append(model_t *model, const model_entry_t *entry)
{
    reserve_queue(model, model->count + 1);
    model->queue[model->count++] = *entry;
    count_entry(model, entry, true);
    wake(model);
}

static void
remove_at(model_t *model, size_t index)
{
    count_entry(model, &model->queue[index], false);
    model->count--;
    memmove(&model->queue[index], &model->queue[index + 1],
            (model->count - index) * sizeof(*model->queue));
}

/* Of two statuses that have become neighbours the earlier goes (D3). */
static void
merge_statuses_before(model_t *model, size_t index)
{
    if (index == 0 || index >= model->count || !is_status(model, index - 1) ||
        !is_status(model, index)) {
        return;
    }
    remove_at(model, index - 1);
}

static uint64_t
revision(const model_t *model, uint64_t id)
{
    return model->rules.revision(model->rules.context, id);
}

static uint64_t
merged(const model_t *model, uint64_t older, uint64_t newer)
{
    return model->rules.merged(model->rules.context, older, newer);
}

/* What all that is pending weighs together. */
static uint64_t
weight(const model_t *model)
{
    uint64_t sum = 0;
    size_t index;

    for (index = 0; model->rules.maximum_bytes != 0 && index < model->count; index++) {
        if (!is_status(model, index)) {
            sum += model->rules.weight(model->rules.context, model->queue[index].id,
                                       model->queue[index].deletion);
        }
    }
    return sum;
}

static void
weigh(model_t *model)
{
    model->statistics.pending_bytes = weight(model);
}

/* Whether one more would be too many. */
static bool
exceeds(const model_t *model, bool deletion, uint64_t id)
{
    const model_rules_t *rules = &model->rules;

    if (rules->maximum_keys != 0 && model->statistics.pending_keys + 1 > rules->maximum_keys) {
        return true;
    }
    return rules->maximum_bytes != 0 &&
           weight(model) + rules->weight(rules->context, id, deletion) > rules->maximum_bytes;
}

/* A restart, or an overflow. */
static void
drop_everything(model_t *model)
{
    size_t key;

    model->statistics.dropped += model->statistics.pending_keys;
    while (model->count > 0) {
        remove_at(model, model->count - 1);
    }
    for (key = 0; key < model->key_count; key++) {
        model->keys[key].unseen = model->keys[key].live;
    }
    model->latest = model->latest_taken; /* D2 */
    model->restarted = true;
    model->dropped_equal_status = false;
    model->resync = true;
    weigh(model);
}

static cdedupe_outcome_t
overflow(model_t *model)
{
    drop_everything(model);
    model->statistics.dropped++;
    model->statistics.overflows++;
    model->statistics.overflowed = 1;
    return CDEDUPE_OUTCOME_OVERFLOWED;
}

/* Whether the sink has it. Nothing is pending. */
static bool
is_unchanged(const model_t *model, size_t key, bool deletion, uint64_t id)
{
    return model->rules.revision != NULL && !deletion && model->keys[key].live &&
           revision(model, id) != 0 && revision(model, id) == model->keys[key].revision;
}

/* Fewer ifs are possible; these are the rows of the contract's table. */
static cdedupe_outcome_t
put_pending(model_t *model, size_t index, bool deletion, uint64_t id)
{
    model_entry_t *entry = &model->queue[index];

    if (model->rules.merged != NULL && !deletion && !entry->deletion && entry->id != 0) {
        model->statistics.replaced++;
        entry->id = merged(model, entry->id, id);
        return CDEDUPE_OUTCOME_REPLACED;
    }
    if (deletion && !entry->deletion && !model->keys[entry->key].live) {
        model->statistics.cancelled += 2;
        remove_at(model, index);
        merge_statuses_before(model, index);
        return CDEDUPE_OUTCOME_CANCELLED;
    }
    model->statistics.replaced++;
    entry->alone = entry->deletion && !deletion;
    entry->deletion = deletion;
    entry->id = id;
    return CDEDUPE_OUTCOME_REPLACED;
}

static cdedupe_outcome_t
put_new(model_t *model, size_t key, bool deletion, uint64_t id, bool is_first)
{
    const model_entry_t entry = {.key = key,
                                 .id = id,
                                 .deletion = deletion,
                                 .alone = model->rules.merged != NULL && !deletion && is_first};

    if (is_unchanged(model, key, deletion, id)) {
        model->statistics.suppressed++;
        return CDEDUPE_OUTCOME_SUPPRESSED;
    }
    if (model->finish_when_delivered) {
        model->keys[key].unseen = is_first; /* The buffer has received nothing for the key. */
        model->statistics.dropped++;
        return CDEDUPE_OUTCOME_DROPPED;
    }
    if (exceeds(model, deletion, id)) {
        return overflow(model);
    }
    append(model, &entry);
    return CDEDUPE_OUTCOME_QUEUED;
}

cdedupe_outcome_t
model_put(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t *displaced)
{
    cdedupe_outcome_t outcome;
    bool is_first; /* Since a restart. */
    size_t index;

    *displaced = 0;
    model->statistics.received++;
    if (model->stopped || model->statistics.overflowed) {
        model->statistics.dropped++;
        return CDEDUPE_OUTCOME_DROPPED;
    }
    add_keys_up_to(model, key);
    is_first = model->keys[key].unseen;
    model->keys[key].unseen = false;
    index = find(model, key);
    if (index < model->count) {
        *displaced = model->queue[index].id;
        outcome = put_pending(model, index, deletion, id);
    } else {
        outcome = put_new(model, key, deletion, id, is_first);
    }
    weigh(model);
    return outcome;
}

/* What an in-sync adds: a deletion for every key that is live and unseen. */
static void
synthesize_deletions(model_t *model)
{
    model_entry_t entry = {.deletion = true, .group = ++model->groups};
    size_t key;

    for (key = 0; key < model->key_count; key++) {
        if (model->keys[key].live && model->keys[key].unseen) {
            entry.key = key;
            append(model, &entry);
            model->keys[key].unseen = false;
            model->statistics.synthesized_deletions++;
        }
    }
}

cdedupe_result_t
model_status(model_t *model, cdedupe_status_t status)
{
    const model_entry_t entry = {.key = MODEL_NO_KEY, .status = status};
    bool ends_resync = status == CDEDUPE_STATUS_IN_SYNC && model->resync;

    model->statistics.statuses_received++;
    if (model->stopped || model->finish_when_delivered) {
        return CDEDUPE_STOPPED;
    }
    if (model->statistics.overflowed) {
        return CDEDUPE_OVERFLOWED;
    }
    if (ends_resync) {
        synthesize_deletions(model);
        model->resync = false;
    }
    if (status == model->latest && !ends_resync) {
        model->dropped_equal_status = true;
        return CDEDUPE_OK;
    }
    model->dropped_equal_status = false;
    model->latest = status;
    if (model->count > 0 && is_status(model, model->count - 1)) {
        model->queue[model->count - 1].status = status;
        return CDEDUPE_OK;
    }
    append(model, &entry);
    return CDEDUPE_OK;
}

cdedupe_result_t
model_restart(model_t *model)
{
    if (model->stopped || model->finish_when_delivered) {
        return CDEDUPE_STOPPED;
    }
    model->statistics.overflowed = 0;
    drop_everything(model);
    return CDEDUPE_OK;
}

cdedupe_result_t
model_claim(model_t *model, cdedupe_claim_t kind)
{
    if (model->stopped) {
        return CDEDUPE_STOPPED;
    }
    if (model->claimed) {
        return CDEDUPE_BUSY;
    }
    model->claimed = true;
    model->loop = kind == CDEDUPE_CLAIM_LOOP;
    return CDEDUPE_OK;
}

void
model_release(model_t *model)
{
    model->claimed = false;
    model->batch_count = 0;
    model->loop = false;
    model->asleep = false;
    if (model->finish_when_empty || model->finish_when_delivered) {
        model->stopped = true; /* Nobody is left to deliver what the finish waits for. */
    }
}

void
model_stop(model_t *model)
{
    model->stopped = true;
    wake(model);
}

void
model_finish(model_t *model, cdedupe_finish_t when)
{
    if (model->stopped) {
        return;
    }
    if (!model->loop) {
        model_stop(model);
        return;
    }
    if (model->count == 0) {
        wake(model);
    }
    if (when == CDEDUPE_FINISH_WHEN_EMPTY) {
        model->finish_when_empty = true;
    } else {
        model->finish_when_delivered = true; /* Nothing more is queued. */
    }
}

/* Inside a group the order is the real buffer's: brings what it delivered to the front. */
static void
follow_hint(model_t *model, size_t hint)
{
    size_t index = find(model, hint);
    model_entry_t wanted;

    if (hint == MODEL_NO_KEY || index == model->count || model->queue[0].group == 0 ||
        model->queue[index].group != model->queue[0].group) {
        return;
    }
    wanted = model->queue[index];
    memmove(&model->queue[1], &model->queue[0], index * sizeof(*model->queue));
    model->queue[0] = wanted;
}

static model_item_t
take_status(model_t *model)
{
    const model_item_t item = {.key = MODEL_NO_KEY,
                               .kind = CDEDUPE_ITEM_STATUS,
                               .status = model->queue[0].status,
                               .taken_before = model->latest_taken};

    remove_at(model, 0);
    model->latest_taken = item.status;
    model->statistics.statuses_delivered++;
    return item;
}

static model_item_t
take_update(model_t *model)
{
    const model_entry_t entry = model->queue[0];
    model_key_t *key = &model->keys[entry.key];
    model_item_t item = {
        .key = entry.key, .id = entry.id, .was_live = key->live, .revision_before = key->revision};

    remove_at(model, 0);
    model->statistics.delivered++;
    item.kind = entry.deletion ? CDEDUPE_ITEM_DELETED
                : key->live    ? CDEDUPE_ITEM_UPDATED
                               : CDEDUPE_ITEM_NEW;
    if (key->live != !entry.deletion) {
        key->live = !entry.deletion;
        model->statistics.live_keys += entry.deletion ? (uint64_t)-1 : 1;
    }
    if (model->rules.revision != NULL) {
        key->revision = entry.deletion ? 0 : revision(model, entry.id);
    }
    return item;
}

/* The queue is empty. */
static cdedupe_result_t
take_nothing(model_t *model)
{
    if (model->finish_when_empty || model->finish_when_delivered) {
        model->stopped = true;
        return CDEDUPE_STOPPED;
    }
    model->asleep = model->loop;
    return CDEDUPE_EMPTY;
}

void
model_begin_batch(model_t *model)
{
    size_t index;

    for (index = 0; index < model->count; index++) {
        model->queue[index].chosen = true;
    }
}

cdedupe_result_t
model_take(model_t *model, size_t limit, const size_t *hints, size_t hint_count,
           model_item_t *items, size_t *count)
{
    model_begin_batch(model);
    return model_take_hold(model, limit, hints, hint_count, items, count);
}

cdedupe_result_t
model_take_hold(model_t *model, size_t limit, const size_t *hints, size_t hint_count,
                model_item_t *items, size_t *count)
{
    *count = 0;
    if (!model->claimed || limit == 0) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    model->asleep = false;
    model->restarted = false;
    model->batch_count = 0;
    if (model->stopped) {
        return CDEDUPE_STOPPED;
    }
    while (*count < limit && model->count > 0 && model->queue[0].chosen) {
        if (*count < hint_count) {
            follow_hint(model, hints[*count]);
        }
        items[*count] = is_status(model, 0) ? take_status(model) : take_update(model);
        reserve_batch(model, model->batch_count + 1);
        model->batch[model->batch_count++] = items[*count];
        (*count)++;
    }
    if (*count == 0) {
        return take_nothing(model);
    }
    weigh(model);
    model->statistics.batches++;
    return CDEDUPE_OK;
}

void
model_join_batch(model_t *model, const model_item_t *earlier, size_t count)
{
    reserve_batch(model, model->batch_count + count);
    memmove(model->batch + count, model->batch, model->batch_count * sizeof(*model->batch));
    memcpy(model->batch, earlier, count * sizeof(*earlier));
    model->batch_count += count;
}

/* ---------------------------------------------------------------------------------------------- */
/* Putting back: the rows of the table in put back.c                                              */

static void
prepend(model_t *model, const model_entry_t *entry)
{
    reserve_queue(model, model->count + 1);
    memmove(&model->queue[1], &model->queue[0], model->count * sizeof(*model->queue));
    model->queue[0] = *entry;
    model->count++;
    count_entry(model, entry, true);
}

static void
move_to_front(model_t *model, size_t index)
{
    model_entry_t entry = model->queue[index];

    remove_at(model, index);
    merge_statuses_before(model, index);
    entry.group = 0;
    prepend(model, &entry);
}

/*
 * Dropped by a restart. A key that has nothing pending and is not unseen was sent again, and
 * suppressed; so it was if what is pending would be merged with it.
 */
static bool
is_dropped(const model_t *model, size_t key)
{
    size_t index = find(model, key);

    if (!model->restarted || index == model->count) {
        return model->restarted && model->keys[key].unseen;
    }
    return model->rules.merged == NULL || model->queue[index].deletion || model->queue[index].alone;
}

static uint64_t
put_back_value(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = item->key, .id = item->id};
    model_key_t *key = &model->keys[item->key];
    size_t index = find(model, item->key);
    bool pending = index < model->count, dropped = is_dropped(model, item->key);

    key->revision = item->revision_before;
    if (!item->was_live) {
        key->live = false;
        key->unseen = false;
    }
    if (dropped) {
        model->statistics.dropped++;
    } else if (!pending) {
        prepend(model, &entry);
        return 0;
    } else if (model->queue[index].deletion && !item->was_live) {
        model->statistics.cancelled += 2;
        remove_at(model, index);
        merge_statuses_before(model, index);
    } else {
        model->statistics.replaced++;
        if (model->rules.merged != NULL && !model->queue[index].deletion &&
            !model->queue[index].alone && model->queue[index].id != 0 && item->id != 0) {
            model->queue[index].id = merged(model, item->id, model->queue[index].id);
        }
        move_to_front(model, index);
    }
    return item->id;
}

static uint64_t
put_back_deletion(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = item->key, .id = item->id, .deletion = true};
    model_key_t *key = &model->keys[item->key];
    size_t index = find(model, item->key);
    bool pending = index < model->count;

    if (item->was_live) {
        key->live = true;
        key->revision = item->revision_before;
        key->unseen = model->restarted && model->resync && !pending;
    }
    if (!pending && (!model->restarted || (item->was_live && !model->resync))) {
        prepend(model, &entry);
        return 0;
    }
    if (model->restarted) {
        model->statistics.dropped++;
    } else {
        model->statistics.replaced++;
        move_to_front(model, index);
    }
    return item->id;
}

static void
put_back_status(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = MODEL_NO_KEY, .status = item->status};

    model->statistics.statuses_delivered--;
    model->latest_taken = item->taken_before;
    if (!model->restarted) {
        if (model->count == 0 || !is_status(model, 0)) {
            prepend(model, &entry);
        }
    } else if (model->statistics.pending_statuses == 0) {
        if (model->dropped_equal_status) {
            append(model, &entry);
        } else {
            model->latest = item->taken_before;
        }
    }
}

cdedupe_result_t
model_put_back_last(model_t *model, uint64_t *back)
{
    const model_item_t *item;

    *back = 0;
    if (!model->claimed || model->batch_count == 0) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    item = &model->batch[--model->batch_count];
    if (item->kind == CDEDUPE_ITEM_STATUS) {
        put_back_status(model, item);
        return CDEDUPE_OK;
    }
    model->statistics.delivered--;
    if (item->kind == CDEDUPE_ITEM_DELETED) {
        *back = put_back_deletion(model, item);
        model->statistics.live_keys += item->was_live;
    } else {
        *back = put_back_value(model, item);
        model->statistics.live_keys -= !item->was_live;
    }
    weigh(model);
    return CDEDUPE_OK;
}

cdedupe_result_t
model_put_back(model_t *model, size_t count, uint64_t *back)
{
    if (!model->claimed || count > model->batch_count) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    while (count-- > 0) {
        model_put_back_last(model, &back[count]);
    }
    return CDEDUPE_OK;
}

void
names_open(names_t *names)
{
    memset(names, 0, sizeof(*names));
}

void
names_close(names_t *names)
{
    size_t index;

    for (index = 0; index < names->count; index++) {
        free(names->texts[index]);
    }
    free(names->texts);
    free(names->lengths);
}

size_t
names_number(names_t *names, const void *text, size_t length)
{
    size_t index;

    for (index = 0; index < names->count; index++) {
        if (names->lengths[index] == length &&
            (length == 0 || memcmp(names->texts[index], text, length) == 0)) {
            return index;
        }
    }
    names->texts = must_resize(names->texts, (index + 1) * sizeof(*names->texts));
    names->lengths = must_resize(names->lengths, (index + 1) * sizeof(*names->lengths));
    names->texts[index] = must_resize(NULL, length + 1);
    if (length > 0) {
        memcpy(names->texts[index], text, length);
    }
    names->lengths[index] = length;
    names->count++;
    return index;
}
