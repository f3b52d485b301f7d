/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sweeps, lock scope by lock scope. No public call can come between these, so the file that sweeps
 * is compiled into this one.
 */
#include "check.h"
#include "calls/status.c"

enum { KEYS = 3 * SWEEPS_PER_LOCK, BATCH = 2 * KEYS };

static cdedupe_item_t items[BATCH];

static void
put(cdedupe_t *buffer, uint32_t key, bool deletion)
{
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = deletion};

    if (!deletion)
        CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
}

/* Says how many of the items are deletions. */
static size_t
take(cdedupe_t *buffer)
{
    size_t count, deletions = 0;

    cdedupe_take(buffer, items, BATCH, &count);
    for (size_t i = 0; i < count; i++)
        deletions += items[i].kind == CDEDUPE_ITEM_DELETED;
    return deletions;
}

/*
 * All keys live, but for the first, whose deletion is taken and can be put back; then a restart,
 * and all others seen.
 */
static cdedupe_t *
open_buffer(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer = NULL;

    options.batch_size = BATCH;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    for (uint32_t key = 0; key < KEYS; key++)
        put(buffer, key, false);
    take(buffer);
    put(buffer, 0, true);
    CHECK_EQ(take(buffer), 1);
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    for (uint32_t key = 1; key < KEYS; key++)
        put(buffer, key, false);
    return buffer;
}

static struct sweep
begin_sweep(cdedupe_t *buffer)
{
    struct sweep sweep = {.restart = 0};

    scope_init(&sweep.scope, buffer);
    return sweep;
}

static enum progress
sweep_hold(struct sweep *sweep)
{
    enum progress progress;

    scope_lock(&sweep->scope);
    progress = put_status_some(sweep, CDEDUPE_STATUS_IN_SYNC);
    scope_unlock(&sweep->scope);
    return progress;
}

static void
sweep_to_end(struct sweep *sweep)
{
    while (sweep_hold(sweep) == PROGRESS_MORE)
        continue;
}

/* Each of two sweeps must come back for it: the one that is done first ends the resync for both. */
static void
a_deletion_put_back_behind_two_sweeps_is_owed(void)
{
    cdedupe_t *buffer = open_buffer();
    struct sweep one = begin_sweep(buffer), other = begin_sweep(buffer);
    size_t count = 1;

    CHECK_EQ(sweep_hold(&one), PROGRESS_MORE);
    CHECK_EQ(sweep_hold(&other), PROGRESS_MORE);
    CHECK(cdedupe_put_back(buffer, items, &count) == CDEDUPE_OK);
    while (one.next != 0)
        CHECK_EQ(sweep_hold(&one), PROGRESS_MORE);
    sweep_to_end(&other);
    sweep_to_end(&one);
    CHECK_EQ(take(buffer), 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* Put back before the sweep began, it costs no second round. */
static void
a_deletion_put_back_before_a_sweep_is_owed_at_once(void)
{
    cdedupe_t *buffer = open_buffer();
    struct sweep sweep = begin_sweep(buffer);
    size_t count = 1;
    unsigned holds = 1;

    CHECK(cdedupe_put_back(buffer, items, &count) == CDEDUPE_OK);
    while (sweep_hold(&sweep) == PROGRESS_MORE)
        holds++;
    CHECK(holds <= KEYS / SWEEPS_PER_LOCK + 1);
    CHECK_EQ(take(buffer), 1);
    cdedupe_destroy(buffer);
}

int
main(void)
{
    RUN(a_deletion_put_back_behind_two_sweeps_is_owed);
    RUN(a_deletion_put_back_before_a_sweep_is_owed_at_once);
    return check_finish();
}
