/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

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
    model->latest = CDEDUPE_WAIT_FOR_DATASTORE;
    model->latest_taken = CDEDUPE_WAIT_FOR_DATASTORE;
}

void
model_close(model_t *model)
{
    free(model->queue);
    free(model->live);
    free(model->unseen);
    free(model->resent);
    free(model->revisions);
}

static void
reserve_queue(model_t *model, size_t capacity)
{
    if (model->capacity < capacity) {
        model->capacity = capacity * 2 + 8;
        model->queue = must_resize(model->queue, model->capacity * sizeof(*model->queue));
    }
}

/* An array by key; what is new is zero. */
static void *
grow(void *array, size_t size, size_t keys, size_t more)
{
    char *grown = must_resize(array, more * size);

    memset(grown + keys * size, 0, (more - keys) * size);
    return grown;
}

static void
reserve_keys(model_t *model, size_t keys)
{
    if (model->keys < keys) {
        size_t more = keys * 2 + 8;

        model->live = grow(model->live, sizeof(*model->live), model->keys, more);
        model->unseen = grow(model->unseen, sizeof(*model->unseen), model->keys, more);
        model->resent = grow(model->resent, sizeof(*model->resent), model->keys, more);
        model->revisions = grow(model->revisions, sizeof(*model->revisions), model->keys, more);
        model->keys = more;
    }
}

/* And one of another model, which has no more keys. */
static void
copy_array(void *target, size_t target_keys, const void *source, size_t keys, size_t size)
{
    if (target_keys > 0) { /* Else the arrays are NULL, which the standard's functions do not take. */
        memset(target, 0, target_keys * size);
    }
    if (keys > 0) {
        memcpy(target, source, keys * size);
    }
}

void
model_copy(model_t *target, const model_t *source)
{
    model_t kept;

    reserve_queue(target, source->count);
    reserve_keys(target, source->keys);
    kept = *target;
    *target = *source;
    target->queue = kept.queue;
    target->capacity = kept.capacity;
    target->live = kept.live;
    target->unseen = kept.unseen;
    target->resent = kept.resent;
    target->revisions = kept.revisions;
    target->keys = kept.keys;
    copy_array(target->live, kept.keys, source->live, source->keys, sizeof(*source->live));
    copy_array(target->unseen, kept.keys, source->unseen, source->keys, sizeof(*source->unseen));
    copy_array(target->resent, kept.keys, source->resent, source->keys, sizeof(*source->resent));
    copy_array(target->revisions, kept.keys, source->revisions, source->keys, sizeof(*source->revisions));
    if (source->count > 0) {
        memcpy(target->queue, source->queue, source->count * sizeof(*source->queue));
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
    uint64_t *counter =
        entry->key == MODEL_NO_KEY ? &model->statistics.pending_statuses : &model->statistics.pending_keys;

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
    memmove(&model->queue[index], &model->queue[index + 1], (model->count - index) * sizeof(*model->queue));
}

/* A finish "when delivered" is over when nothing of what it waits for is queued. */
static bool
is_delivered(const model_t *model)
{
    size_t index;

    if (!model->finish_when_delivered) {
        return false;
    }
    for (index = 0; index < model->count; index++) {
        if (model->queue[index].owed) {
            return false;
        }
    }
    return true;
}

bool
model_is_over(const model_t *model)
{
    return model->stopped || is_delivered(model);
}

/*
 * Whether a buffer that has delivered what it owed is stopped at once or by the next take, the contract does
 * not say: input in between may be dropped or queued.
 */
static void
note_input(model_t *model)
{
    if (!model->stopped && is_delivered(model)) {
        model->ambiguous = true;
    }
}

/* Of two statuses that have become neighbours the earlier goes (D3). */
static void
merge_statuses_before(model_t *model, size_t index)
{
    if (index == 0 || index >= model->count || !is_status(model, index - 1) || !is_status(model, index)) {
        return;
    }
    if (model->queue[index - 1].owed && !model->queue[index].owed) {
        model->ambiguous = true; /* Is the later one now what the finish waits for? */
    }
    remove_at(model, index - 1);
}

/* What all that is pending weighs together. */
static uint64_t
weight(const model_t *model)
{
    uint64_t sum = 0;
    size_t index;

    for (index = 0; model->rules.maximum_bytes != 0 && index < model->count; index++) {
        if (!is_status(model, index)) {
            sum += model->rules.weight(model->queue[index].id, model->queue[index].deletion);
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
    return rules->maximum_bytes != 0 && weight(model) + rules->weight(id, deletion) > rules->maximum_bytes;
}

/* A restart, or an overflow. */
static void
drop_everything(model_t *model)
{
    model->statistics.dropped += model->statistics.pending_keys;
    while (model->count > 0) {
        remove_at(model, model->count - 1);
    }
    if (model->keys > 0) {
        memcpy(model->unseen, model->live, model->keys * sizeof(*model->live));
        memset(model->resent, 0, model->keys * sizeof(*model->resent));
    }
    model->latest = model->latest_taken; /* D2 */
    model->restarted = true;
    model->swallowed = false;
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
    return CDEDUPE_OVERFLOWED;
}

/* Whether the sink has it. Nothing is pending. */
static bool
is_unchanged(const model_t *model, size_t key, bool deletion, uint64_t id)
{
    return model->rules.revision != NULL && !deletion && model->live[key] && model->rules.revision(id) != 0 &&
           model->rules.revision(id) == model->revisions[key];
}

/* Fewer ifs are possible; these are the rows of the contract's table. */
static cdedupe_outcome_t
put_pending(model_t *model, size_t index, bool deletion, uint64_t id)
{
    model_entry_t *entry = &model->queue[index];

    if (deletion && !entry->deletion && !model->live[entry->key]) {
        model->statistics.cancelled += 2;
        remove_at(model, index);
        merge_statuses_before(model, index);
        return CDEDUPE_CANCELLED;
    }
    model->statistics.replaced++;
    entry->sent = true;
    if (model->rules.merged != NULL && !deletion && !entry->deletion) {
        entry->id = model->rules.merged(entry->id, id);
        return CDEDUPE_MERGE;
    }
    entry->alone = entry->deletion && !deletion;
    entry->deletion = deletion;
    entry->id = id;
    return CDEDUPE_REPLACED;
}

static cdedupe_outcome_t
put_new(model_t *model, size_t key, bool deletion, uint64_t id)
{
    const model_entry_t entry = {.key = key, .id = id, .deletion = deletion, .sent = true};

    if (is_unchanged(model, key, deletion, id)) {
        model->statistics.suppressed++;
        model->resent[key] = true;
        return CDEDUPE_SUPPRESSED;
    }
    if (exceeds(model, deletion, id)) {
        return overflow(model);
    }
    append(model, &entry);
    return CDEDUPE_QUEUED;
}

cdedupe_outcome_t
model_put(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t *displaced)
{
    cdedupe_outcome_t outcome;
    size_t index;

    *displaced = 0;
    note_input(model);
    model->statistics.received++;
    if (model->stopped || model->statistics.overflowed) {
        model->statistics.dropped++;
        return CDEDUPE_DROPPED;
    }
    reserve_keys(model, key + 1);
    model->unseen[key] = false;
    index = find(model, key);
    if (index < model->count) {
        *displaced = model->queue[index].id;
        outcome = put_pending(model, index, deletion, id);
    } else {
        outcome = put_new(model, key, deletion, id);
    }
    weigh(model);
    return outcome;
}

/* What a resync owes: a deletion for every key that is live and was not heard of. */
static void
synthesize_deletions(model_t *model)
{
    model_entry_t entry = {.deletion = true, .group = ++model->groups};
    size_t key;

    for (key = 0; key < model->keys; key++) {
        if (model->live[key] && model->unseen[key]) {
            entry.key = key;
            append(model, &entry);
            model->unseen[key] = false;
            model->statistics.synthesized_deletions++;
        }
    }
}

cdedupe_result_t
model_status(model_t *model, cdedupe_status_t status)
{
    const model_entry_t entry = {.key = MODEL_NO_KEY, .status = status};

    note_input(model);
    if (model->stopped) {
        return CDEDUPE_STOPPED;
    }
    model->statistics.statuses_received++;
    if (model->statistics.overflowed) {
        return CDEDUPE_OK;
    }
    if (status == CDEDUPE_IN_SYNC && model->resync) {
        synthesize_deletions(model);
        model->resync = false;
    }
    if (status == model->latest) {
        model->swallowed = true;
        return CDEDUPE_OK;
    }
    model->swallowed = false;
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
    note_input(model);
    if (model->stopped) {
        return CDEDUPE_STOPPED;
    }
    model->statistics.overflowed = 0;
    drop_everything(model);
    return CDEDUPE_OK;
}

cdedupe_result_t
model_claim(model_t *model, cdedupe_claim_t kind)
{
    note_input(model);
    if (model->stopped) {
        return CDEDUPE_STOPPED;
    }
    if (model->claimed) {
        return CDEDUPE_BUSY;
    }
    model->claimed = true;
    model->loop = kind == CDEDUPE_LOOP;
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
    size_t index;

    if (model->stopped) {
        return;
    }
    if (!model->loop) {
        model_stop(model);
        return;
    }
    if (model->finish_when_delivered || model->finish_when_empty) {
        model->ambiguous = true; /* Which of two finishes counts, the contract does not say. */
    }
    wake(model);
    if (when == CDEDUPE_WHEN_EMPTY) {
        model->finish_when_empty = true;
        return;
    }
    model->finish_when_delivered = true;
    for (index = 0; index < model->count; index++) {
        model->queue[index].owed = true;
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
take_front(model_t *model)
{
    const model_entry_t entry = model->queue[0];
    model_item_t item = {.key = entry.key,
                         .id = entry.id,
                         .kind = CDEDUPE_STATUS,
                         .status = entry.status,
                         .taken_before = model->latest_taken,
                         .sent = entry.sent,
                         .revision_before = entry.key == MODEL_NO_KEY ? 0 : model->revisions[entry.key],
                         .was_live = entry.key != MODEL_NO_KEY && model->live[entry.key]};

    remove_at(model, 0);
    if (entry.key == MODEL_NO_KEY) {
        model->latest_taken = entry.status;
        model->statistics.statuses_delivered++;
        return item;
    }
    model->statistics.delivered++;
    item.kind = entry.deletion ? CDEDUPE_DELETED : model->live[entry.key] ? CDEDUPE_UPDATED : CDEDUPE_NEW;
    if (model->live[entry.key] != !entry.deletion) {
        model->live[entry.key] = !entry.deletion;
        model->statistics.live_keys += entry.deletion ? (uint64_t)-1 : 1;
    }
    model->resent[entry.key] = false;
    if (model->rules.revision != NULL) {
        model->revisions[entry.key] = entry.deletion ? 0 : model->rules.revision(entry.id);
    }
    return item;
}

static cdedupe_result_t
take_nothing(model_t *model)
{
    if (model->finish_when_empty) {
        model->stopped = true;
        return CDEDUPE_STOPPED;
    }
    model->asleep = model->loop;
    return CDEDUPE_EMPTY;
}

cdedupe_result_t
model_take(model_t *model, size_t limit, const size_t *hints, size_t hint_count, model_item_t *items, size_t *count)
{
    *count = 0;
    if (!model->claimed) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    model->asleep = false;
    model->restarted = false;
    model->batch_count = 0;
    if (model->stopped || is_delivered(model)) {
        model->stopped = true;
        return CDEDUPE_STOPPED;
    }
    if (model->count == 0) {
        return take_nothing(model);
    }
    while (*count < limit && model->count > 0 && !is_delivered(model)) {
        if (*count < hint_count) {
            follow_hint(model, hints[*count]);
        }
        items[*count] = take_front(model);
        model->batch[model->batch_count++] = items[*count];
        (*count)++;
    }
    weigh(model);
    model->statistics.batches++;
    return CDEDUPE_OK;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Untaking: the rows of the table in untake.c                                                           */

/* What comes back had been received before any finish that still lasts. */
static void
prepend(model_t *model, const model_entry_t *entry)
{
    reserve_queue(model, model->count + 1);
    memmove(&model->queue[1], &model->queue[0], model->count * sizeof(*model->queue));
    model->queue[0] = *entry;
    model->queue[0].owed = model->finish_when_delivered;
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

static uint64_t
untake_value(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = item->key, .id = item->id, .sent = item->sent};
    size_t index = find(model, item->key);
    bool pending = index < model->count;
    /* A value that was sent again since the restart is not lost with this one. */
    bool dropped = model->restarted && (pending || !model->resent[item->key]);

    model->revisions[item->key] = item->revision_before;
    if (!item->was_live) {
        model->live[item->key] = false;
        model->unseen[item->key] = false;
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
        if (model->rules.merged != NULL && !model->queue[index].deletion && !model->queue[index].alone) {
            model->queue[index].id = model->rules.merged(item->id, model->queue[index].id);
        }
        move_to_front(model, index);
    }
    return item->id;
}

static uint64_t
untake_deletion(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = item->key, .id = item->id, .deletion = true, .sent = item->sent};
    size_t index = find(model, item->key);
    bool pending = index < model->count;

    if (item->was_live) {
        model->live[item->key] = true;
        model->revisions[item->key] = item->revision_before;
        model->unseen[item->key] = model->restarted && model->resync && !pending;
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
untake_status(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = MODEL_NO_KEY, .status = item->status};
    bool is_over = is_delivered(model);

    model->statistics.statuses_delivered--;
    model->latest_taken = item->taken_before;
    if (!model->restarted) {
        if (model->count == 0 || !is_status(model, 0)) {
            prepend(model, &entry);
        }
    } else if (model->statistics.pending_statuses == 0) {
        if (model->swallowed) {
            append(model, &entry);
            /* It was received, and what a finish waited for, if that waits for nothing else. */
            model->queue[model->count - 1].owed = is_over;
        } else {
            model->latest = item->taken_before;
        }
    }
}

static void
untake_one(model_t *model, const model_item_t *item, uint64_t *back)
{
    *back = 0;
    if (item->kind == CDEDUPE_STATUS) {
        untake_status(model, item);
        return;
    }
    *back = item->kind == CDEDUPE_DELETED ? untake_deletion(model, item) : untake_value(model, item);
    model->statistics.delivered--;
    if (item->kind == CDEDUPE_DELETED) {
        model->statistics.live_keys += item->was_live;
    } else {
        model->statistics.live_keys -= !item->was_live;
    }
}

cdedupe_result_t
model_untake(model_t *model, size_t count, uint64_t *back)
{
    if (!model->claimed || count > model->batch_count) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    while (count-- > 0) {
        untake_one(model, &model->batch[--model->batch_count], &back[count]);
    }
    weigh(model);
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
        if (names->lengths[index] == length && (length == 0 || memcmp(names->texts[index], text, length) == 0)) {
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
