/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limbo: what has been unlinked, but may still be looked at by readers that hold no lock.
 *
 * Readers are producers that look a key up. They do so in a section of ck_epoch, through the record of their context.
 * What they can still reach after it was unlinked, dead entries and outgrown tables of the index, waits here:
 *
 *     open      unlinked since the last generation was closed
 *     closed    a whole generation, given to ck_epoch as one object
 *     ready     its grace period is over: nobody can be looking
 *
 * One generation at a time, of entries and of tables, so two ck_epoch entries are enough, in the buffer itself, and
 * retiring needs no memory. Dead entries are chained by their link, which readers never read; tables by notes behind their end.
 *
 * There is one record for retiring, and unlinking, ck_epoch_call and ck_epoch_poll all happen under the buffer's lock.
 * With several records, or unlocked, version 0.7.1 frees too early: ck_epoch_call reads the epoch without a fence, so
 * that an object can be filed under an epoch older than its unlinking.
 */
#ifndef CDEDUPE_MEMORY_RETIRED_H
#define CDEDUPE_MEMORY_RETIRED_H

#include <ck_epoch.h>
#include <stdbool.h>
#include <stdint.h>

struct arena;
struct block;
struct memory;
struct reserve;

struct entry_generation {
    uint32_t entries; /* Chained by their links. */
    uint64_t count;
};

struct retired {
    ck_epoch_t epoch;
    ck_epoch_record_t record; /* For retiring; enters no section. */

    ck_epoch_entry_t entry_grace; /* Stands for the closed generation of entries. */
    bool entries_wait;            /* There is one. */
    struct entry_generation open, closed, ready;

    ck_epoch_entry_t
        table_grace; /* The same for tables: when they come depends on the hash function. */
    bool tables_wait;
    struct block *open_tables, *closed_tables, *ready_tables;
};

void retired_init(struct retired *retired);

/* Frees the tables that wait. Nothing else may be running. */
void retired_destroy(struct retired *retired, struct memory *memory);

/* Under the lock: an entry that is dead and not indexed any more. */
void retired_add(struct retired *retired, const struct arena *entries, uint32_t entry);

/* Under the lock, at the end of a hold: takes the tables that the reserve was told to defer. */
void retired_add_tables(struct retired *retired, struct reserve *reserve);

/*
 * Under the lock: moves on by a step of bounded length; what gets free goes to the arena, and to the reserve. Called as often as the calls' own work says, never because of
 * what memory or the hash function did: so entries get free, and numbers are used again, at points that the input alone
 * decides, as long as one thread calls. The order of the sweep's deletions goes by these numbers.
 */
void retired_reclaim(struct retired *retired, struct arena *entries, struct reserve *reserve);

/* Under the lock: how many entries wait. */
uint64_t retired_count(const struct retired *retired);

#endif
