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
    free(model->revision);
}

static void
reserve_queue(model_t *model, size_t capacity)
{
    if (model->capacity < capacity) {
        model->capacity = capacity * 2 + 8;
        model->queue = must_resize(model->queue, model->capacity * sizeof(*model->queue));
    }
}

/* To `more` keys, if there are fewer. */
static void
grow_keys(model_t *model, size_t more)
{
    if (model->keys < more) {
        model->live = must_resize(model->live, more * sizeof(*model->live));
        model->unseen = must_resize(model->unseen, more * sizeof(*model->unseen));
        model->revision = must_resize(model->revision, more * sizeof(*model->revision));
        memset(model->live + model->keys, 0, (more - model->keys) * sizeof(*model->live));
        memset(model->unseen + model->keys, 0, (more - model->keys) * sizeof(*model->unseen));
        memset(model->revision + model->keys, 0, (more - model->keys) * sizeof(*model->revision));
        model->keys = more;
    }
}

static void
reserve_keys(model_t *model, size_t keys)
{
    if (model->keys < keys) {
        grow_keys(model, keys * 2 + 8);
    }
}

void
model_copy(model_t *target, const model_t *source)
{
    model_t kept;

    reserve_queue(target, source->count);
    /* Not to more, or a chain of copies grows without bound. */
    grow_keys(target, source->keys);
    kept = *target;
    *target = *source;
    target->queue = kept.queue;
    target->capacity = kept.capacity;
    target->live = kept.live;
    target->unseen = kept.unseen;
    target->revision = kept.revision;
    target->keys = kept.keys;
    if (target->keys > 0) { /* Else the arrays are NULL, which the standard's functions do not take. */
        memset(target->live, 0, target->keys * sizeof(*target->live));
        memset(target->unseen, 0, target->keys * sizeof(*target->unseen));
        memset(target->revision, 0, target->keys * sizeof(*target->revision));
    }
    if (source->count > 0) {
        memcpy(target->queue, source->queue, source->count * sizeof(*source->queue));
    }
    if (source->keys > 0) {
        memcpy(target->live, source->live, source->keys * sizeof(*source->live));
        memcpy(target->unseen, source->unseen, source->keys * sizeof(*source->unseen));
        memcpy(target->revision, source->revision, source->keys * sizeof(*source->revision));
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

/* Fewer ifs are possible; these are the rows of the contract's table. */
static cdedupe_outcome_t
put_pending(model_t *model, size_t index, bool deletion, uint64_t id, uint64_t revision)
{
    model_entry_t *entry = &model->queue[index];

    if (model->merges && !deletion && !entry->deletion && entry->id != 0) {
        model->statistics.replaced++;
        entry->id |= id;
        entry->merging = true;
        return CDEDUPE_MERGE;
    }
    entry->merging = false;
    if (deletion && !entry->deletion && !model->live[entry->key]) {
        model->statistics.cancelled += 2;
        remove_at(model, index);
        merge_statuses_before(model, index);
        return CDEDUPE_CANCELLED;
    }
    model->statistics.replaced++;
    entry->alone = model->merges && !deletion && entry->deletion;
    entry->deletion = deletion;
    entry->id = id;
    entry->revision = revision;
    return CDEDUPE_REPLACED;
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
    }
    model->latest = model->latest_taken; /* D2 */
    model->restarted = true;
    model->swallowed = false;
    model->resync = true;
}

/* An update of a key that has nothing pending. */
static cdedupe_outcome_t
put_absent(model_t *model, const model_entry_t *entry)
{
    size_t key = entry->key;

    if (model->suppresses && !entry->deletion && model->live[key] && entry->revision != 0 &&
        entry->revision == model->revision[key]) {
        model->statistics.suppressed++;
        model->unseen[key] = false;
        return CDEDUPE_SUPPRESSED;
    }
    if (model->keys_max != 0 && model->statistics.pending_keys >= model->keys_max) {
        drop_everything(model);
        model->overflowed = true;
        model->statistics.overflows++;
        model->statistics.dropped++;
        return CDEDUPE_OVERFLOWED;
    }
    model->unseen[key] = false;
    append(model, entry);
    return CDEDUPE_QUEUED;
}

cdedupe_outcome_t
model_put_revision(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t revision, uint64_t *displaced)
{
    const model_entry_t entry = {.key = key, .id = id, .deletion = deletion, .revision = revision};
    size_t index;

    *displaced = 0;
    note_input(model);
    model->statistics.received++;
    if (model->stopped || model->overflowed) {
        model->statistics.dropped++;
        return CDEDUPE_DROPPED;
    }
    reserve_keys(model, key + 1);
    index = find(model, key);
    if (index < model->count) {
        model->unseen[key] = false;
        *displaced = model->queue[index].merging ? 0 : model->queue[index].id;
        return put_pending(model, index, deletion, id, revision);
    }
    return put_absent(model, &entry);
}

cdedupe_outcome_t
model_put(model_t *model, size_t key, bool deletion, uint64_t id, uint64_t *displaced)
{
    return model_put_revision(model, key, deletion, id, id, displaced);
}

bool
model_put_waits(const model_t *model, size_t key, bool deletion)
{
    size_t index = find(model, key);

    return !model->stopped && !deletion && index < model->count && model->queue[index].merging;
}

bool
model_put_merged(model_t *model, size_t key, uint64_t id)
{
    size_t index = find(model, key);

    if (index == model->count || !model->queue[index].merging || model->queue[index].id != id) {
        return false;
    }
    model->queue[index].merging = false;
    wake(model);
    return true;
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
    if (model->overflowed) {
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
    drop_everything(model);
    model->overflowed = false;
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
                         .was_live = entry.key != MODEL_NO_KEY && model->live[entry.key],
                         .revision_before = entry.key != MODEL_NO_KEY ? model->revision[entry.key] : 0};

    remove_at(model, 0);
    if (entry.key == MODEL_NO_KEY) {
        model->latest_taken = entry.status;
        model->statistics.statuses_delivered++;
        return item;
    }
    model->statistics.delivered++;
    model->revision[entry.key] = entry.deletion ? 0 : entry.revision;
    item.kind = entry.deletion ? CDEDUPE_DELETED : model->live[entry.key] ? CDEDUPE_UPDATED : CDEDUPE_NEW;
    if (model->live[entry.key] != !entry.deletion) {
        model->live[entry.key] = !entry.deletion;
        model->statistics.live_keys += entry.deletion ? (uint64_t)-1 : 1;
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

void
model_begin_batch(model_t *model)
{
    size_t index;

    for (index = 0; index < model->count; index++) {
        model->queue[index].chosen = true;
    }
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
    if (model->queue[0].merging) {
        model->asleep = model->loop;
        return CDEDUPE_EMPTY;
    }
    while (*count < limit && model->count > 0 && model->queue[0].chosen && !is_delivered(model) &&
           !model->queue[0].merging) {
        if (*count < hint_count) {
            follow_hint(model, hints[*count]);
        }
        items[*count] = take_front(model);
        model->batch[model->batch_count++] = items[*count];
        (*count)++;
    }
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

/* Dropped by a restart. A key that has nothing pending and is not unseen was sent again, and suppressed. */
static bool
is_dropped(const model_t *model, size_t key)
{
    return model->restarted && (find(model, key) < model->count || model->unseen[key]);
}

static uint64_t
untake_value(model_t *model, const model_item_t *item, uint64_t *newer)
{
    const model_entry_t entry = {.key = item->key, .id = item->id, .revision = model->revision[item->key]};
    size_t index = find(model, item->key);
    bool pending = index < model->count, dropped = is_dropped(model, item->key);

    model->revision[item->key] = item->revision_before;
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
        if (model->merges && !model->queue[index].deletion && !model->queue[index].alone &&
            model->queue[index].id != 0 && item->id != 0) {
            *newer = model->queue[index].id;
            model->queue[index].id |= item->id;
            model->queue[index].merging = true;
        }
        model->statistics.replaced++;
        move_to_front(model, index);
    }
    return item->id;
}

static uint64_t
untake_deletion(model_t *model, const model_item_t *item)
{
    const model_entry_t entry = {.key = item->key, .id = item->id, .deletion = true};
    size_t index = find(model, item->key);
    bool pending = index < model->count;

    if (item->was_live) {
        model->live[item->key] = true;
        model->revision[item->key] = item->revision_before;
        model->unseen[item->key] = model->restarted && model->resync && !pending;
    }
    if (!pending && (!model->restarted || (item->was_live && !model->resync))) {
        prepend(model, &entry);
        return 0;
    }
    if (model->restarted) {
        model->statistics.dropped++;
    } else {
        model->queue[index].alone = !model->queue[index].deletion;
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
untake_one(model_t *model, const model_item_t *item, uint64_t *back, uint64_t *newer)
{
    *back = 0;
    *newer = 0;
    if (item->kind == CDEDUPE_STATUS) {
        untake_status(model, item);
        return;
    }
    *back = item->kind == CDEDUPE_DELETED ? untake_deletion(model, item) : untake_value(model, item, newer);
    model->statistics.delivered--;
    if (item->kind == CDEDUPE_DELETED) {
        model->statistics.live_keys += item->was_live;
    } else {
        model->statistics.live_keys -= !item->was_live;
    }
}

bool
model_untake_waits(const model_t *model)
{
    const model_item_t *item = &model->batch[model->batch_count - 1];
    size_t index;

    if (item->kind == CDEDUPE_STATUS || item->kind == CDEDUPE_DELETED || is_dropped(model, item->key)) {
        return false;
    }
    index = find(model, item->key);
    return index < model->count && model->queue[index].merging;
}

cdedupe_result_t
model_untake_last(model_t *model, uint64_t *back, uint64_t *newer)
{
    if (!model->claimed || model->batch_count == 0) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    model->batch_count--;
    untake_one(model, &model->batch[model->batch_count], back, newer);
    return CDEDUPE_OK;
}

cdedupe_result_t
model_untake(model_t *model, size_t count, uint64_t *back)
{
    uint64_t newer;

    if (!model->claimed || count > model->batch_count) {
        return CDEDUPE_INVALID_ARGUMENT;
    }
    while (count-- > 0) {
        untake_one(model, &model->batch[--model->batch_count], &back[count], &newer);
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
