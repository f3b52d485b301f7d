/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain level: values are bytes, copied in; on top of the handles.
 */
#include "state/buffer.h"

#include <string.h>

/* A payload: short values stand in it, longer ones (then longer than a struct block) behind a pointer. */
enum { VALUE_INLINE = 48 };

struct value {
    uint64_t revision;
    uint64_t length;
    union {
        unsigned char bytes[VALUE_INLINE];
        void *block;
    } at;
};

_Static_assert(sizeof(struct value) == 64, "a payload is one cache line");

struct cdedupe_bytes {
    cdedupe_t *core;
    size_t batch_size;
    size_t batch;          /* How many items of the last batch are still lent. */
    cdedupe_item_t *items; /* Room for one batch. */
};

static struct memory *
memory_of(struct cdedupe_bytes *buffer)
{
    return &buffer->core->memory;
}

static struct value *
value_at(struct cdedupe_bytes *buffer, cdedupe_slot_t slot)
{
    return cdedupe_payload(buffer->core, slot);
}

static const void *
value_bytes(const struct value *value)
{
    return value->length <= VALUE_INLINE ? value->at.bytes : value->at.block;
}

static bool
value_init(struct cdedupe_bytes *buffer, struct value *value, const void *bytes, size_t length)
{
    value->length = length;
    if (length > VALUE_INLINE) {
        value->at.block = memory_allocate(memory_of(buffer), length, 8);
        if (value->at.block == NULL)
            return false;
    }
    if (length > 0)
        memcpy(length <= VALUE_INLINE ? value->at.bytes : value->at.block, bytes, length);
    return true;
}

/* Zero is no value. */
static void
value_destroy(struct cdedupe_bytes *buffer, cdedupe_slot_t slot)
{
    struct value *value;

    if (slot == 0)
        return;
    value = value_at(buffer, slot);
    if (value->length > VALUE_INLINE)
        memory_free(memory_of(buffer), value->at.block, (size_t)value->length, 8);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Life                                                                                                 */

static size_t
items_size(const struct cdedupe_bytes *buffer)
{
    size_t size = buffer->batch_size * sizeof(cdedupe_item_t);

    return size < sizeof(struct block) ? sizeof(struct block) : size;
}

static cdedupe_result_t
create_wrapper(cdedupe_t *core, cdedupe_bytes_t **out)
{
    struct cdedupe_bytes *buffer =
        memory_allocate(&core->memory, sizeof(*buffer), _Alignof(struct cdedupe_bytes));

    if (buffer == NULL)
        return CDEDUPE_NO_MEMORY;
    buffer->core = core;
    buffer->batch_size = core->batch_size;
    buffer->items = memory_allocate(&core->memory, items_size(buffer), _Alignof(cdedupe_item_t));
    if (buffer->items == NULL) {
        memory_free(&core->memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe_bytes));
        return CDEDUPE_NO_MEMORY;
    }
    *out = buffer;
    return CDEDUPE_OK;
}

cdedupe_result_t
cdedupe_bytes_create(const cdedupe_options_t *given, cdedupe_bytes_t **out)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_result_t result;
    cdedupe_t *core;

    *out = NULL;
    if (given != NULL) {
        if (given->size < sizeof(given->size) || given->size > 4096)
            return CDEDUPE_INVALID_ARGUMENT;
        memcpy(&options, given, given->size < sizeof(options) ? given->size : sizeof(options));
        options.size = sizeof(options);
    }
    options.payload_size = sizeof(struct value);
    options.payload_alignment = _Alignof(struct value);
    options.revision_offset = offsetof(struct value, revision);
    options.weight_offset = offsetof(struct value, length);
    if (options.merge != NULL)
        return CDEDUPE_INVALID_ARGUMENT;
    result = cdedupe_create(&options, &core);
    if (result != CDEDUPE_OK)
        return result;
    result = create_wrapper(core, out);
    if (result != CDEDUPE_OK)
        cdedupe_destroy(core);
    return result;
}

/* The values of the last batch, from item `first` on. */
static void
destroy_items(struct cdedupe_bytes *buffer, size_t first)
{
    cdedupe_slot_t slots[PUTS_PER_LOCK];

    while (buffer->batch > first) {
        size_t count = 0;

        while (count < PUTS_PER_LOCK && buffer->batch > first) {
            slots[count] = buffer->items[--buffer->batch].slot;
            value_destroy(buffer, slots[count++]);
        }
        cdedupe_discard(buffer->core, slots, count);
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
        value_destroy(buffer, slot);
    memory_free(&core->memory, buffer->items, items_size(buffer), _Alignof(cdedupe_item_t));
    memory_free(&core->memory, buffer, sizeof(*buffer), _Alignof(struct cdedupe_bytes));
    cdedupe_destroy(core);
}

/* ---------------------------------------------------------------------------------------------------- */
/* Source                                                                                               */

/* Destroys what restarts and overflows dropped. */
static void
collect(struct cdedupe_bytes *buffer)
{
    cdedupe_slot_t slots[SWEEPS_PER_LOCK];
    size_t count;

    while (cdedupe_has_dropped(buffer->core) &&
           cdedupe_collect(buffer->core, slots, SWEEPS_PER_LOCK, &count) == CDEDUPE_OK) {
        for (size_t i = 0; i < count; i++)
            value_destroy(buffer, slots[i]);
        cdedupe_discard(buffer->core, slots, count);
    }
}

/* Puts an update whose payload, if any, is complete; destroys what comes back. */
static cdedupe_result_t
put(struct cdedupe_bytes *buffer, cdedupe_update_t *update, cdedupe_outcome_t *outcome)
{
    cdedupe_result_t result = cdedupe_put(buffer->core, update, 1);
    cdedupe_slot_t back[2] = {update->slot, update->displaced};

    value_destroy(buffer, back[0]);
    value_destroy(buffer, back[1]);
    if (back[0] != 0 || back[1] != 0)
        cdedupe_discard(buffer->core, back, 2);
    if (outcome != NULL)
        *outcome = (cdedupe_outcome_t)update->outcome;
    if (update->outcome == CDEDUPE_OUTCOME_OVERFLOWED)
        collect(buffer);
    return result;
}

/* A slot with a value in it, or zero if there is no memory. */
static cdedupe_slot_t
make_value(struct cdedupe_bytes *buffer, const void *bytes, size_t length, uint64_t revision)
{
    cdedupe_slot_t slot;

    if (cdedupe_acquire(buffer->core, &slot, 1) != CDEDUPE_OK)
        return 0;
    value_at(buffer, slot)->revision = revision;
    if (value_init(buffer, value_at(buffer, slot), bytes, length))
        return slot;
    cdedupe_discard(buffer->core, &slot, 1);
    return 0;
}

static cdedupe_result_t
reject(cdedupe_outcome_t *outcome, cdedupe_result_t result)
{
    if (outcome != NULL)
        *outcome = CDEDUPE_OUTCOME_REJECTED;
    return result;
}

static cdedupe_result_t
put_value(struct cdedupe_bytes *buffer, cdedupe_update_t *update, const void *bytes, size_t length,
          uint64_t revision, cdedupe_outcome_t *outcome)
{
    if (update->key_length > CDEDUPE_KEY_MAX)
        return reject(outcome, CDEDUPE_KEY_TOO_LONG);
    update->slot = make_value(buffer, bytes, length, revision);
    return update->slot == 0 ? reject(outcome, CDEDUPE_NO_MEMORY) : put(buffer, update, outcome);
}

cdedupe_result_t
cdedupe_bytes_put(cdedupe_bytes_t *buffer, const void *key, size_t key_length, const void *value,
                  size_t value_length, uint64_t revision, cdedupe_outcome_t *outcome)
{
    cdedupe_update_t update = {.key = key, .key_length = key_length};

    return put_value(buffer, &update, value, value_length, revision, outcome);
}

cdedupe_result_t
cdedupe_bytes_delete(cdedupe_bytes_t *buffer, const void *key, size_t key_length, uint64_t revision,
                     cdedupe_outcome_t *outcome)
{
    cdedupe_update_t update = {.key = key, .key_length = key_length, .deletion = true};

    return put_value(buffer, &update, NULL, 0, revision, outcome);
}

cdedupe_result_t
cdedupe_bytes_put_status(cdedupe_bytes_t *buffer, cdedupe_status_t status)
{
    cdedupe_result_t result = cdedupe_put_status(buffer->core, status);

    collect(buffer);
    return result;
}

cdedupe_result_t
cdedupe_bytes_restart(cdedupe_bytes_t *buffer)
{
    cdedupe_result_t result = cdedupe_restart(buffer->core);

    collect(buffer);
    return result;
}

/* ---------------------------------------------------------------------------------------------------- */
/* Sink                                                                                                 */

cdedupe_result_t
cdedupe_bytes_claim(cdedupe_bytes_t *buffer, cdedupe_claim_t kind)
{
    return cdedupe_claim(buffer->core, kind);
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

cdedupe_result_t
cdedupe_bytes_take(cdedupe_bytes_t *buffer, cdedupe_bytes_item_t *items, size_t capacity,
                   size_t *count)
{
    cdedupe_result_t result;

    destroy_batch(buffer);
    if (capacity > buffer->batch_size)
        capacity = buffer->batch_size;
    result = cdedupe_take(buffer->core, buffer->items, capacity, count);
    buffer->batch = *count;
    for (size_t i = 0; i < *count; i++)
        describe(buffer, &buffer->items[i], &items[i]);
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
    collect(buffer);
    return result;
}

/* ---------------------------------------------------------------------------------------------------- */

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
    cdedupe_statistics(buffer->core, out, size);
}

const char *
cdedupe_bytes_validate(cdedupe_bytes_t *buffer)
{
    return cdedupe_validate(buffer->core);
}
