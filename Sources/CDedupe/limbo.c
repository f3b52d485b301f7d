/* SPDX-License-Identifier: Apache-2.0 */
#include "limbo.h"

#include "entry.h"
#include "memory.h"
#include "sync.h"
#include "tiny.h"

/* Entries freed per hold. */
enum { LIMBO_STEP = OR_TINY(128, 2) };

void
limbo_init(struct limbo *limbo)
{
    ck_epoch_init(&limbo->epoch);
    ck_epoch_register(&limbo->epoch, &limbo->record, NULL);
}

/* [L1] */
void
limbo_add(struct limbo *limbo, const struct arena *entries, uint32_t entry)
{
    entry_at(entries, entry)->link = limbo->open.entries;
    limbo->open.entries = entry;
    limbo->open.count++;
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
limbo_add_tables(struct limbo *limbo, struct reserve *reserve)
{
    move_blocks(&reserve->deferred, &limbo->open_tables);
}

void
limbo_destroy(struct limbo *limbo, struct memory *memory)
{
    struct reserve reserve;

    reserve_init(&reserve);
    move_blocks(&limbo->open_tables, &reserve.retired);
    move_blocks(&limbo->closed_tables, &reserve.retired);
    move_blocks(&limbo->ready_tables, &reserve.retired);
    reserve_release(&reserve, memory);
}

/* ck_epoch's callbacks, from within ck_epoch_poll and so under the lock: a closed generation's grace is over. */

static void
entry_grace_is_over(ck_epoch_entry_t *grace)
{
    struct limbo *limbo = (struct limbo *)(void *)((unsigned char *)grace - offsetof(struct limbo, entry_grace));

    limbo->ready = limbo->closed;
    limbo->closed = (struct entry_generation){0};
    limbo->entries_wait = false;
}

static void
table_grace_is_over(ck_epoch_entry_t *grace)
{
    struct limbo *limbo = (struct limbo *)(void *)((unsigned char *)grace - offsetof(struct limbo, table_grace));

    move_blocks(&limbo->closed_tables, &limbo->ready_tables);
    limbo->tables_wait = false;
}

/*
 * The full fences below stand against the one in ck_epoch_begin: a reader whose section ck_epoch takes for a later one
 * has not seen what was unlinked before. [L4]
 */

static void
close_entries(struct limbo *limbo)
{
    limbo->closed = limbo->open;
    limbo->open = (struct entry_generation){0};
    limbo->entries_wait = true;
    ck_pr_fence_memory();
    ck_epoch_call(&limbo->record, &limbo->entry_grace, entry_grace_is_over);
}

static void
close_tables(struct limbo *limbo)
{
    move_blocks(&limbo->open_tables, &limbo->closed_tables);
    limbo->tables_wait = true;
    ck_pr_fence_memory();
    ck_epoch_call(&limbo->record, &limbo->table_grace, table_grace_is_over);
}

/* [L3] */
static void
free_ready_entries(struct entry_generation *ready, struct arena *entries, struct reserve *reserve)
{
    for (unsigned i = 0; i < LIMBO_STEP && ready->entries != 0; i++) {
        uint32_t entry = ready->entries;

        ready->entries = entry_at(entries, entry)->link;
        ready->count--;
        arena_give_back(entries, entry, reserve);
    }
}

void
limbo_step(struct limbo *limbo, struct arena *entries, struct reserve *reserve)
{
    /* [L2] */
    if (limbo->entries_wait || limbo->tables_wait) {
        ck_epoch_poll(&limbo->record);
        sync_sections_ended(limbo);
    }
    move_blocks(&limbo->ready_tables, &reserve->retired);
    if (!limbo->tables_wait && limbo->open_tables != NULL)
        close_tables(limbo);
    if (limbo->ready.entries != 0)
        free_ready_entries(&limbo->ready, entries, reserve);
    else if (!limbo->entries_wait && limbo->open.entries != 0)
        close_entries(limbo);
}

uint64_t
limbo_count(const struct limbo *limbo)
{
    return limbo->open.count + limbo->closed.count + limbo->ready.count;
}
