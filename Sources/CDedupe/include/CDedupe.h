/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file CDedupe.h
 * @page cdedupe A buffer of keyed updates between a fast source and a slow sink
 *
 * The buffer is an in-order queue that holds at most one pending update per key. A new update for a
 * queued key takes the place of the old one. The source therefore never waits for the sink, the
 * number of updates in flight is bounded by the number of keys, and an overloaded sink skips ahead
 * to recent state. Statuses travel in the same queue and keep their place between the updates.
 * After a lost connection the buffer works out which keys vanished, and queues their deletions.
 *
 * Terms
 * -----
 *
 *     key       bytes, 0 to CDEDUPE_KEY_MAX of them; two keys are one if their bytes are equal
 *     update    a value for a key, or the deletion of a key
 *     pending   queued, and not yet taken
 *     live      a value of the key was taken, and no deletion of the key has been taken since
 *     taken     moved out of the queue into a batch; the buffer counts it as delivered, unless the
 *               sink puts it back
 *     payload   the caller's data of one update: a fixed number of bytes. The library never copies
 *               a payload. It reads one only at revision_offset and weight_offset, if these are
 *               used
 *     slot      the memory of one payload, named by a 32-bit handle; the holder of the handle owns
 *               the payload
 *     pin       a 32-bit name of a key that cdedupe_put() need not look up
 *     batch     the items that one call of cdedupe_take() hands over
 *     sink      the code that takes batches; one at a time, by a claim
 *     producer  a thread that puts updates, statuses or restarts
 *
 * Two levels
 * ----------
 *
 * Handles (cdedupe_...): the caller acquires slots, constructs payloads in them, puts them under
 * keys, gets displaced handles back, destroys what is in them, and discards the slots. The library
 * copies keys, and never copies a payload.
 *
 * Bytes (cdedupe_bytes_...): the caller puts keys and values as bytes and takes batches of the
 * same. The library copies keys and values in, and frees them when the batch is released.
 *
 *     cdedupe_bytes_t *buffer;
 *     cdedupe_bytes_item_t items[100];
 *     size_t count;
 *
 *     if (cdedupe_bytes_create(NULL, &buffer) != CDEDUPE_OK) ...
 *     cdedupe_bytes_put(buffer, "a", 1, "1", 1, 0, NULL);          (any thread)
 *     cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC);
 *
 *     cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_LOOP);             (the sink's thread)
 *     while (cdedupe_bytes_take_wait(buffer, items, 100, &count, -1) == CDEDUPE_OK)
 *         ...                                                      (valid until the next take)
 *     cdedupe_bytes_release(buffer);
 *     cdedupe_bytes_destroy(buffer);
 *
 * Threads and ownership
 * ---------------------
 *
 *     function                        threads               ownership
 *     ------------------------------  --------------------  ------------------------------------
 *     cdedupe_create                  any                   the caller owns the buffer
 *     cdedupe_destroy                 one, no other call    the caller first drains payloads that
 *                                     is running            need destruction: cdedupe_drain_next()
 *     cdedupe_acquire                 any, at any time      handles: buffer -> caller
 *     cdedupe_discard                 any, at any time      handles: caller -> buffer
 *     cdedupe_payload, _payloads      the handle's owner    memory belongs to the handle's owner
 *     cdedupe_put                     any, at any time      handles go in, and others come out;
 *                                                           keys are copied
 *     cdedupe_single_begin, _put,     any, at any time      as cdedupe_put, with payloads for
 *     _end                                                  handles
 *     cdedupe_pin                     any, at any time      the key is copied; the pin: buffer ->
 *                                                           caller
 *     cdedupe_unpin                   any, at any time,     the pin: caller -> buffer
 *                                     but not while a put
 *                                     by this pin runs
 *     cdedupe_put_status, _restart    any, at any time      -
 *     cdedupe_collect                 any, at any time      handles: buffer -> caller
 *     cdedupe_has_dropped             any, at any time      -
 *     cdedupe_claim                   any, at any time      the right to take: buffer -> caller
 *     cdedupe_release                 the claim's owner     the right to take: caller -> buffer
 *     cdedupe_take, _take_wait        the claim's owner     handles: buffer -> caller; the sink
 *                                                           borrows a key until its next take or
 *                                                           release, or until it puts that item
 *                                                           back
 *     cdedupe_put_back                the claim's owner     handles: caller -> buffer, and some
 *                                                           come back
 *     cdedupe_stop, _finish           any, at any time      -
 *     cdedupe_statistics, _validate,  any, at any time      -
 *     _age, _result_text
 *     cdedupe_drain_next              one, no other call    handles: buffer -> caller
 *                                     is running
 *
 * A function cdedupe_bytes_... follows the threads column of the function without "bytes". It
 * copies keys and values in, lends them with a batch, and frees them. Its destroy needs no drain.
 *
 * The buffer orders the calls of several producers; the updates of one call keep their order. A
 * call of cdedupe_put() with many updates need not be atomic towards the sink: the sink may take
 * some of them before the others are put.
 *
 * No call waits for the sink's work. A put into a merging buffer may let a waiting cdedupe_take()
 * or cdedupe_put_back() go first. A put that adds keys may wait until other puts have left their
 * look-ups. A call that changes the queue takes a spinlock for a bounded number of short steps.
 * User callbacks (allocator, wake, clock, merge) never run under that spinlock, and neither does
 * any other code of the caller's.
 *
 * A count of zero is allowed, and then the array may be NULL. Only cdedupe_take(),
 * cdedupe_take_wait() and their forms for bytes need room for one item at least.
 *
 * Signal handlers must not call any function of this library.
 *
 * After fork() the child has a copy of each buffer. If no other thread was inside a call of the
 * buffer at the time of the fork, the child may use and destroy its copy; otherwise a lock may be
 * held forever in the copy, and the child must not touch it. Parent and child do not see each
 * other's changes.
 */
#ifndef CDEDUPE_H
#define CDEDUPE_H

/** The version of this header, as https://semver.org defines it. */
#define CDEDUPE_VERSION "0.1.0"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__clang__)
#define CDEDUPE_NULLABLE _Nullable
#define CDEDUPE_NONNULL _Nonnull
/* The header states for each pointer whether it may be NULL; clang calls that an extension. */
_Pragma("clang diagnostic push")
_Pragma("clang diagnostic ignored \"-Wnullability-extension\"")
_Pragma("clang assume_nonnull begin")
#else
/** Marks a pointer that may be NULL. */
#define CDEDUPE_NULLABLE
/** Marks a pointer that must not be NULL. */
#define CDEDUPE_NONNULL
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_types Results, handles and limits
 * @{
 */

/** The longest key, in bytes (64 KiB). */
#define CDEDUPE_KEY_MAX ((size_t)65536)

/** The largest payload, in bytes (64 KiB). */
#define CDEDUPE_PAYLOAD_MAX ((size_t)65536)

/** The largest alignment of a payload. */
#define CDEDUPE_ALIGNMENT_MAX ((size_t)4096)

/** The most pins that one key can have at a time. */
#define CDEDUPE_PINS_MAX ((uint32_t)16383)

/** The largest batch. */
#define CDEDUPE_BATCH_MAX ((size_t)65536)

/** The largest weight of one payload; a larger one counts as this. See maximum_pending_bytes. */
#define CDEDUPE_WEIGHT_MAX ((uint64_t)1 << 48)

/** The result of a call. Every function that can fail returns one of these. */
typedef enum {
    CDEDUPE_OK = 0,    /**< Done. */
    CDEDUPE_EMPTY,     /**< Nothing is queued. */
    CDEDUPE_STOPPED,   /**< The buffer was stopped, or has finished. */
    CDEDUPE_BUSY,      /**< Another sink holds the claim. */
    CDEDUPE_NO_MEMORY, /**< The allocator failed. The part that was not done can be tried again. */
    CDEDUPE_KEY_TOO_LONG,     /**< A key is longer than CDEDUPE_KEY_MAX. */
    CDEDUPE_INVALID_ARGUMENT, /**< An argument is outside its documented range; nothing was done. */
    CDEDUPE_NO_RANDOMNESS,    /**< The system has no random bytes for the hash function's secret. */
    CDEDUPE_OVERFLOWED,       /**< A bound was exceeded: updates are dropped until a restart. */
    CDEDUPE_REENTRANT,     /**< Called from inside the buffer's merge callback; nothing was done. */
    CDEDUPE_TOO_MANY_PINS, /**< The key has CDEDUPE_PINS_MAX pins already. */
} cdedupe_result_t;

/** The progress of the source towards a complete picture. */
typedef enum {
    CDEDUPE_STATUS_WAIT_FOR_DATASTORE = 0, /**< No connection yet. */
    CDEDUPE_STATUS_RESYNC_IN_PROGRESS,     /**< A snapshot is being sent. */
    CDEDUPE_STATUS_IN_SYNC, /**< The snapshot is complete; keys not seen in it are gone. */
} cdedupe_status_t;

/** The handle of a slot. Zero is no slot. */
typedef uint32_t cdedupe_slot_t;

/** The handle of a pin: a faster name of a key, see cdedupe_pin(). Zero is no pin. */
typedef uint32_t cdedupe_pin_t;

/** A buffer. */
typedef struct cdedupe cdedupe_t;

/** A static English text for a result, without a full stop. O(1). */
const char *cdedupe_result_text(cdedupe_result_t result);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_configuration Options
 * @{
 */

/**
 * The options of a buffer. Get them from cdedupe_options_init() and change the members that you
 * need. Later versions add members at the end; `size` tells the library which of them the caller
 * knows.
 */
typedef struct {
    /** Bytes of this struct as the caller was compiled. cdedupe_options_init() sets it. */
    size_t size;

    /**
     * Allocates zeroed memory of `size` bytes, aligned to `alignment` (a power of two), or returns
     * NULL. Set both `allocate` and `deallocate`, or neither. Any thread that is inside a call of
     * this buffer calls them, never under the spinlock; they must not call this buffer. By default
     * the library uses the system's allocator, and maps large blocks one by one, so that memory
     * goes back to the system. If the system refuses to unmap a block, because the process has too
     * many mappings, the block's memory goes back all the same. Only its addresses stay in use.
     */
    void *CDEDUPE_NULLABLE (*CDEDUPE_NULLABLE allocate)(void *CDEDUPE_NULLABLE context, size_t size,
                                                        size_t alignment);
    /** Frees memory of `allocate`; `size` and `alignment` are the same as there. */
    void (*CDEDUPE_NULLABLE deallocate)(void *CDEDUPE_NULLABLE context, void *memory, size_t size,
                                        size_t alignment);
    /** The first argument of both. */
    void *CDEDUPE_NULLABLE allocator_context;

    /** Bytes of one payload, at most CDEDUPE_PAYLOAD_MAX. Default: one pointer. */
    size_t payload_size;
    /**
     * Alignment of one payload: a power of two, at most CDEDUPE_ALIGNMENT_MAX. Default: a
     * pointer's.
     */
    size_t payload_alignment;

    /**
     * The seed of the hash function. Zero (the default) draws a secret from the system's random
     * source; this is necessary where untrusted peers choose the keys. Any other value makes a run
     * with one thread repeatable, for tests.
     */
    uint64_t hash_seed;

    /**
     * The wake callback. A loop waits for it after its cdedupe_take() returned CDEDUPE_EMPTY. The
     * buffer calls it when something can be taken again, or when the buffer stops or finishes. The
     * thread that caused the change calls it once per such wait, with no lock held and never inside
     * the merge callback. It may call any function of this buffer except cdedupe_destroy(). It must
     * not wait for the sink. A sink that uses cdedupe_take_wait() needs none.
     */
    void (*CDEDUPE_NULLABLE wake)(void *CDEDUPE_NULLABLE context);
    /** The argument of `wake`. */
    void *CDEDUPE_NULLABLE wake_context;

    /** The largest batch, 1 to CDEDUPE_BATCH_MAX items. Default: 100. */
    size_t batch_size;

    /**
     * Drops values that the sink has already. After a restart the source sends the whole datastore
     * again. If this is set, a value for a live key with nothing pending gets the outcome
     * CDEDUPE_OUTCOME_SUPPRESSED if its revision equals the revision last taken. The key still
     * counts as seen. The revision is the uint64_t in the machine's byte order at `revision_offset`
     * of the payload; a revision of zero never equals another. Takes 8 bytes more per key. Default:
     * not set.
     */
    bool suppress_unchanged;
    /** Where in a payload the revision lies. */
    size_t revision_offset;

    /**
     * A bound of pending keys; zero (the default) is no bound. An update that would make one more
     * key pending, and would exceed a bound, overflows: the buffer drops everything that is
     * pending, as a restart does. Until the next cdedupe_restart() the buffer drops every update
     * and ignores every status, and each such call returns CDEDUPE_OVERFLOWED. Exactly one update
     * gets the outcome CDEDUPE_OUTCOME_OVERFLOWED; the caller that gets it must have the source
     * send everything again.
     *
     * An update that replaces a pending one is never dropped for a bound. Neither are the deletions
     * that a resync synthesizes, nor the items that the sink puts back. These may exceed a bound.
     */
    uint64_t maximum_pending_keys;
    /**
     * A bound of pending bytes: of the sum of the uint64_t at `weight_offset` of the pending
     * payloads. Each weight counts as at most CDEDUPE_WEIGHT_MAX. With this bound, replacing takes
     * the lock. The sum wraps at 2^64, which fewer than 65,536 pending payloads cannot reach. Zero
     * (the default) is no bound.
     */
    uint64_t maximum_pending_bytes;
    /** Where in a payload the weight lies. */
    size_t weight_offset;

    /**
     * Merges values. If this is set, a value for a key whose value is pending does not simply
     * replace that value. The buffer first calls `merge` with both payloads. The callback makes
     * `newer` hold the merged value, and may move parts out of `older`. Then `newer` takes the
     * place of `older`, and `older` comes back to the caller in `displaced`, to be destroyed.
     *
     * cdedupe_put() calls it, and cdedupe_put_back() calls it with the item's payload as `older`
     * and the pending one as `newer`. Deletions are not merged, and no value is merged across a
     * deletion or a restart.
     *
     * The thread that calls it holds a mutex of this buffer, and no other lock. cdedupe_put(),
     * _put_status(), _put_back(), _restart(), _collect(), _pin(), _unpin() and _validate() wait for
     * that mutex, and so does the cdedupe_take() of a CDEDUPE_CLAIM_SINGLE_BATCH claim. The
     * cdedupe_take() of a CDEDUPE_CLAIM_LOOP claim never waits: it returns CDEDUPE_EMPTY, and the
     * loop is woken later. So a merge must be short.
     *
     * From inside the callback, the functions that wait for this mutex, and cdedupe_take() and
     * cdedupe_take_wait(), change nothing and return CDEDUPE_REENTRANT; cdedupe_validate() returns
     * a text. The callback may call cdedupe_stop(), cdedupe_finish(), cdedupe_statistics(),
     * cdedupe_acquire() and cdedupe_discard(). If the buffer is stopped during a merge, the merged
     * value stays pending. NULL (the default) merges nothing.
     */
    void (*CDEDUPE_NULLABLE merge)(void *CDEDUPE_NULLABLE context, void *older, void *newer);
    /** The first argument of `merge`. */
    void *CDEDUPE_NULLABLE merge_context;

    /**
     * A clock that never goes back, in nanoseconds from any beginning. Any thread that is inside a
     * call of this buffer calls it, never under the spinlock; it must not call this buffer. NULL
     * (the default) is the system's monotonic clock.
     */
    uint64_t (*CDEDUPE_NULLABLE clock)(void *CDEDUPE_NULLABLE context);
    /** The argument of `clock`. */
    void *CDEDUPE_NULLABLE clock_context;
} cdedupe_options_t;

/**
 * Sets every option to its default.
 *
 * @param options  gets the defaults
 * @param size     sizeof(cdedupe_options_t) as the caller was compiled
 *
 * Members that this library does not know are zeroed. O(1).
 */
void cdedupe_options_init(cdedupe_options_t *options, size_t size);

/**
 * Checks options, as cdedupe_create() does.
 *
 * Returns NULL if they are valid, else a static English text that names the wrong option. O(1).
 */
const char *CDEDUPE_NULLABLE cdedupe_options_check(const cdedupe_options_t *options);

/** The default options, for callers in C and C++. O(1). */
static inline cdedupe_options_t
cdedupe_options(void)
{
    cdedupe_options_t options;

    cdedupe_options_init(&options, sizeof(options));
    return options;
}

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_lifetime Creating and destroying a buffer
 * @{
 */

/**
 * Makes a buffer.
 *
 * @param options  NULL for the defaults
 * @param out      gets the buffer, or NULL on failure
 *
 * Returns CDEDUPE_OK; CDEDUPE_NO_MEMORY; CDEDUPE_NO_RANDOMNESS; CDEDUPE_INVALID_ARGUMENT if an
 * option is out of range, see cdedupe_options_check(). O(1).
 */
cdedupe_result_t cdedupe_create(const cdedupe_options_t *CDEDUPE_NULLABLE options,
                                cdedupe_t *CDEDUPE_NULLABLE *CDEDUPE_NONNULL out);

/**
 * Frees the buffer's memory. No other call may be running in it or come afterwards. Payloads that
 * are still pending are not touched: if they need destruction, get them first, with
 * cdedupe_drain_next(). NULL is allowed. O(slabs of memory).
 */
void cdedupe_destroy(cdedupe_t *CDEDUPE_NULLABLE buffer);

/**
 * Hands out, one per call and in no particular order, the payloads that a buffer still owns before
 * it is destroyed. No other call may be running in the buffer, and after the first call only this
 * function and cdedupe_destroy() may be called.
 *
 * @param buffer  the buffer
 * @param cursor  points to zero before the first call
 *
 * Returns a handle that the caller now owns and need not discard, or zero if there are no more.
 * O(keys) for all calls together.
 */
cdedupe_slot_t cdedupe_drain_next(cdedupe_t *buffer, uint64_t *cursor);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_slots Slots
 * @{
 */

/**
 * Takes free slots: all of `count`, or none.
 *
 * @param buffer  the buffer
 * @param slots   gets `count` handles, owned by the caller; their memory is not initialised. After
 *                CDEDUPE_NO_MEMORY all handles are zero
 * @param count   how many
 *
 * Returns CDEDUPE_OK or CDEDUPE_NO_MEMORY. O(count).
 */
cdedupe_result_t cdedupe_acquire(cdedupe_t *buffer, cdedupe_slot_t *CDEDUPE_NULLABLE slots,
                                 size_t count);

/**
 * The memory of a slot: payload_size bytes with the alignment of payload_alignment. The memory
 * stays where it is while the caller owns the handle. Takes no lock. O(1).
 */
void *cdedupe_payload(const cdedupe_t *buffer, cdedupe_slot_t slot);

/** The memory of `count` slots, and NULL for each zero among them. Takes no lock. O(count). */
void cdedupe_payloads(const cdedupe_t *buffer, const cdedupe_slot_t *CDEDUPE_NULLABLE slots,
                      size_t count, void *CDEDUPE_NULLABLE *CDEDUPE_NULLABLE payloads);

/**
 * Gives slots back. The caller has destroyed their payloads, or moved them out. Zeros among the
 * handles are skipped. O(count).
 */
void cdedupe_discard(cdedupe_t *buffer, const cdedupe_slot_t *CDEDUPE_NULLABLE slots, size_t count);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_source Putting updates and statuses
 * @{
 */

/** The outcome of one update. */
typedef enum {
    CDEDUPE_OUTCOME_UNTOUCHED = 0, /**< The call ended before it. The caller still owns `slot`. */
    CDEDUPE_OUTCOME_QUEUED,        /**< The update is at the back of the queue. */
    CDEDUPE_OUTCOME_REPLACED,      /**< It replaced the key's pending update, now `displaced`. */
    CDEDUPE_OUTCOME_CANCELLED, /**< A deletion met a value that was never taken: both are gone. */
    CDEDUPE_OUTCOME_DROPPED,  /**< Stopped, overflowed, or the queue's end is closed by a finish. */
    CDEDUPE_OUTCOME_REJECTED, /**< Not possible; the call's result says why. */
    CDEDUPE_OUTCOME_SUPPRESSED, /**< The sink has this value already; see suppress_unchanged. */
    CDEDUPE_OUTCOME_OVERFLOWED, /**< Everything pending was dropped; see maximum_pending_keys. */
} cdedupe_outcome_t;

/** One update on its way in. Zero the whole struct before you fill it. */
typedef struct {
    const void *CDEDUPE_NULLABLE
        key;           /**< May be NULL if the length is zero. Copied where needed. */
    size_t key_length; /**< Bytes. */
    /**
     * In: the payload. A value must have one; a deletion may have one, or zero. Out: the handle if
     * it came back to the caller (every outcome except QUEUED and REPLACED), else zero.
     */
    cdedupe_slot_t slot;
    /** Out: the handle of an older payload that now belongs to the caller, or zero. */
    cdedupe_slot_t displaced;
    bool deletion;     /**< In: whether the key is gone. */
    uint8_t outcome;   /**< Out: a cdedupe_outcome_t. */
    uint8_t unused[6]; /**< Ignored. */
    /** A pin of the key, or zero. If there is one, `key` and `key_length` are ignored. */
    cdedupe_pin_t pin;
    uint32_t reserved[3]; /**< Must be zero. */
} cdedupe_update_t;

/**
 * Puts updates under their keys, in order.
 *
 *     update     pending     live     what happens                                        outcome
 *     ---------  ----------  -------  --------------------------------------------------  ---------
 *     value      no          either   the value goes to the back of the queue             QUEUED
 *     value      yes         either   replaces the pending update, which keeps its place  REPLACED
 *     deletion   no          either   the deletion goes to the back of the queue          QUEUED
 *     deletion   a value     yes      replaces the value, in its place                    REPLACED
 *     deletion   a value     no       the key leaves the queue                            CANCELLED
 *     deletion   a deletion  either   stays one deletion, in its place                    REPLACED
 *
 * @param buffer   the buffer
 * @param updates  `count` updates; `slot`, `displaced` and `outcome` are written for each
 * @param count    how many
 *
 * The table does not apply to updates that are SUPPRESSED, DROPPED or OVERFLOWED. With a merge
 * callback, a value that meets a pending value is merged with it, and is REPLACED too.
 *
 * For an update that was REPLACED or CANCELLED, `displaced` is the older payload of its key, if
 * that had one. For QUEUED or SUPPRESSED, `displaced` may be the payload of any update that a
 * restart or an overflow dropped. It may also be the payload of a deletion that a put back
 * cancelled.
 *
 * Returns CDEDUPE_OK if every update was put, suppressed, or dropped by a stop or by
 * CDEDUPE_FINISH_WHEN_DELIVERED. CDEDUPE_OVERFLOWED: an update overflowed, or was dropped because
 * the buffer has overflowed. CDEDUPE_KEY_TOO_LONG, CDEDUPE_NO_MEMORY, CDEDUPE_INVALID_ARGUMENT (a
 * value without a slot) or CDEDUPE_REENTRANT: one update was not possible. That update is REJECTED,
 * the later ones are UNTOUCHED, and the earlier ones are done. The caller can put the rejected
 * update and the later ones again after it has removed the cause. If an update is rejected, the
 * result is that of the rejection, even if an earlier update of the call overflowed. A caller that
 * sets a bound must therefore also look for CDEDUPE_OUTCOME_OVERFLOWED.
 *
 * Expected O(count + lengths of the keys). Keys that are named by pins do not count.
 */
cdedupe_result_t cdedupe_put(cdedupe_t *buffer, cdedupe_update_t *CDEDUPE_NULLABLE updates,
                             size_t count);

/**
 * One update for which the library acquires and discards the slots. cdedupe_single_begin() fills
 * the struct, and cdedupe_single_put() says in it what came back.
 */
typedef struct {
    void *CDEDUPE_NULLABLE payload; /**< Where the caller constructs the payload. */
    /** After the put: the payload that was not accepted, or NULL. It is the caller's again. */
    void *CDEDUPE_NULLABLE returned;
    /** After the put: an older payload that now belongs to the caller, or NULL. */
    void *CDEDUPE_NULLABLE displaced;
    uint8_t outcome; /**< After the put: a cdedupe_outcome_t. */
    /** Before the put: a pin, which then names the key, or zero, which the begin has set. */
    cdedupe_pin_t pin;
    cdedupe_slot_t slot;           /**< For the library. */
    cdedupe_slot_t displaced_slot; /**< For the library. */
    void *CDEDUPE_NULLABLE opaque; /**< For the library. */
} cdedupe_single_t;

/**
 * Begins to put one update. For one update this is faster than cdedupe_acquire(), cdedupe_put() and
 * cdedupe_discard(), because the three calls repeat work that is done once here.
 *
 *     cdedupe_single_t single;
 *
 *     if (cdedupe_single_begin(buffer, &single) != CDEDUPE_OK) ...
 *     *(int *)single.payload = 1;
 *     cdedupe_single_put(buffer, &single, "a", 1, false);
 *     cdedupe_single_end(buffer, &single);
 *
 * Between cdedupe_single_begin() and cdedupe_single_end() the thread must not wait, and must call
 * no other function of any buffer. It only constructs the payload, and moves out the payloads that
 * came back. It does everything else, such as destroying them, after cdedupe_single_end().
 *
 * Returns CDEDUPE_OK, or CDEDUPE_NO_MEMORY: nothing has begun. O(1).
 */
cdedupe_result_t cdedupe_single_begin(cdedupe_t *buffer, cdedupe_single_t *single);

/**
 * Puts the update, as cdedupe_put() does. The payload that was constructed belongs to the buffer,
 * unless `returned` says that it came back. Call this function once after a cdedupe_single_begin()
 * that returned CDEDUPE_OK. A deletion has a payload too.
 *
 * Returns as cdedupe_put(). Expected O(length of the key).
 */
cdedupe_result_t cdedupe_single_put(cdedupe_t *buffer, cdedupe_single_t *single,
                                    const void *CDEDUPE_NULLABLE key, size_t key_length,
                                    bool deletion);

/** Ends the put of one update. The caller has moved out the payloads that came back. O(1). */
void cdedupe_single_end(cdedupe_t *buffer, cdedupe_single_t *single);

/**
 * Pins a key: gives the key a name that cdedupe_put() need not look up. A pin is for a source that
 * knows its keys, and updates them often:
 *
 *     cdedupe_pin_t pin;
 *
 *     if (cdedupe_pin(buffer, "eth0/bytes", 10, &pin) != CDEDUPE_OK) ...
 *     update = (cdedupe_update_t){.pin = pin, .slot = slot};       (as often as needed)
 *     cdedupe_put(buffer, &update, 1);
 *     cdedupe_unpin(buffer, pin);
 *
 * A pin changes nothing else: updates by pin and by key have the same outcomes, and the sink gets
 * the same items. A pinned key keeps its entry while it is neither pending nor live, and no
 * restart, overflow or stop takes the pin away. A key may be pinned more than once: all its pins
 * are the same handle, which stays valid until each of them was given back. Destroying the buffer
 * needs no unpinning.
 *
 * @param buffer      the buffer
 * @param key         copied; may be NULL if the length is zero
 * @param key_length  bytes
 * @param pin         gets the pin, or zero on failure
 *
 * Returns CDEDUPE_OK; CDEDUPE_KEY_TOO_LONG; CDEDUPE_NO_MEMORY; CDEDUPE_TOO_MANY_PINS;
 * CDEDUPE_REENTRANT. Expected O(key length).
 */
cdedupe_result_t cdedupe_pin(cdedupe_t *buffer, const void *CDEDUPE_NULLABLE key, size_t key_length,
                             cdedupe_pin_t *pin);

/**
 * Gives one pin of a key back. The caller must not use the pin afterwards, unless it holds another
 * pin of that key. Without one the handle is invalid: it may name another key or freed memory.
 * During the call no other thread may put by this pin, unless another pin of the key stays.
 *
 * Returns CDEDUPE_OK; CDEDUPE_INVALID_ARGUMENT if the pin is zero; CDEDUPE_REENTRANT. O(1).
 */
cdedupe_result_t cdedupe_unpin(cdedupe_t *buffer, cdedupe_pin_t pin);

/**
 * Puts a status. A status that equals the latest one received is dropped, unless it is the
 * CDEDUPE_STATUS_IN_SYNC that ends a resync. Otherwise it overwrites a status that is last in the
 * queue, or goes to the back of the queue.
 *
 * A new buffer behaves as if it had received CDEDUPE_STATUS_WAIT_FOR_DATASTORE. After a restart,
 * the latest status taken counts as the latest one received.
 *
 * The first CDEDUPE_STATUS_IN_SYNC after a restart ends the resync. Before itself it queues a
 * deletion for each key that was live at the restart, still is, and was not seen since. The order
 * of these deletions is not specified.
 *
 * Returns CDEDUPE_OK; CDEDUPE_STOPPED: the status was ignored after a stop or
 * CDEDUPE_FINISH_WHEN_DELIVERED; CDEDUPE_OVERFLOWED: it was ignored after an overflow;
 * CDEDUPE_REENTRANT; CDEDUPE_INVALID_ARGUMENT; CDEDUPE_NO_MEMORY: the status was not queued,
 * deletions that were queued stay, and the call can be repeated. If a restart comes during the
 * call, the status is dropped and the result is CDEDUPE_OK. If a stop or a
 * CDEDUPE_FINISH_WHEN_DELIVERED comes during the CDEDUPE_STATUS_IN_SYNC that ends a resync, the
 * deletions that the call has queued by then stay queued, so a finish delivers them. The other
 * deletions and the status are never queued, and the result is CDEDUPE_STOPPED.
 *
 * O(1), and O(keys) for the CDEDUPE_STATUS_IN_SYNC that ends a resync, in short steps between which
 * other calls get the lock.
 */
cdedupe_result_t cdedupe_put_status(cdedupe_t *buffer, cdedupe_status_t status);

/**
 * Tells the buffer that the source lost its connection and will send everything again. The buffer
 * drops everything that is pending. The keys that are live now are unseen until an update for them
 * arrives. A batch that was taken is not disturbed. Dropped payloads come back through
 * cdedupe_put() and cdedupe_collect().
 *
 * Returns CDEDUPE_OK; CDEDUPE_STOPPED: the restart was ignored after a stop or
 * CDEDUPE_FINISH_WHEN_DELIVERED; CDEDUPE_REENTRANT. O(1), except for one walk over all keys every
 * 2^27 - 1 restarts.
 */
cdedupe_result_t cdedupe_restart(cdedupe_t *buffer);

/**
 * Hands back payloads that a restart or an overflow dropped. Call it after a restart, and again
 * until it returns CDEDUPE_EMPTY. Until then the buffer keeps the dropped payloads, at most one per
 * key and restart.
 *
 * @param buffer    the buffer
 * @param slots     room for `capacity` handles
 * @param capacity  how many
 * @param count     gets the number of handles that now belong to the caller
 *
 * Returns CDEDUPE_OK if a step was done, even if `count` is zero; CDEDUPE_EMPTY if nothing is left;
 * CDEDUPE_REENTRANT. Does at most `capacity` steps. O(capacity).
 */
cdedupe_result_t cdedupe_collect(cdedupe_t *buffer, cdedupe_slot_t *CDEDUPE_NULLABLE slots,
                                 size_t capacity, size_t *count);

/** Whether cdedupe_collect() has something to do. A hint: takes no lock. O(1). */
bool cdedupe_has_dropped(const cdedupe_t *buffer);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_sink Taking batches
 * @{
 */

/** How the owner of a claim takes. */
typedef enum {
    CDEDUPE_CLAIM_SINGLE_BATCH =
        0,              /**< A batch now and then. Never woken; a finish does not wait for it. */
    CDEDUPE_CLAIM_LOOP, /**< Until the end: waits when the queue is empty, and is woken. */
} cdedupe_claim_t;

/**
 * Claims the right to take.
 *
 * Returns CDEDUPE_OK; CDEDUPE_STOPPED; CDEDUPE_BUSY if there is a claim already;
 * CDEDUPE_INVALID_ARGUMENT if `kind` is unknown. O(1).
 */
cdedupe_result_t cdedupe_claim(cdedupe_t *buffer, cdedupe_claim_t kind);

/**
 * Ends the claim. The sink no longer borrows the keys of the last batch and can no longer put its
 * items back; the handles of the batch stay the caller's. If a cdedupe_finish()
 * waits for this loop, the buffer stops. O(size of the last batch).
 */
void cdedupe_release(cdedupe_t *buffer);

/** What an item of a batch is. */
typedef enum {
    CDEDUPE_ITEM_NEW = 0, /**< A value of a key that was not live. */
    CDEDUPE_ITEM_UPDATED, /**< A value of a key that was live. */
    CDEDUPE_ITEM_DELETED, /**< The key is gone. */
    CDEDUPE_ITEM_STATUS,  /**< A status. */
} cdedupe_item_kind_t;

/** One item of a batch. */
typedef struct {
    const void *CDEDUPE_NULLABLE key; /**< Borrowed until the next take or release, or until this
                                           item is put back. */
    size_t key_length;                /**< Bytes. Zero for a status. */
    cdedupe_slot_t
        slot;       /**< The payload, now the caller's; zero for a deletion that carries none. */
    uint8_t kind;   /**< A cdedupe_item_kind_t. */
    uint8_t status; /**< A cdedupe_status_t, if the kind is CDEDUPE_ITEM_STATUS. */
    uint64_t opaque[2];   /**< For the library: what cdedupe_put_back() and cdedupe_age() need. */
    uint64_t reserved[2]; /**< Zero. */
} cdedupe_item_t;

/**
 * Takes the next batch, in the order of the queue. The batch has only places that were in the queue
 * when the call began, so no key is in a batch twice. A restart or a stop during the call ends the
 * batch. The caller holds the claim.
 *
 * @param buffer    the buffer
 * @param items     room for `capacity` items
 * @param capacity  1 or more; at most batch_size items are filled
 * @param count     gets the number of items
 *
 * Returns
 * - CDEDUPE_OK with 1 or more items;
 * - CDEDUPE_EMPTY if nothing is queued. The take of a loop also returns it while another thread
 *   merges. After CDEDUPE_EMPTY a loop counts as waiting for the wake callback;
 * - CDEDUPE_STOPPED if the buffer was stopped or has finished;
 * - CDEDUPE_REENTRANT; CDEDUPE_INVALID_ARGUMENT if there is no claim or no room.
 *
 * O(batch).
 */
cdedupe_result_t cdedupe_take(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity,
                              size_t *count);

/**
 * Takes the next batch, and waits for it if the queue is empty: for a loop that has a thread of its
 * own. The caller holds a CDEDUPE_CLAIM_LOOP claim. Parameters and results are those of
 * cdedupe_take(), and:
 *
 * @param buffer      the buffer
 * @param items       room for `capacity` items
 * @param capacity    1 or more
 * @param count       gets the number of items
 * @param timeout_ms  longest wait in milliseconds by the system's monotonic clock; 0 does not wait,
 *                    a negative one waits forever
 *
 * Returns CDEDUPE_EMPTY if the time has passed; CDEDUPE_INVALID_ARGUMENT if the claim is not a
 * loop's. cdedupe_stop() and cdedupe_finish() end the wait. The wake callback, if there is one, is
 * called too.
 */
cdedupe_result_t cdedupe_take_wait(cdedupe_t *buffer, cdedupe_item_t *items, size_t capacity,
                                   size_t *count, int64_t timeout_ms);

/**
 * The age of an item's place in the queue: milliseconds since its key was queued, for ages up to 24
 * days (INT32_MAX milliseconds). It is never more than the true age, and at most 12 ms less. The
 * age of an older place is reported as zero, or as too small by a multiple of 49 days (2^32
 * milliseconds). A place keeps its age when its update is replaced or put back. O(1).
 */
uint32_t cdedupe_age(const cdedupe_t *buffer, const cdedupe_item_t *item);

/**
 * Puts back what the sink could not deal with. The items are at the front of the queue again, in
 * the same order, and liveness and the latest status taken are as before the take. If a status is
 * first in the queue already, a status that is put back is dropped.
 *
 * Several rows of the table may apply at once. A stop or a finish does not change what the other
 * rows say.
 *
 *     since the take               the item
 *     ---------------------------  ------------------------------------------------------------
 *     a newer update is pending    gives way: the newer update gets the item's place, and counts
 *                                  as having replaced the item; with a merge callback both are
 *                                  merged, unless a deletion came between them
 *     a deletion, and the item     leaves together with that deletion
 *     is a value that was new
 *     a restart or an overflow     a value or a status is dropped. The deletion of a key that was
 *                                  not live is dropped too. The deletion of a live key is
 *                                  synthesized by the next in-sync; if that in-sync has come
 *                                  already, the deletion is at the front of the queue. If a newer
 *                                  update of the key is pending, the deletion is dropped. `slot`
 *                                  has the handle of each dropped item
 *     a restart, then the same     a value is pending again, as if there had been no restart
 *     value, which was suppressed
 *     a stop                       is treated as above, and is not delivered:
 *                                  cdedupe_drain_next() hands out what is pending
 *     a finish that waits for      is delivered before the buffer stops, unless the loop releases
 *     this loop                    its claim first
 *
 * @param buffer  the buffer
 * @param items   the last items of the last batch, in order and unchanged, with their payloads in
 *                their slots. `slot` of each gets the handle if it came back to the caller, else
 *                zero. Before the call, the caller may move items of updates behind the others, to
 *                put back only those; statuses must stay in order
 * @param count   in: how many. Out: how many are still to be put back: zero after CDEDUPE_OK, and
 *                unchanged after CDEDUPE_REENTRANT and CDEDUPE_INVALID_ARGUMENT. The call goes from
 *                the last item to the first, so the remaining ones are the first of `items`
 *
 * The caller holds the claim, and has not called cdedupe_take() again, whatever such a call
 * returned. The sink no longer borrows the keys of items that were put back. If the item cancels a
 * pending deletion that has a payload, a later cdedupe_put() or cdedupe_collect() hands that
 * payload back.
 *
 * Updates that were received between the take and the put back were processed against the state at
 * that time. The sink may therefore see a second deletion, or a deletion of a key that it does not
 * have. After a restart only the latest status is guaranteed to come; it may be late, or repeated.
 *
 * Returns CDEDUPE_OK; CDEDUPE_NO_MEMORY: the call can be repeated; CDEDUPE_REENTRANT;
 * CDEDUPE_INVALID_ARGUMENT if there is no claim, or the last batch has fewer items left. O(count).
 */
cdedupe_result_t cdedupe_put_back(cdedupe_t *buffer, cdedupe_item_t *CDEDUPE_NULLABLE items,
                                  size_t *count);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_ending Stopping and finishing
 * @{
 */

/**
 * Stops the buffer: nothing is taken any more, every update that comes in is dropped, and pending
 * updates stay until the buffer is destroyed. Wakes a waiting loop. May be called again; cannot be
 * undone. O(1).
 */
void cdedupe_stop(cdedupe_t *buffer);

/** When a finishing buffer stops. */
typedef enum {
    /**
     * The queue's end is closed. From the call on, the buffer drops each update that would go to
     * the back of the queue, and ignores statuses and restarts. It still accepts an update that
     * replaces or cancels a pending one, and items that the sink puts back. The buffer stops when a
     * take finds the queue empty, or when the loop releases its claim.
     */
    CDEDUPE_FINISH_WHEN_DELIVERED = 0,
    /** The buffer stops when a take finds the queue empty. Until then it queues and delivers. */
    CDEDUPE_FINISH_WHEN_EMPTY,
} cdedupe_finish_t;

/**
 * Lets the loop deliver what is queued, then stops the buffer. Without a CDEDUPE_CLAIM_LOOP claim
 * it stops the buffer at once. Never waits: the loop's take returns CDEDUPE_STOPPED when everything
 * is delivered.
 *
 * May be called again: CDEDUPE_FINISH_WHEN_DELIVERED overrides CDEDUPE_FINISH_WHEN_EMPTY.
 *
 * Returns CDEDUPE_OK if a loop still has something to deliver or has yet to learn of the end;
 * CDEDUPE_STOPPED if there is no loop; CDEDUPE_INVALID_ARGUMENT if `when` is unknown. O(1).
 */
cdedupe_result_t cdedupe_finish(cdedupe_t *buffer, cdedupe_finish_t when);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_inspection Inspection
 * @{
 */

/**
 * Counters. Each snapshot is exact:
 *
 *     received + synthesized_deletions
 *         = delivered + replaced + cancelled + suppressed + dropped + pending_keys
 */
typedef struct {
    uint64_t pending_keys;      /**< Updates in the queue now. */
    uint64_t pending_statuses;  /**< Statuses in the queue now; at most pending_keys + 1. */
    uint64_t peak_pending_keys; /**< The most updates that the queue ever held. */
    uint64_t live_keys;         /**< Keys that are live now. */
    uint64_t received;          /**< Updates that came in, without rejected ones. */
    uint64_t delivered;         /**< Updates taken and not put back: this may go down. */
    uint64_t replaced;          /**< Updates that a newer one displaced. */
    uint64_t cancelled; /**< Values that were never taken, and the deletions that met them. */
    uint64_t dropped;   /**< Updates dropped by a restart, an overflow or the end. */
    uint64_t synthesized_deletions; /**< Deletions that a resync found necessary. */
    uint64_t statuses_received;     /**< Statuses that came in, ignored ones too. */
    uint64_t statuses_delivered;    /**< Statuses taken and not put back: this may go down. */
    uint64_t batches;               /**< Batches taken, those put back included. */
    uint64_t memory;                /**< Bytes held from the allocator. */
    uint64_t suppressed;            /**< Values that the sink had already. */
    uint64_t overflows;             /**< How often a bound was exceeded. */
    uint64_t pending_bytes; /**< The sum of the pending weights; zero without a bound of bytes. */
    uint64_t oldest_pending_age; /**< As from cdedupe_age(), of the first update in the queue. */
    uint64_t overflowed;         /**< 1 from an overflow to the restart that ends it, else 0. */
    uint64_t stopped;            /**< 1 if nothing is taken any more, else 0. */
    uint64_t pinned_keys;        /**< Keys that have a pin. */
} cdedupe_statistics_t;

/**
 * Copies the counters.
 *
 * @param buffer  the buffer
 * @param out     gets the counters
 * @param size    sizeof(cdedupe_statistics_t) as the caller was compiled; members that this library
 *                does not know are zeroed
 *
 * O(1).
 */
void cdedupe_statistics(cdedupe_t *buffer, cdedupe_statistics_t *out, size_t size);

/**
 * Checks every invariant of the buffer, in any build: the queue and its links, the index, words,
 * free lists and counters; and which slot belongs to which update, if nothing is replaced
 * meanwhile. Holds the lock for O(keys): for tests and for finding faults, not for production
 * paths.
 *
 * Returns NULL if all invariants hold, else a static text that names the first one that does not.
 */
const char *CDEDUPE_NULLABLE cdedupe_validate(cdedupe_t *buffer);

/** @} */
/* ---------------------------------------------------------------------------------------------- */
/**
 * @defgroup cdedupe_bytes_level The bytes level
 * @{
 *
 * For callers whose values are plain bytes. The library copies keys and values in, lends them out
 * with a batch, and frees them. There are no slots to look after.
 *
 * Values of up to 48 bytes lie in the buffer's slots, longer ones in a store of their own. That
 * store uses the allocator of the options, and its memory counts in cdedupe_statistics_t.memory.
 * Memory of values goes back to the allocator: at once for a value longer than 64 KiB, otherwise
 * when all values of its slab are gone. Half a MiB of empty slabs is kept for later values, and one
 * empty slab of a size that is in use.
 *
 * cdedupe_bytes_restart() frees nothing, and neither does a put that overflows. Later calls free
 * what these dropped, in steps: 8 updates per put or deletion, 64 per status, take and put back.
 * CDEDUPE_STATUS_IN_SYNC frees everything that is left, so a buffer that is idle after a resync
 * holds nothing that was dropped.
 *
 * Threads: as for the functions of the same names without "bytes".
 */

/** A buffer whose values are bytes. */
typedef struct cdedupe_bytes cdedupe_bytes_t;

/**
 * Makes a buffer whose values are bytes.
 *
 * @param options  as for cdedupe_create(); NULL for the defaults. Layout and offsets of payloads
 *                 are ignored. With suppress_unchanged the revision of cdedupe_bytes_put() counts,
 *                 and with maximum_pending_bytes a value weighs its length
 * @param out      gets the buffer, or NULL on failure
 *
 * Returns as cdedupe_create(); CDEDUPE_INVALID_ARGUMENT also if `merge` is set. O(batch size).
 */
cdedupe_result_t cdedupe_bytes_create(const cdedupe_options_t *CDEDUPE_NULLABLE options,
                                      cdedupe_bytes_t *CDEDUPE_NULLABLE *CDEDUPE_NONNULL out);

/**
 * Frees everything, pending values included. No other call may be running. NULL is allowed.
 * O(keys).
 */
void cdedupe_bytes_destroy(cdedupe_bytes_t *CDEDUPE_NULLABLE buffer);

/**
 * Puts a value under a key.
 *
 * @param buffer        the buffer
 * @param key           copied; may be NULL if the length is zero
 * @param key_length    bytes
 * @param value         copied; may be NULL if the length is zero
 * @param value_length  bytes; any length
 * @param revision      carried along, and read only if suppress_unchanged is set; zero is none
 * @param outcome       if not NULL, gets the outcome of the update
 *
 * Returns CDEDUPE_OK, also if a stop or CDEDUPE_FINISH_WHEN_DELIVERED dropped the update;
 * CDEDUPE_OVERFLOWED as cdedupe_put(); CDEDUPE_KEY_TOO_LONG or CDEDUPE_NO_MEMORY: the
 * outcome is CDEDUPE_OUTCOME_REJECTED, and nothing has changed. Expected O(lengths).
 */
cdedupe_result_t cdedupe_bytes_put(cdedupe_bytes_t *buffer, const void *CDEDUPE_NULLABLE key,
                                   size_t key_length, const void *CDEDUPE_NULLABLE value,
                                   size_t value_length, uint64_t revision,
                                   cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/** Puts the deletion of a key; otherwise as cdedupe_bytes_put(). */
cdedupe_result_t cdedupe_bytes_delete(cdedupe_bytes_t *buffer, const void *CDEDUPE_NULLABLE key,
                                      size_t key_length, uint64_t revision,
                                      cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/** As cdedupe_pin(). */
cdedupe_result_t cdedupe_bytes_pin(cdedupe_bytes_t *buffer, const void *CDEDUPE_NULLABLE key,
                                   size_t key_length, cdedupe_pin_t *pin);

/** As cdedupe_unpin(). */
cdedupe_result_t cdedupe_bytes_unpin(cdedupe_bytes_t *buffer, cdedupe_pin_t pin);

/**
 * As cdedupe_bytes_put(), for the key that `pin` names. `pin` must not be zero: a zero pin is not
 * detected, and the call would use the empty key.
 */
cdedupe_result_t cdedupe_bytes_put_pinned(cdedupe_bytes_t *buffer, cdedupe_pin_t pin,
                                          const void *CDEDUPE_NULLABLE value, size_t value_length,
                                          uint64_t revision,
                                          cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/**
 * As cdedupe_bytes_delete(), for the key that `pin` names. `pin` must not be zero: a zero pin is
 * not detected, and the call would use the empty key.
 */
cdedupe_result_t cdedupe_bytes_delete_pinned(cdedupe_bytes_t *buffer, cdedupe_pin_t pin,
                                             uint64_t revision,
                                             cdedupe_outcome_t *CDEDUPE_NULLABLE outcome);

/**
 * As cdedupe_put_status(). Also frees what restarts and overflows dropped: all of it if the status
 * is CDEDUPE_STATUS_IN_SYNC, in O(dropped updates), in short steps between which other calls get
 * the lock.
 */
cdedupe_result_t cdedupe_bytes_put_status(cdedupe_bytes_t *buffer, cdedupe_status_t status);

/** As cdedupe_restart(). Frees nothing; later calls do. O(1). */
cdedupe_result_t cdedupe_bytes_restart(cdedupe_bytes_t *buffer);

/** As cdedupe_claim(). */
cdedupe_result_t cdedupe_bytes_claim(cdedupe_bytes_t *buffer, cdedupe_claim_t kind);

/** As cdedupe_release(). Frees the values of the last batch. */
void cdedupe_bytes_release(cdedupe_bytes_t *buffer);

/** One item of a batch. */
typedef struct {
    const void *CDEDUPE_NULLABLE
        key;           /**< Borrowed, as the value, until the next take or release. */
    size_t key_length; /**< Bytes. Zero for a status. */
    const void *CDEDUPE_NULLABLE value; /**< NULL for a deletion and for a status. */
    size_t value_length;                /**< Bytes. */
    uint64_t revision;                  /**< Zero is none. */
    uint8_t kind;                       /**< A cdedupe_item_kind_t. */
    uint8_t status;       /**< A cdedupe_status_t, if the kind is CDEDUPE_ITEM_STATUS. */
    uint64_t reserved[2]; /**< Zero. */
} cdedupe_bytes_item_t;

/**
 * Takes the next batch, as cdedupe_take(). Frees the values of the batch before, except if it
 * returns CDEDUPE_INVALID_ARGUMENT: then the sink still borrows them and can put them back.
 */
cdedupe_result_t cdedupe_bytes_take(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items,
                                    size_t capacity, size_t *count);

/**
 * Takes the next batch, and waits for it, as cdedupe_take_wait(). What it frees is as for
 * cdedupe_bytes_take().
 */
cdedupe_result_t cdedupe_bytes_take_wait(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items,
                                         size_t capacity, size_t *count, int64_t timeout_ms);

/**
 * As cdedupe_put_back(), for the last `*count` items of the last batch. The sink borrows them no
 * longer.
 */
cdedupe_result_t cdedupe_bytes_put_back(cdedupe_bytes_t *buffer, size_t *count);

/** As cdedupe_stop(). */
void cdedupe_bytes_stop(cdedupe_bytes_t *buffer);

/** As cdedupe_finish(). */
cdedupe_result_t cdedupe_bytes_finish(cdedupe_bytes_t *buffer, cdedupe_finish_t when);

/** As cdedupe_statistics(). */
void cdedupe_bytes_statistics(cdedupe_bytes_t *buffer, cdedupe_statistics_t *out, size_t size);

/** As cdedupe_validate(). */
const char *CDEDUPE_NULLABLE cdedupe_bytes_validate(cdedupe_bytes_t *buffer);

/** @} */

#ifdef __cplusplus
}
#endif

#if defined(__clang__)
_Pragma("clang assume_nonnull end")
_Pragma("clang diagnostic pop")
#endif

#endif /* CDEDUPE_H */
