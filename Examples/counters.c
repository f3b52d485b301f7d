/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters of connections: a C program at the level of handles, with merging, a bound, and a sink
 * that fails.
 *
 * The source says by how many bytes a connection's counter has grown; the sink keeps a table of
 * totals. The buffer adds a new growth to the pending one of the same connection. When more
 * come and go than the bound allows, while the sink is down, the source is told, and begins again
 * with totals. One thread does all of it in turns, as an event loop does, so that every run is the
 * same.
 *
 *     cc counters.c $(pkg-config --cflags --libs --static cdedupe)
 */
#include <CDedupe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LASTING 100 /* Connections that are open all the time; */
#define BURST 200   /* others come and go, so many together. */
#define ALL (LASTING + 2 * BURST)
#define BOUND \
    350 /* More than a resync has, totals and deletions, or it would end in an overflow again. */
#define PAUSE 100 /* Turns from an overflow to the resync: at once, the burst would not be over. */
#define BATCH 40
#define TURNS 2000

/* What an update carries. */
struct count {
    bool is_total; /* Else it is to be added. */
    uint64_t bytes;
};

/* What the source knows, and what the sink has been told. */
struct connection {
    bool is_open;
    uint64_t bytes;
};

struct program {
    cdedupe_t *buffer;
    struct connection source[ALL], sink[ALL];
    unsigned pause;
    size_t merged, put_back, merged_put_back;
};

static void
check(cdedupe_result_t result)
{
    if (result == CDEDUPE_OK)
        return;
    fprintf(stderr, "counters: %s\n", cdedupe_result_text(result));
    exit(1);
}

/*
 * The merge callback: the newer payload becomes the sum of both. It runs inside cdedupe_put() and
 * cdedupe_put_back(), on whichever thread called these, and must not put, take or restart.
 */
static void
merge(void *context, void *older, void *newer)
{
    struct program *program = context;
    const struct count *before = older;
    struct count *sum = newer;

    if (!sum->is_total) {
        sum->bytes += before->bytes;
        sum->is_total = before->is_total;
    }
    program->merged++;
}

/* ---- The source ---- */

/* No count: the connection is closed. */
static void
put(struct program *program, uint32_t id, const struct count *count)
{
    cdedupe_update_t update = {.key = &id, .key_length = sizeof(id), .deletion = count == NULL};
    cdedupe_result_t result;

    if (count != NULL) {
        check(cdedupe_acquire(program->buffer, &update.slot, 1));
        *(struct count *)cdedupe_payload(program->buffer, update.slot) = *count;
    }
    result = cdedupe_put(program->buffer, &update, 1);
    if (result == CDEDUPE_OVERFLOWED)
        program->pause = PAUSE;
    else
        check(result);
    /* What is ours now; zeros are skipped. */
    cdedupe_discard(program->buffer, (cdedupe_slot_t[]){update.slot, update.displaced}, 2);
}

/*
 * Begins again, with all totals. Connections of which the sink knows, and which are closed by now,
 * get deleted.
 */
static void
resync(struct program *program)
{
    cdedupe_slot_t dropped[BATCH];
    size_t count;

    check(cdedupe_restart(program->buffer));
    check(cdedupe_put_status(program->buffer, CDEDUPE_STATUS_RESYNC_IN_PROGRESS));
    for (uint32_t id = 0; id < ALL; id++) {
        if (program->source[id].is_open)
            put(program, id, &(struct count){true, program->source[id].bytes});
    }
    check(cdedupe_put_status(program->buffer, CDEDUPE_STATUS_IN_SYNC));
    /* What the restart dropped, as far as it has not come back as `displaced`. */
    while (cdedupe_collect(program->buffer, dropped, BATCH, &count) == CDEDUPE_OK)
        cdedupe_discard(program->buffer, dropped, count);
}

/* Opens or closes many connections. From an overflow to the resync no message is sent. */
static void
burst(struct program *program, uint32_t first, bool opens)
{
    for (uint32_t id = first; id < first + BURST; id++) {
        program->source[id] = (struct connection){.is_open = opens};
        if (program->pause == 0)
            put(program, id, opens ? &(struct count){true, 0} : NULL);
    }
}

/*
 * What the source has to tell in a turn. Those of the second burst come while the deletions of the
 * first are pending.
 */
static void
go_on(struct program *program, unsigned turn)
{
    unsigned time = turn % 500;

    if (time == 150 || time == 300)
        burst(program, LASTING, time == 150);
    if (time == 320 || time == 400)
        burst(program, LASTING + BURST, time == 320);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t id = (turn * 31 + i * i * 7) % LASTING;
        uint64_t growth = 40 + (turn + i) % 1460;

        program->source[id].bytes += growth;
        if (program->pause == 0)
            put(program, id, &(struct count){false, growth});
    }
    if (program->pause > 0 && --program->pause == 0)
        resync(program);
}

/* ---- The sink ---- */

static void
store(struct program *program, const cdedupe_item_t *item)
{
    uint32_t id;

    if (item->kind == CDEDUPE_ITEM_STATUS)
        return;
    memcpy(&id, item->key, sizeof(id));
    program->sink[id].is_open = item->kind != CDEDUPE_ITEM_DELETED;
    if (item->kind != CDEDUPE_ITEM_DELETED) {
        const struct count *count = cdedupe_payload(program->buffer, item->slot);

        program->sink[id].bytes =
            count->is_total ? count->bytes : program->sink[id].bytes + count->bytes;
    }
    cdedupe_discard(program->buffer, &item->slot, 1);
}

/* What could not be stored goes back to the front of the queue. */
static void
give_back(struct program *program, cdedupe_item_t *items, size_t count)
{
    size_t left = count, merged = program->merged;

    /*
     * Where a connection has grown since, the growth that is pending is merged with what goes back.
     */
    check(cdedupe_put_back(program->buffer, items, &left));
    program->merged_put_back += program->merged - merged;
    /* Those that came back: something newer took their place, or a restart dropped them. */
    for (size_t i = 0; i < count; i++)
        cdedupe_discard(program->buffer, &items[i].slot, 1);
    program->put_back += count;
}

/*
 * One turn: a batch is on its way to the sink, and meanwhile the source goes on. Whether there was
 * a batch.
 */
static bool
deliver(struct program *program, unsigned turn)
{
    bool is_down = turn / 250 % 2 == 1, is_short = turn % 5 == 0;
    cdedupe_item_t items[BATCH];
    size_t count = 0, stored;
    cdedupe_result_t result = cdedupe_take(program->buffer, items, BATCH, &count);

    if (result != CDEDUPE_EMPTY)
        check(result);
    if (turn < TURNS)
        go_on(program, turn);
    stored = is_down ? 0 : is_short ? count / 2 : count;
    for (size_t i = 0; i < stored; i++)
        store(program, &items[i]);
    if (stored < count)
        give_back(program, items + stored, count - stored);
    return result == CDEDUPE_OK;
}

int
main(void)
{
    static struct program program;
    cdedupe_options_t options = cdedupe_options();
    cdedupe_statistics_t statistics;
    const char *fault;
    unsigned wrong = 0;

    options.merge = merge;
    options.merge_context = &program;
    options.payload_size = sizeof(struct count);
    options.batch_size = BATCH;
    options.maximum_pending_keys = BOUND;
    check(cdedupe_create(&options, &program.buffer));
    check(cdedupe_claim(program.buffer, CDEDUPE_CLAIM_SINGLE_BATCH));

    for (uint32_t id = 0; id < LASTING; id++)
        program.source[id].is_open = true;
    resync(&program);
    for (unsigned turn = 0; turn < TURNS; turn++)
        deliver(&program, turn);
    for (unsigned turn = TURNS; deliver(&program, turn); turn++) {
    }

    for (uint32_t id = 0; id < ALL; id++) {
        const struct connection *right = &program.source[id], *told = &program.sink[id];

        wrong += told->is_open != right->is_open || (right->is_open && told->bytes != right->bytes);
    }
    fault = cdedupe_validate(program.buffer);
    cdedupe_statistics(program.buffer, &statistics, sizeof(statistics));
    printf(
        "%llu updates in, %llu out, %zu merged; %zu put back, %zu of them merged; %llu overflows\n",
        (unsigned long long)statistics.received, (unsigned long long)statistics.delivered,
        program.merged, program.put_back, program.merged_put_back,
        (unsigned long long)statistics.overflows);
    printf("%u counters are wrong; the buffer's invariants: %s\n", wrong,
           fault == NULL ? "all hold" : fault);
    cdedupe_release(program.buffer);
    cdedupe_destroy(program.buffer);
    /* What this program is here to show has happened. */
    return wrong > 0 || fault != NULL || program.merged == 0 || program.merged_put_back == 0 ||
           statistics.overflows == 0;
}
