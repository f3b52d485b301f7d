/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retired memory; see retired.h. Everything here runs under the lock, except init and destroy.
 *
 *     retired_add                 an entry joins the open generation
 *     retired_add_tables          outgrown tables join the open generation
 *     retired_reclaim             one bounded step
 *         ck_epoch_poll           calls grace_is_over(): closed -> ready
 *         free_ready_entries      at most RETIRED_STEP entries
 *         close_generation        open -> closed
 */
#include "memory/retired.h"

#include "base/atomics.h"
#include "base/test_sizes.h"
#include "memory/allocator.h"
#include "memory/arena.h"

/* The most entries that one step frees. */
enum { RETIRED_STEP = TEST_SIZED(128, 2) };

void
retired_init(struct retired *retired)
{
    ck_epoch_init(&retired->epoch);
    ck_epoch_register(&retired->epoch, &retired->record, NULL);
}

/* Model step L1: a dead entry joins the open generation. */
void
retired_add(struct retired *retired, const struct arena *entries, uint32_t entry)
{
    *arena_link(entries, entry) = retired->open.entries;
    retired->open.entries = entry;
    retired->open.count++;
}

static void
move_blocks(struct block **from, struct block **to)
{
    struct block *block;

    while ((block = *from) != NULL) {
        *from = block->next;
        block->next = *to;
        *to = block;
    }
}

/* Model step I12: outgrown tables join the open generation. */
void
retired_add_tables(struct retired *retired, struct reserve *reserve)
{
    move_blocks(&reserve->deferred, &retired->open.tables);
}

void
retired_destroy(struct retired *retired, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    move_blocks(&retired->open.tables, &reserve.retired);
    move_blocks(&retired->closed.tables, &reserve.retired);
    move_blocks(&retired->ready.tables, &reserve.retired);
    reserve_release(&reserve, memory);
}

/*
 * The closed generation becomes the ready one, because its grace period is over. ck_epoch_poll()
 * calls this, and so it runs under the lock.
 */
static void
grace_is_over(ck_epoch_entry_t *grace)
{
    struct retired *retired =
        (struct retired *)(void *)((unsigned char *)grace - offsetof(struct retired, grace));

    retired->ready = retired->closed;
    retired->closed = (struct generation){0};
    retired->waits = false;
}

/*
 * Model step L4: closes the open generation, which starts its grace period. The other side of the
 * full fence is the fence in ck_epoch_begin(). Without it, a reader whose read section ck_epoch
 * takes for a later one could still have seen what was unlinked, and would use it after it is
 * freed.
 */
static void
close_generation(struct retired *retired)
{
    retired->closed = retired->open;
    retired->open = (struct generation){0};
    retired->waits = true;
    ck_pr_fence_memory();
    ck_epoch_call(&retired->record, &retired->grace, grace_is_over);
}

/* Model step L3: entries of the ready generation become free. */
static void
free_ready_entries(struct generation *ready, struct arena *entries, struct reserve *reserve)
{
    for (unsigned i = 0; i < RETIRED_STEP && ready->entries != 0; i++) {
        uint32_t entry = ready->entries;

        ready->entries = *arena_link(entries, entry);
        ready->count--;
        arena_give_back(entries, entry, reserve);
    }
}

static bool
generation_is_empty(const struct generation *generation)
{
    return generation->entries == 0 && generation->tables == NULL;
}

void
retired_reclaim(struct retired *retired, struct arena *entries, struct reserve *reserve)
{
    /* Model step L2: asks ck_epoch whether the grace period is over. */
    if (retired->waits) {
        ck_epoch_poll(&retired->record);
        sync_read_sections_ended(retired);
    }
    move_blocks(&retired->ready.tables, &reserve->retired);
    free_ready_entries(&retired->ready, entries, reserve);
    /* The ready generation must be empty, because grace_is_over() overwrites it. */
    if (!retired->waits && generation_is_empty(&retired->ready) &&
        !generation_is_empty(&retired->open))
        close_generation(retired);
}

uint64_t
retired_count(const struct retired *retired)
{
    return retired->open.count + retired->closed.count + retired->ready.count;
}
