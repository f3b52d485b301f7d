/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retired memory: dead entries and outgrown tables of the index that a reader may still be using.
 *
 * A reader is a producer that looks a key up. It holds no lock; it is in a read section of
 * ck_epoch, through the record of its context. What was unlinked passes through three generations:
 *
 *     open      unlinked since the last generation was closed
 *     closed    given to ck_epoch as one object; its grace period is running
 *     ready     its grace period is over, so no reader can be using it
 *
 * At most one generation is closed at a time. One ck_epoch entry is therefore enough. It lies in
 * the buffer itself, so retiring needs no memory: dead entries are chained by their links, which
 * readers never read, and tables carry their notes behind their end.
 *
 * Only one record retires, and unlinking, ck_epoch_call() and ck_epoch_poll() all run under the
 * buffer's lock. Otherwise ck_epoch 0.7.1 frees too early: ck_epoch_call() reads the epoch without
 * a fence, so it could file an object under an epoch that is older than its unlinking.
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

struct generation {
    uint32_t entries; /* Chained by their links. */
    uint64_t count;   /* How many entries there are. */
    struct block *tables;
};

struct retired {
    ck_epoch_t epoch;
    ck_epoch_record_t record; /* Enters no read section; it only retires. */
    ck_epoch_entry_t grace;   /* Stands for the closed generation. */
    bool waits;               /* A generation is closed. */
    struct generation open, closed, ready;
};

void retired_init(struct retired *retired);

/* Frees the tables of all generations. Nothing else may be running. */
void retired_destroy(struct retired *retired, struct memory *memory);

/* Under the lock: retires an entry that is dead and no longer indexed. */
void retired_add(struct retired *retired, const struct arena *entries, uint32_t entry);

/*
 * Under the lock, at the end of a lock scope: retires the tables that the reserve was told to
 * defer.
 */
void retired_add_tables(struct retired *retired, struct reserve *reserve);

/*
 * Under the lock: advances by a step of bounded length. Entries whose grace period is over go to
 * the arena, tables to the reserve.
 */
void retired_reclaim(struct retired *retired, struct arena *entries, struct reserve *reserve);

/* Under the lock: the number of entries that are retired and not yet free. */
uint64_t retired_count(const struct retired *retired);

#endif
