/* SPDX-License-Identifier: Apache-2.0 */
#include "run.h"

#include <stdio.h>
#include <string.h>

#include "calls/calls.h"
#include "region.h"

enum { SEED = 1, TAKE_MAX = 100 };

/* The owner of a payload. */
enum owner { OWNER_TEST, OWNER_BUFFER };

/* What the sink borrows: the keys of its last batch. */
struct loan {
    const void *keys[TAKE_MAX]; /* NULL: of a status. */
    unsigned numbers[TAKE_MAX];
    unsigned count;
};

/* The most values that the words fillN of one program put. */
enum { FILLERS_MAX = 32 };

/* Its items, as far as they have not gone back. */
struct last_batch {
    cdedupe_item_t items[TAKE_MAX];
    size_t count;
};

/* The test's own state, as it is after the set-up and at any time. */
struct state {
    uint64_t clock;
    cdedupe_slot_t slots[PROGRAM_IDS_MAX]; /* By payload; zero: not acquired. */
    enum owner owners[PROGRAM_IDS_MAX];
    uint64_t contents[PROGRAM_IDS_MAX]; /* What is in them: their ids; see struct history. */
    cdedupe_slot_t used[THREADS_MAX];   /* By the thread that acquired it for its own use. */
    cdedupe_slot_t
        fillers[FILLERS_MAX];         /* What OP_FILL put and the buffer still has; zero: none. */
    cdedupe_pin_t pins[KEYS_LETTERS]; /* By key: the last one that was given. */
    unsigned pin_counts[KEYS_LETTERS];
    struct loan loan;
    struct last_batch batch;
    bool woken; /* Since the loop last went to sleep. */
    uint64_t wakes;
    uint64_t empties;   /* Times that a loop found nothing. */
    uint64_t asleep_at; /* When the loop's last take began, if it found nothing; else zero. */
    uint64_t last_wake;
    unsigned events;
    unsigned items;
};

static cdedupe_t *buffer;
static const struct program *program;
static struct state state, saved_state;
static struct history history;

static bool
merges(void)
{
    return program_choice(program, OP_MERGING) != 0;
}

/* ---------------------------------------------------------------------------------------------- */
/* Payloads                                                                                       */

struct payload {
    uint64_t content;
    uint64_t revision;
};

static struct payload *
payload_of(unsigned id)
{
    return cdedupe_payload(buffer, state.slots[id]);
}

static void
write_payload(unsigned id, uint64_t content)
{
    payload_of(id)->content = content;
    state.contents[id] = content;
}

/* The program's payloads are acquired beforehand: a call that puts has steps enough of its own. */
static void
acquire_payloads(void)
{
    for (unsigned id = 1; id <= program->ids; id++) {
        if (cdedupe_acquire(buffer, &state.slots[id], 1) != CDEDUPE_OK)
            scheduler_fail("no memory for a payload");
        state.owners[id] = OWNER_TEST;
        write_payload(id, merges() ? UINT64_C(1) << id : id);
    }
}

static unsigned
slot_id(cdedupe_slot_t slot)
{
    for (unsigned id = 1; id <= program->ids; id++)
        if (state.slots[id] == slot)
            return id;
    return 0;
}

/* Whether it is the slot of a value that OP_FILL put. It is so once. */
static bool
receive_filler(cdedupe_slot_t slot)
{
    for (unsigned i = 0; i < FILLERS_MAX; i++) {
        if (state.fillers[i] == slot) {
            state.fillers[i] = 0;
            return true;
        }
    }
    return false;
}

static cdedupe_slot_t
make_filler(void)
{
    cdedupe_slot_t slot = 0;
    unsigned i = 0;

    while (i < FILLERS_MAX - 1 && state.fillers[i] != 0)
        i++;
    if (state.fillers[i] != 0 || cdedupe_acquire(buffer, &slot, 1) != CDEDUPE_OK)
        scheduler_fail("no room for a payload");
    state.fillers[i] = slot;
    return slot;
}

/* A payload comes back from the buffer. What is in it, or zero for none. */
static uint64_t
receive(cdedupe_slot_t slot)
{
    unsigned id = slot_id(slot);

    if (slot == 0 || (id == 0 && receive_filler(slot)))
        return 0;
    if (id == 0)
        scheduler_fail("a slot came back that nobody had put");
    else if (state.owners[id] != OWNER_BUFFER)
        scheduler_fail("payload %u came back twice", id);
    else if (payload_of(id)->content != state.contents[id])
        scheduler_fail("payload %u came back changed", id);
    state.owners[id] = OWNER_TEST;
    return state.contents[id];
}

/* As a bit, or several. */
static uint64_t
content_bits(uint64_t content)
{
    return content == 0 || merges() ? content : UINT64_C(1) << content;
}

static cdedupe_slot_t
give(unsigned id)
{
    state.owners[id] = OWNER_BUFFER;
    return id == 0 ? 0 : state.slots[id];
}

/* A slot that was acquired must be nobody else's. */
static void
use_slot(unsigned thread)
{
    cdedupe_slot_t slot;

    if (cdedupe_acquire(buffer, &slot, 1) != CDEDUPE_OK)
        scheduler_fail("no memory for a slot");
    if (slot_id(slot) != 0)
        scheduler_fail("a slot was handed out that holds payload %u", slot_id(slot));
    for (unsigned i = 0; i < THREADS_MAX; i++)
        if (state.used[i] == slot)
            scheduler_fail("a slot was handed out twice");
    if (thread < THREADS_MAX) {
        state.used[thread] = slot;
        scheduler_boundary("discard");
        state.used[thread] = 0;
    }
    cdedupe_discard(buffer, &slot, 1);
}

/* ---------------------------------------------------------------------------------------------- */
/* Events                                                                                         */

static struct event *
begin_event(unsigned thread, enum op_kind kind, unsigned argument)
{
    struct event *event;

    if (state.events == EVENTS_MAX) {
        scheduler_fail("too many events");
        state.events--;
    }
    event = &history.events[state.events++];
    memset(event, 0, sizeof(*event));
    event->thread = thread;
    event->kind = kind;
    event->argument = argument;
    event->invoked = ++state.clock;
    event->returned = UINT64_MAX;
    return event;
}

static void
end_event(struct event *event, cdedupe_result_t result)
{
    event->result = result;
    event->returned = ++state.clock;
}

static void
do_put(unsigned thread, const struct op *op)
{
    struct event *event = begin_event(thread, OP_PUT, 0);
    cdedupe_update_t updates[OP_UPDATES_MAX];

    memset(updates, 0, sizeof(updates));
    for (unsigned i = 0; i < op->count; i++) {
        updates[i].key = key_text(op->updates[i].key);
        updates[i].key_length = strlen(updates[i].key);
        if (op->updates[i].by_pin)
            updates[i] = (cdedupe_update_t){.pin = state.pins[op->updates[i].key]};
        updates[i].deletion = op->updates[i].deletion;
        updates[i].slot = give((unsigned)op->updates[i].id);
        if (op->updates[i].id != 0)
            payload_of((unsigned)op->updates[i].id)->revision =
                program->revisions[op->updates[i].id];
        event->updates[i] = op->updates[i];
    }
    end_event(event, cdedupe_put(buffer, updates, op->count));
    if (event->result != CDEDUPE_OK && event->result != CDEDUPE_OVERFLOWED)
        scheduler_fail("a put failed");
    for (unsigned i = 0; i < op->count; i++) {
        event->outcomes[i] = updates[i].outcome;
        event->displaced[i] = receive(updates[i].displaced);
        receive(updates[i].slot);
    }
    event->count = op->count;
}

static void
do_pin(unsigned thread, unsigned key)
{
    struct event *event = begin_event(thread, OP_PIN, key);
    cdedupe_pin_t pin;

    end_event(event, cdedupe_pin(buffer, key_text(key), strlen(key_text(key)), &pin));
    if (event->result != CDEDUPE_OK || pin == 0)
        scheduler_fail("a key could not be pinned");
    if (state.pin_counts[key] > 0 && state.pins[key] != pin)
        scheduler_fail("a key has two pins");
    state.pins[key] = pin;
    state.pin_counts[key]++;
}

/* The caller has pinned the key, so it is pinned until the call. */
static void
do_unpin(unsigned thread, unsigned key)
{
    struct event *event = begin_event(thread, OP_UNPIN, key);

    state.pin_counts[key]--;
    end_event(event, cdedupe_unpin(buffer, state.pins[key]));
    if (event->result != CDEDUPE_OK)
        scheduler_fail("a key could not be unpinned");
}

static void
do_fill(unsigned thread, const struct op *op)
{
    struct event *event = begin_event(thread, op->kind, op->argument);
    static cdedupe_update_t updates[KEYS_MAX];

    memset(updates, 0, sizeof(updates));
    for (unsigned i = 0; i < op->argument; i++) {
        updates[i].key = key_text(KEYS_LETTERS + i);
        updates[i].key_length = strlen(updates[i].key);
        updates[i].deletion = op->kind == OP_DROP;
        updates[i].slot = op->kind == OP_FILL ? make_filler() : 0;
    }
    end_event(event, cdedupe_put(buffer, updates, op->argument));
    for (unsigned i = 0; i < op->argument; i++) {
        receive(updates[i].displaced);
        receive(updates[i].slot);
    }
}

static void
do_status(unsigned thread, unsigned status)
{
    struct event *event = begin_event(thread, OP_STATUS, status);

    end_event(event, cdedupe_put_status(buffer, (cdedupe_status_t)status));
}

static void
do_restart(unsigned thread)
{
    struct event *event = begin_event(thread, OP_RESTART, 0);

    end_event(event, cdedupe_restart(buffer));
}

static void
do_collect(void)
{
    cdedupe_slot_t slots[64];
    size_t count;

    while (cdedupe_collect(buffer, slots, 64, &count) == CDEDUPE_OK)
        for (size_t i = 0; i < count; i++)
            receive(slots[i]);
}

static unsigned
key_number(const void *text, size_t length)
{
    for (unsigned key = 0; key < KEYS_MAX; key++)
        if (strlen(key_text(key)) == length && memcmp(key_text(key), text, length) == 0)
            return key;
    scheduler_fail("a key was delivered that nobody had put");
    return 0;
}

/* The keys of the last batch are the sink's to read until it takes again. */
static void
check_loan(void)
{
    for (unsigned i = 0; i < state.loan.count; i++) {
        const char *text = key_text(state.loan.numbers[i]);

        if (state.loan.keys[i] != NULL && memcmp(state.loan.keys[i], text, strlen(text)) != 0)
            scheduler_fail("a key changed that the sink borrows");
    }
    state.loan.count = 0;
}

static void
note_item(struct event *event, const cdedupe_item_t *item)
{
    struct event_item *noted = &history.items[state.items++];

    if (state.items == ITEMS_MAX)
        scheduler_fail("too many items");
    noted->kind = item->kind;
    noted->status = item->status;
    noted->key = 0;
    noted->id = receive(item->slot);
    event->items_count++;
    if (item->kind != CDEDUPE_ITEM_STATUS)
        noted->key = key_number(item->key, item->key_length);
    state.loan.keys[state.loan.count] = item->key;
    state.loan.numbers[state.loan.count++] = noted->key;
}

static cdedupe_result_t
do_take(unsigned thread, unsigned capacity)
{
    cdedupe_item_t items[TAKE_MAX];
    struct event *event;
    size_t count;

    check_loan();
    event = begin_event(thread, OP_TAKE, capacity);
    end_event(event, cdedupe_take(buffer, items, capacity, &count));
    event->items_first = state.items;
    for (size_t i = 0; i < count; i++)
        note_item(event, &items[i]);
    memcpy(state.batch.items, items, count * sizeof(items[0]));
    state.batch.count = count;
    state.asleep_at = 0;
    if (event->result == CDEDUPE_EMPTY && buffer->sink.claim == CLAIM_LOOP) {
        state.empties++;
        state.asleep_at = event->invoked;
    }
    return event->result;
}

static void
do_put_back(unsigned thread, unsigned most)
{
    size_t count = most < state.batch.count ? most : state.batch.count, left = count;
    cdedupe_item_t *items = state.batch.items + state.batch.count - count;
    struct event *event = begin_event(thread, OP_PUT_BACK, (unsigned)count);

    for (size_t i = 0; i < count; i++)
        give(slot_id(items[i].slot));
    end_event(event, cdedupe_put_back(buffer, items, &left));
    if (event->result == CDEDUPE_OK && left != 0)
        scheduler_fail("something is still to be put back");
    for (size_t i = 0; i < count; i++)
        event->back |= content_bits(receive(items[i].slot));
    state.batch.count -= count - left;
    state.loan.count = (unsigned)state.batch.count;
}

static void
do_claim(unsigned thread, unsigned kind)
{
    struct event *event = begin_event(thread, OP_CLAIM, kind);

    end_event(event, cdedupe_claim(buffer, (cdedupe_claim_t)kind));
}

static void
do_release(unsigned thread)
{
    struct event *event;

    check_loan();
    state.asleep_at = 0;
    event = begin_event(thread, OP_RELEASE, 0);
    cdedupe_release(buffer);
    state.batch.count = 0;
    end_event(event, CDEDUPE_OK);
}

static void
wake(void *context)
{
    (void)context;
    state.wakes++;
    state.last_wake = ++state.clock;
    state.woken = true;
    scheduler_changed(&state.woken);
}

static void
do_loop(unsigned thread)
{
    cdedupe_result_t result;

    while ((result = do_take(thread, TAKE_MAX)) == CDEDUPE_OK || result == CDEDUPE_EMPTY) {
        if (result == CDEDUPE_OK)
            continue;
        while (!state.woken)
            scheduler_wait(&state.woken);
        state.woken = false;
    }
}

static void
do_stop(unsigned thread)
{
    struct event *event = begin_event(thread, OP_STOP, 0);

    cdedupe_stop(buffer);
    end_event(event, CDEDUPE_OK);
}

static void
do_finish(unsigned thread, unsigned when)
{
    struct event *event = begin_event(thread, OP_FINISH, when);

    end_event(event, cdedupe_finish(buffer, (cdedupe_finish_t)when));
}

static unsigned
count_pins(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < KEYS_LETTERS; i++)
        count += state.pin_counts[i] > 0;
    return count;
}

static void
do_statistics(unsigned thread)
{
    struct event *event = begin_event(thread, OP_STATISTICS, 0);
    cdedupe_statistics_t *s = &event->statistics;

    cdedupe_statistics(buffer, s, sizeof(*s));
    end_event(event, CDEDUPE_OK);
    if (s->received + s->synthesized_deletions !=
        s->delivered + s->replaced + s->cancelled + s->suppressed + s->dropped + s->pending_keys)
        scheduler_fail("the counters do not add up");
    if (thread == THREAD_CHECKS && s->pinned_keys != count_pins())
        scheduler_fail("the count of pinned keys is wrong");
    if (s->pending_statuses > s->pending_keys + 1)
        scheduler_fail("more statuses than keys plus one");
}

/* In each lap something is received, else a restart is none. */
static void
do_laps(unsigned thread, unsigned laps)
{
    for (unsigned i = 0; i < laps; i++) {
        do_status(thread, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
        do_restart(thread);
    }
}

static void
do_op(unsigned thread, const struct op *op)
{
    switch (op->kind) {
    case OP_PUT:
        do_put(thread, op);
        break;
    case OP_PIN:
        do_pin(thread, op->argument);
        break;
    case OP_UNPIN:
        do_unpin(thread, op->argument);
        break;
    case OP_STATUS:
        do_status(thread, op->argument);
        break;
    case OP_RESTART:
        do_restart(thread);
        break;
    case OP_TAKE:
        do_take(thread, op->argument);
        break;
    case OP_PUT_BACK:
        do_put_back(thread, op->argument);
        break;
    case OP_COLLECT:
        do_collect();
        break;
    case OP_CLAIM:
        do_claim(thread, op->argument);
        break;
    case OP_RELEASE:
        do_release(thread);
        break;
    case OP_LOOP:
        do_loop(thread);
        break;
    case OP_STOP:
        do_stop(thread);
        break;
    case OP_FINISH:
        do_finish(thread, op->argument);
        break;
    case OP_STATISTICS:
        do_statistics(thread);
        break;
    case OP_SLOT:
        use_slot(thread);
        break;
    case OP_FILL:
    case OP_DROP:
        do_fill(thread, op);
        break;
    case OP_BARE:
    case OP_MERGING:
    case OP_SUPPRESSING:
    case OP_BOUND:
        break;
    case OP_LAPS:
        do_laps(thread, op->argument);
        break;
    default: /* program_parse() accepts no other. */
        break;
    }
}

void
run_thread(unsigned thread)
{
    const struct op_list *list = &program->threads[thread];

    for (unsigned i = 0; i < list->count; i++) {
        scheduler_boundary(list->ops[i].text);
        do_op(thread, &list->ops[i]);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Before and after                                                                               */

/* Nothing ages: schedules of the same calls have the same counters. */
static uint64_t
standing_clock(void *context)
{
    (void)context;
    return 0;
}

/* The payload at an address that the buffer gave. */
static unsigned
payload_id(const void *payload)
{
    for (unsigned id = 1; id <= program->ids; id++)
        if (payload_of(id) == payload)
            return id;
    scheduler_fail("a payload is merged that nobody had put");
    return 0;
}

/* The core calls it with nothing held but the merge lock; others get the chance to come. */
static void
merge(void *context, void *older, void *newer)
{
    unsigned first = payload_id(older), second = payload_id(newer);

    (void)context;
    if (state.owners[first] != OWNER_BUFFER || state.owners[second] != OWNER_BUFFER)
        scheduler_fail("a payload is merged that is not the buffer's");
    if (state.contents[first] & state.contents[second])
        scheduler_fail("a value is merged twice");
    scheduler_boundary("merge");
    if (payload_of(first)->content != state.contents[first] ||
        payload_of(second)->content != state.contents[second])
        scheduler_fail("a payload changed while it was merged");
    write_payload(second, state.contents[first] | state.contents[second]);
}

static cdedupe_t *
create(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *created;

    region_use(&options);
    options.hash_seed = SEED;
    options.wake = wake;
    options.clock = standing_clock;
    options.payload_size = sizeof(struct payload);
    options.merge = merges() ? merge : NULL;
    options.suppress_unchanged = program_choice(program, OP_SUPPRESSING) != 0;
    options.revision_offset = offsetof(struct payload, revision);
    options.maximum_pending_keys = program_choice(program, OP_BOUND);
    if (cdedupe_create(&options, &created) != CDEDUPE_OK)
        scheduler_fail("no memory for the buffer");
    return created;
}

/* As many as there are threads: else the first to come second waits for the lock, to add one. */
static void
add_contexts(void)
{
    struct context *contexts[THREADS_MAX];

    if (program_choice(program, OP_BARE))
        return;
    for (unsigned i = 0; i < program->threads_count; i++)
        contexts[i] = context_claim(&buffer->contexts);
    for (unsigned i = 0; i < program->threads_count; i++)
        context_give_back(&buffer->contexts, contexts[i]);
}

static bool
fingerprints_collide(void)
{
    const char *x = key_text('x' - 'a'), *y = key_text('y' - 'a');

    return hash_key(&buffer->secret, x, strlen(x)) >> 32 ==
           hash_key(&buffer->secret, y, strlen(y)) >> 32;
}

bool
run_prepare(const struct program *prepared)
{
    program = prepared;
    scheduler_clear_failure();
    memset(&state, 0, sizeof(state));
    memset(&history, 0, sizeof(history));
    history.program = prepared;
    region_clear();
    buffer = create();
    add_contexts();
    acquire_payloads();
    if (!fingerprints_collide())
        scheduler_fail("keys x and y have different fingerprints: find others");
    for (unsigned i = 0; i < program->setup.count; i++)
        do_op(THREAD_SETUP, &program->setup.ops[i]);
    region_save();
    saved_state = state;
    return scheduler_failure() == NULL;
}

void
run_begin(void)
{
    region_restore();
    state = saved_state;
}

void
run_validate(void)
{
    const char *fault = cdedupe_validate(buffer);

    if (fault != NULL)
        scheduler_fail("validate: %s", fault);
}

/*
 * Where values are merged validating takes the merge lock, and then wakes a loop that another call
 * would have to wake.
 */
void
run_validate_at_switch(void)
{
    if (!merges())
        run_validate();
}

/* A loop that found nothing, and for which there is something now, has been called. */
static void
check_wake_ups(void)
{
    bool due = !ring_is_empty(&buffer->links, buffer->queue.ring) || buffer->end.stopped ||
               buffer->end.finishing != FINISHING_NOT;

    if (state.wakes > state.empties)
        scheduler_fail("more wake-ups than sleeps");
    if (state.asleep_at > 0 && due && state.last_wake < state.asleep_at)
        scheduler_fail("a loop sleeps, and nobody woke it");
}

/* In the order of the queue, to its end. */
static cdedupe_result_t
take_all(void)
{
    cdedupe_result_t result;

    do
        result = do_take(THREAD_CHECKS, TAKE_MAX);
    while (result == CDEDUPE_OK && scheduler_failure() == NULL);
    return result;
}

static void
receive_leftovers(void)
{
    uint64_t cursor = 0;
    cdedupe_slot_t slot;

    while ((slot = cdedupe_drain_next(buffer, &cursor)) != 0)
        history.leftovers |= content_bits(receive(slot));
    for (unsigned id = 1; id <= program->ids; id++)
        if (state.owners[id] != OWNER_TEST)
            scheduler_fail("payload %u is lost", id);
    for (unsigned i = 0; i < FILLERS_MAX; i++)
        if (state.fillers[i] != 0)
            scheduler_fail("a filler's payload is lost");
}

void
run_end(void)
{
    history.leftovers = 0;
    check_wake_ups();
    run_validate();
    do_collect();
    do_claim(THREAD_CHECKS, CDEDUPE_CLAIM_SINGLE_BATCH);
    /* What the buffer thinks is live, it says after one more restart. */
    if (take_all() == CDEDUPE_EMPTY) {
        do_restart(THREAD_CHECKS);
        do_status(THREAD_CHECKS, CDEDUPE_STATUS_IN_SYNC);
        take_all();
    }
    do_statistics(THREAD_CHECKS);
    run_validate();
    receive_leftovers();
    cdedupe_destroy(buffer);
    if (region_fault() != NULL)
        scheduler_fail("%s", region_fault());
    else if (region_held() != 0)
        scheduler_fail("%llu blocks of memory are lost", (unsigned long long)region_held());
    history.count = state.events;
    history.items_count = state.items;
}

const struct history *
run_history(void)
{
    history.count = state.events;
    return &history;
}

/* ---------------------------------------------------------------------------------------------- */
/* Telling                                                                                        */

/* What is in a payload: an id, or several that are merged. */
static void
print_content(FILE *out, uint64_t content)
{
    const char *before = "";

    if (!merges())
        fprintf(out, "%u", (unsigned)content);
    for (unsigned id = 1; merges() && id < PROGRAM_IDS_MAX; id++)
        if (content >> id & 1) {
            fprintf(out, "%s%u", before, id);
            before = "+";
        }
}

static void
print_back(FILE *out, const struct event *event)
{
    for (unsigned id = 1; id < PROGRAM_IDS_MAX; id++)
        if (event->back >> id & 1)
            fprintf(out, " (back: %u)", id);
}

static void
print_updates(FILE *out, const struct event *event)
{
    static const char *const outcomes[] = {"untouched", "queued",   "replaced",   "cancelled",
                                           "dropped",   "rejected", "suppressed", "overflowed"};

    for (unsigned i = 0; i < event->count; i++) {
        fprintf(out, " %c%s", event->updates[i].deletion ? '-' : '+',
                key_text(event->updates[i].key) + 4);
        if (event->updates[i].id != 0)
            fprintf(out, "=%u", (unsigned)event->updates[i].id);
        fprintf(out, " %s", outcomes[event->outcomes[i]]);
        if (event->displaced[i] != 0) {
            fprintf(out, " (back: ");
            print_content(out, event->displaced[i]);
            fprintf(out, ")");
        }
    }
}

static void
print_items(FILE *out, const struct event *event)
{
    static const char *const statuses[] = {"wait-for-ready", "resync", "in-sync"};
    static const char kinds[] = "+~-";

    for (unsigned i = 0; i < event->items_count; i++) {
        const struct event_item *item = &history.items[event->items_first + i];

        if (item->kind == CDEDUPE_ITEM_STATUS)
            fprintf(out, " <%s>", statuses[item->status]);
        else {
            fprintf(out, " %c%s=", kinds[item->kind], key_text(item->key));
            print_content(out, item->id);
        }
    }
}

static void
print_event(FILE *out, const struct event *event)
{
    static const char *const names[] = {
        [OP_PUT] = "put",   [OP_STATUS] = "status",     [OP_RESTART] = "restart",
        [OP_TAKE] = "take", [OP_CLAIM] = "claim",       [OP_RELEASE] = "release",
        [OP_STOP] = "stop", [OP_FINISH] = "finish",     [OP_STATISTICS] = "statistics",
        [OP_PIN] = "pin",   [OP_UNPIN] = "unpin",       [OP_FILL] = "fill",
        [OP_DROP] = "drop", [OP_PUT_BACK] = "put_back",
    };

    if (event->thread == THREAD_SETUP)
        fprintf(out, "  set-up  ");
    else if (event->thread == THREAD_CHECKS)
        fprintf(out, "  after   ");
    else
        fprintf(out, "  thread %u", event->thread);
    fprintf(out, " %3llu to ", (unsigned long long)event->invoked);
    if (event->returned == UINT64_MAX)
        fprintf(out, " ... ");
    else
        fprintf(out, "%3llu: ", (unsigned long long)event->returned);
    fprintf(out, "%s", names[event->kind]);
    if (event->kind != OP_PUT && event->kind != OP_STATISTICS)
        fprintf(out, " %u", event->argument);
    if (event->kind == OP_PUT)
        print_updates(out, event);
    print_back(out, event);
    print_items(out, event);
    if (event->result != CDEDUPE_OK)
        fprintf(out, ": %s", cdedupe_result_text(event->result));
    fprintf(out, "\n");
}

void
run_print_history(FILE *out)
{
    for (unsigned i = 0; i < state.events; i++)
        print_event(out, &history.events[i]);
}

static bool
lies_in(const volatile void *address, const void *start, size_t size)
{
    return (uintptr_t)address >= (uintptr_t)start && (uintptr_t)address < (uintptr_t)start + size;
}

static const char *
entry_label(const volatile void *address)
{
    static char text[40];
    uint32_t number = 0;

    while ((number = arena_next_touched(&buffer->entries, number)) != 0) {
        const struct entry *entry = entry_at(&buffer->entries, number++);

        if (!lies_in(address, entry, sizeof(*entry)))
            continue;
        snprintf(text, sizeof(text), "word of %.*s", (int)entry_key_length(entry),
                 (const char *)entry->key);
        return text;
    }
    return NULL;
}

static const char *
context_label(const volatile void *address)
{
    static char text[40];

    for (unsigned i = 0; i < buffer->contexts.count; i++) {
        const struct context *context = buffer->contexts.contexts[i];

        if (!lies_in(address, context, sizeof(*context)))
            continue;
        snprintf(text, sizeof(text), "context %u: %s", i,
                 lies_in(address, &context->record.active, 4) ? "claimed" : "replaced");
        return text;
    }
    return NULL;
}

const char *
run_label(const volatile void *address)
{
    static const struct {
        size_t offset, size;
        const char *name;
    } members[] = {
#define MEMBER(name) {offsetof(struct cdedupe, name), sizeof(((struct cdedupe *)NULL)->name), #name}
        MEMBER(memory),
        MEMBER(lock.spin),
        MEMBER(lock.waiting),
        MEMBER(end.stopped),
        MEMBER(merge_lock),
        MEMBER(resync.restart),
        MEMBER(magazines.sparse),
        MEMBER(queue.uncleared),
        MEMBER(entries),
        MEMBER(slots),
        MEMBER(links),
        MEMBER(index),
        MEMBER(retired),
        MEMBER(contexts),
#undef MEMBER
    };
    static char text[40];
    const char *label;

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (lies_in(address, (const unsigned char *)buffer + members[i].offset, members[i].size))
            return members[i].name;
    if ((label = entry_label(address)) != NULL || (label = context_label(address)) != NULL)
        return label;
    snprintf(text, sizeof(text), "%p", (const void *)(uintptr_t)address);
    return text;
}
