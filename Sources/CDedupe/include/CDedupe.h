/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CDedupe: a buffer of keyed updates between a fast source and a slow sink.
 *
 * OVERVIEW
 *
 * The buffer is an in-order queue that holds at most one pending update per key. A new update for a queued
 * key takes the place of the old one. The source therefore never waits for the sink, what is in flight is
 * bounded by the number of keys, and an overloaded sink skips ahead to recent state. Statuses travel in the
 * same queue and keep their place between the updates. After a lost connection the buffer works out which
 * keys vanished and queues their deletions.
 *
 * TERMS
 *
 *   key       bytes, 0 to CDEDUPE_KEY_MAX of them; two keys are one if their bytes are equal
 *   update    a value for a key, or its deletion
 *   pending   queued and not yet taken
 *   live      a value of the key was taken, and no deletion of it has been taken since
 *   taken     moved out of the queue into a batch: committed, whatever happens afterwards, unless it is put back
 *   payload   what one update carries: a fixed number of bytes, never copied by this library, and read only at
 *             `revision_offset` and `weight_offset`, where these are used
 *   slot      the memory of one payload, named by a 32-bit handle; who holds the handle owns the payload
 *   batch     what one call of cdedupe_take() hands over
 *   sink      whoever takes batches; one at a time, the claim is explicit
 *
 * TWO LEVELS
 *
 *   Handles (cdedupe_*): acquire slots, construct payloads in place, put them under keys, get displaced
 *   handles back, destroy what is in them, release the slots. Nothing is copied.
 *   Bytes (cdedupe_bytes_*): put a key and a value as bytes, take a batch of the same. The values are copied
 *   in, and freed when the batch is released.
 *
 *     cdedupe_bytes_t *buffer;
 *     cdedupe_options_t options = cdedupe_options();
 *     if (cdedupe_bytes_create(&options, &buffer) != CDEDUPE_OK) ...
 *     cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, NULL);             any thread, any number of them
 *     cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC);
 *
 *     cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH);                   the one sink
 *     cdedupe_bytes_item_t items[100];
 *     size_t count;
 *     while (cdedupe_bytes_take(buffer, items, 100, &count) == CDEDUPE_OK)
 *         ...                                                          items are valid until the next take
 *     cdedupe_bytes_release(buffer);
 *     cdedupe_bytes_destroy(buffer);
 *
 * THREADING AND OWNERSHIP
 *
 *   function                               threads                     who owns what
 *   -------------------------------------  --------------------------  ------------------------------------
 *   cdedupe_create                         any                         the caller owns the buffer
 *   cdedupe_destroy                        one, nothing else running   the caller has emptied it first, see
 *                                                                      cdedupe_drain_next()
 *   cdedupe_acquire, cdedupe_discard       any, at once                handles: the buffer <-> the caller
 *   cdedupe_payload, cdedupe_payloads      the handle's owner          memory belongs to the handle's owner
 *   cdedupe_put                            any, at once                handles go in, others come out; keys
 *                                                                      are copied
 *   cdedupe_put_status, cdedupe_restart    any, at once                -
 *   cdedupe_collect                        any, at once                handles: the buffer -> the caller
 *   cdedupe_has_dropped                    any, at once                -
 *   cdedupe_claim, cdedupe_release         any, at once                the right to take
 *   cdedupe_take                           the claim's owner           handles: the buffer -> the caller; keys
 *                                                                      are lent until the next take or release
 *   cdedupe_put_back                         the claim's owner           handles: the caller -> the buffer, and some
 *                                                                      come back; keys are lent no longer
 *   cdedupe_stop, cdedupe_finish           any, at once                -
 *   cdedupe_statistics, cdedupe_validate,  any, at once                -
 *   cdedupe_age, cdedupe_result_text
 *   cdedupe_drain_next                  one, nothing else running   handles: the buffer -> the caller
 *
 * Functions of the plain level (cdedupe_bytes_...) are as those of the same names.
 *
 * Calls from several producers are ordered by the buffer; the updates of one call keep their order. One call
 * of cdedupe_put() with many updates need not be atomic towards the sink. No call waits for the sink, except that where
 * values are merged a put may yield to it for a moment. Calls that change the queue take a spinlock for a bounded number of
 * short steps; hooks (allocator, wake, clock, merge) never run under it, and neither does anything of the caller's.
 *
 * Signal handlers may not call any of this.
 */
#ifndef CDEDUPE_H
#define CDEDUPE_H

/* The version of this header, as https://semver.org has it. */
#define CDEDUPE_VERSION "0.1.0"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#define CDEDUPE_NULLABLE _Nullable
#define CDEDUPE_NONNULL _Nonnull
/* The header says everywhere what may be NULL; that clang spells it as an extension is meant. */
_Pragma("clang diagnostic push")
_Pragma("clang diagnostic ignored \"-Wnullability-extension\"")
_Pragma("clang assume_nonnull begin")
#else
#define CDEDUPE_NULLABLE
#define CDEDUPE_NONNULL
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------- */
/* Constants and plain types                                                                            */

/* Longest key, in bytes (64 KiB). */
#define CDEDUPE_KEY_MAX ((size_t)65536)

/* Largest payload, in bytes (64 KiB), and its largest alignment. */
#define CDEDUPE_PAYLOAD_MAX ((size_t)65536)
#define CDEDUPE_ALIGNMENT_MAX ((size_t)4096)

/* The largest weight of one payload; a larger one counts as this. See maximum_pending_bytes. */
#define CDEDUPE_WEIGHT_MAX ((uint64_t)1 << 48)

/* Largest batch. */
#define CDEDUPE_BATCH_MAX ((size_t)65536)

/* What a call came to. Every function that can fail returns one of these. */
typedef enum {
    CDEDUPE_OK = 0,           /* Done. */
    CDEDUPE_EMPTY,            /* Nothing is queued. */
    CDEDUPE_STOPPED,          /* The buffer was stopped, or it finished. */
    CDEDUPE_BUSY,             /* Somebody else holds the claim to take. */
    CDEDUPE_NO_MEMORY,        /* The allocator failed. What was not done can be tried again. */
    CDEDUPE_KEY_TOO_LONG,     /* A key is longer than CDEDUPE_KEY_MAX. */
    CDEDUPE_INVALID_ARGUMENT, /* An argument is outside its documented range; nothing was done. */
    CDEDUPE_NO_RANDOMNESS,    /* The system has no random bytes for the hash function's secret. */
    CDEDUPE_OVERFLOWED, /* A bound was exceeded: updates were dropped, and a restart is needed. */
    CDEDUPE_REENTRANT, /* Called from inside the merge callback of the same buffer; nothing was done. */
} cdedupe_result_t;

/* The progress of the source towards a complete picture. */
typedef enum {
    CDEDUPE_STATUS_WAIT_FOR_DATASTORE = 0, /* No connection yet. */
    CDEDUPE_STATUS_RESYNC_IN_PROGRESS,     /* A snapshot is being sent. */
    CDEDUPE_STATUS_IN_SYNC, /* The snapshot is complete; keys not seen in it are gone. */
} cdedupe_status_t;

/* Handle of a slot. Zero is no slot. */
typedef uint32_t cdedupe_slot_t;

/* The buffer. */
typedef struct cdedupe cdedupe_t;

/*
 * How a buffer is made. Get one from cdedupe_options() and change what you need; new members are added at
 * the end, and `size` tells the library which of them the caller knows.
 */
typedef struct {
    size_t size; /* Bytes of this struct as the caller was compiled; set by cdedupe_options(). */

    /*
     * Allocator hooks; both or neither. `allocate` returns zeroed memory of `size` bytes aligned to
     * `alignment` (a power of two), or NULL. `deallocate` gets the same size and alignment again. They
     * are called by any thread that is in a call of this buffer, never under a lock, and may not call this
     * buffer. NULL: the system's, with large blocks mapped and unmapped, so that memory goes back.
     */
    void *CDEDUPE_NULLABLE (*CDEDUPE_NULLABLE allocate)(void *CDEDUPE_NULLABLE context, size_t size,
                                                        size_t alignment);
    void (*CDEDUPE_NULLABLE deallocate)(void *CDEDUPE_NULLABLE context, void *memory, size_t size,
                                        size_t alignment);
    void *CDEDUPE_NULLABLE allocator_context;

    /*
     * Bytes and alignment of one payload. At most CDEDUPE_PAYLOAD_MAX and CDEDUPE_ALIGNMENT_MAX; the
     * alignment is a power of two. Default: one pointer.
     */
    size_t payload_size;
    size_t payload_alignment;

    /*
     * Seed of the hash function. Zero (the default): drawn from the system's random source, as it must be
     * where strangers choose the keys. Any other value makes runs repeatable, for tests.
     */
    uint64_t hash_seed;

    /*
     * Called when the queue becomes non-empty, or the buffer is stopped or finished, and the sink sleeps:
     * the last cdedupe_take() of a CDEDUPE_CLAIM_LOOP claim returned CDEDUPE_EMPTY. Called once per such sleep, by
     * the thread that caused it, with no lock held; it may call any function of this buffer except
     * cdedupe_destroy(). It must not wait for the sink.
     */
    void (*CDEDUPE_NULLABLE wake)(void *CDEDUPE_NULLABLE context);
    void *CDEDUPE_NULLABLE wake_context;

    /* Largest number of queue entries that one cdedupe_take() hands over, 1 to CDEDUPE_BATCH_MAX. Default: 100. */
    size_t batch_size;

    /*
     * After a restart the whole datastore comes again. If this is set, a value for a live key with nothing pending whose
     * revision is the one last taken is SUPPRESSED: the sink has it. It still counts as heard of. The revision is the
     * uint64_t in the machine's byte order at `revision_offset` of the payload; zero never equals. Takes 8 bytes more for
     * each key. Default: not set.
     */
    bool suppress_unchanged;
    size_t revision_offset;

    /*
     * Bounds of what is pending; zero (the default) is no bound. An update that would make one more key
     * pending, and would exceed a bound, overflows: the buffer drops all that is pending, as a restart
     * does. Until the next cdedupe_restart() it drops every update and ignores every status, and each
     * such call returns CDEDUPE_OVERFLOWED. Exactly one update gets the outcome OVERFLOWED; the caller
     * that gets it must have the source send everything again. An update that replaces a pending one is
     * never dropped for a bound; neither are the deletions that a resync synthesizes, nor what the sink
     * puts back. These may exceed a bound. The bytes are the sum of the uint64_t at `weight_offset` of
     * the pending payloads, of which each counts as at most CDEDUPE_WEIGHT_MAX. With a bound of bytes,
     * replacing takes the lock.
     */
    uint64_t maximum_pending_keys;
    uint64_t maximum_pending_bytes;
    size_t weight_offset;

    /*
     * Merges values. If this is set, a value for a key whose value is pending does not simply replace it: the buffer first calls
     * `merge` with both payloads. The callback makes `newer` hold what is to be pending, and may take from `older` whatever it
     * needs. Then `newer` takes the place of `older`, which comes back to the caller in `displaced`, to be destroyed. It is called
     * by cdedupe_put(), and by cdedupe_put_back() with the item's payload as `older` and the pending one as `newer`. Deletions,
     * and updates without a payload, are not merged.
     *
     * The thread that calls it holds a mutex of this buffer, and nothing else. Calls that put, put back, restart or collect wait
     * for that mutex, and so does the cdedupe_take() of a CDEDUPE_CLAIM_SINGLE_BATCH claim; that of a CDEDUPE_CLAIM_LOOP returns
     * CDEDUPE_EMPTY, and the loop is woken later. Called from inside the callback, these functions do nothing and return
     * CDEDUPE_REENTRANT; cdedupe_stop(), cdedupe_finish(), cdedupe_statistics(), and what acquires and discards slots, may
     * be called. If the buffer is stopped meanwhile, what was merged stays pending. Default: NULL, nothing is merged.
     */
    void (*CDEDUPE_NULLABLE merge)(void *CDEDUPE_NULLABLE context, void *older, void *newer);
    void *CDEDUPE_NULLABLE merge_context;

    /*
     * Nanoseconds of a clock that never goes back, from whatever beginning. Called by any thread that is in a call of this
     * buffer, never under a lock; may not call this buffer. NULL: the system's monotonic clock.
     */
    uint64_t (*CDEDUPE_NULLABLE clock)(void *CDEDUPE_NULLABLE context);
    void *CDEDUPE_NULLABLE clock_context;
} cdedupe_options_t;

/* Options with every default set, as the caller's compiler sees the struct. */
static inline cdedupe_options_t
cdedupe_options(void)
{
    cdedupe_options_t options;

    memset(&options, 0, sizeof(options));
    options.size = sizeof(options);
    options.payload_size = sizeof(void *);
    options.payload_alignment = sizeof(void *);
    options.batch_size = 100;
    return options;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Life                                                                                                 */

/*
 * Makes a buffer.
 *
 *   options   NULL for every default
 *   out       gets the buffer, or NULL on failure
 *
 * Returns CDEDUPE_OK, CDEDUPE_NO_MEMORY, CDEDUPE_NO_RANDOMNESS or CDEDUPE_INVALID_ARGUMENT (an option out of
 * range, or one hook of a pair). O(1); a fresh buffer takes a few kilobytes.
 */
cdedupe_result_t cdedupe_create(const cdedupe_options_t *CDEDUPE_NULLABLE options,
                                cdedupe_t *CDEDUPE_NULLABLE *CDEDUPE_NONNULL out);

/*
 * Frees the buffer's memory. Nothing else may be running in it or may call it afterwards. Payloads that are
 * still pending are not touched: if they need destruction, get them first, with cdedupe_drain_next().
 * NULL is nothing. O(memory / slab).
 */
void cdedupe_destroy(cdedupe_t *CDEDUPE_NULLABLE buffer);

/*
 * Hands out, one per call, the payloads that a buffer about to be destroyed still owns, in no particular
 * order. Nothing else may be running in the buffer, and after the first call only this function and
 * cdedupe_destroy() may be called.
 *
 *   cursor    points to zero before the first call
 *
 * Returns a handle that the caller now owns (no need to release it), or zero: there are no more. O(keys) for all calls
 * together.
 */
cdedupe_slot_t cdedupe_drain_next(cdedupe_t *buffer, uint64_t *cursor);

/* ---------------------------------------------------------------------------------------------------- */
/* Slots                                                                                                */

/*
 * Takes `count` free slots. All or none.
 *
 *   slots     gets `count` handles, owned by the caller; their memory is not initialised
 *
 * Returns CDEDUPE_OK or CDEDUPE_NO_MEMORY. O(count).
 */
cdedupe_result_t cdedupe_acquire(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t count);

/*
 * The memory of a slot: payload_size bytes, aligned as asked for. It stays where it is for as long as the
 * caller owns the handle. O(1), takes no lock.
 */
void *cdedupe_payload(const cdedupe_t *buffer, cdedupe_slot_t slot);

/* The same for `count` slots; NULL for zeros among them. O(count). */
void cdedupe_payloads(const cdedupe_t *buffer, const cdedupe_slot_t *slots, size_t count,
                      void *CDEDUPE_NULLABLE *CDEDUPE_NONNULL payloads);

/*
 * Gives slots back. What was in them has been destroyed or moved out by the caller. Zeros among the handles
 * are skipped. O(count).
 */
void cdedupe_discard(cdedupe_t *buffer, const cdedupe_slot_t *slots, size_t count);

/* ---------------------------------------------------------------------------------------------------- */
/* Source                                                                                               */

/* What became of one update. */
typedef enum {
    CDEDUPE_OUTCOME_UNTOUCHED =
        0, /* Not looked at: the call ended before it. The caller still owns `slot`. */
    CDEDUPE_OUTCOME_QUEUED, /* Went to the back of the queue. */
    CDEDUPE_OUTCOME_REPLACED, /* Took the place of the pending update of its key, now in `displaced`. */
    CDEDUPE_OUTCOME_CANCELLED, /* A deletion met a value that had never been taken: both are gone. */
    CDEDUPE_OUTCOME_DROPPED,   /* The buffer was stopped before. */
    CDEDUPE_OUTCOME_REJECTED, /* Not possible; the call's result says why. The caller still owns `slot`. */
    CDEDUPE_OUTCOME_SUPPRESSED, /* The sink has it already; see suppress_unchanged. */
    CDEDUPE_OUTCOME_OVERFLOWED, /* Dropped, and with it all that was pending; see maximum_pending_keys. */
} cdedupe_outcome_t;

/* One update on its way in. */
typedef struct {
    const void *CDEDUPE_NULLABLE key; /* May be NULL if the length is zero. Copied where needed. */
    size_t key_length;                /* Bytes. */
    /*
     * In: the payload; zero if there is none. Out: the handle if it came back to the caller (every outcome
     * but QUEUED and REPLACED), else zero.
     */
    cdedupe_slot_t slot;
    cdedupe_slot_t
        displaced; /* Out: the handle of an older payload that now belongs to the caller, or zero. */
    bool deletion;   /* True: the key is gone. A deletion may carry a payload or none. */
    uint8_t outcome; /* Out: a cdedupe_outcome_t. */
} cdedupe_update_t;

/*
 * Puts updates under their keys, in order.
 *
 *   updates   `count` of them; `slot`, `displaced` and `outcome` are written for each
 *
 * For each update:
 *
 *   update     pending     live     what happens                                          outcome
 *   ---------  ----------  -------  ----------------------------------------------------  ---------
 *   value      no          either   to the back of the queue                              QUEUED
 *   value      yes         either   replaces the pending update, which keeps its place    REPLACED
 *   deletion   no          either   to the back of the queue                              QUEUED
 *   deletion   a value     yes      replaces the value, in its place                      REPLACED
 *   deletion   a value     no       the key leaves the queue                              CANCELLED
 *   deletion   a deletion  either   one deletion, in its place                            REPLACED
 *
 * `displaced` of an update that was REPLACED or CANCELLED is the older payload of its key, if that had one. After a
 * restart, a payload that the restart dropped, of whatever key, may come back in `displaced` of an update that was QUEUED or
 * SUPPRESSED; so may, after putting back, that of a deletion which was cancelled.
 * On a stopped buffer every update whose key is not too long is DROPPED, and on one that has overflowed.
 *
 * Returns CDEDUPE_OK if every update was put, or dropped because the buffer was stopped; CDEDUPE_OVERFLOWED if an
 * update overflowed, or was dropped because the buffer has overflowed; CDEDUPE_KEY_TOO_LONG or CDEDUPE_NO_MEMORY if one could not
 * be: it is REJECTED, and those after it are UNTOUCHED; CDEDUPE_REENTRANT, and the first is REJECTED. Those before it are done,
 * and the call can be repeated from any that is not. O(count), expected, plus
 * the lengths of the keys.
 */
cdedupe_result_t cdedupe_put(cdedupe_t *buffer, cdedupe_update_t *updates, size_t count);

/*
 * Puts a status. A status that equals the latest one received is dropped, unless it is the
 * CDEDUPE_STATUS_IN_SYNC that ends a resync. Otherwise it overwrites a status that is last in the queue, or
 * goes to the back of the queue.
 *
 * The first CDEDUPE_STATUS_IN_SYNC after a restart ends the resync. Before it, it queues a deletion for each
 * key that was live at the restart, still is, and was not seen since. The order of these deletions is not
 * specified.
 *
 * Returns CDEDUPE_OK; CDEDUPE_STOPPED (ignored); CDEDUPE_OVERFLOWED (ignored, see maximum_pending_keys);
 * CDEDUPE_REENTRANT; CDEDUPE_NO_MEMORY: the status was not queued, deletions that were
 * queued stay, and the call can be repeated; CDEDUPE_INVALID_ARGUMENT. O(1), and O(keys) for the first
 * CDEDUPE_STATUS_IN_SYNC after a restart, in short steps that let others in.
 */
cdedupe_result_t cdedupe_put_status(cdedupe_t *buffer, cdedupe_status_t status);

/*
 * The source lost its connection and will send everything again. Whatever is pending is dropped; the keys
 * that are live now are unseen until an update for them arrives. A batch that was taken is not disturbed.
 * Dropped payloads come back through cdedupe_put() and cdedupe_collect().
 *
 * Returns CDEDUPE_OK, CDEDUPE_STOPPED (ignored) or CDEDUPE_REENTRANT. O(1).
 */
cdedupe_result_t cdedupe_restart(cdedupe_t *buffer);

/*
 * Clears up after restarts: hands back payloads that a restart dropped. Call it after a restart and from
 * time to time, until it finds nothing; cdedupe_has_dropped() tells cheaply. Until then they take memory: one for each key
 * that was pending, at each restart since the last time that nothing was found.
 *
 *   slots     room for `capacity` handles
 *   count     gets the number of handles that now belong to the caller
 *
 * Returns CDEDUPE_OK if something was cleared up (also if count is zero), CDEDUPE_EMPTY if nothing is left, CDEDUPE_REENTRANT.
 * Does at most `capacity` steps, O(capacity).
 */
cdedupe_result_t cdedupe_collect(cdedupe_t *buffer, cdedupe_slot_t *slots, size_t capacity,
                                 size_t *count);

/* Whether cdedupe_collect() has something to do. A hint: takes no lock. O(1). */
bool cdedupe_has_dropped(const cdedupe_t *buffer);

/* ---------------------------------------------------------------------------------------------------- */
/* Sink                                                                                                 */

/* How a claim's owner means to take. */
typedef enum {
    CDEDUPE_CLAIM_SINGLE_BATCH =
        0, /* A batch now and then. Never woken; cdedupe_finish() does not wait for it. */
    CDEDUPE_CLAIM_LOOP, /* Until the end: sleeps when there is nothing, is woken by the hook. */
} cdedupe_claim_t;

/*
 * Claims the right to take.
 *
 * Returns CDEDUPE_OK; CDEDUPE_STOPPED; CDEDUPE_BUSY if it is claimed already, by whomever. O(1).
 */
cdedupe_result_t cdedupe_claim(cdedupe_t *buffer, cdedupe_claim_t kind);

/*
 * Ends the claim, and with it the loan of the last batch's keys. Where cdedupe_finish() waits for this loop, the buffer
 * stops. O(size of the last batch).
 */
void cdedupe_release(cdedupe_t *buffer);

/* What an item of a batch is. */
typedef enum {
    CDEDUPE_ITEM_NEW = 0, /* A value of a key that was not live. */
    CDEDUPE_ITEM_UPDATED, /* A value of a key that was. */
    CDEDUPE_ITEM_DELETED, /* The key is gone. */
    CDEDUPE_ITEM_STATUS,
} cdedupe_item_kind_t;

/* One item of a batch. */
typedef struct {
    const void *CDEDUPE_NULLABLE key; /* Lent until the next take or release. NULL for a status. */
    size_t key_length;
    cdedupe_slot_t slot; /* The payload, now the caller's; zero for a deletion that carries none. */
    uint8_t kind;        /* A cdedupe_item_kind_t. */
    uint8_t status;      /* A cdedupe_status_t, if the kind is CDEDUPE_ITEM_STATUS. */
    uint8_t
        before; /* For cdedupe_put_back(): whether the key was live, or the status that was taken before; */
    uint32_t queued;   /* when it was queued, for cdedupe_age() too; */
    uint64_t revision; /* and the revision that was taken before. */
} cdedupe_item_t;

/*
 * Takes the next batch, in the order of the queue: of what is queued when the call begins, so that no key is in a batch
 * twice. The caller holds the claim.
 *
 *   items     room for `capacity` items
 *   capacity  1 or more; at most the buffer's batch size of them are filled
 *   count     gets how many
 *
 * Returns CDEDUPE_OK with 1 or more items; CDEDUPE_EMPTY if nothing is queued, and for a CDEDUPE_CLAIM_LOOP also while another
 * thread merges (a CDEDUPE_CLAIM_LOOP then counts as asleep, until the hook is called or it takes again); CDEDUPE_STOPPED if the
 * buffer was stopped, or finished and has delivered what it owed; CDEDUPE_REENTRANT; CDEDUPE_INVALID_ARGUMENT if nobody holds the
 * claim. O(batch).
 */
cdedupe_result_t cdedupe_take(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity,
                              size_t *count);

/*
 * Takes the next batch, and waits for it if the queue is empty: for programs whose loop has a thread of its
 * own. The caller holds a CDEDUPE_CLAIM_LOOP claim. Other parameters and results are those of cdedupe_take().
 *
 *   timeout_ms   how long to wait at most, in milliseconds; 0 does not wait, a negative value waits forever
 *
 * Returns CDEDUPE_EMPTY if the time has passed, CDEDUPE_STOPPED if the buffer was stopped or has finished,
 * CDEDUPE_INVALID_ARGUMENT if the claim is not a loop's. The wake callback, if there is one, is called too.
 * Any thread may end the wait by cdedupe_stop() or cdedupe_finish().
 */
cdedupe_result_t cdedupe_take_wait(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity,
                                   size_t *count, int64_t timeout_ms);

/*
 * The age of an item's place in the queue: milliseconds since its key was queued, rounded down, for ages
 * up to 49 days. A key's place keeps its age when its update is replaced or put back. O(1).
 */
uint32_t cdedupe_age(const cdedupe_t *buffer, const cdedupe_item_t *item);

/*
 * Gives back what the sink could not deal with, as if it had never been taken: it is at the front of the queue again, in
 * the same order, and liveness and the latest status taken are as before. If something newer is pending for a key, that
 * gets the place, and counts as having replaced the item. Statuses merge by the usual rule. If there was a restart since,
 * the items are dropped, as if they had been pending then: deletions are owed at the next in-sync, or, if that has come,
 * are at the front of the queue.
 *
 *   items    the last items of the last batch, in its order, unchanged, with their payloads in their slots. Of each, `slot`
 *            gets the handle if it came back to the caller (something newer is pending, or a restart dropped it), else
 *            zero: it is the queue's again. If values are merged, and a newer one is pending with no
 *            deletion between them, that becomes what was made of both
 *   count    how many; gets how many of them are still to be put back: zero unless memory ran out. It goes from the last
 *            to the first
 *
 * The caller holds the claim, and has not called cdedupe_take() since, whatever that returned. The keys of what was put back
 * are lent no longer. A deletion that carries a payload and is cancelled by this leaves it to cdedupe_put() and
 * cdedupe_collect(), as a restart does. A finish waits for what went back; if it had stopped the buffer, having been all
 * delivered, it goes on. On a buffer that cdedupe_stop() stopped, items become leftovers.
 *
 * What came in between was dealt with by what was true then, so traces are possible that leave the sink right: a second
 * deletion, or one of a key that it has not got; and after a restart, of the statuses received since only the latest is
 * certain to come, perhaps later than its place, or again.
 *
 * Returns CDEDUPE_OK; CDEDUPE_NO_MEMORY: the call can be repeated; CDEDUPE_REENTRANT; CDEDUPE_INVALID_ARGUMENT if nobody holds the claim, or the last batch has not so many
 * items left. O(count).
 */
cdedupe_result_t cdedupe_put_back(cdedupe_t *buffer, cdedupe_item_t *items, size_t *count);

/* ---------------------------------------------------------------------------------------------------- */
/* The end                                                                                              */

/*
 * Stops: nothing is taken any more, what comes in is dropped, what is pending stays until the buffer is
 * destroyed. Wakes a sleeping loop. Can be repeated; cannot be undone. O(1).
 */
void cdedupe_stop(cdedupe_t *buffer);

/* When a finishing buffer stops. */
typedef enum {
    CDEDUPE_FINISH_WHEN_DELIVERED =
        0,                     /* When what was queued at the time of the call has been taken. */
    CDEDUPE_FINISH_WHEN_EMPTY, /* When a take finds the queue empty. */
} cdedupe_finish_t;

/*
 * Lets the loop deliver what is queued, then stops. Without a CDEDUPE_CLAIM_LOOP claim it stops at once. Never waits:
 * the loop's cdedupe_take() returns CDEDUPE_STOPPED when it is done.
 *
 * Returns CDEDUPE_OK if a loop has still to find out, CDEDUPE_STOPPED if there is no loop. Repeated, what
 * was queued at the time of the last call is owed, and WHEN_DELIVERED prevails; but for a call that comes when all that
 * an earlier one owed has been taken. O(1).
 */
cdedupe_result_t cdedupe_finish(cdedupe_t *buffer, cdedupe_finish_t when);

/* ---------------------------------------------------------------------------------------------------- */
/* Inspection                                                                                           */

/*
 * Counters. Each snapshot is exact:
 *   received + synthesized_deletions = delivered + replaced + cancelled + suppressed + dropped + pending_keys
 */
typedef struct {
    uint64_t pending_keys;      /* Updates in the queue now. */
    uint64_t pending_statuses;  /* Statuses in the queue now; at most pending_keys + 1. */
    uint64_t peak_pending_keys; /* The most updates that the queue ever held. */
    uint64_t live_keys;         /* Keys that are live now. */
    uint64_t received;          /* Updates that came in, rejected ones not counted. */
    uint64_t delivered;         /* Updates taken, and not put back: this may go down. */
    uint64_t replaced;          /* Updates that a newer one displaced. */
    uint64_t cancelled;         /* Values that never left, and the deletions that met them. */
    uint64_t dropped;           /* Updates dropped by a restart, an overflow or after the stop. */
    uint64_t synthesized_deletions; /* Deletions that a resync found to be owed. */
    uint64_t statuses_received;
    uint64_t statuses_delivered; /* Statuses taken, and not put back: this may go down. */
    uint64_t batches;            /* Batches taken, put back ones too. */
    uint64_t memory;             /* Bytes held from the allocator. */
    uint64_t suppressed;         /* Values that the sink had already. */
    uint64_t overflows;          /* How often a bound was exceeded. */
    uint64_t
        pending_bytes; /* The sum of the pending payloads' weights; zero without a bound of bytes. */
    uint64_t
        oldest_pending_age; /* Milliseconds, as from cdedupe_age(), of the first update in the queue. */
    uint64_t overflowed; /* 1 from an overflow to the restart that ends it, else 0. */
    uint64_t stopped;    /* 1 if nothing is taken any more, else 0. */
} cdedupe_statistics_t;

/*
 * Copies the counters.
 *
 *   size      sizeof(cdedupe_statistics_t) as the caller was compiled
 *
 * O(1).
 */
void cdedupe_statistics(cdedupe_t *buffer, cdedupe_statistics_t *out, size_t size);

/*
 * Checks every invariant of the buffer, in any build: the queue and its links, index, words, free lists and
 * counters; and who owns which slot, if nothing is replaced meanwhile (that goes on under the lock). Holds the lock for
 * O(keys): for tests and for finding faults, not for production paths.
 *
 * Returns NULL if all hold, else a static text that names the first that does not.
 */
const char *CDEDUPE_NULLABLE cdedupe_validate(cdedupe_t *buffer);

/* A static English text for a result, without a full stop. O(1). */
const char *cdedupe_result_text(cdedupe_result_t result);

/* ---------------------------------------------------------------------------------------------------- */
/* Bytes: the plain level                                                                               */

/*
 * The plain level is for callers whose values are plain bytes. It copies keys and values in, lends them
 * out with a batch, and frees them. There are no slots to look after.
 *
 * Values of up to 48 bytes lie in the buffer's payloads, longer ones in a store of the plain level. That
 * store uses the allocator of the options, and its memory counts in cdedupe_statistics_t.memory. When a
 * value is freed its memory can go back to the allocator: at once if the value is longer than 64 KiB, else
 * when the values that share its slab are gone. Half a MiB of empty slabs is kept for later values, and one
 * empty slab of a size that is in use.
 *
 * cdedupe_bytes_restart() frees nothing, and neither does a put that overflows. What they dropped is freed
 * in steps by later calls: 8 updates by each cdedupe_bytes_put() and cdedupe_bytes_delete(), 64 by each
 * cdedupe_bytes_put_status(), cdedupe_bytes_take() and cdedupe_bytes_put_back(). CDEDUPE_STATUS_IN_SYNC frees
 * all that is left, so a buffer that is idle after a resync holds nothing that was dropped. Until a later
 * call comes the memory stays; cdedupe_bytes_destroy() frees it too.
 *
 * Threads: as for the functions of the same names without "bytes"; see the table at the top.
 */
typedef struct cdedupe_bytes cdedupe_bytes_t;

/*
 * Makes a buffer whose values are bytes.
 *
 *   options   as for cdedupe_create(). Layout and offsets of payloads are ignored. With
 *             `suppress_unchanged` the revision of cdedupe_bytes_put() counts, and with
 *             `maximum_pending_bytes` a value weighs its length. NULL for every default
 *   out       gets the buffer, or NULL on failure
 *
 * Returns as cdedupe_create(); CDEDUPE_INVALID_ARGUMENT also if `merge` is set. O(batch size).
 */
cdedupe_result_t cdedupe_bytes_create(const cdedupe_options_t *CDEDUPE_NULLABLE options,
                                      cdedupe_bytes_t *CDEDUPE_NULLABLE *CDEDUPE_NONNULL out);

/* Frees everything, pending values included. Nothing else may be running in the buffer. NULL is nothing. O(keys). */
void cdedupe_bytes_destroy(cdedupe_bytes_t *CDEDUPE_NULLABLE buffer);

/*
 * Puts a value under a key.
 *
 *   key, value   copied; may be NULL if the length is zero. Values may be of any length
 *   revision     carried along; read only if `suppress_unchanged` is set; zero: none
 *   outcome      if not NULL, gets what became of the update
 *
 * Returns CDEDUPE_OK, also if a stopped buffer dropped the update; CDEDUPE_OVERFLOWED as cdedupe_put();
 * CDEDUPE_KEY_TOO_LONG or CDEDUPE_NO_MEMORY: the outcome is CDEDUPE_OUTCOME_REJECTED, and nothing has
 * changed. Expected O(lengths). Any thread may call this at any time.
 */
cdedupe_result_t cdedupe_bytes_put(cdedupe_bytes_t *buffer, const void *CDEDUPE_NULLABLE key,
                                   size_t key_length, const void *CDEDUPE_NULLABLE value,
                                   size_t value_length, uint64_t revision,
                                   cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/* Puts the deletion of a key; else as cdedupe_bytes_put(). */
cdedupe_result_t cdedupe_bytes_delete(cdedupe_bytes_t *buffer, const void *CDEDUPE_NULLABLE key,
                                      size_t key_length, uint64_t revision,
                                      cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/*
 * As cdedupe_put_status(). Also frees what restarts and overflows dropped: all of it if the status is
 * CDEDUPE_STATUS_IN_SYNC, in O(dropped updates), in short steps that let others in.
 */
cdedupe_result_t cdedupe_bytes_put_status(cdedupe_bytes_t *buffer, cdedupe_status_t status);

/* As cdedupe_restart(). Frees nothing: later calls do. O(1). */
cdedupe_result_t cdedupe_bytes_restart(cdedupe_bytes_t *buffer);

/* As the functions of the same names above. */
cdedupe_result_t cdedupe_bytes_claim(cdedupe_bytes_t *buffer, cdedupe_claim_t kind);
void cdedupe_bytes_release(cdedupe_bytes_t *buffer);
void cdedupe_bytes_stop(cdedupe_bytes_t *buffer);
cdedupe_result_t cdedupe_bytes_finish(cdedupe_bytes_t *buffer, cdedupe_finish_t when);
void cdedupe_bytes_statistics(cdedupe_bytes_t *buffer, cdedupe_statistics_t *out, size_t size);
const char *CDEDUPE_NULLABLE cdedupe_bytes_validate(cdedupe_bytes_t *buffer);

/* One item of a batch. */
typedef struct {
    const void *CDEDUPE_NULLABLE key; /* Lent, as the value, until the next take or release. */
    size_t key_length;
    const void *CDEDUPE_NULLABLE value; /* NULL for a deletion and for a status. */
    size_t value_length;
    uint64_t revision; /* Zero: none. */
    uint8_t kind;      /* A cdedupe_item_kind_t. */
    uint8_t status;    /* A cdedupe_status_t, if the kind is CDEDUPE_ITEM_STATUS. */
} cdedupe_bytes_item_t;

/*
 * Takes the next batch, as cdedupe_take(). Keys and values of the batch before are freed.
 */
cdedupe_result_t cdedupe_bytes_take(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items,
                                    size_t capacity, size_t *count);

/* As cdedupe_put_back(), for the last `*count` items of the last batch; their keys and values are lent no longer. */
cdedupe_result_t cdedupe_bytes_put_back(cdedupe_bytes_t *buffer, size_t *count);

#ifdef __cplusplus
}
#endif

#if defined(__clang__)
_Pragma("clang assume_nonnull end")
_Pragma("clang diagnostic pop")
#endif

#endif /* CDEDUPE_H */
