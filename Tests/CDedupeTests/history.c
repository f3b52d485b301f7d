/* SPDX-License-Identifier: Apache-2.0 */
/* The judge of histories; see history.h. */
#include "history.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    LANE_SHIFT = 27, /* In a name: above it the lane's number plus one, below it the event's. */
    TRACKS_MAX = 2 * HISTORY_LANES_MAX,
    STATES_FEW = 50,   /* Followed at first; mostly there are one or two, */
    STATES_MAX = 1000, /* and, if no order was found among so few, in a second search. */
    EVENTS_TOLD = 3,   /* Per track, of a key that went wrong. */
};

#define NEVER UINT64_MAX

/* What an entry may have pending, beside a name. */
#define NOTHING ((history_name_t)0)
#define SYNTHESIZED ((history_name_t)UINT32_MAX)

/* ---------------------------------------------------------------------------------------------- */
/* Writing down                                                                                   */

void
history_open(history_t *history, unsigned lanes, unsigned sink, uint32_t keys)
{
    memset(history, 0, sizeof(*history));
    history->lane_count = lanes;
    history->sink = sink;
    history->keys = keys;
}

void
history_close(history_t *history)
{
    for (unsigned lane = 0; lane < history->lane_count; lane++)
        free(history->lanes[lane].events);
}

static void *
must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "no memory for the history\n");
        abort();
    }
    return memory;
}

static void *
make_array(size_t count, size_t size)
{
    return must(calloc(count == 0 ? 1 : count, size));
}

history_event_t *
history_add(history_t *history, unsigned number, history_kind_t kind, uint32_t key)
{
    history_lane_t *lane = &history->lanes[number];
    history_event_t *event;

    if (lane->count == lane->room) {
        lane->room = lane->room == 0 ? 1024 : lane->room * 2;
        lane->events = must(realloc(lane->events, lane->room * sizeof(*lane->events)));
    }
    event = &lane->events[lane->count++];
    *event = (history_event_t){.kind = (uint8_t)kind, .key = key};
    return event;
}

static history_name_t
name_of(unsigned lane, size_t index)
{
    return (history_name_t)(lane + 1) << LANE_SHIFT | (history_name_t)index;
}

history_name_t
history_next_name(const history_t *history, unsigned lane)
{
    return name_of(lane, history->lanes[lane].count);
}

static unsigned
lane_of(history_name_t name)
{
    return (name >> LANE_SHIFT) - 1;
}

static size_t
index_of(history_name_t name)
{
    return name & (((history_name_t)1 << LANE_SHIFT) - 1);
}

static bool
is_name(const history_t *history, history_name_t name)
{
    return name >> LANE_SHIFT != 0 && lane_of(name) < history->lane_count &&
           index_of(name) < history->lanes[lane_of(name)].count;
}

history_event_t *
history_named(const history_t *history, history_name_t name)
{
    return &history->lanes[lane_of(name)].events[index_of(name)];
}

static bool
is_update(const history_event_t *event)
{
    return event->kind == HISTORY_VALUE || event->kind == HISTORY_DELETION;
}

/* ---------------------------------------------------------------------------------------------- */
/* The judge                                                                                      */

/* What became of an update. */
struct fate {
    uint32_t returns;     /* How often its payload came back: once. */
    history_name_t newer; /* What displaced it, in its place. */
    uint64_t taken;       /* When its take began, or NEVER. */
};

struct judge {
    history_t *history;
    history_verdict_t *verdict;
    struct fate *fates[HISTORY_LANES_MAX];
    uint32_t *slices[HISTORY_LANES_MAX];  /* Per key, where its events begin in: */
    uint32_t *by_key[HISTORY_LANES_MAX];  /* the lane's events that concern one key, key by key, */
    uint32_t *for_all[HISTORY_LANES_MAX]; /* and those that concern all. */
    size_t for_all_count[HISTORY_LANES_MAX];
};

__attribute__((format(printf, 3, 4))) static bool
fault(struct judge *judge, const char *what, const char *format, ...)
{
    va_list arguments;

    if (judge->verdict->fault != NULL)
        return false;
    judge->verdict->fault = what;
    va_start(arguments, format);
    vsnprintf(judge->verdict->detail, sizeof(judge->verdict->detail), format, arguments);
    va_end(arguments);
    return false;
}

static struct fate *
fate_of(const struct judge *judge, history_name_t name)
{
    return &judge->fates[lane_of(name)][index_of(name)];
}

typedef void visit_t(struct judge *judge, history_name_t name, history_event_t *event);

static void
visit_all(struct judge *judge, visit_t *visit)
{
    for (unsigned lane = 0; lane < judge->history->lane_count; lane++)
        for (size_t i = 0; i < judge->history->lanes[lane].count; i++)
            visit(judge, name_of(lane, i), &judge->history->lanes[lane].events[i]);
}

/* ---------------------------------------------------------------------------------------------- */
/* Ownership                                                                                      */

static void
note_return(struct judge *judge, history_name_t name, history_name_t returned)
{
    const history_event_t *event;

    if (returned == 0)
        return;
    if (!is_name(judge->history, returned)) {
        fault(judge, "ownership: a payload that nobody made", "name %x, in event %x", returned,
              name);
        return;
    }
    event = history_named(judge->history, returned);
    if (!is_update(event) || fate_of(judge, returned)->returns++ > 0)
        fault(judge, "ownership: a payload came back twice", "%x of key %u, in event %x", returned,
              event->key, name);
}

static void
note_returns(struct judge *judge, history_name_t name, history_event_t *event)
{
    note_return(judge, name, event->other);
    note_return(judge, name, event->back);
}

static void
check_returned(struct judge *judge, history_name_t name, history_event_t *event)
{
    if (is_update(event) && fate_of(judge, name)->returns != 1)
        fault(judge, "ownership: a payload never came back", "%x of key %u", name, event->key);
}

/* ---------------------------------------------------------------------------------------------- */
/* Fates                                                                                          */

static bool
displaces(const history_event_t *event)
{
    return is_update(event) &&
           (event->outcome == CDEDUPE_OUTCOME_REPLACED ||
            event->outcome == CDEDUPE_OUTCOME_CANCELLED) &&
           event->other != 0;
}

static void
note_newer(struct judge *judge, history_name_t name, history_event_t *event)
{
    if (displaces(event))
        fate_of(judge, event->other)->newer = name;
    if (event->kind == HISTORY_TAKEN && event->other != 0)
        fate_of(judge, event->other)->taken = event->begin;
}

/* The update that was queued where this one is, or zero if that was a synthesized deletion. */
static history_name_t
place_of(const struct judge *judge, history_name_t name)
{
    while (name != 0 && history_named(judge->history, name)->outcome == CDEDUPE_OUTCOME_REPLACED)
        name = history_named(judge->history, name)->other;
    return name;
}

/* ---------------------------------------------------------------------------------------------- */
/* Order, statuses                                                                                */

/*
 * Of the lane that sends statuses: the first of this value between two of its events, or the last;
 * or its count.
 */
static size_t
find_status(const history_lane_t *lane, size_t from, size_t to, uint8_t status, bool last)
{
    size_t found = lane->count;

    for (size_t i = from; i < to && (last || found == lane->count); i++)
        if (lane->events[i].kind == HISTORY_STATUS && lane->events[i].status == status)
            found = i;
    return found;
}

struct order {
    struct judge *judge;
    const history_lane_t *sender;
    uint64_t newest_begin; /* Of the places taken so far, the latest beginning. */
    size_t marker;         /* The sender's event after the last marker that was taken, */
    size_t matched;        /* and after the last status that was. */
    size_t in_sync;        /* As `matched`, of in-syncs. */
    size_t *next_marker;   /* For each item: the sender's event of the next marker that is taken. */
};

static bool
is_marker(const history_t *history, const history_event_t *item)
{
    return item->kind == HISTORY_TAKEN && item->key >= history->keys && item->other != 0;
}

static void
find_next_markers(struct order *order, const history_lane_t *taken)
{
    size_t next = order->sender->count;

    order->next_marker = make_array(taken->count, sizeof(*order->next_marker));
    for (size_t i = taken->count; i-- > 0;) {
        order->next_marker[i] = next;
        if (is_marker(order->judge->history, &taken->events[i]))
            next = index_of(taken->events[i].other);
    }
}

/* A place that was made between `begin` and `end` is taken now. */
static void
take_place(struct order *order, const history_event_t *item, uint64_t begin, uint64_t end)
{
    if (end < order->newest_begin)
        fault(order->judge, "order: taken after what came later",
              "%s of key %u, taken at %llu, put before %llu",
              item->kind == HISTORY_TAKEN ? "item" : "status", item->key,
              (unsigned long long)item->begin, (unsigned long long)end);
    if (begin > order->newest_begin)
        order->newest_begin = begin;
}

static void
take_status(struct order *order, const history_event_t *item, size_t next_marker)
{
    const history_lane_t *sender = order->sender;
    size_t from = order->marker > order->matched ? order->marker : order->matched;
    size_t first = find_status(sender, from, next_marker, item->status, false);
    size_t last = find_status(sender, from, next_marker, item->status, true);

    if (first == sender->count) {
        fault(order->judge, "statuses: taken is what was not sent", "status %u, taken at %llu",
              item->status, (unsigned long long)item->begin);
        return;
    }
    order->matched = first + 1;
    if (item->status == CDEDUPE_STATUS_IN_SYNC)
        order->in_sync = first + 1;
    take_place(order, item, sender->events[first].begin, sender->events[last].end);
}

/* One without an update: there must be an in-sync that is not taken yet. */
static void
take_synthesized(struct order *order, const history_event_t *item)
{
    size_t next = find_status(order->sender, order->in_sync, order->sender->count,
                              CDEDUPE_STATUS_IN_SYNC, false);

    if (next == order->sender->count || order->sender->events[next].begin > item->end)
        fault(order->judge, "statuses: a deletion was synthesized after its in-sync",
              "key %u, taken at %llu", item->key, (unsigned long long)item->begin);
}

static void
take_item(struct order *order, const history_event_t *item)
{
    history_t *history = order->judge->history;
    history_name_t place;

    if (item->other == 0) {
        take_synthesized(order, item);
    } else if ((place = place_of(order->judge, item->other)) != 0) {
        const history_event_t *put = history_named(history, place);

        take_place(order, item, put->begin, put->end);
    }
    if (is_marker(history, item))
        order->marker = index_of(item->other) + 1;
}

static void
judge_order(struct judge *judge)
{
    const history_lane_t *taken = &judge->history->lanes[judge->history->sink];
    struct order order = {.judge = judge, .sender = &judge->history->lanes[0]};

    find_next_markers(&order, taken);
    for (size_t i = 0; i < taken->count && judge->verdict->fault == NULL; i++) {
        if (taken->events[i].kind == HISTORY_TAKEN)
            take_item(&order, &taken->events[i]);
        else if (taken->events[i].kind == HISTORY_TAKEN_STATUS)
            take_status(&order, &taken->events[i], order.next_marker[i]);
    }
    free(order.next_marker);
}

/* ---------------------------------------------------------------------------------------------- */
/* Emptiness                                                                                      */

/* A place in the queue: it was there from `made` on, until `left` at least. */
struct stay {
    uint64_t made;
    uint64_t left;
    uint32_t key;
};

static int
compare_stays(const void *one, const void *other)
{
    const struct stay *a = one, *b = other;

    return (a->made > b->made) - (a->made < b->made);
}

/* The earliest beginning of a restart that ended after `stamp`. */
static uint64_t
next_drop(const struct judge *judge, uint64_t stamp)
{
    uint64_t earliest = NEVER;

    for (unsigned lane = 0; lane < judge->history->lane_count; lane++) {
        for (size_t i = 0; i < judge->for_all_count[lane]; i++) {
            const history_event_t *event =
                &judge->history->lanes[lane].events[judge->for_all[lane][i]];

            if (event->kind == HISTORY_RESTART && event->end > stamp && event->begin < earliest)
                earliest = event->begin;
        }
    }
    return earliest;
}

static struct stay
stay_of(const struct judge *judge, history_name_t name)
{
    const history_event_t *put = history_named(judge->history, name);
    struct stay stay = {.made = put->end, .key = put->key};
    history_name_t last = name, newer;

    while ((newer = fate_of(judge, last)->newer) != 0 &&
           history_named(judge->history, newer)->outcome == CDEDUPE_OUTCOME_REPLACED)
        last = newer;
    if (newer != 0)
        stay.left = history_named(judge->history, newer)->begin;
    else if (fate_of(judge, last)->taken != NEVER)
        stay.left = fate_of(judge, last)->taken;
    else
        stay.left = next_drop(judge, history_named(judge->history, last)->begin);
    return stay;
}

static size_t
collect_stays(const struct judge *judge, struct stay *stays)
{
    size_t count = 0;

    for (unsigned lane = 0; lane < judge->history->lane_count; lane++)
        for (size_t i = 0; i < judge->history->lanes[lane].count; i++)
            if (is_update(&judge->history->lanes[lane].events[i]) &&
                judge->history->lanes[lane].events[i].outcome == CDEDUPE_OUTCOME_QUEUED) {
                if (stays != NULL)
                    stays[count] = stay_of(judge, name_of(lane, i));
                count++;
            }
    return count;
}

/* The sink's stamps grow, and so does what was made before them: one pass over both. */
static void
judge_emptiness(struct judge *judge)
{
    const history_lane_t *taken = &judge->history->lanes[judge->history->sink];
    size_t count = collect_stays(judge, NULL), next = 0;
    struct stay *stays = make_array(count, sizeof(*stays)), longest = {0};

    collect_stays(judge, stays);
    qsort(stays, count, sizeof(*stays), compare_stays);
    for (size_t i = 0; i < taken->count; i++) {
        const history_event_t *take = &taken->events[i];

        if (take->kind != HISTORY_EMPTIED)
            continue;
        for (; next < count && stays[next].made < take->begin; next++)
            if (stays[next].left > longest.left)
                longest = stays[next];
        if (longest.left > take->end)
            fault(judge, "emptiness: a take missed what was queued before it",
                  "key %u, queued before %llu, left the queue after %llu; the take lasted from "
                  "%llu to %llu",
                  longest.key, (unsigned long long)longest.made, (unsigned long long)longest.left,
                  (unsigned long long)take->begin, (unsigned long long)take->end);
    }
    free(stays);
}

/* ---------------------------------------------------------------------------------------------- */
/* Linearizability: one key as the contract has it                                                */

enum { DELETION = 1, LIVE = 2, UNSEEN = 4, RESYNC = 8, STOPPED = 16 };

struct state {
    history_name_t pending;
    uint32_t flags;
};

static void
set_flag(struct state *state, uint32_t flag, bool on)
{
    state->flags = on ? state->flags | flag : state->flags & ~flag;
}

/* What an update comes to in this state. */
static cdedupe_outcome_t
expected_outcome(const struct state *state, bool deletion)
{
    if (state->flags & STOPPED)
        return CDEDUPE_OUTCOME_DROPPED;
    if (state->pending == NOTHING)
        return CDEDUPE_OUTCOME_QUEUED;
    if (deletion && !(state->flags & (DELETION | LIVE)))
        return CDEDUPE_OUTCOME_CANCELLED;
    return CDEDUPE_OUTCOME_REPLACED;
}

static bool
put(struct state *state, const history_event_t *event, history_name_t name)
{
    cdedupe_outcome_t outcome = expected_outcome(state, event->kind == HISTORY_DELETION);
    history_name_t displaced = state->pending == SYNTHESIZED ? 0 : state->pending;

    if (event->outcome != outcome)
        return false;
    if (outcome == CDEDUPE_OUTCOME_DROPPED)
        return true;
    /* One that was queued may bring back any payload that a restart dropped. */
    if (outcome != CDEDUPE_OUTCOME_QUEUED && event->other != displaced)
        return false;
    if (outcome == CDEDUPE_OUTCOME_CANCELLED && event->back != name)
        return false;
    state->pending = outcome == CDEDUPE_OUTCOME_CANCELLED ? NOTHING : name;
    set_flag(state, DELETION,
             outcome != CDEDUPE_OUTCOME_CANCELLED && event->kind == HISTORY_DELETION);
    set_flag(state, UNSEEN, false);
    return true;
}

static bool
take(struct state *state, const history_event_t *event)
{
    history_name_t wanted = event->other == 0 ? SYNTHESIZED : event->other;
    bool deletion = (state->flags & DELETION) != 0, live = (state->flags & LIVE) != 0;

    if (state->pending != wanted || state->flags & STOPPED)
        return false;
    if (event->outcome != (deletion ? CDEDUPE_ITEM_DELETED
                           : live   ? CDEDUPE_ITEM_UPDATED
                                    : CDEDUPE_ITEM_NEW))
        return false;
    state->pending = NOTHING;
    set_flag(state, LIVE, !deletion);
    set_flag(state, DELETION, false);
    return true;
}

static void
restart(struct state *state)
{
    state->pending = NOTHING;
    set_flag(state, DELETION, false);
    set_flag(state, UNSEEN, (state->flags & LIVE) != 0);
    set_flag(state, RESYNC, true);
}

static void
in_sync(struct state *state)
{
    if (state->flags & RESYNC && state->flags & UNSEEN) {
        state->pending = SYNTHESIZED;
        set_flag(state, DELETION, true);
        set_flag(state, UNSEEN, false);
    }
    set_flag(state, RESYNC, false);
}

/* False: the event cannot come to what it came to. */
static bool
apply(struct state *state, const history_event_t *event, history_name_t name)
{
    if (is_update(event))
        return put(state, event, name);
    if (event->kind == HISTORY_TAKEN)
        return take(state, event);
    if (event->kind == HISTORY_STOP)
        set_flag(state, STOPPED, true);
    else if (state->flags & STOPPED)
        return true;
    else if (event->kind == HISTORY_RESTART)
        restart(state);
    else
        in_sync(state);
    return true;
}

/* ---------------------------------------------------------------------------------------------- */
/* Linearizability: looking for an order                                                          */

/*
 * The events of one thread that concern a key. They belong to calls one after the other, so one at
 * most is going on.
 */
struct track {
    unsigned lane;
    const uint32_t *events;
    size_t count;
    size_t returned; /* Events whose call has returned, */
    size_t called;   /* or has begun. */
};

/* A state in which the buffer may be, and how many events of the calls going on have happened. */
struct candidate {
    struct state state;
    uint16_t happened[TRACKS_MAX];
};

struct candidates {
    struct candidate *items;
    size_t count;
};

struct search {
    struct judge *judge;
    uint32_t key;
    struct track tracks[TRACKS_MAX];
    unsigned track_count;
    struct candidates now, then;
    size_t limit;  /* Of states. */
    bool overflow; /* More were left out. */
};

static const history_event_t *
event_at(const struct search *search, const struct track *track, size_t i)
{
    return &search->judge->history->lanes[track->lane].events[track->events[i]];
}

static void
add_candidate(struct search *search, struct candidates *candidates,
              const struct candidate *candidate)
{
    for (size_t i = 0; i < candidates->count; i++)
        if (memcmp(&candidates->items[i], candidate, sizeof(*candidate)) == 0)
            return;
    if (candidates->count == search->limit) {
        search->overflow = true;
        return;
    }
    candidates->items[candidates->count++] = *candidate;
}

/* The next event of a track happens. False: it cannot, or none is going on. */
static bool
step(const struct search *search, struct candidate *candidate, unsigned number)
{
    const struct track *track = &search->tracks[number];
    size_t next = track->returned + candidate->happened[number];

    if (next == track->called || !apply(&candidate->state, event_at(search, track, next),
                                        name_of(track->lane, track->events[next])))
        return false;
    candidate->happened[number]++;
    return true;
}

/* Once stopped, nothing changes any more; so the order of what is going on does not matter. */
static void
pass_stopped(const struct search *search, struct candidate *candidate)
{
    if (!(candidate->state.flags & STOPPED))
        return;
    for (unsigned i = 0; i < search->track_count; i++)
        while (step(search, candidate, i))
            continue;
}

/* All that may come after this candidate, by one event of any call that is going on. */
static void
expand(struct search *search, struct candidate from)
{
    for (unsigned i = 0; i < search->track_count; i++) {
        struct candidate to = from;

        if (step(search, &to, i)) {
            pass_stopped(search, &to);
            add_candidate(search, &search->now, &to);
        }
    }
}

/* The call of this track returns: only what has its events in it can have been. */
static void
settle(struct search *search, unsigned number)
{
    struct track *track = &search->tracks[number];
    history_verdict_t *verdict = search->judge->verdict;
    struct candidates swap;

    search->then.count = 0;
    for (size_t i = 0; i < search->now.count; i++) {
        struct candidate candidate = search->now.items[i];

        pass_stopped(search, &candidate);
        if (track->returned + candidate.happened[number] < track->called) {
            expand(search, candidate);
        } else {
            candidate.happened[number] = 0;
            add_candidate(search, &search->then, &candidate);
        }
    }
    track->returned = track->called;
    if (search->now.count > verdict->most_states)
        verdict->most_states = search->now.count;
    swap = search->now;
    search->now = search->then;
    search->then = swap;
}

static void
call(struct search *search, struct track *track)
{
    uint64_t begin = event_at(search, track, track->called)->begin;

    while (track->called < track->count && event_at(search, track, track->called)->begin == begin)
        track->called++;
}

/* When a call of this track begins or returns next. */
static uint64_t
next_stamp(const struct search *search, const struct track *track)
{
    if (track->called > track->returned)
        return event_at(search, track, track->returned)->end;
    return track->called < track->count ? event_at(search, track, track->called)->begin : NEVER;
}

/* The track with the smallest next stamp; or the number of tracks. */
static unsigned
next_track(const struct search *search)
{
    uint64_t first = NEVER;
    unsigned found = search->track_count;

    for (unsigned i = 0; i < search->track_count; i++) {
        uint64_t stamp = next_stamp(search, &search->tracks[i]);

        if (stamp < first) {
            first = stamp;
            found = i;
        }
    }
    return found;
}

static const char *
kind_text(const history_event_t *event)
{
    static const char *const texts[] = {"value", "deletion", "status", "restart", "stop",
                                        "taken", "",         "",       ""};

    return texts[event->kind];
}

/* The last events of each track. */
static void
tell_failure(struct search *search)
{
    char text[sizeof(search->judge->verdict->detail)];
    size_t length = 0;

    for (unsigned i = 0; i < search->track_count; i++) {
        const struct track *track = &search->tracks[i];
        size_t from = track->called < EVENTS_TOLD ? 0 : track->called - EVENTS_TOLD;

        for (size_t j = from; j < track->called && length < sizeof(text); j++) {
            const history_event_t *event = event_at(search, track, j);

            length +=
                (size_t)snprintf(text + length, sizeof(text) - length,
                                 "\n    %llu to %llu, lane %u: %x %s, outcome or kind %u, other %x",
                                 (unsigned long long)event->begin, (unsigned long long)event->end,
                                 track->lane, name_of(track->lane, track->events[j]),
                                 kind_text(event), event->outcome, event->other);
        }
    }
    fault(search->judge, "linearizability: no order of the calls explains what they came to",
          "key %u:%s", search->key, text);
}

static void
add_track(struct search *search, unsigned lane, const uint32_t *events, size_t count)
{
    if (count > 0)
        search->tracks[search->track_count++] =
            (struct track){.lane = lane, .events = events, .count = count};
}

static void
begin_search(struct search *search, uint32_t key)
{
    struct judge *judge = search->judge;

    search->key = key;
    search->track_count = 0;
    search->overflow = false;
    search->now.count = 1;
    memset(&search->now.items[0], 0, sizeof(search->now.items[0]));
    for (unsigned lane = 0; lane < judge->history->lane_count; lane++) {
        const uint32_t *slice = &judge->slices[lane][key];

        add_track(search, lane, judge->by_key[lane] + slice[0], slice[1] - slice[0]);
        add_track(search, lane, judge->for_all[lane], judge->for_all_count[lane]);
    }
}

static bool
may_have_nothing_pending(const struct search *search)
{
    for (size_t i = 0; i < search->now.count; i++)
        if (search->now.items[i].state.pending == NOTHING)
            return true;
    return false;
}

enum found { FOUND, NO_ORDER, SOMETHING_LEFT };

static enum found
search_among(struct search *search, uint32_t key, size_t limit)
{
    unsigned i;

    search->limit = limit;
    begin_search(search, key);
    while ((i = next_track(search)) < search->track_count) {
        struct track *track = &search->tracks[i];

        if (track->called == track->returned) {
            call(search, track);
            continue;
        }
        settle(search, i);
        if (search->now.count == 0)
            return NO_ORDER;
    }
    return search->judge->history->drained && !may_have_nothing_pending(search) ? SOMETHING_LEFT
                                                                                : FOUND;
}

/* Not to have found an order says something only if no state was left out. */
static void
search_key(struct search *search, uint32_t key)
{
    enum found found = search_among(search, key, STATES_FEW);

    if (found != FOUND && search->overflow)
        found = search_among(search, key, STATES_MAX);
    if (found != FOUND && search->overflow)
        search->judge->verdict->undecided++;
    else if (found == NO_ORDER)
        tell_failure(search);
    else if (found == SOMETHING_LEFT)
        fault(search->judge, "nothing is left: the newest never came to the sink", "key %u: %x",
              key, search->now.items[0].state.pending);
}

static void
judge_keys(struct judge *judge)
{
    struct search search = {.judge = judge};

    search.now.items = make_array(STATES_MAX, sizeof(struct candidate));
    search.then.items = make_array(STATES_MAX, sizeof(struct candidate));
    for (uint32_t key = 0;
         key < judge->history->keys + judge->history->markers && judge->verdict->fault == NULL;
         key++)
        search_key(&search, key);
    free(search.now.items);
    free(search.then.items);
}

/* ---------------------------------------------------------------------------------------------- */
/* Statistics                                                                                     */

static void
count_event(cdedupe_statistics_t *count, const history_event_t *event)
{
    if (is_update(event)) {
        count->received++;
        count->replaced += event->outcome == CDEDUPE_OUTCOME_REPLACED;
        count->cancelled += event->outcome == CDEDUPE_OUTCOME_CANCELLED ? 2 : 0;
        count->dropped += event->outcome == CDEDUPE_OUTCOME_DROPPED;
    }
    count->delivered += event->kind == HISTORY_TAKEN;
    count->statuses_received += event->kind == HISTORY_STATUS;
    count->statuses_delivered += event->kind == HISTORY_TAKEN_STATUS;
}

static uint64_t
count_live(const history_t *history)
{
    const history_lane_t *taken = &history->lanes[history->sink];
    bool *live = make_array(history->keys + history->markers, sizeof(*live));
    uint64_t count = 0;

    for (size_t i = 0; i < taken->count; i++)
        if (taken->events[i].kind == HISTORY_TAKEN)
            live[taken->events[i].key] = taken->events[i].outcome != CDEDUPE_ITEM_DELETED;
    for (uint32_t key = 0; key < history->keys + history->markers; key++)
        count += live[key];
    free(live);
    return count;
}

static void
compare(struct judge *judge, const char *what, uint64_t buffer, uint64_t history)
{
    if (buffer != history)
        fault(judge, "statistics: a counter is not the history's", "%s: %llu, in the history %llu",
              what, (unsigned long long)buffer, (unsigned long long)history);
}

static void
judge_statistics(struct judge *judge)
{
    const cdedupe_statistics_t *s = &judge->history->statistics;
    cdedupe_statistics_t count = {0};

    for (unsigned lane = 0; lane < judge->history->lane_count; lane++)
        for (size_t i = 0; i < judge->history->lanes[lane].count; i++)
            count_event(&count, &judge->history->lanes[lane].events[i]);
    compare(judge, "received", s->received, count.received);
    compare(judge, "delivered", s->delivered, count.delivered);
    compare(judge, "replaced", s->replaced, count.replaced);
    compare(judge, "cancelled", s->cancelled, count.cancelled);
    compare(judge, "statuses received", s->statuses_received, count.statuses_received);
    compare(judge, "statuses delivered", s->statuses_delivered, count.statuses_delivered);
    compare(judge, "live keys", s->live_keys, count_live(judge->history));
    compare(judge, "the sum", s->received + s->synthesized_deletions,
            s->delivered + s->replaced + s->cancelled + s->suppressed + s->dropped +
                s->pending_keys);
    if (s->dropped < count.dropped)
        compare(judge, "dropped", s->dropped, count.dropped);
    if (judge->history->drained)
        compare(judge, "pending keys", s->pending_keys, 0);
}

/* ---------------------------------------------------------------------------------------------- */
/* Sorting                                                                                        */

static bool
is_for_all(const history_event_t *event)
{
    return event->kind == HISTORY_RESTART || event->kind == HISTORY_STOP ||
           (event->kind == HISTORY_STATUS && event->status == CDEDUPE_STATUS_IN_SYNC);
}

/* Which events of the lane concern which key; by counting. */
static void
sort_lane(struct judge *judge, unsigned number)
{
    const history_lane_t *lane = &judge->history->lanes[number];
    uint32_t keys = judge->history->keys + judge->history->markers;
    uint32_t *slices = make_array((size_t)keys + 2, sizeof(*slices));

    judge->by_key[number] = make_array(lane->count, sizeof(uint32_t));
    judge->for_all[number] = make_array(lane->count, sizeof(uint32_t));
    for (size_t i = 0; i < lane->count; i++) {
        const history_event_t *event = &lane->events[i];

        if (is_for_all(event))
            judge->for_all[number][judge->for_all_count[number]++] = (uint32_t)i;
        else if (is_update(event) || event->kind == HISTORY_TAKEN)
            slices[event->key + 2]++;
    }
    for (uint32_t key = 0; key < keys; key++)
        slices[key + 2] += slices[key + 1];
    for (size_t i = 0; i < lane->count; i++)
        if (is_update(&lane->events[i]) || lane->events[i].kind == HISTORY_TAKEN)
            judge->by_key[number][slices[lane->events[i].key + 1]++] = (uint32_t)i;
    judge->slices[number] = slices;
}

static void
init_fates(struct judge *judge, unsigned lane)
{
    size_t count = judge->history->lanes[lane].count;

    judge->fates[lane] = make_array(count, sizeof(struct fate));
    for (size_t i = 0; i < count; i++)
        judge->fates[lane][i].taken = NEVER;
}

void
history_judge(history_t *history, history_verdict_t *verdict)
{
    struct judge judge = {.history = history, .verdict = verdict};

    memset(verdict, 0, sizeof(*verdict));
    for (unsigned lane = 0; lane < history->lane_count; lane++) {
        init_fates(&judge, lane);
        sort_lane(&judge, lane);
    }
    visit_all(&judge, note_returns);
    visit_all(&judge, check_returned);
    /* What follows relies on payloads having names, and coming back. */
    if (verdict->fault == NULL) {
        visit_all(&judge, note_newer);
        judge_keys(&judge);
    }
    /* And this, on each update having displaced what came before it. */
    if (verdict->fault == NULL) {
        judge_order(&judge);
        judge_emptiness(&judge);
        judge_statistics(&judge);
    }
    for (unsigned lane = 0; lane < history->lane_count; lane++) {
        free(judge.fates[lane]);
        free(judge.slices[lane]);
        free(judge.by_key[lane]);
        free(judge.for_all[lane]);
    }
}
