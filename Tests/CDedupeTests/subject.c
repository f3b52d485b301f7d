/* SPDX-License-Identifier: Apache-2.0 */
/* The buffer under test; see subject.h. */
#include "subject.h"

#include <stdarg.h>
#include <stdlib.h>

#include "check.h"

#define PAYLOAD_MAGIC UINT64_C(0x7061796c6f616421)
#define POISON UINT64_C(0xdeaddeaddeaddead)

/* Ids in the longest value: more than the store of values keeps together with others. */
#ifdef CDEDUPE_TEST_SIZES
enum { LONG_VALUE = 100 };
#else
enum { LONG_VALUE = 8200 };
#endif

/* What is in a slot at the handle level. */
typedef struct payload {
    uint64_t magic;
    uint64_t object; /* Index of the object that keeps book of it. */
    uint64_t revision;
    uint64_t weight;
} payload_t;

static void *
must_resize(void *memory, size_t size)
{
    void *moved = realloc(memory, size);

    if (moved == NULL) {
        fprintf(stderr, "the test program itself is out of memory\n");
        abort();
    }
    return moved;
}

static void
wake_hook(void *context)
{
    subject_t *subject = context;

    subject->wakes++;
    if (subject->on_wake != NULL) {
        subject->on_wake(subject);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* The books                                                                                      */

static void
grow_book(book_t *book)
{
    size_t count = book->object_count;
    size_t more = count * 2 + 16;

    book->objects = must_resize(book->objects, more * sizeof(*book->objects));
    book->free_objects = must_resize(book->free_objects, more * sizeof(*book->free_objects));
    memset(book->objects + count, 0, (more - count) * sizeof(*book->objects));
    for (; book->object_count < more; book->object_count++) {
        book->free_objects[book->free_count++] = (uint32_t)book->object_count;
    }
}

static uint32_t
new_object(book_t *book, uint64_t id)
{
    uint32_t number;

    if (book->free_count == 0) {
        grow_book(book);
    }
    number = book->free_objects[--book->free_count];
    book->objects[number].id = id;
    book->objects[number].owner = OWNER_TEST;
    book->living++;
    return number;
}

static void
end_object(book_t *book, object_t *object)
{
    CHECK_EQ(object->owner, OWNER_TEST);
    object->owner = OWNER_NOBODY;
    book->free_objects[book->free_count++] = (uint32_t)(object - book->objects);
    book->living--;
}

/* All that is queued is dropped. */
static void
drop_queue(book_t *book)
{
    size_t index;

    for (index = 0; index < book->object_count; index++) {
        if (book->objects[index].owner == OWNER_QUEUE) {
            book->objects[index].owner = OWNER_GARBAGE;
        }
    }
}

static void
close_book(book_t *book)
{
    free(book->objects);
    free(book->free_objects);
}

/* It comes back from the buffer: from its queue, or from what a restart dropped. Returns its id. */
static uint64_t
leave_buffer(object_t *object, bool from_queue, bool from_garbage)
{
    CHECK((from_queue && object->owner == OWNER_QUEUE) ||
          (from_garbage && object->owner == OWNER_GARBAGE));
    object->owner = OWNER_TEST;
    return object->id;
}

static uint32_t
construct(subject_t *subject, cdedupe_slot_t slot, uint64_t id)
{
    payload_t *payload = cdedupe_payload(subject->core, slot);
    uint32_t number = new_object(&subject->payloads, id);

    payload->magic = PAYLOAD_MAGIC;
    payload->object = number;
    payload->revision = subject_revision(id);
    payload->weight = subject_weight(id);
    return number;
}

/* Whose payload this is, and that it is one at all. */
static object_t *
object_of(subject_t *subject, cdedupe_slot_t slot)
{
    payload_t *payload = cdedupe_payload(subject->core, slot);

    if (!CHECK_EQ(payload->magic, PAYLOAD_MAGIC) ||
        !CHECK(payload->object < subject->payloads.object_count)) {
        abort(); /* Somebody wrote over it, or it was destroyed: there is no sense in going on. */
    }
    return &subject->payloads.objects[payload->object];
}

static uint64_t
come_back(subject_t *subject, cdedupe_slot_t slot, bool from_queue, bool from_garbage)
{
    return leave_buffer(object_of(subject, slot), from_queue, from_garbage);
}

static void
destroy(subject_t *subject, cdedupe_slot_t slot)
{
    payload_t *payload = cdedupe_payload(subject->core, slot);

    end_object(&subject->payloads, object_of(subject, slot));
    payload->magic = POISON;
}

static void
discard(subject_t *subject, cdedupe_slot_t slot)
{
    if (slot != 0) {
        destroy(subject, slot);
        cdedupe_discard(subject->core, &slot, 1);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Life                                                                                           */

subject_options_t
subject_defaults(subject_level_t level)
{
    subject_options_t options;

    memset(&options, 0, sizeof(options));
    options.level = level;
    options.batch_size = 100;
    return options;
}

/* Nothing ages, so that the models can tell every counter. */
static uint64_t
standing_clock(void *context)
{
    (void)context;
    return 0;
}

/*
 * The newer payload becomes both. The older one is changed too, every other time, as a caller may
 * that moves something out of it: what it weighed was counted before.
 */
static void
merge_hook(void *context, void *older, void *newer)
{
    subject_t *subject = context;
    payload_t *from = older, *into = newer;
    object_t *objects = subject->payloads.objects;

    CHECK_EQ(from->magic, PAYLOAD_MAGIC);
    CHECK_EQ(into->magic, PAYLOAD_MAGIC);
    objects[into->object].id = subject_merged(objects[from->object].id, objects[into->object].id);
    into->revision = subject_revision(objects[into->object].id);
    into->weight = subject_weight(objects[into->object].id);
    from->weight += subject->merges++ % 2;
}

static cdedupe_result_t
create(subject_t *subject)
{
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(payload_t);
    options.payload_alignment = _Alignof(payload_t);
    options.batch_size = subject->options.batch_size;
    options.hash_seed = subject->options.hash_seed;
    options.wake = wake_hook;
    options.wake_context = subject;
    options.clock = subject->options.clock != NULL ? subject->options.clock : standing_clock;
    options.suppress_unchanged = subject->options.suppress;
    options.revision_offset = offsetof(payload_t, revision);
    options.maximum_pending_keys = subject->options.maximum_keys;
    options.maximum_pending_bytes = subject->options.maximum_bytes;
    options.weight_offset = offsetof(payload_t, weight);
    options.merge = subject->options.merging ? merge_hook : NULL;
    options.merge_context = subject;
    if (subject->options.hooks != NULL) {
        hooks_use(subject->options.hooks, &options);
    }
    if (subject->options.level == SUBJECT_BYTES) {
        return cdedupe_bytes_create(&options, &subject->bytes);
    }
    return cdedupe_create(&options, &subject->core);
}

cdedupe_result_t
subject_open(subject_t *subject, const subject_options_t *options)
{
    size_t batch_size = options->batch_size;
    cdedupe_result_t result;

    memset(subject, 0, sizeof(*subject));
    subject->options = *options;
    subject->paranoid = true;
    subject->pin_state = getenv("SUBJECT_PINS") == NULL ? 0 : 1;
    result = create(subject);
    if (result != CDEDUPE_OK) {
        CHECK(subject->core == NULL && subject->bytes == NULL);
        return result;
    }
    subject->items = must_resize(NULL, batch_size * sizeof(*subject->items));
    subject->core_items = must_resize(NULL, batch_size * sizeof(*subject->core_items));
    subject->bytes_items = must_resize(NULL, batch_size * sizeof(*subject->bytes_items));
    return result;
}

static void discard_kept(subject_t *subject, size_t first);

static void
destroy_leftovers(subject_t *subject)
{
    uint64_t cursor = 0;
    cdedupe_slot_t slot;

    while ((slot = cdedupe_drain_next(subject->core, &cursor)) != 0) {
        come_back(subject, slot, true, true);
        destroy(subject, slot);
    }
}

void
subject_close(subject_t *subject)
{
    if (subject->core != NULL) {
        discard_kept(subject, 0);
        destroy_leftovers(subject);
        CHECK_EQ(subject->payloads.living, 0);
    }
    cdedupe_destroy(subject->core);
    cdedupe_bytes_destroy(subject->bytes);
    free(subject->items);
    free(subject->core_items);
    free(subject->bytes_items);
    close_book(&subject->payloads);
    free(subject->updates);
    free(subject->numbers);
    free(subject->text);
    memset(subject, 0, sizeof(*subject));
}

/* ---------------------------------------------------------------------------------------------- */
/* Pins                                                                                           */

/* A random number below `bound`. */
static uint64_t
pin_choice(subject_t *subject, uint64_t bound)
{
    subject->pin_state = subject->pin_state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (subject->pin_state >> 33) % bound;
}

static void
pin_once(subject_t *subject, subject_pin_t *pinned)
{
    cdedupe_pin_t pin;
    cdedupe_result_t result =
        subject->bytes != NULL
            ? cdedupe_bytes_pin(subject->bytes, pinned->key, pinned->length, &pin)
            : cdedupe_pin(subject->core, pinned->key, pinned->length, &pin);

    CHECK(result == CDEDUPE_OK || result == CDEDUPE_NO_MEMORY);
    CHECK((result == CDEDUPE_OK) == (pin != 0));
    if (result == CDEDUPE_OK) {
        CHECK(pinned->count == 0 || pinned->pin == pin);
        pinned->pin = pin;
        pinned->count++;
    }
}

static void
unpin_once(subject_t *subject, subject_pin_t *pinned)
{
    CHECK_EQ(subject->bytes != NULL ? cdedupe_bytes_unpin(subject->bytes, pinned->pin)
                                    : cdedupe_unpin(subject->core, pinned->pin),
             CDEDUPE_OK);
    pinned->count--;
}

/* Before a call of the buffer: one key may get another pin, or lose one. */
static void
shuffle_pins(subject_t *subject)
{
    subject_pin_t *pinned;

    if (subject->pin_state == 0 || subject->putting) {
        return;
    }
    pinned = &subject->pins[pin_choice(subject, SUBJECT_PINS)];
    if (pinned->length > 0 && pin_choice(subject, 3) == 0) {
        pin_once(subject, pinned);
    } else if (pinned->count > 0) {
        unpin_once(subject, pinned);
    }
}

/* A pin to put the key by, or zero. May pin the key. */
static cdedupe_pin_t
pin_of(subject_t *subject, const void *key, size_t length)
{
    subject_pin_t *pinned, *free_place = NULL;

    if (subject->pin_state == 0 || length == 0 || length > SUBJECT_PIN_KEY) {
        return 0;
    }
    for (pinned = subject->pins; pinned < subject->pins + SUBJECT_PINS; pinned++) {
        if (pinned->length == length && memcmp(pinned->key, key, length) == 0) {
            break;
        }
        free_place = pinned->count == 0 ? pinned : free_place;
    }
    if (pinned == subject->pins + SUBJECT_PINS) {
        if (free_place == NULL) {
            return 0;
        }
        pinned = free_place;
        memcpy(pinned->key, key, length);
        pinned->length = length;
    }
    if (pinned->count == 0 && pin_choice(subject, 2) == 0) {
        pin_once(subject, pinned);
    }
    return pinned->count > 0 && pin_choice(subject, 4) > 0 ? pinned->pin : 0;
}

void
subject_pin(subject_t *subject, uint64_t seed)
{
    subject->pin_state = seed == 0 ? 1 : seed;
    shuffle_pins(subject);
}

static uint64_t
count_pins(const subject_t *subject)
{
    uint64_t count = 0;

    for (size_t i = 0; i < SUBJECT_PINS; i++) {
        count += subject->pins[i].count > 0;
    }
    return count;
}

/* A sum of the keys that the last take lent. */
static uint64_t
sum_of_keys(const subject_t *subject)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < subject->lent; i++) {
        for (size_t j = 0; j < subject->items[i].length; j++) {
            sum = sum * 31 + (unsigned char)subject->items[i].key[j];
        }
    }
    return sum;
}

/* The keys that the last take lent are as they were, whatever was unpinned and put since. */
static void
check_lent_keys(const subject_t *subject)
{
    CHECK_EQ(sum_of_keys(subject), subject->lent_sum);
}

static void
note_lent_keys(subject_t *subject, size_t count)
{
    subject->lent = subject->pin_state != 0 ? count : 0;
    subject->lent_sum = sum_of_keys(subject);
}

/* ---------------------------------------------------------------------------------------------- */
/* Source                                                                                         */

static void
check_if_paranoid(subject_t *subject)
{
    if (subject->paranoid) {
        subject_check(subject);
    }
}

size_t
subject_value_length(uint64_t id, bool long_values)
{
    static const size_t counts[] = {9, 33, 7, 12, 50, 8, 20};
    size_t count = 1;

    if (long_values && id % 2 == 1) {
        count = id % 64 == 63 ? LONG_VALUE : counts[id / 2 % 7];
    }
    return count * sizeof(uint64_t);
}

/* The value of an id: itself, a few times over if it is to be long. Returns the value's length. */
static size_t
make_value(const subject_t *subject, uint64_t id, uint64_t value[LONG_VALUE])
{
    size_t length = subject_value_length(id, subject->options.long_values);
    size_t index;

    for (index = 0; index < length / sizeof(*value); index++) {
        value[index] = id;
    }
    return length;
}

static cdedupe_result_t
put_bytes(subject_t *subject, subject_update_t *update)
{
    cdedupe_pin_t pin =
        update->pin != 0 ? update->pin : pin_of(subject, update->key, update->length);
    uint64_t value[LONG_VALUE];
    size_t length = update->deletion ? 0 : make_value(subject, update->id, value);

    if (pin != 0) {
        return update->deletion
                   ? cdedupe_bytes_delete_pinned(subject->bytes, pin, update->id, &update->outcome)
                   : cdedupe_bytes_put_pinned(subject->bytes, pin, value, length, update->id,
                                              &update->outcome);
    }
    if (update->deletion) {
        return cdedupe_bytes_delete(subject->bytes, update->key, update->length, update->id,
                                    &update->outcome);
    }
    return cdedupe_bytes_put(subject->bytes, update->key, update->length, value, length, update->id,
                             &update->outcome);
}

/* A put says that a bound was exceeded exactly if an update overflowed, or was dropped for that. */
static void
check_overflow(subject_t *subject, const subject_update_t *updates, size_t count,
               cdedupe_result_t result)
{
    bool overflowed = false;

    if (result != CDEDUPE_OK && result != CDEDUPE_OVERFLOWED) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        overflowed |=
            updates[i].outcome == CDEDUPE_OUTCOME_OVERFLOWED ||
            (updates[i].outcome == CDEDUPE_OUTCOME_DROPPED &&
             subject_statistics(subject).overflowed && !subject_statistics(subject).stopped);
    }
    CHECK_EQ(result, overflowed ? CDEDUPE_OVERFLOWED : CDEDUPE_OK);
}

static cdedupe_result_t
put_all_bytes(subject_t *subject, subject_update_t *updates, size_t count)
{
    for (size_t index = 0; index < count; index++) {
        cdedupe_result_t result = put_bytes(subject, &updates[index]);

        check_overflow(subject, &updates[index], 1, result);
        if (result != CDEDUPE_OK && result != CDEDUPE_OVERFLOWED) {
            updates[index].outcome = CDEDUPE_OUTCOME_REJECTED;
            return result;
        }
    }
    return CDEDUPE_OK;
}

/* The caller's again, or never anything else. */
static void
discard_update(subject_t *subject, cdedupe_update_t *update)
{
    discard(subject, update->slot);
    update->slot = 0;
}

static cdedupe_result_t
prepare_one(subject_t *subject, const subject_update_t *from, cdedupe_update_t *update,
            uint32_t *number)
{
    cdedupe_result_t result;

    memset(update, 0, sizeof(*update));
    update->key = from->key;
    update->key_length = from->length;
    update->pin = from->pin != 0 ? from->pin : pin_of(subject, from->key, from->length);
    if (update->pin != 0) { /* The key must not be read. */
        update->key = NULL;
        update->key_length = SIZE_MAX;
    }
    update->deletion = from->deletion;
    if (from->id != 0) {
        result = cdedupe_acquire(subject->core, &update->slot, 1);
        if (result != CDEDUPE_OK) {
            update->slot = 0;
            return result;
        }
        CHECK(update->slot != 0);
        *number = construct(subject, update->slot, from->id);
    }
    return CDEDUPE_OK;
}

/* Slots with payloads for all updates that have one, or none at all. */
static cdedupe_result_t
prepare(subject_t *subject, const subject_update_t *updates, size_t count)
{
    size_t index;

    for (index = 0; index < count; index++) {
        cdedupe_result_t result = prepare_one(subject, &updates[index], &subject->updates[index],
                                              &subject->numbers[index]);

        if (result != CDEDUPE_OK) {
            for (size_t i = 0; i <= index; i++) {
                discard_update(subject, &subject->updates[i]);
            }
            return result;
        }
    }
    return CDEDUPE_OK;
}

/* A payload in `displaced`: the pending one of the key, or one that a restart dropped. */
static void
settle_displaced(subject_t *subject, subject_update_t *update, cdedupe_slot_t slot)
{
    /* Putting back may leave the payload of a deletion, too. */
    bool garbage = object_of(subject, slot)->owner == OWNER_GARBAGE ||
                   (subject->untook && update->outcome == CDEDUPE_OUTCOME_QUEUED);
    uint64_t id = come_back(subject, slot, true, true);

    if (!garbage) {
        CHECK(update->outcome == CDEDUPE_OUTCOME_REPLACED ||
              update->outcome == CDEDUPE_OUTCOME_CANCELLED);
        update->displaced = id;
    } else {
        CHECK(update->outcome == CDEDUPE_OUTCOME_QUEUED ||
              update->outcome == CDEDUPE_OUTCOME_SUPPRESSED);
    }
    discard(subject, slot);
}

/*
 * The header's words on `slot` and `displaced`, for one update that was put; `given` is what went
 * in.
 */
static void
settle(subject_t *subject, subject_update_t *update, cdedupe_update_t *put,
       const cdedupe_update_t *given, uint32_t number)
{
    update->outcome = (cdedupe_outcome_t)put->outcome;
    if (put->outcome == CDEDUPE_OUTCOME_OVERFLOWED) {
        drop_queue(&subject->payloads);
    }
    if (put->outcome == CDEDUPE_OUTCOME_QUEUED || put->outcome == CDEDUPE_OUTCOME_REPLACED) {
        CHECK_EQ(put->slot, 0);
    } else {
        CHECK_EQ(put->slot, given->slot);
    }
    if (put->displaced != 0) {
        settle_displaced(subject, update, put->displaced);
    }
    if (given->slot != 0 && put->slot == 0) {
        subject->payloads.objects[number].owner = OWNER_QUEUE;
    }
}

static void
reserve_scratch(subject_t *subject, size_t count)
{
    if (subject->scratch < count) {
        subject->scratch = count * 2;
        subject->updates =
            must_resize(subject->updates, subject->scratch * sizeof(*subject->updates));
        subject->numbers =
            must_resize(subject->numbers, subject->scratch * sizeof(*subject->numbers));
    }
}

/*
 * Every second call with one payload goes by cdedupe_single_put(). The payload moves into the slot
 * that cdedupe_single_begin() chose. Returns false if the call goes by cdedupe_put().
 */
static bool
begin_single(subject_t *subject, size_t count, cdedupe_single_t *single)
{
    cdedupe_update_t *update = &subject->updates[0];
    payload_t payload;

    if (count != 1 || update->slot == 0 || subject->turns++ % 2 == 0)
        return false;
    memcpy(&payload, cdedupe_payload(subject->core, update->slot), sizeof(payload));
    cdedupe_discard(subject->core, &update->slot, 1);
    if (cdedupe_single_begin(subject->core, single) != CDEDUPE_OK) {
        /* The slot that was just discarded is free. */
        CHECK_EQ(cdedupe_acquire(subject->core, &update->slot, 1), CDEDUPE_OK);
        memcpy(cdedupe_payload(subject->core, update->slot), &payload, sizeof(payload));
        return false;
    }
    memcpy(single->payload, &payload, sizeof(payload));
    single->pin = update->pin;
    update->slot = single->slot;
    return true;
}

/* The slots that come back stay the subject's, which checks what is in them. */
static cdedupe_result_t
put_single(subject_t *subject, cdedupe_single_t *single)
{
    cdedupe_update_t *update = &subject->updates[0];
    cdedupe_result_t result = cdedupe_single_put(subject->core, single, update->key,
                                                 update->key_length, update->deletion);

    CHECK_EQ(single->returned != NULL, single->slot != 0);
    CHECK_EQ(single->displaced != NULL, single->displaced_slot != 0);
    if (single->returned != NULL)
        CHECK(single->returned == single->payload);
    if (single->displaced != NULL)
        CHECK(single->displaced == cdedupe_payload(subject->core, single->displaced_slot));
    update->slot = single->slot;
    update->displaced = single->displaced_slot;
    update->outcome = single->outcome;
    single->slot = single->displaced_slot = 0;
    cdedupe_single_end(subject->core, single);
    return result;
}

/* Returns how many updates were put. */
static size_t
put_some(subject_t *subject, subject_update_t *updates, size_t count, cdedupe_result_t *result)
{
    cdedupe_update_t *given = must_resize(NULL, (count + 1) * sizeof(*given));
    cdedupe_single_t single;
    bool is_single;
    size_t index;

    for (index = 0; index < count; index++) {
        cdedupe_update_t *update = &subject->updates[index];

        update->displaced = UINT32_MAX; /* Outputs are written, whatever was there. */
        update->outcome = 99;
    }
    is_single = begin_single(subject, count, &single);
    memcpy(given, subject->updates, count * sizeof(*given));
    *result = is_single ? put_single(subject, &single)
                        : cdedupe_put(subject->core, subject->updates, count);
    for (index = 0; index < count; index++) {
        settle(subject, &updates[index], &subject->updates[index], &given[index],
               subject->numbers[index]);
        if (updates[index].outcome == CDEDUPE_OUTCOME_UNTOUCHED ||
            updates[index].outcome == CDEDUPE_OUTCOME_REJECTED) {
            break;
        }
        discard_update(subject, &subject->updates[index]);
    }
    check_overflow(subject, updates, index, *result);
    for (size_t i = index + 1; i < count; i++) {
        settle(subject, &updates[i], &subject->updates[i], &given[i], subject->numbers[i]);
        CHECK_EQ(updates[i].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    }
    free(given);
    return index;
}

static cdedupe_result_t
put_handles(subject_t *subject, subject_update_t *updates, size_t count)
{
    cdedupe_result_t result;
    size_t index;

    reserve_scratch(subject, count + 1); /* Not NULL, whatever the count. */
    result = prepare(subject, updates, count);
    if (result != CDEDUPE_OK) {
        return result;
    }
    index = put_some(subject, updates, count, &result);
    CHECK((index < count) == (result != CDEDUPE_OK && result != CDEDUPE_OVERFLOWED));
    for (; index < count; index++) {
        discard_update(subject, &subject->updates[index]);
    }
    return result;
}

cdedupe_result_t
subject_put(subject_t *subject, subject_update_t *updates, size_t count)
{
    cdedupe_result_t result;
    size_t index;

    shuffle_pins(subject);
    for (index = 0; index < count; index++) {
        updates[index].outcome = CDEDUPE_OUTCOME_UNTOUCHED;
        updates[index].displaced = 0;
    }
    subject->putting = true;
    if (subject->bytes != NULL) {
        result = put_all_bytes(subject, updates, count);
    } else {
        result = put_handles(subject, updates, count);
    }
    subject->putting = false;
    check_if_paranoid(subject);
    return result == CDEDUPE_OVERFLOWED ? CDEDUPE_OK : result;
}

cdedupe_result_t
subject_status(subject_t *subject, cdedupe_status_t status)
{
    cdedupe_result_t result;

    shuffle_pins(subject);
    result = subject->bytes != NULL ? cdedupe_bytes_put_status(subject->bytes, status)
                                    : cdedupe_put_status(subject->core, status);

    check_if_paranoid(subject);
    return result;
}

cdedupe_result_t
subject_restart(subject_t *subject)
{
    cdedupe_result_t result;

    shuffle_pins(subject);
    result = subject->bytes != NULL ? cdedupe_bytes_restart(subject->bytes)
                                    : cdedupe_restart(subject->core);

    if (result == CDEDUPE_OK) {
        drop_queue(&subject->payloads);
    }
    check_if_paranoid(subject);
    return result;
}

cdedupe_result_t
subject_collect_some(subject_t *subject, size_t capacity)
{
    cdedupe_slot_t *slots;
    cdedupe_result_t result;
    size_t count = 0;
    size_t index;

    if (subject->core == NULL) {
        return CDEDUPE_EMPTY;
    }
    slots = must_resize(NULL, capacity * sizeof(*slots));
    result = cdedupe_collect(subject->core, slots, capacity, &count);
    CHECK(count <= capacity && (result == CDEDUPE_OK || count == 0));
    for (index = 0; index < count; index++) {
        CHECK(slots[index] != 0);
        come_back(subject, slots[index], subject->untook, true);
        destroy(subject, slots[index]);
    }
    cdedupe_discard(subject->core, slots, count);
    check_if_paranoid(subject);
    free(slots);
    return result;
}

void
subject_collect(subject_t *subject, size_t capacity)
{
    size_t index;

    if (subject->core == NULL) {
        return;
    }
    while (subject_collect_some(subject, capacity) == CDEDUPE_OK) {
    }
    CHECK(!cdedupe_has_dropped(subject->core));
    for (index = 0; index < subject->payloads.object_count; index++) {
        CHECK(subject->payloads.objects[index].owner != OWNER_GARBAGE); /* None may stay behind. */
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Sink and end                                                                                   */

cdedupe_result_t
subject_claim(subject_t *subject, cdedupe_claim_t kind)
{
    return subject->bytes != NULL ? cdedupe_bytes_claim(subject->bytes, kind)
                                  : cdedupe_claim(subject->core, kind);
}

void
subject_release(subject_t *subject)
{
    check_lent_keys(subject);
    note_lent_keys(subject, 0);
    discard_kept(subject, 0);
    if (subject->bytes != NULL) {
        cdedupe_bytes_release(subject->bytes);
    } else {
        cdedupe_release(subject->core);
    }
    check_if_paranoid(subject);
}

void
subject_stop(subject_t *subject)
{
    if (subject->bytes != NULL) {
        cdedupe_bytes_stop(subject->bytes);
    } else {
        cdedupe_stop(subject->core);
    }
    check_if_paranoid(subject);
}

cdedupe_result_t
subject_finish(subject_t *subject, cdedupe_finish_t when)
{
    cdedupe_result_t result = subject->bytes != NULL ? cdedupe_bytes_finish(subject->bytes, when)
                                                     : cdedupe_finish(subject->core, when);

    check_if_paranoid(subject);
    return result;
}

static subject_item_t
item_from_bytes(const subject_t *subject, const cdedupe_bytes_item_t *from)
{
    subject_item_t item = {from->key,
                           from->key_length,
                           from->revision,
                           (cdedupe_item_kind_t)from->kind,
                           (cdedupe_status_t)from->status,
                           0};

    if (from->kind == CDEDUPE_ITEM_NEW || from->kind == CDEDUPE_ITEM_UPDATED) {
        uint64_t value[LONG_VALUE];
        size_t length = make_value(subject, from->revision, value);

        CHECK(from->value_length == length && memcmp(from->value, value, length) == 0);
    } else {
        CHECK(from->value == NULL);
        CHECK_EQ(from->value_length, 0);
    }
    return item;
}

static subject_item_t
item_from_core(subject_t *subject, const cdedupe_item_t *from)
{
    subject_item_t item = {from->key,
                           from->key_length,
                           0,
                           (cdedupe_item_kind_t)from->kind,
                           (cdedupe_status_t)from->status,
                           cdedupe_age(subject->core, from)};

    if (from->slot != 0) {
        item.id = come_back(subject, from->slot, true, false);
    }
    if (!subject->keeps_batch) {
        discard(subject, from->slot);
    }
    if (from->kind == CDEDUPE_ITEM_STATUS) {
        CHECK_EQ(from->slot, 0);
    }
    if (from->kind == CDEDUPE_ITEM_NEW || from->kind == CDEDUPE_ITEM_UPDATED) {
        CHECK(from->slot != 0);
    }
    return item;
}

/* The kept items from `first` on are done with. */
static void
discard_kept(subject_t *subject, size_t first)
{
    while (subject->kept > first) {
        discard(subject, subject->core_items[--subject->kept].slot);
    }
}

cdedupe_result_t
subject_take(subject_t *subject, size_t capacity)
{
    cdedupe_result_t result;
    size_t index;

    shuffle_pins(subject);
    check_lent_keys(subject);
    discard_kept(subject, 0);
    subject->count = 12345; /* Must be overwritten. */
    if (subject->bytes != NULL) {
        result =
            cdedupe_bytes_take(subject->bytes, subject->bytes_items, capacity, &subject->count);
    } else {
        result = cdedupe_take(subject->core, subject->core_items, capacity, &subject->count);
    }
    if (result != CDEDUPE_OK) {
        CHECK_EQ(subject->count, 0);
        subject->count = 0;
    }
    CHECK(result != CDEDUPE_OK || (subject->count > 0 && subject->count <= capacity &&
                                   subject->count <= subject->options.batch_size));
    for (index = 0; index < subject->count; index++) {
        subject->items[index] = subject->bytes != NULL
                                    ? item_from_bytes(subject, &subject->bytes_items[index])
                                    : item_from_core(subject, &subject->core_items[index]);
        CHECK(subject->items[index].kind != CDEDUPE_ITEM_STATUS ||
              subject->items[index].key == NULL);
    }
    subject->kept = subject->keeps_batch && subject->core != NULL ? subject->count : 0;
    note_lent_keys(subject, subject->count);
    check_if_paranoid(subject);
    return result;
}

/* Returns the id of what came back, or zero. */
static uint64_t
settle_put_back(subject_t *subject, const cdedupe_item_t *given, const cdedupe_item_t *item)
{
    CHECK(item->slot == given->slot || item->slot == 0);
    if (item->slot == 0) {
        if (given->slot != 0) {
            object_of(subject, given->slot)->owner = OWNER_QUEUE;
        }
        return 0;
    }
    return object_of(subject, item->slot)->id;
}

static cdedupe_result_t
put_back_handles(subject_t *subject, size_t count, uint64_t *back)
{
    size_t first = subject->kept - count, left = count;
    cdedupe_item_t *given = must_resize(NULL, (subject->kept + 1) * sizeof(*given));
    cdedupe_result_t result;

    memcpy(given, subject->core_items, subject->kept * sizeof(*given));
    result = cdedupe_put_back(subject->core, subject->core_items + first, &left);
    CHECK(result == CDEDUPE_INVALID_ARGUMENT || (left == 0) == (result == CDEDUPE_OK));
    subject->left = left;
    for (size_t index = first + (result == CDEDUPE_INVALID_ARGUMENT ? count : left);
         index < first + count; index++) {
        back[index - first] = settle_put_back(subject, &given[index], &subject->core_items[index]);
    }
    discard_kept(subject, first + left);
    free(given);
    return result;
}

cdedupe_result_t
subject_put_back(subject_t *subject, size_t count, uint64_t *back)
{
    cdedupe_result_t result;

    shuffle_pins(subject);
    shuffle_pins(subject);
    check_lent_keys(subject);
    note_lent_keys(subject, 0);
    subject->untook = true;
    if (subject->bytes != NULL) {
        result = cdedupe_bytes_put_back(subject->bytes, &count);
        subject->left = count;
    } else if (count > subject->kept) {
        result = cdedupe_put_back(subject->core, subject->core_items, &count);
        CHECK_EQ(result, CDEDUPE_INVALID_ARGUMENT);
    } else {
        result = put_back_handles(subject, count, back);
    }
    check_if_paranoid(subject);
    return result;
}

/* ---------------------------------------------------------------------------------------------- */
/* Inspection                                                                                     */

cdedupe_statistics_t
subject_statistics(subject_t *subject)
{
    cdedupe_statistics_t statistics;

    memset(&statistics, 0xff, sizeof(statistics));
    if (subject->bytes != NULL) {
        cdedupe_bytes_statistics(subject->bytes, &statistics, sizeof(statistics));
    } else {
        cdedupe_statistics(subject->core, &statistics, sizeof(statistics));
    }
    return statistics;
}

const char *
subject_validate(subject_t *subject)
{
    return subject->bytes != NULL ? cdedupe_bytes_validate(subject->bytes)
                                  : cdedupe_validate(subject->core);
}

void
subject_check(subject_t *subject)
{
    cdedupe_statistics_t s = subject_statistics(subject);

    CHECK_EQ(s.received + s.synthesized_deletions,
             s.delivered + s.replaced + s.cancelled + s.suppressed + s.dropped + s.pending_keys);
    CHECK(s.pending_statuses <= s.pending_keys + 1);
    CHECK(s.peak_pending_keys >= s.pending_keys);
    if (subject->pin_state != 0) {
        CHECK_EQ(s.pinned_keys, count_pins(subject));
    }
    if (subject->options.hooks != NULL) {
        CHECK_EQ(s.memory, subject->options.hooks->held_bytes);
    }
    CHECK_NO_FAULT(subject_validate(subject));
}

/* ---------------------------------------------------------------------------------------------- */
/* For reading                                                                                    */

static cdedupe_outcome_t
put_one(subject_t *subject, const char *key, bool deletion, uint64_t id)
{
    subject_update_t update = {key, strlen(key), deletion, id, CDEDUPE_OUTCOME_UNTOUCHED, 0, 0};

    CHECK_EQ(subject_put(subject, &update, 1), CDEDUPE_OK);
    return update.outcome;
}

cdedupe_outcome_t
put(subject_t *subject, const char *key, uint64_t id)
{
    return put_one(subject, key, false, id);
}

cdedupe_outcome_t
del(subject_t *subject, const char *key)
{
    return put_one(subject, key, true, 0);
}

cdedupe_outcome_t
del_id(subject_t *subject, const char *key, uint64_t id)
{
    return put_one(subject, key, true, id);
}

__attribute__((format(printf, 2, 3))) static void
say(subject_t *subject, const char *format, ...)
{
    size_t room = subject->text_capacity - subject->text_length;
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(subject->text == NULL ? NULL : subject->text + subject->text_length, room,
                       format, arguments);
    va_end(arguments);
    if ((size_t)length >= room) {
        subject->text_capacity = subject->text_capacity * 2 + (size_t)length + 64;
        subject->text = must_resize(subject->text, subject->text_capacity);
        va_start(arguments, format);
        vsnprintf(subject->text + subject->text_length, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    subject->text_length += (size_t)length;
}

static void
say_item(subject_t *subject, const subject_item_t *item)
{
    static const char signs[] = {'+', '~', '-'};
    static const char *const statuses[] = {"<wait>", "<resync>", "<in-sync>"};

    if (item->kind == CDEDUPE_ITEM_STATUS) {
        say(subject, "%s",
            (unsigned)item->status <= CDEDUPE_STATUS_IN_SYNC ? statuses[item->status] : "<?>");
        return;
    }
    say(subject, "%c%.*s", (unsigned)item->kind <= CDEDUPE_ITEM_DELETED ? signs[item->kind] : '?',
        (int)item->length, item->length > 0 ? item->key : "");
    if (item->id != 0) {
        say(subject, "=%" PRIu64, item->id);
    }
}

/* Runs of updates are one call of the sink, each status is one. */
static void
say_batch(subject_t *subject)
{
    size_t index;

    for (index = 0; index < subject->count; index++) {
        if (index > 0) {
            bool same_call = subject->items[index].kind != CDEDUPE_ITEM_STATUS &&
                             subject->items[index - 1].kind != CDEDUPE_ITEM_STATUS;

            say(subject, same_call ? " " : " | ");
        }
        say_item(subject, &subject->items[index]);
    }
}

static void
say_result(subject_t *subject, cdedupe_result_t result)
{
    say(subject, "%s",
        result == CDEDUPE_EMPTY     ? "empty"
        : result == CDEDUPE_STOPPED ? "stopped"
                                    : cdedupe_result_text(result));
}

const char *
step(subject_t *subject)
{
    cdedupe_result_t result = subject_take(subject, subject->options.batch_size);

    subject->text_length = 0;
    say(subject, "%s", "");
    if (result == CDEDUPE_OK) {
        say_batch(subject);
    } else {
        say_result(subject, result);
    }
    return subject->text;
}

const char *
flush(subject_t *subject)
{
    bool first = true;
    cdedupe_result_t result;

    subject->text_length = 0;
    while ((result = subject_take(subject, subject->options.batch_size)) == CDEDUPE_OK) {
        say(subject, "%s", first ? "" : " || ");
        say_batch(subject);
        first = false;
    }
    if (first) {
        say_result(subject, result);
    }
    return subject->text;
}
