#include "limbo.h"

#include "buffer.h"

/* Entries freed per hold. */
enum { LIMBO_STEP = 128 };

void
limbo_init(struct limbo *limbo)
{
    ck_epoch_init(&limbo->epoch);
    ck_epoch_register(&limbo->epoch, &limbo->record, NULL);
}

void
limbo_add(struct hold *hold, uint32_t entry)
{
    struct generation *open = &hold->buffer->limbo.open;

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

void
limbo_destroy(struct cdedupe *buffer)
{
    struct limbo *limbo = &buffer->limbo;
    struct reserve reserve;

    reserve_init(&reserve);
    move_blocks(&limbo->open.blocks, &reserve.retired);
    move_blocks(&limbo->closed.blocks, &reserve.retired);
    move_blocks(&limbo->ready.blocks, &reserve.retired);
    reserve_release(&reserve, &buffer->memory);
}

/* ck_epoch's callback, from within ck_epoch_poll and so under the lock: the closed generation's grace is over. */
static void
grace_is_over(ck_epoch_entry_t *grace)
{
    struct limbo *limbo = (struct limbo *)(void *)((unsigned char *)grace - offsetof(struct limbo, grace));

    limbo->ready = limbo->closed;
    limbo->closed = (struct generation){0};
    limbo->waiting = false;
}

static void
close_generation(struct limbo *limbo)
{
    limbo->closed = limbo->open;
    limbo->open = (struct generation){0};
    limbo->waiting = true;
    /*
     * Full fence, against the one in ck_epoch_begin: a reader whose section ck_epoch takes for a later one has not
     * seen what was unlinked before this.
     */
    ck_pr_fence_memory();
    ck_epoch_call(&limbo->record, &limbo->grace, grace_is_over);
}

static void
free_ready(struct hold *hold)
{
    struct generation *ready = &hold->buffer->limbo.ready;

    sync_sections_ended(&hold->buffer->limbo);
    move_blocks(&ready->blocks, &hold->reserve.retired);
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

    move_blocks(&hold->reserve.deferred, &limbo->open.blocks);
    if (limbo->waiting)
        ck_epoch_poll(&limbo->record);
    if (limbo->ready.entries != 0 || limbo->ready.blocks != NULL)
        free_ready(hold);
    else if (!limbo->waiting && (limbo->open.entries != 0 || limbo->open.blocks != NULL))
        close_generation(limbo);
}

uint64_t
limbo_count(const struct limbo *limbo)
{
    return limbo->open.count + limbo->closed.count + limbo->ready.count;
}
