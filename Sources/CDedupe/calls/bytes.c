/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes level: the caller puts values as bytes, and the library copies them.
 *
 * This file stands on the public header alone, and on the allocator and the store of values.h. A
 * payload is one cache line. A short value lies in the payload, and a longer one lies in the store.
 *
 *     cdedupe_bytes_put, _delete, _put_pinned, _delete_pinned
 *         put_value
 *             collect                PUT_CLEARS steps, if a restart or an overflow dropped some
 *             value_init             room in the store if the value is long
 *             put                    cdedupe_single_...(); destroys the values that come back
 *     cdedupe_bytes_take, _take_wait
 *         begin_take                 frees the values of the batch before
 *         end_take                   describe() for each item
 *     cdedupe_bytes_put_back         destroys the values that came back
 *     cdedupe_bytes_destroy          destroys the values of the batch and of cdedupe_drain_next()
 */
#include "CDedupe.h"

#include "base/atomics.h"
#include "base/test_sizes.h"
#include "memory/allocator.h"
#include "memory/values.h"

enum { VALUE_INLINE = 48 };

struct value {
    uint64_t revision;
    uint64_t length;
    union {
        unsigned char bytes[VALUE_INLINE];
        struct stored_value stored; /* If the value is longer than VALUE_INLINE. */
    } at;
};

_Static_assert(sizeof(struct value) == 64, "a payload is one cache line");

enum {
    /* The most values that are freed together. */
    FREED_TOGETHER = TEST_SIZED(64, 4),
    /* The most steps in which one call clears what restarts and overflows dropped. */
    PUT_CLEARS = TEST_SIZED(8, 2),
    CALL_CLEARS = FREED_TOGETHER,
};

struct cdedupe_bytes {
    cdedupe_t *core;
    struct memory memory; /* For this struct, the items and the store. */
    size_t batch_size;
    cdedupe_claim_t claim; /* The last claim that was granted. Only its owner reads it. */
    size_t batch;          /* The items of the last batch that the sink still borrows. */
    cdedupe_item_t *items; /* Room for one batch. */
    struct values values;
};

static struct value *
value_at(struct cdedupe_bytes *buffer, cdedupe_slot_t slot)
{
    return cdedupe_payload(buffer->core, slot);
}

static const void *
value_bytes(const struct value *value)
{
    return value->length <= VALUE_INLINE ? value->at.bytes : value->at.stored.bytes;
}

static bool
value_init(struct cdedupe_bytes *buffer, struct value *value, const void *bytes, size_t length)
{
    void *target = value->at.bytes;

    if (length > VALUE_INLINE) {
        if (!values_allocate(&buffer->values, length, &value->at.stored))
            return false;
        target = value->at.stored.bytes;
    }
    value->length = length;
    if (length > 0)
        memcpy(target, bytes, length);
    return true;
}

static void
value_destroy(struct cdedupe_bytes *buffer, const struct value *value)
{
    if (value->length > VALUE_INLINE)
        values_free(&buffer->values, &value->at.stored);
}

/*
 * Frees up to FREED_TOGETHER values and gives their slots back. Zeros among the slots are skipped.
 */
static void
destroy_values(struct cdedupe_bytes *buffer, const cdedupe_slot_t *slots, size_t count)
{
    struct stored_value stored[FREED_TOGETHER];
    size_t stored_count = 0;

    for (size_t i = 0; i < count; i++) {
        const struct value *value = slots[i] == 0 ? NULL : value_at(buffer, slots[i]);

        if (value != NULL && value->length > VALUE_INLINE)
            stored[stored_count++] = value->at.stored;
    }
    if (stored_count > 0)
        values_free_many(&buffer->values, stored, stored_count);
    cdedupe_discard(buffer->core, slots, count);
}

/* ---------------------------------------------------------------------------------------------- */
/* Life                                                                                           */

/*
 * Reads the members that the caller's struct has, and sets the others to their defaults. False: the
 * size of the struct is out of range, or the options ask for merging, which this level does not
 * have.
 */
static bool
read_options(const cdedupe_options_t *given, cdedupe_options_t *options)
{
    *options = cdedupe_options();
    if (given != NULL) {
        if (given->size < sizeof(given->size) || given->size > 4096)
            return false;
        memcpy(options, given, given->size < sizeof(*options) ? given->size : sizeof(*options));
        options->size = sizeof(*options);
    }
    options->payload_size = sizeof(struct value);
    options->payload_alignment = _Alignof(struct value);
    options->revision_offset = offsetof(struct value, revision);
    options->weight_offset = offsetof(struct value, length);
    return options->merge == NULL;
}

static size_t
items_size(const struct cdedupe_bytes *buffer)
{
    return buffer->batch_size * sizeof(cdedupe_item_t);
}

/* Frees everything except the core. */
static void
destroy_wrapper(struct cdedupe_bytes *buffer)
{
    struct memory memory;

    values_destroy(&buffer->values);
    if (buffer->items != NULL)
        memory_free(&buffer->memory, buffer->items, items_size(buffer), _Alignof(cdedupe_item_t));
    memory = buffer->memory;
    memory_free(&memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe_bytes));
}

/* Makes the struct around a core, which has accepted the options. NULL: no memory. */
static cdedupe_bytes_t *
create_wrapper(const cdedupe_options_t *options, cdedupe_t *core)
{
    struct cdedupe_bytes *buffer;
    struct memory memory;

    memory_init(&memory, options->allocate, options->deallocate, options->allocator_context);
    buffer = memory_allocate(&memory, sizeof(*buffer), _Alignof(struct cdedupe_bytes));
    if (buffer == NULL)
        return NULL;
    buffer->core = core;
    buffer->memory = memory;
    buffer->batch_size = options->batch_size;
    values_init(&buffer->values, &buffer->memory);
    buffer->items = memory_allocate(&buffer->memory, items_size(buffer), _Alignof(cdedupe_item_t));
    if (buffer->items != NULL)
        return buffer;
    destroy_wrapper(buffer);
    return NULL;
}

cdedupe_result_t
cdedupe_bytes_create(const cdedupe_options_t *given, cdedupe_bytes_t **out)
{
    cdedupe_options_t options;
    cdedupe_result_t result;
    cdedupe_t *core;

    *out = NULL;
    if (!read_options(given, &options))
        return CDEDUPE_INVALID_ARGUMENT;
    result = cdedupe_create(&options, &core);
    if (result != CDEDUPE_OK)
        return result;
    *out = create_wrapper(&options, core);
    if (*out != NULL)
        return CDEDUPE_OK;
    cdedupe_destroy(core);
    return CDEDUPE_NO_MEMORY;
}

/* Destroys the values of the last batch from item `first` on. */
static void
destroy_items(struct cdedupe_bytes *buffer, size_t first)
{
    cdedupe_slot_t slots[FREED_TOGETHER];

    while (buffer->batch > first) {
        size_t count = 0;

        while (count < FREED_TOGETHER && buffer->batch > first)
            slots[count++] = buffer->items[--buffer->batch].slot;
        destroy_values(buffer, slots, count);
    }
}

static void
destroy_batch(struct cdedupe_bytes *buffer)
{
    destroy_items(buffer, 0);
}

void
cdedupe_bytes_destroy(cdedupe_bytes_t *buffer)
{
    uint64_t cursor = 0;
    cdedupe_slot_t slot;
    cdedupe_t *core;

    if (buffer == NULL)
        return;
    core = buffer->core;
    destroy_batch(buffer);
    while ((slot = cdedupe_drain_next(core, &cursor)) != 0)
        value_destroy(buffer, value_at(buffer, slot));
    destroy_wrapper(buffer);
    cdedupe_destroy(core);
}

/* ---------------------------------------------------------------------------------------------- */
/* Source                                                                                         */

/*
 * Clears what restarts and overflows dropped, in at most `steps` steps. Call it if there is
 * something to clear.
 */
static void
collect(struct cdedupe_bytes *buffer, size_t steps)
{
    cdedupe_slot_t slots[FREED_TOGETHER];
    size_t count;

    if (cdedupe_collect(buffer->core, slots, steps, &count) == CDEDUPE_OK)
        destroy_values(buffer, slots, count);
}

/* What the update of one call is about. */
struct change {
    const void *key;
    size_t key_length;
    cdedupe_pin_t pin; /* If not zero, it names the key. */
    bool deletion;
};

/* Puts a value. Destroys the values that come back, the given one among them. */
static cdedupe_result_t
put(struct cdedupe_bytes *buffer, const struct change *change, const struct value *value,
    cdedupe_outcome_t *outcome)
{
    struct value displaced = {0};
    cdedupe_single_t single;
    cdedupe_result_t result = cdedupe_single_begin(buffer->core, &single);
    bool returned = true;

    if (result == CDEDUPE_OK) {
        memcpy(single.payload, value, sizeof(*value));
        single.pin = change->pin;
        result = cdedupe_single_put(buffer->core, &single, change->key, change->key_length,
                                    change->deletion);
        returned = single.returned != NULL;
        if (single.displaced != NULL)
            memcpy(&displaced, single.displaced, sizeof(displaced));
        cdedupe_single_end(buffer->core, &single);
    }
    if (returned)
        value_destroy(buffer, value);
    value_destroy(buffer, &displaced);
    if (outcome != NULL)
        *outcome = result == CDEDUPE_NO_MEMORY ? CDEDUPE_OUTCOME_REJECTED
                                               : (cdedupe_outcome_t)single.outcome;
    return result;
}

static cdedupe_result_t
reject(cdedupe_outcome_t *outcome, cdedupe_result_t result)
{
    if (outcome != NULL)
        *outcome = CDEDUPE_OUTCOME_REJECTED;
    return result;
}

static cdedupe_result_t
put_value(struct cdedupe_bytes *buffer, const struct change *change, struct value *value,
          const void *bytes, cdedupe_outcome_t *outcome)
{
    if (change->key_length > CDEDUPE_KEY_MAX)
        return reject(outcome, CDEDUPE_KEY_TOO_LONG);
    if (cdedupe_has_dropped(buffer->core))
        collect(buffer, PUT_CLEARS);
    if (!value_init(buffer, value, bytes, value->length))
        return reject(outcome, CDEDUPE_NO_MEMORY);
    return put(buffer, change, value, outcome);
}

cdedupe_result_t
cdedupe_bytes_put(cdedupe_bytes_t *buffer, const void *key, size_t key_length, const void *value,
                  size_t value_length, uint64_t revision, cdedupe_outcome_t *outcome)
{
    struct change change = {.key = key, .key_length = key_length};
    struct value made = {.revision = revision, .length = value_length};

    return put_value(buffer, &change, &made, value, outcome);
}

cdedupe_result_t
cdedupe_bytes_delete(cdedupe_bytes_t *buffer, const void *key, size_t key_length, uint64_t revision,
                     cdedupe_outcome_t *outcome)
{
    struct change change = {.key = key, .key_length = key_length, .deletion = true};
    struct value made = {.revision = revision};

    return put_value(buffer, &change, &made, NULL, outcome);
}

cdedupe_result_t
cdedupe_bytes_pin(cdedupe_bytes_t *buffer, const void *key, size_t key_length, cdedupe_pin_t *pin)
{
    return cdedupe_pin(buffer->core, key, key_length, pin);
}

cdedupe_result_t
cdedupe_bytes_unpin(cdedupe_bytes_t *buffer, cdedupe_pin_t pin)
{
    return cdedupe_unpin(buffer->core, pin);
}

cdedupe_result_t
cdedupe_bytes_put_pinned(cdedupe_bytes_t *buffer, cdedupe_pin_t pin, const void *value,
                         size_t value_length, uint64_t revision, cdedupe_outcome_t *outcome)
{
    struct change change = {.pin = pin};
    struct value made = {.revision = revision, .length = value_length};

    return put_value(buffer, &change, &made, value, outcome);
}

cdedupe_result_t
cdedupe_bytes_delete_pinned(cdedupe_bytes_t *buffer, cdedupe_pin_t pin, uint64_t revision,
                            cdedupe_outcome_t *outcome)
{
    struct change change = {.pin = pin, .deletion = true};
    struct value made = {.revision = revision};

    return put_value(buffer, &change, &made, NULL, outcome);
}

cdedupe_result_t
cdedupe_bytes_put_status(cdedupe_bytes_t *buffer, cdedupe_status_t status)
{
    cdedupe_result_t result = cdedupe_put_status(buffer->core, status);

    while (cdedupe_has_dropped(buffer->core)) {
        collect(buffer, CALL_CLEARS);
        if (status != CDEDUPE_STATUS_IN_SYNC)
            break;
    }
    return result;
}

cdedupe_result_t
cdedupe_bytes_restart(cdedupe_bytes_t *buffer)
{
    return cdedupe_restart(buffer->core);
}

/* ---------------------------------------------------------------------------------------------- */
/* Sink                                                                                           */

cdedupe_result_t
cdedupe_bytes_claim(cdedupe_bytes_t *buffer, cdedupe_claim_t kind)
{
    cdedupe_result_t result = cdedupe_claim(buffer->core, kind);

    if (result == CDEDUPE_OK)
        buffer->claim = kind;
    return result;
}

void
cdedupe_bytes_release(cdedupe_bytes_t *buffer)
{
    destroy_batch(buffer);
    cdedupe_release(buffer->core);
}

static void
describe(struct cdedupe_bytes *buffer, const cdedupe_item_t *item, cdedupe_bytes_item_t *out)
{
    const struct value *value = item->slot == 0 ? NULL : value_at(buffer, item->slot);

    *out = (cdedupe_bytes_item_t){.key = item->key,
                                  .key_length = item->key_length,
                                  .revision = value == NULL ? 0 : value->revision,
                                  .kind = item->kind,
                                  .status = item->status};
    if (value != NULL && item->kind != CDEDUPE_ITEM_DELETED) {
        out->value = value_bytes(value);
        out->value_length = (size_t)value->length;
    }
}

/* Rejects a take before it frees anything, so the sink still borrows the last batch. */
static cdedupe_result_t
reject_take(size_t *count)
{
    *count = 0;
    return CDEDUPE_INVALID_ARGUMENT;
}

/*
 * The beginning of every take that is not rejected. Frees the values of the batch before, and
 * clears some of what restarts and overflows dropped. Returns the largest batch that the caller and
 * the buffer allow.
 */
static size_t
begin_take(struct cdedupe_bytes *buffer, size_t capacity)
{
    destroy_batch(buffer);
    if (cdedupe_has_dropped(buffer->core))
        collect(buffer, CALL_CLEARS);
    return capacity < buffer->batch_size ? capacity : buffer->batch_size;
}

static void
end_take(struct cdedupe_bytes *buffer, cdedupe_bytes_item_t *items, size_t count)
{
    buffer->batch = count;
    for (size_t i = 0; i < count; i++)
        describe(buffer, &buffer->items[i], &items[i]);
}

cdedupe_result_t
cdedupe_bytes_take(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items, size_t capacity,
                   size_t *count)
{
    cdedupe_result_t result;

    if (capacity == 0)
        return reject_take(count);
    result = cdedupe_take(buffer->core, buffer->items, begin_take(buffer, capacity), count);
    end_take(buffer, items, *count);
    return result;
}

cdedupe_result_t
cdedupe_bytes_take_wait(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items, size_t capacity,
                        size_t *count, int64_t timeout_ms)
{
    cdedupe_result_t result;

    if (capacity == 0 || buffer->claim != CDEDUPE_CLAIM_LOOP)
        return reject_take(count);
    result = cdedupe_take_wait(buffer->core, buffer->items, begin_take(buffer, capacity), count,
                               timeout_ms);
    end_take(buffer, items, *count);
    return result;
}

cdedupe_result_t
cdedupe_bytes_put_back(cdedupe_bytes_t *buffer, size_t *count)
{
    size_t wanted = *count, first;
    cdedupe_result_t result;

    if (wanted > buffer->batch)
        return CDEDUPE_INVALID_ARGUMENT;
    first = buffer->batch - wanted;
    result = cdedupe_put_back(buffer->core, buffer->items + first, count);
    if (result == CDEDUPE_INVALID_ARGUMENT)
        return result;
    destroy_items(buffer, first + *count);
    if (cdedupe_has_dropped(buffer->core))
        collect(buffer, CALL_CLEARS);
    return result;
}

/* ---------------------------------------------------------------------------------------------- */

void
cdedupe_bytes_stop(cdedupe_bytes_t *buffer)
{
    cdedupe_stop(buffer->core);
}

cdedupe_result_t
cdedupe_bytes_finish(cdedupe_bytes_t *buffer, cdedupe_finish_t when)
{
    return cdedupe_finish(buffer->core, when);
}

void
cdedupe_bytes_statistics(cdedupe_bytes_t *buffer, cdedupe_statistics_t *out, size_t size)
{
    cdedupe_statistics_t statistics;

    cdedupe_statistics(buffer->core, &statistics, sizeof(statistics));
    statistics.memory += sync_load_relaxed(&buffer->memory.bytes);
    memset(out, 0, size);
    memcpy(out, &statistics, size < sizeof(statistics) ? size : sizeof(statistics));
}

const char *
cdedupe_bytes_validate(cdedupe_bytes_t *buffer)
{
    const char *fault = cdedupe_validate(buffer->core);

    return fault != NULL ? fault : values_validate(&buffer->values);
}
