/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/retired.h"

#include "state/entry.h"
#include "memory/allocator.h"
#include "base/atomics.h"
#include "base/test_sizes.h"

/* Entries freed per hold. */
enum { RETIRED_STEP = TEST_SIZED(128, 2) };

void
retired_init(struct retired *retired)
{
    ck_epoch_init(&retired->epoch);
    ck_epoch_register(&retired->epoch, &retired->record, NULL);
}

/* [L1] */
void
retired_add(struct retired *retired, const struct arena *entries, uint32_t entry)
{
    entry_at(entries, entry)->link = retired->open.entries;
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

/* [I12] */
void
retired_add_tables(struct retired *retired, struct reserve *reserve)
{
    move_blocks(&reserve->deferred, &retired->open_tables);
}

void
retired_destroy(struct retired *retired, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    move_blocks(&retired->open_tables, &reserve.retired);
    move_blocks(&retired->closed_tables, &reserve.retired);
    move_blocks(&retired->ready_tables, &reserve.retired);
    reserve_release(&reserve, memory);
}

/* ck_epoch's callbacks, from within ck_epoch_poll and so under the lock: a closed generation's grace is over. */

static void
entry_grace_is_over(ck_epoch_entry_t *grace)
{
    struct retired *retired =
        (struct retired *)(void *)((unsigned char *)grace - offsetof(struct retired, entry_grace));

    retired->ready = retired->closed;
    retired->closed = (struct entry_generation){0};
    retired->entries_wait = false;
}

static void
table_grace_is_over(ck_epoch_entry_t *grace)
{
    struct retired *retired =
        (struct retired *)(void *)((unsigned char *)grace - offsetof(struct retired, table_grace));

    move_blocks(&retired->closed_tables, &retired->ready_tables);
    retired->tables_wait = false;
}

/*
 * The full fences below stand against the one in ck_epoch_begin: a reader whose section ck_epoch takes for a later one
 * has not seen what was unlinked before. [L4]
 */

static void
close_entries(struct retired *retired)
{
    retired->closed = retired->open;
    retired->open = (struct entry_generation){0};
    retired->entries_wait = true;
    ck_pr_fence_memory();
    ck_epoch_call(&retired->record, &retired->entry_grace, entry_grace_is_over);
}

static void
close_tables(struct retired *retired)
{
    move_blocks(&retired->open_tables, &retired->closed_tables);
    retired->tables_wait = true;
    ck_pr_fence_memory();
    ck_epoch_call(&retired->record, &retired->table_grace, table_grace_is_over);
}

/* [L3] */
static void
free_ready_entries(struct entry_generation *ready, struct arena *entries, struct reserve *reserve)
{
    for (unsigned i = 0; i < RETIRED_STEP && ready->entries != 0; i++) {
        uint32_t entry = ready->entries;

        ready->entries = entry_at(entries, entry)->link;
        ready->count--;
        arena_give_back(entries, entry, reserve);
    }
}

void
retired_reclaim(struct retired *retired, struct arena *entries, struct reserve *reserve)
{
    /* [L2] */
    if (retired->entries_wait || retired->tables_wait) {
        ck_epoch_poll(&retired->record);
        sync_read_sections_ended(retired);
    }
    move_blocks(&retired->ready_tables, &reserve->retired);
    if (!retired->tables_wait && retired->open_tables != NULL)
        close_tables(retired);
    if (retired->ready.entries != 0)
        free_ready_entries(&retired->ready, entries, reserve);
    else if (!retired->entries_wait && retired->open.entries != 0)
        close_entries(retired);
}

uint64_t
retired_count(const struct retired *retired)
{
    return retired->open.count + retired->closed.count + retired->ready.count;
}
