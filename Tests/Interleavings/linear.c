/* SPDX-License-Identifier: Apache-2.0 */
#include "linear.h"

#include <string.h>

#include "calls/calls.h"
#include "model.h"

/* The threads and the checks. */
enum { LANES = THREADS_MAX + 1, STEPS_MAX = 128, SEEN_SIZE = 1 << 16, BATCH_MAX = 100 };

/* One step of an order: a call, or one update of it, or one lock scope of a take. */
struct action {
    const struct event *event;
    unsigned part;
};

struct lane {
    struct action actions[STEPS_MAX];
    unsigned count;
    unsigned done;
};

static const struct history *history;
static struct lane lanes[LANES];
static model_t base;
static bool base_made;
static model_t levels[LANES * STEPS_MAX];
static uint64_t
    seen[SEEN_SIZE]; /* Histories that were found right, by their hashes; zero: nothing. */
static unsigned seen_count;

/* ---------------------------------------------------------------------------------------------- */
/* One step                                                                                       */

static bool
merges(void)
{
    return program_choice(history->program, OP_MERGING) != 0;
}

/* The model's rules. Those that merge and those that suppress are not the same programs. */
static uint64_t
merged_of(void *context, uint64_t older, uint64_t newer)
{
    (void)context;
    return older | newer;
}

static uint64_t
revision_of(void *context, uint64_t id)
{
    (void)context;
    return history->program->revisions[id];
}

/* What the model takes for the id of a payload. */
static uint64_t
content(unsigned id)
{
    return id != 0 && merges() ? UINT64_C(1) << id : id;
}

/* That as a bit, or several. */
static uint64_t
content_bits(uint64_t content)
{
    return content == 0 || merges() ? content : UINT64_C(1) << content;
}

/*
 * An update that went to the back of the queue may bring back what a restart dropped, of any key;
 * one that was suppressed that of its own.
 */
static bool
is_right_displaced(const struct event *event, unsigned part, uint64_t displaced)
{
    return event->outcomes[part] == CDEDUPE_OUTCOME_QUEUED ||
           event->outcomes[part] == CDEDUPE_OUTCOME_SUPPRESSED ||
           event->displaced[part] == displaced;
}

/* Whether something that may have stopped the buffer had not ended when the call began. */
static bool
began_before_stop(const struct event *event)
{
    for (unsigned i = 0; i < history->count; i++) {
        const struct event *other = &history->events[i];

        if ((other->kind == OP_STOP || other->kind == OP_FINISH || other->kind == OP_RELEASE ||
             other->kind == OP_TAKE) &&
            other->returned > event->invoked)
            return true;
    }
    return false;
}

static bool
apply_put(model_t *model, const struct event *event, unsigned part)
{
    const struct op_update *update = &event->updates[part];
    uint64_t displaced;

    /*
     * Such a call may still replace what was put back after the stop: it looks once whether the
     * buffer is stopped.
     */
    if (model->stopped && event->outcomes[part] == CDEDUPE_OUTCOME_REPLACED &&
        began_before_stop(event)) {
        model->stopped = false;
        model_put(model, update->key, update->deletion, content((unsigned)update->id), &displaced);
        model->stopped = true;
        return event->displaced[part] == displaced;
    }
    return model_put(model, update->key, update->deletion, content((unsigned)update->id),
                     &displaced) == event->outcomes[part] &&
           is_right_displaced(event, part, displaced);
}

static void
apply_fill(model_t *model, const struct event *event)
{
    uint64_t displaced;

    for (unsigned i = 0; i < event->argument; i++)
        model_put(model, KEYS_LETTERS + i, event->kind == OP_DROP, 0, &displaced);
}

static bool
is_item(const struct event_item *item, const model_item_t *expected)
{
    if (item->kind != expected->kind)
        return false;
    return item->kind == CDEDUPE_ITEM_STATUS
               ? item->status == expected->status
               : item->key == expected->key && item->id == expected->id;
}

static unsigned
take_parts(const struct event *event)
{
    unsigned full = event->items_count / TAKES_PER_LOCK;

    /* A take goes on until a lock scope finds nothing more, or there is no room. */
    return event->items_count == event->argument && event->items_count % TAKES_PER_LOCK == 0
               ? full
               : full + 1;
}

/* The `count` items that one lock scope of a take handed out. */
static bool
apply_hold(model_t *model, const struct event *event, const struct event_item *items,
           unsigned limit, unsigned count)
{
    model_item_t expected[TAKES_PER_LOCK];
    size_t hints[TAKES_PER_LOCK], expected_count;

    for (unsigned i = 0; i < count; i++)
        hints[i] = items[i].kind == CDEDUPE_ITEM_STATUS ? MODEL_NO_KEY : items[i].key;
    if (model_take_hold(model, limit, hints, count, expected, &expected_count) != event->result ||
        expected_count != count)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (!is_item(&items[i], &expected[i]))
            return false;
    return true;
}

/*
 * Whether a call of another thread may have held the merge lock when a loop came, which then finds
 * nothing.
 */
static bool
may_be_refused(const model_t *model, const struct event *event)
{
    if (!merges() || !model->claimed || !model->loop || model->stopped)
        return false;
    for (unsigned i = 0; i < history->count; i++) {
        const struct event *other = &history->events[i];

        if (other->thread != event->thread && other->invoked < event->returned &&
            other->returned > event->invoked)
            return true;
    }
    return false;
}

static bool
apply_take(model_t *model, const struct event *event, unsigned part)
{
    model_item_t earlier[BATCH_MAX];
    unsigned before = part * TAKES_PER_LOCK, room = event->argument - before,
             count = event->items_count - before;

    if (event->result == CDEDUPE_EMPTY && may_be_refused(model, event)) {
        model->batch_count = 0;
        return true;
    }
    count = count < TAKES_PER_LOCK ? count : TAKES_PER_LOCK;
    /* A last lock scope that found nothing says only that there was nothing. */
    if (before > 0 && count == 0)
        return model->count == 0 || !model->queue[0].chosen || model->stopped || model->restarted;
    if (before == 0)
        model_begin_batch(model);
    /* A restart ends a take. */
    if (before > 0 && model->restarted)
        return false;
    memcpy(earlier, model->batch, before * sizeof(*earlier));
    if (!apply_hold(model, event, &history->items[event->items_first + before],
                    room < TAKES_PER_LOCK ? room : TAKES_PER_LOCK, count))
        return false;
    model_join_batch(model, earlier, before);
    return true;
}

/*
 * Each item is a step, although one lock scope puts several back: a producer without the lock may
 * replace in between.
 */
static unsigned
put_back_parts(const struct event *event)
{
    return event->result == CDEDUPE_OK && event->argument > 0 ? event->argument : 1;
}

/* The last item goes back; its payload came back or did not. */
static bool
apply_put_back(model_t *model, const struct event *event)
{
    uint64_t all[BATCH_MAX], back, bits;

    if (event->result != CDEDUPE_OK || event->argument == 0 || model->batch_count == 0)
        return model_put_back(model, event->argument, all) == event->result;
    bits = content_bits(model->batch[model->batch_count - 1].id);
    if (model_put_back_last(model, &back) != CDEDUPE_OK)
        return false;
    return bits == 0 || (event->back & bits) == (back != 0 ? bits : 0);
}

static bool
apply_statistics(const model_t *model, const struct event *event)
{
    const cdedupe_statistics_t *a = &event->statistics, *b = &model->statistics;

    /*
     * Counters of what replaces without the lock come late: exact is what they say after the end.
     */
    if (event->thread != THREAD_CHECKS)
        return true;
    return a->pending_keys == b->pending_keys && a->pending_statuses == b->pending_statuses &&
           a->live_keys == b->live_keys && a->received == b->received &&
           a->delivered == b->delivered && a->replaced == b->replaced &&
           a->cancelled == b->cancelled && a->dropped == b->dropped &&
           a->suppressed == b->suppressed && a->overflows == b->overflows &&
           a->synthesized_deletions == b->synthesized_deletions &&
           a->statuses_delivered == b->statuses_delivered;
}

static bool
apply(model_t *model, const struct action *action)
{
    const struct event *event = action->event;

    switch (event->kind) {
    case OP_PUT:
        return apply_put(model, event, action->part);
    case OP_FILL:
    case OP_DROP:
        apply_fill(model, event);
        return true;
    case OP_STATUS:
        return model_status(model, (cdedupe_status_t)event->argument) == event->result;
    case OP_RESTART:
        return model_restart(model) == event->result;
    case OP_TAKE:
        return apply_take(model, event, action->part);
    case OP_PUT_BACK:
        return apply_put_back(model, event);
    case OP_CLAIM:
        return model_claim(model, (cdedupe_claim_t)event->argument) == event->result;
    case OP_RELEASE:
        model_release(model);
        return true;
    case OP_STOP:
        model_stop(model);
        /* For good. */
        model->finish_when_delivered = model->finish_when_empty = false;
        return true;
    case OP_FINISH:
        model_finish(model, (cdedupe_finish_t)event->argument);
        return true;
    case OP_STATISTICS:
        return apply_statistics(model, event);
    default:
        return true;
    }
}

/* Payloads that the buffer still had at its end: of what is pending. */
static bool
is_right_end(const model_t *model)
{
    uint64_t pending = 0;

    for (size_t i = 0; i < model->count; i++)
        pending |= content_bits(model->queue[i].id);
    return pending == history->leftovers;
}

/* ---------------------------------------------------------------------------------------------- */
/* Orders                                                                                         */

/* Whether nothing that is still to come had ended before this began. */
static bool
may_be_next(unsigned lane)
{
    const struct event *event = lanes[lane].actions[lanes[lane].done].event;

    for (unsigned i = 0; i < LANES; i++)
        if (i != lane && lanes[i].done < lanes[i].count &&
            lanes[i].actions[lanes[i].done].event->returned < event->invoked)
            return false;
    return true;
}

static bool
search(unsigned level)
{
    bool end = true;

    for (unsigned i = 0; i < LANES; i++) {
        struct lane *lane = &lanes[i];

        if (lane->done == lane->count)
            continue;
        end = false;
        if (!may_be_next(i))
            continue;
        model_copy(&levels[level + 1], &levels[level]);
        if (!apply(&levels[level + 1], &lane->actions[lane->done]))
            continue;
        lane->done++;
        if (search(level + 1))
            return true;
        lane->done--;
    }
    return end && is_right_end(&levels[level]);
}

static unsigned
event_parts(const struct event *event)
{
    if (event->kind == OP_PUT)
        return event->count;
    return event->kind == OP_TAKE       ? take_parts(event)
           : event->kind == OP_PUT_BACK ? put_back_parts(event)
                                        : 1;
}

static void
add_event(struct lane *lane, const struct event *event)
{
    for (unsigned part = 0; part < event_parts(event); part++)
        lane->actions[lane->count++] = (struct action){.event = event, .part = part};
}

/* The set-up is the same for all histories of a program. */
static void
make_base(void)
{
    model_open(&base);
    base.rules.merged = merges() ? merged_of : NULL;
    base.rules.revision =
        program_choice(history->program, OP_SUPPRESSING) != 0 ? revision_of : NULL;
    base.rules.maximum_keys = program_choice(history->program, OP_BOUND);
    for (unsigned i = 0; i < history->count && history->events[i].thread == THREAD_SETUP; i++)
        for (unsigned part = 0; part < event_parts(&history->events[i]); part++)
            apply(&base, &(struct action){.event = &history->events[i], .part = part});
    base_made = true;
}

static void
make_lanes(void)
{
    for (unsigned i = 0; i < LANES; i++)
        lanes[i].count = lanes[i].done = 0;
    for (unsigned i = 0; i < history->count; i++)
        if (history->events[i].thread != THREAD_SETUP)
            add_event(&lanes[history->events[i].thread], &history->events[i]);
}

/* ---------------------------------------------------------------------------------------------- */
/* Histories seen before                                                                          */

static uint64_t
mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ (hash >> 29);
}

static uint64_t
mix_event(uint64_t hash, const struct event *event)
{
    hash = mix(hash, event->thread * 64 + event->kind);
    hash = mix(mix(mix(hash, event->result), event->back), event->argument);
    for (unsigned i = 0; i < event->count; i++)
        hash = mix(mix(hash, event->outcomes[i]), event->displaced[i]);
    for (unsigned i = 0; i < event->items_count; i++) {
        const struct event_item *item = &history->items[event->items_first + i];

        hash = mix(mix(hash, item->kind * 4u + item->status), (uint64_t)item->key << 32 | item->id);
    }
    if (event->kind == OP_STATISTICS && event->thread == THREAD_CHECKS) {
        cdedupe_statistics_t statistics = event->statistics;
        const uint64_t *counters = (const uint64_t *)(const void *)&statistics;

        statistics.memory = 0;
        statistics.peak_pending_keys = 0;
        for (size_t i = 0; i < sizeof(statistics) / sizeof(*counters); i++)
            hash = mix(hash, counters[i]);
    }
    return hash;
}

/* By results, and which call had ended when which began. */
static uint64_t
hash_history(void)
{
    uint64_t hash = mix(1, history->leftovers);

    for (unsigned i = 0; i < history->count; i++) {
        const struct event *event = &history->events[i];

        hash = mix_event(hash, event);
        if (event->thread >= THREADS_MAX)
            continue;
        for (unsigned j = 0; j < history->count; j++)
            if (history->events[j].thread < THREADS_MAX &&
                history->events[j].returned < event->invoked)
                hash = mix(hash, j);
    }
    return hash == 0 ? 1 : hash;
}

/* Where the hash is, or is to be. */
static uint64_t *
find_seen(uint64_t hash)
{
    size_t i = hash % SEEN_SIZE;

    while (seen[i] != 0 && seen[i] != hash)
        i = (i + 1) % SEEN_SIZE;
    return &seen[i];
}

void
linear_begin_program(void)
{
    if (base_made)
        model_close(&base);
    base_made = false;
    memset(seen, 0, sizeof(seen));
    seen_count = 0;
}

const char *
linear_check(const struct history *checked)
{
    uint64_t hash, *place;

    history = checked;
    hash = hash_history();
    place = find_seen(hash);
    if (*place == hash)
        return NULL;
    if (!base_made)
        make_base();
    make_lanes();
    model_copy(&levels[0], &base);
    if (!search(0))
        return "no order of the calls, one by one, comes to the same";
    if (seen_count < SEEN_SIZE / 2) {
        *place = hash;
        seen_count++;
    }
    return NULL;
}

unsigned
linear_histories(void)
{
    return seen_count;
}

/* ---------------------------------------------------------------------------------------------- */
/* Less than that                                                                                 */

/* What the sink has, and had before each item of the last batch. */
struct view {
    bool live[KEYS_MAX];
    const struct event *take;
    bool before[ITEMS_MAX];
    unsigned left; /* Items of the batch that have not gone back. */
};

/* Follows what a take says about keys. False: it cannot be. */
static bool
follow_take(const struct event *event, struct view *sink)
{
    sink->take = event;
    sink->left = event->items_count;
    for (unsigned i = 0; i < event->items_count; i++) {
        const struct event_item *item = &history->items[event->items_first + i];

        if (item->kind == CDEDUPE_ITEM_STATUS)
            continue;
        if (item->kind != CDEDUPE_ITEM_DELETED &&
            sink->live[item->key] != (item->kind == CDEDUPE_ITEM_UPDATED))
            return false;
        sink->before[i] = sink->live[item->key];
        sink->live[item->key] = item->kind != CDEDUPE_ITEM_DELETED;
    }
    return true;
}

static void
follow_put_back(const struct event *event, struct view *sink)
{
    for (unsigned i = 0; event->result == CDEDUPE_OK && i < event->argument; i++) {
        const struct event_item *item = &history->items[sink->take->items_first + --sink->left];

        if (item->kind != CDEDUPE_ITEM_STATUS)
            sink->live[item->key] = sink->before[sink->left];
    }
}

/* The last restart before this event, or NULL. */
static const struct event *
find_restart(const struct event *before)
{
    const struct event *last = NULL;

    for (const struct event *event = history->events; event < before; event++)
        if (event->kind == OP_RESTART && (last == NULL || event->invoked > last->invoked))
            last = event;
    return last;
}

/* Whether an in-sync came after the restart and ended. */
static bool
is_in_sync(const struct event *restart, const struct event *before)
{
    for (const struct event *event = history->events; event < before; event++)
        if (event->kind == OP_STATUS && event->argument == CDEDUPE_STATUS_IN_SYNC &&
            event->result == CDEDUPE_OK && event->invoked > restart->returned)
            return true;
    return false;
}

static bool
was_seen(unsigned key, const struct event *restart, const struct event *before)
{
    for (const struct event *event = history->events; event < before; event++)
        for (unsigned i = 0; i < event->count; i++)
            if (event->updates[i].key == key && event->returned > restart->invoked)
                return true;
    return false;
}

/* Before the checks' restart, with the queue empty. */
static bool
are_live_seen(const struct event *now, const bool live[KEYS_MAX])
{
    const struct event *restart = find_restart(now);

    if (restart == NULL || !is_in_sync(restart, now))
        return true;
    for (unsigned key = 0; key < KEYS_LETTERS; key++)
        if (live[key] && !was_seen(key, restart, now))
            return false;
    return true;
}

const char *
linear_check_weakly(const struct history *checked)
{
    static struct view sink;
    bool swept = false;

    memset(&sink, 0, sizeof(sink));
    history = checked;
    for (unsigned i = 0; i < history->count; i++) {
        const struct event *event = &history->events[i];

        if (event->kind == OP_TAKE && !follow_take(event, &sink))
            return "new of a live key, or updated of another";
        if (event->kind == OP_PUT_BACK)
            follow_put_back(event, &sink);
        if (event->kind != OP_RESTART || event->thread != THREAD_CHECKS)
            continue;
        swept = true;
        if (!are_live_seen(event, sink.live))
            return "a key is live that was not seen since the restart";
    }
    for (unsigned key = 0; swept && key < KEYS_MAX; key++)
        if (sink.live[key])
            return "a key is live that the checks' own resync did not delete";
    return NULL;
}
