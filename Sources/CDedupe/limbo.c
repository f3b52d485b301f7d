/* SPDX-License-Identifier: Apache-2.0 */
#include "limbo.h"

#include "buffer.h"

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
limbo_add(struct hold *hold, uint32_t entry)
{
    struct entry_generation *open = &hold->buffer->limbo.open;

    entry_at(&hold->buffer->entries, entry)->link = open->entries;
    open->entries = entry;
    open->count++;
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
limbo_add_tables(struct hold *hold)
{
    move_blocks(&hold->reserve.deferred, &hold->buffer->limbo.open_tables);
}

void
limbo_destroy(struct cdedupe *buffer)
{
    struct limbo *limbo = &buffer->limbo;
    struct reserve reserve;

    reserve_init(&reserve);
    move_blocks(&limbo->open_tables, &reserve.retired);
    move_blocks(&limbo->closed_tables, &reserve.retired);
    move_blocks(&limbo->ready_tables, &reserve.retired);
    reserve_release(&reserve, &buffer->memory);
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
free_ready_entries(struct hold *hold)
{
    struct entry_generation *ready = &hold->buffer->limbo.ready;

    for (unsigned i = 0; i < LIMBO_STEP && ready->entries != 0; i++) {
        uint32_t entry = ready->entries;

        ready->entries = entry_at(&hold->buffer->entries, entry)->link;
        ready->count--;
        entry_free(hold, entry);
    }
}

void
limbo_step(struct hold *hold)
{
    struct limbo *limbo = &hold->buffer->limbo;

    /* [L2] */
    if (limbo->entries_wait || limbo->tables_wait) {
        ck_epoch_poll(&limbo->record);
        sync_sections_ended(limbo);
    }
    move_blocks(&limbo->ready_tables, &hold->reserve.retired);
    if (!limbo->tables_wait && limbo->open_tables != NULL)
        close_tables(limbo);
    if (limbo->ready.entries != 0)
        free_ready_entries(hold);
    else if (!limbo->entries_wait && limbo->open.entries != 0)
        close_entries(limbo);
}

uint64_t
limbo_count(const struct limbo *limbo)
{
    return limbo->open.count + limbo->closed.count + limbo->ready.count;
}
