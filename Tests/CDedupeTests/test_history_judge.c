/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The judge of histories accepts good histories and detects bad ones. The histories are made by
 * hand, and the test compares what the judge says about each of them.
 */
#include "history.h"

#include "check.h"

enum { LINES_MAX = 8, PRODUCER = 0, OTHER = 1, SINK = 2, LANES = 3, KEYS = 2 };

/*
 * One event. `update` is another line of the same history, counted from 1: what was displaced, or
 * taken, or came back.
 */
typedef struct line {
    unsigned lane;
    history_kind_t kind;
    unsigned begin;
    unsigned end;
    uint32_t key;
    unsigned update;
    uint8_t outcome;
} line_t;

/* clang-format off */
#define QUEUED(lane, kind, begin, end, key) {lane, HISTORY_##kind, begin, end, key, 0, CDEDUPE_OUTCOME_QUEUED}
#define REPLACED(lane, kind, begin, end, key, whom) {lane, HISTORY_##kind, begin, end, key, whom, CDEDUPE_OUTCOME_REPLACED}
#define CANCELLED(lane, begin, end, key, whom) {lane, HISTORY_DELETION, begin, end, key, whom, CDEDUPE_OUTCOME_CANCELLED}
#define TAKEN(begin, end, key, what, as) {SINK, HISTORY_TAKEN, begin, end, key, what, CDEDUPE_ITEM_##as}
#define IN_SYNC(begin, end) {PRODUCER, HISTORY_STATUS, begin, end, 0, 0, CDEDUPE_STATUS_IN_SYNC}
#define IN_SYNC_TAKEN(begin, end) {SINK, HISTORY_TAKEN_STATUS, begin, end, 0, 0, CDEDUPE_STATUS_IN_SYNC}
#define RESTART(begin, end) {OTHER, HISTORY_RESTART, begin, end, 0, 0, 0}
#define STOP(begin, end) {OTHER, HISTORY_STOP, begin, end, 0, 0, 0}
#define COLLECTED(what) {OTHER, HISTORY_RETURNED, 0, 0, 0, what, 0}
#define EMPTIED(begin, end) {SINK, HISTORY_EMPTIED, begin, end, 0, 0, 0}
/* clang-format on */

/* Stopped buffers may keep something. */
typedef struct sample {
    const char *name;
    const char *fault; /* How the verdict begins; NULL: none. */
    bool stopped;
    line_t lines[LINES_MAX];
} sample_t;

/* clang-format off */
static const sample_t samples[] = {
    {"the newest is taken", NULL, false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), REPLACED(OTHER, VALUE, 3, 4, 0, 1), TAKEN(5, 6, 0, 2, NEW)}},
    {"calls overlap", NULL, false,
     {QUEUED(PRODUCER, VALUE, 1, 10, 0), QUEUED(OTHER, VALUE, 2, 3, 0), TAKEN(5, 6, 0, 2, NEW),
      TAKEN(7, 8, 0, 1, UPDATED)}},
    {"calls do not overlap", "linearizability", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), QUEUED(OTHER, VALUE, 3, 4, 0), TAKEN(5, 6, 0, 2, NEW),
      TAKEN(7, 8, 0, 1, UPDATED)}},
    {"an older one is taken", "ownership", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), REPLACED(OTHER, VALUE, 3, 4, 0, 1), TAKEN(5, 6, 0, 1, NEW), COLLECTED(2)}},
    {"taken before it was put", "linearizability", false,
     {QUEUED(PRODUCER, VALUE, 3, 4, 0), TAKEN(1, 2, 0, 1, NEW)}},
    {"taken twice", "ownership", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), TAKEN(5, 6, 0, 1, UPDATED)}},
    {"never came back", "ownership", false, {QUEUED(PRODUCER, VALUE, 1, 2, 0)}},
    {"new is called updated", "linearizability", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, UPDATED)}},
    {"a value and its deletion never left", NULL, false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), CANCELLED(OTHER, 3, 4, 0, 1)}},
    {"the deletion of a live key was cancelled", "linearizability", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), QUEUED(PRODUCER, VALUE, 5, 6, 0),
      CANCELLED(OTHER, 7, 8, 0, 3)}},
    {"lost to a restart that overlaps", NULL, false,
     {QUEUED(PRODUCER, VALUE, 1, 3, 0), RESTART(2, 4), COLLECTED(1)}},
    {"lost to a restart that was before", "nothing is left", false,
     {QUEUED(PRODUCER, VALUE, 3, 4, 0), RESTART(1, 2), COLLECTED(1)}},
    {"lost", "nothing is left", false, {QUEUED(PRODUCER, VALUE, 1, 2, 0), COLLECTED(1)}},
    {"left in a stopped buffer", NULL, true, {QUEUED(PRODUCER, VALUE, 1, 2, 0), STOP(3, 4), COLLECTED(1)}},
    {"taken from a stopped buffer", "linearizability", true,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), STOP(3, 4), TAKEN(5, 6, 0, 1, NEW)}},
    {"another way round", "order", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), QUEUED(OTHER, VALUE, 3, 4, 1), TAKEN(5, 6, 1, 2, NEW), TAKEN(5, 6, 0, 1, NEW)}},
    {"replaced keeps its place", "order", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), QUEUED(OTHER, VALUE, 3, 4, 1), REPLACED(OTHER, VALUE, 5, 6, 0, 1),
      TAKEN(7, 8, 1, 2, NEW), TAKEN(9, 10, 0, 3, NEW)}},
    {"in-sync in its place", NULL, false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), IN_SYNC(3, 4), TAKEN(5, 6, 0, 1, NEW), IN_SYNC_TAKEN(5, 6)}},
    {"in-sync before what was put before it", "order", false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), IN_SYNC(3, 4), IN_SYNC_TAKEN(5, 6), TAKEN(7, 8, 0, 1, NEW)}},
    {"in-sync after what was put after it", "order", false,
     {IN_SYNC(1, 2), QUEUED(OTHER, VALUE, 3, 4, 0), TAKEN(5, 6, 0, 2, NEW), IN_SYNC_TAKEN(5, 6)}},
    {"in-sync twice", "statuses", false, {IN_SYNC(1, 2), IN_SYNC_TAKEN(3, 4), IN_SYNC_TAKEN(5, 6)}},
    {"an exact resync", NULL, false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), RESTART(5, 6), IN_SYNC(7, 8), TAKEN(9, 10, 0, 0, DELETED),
      IN_SYNC_TAKEN(9, 10)}},
    {"an owed deletion is missing", "nothing is left", false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), RESTART(5, 6), IN_SYNC(7, 8), IN_SYNC_TAKEN(9, 10)}},
    {"a deletion that is not owed", "linearizability", false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), RESTART(5, 6), QUEUED(OTHER, VALUE, 7, 8, 0),
      TAKEN(9, 10, 0, 4, UPDATED), IN_SYNC(11, 12), TAKEN(13, 14, 0, 0, DELETED)}},
    {"an owed deletion after its in-sync", "statuses", false,
     {QUEUED(OTHER, VALUE, 1, 2, 0), TAKEN(3, 4, 0, 1, NEW), RESTART(5, 6), IN_SYNC(7, 8), IN_SYNC_TAKEN(9, 10),
      TAKEN(9, 10, 0, 0, DELETED)}},
    {"a take finds the end too early", "emptiness", false,
     {QUEUED(PRODUCER, VALUE, 1, 2, 0), EMPTIED(3, 4), TAKEN(5, 6, 0, 1, NEW)}},
    {"a take finds the end while it is put", NULL, false,
     {QUEUED(PRODUCER, VALUE, 1, 4, 0), EMPTIED(2, 3), TAKEN(5, 6, 0, 1, NEW)}},
};
/* clang-format on */

/* What a buffer would have counted. */
static void
count(history_t *history, const history_event_t *event)
{
    cdedupe_statistics_t *s = &history->statistics;
    bool update = event->kind == HISTORY_VALUE || event->kind == HISTORY_DELETION;

    s->received += update;
    s->replaced += update && event->outcome == CDEDUPE_OUTCOME_REPLACED;
    s->cancelled += update && event->outcome == CDEDUPE_OUTCOME_CANCELLED ? 2 : 0;
    s->statuses_received += event->kind == HISTORY_STATUS;
    s->statuses_delivered += event->kind == HISTORY_TAKEN_STATUS;
    s->dropped += event->kind == HISTORY_RETURNED;
    if (event->kind == HISTORY_TAKEN) {
        s->delivered++;
        s->synthesized_deletions += event->other == 0;
        s->live_keys += event->outcome == CDEDUPE_ITEM_NEW;
        s->live_keys -= event->outcome == CDEDUPE_ITEM_DELETED;
    }
}

static void
make_history(history_t *history, const sample_t *sample)
{
    history_name_t names[LINES_MAX + 1] = {0};

    history_open(history, LANES, SINK, KEYS);
    history->drained = !sample->stopped;
    for (unsigned i = 0;
         i < LINES_MAX && (sample->lines[i].begin != 0 || sample->lines[i].update != 0); i++) {
        const line_t *line = &sample->lines[i];
        history_event_t *event;

        names[i + 1] = history_next_name(history, line->lane);
        event = history_add(history, line->lane, line->kind, line->key);
        event->begin = line->begin;
        event->end = line->end;
        event->outcome = line->outcome;
        event->status = line->outcome;
        event->other = names[line->update];
        event->back = line->outcome == CDEDUPE_OUTCOME_CANCELLED && line->kind == HISTORY_DELETION
                          ? names[i + 1]
                          : 0;
        count(history, event);
    }
}

static void
judge_sample(const sample_t *sample)
{
    history_t history;
    history_verdict_t verdict;

    check_test = sample->name;
    make_history(&history, sample);
    history_judge(&history, &verdict);
    CHECK_EQ(verdict.undecided, 0);
    if (sample->fault == NULL)
        CHECK_NO_FAULT(verdict.fault);
    else if (!CHECK(verdict.fault != NULL &&
                    strncmp(verdict.fault, sample->fault, strlen(sample->fault)) == 0))
        printf("  wanted %s, got %s\n", sample->fault,
               verdict.fault == NULL ? "nothing" : verdict.fault);
    history_close(&history);
}

/* A buffer that counts one too many. */
static void
counters_are_compared(void)
{
    history_t history;
    history_verdict_t verdict;

    make_history(&history, &samples[0]);
    history.statistics.received++;
    history_judge(&history, &verdict);
    CHECK(verdict.fault != NULL && strncmp(verdict.fault, "statistics", 10) == 0);
    history_close(&history);
}

int
main(void)
{
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        judge_sample(&samples[i]);
    RUN(counters_are_compared);
    return check_finish();
}
