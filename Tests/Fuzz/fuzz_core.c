/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core's target: bytes become calls on three buffers, which are compared with the model after
 * each.
 *
 * The core is built for it with tiny tables (tiny.h in the core), with a hash function that the
 * input can make bad (keys.h) and with restart numbers of three bits. Result, outcomes, displaced
 * payloads, what was taken, wake-ups and counters must be the model's; cdedupe_validate() must find
 * nothing, and no payload may be lost, after every call. Where the contract leaves open what comes
 * next, the model steps aside, and all but it goes on.
 *
 * An input is a byte of settings, then calls:
 *
 *     7 6 5 4 3 2 1 0
 *     variant   call      on buffer 0, 1, 2 or (3) 0, then what the call reads: see run_*
 *         buffer
 *
 * Zeroes are read where an input ends too soon. FUZZ_VERBOSE in the environment: every call is
 * printed.
 */
#include "fuzz.h"

#include <stdarg.h>
#include <stdlib.h>

#include "beside_model.h"
#include "check.h"
#include "hooks.h"
#include "inside.h"
#include "keys.h"

enum { BUFFERS = 3, BATCH = 64, HELD_MAX = 64, CALLS_MAX = 400, HELD_MAGIC = 0x68656c64 };

/* A buffer, with the model of what it should be. */
typedef struct pair {
    bool open;
    subject_t subject;
    hooks_t hooks;
    model_t model;
    bool try_again;  /* A call that lacked memory is repeated. */
    bool in_status;  /* A status is being put: the wake-up hook may change the buffer, */
    bool hook_acts;  /* and will. */
    bool hook_acted; /* Inside a status: when, the model cannot tell. */
    uint64_t last_id;
    cdedupe_slot_t held[HELD_MAX]; /* Slots that are neither queued nor given back. */
    size_t held_count;
} pair_t;

static pair_t pairs[BUFFERS];

/* The input, as far as it was not read. */
static const uint8_t *input;
static size_t input_left;

static unsigned
next_byte(void)
{
    if (input_left == 0) {
        return 0;
    }
    input_left--;
    return *input++;
}

__attribute__((format(printf, 1, 2))) static void
say(const char *format, ...)
{
    static int verbose = -1;
    va_list arguments;

    if (verbose < 0) {
        verbose = getenv("FUZZ_VERBOSE") != NULL;
    }
    if (verbose) {
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Comparing                                                                                      */

static bool
is_modelled(const pair_t *pair)
{
    return !pair->hook_acted;
}

/*
 * Every slot that is out is the queue's, dropped by a restart, in the last batch or held here. At
 * the bytes level some may be missing.
 */
static void
check_slots(const pair_t *pair)
{
    const subject_t *subject = &pair->subject;

    if (subject->core != NULL) {
        CHECK_EQ(slots_out(subject->core), subject->payloads.living + pair->held_count);
    } else {
        cdedupe_statistics_t statistics = subject_statistics((subject_t *)subject);

        CHECK(slots_out(core_of(subject->bytes)) <= statistics.pending_keys +
                                                        subject->options.batch_size +
                                                        dropped(core_of(subject->bytes)));
    }
}

static void
compare(pair_t *pair)
{
    check_slots(pair);
    if (is_modelled(pair)) {
        CHECK_EQ(pair->subject.wakes, pair->model.wakes);
        beside_statistics(&pair->subject, &pair->model);
    }
    subject_check(&pair->subject);
}

/* Notes what was taken; gives back the keys' numbers. */
static void
read_items(pair_t *pair, size_t *keys)
{
    const subject_t *subject = &pair->subject;

    for (size_t i = 0; i < subject->count; i++) {
        const subject_item_t *item = &subject->items[i];

        keys[i] =
            item->kind == CDEDUPE_ITEM_STATUS ? MODEL_NO_KEY : key_number(item->key, item->length);
        CHECK(keys[i] != KEYS);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Memory                                                                                         */

/*
 * A call said that it had no memory: then it had none. There is some again, as far as the next
 * attempt goes.
 */
static void
after_failure(pair_t *pair, uint64_t failures_before)
{
    CHECK(pair->hooks.failures > failures_before);
    CHECK_NO_FAULT(subject_validate(&pair->subject));
    say(" no memory;");
    if (check_failed > 0) {
        abort(); /* Or it would be tried again forever. */
    }
}

static void
run_fail(pair_t *pair, unsigned variant)
{
    unsigned number = next_byte() % 64 + 1;

    say("%s %u",
        variant == 3   ? "memory again"
        : variant == 0 ? "one allocation fails:"
                       : "allocations fail from",
        number);
    pair->hooks.fail_at = variant == 3 ? 0 : pair->hooks.allocations + number;
    pair->hooks.fail_onwards = variant != 0;
    pair->try_again = variant != 2;
}

/* ---------------------------------------------------------------------------------------------- */
/* Source                                                                                         */

/* The model learns of those updates that were done; returns how many were. */
static size_t
settle(pair_t *pair, const subject_update_t *updates, size_t count, cdedupe_result_t result)
{
    size_t done;

    for (done = 0; done < count && updates[done].outcome != CDEDUPE_OUTCOME_REJECTED; done++) {
        size_t key = key_number(updates[done].key, updates[done].length);
        cdedupe_outcome_t wanted = CDEDUPE_OUTCOME_UNTOUCHED;
        uint64_t displaced = 0;

        if (updates[done].outcome == CDEDUPE_OUTCOME_UNTOUCHED) {
            break;
        }
        if (is_modelled(pair)) {
            wanted =
                model_put(&pair->model, key, updates[done].deletion, updates[done].id, &displaced);
        }
        if (is_modelled(pair)) { /* Still: input after the end of what a finish owes is not. */
            CHECK_EQ(updates[done].outcome, wanted);
            CHECK(pair->subject.bytes != NULL || updates[done].displaced == displaced);
        }
    }
    CHECK((done < count) == (result != CDEDUPE_OK));
    for (size_t i = done + 1; i < count; i++) {
        CHECK_EQ(updates[i].outcome, CDEDUPE_OUTCOME_UNTOUCHED);
    }
    return done;
}

static void
put_all(pair_t *pair, subject_update_t *updates, size_t count)
{
    for (;;) {
        uint64_t failures_before = pair->hooks.failures;
        cdedupe_result_t result = subject_put(&pair->subject, updates, count);
        size_t done = settle(pair, updates, count, result);

        updates += done;
        count -= done;
        if (result == CDEDUPE_OK) {
            return;
        }
        if (result == CDEDUPE_KEY_TOO_LONG) {
            CHECK(updates[0].length > CDEDUPE_KEY_MAX);
            say(" too long;");
            updates++;
            count--;
            continue;
        }
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        after_failure(pair, failures_before);
        if (!pair->try_again) {
            return;
        }
        pair->hooks.fail_at = 0;
    }
}

/* Where values are suppressed, there are few revisions; see subject_revision(). */
static uint64_t
make_id(pair_t *pair)
{
    uint64_t id = ++pair->last_id;

    if (!pair->subject.options.suppress) {
        return id;
    }
    return pair->subject.core == NULL ? id % 3 + 1 : id * 1000 + id % 3;
}

static subject_update_t
make_update(pair_t *pair, size_t key, bool deletion, bool bare)
{
    subject_update_t update = {
        .key = key_bytes(key),
        .length = key_length(key),
        .deletion = deletion,
        .id = make_id(pair),
        .outcome = CDEDUPE_OUTCOME_UNTOUCHED,
    };

    if (bare) {
        update.id = 0;
    }
    return update;
}

static void
run_put(pair_t *pair, unsigned variant)
{
    size_t key = next_byte();
    subject_update_t update = make_update(pair, key, variant >= 2, variant == 2);

    say("%s %zu", variant >= 2 ? "delete" : "set", key);
    put_all(pair, &update, 1);
}

/* One call with many updates, whose keys are in steps. */
static void
run_put_many(pair_t *pair, unsigned variant)
{
    subject_update_t updates[KEYS];
    size_t count = next_byte() + 1;
    size_t key = next_byte();
    size_t step = next_byte();

    say("%s %zu keys from %zu in steps of %zu", variant == 0 ? "set" : "set and delete", count, key,
        step);
    for (size_t i = 0; i < count; i++) {
        bool deletion = variant == 1 || (variant > 1 && i % variant == 0);

        updates[i] = make_update(pair, (key + i * step) % KEYS, deletion, deletion && i % 4 < 2);
    }
    put_all(pair, updates, count);
}

/*
 * A sweep that lacked memory may have queued some of its deletions: the model waits until it is
 * repeated.
 */
static void
run_status(pair_t *pair, unsigned variant)
{
    cdedupe_status_t status =
        variant > CDEDUPE_STATUS_IN_SYNC ? CDEDUPE_STATUS_IN_SYNC : (cdedupe_status_t)variant;
    bool sweeps = status == CDEDUPE_STATUS_IN_SYNC && pair->model.resync;
    uint64_t failures_before = pair->hooks.failures;
    cdedupe_result_t result;

    say("status %d", status);
    pair->in_status = true;
    while ((result = subject_status(&pair->subject, status)) == CDEDUPE_NO_MEMORY) {
        after_failure(pair, failures_before);
        failures_before = pair->hooks.failures;
        if (!pair->try_again && !sweeps) {
            break;
        }
        pair->hooks.fail_at = 0;
    }
    pair->in_status = false;
    if (is_modelled(pair) && result != CDEDUPE_NO_MEMORY) {
        CHECK(result == model_status(&pair->model, status) || !is_modelled(pair));
    }
}

static void
run_restart(pair_t *pair)
{
    cdedupe_result_t result;

    say("restart");
    result = subject_restart(&pair->subject);
    if (is_modelled(pair)) {
        CHECK(result == model_restart(&pair->model) || !is_modelled(pair));
    }
}

static void
run_collect(pair_t *pair, unsigned variant)
{
    size_t capacity = next_byte() % 16 + 1;

    say("collect %s%zu", variant == 3 ? "all, each time " : "", capacity);
    if (variant == 3) {
        subject_collect(&pair->subject, capacity);
    } else {
        subject_collect_some(&pair->subject, capacity);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Sink                                                                                           */

static cdedupe_result_t
take(pair_t *pair, size_t capacity)
{
    size_t limit =
        capacity < pair->subject.options.batch_size ? capacity : pair->subject.options.batch_size;
    cdedupe_result_t result = subject_take(&pair->subject, capacity);
    model_item_t wanted[BATCH];
    size_t keys[BATCH];
    size_t count;

    read_items(pair, keys);
    if (!is_modelled(pair)) {
        return result;
    }
    CHECK_EQ(result, model_take(&pair->model, limit, keys, pair->subject.count, wanted, &count));
    CHECK_EQ(pair->subject.count, count);
    for (size_t i = 0; i < count && i < pair->subject.count; i++) {
        beside_item(&pair->subject.items[i], keys[i], &wanted[i]);
    }
    return result;
}

static void
run_take(pair_t *pair, unsigned variant)
{
    say("take");
    if (variant == 3) {
        while (take(pair, BATCH) == CDEDUPE_OK) {
            compare(pair);
        }
    } else {
        take(pair, next_byte() + 1);
    }
}

/*
 * The model puts back as many, the last of them; what came back from the buffer begins at `first`.
 */
static void
compare_put_back(pair_t *pair, const uint64_t *back, size_t first, size_t count)
{
    uint64_t wanted[BATCH] = {0};

    if (!is_modelled(pair)) {
        return;
    }
    CHECK_EQ(model_put_back(&pair->model, count, wanted), CDEDUPE_OK);
    for (size_t i = 0; pair->subject.core != NULL && i < count; i++) {
        CHECK_EQ(back[first + i], wanted[i]);
    }
}

/* The last items of the last batch go back; sometimes more than there are. */
static void
run_put_back(pair_t *pair, unsigned variant)
{
    size_t count = variant == 3   ? next_byte()
                   : variant == 2 ? 1
                                  : pair->model.batch_count / (variant + 1);
    uint64_t failures_before = pair->hooks.failures;
    uint64_t back[KEYS] = {0};
    cdedupe_result_t result;

    say("put back %zu", count);
    if (pair->subject.core != NULL && !pair->subject.keeps_batch) {
        return; /* The payloads are gone. */
    }
    while ((result = subject_put_back(&pair->subject, count, back)) == CDEDUPE_NO_MEMORY) {
        after_failure(pair, failures_before);
        failures_before = pair->hooks.failures;
        compare_put_back(pair, back, pair->subject.left, count - pair->subject.left);
        count = pair->subject.left;
        if (!pair->try_again) {
            return;
        }
        pair->hooks.fail_at = 0;
    }
    if (result == CDEDUPE_OK) {
        compare_put_back(pair, back, 0, count);
    } else if (is_modelled(pair)) {
        CHECK_EQ(result, model_put_back(&pair->model, count, back));
    }
}

static void
run_claim(pair_t *pair, unsigned variant)
{
    cdedupe_claim_t kind = variant % 2 == 0 ? CDEDUPE_CLAIM_SINGLE_BATCH : CDEDUPE_CLAIM_LOOP;
    cdedupe_result_t result;

    say("claim %s", kind == CDEDUPE_CLAIM_LOOP ? "as a loop" : "by hand");
    result = subject_claim(&pair->subject, kind);
    if (is_modelled(pair)) {
        CHECK(result == model_claim(&pair->model, kind) || !is_modelled(pair));
    }
}

static void
run_release(pair_t *pair)
{
    say("release");
    subject_release(&pair->subject);
    model_release(&pair->model);
}

static void
run_stop(pair_t *pair)
{
    say("stop");
    subject_stop(&pair->subject);
    model_stop(&pair->model);
}

static void
run_finish(pair_t *pair, cdedupe_finish_t when)
{
    cdedupe_result_t result;

    say("finish %d", when);
    result = subject_finish(&pair->subject, when);
    model_finish(&pair->model, when);
    CHECK(result == CDEDUPE_OK ||
          (result == CDEDUPE_STOPPED && (pair->model.stopped || !is_modelled(pair))));
}

/* ---------------------------------------------------------------------------------------------- */
/* Life                                                                                           */

static pair_t *
pair_of(const subject_t *subject)
{
    size_t i = 0;

    while (&pairs[i].subject != subject) {
        i++;
    }
    return &pairs[i];
}

/*
 * The hook finds the buffer in order and may call it. Within a status, that happens in the middle
 * of a sweep.
 */
static void
wake(subject_t *subject)
{
    pair_t *pair = pair_of(subject);

    subject_check(subject);
    if (!pair->in_status || !pair->hook_acts) {
        return;
    }
    pair->hook_acts = false;
    pair->hook_acted = true;
    say(", the hook: ");
    switch (next_byte() % 4) {
    case 0:
        run_restart(pair);
        break;
    case 1:
        run_take(pair, 3);
        break;
    case 2:
        run_status(pair, next_byte() % 3);
        break;
    default:
        run_stop(pair);
        break;
    }
    subject_check(subject);
}

/* What the buffer does only if it is asked to; `extras` is a byte of the input, zero: nothing. */
static void
choose_extras(subject_options_t *options, unsigned extras)
{
    static const uint64_t keys[] = {0, 1, 5, 40}, bytes[] = {0, 10, 60, 300};

    options->suppress = extras & 1;
    options->merging = (extras & 2) && options->level == SUBJECT_HANDLES;
    options->maximum_keys = keys[extras >> 3 & 3];
    options->maximum_bytes = bytes[extras >> 5 & 3];
}

static void
open_pair(pair_t *pair, unsigned settings, unsigned extras)
{
    static const size_t batch_sizes[] = {BATCH, 7, 2, 1};
    subject_options_t options = subject_defaults(settings & 1 ? SUBJECT_BYTES : SUBJECT_HANDLES);
    cdedupe_result_t result;

    options.hooks = settings & 2 ? NULL : &pair->hooks;
    options.batch_size = batch_sizes[settings >> 2 & 3];
    options.long_values = (settings & 16) != 0;
    options.hash_seed = 1;
    choose_extras(&options, extras);
    while ((result = subject_open(&pair->subject, &options)) != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        CHECK(options.hooks != NULL && pair->hooks.failures > 0 && pair->hooks.fail_at != 0);
        CHECK_EQ(pair->hooks.held_blocks, 0);
        pair->hooks.fail_at = 0;
    }
    pair->subject.on_wake = wake;
    pair->subject.paranoid = false; /* compare() is. */
    pair->subject.keeps_batch = !(settings & 128);
    model_open(&pair->model);
    beside_rules(&options, &pair->model.rules);
    pair->open = true;
    pair->held_count = 0;
    pair->last_id = 0;
    pair->hook_acts = false;
    if (!(settings & 32)) {
        run_claim(pair, settings & 64 ? 0 : 1);
        say(", ");
    }
}

static void
close_pair(pair_t *pair)
{
    subject_close(&pair->subject);
    model_close(&pair->model);
    CHECK_EQ(pair->hooks.held_blocks, 0);
    pair->open = false;
}

/* ---------------------------------------------------------------------------------------------- */
/* Slots                                                                                          */

static uint64_t
mark_of(const pair_t *pair, cdedupe_slot_t slot)
{
    return (uint64_t)HELD_MAGIC << 32 | (slot ^ (uint32_t)(pair - pairs));
}

static void
acquire(pair_t *pair, size_t count)
{
    cdedupe_slot_t *slots = pair->held + pair->held_count;
    uint64_t failures_before = pair->hooks.failures;
    cdedupe_result_t result;

    count = count < HELD_MAX - pair->held_count ? count : HELD_MAX - pair->held_count;
    result = cdedupe_acquire(pair->subject.core, slots, count);
    if (result != CDEDUPE_OK) {
        CHECK_EQ(result, CDEDUPE_NO_MEMORY);
        after_failure(pair, failures_before);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t mark = mark_of(pair, slots[i]);

        memcpy(cdedupe_payload(pair->subject.core, slots[i]), &mark, sizeof(mark));
    }
    pair->held_count += count;
}

/* The first or the last of those that are held, with zeros between them. */
static void
discard(pair_t *pair, size_t count, bool first)
{
    cdedupe_slot_t slots[2 * HELD_MAX] = {0};
    size_t from;

    count = count < pair->held_count ? count : pair->held_count;
    from = first ? 0 : pair->held_count - count;
    for (size_t i = 0; i < count; i++) {
        cdedupe_slot_t slot = pair->held[from + i];
        uint64_t mark;

        memcpy(&mark, cdedupe_payload(pair->subject.core, slot), sizeof(mark));
        CHECK_EQ(mark, mark_of(pair, slot));
        slots[2 * i] = slot;
    }
    cdedupe_discard(pair->subject.core, slots, 2 * count);
    memmove(pair->held + from, pair->held + from + count,
            (pair->held_count - from - count) * sizeof(*pair->held));
    pair->held_count -= count;
}

static void
run_slots(pair_t *pair, unsigned variant)
{
    size_t count = next_byte() % HELD_MAX + 1;

    say("%s %zu slots", variant < 2 ? "acquire" : "discard", count);
    if (pair->subject.core == NULL) {
        return;
    }
    if (variant < 2) {
        acquire(pair, count);
    } else {
        discard(pair, count, variant == 2);
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Calls that are wrong, or out of the way                                                        */

static void
create_wrongly(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *bytes;
    cdedupe_t *core;

    switch (next_byte() % 8) {
    case 0:
        options.size = 1;
        break;
    case 1:
        options.size = 5000;
        break;
    case 2:
        options.allocate = hooks_allocate;
        break;
    case 3:
        options.payload_size = CDEDUPE_PAYLOAD_MAX + 1;
        break;
    case 4:
        options.payload_alignment = 24;
        break;
    case 5:
        options.payload_alignment = 2 * CDEDUPE_ALIGNMENT_MAX;
        break;
    case 6:
        options.batch_size = 0;
        break;
    default:
        options.batch_size = CDEDUPE_BATCH_MAX + 1;
        break;
    }
    CHECK_EQ(cdedupe_create(&options, &core), CDEDUPE_INVALID_ARGUMENT);
    CHECK(core == NULL);
    options.payload_size = options.payload_alignment = 8;
    if (options.size != sizeof(options) || options.allocate != NULL || options.batch_size != 100) {
        CHECK_EQ(cdedupe_bytes_create(&options, &bytes), CDEDUPE_INVALID_ARGUMENT);
        CHECK(bytes == NULL);
    }
}

/*
 * By default, with outcomes that nobody wants to know, and destroyed while a value is pending and
 * one is lent.
 */
static void
use_plainly(void)
{
    char value[100] = "value";
    cdedupe_bytes_item_t item;
    cdedupe_bytes_t *buffer;
    size_t count;

    CHECK_EQ(cdedupe_bytes_create(NULL, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(buffer, NULL, 0, value, sizeof(value), 1, NULL), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put(buffer, "k", 1, value, sizeof(value), 2, NULL), CDEDUPE_OK);
    CHECK_EQ(
        cdedupe_bytes_delete(buffer, key_bytes(KEY_TOO_LONG), key_length(KEY_TOO_LONG), 3, NULL),
        CDEDUPE_KEY_TOO_LONG);
    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(buffer, &item, 1, &count), CDEDUPE_OK);
    CHECK(item.value_length == sizeof(value) && memcmp(item.value, value, sizeof(value)) == 0);
    cdedupe_bytes_destroy(buffer);
    cdedupe_bytes_destroy(NULL);
    cdedupe_destroy(NULL);
}

static void
call_wrongly(pair_t *pair)
{
    cdedupe_update_t update;
    cdedupe_item_t item;
    size_t count = 1;

    CHECK_EQ(subject_status(&pair->subject, (cdedupe_status_t)3), CDEDUPE_INVALID_ARGUMENT);
    if (pair->subject.core != NULL) {
        CHECK_EQ(cdedupe_take(pair->subject.core, &item, 0, &count), CDEDUPE_INVALID_ARGUMENT);
        CHECK_EQ(count, 0);
        CHECK_EQ(cdedupe_put(pair->subject.core, &update, 0), CDEDUPE_OK);
    }
    for (int result = CDEDUPE_OK; result <= CDEDUPE_TOO_MANY_PINS + 1; result++) {
        CHECK(cdedupe_result_text((cdedupe_result_t)result)[0] != '\0');
    }
}

static void
open_with_extras(pair_t *pair)
{
    unsigned settings = next_byte(), extras = next_byte();

    close_pair(pair);
    open_pair(pair, settings, extras);
}

static void
run_rare(pair_t *pair)
{
    unsigned which = next_byte() % 16;

    switch (which) {
    case 1:
        run_stop(pair);
        break;
    case 2:
    case 3:
        run_finish(pair, which == 2 ? CDEDUPE_FINISH_WHEN_DELIVERED : CDEDUPE_FINISH_WHEN_EMPTY);
        break;
    case 4:
        say("create wrongly");
        create_wrongly();
        break;
    case 5:
        say("use plainly");
        use_plainly();
        break;
    case 6:
        say("call wrongly");
        call_wrongly(pair);
        break;
    case 7:
        say("the hook will act");
        pair->hook_acts = true;
        break;
    case 8: /* The subject pins keys, and puts by pins, as this byte and what follows has it. */
        say("pin and unpin");
        subject_pin(&pair->subject, next_byte());
        break;
    case 15: /* The ones between are free. */
        say("a new buffer with extras, ");
        open_with_extras(pair);
        break;
    default:
        break;
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* One input                                                                                      */

static void
run_call(unsigned byte)
{
    pair_t *pair = &pairs[(byte >> 4 & 3) % BUFFERS];
    unsigned variant = byte >> 6;

    say("%td: ", pair - pairs);
    if (!pair->open) {
        open_pair(pair, 0, 0);
    }
    switch (byte & 15) {
    case 0:
    case 1:
        run_put(pair, variant);
        break;
    case 2:
    case 3:
        run_put_many(pair, variant);
        break;
    case 4:
        run_status(pair, variant);
        break;
    case 5:
        run_restart(pair);
        break;
    case 6:
        run_collect(pair, variant);
        break;
    case 7:
    case 8:
        run_take(pair, variant);
        break;
    case 9:
        run_claim(pair, variant);
        break;
    case 10:
        run_release(pair);
        break;
    case 11:
        run_fail(pair, variant);
        break;
    case 12:
        run_slots(pair, variant);
        break;
    case 13:
        say("a new buffer, ");
        close_pair(pair);
        open_pair(pair, next_byte(), 0);
        break;
    case 14:
        run_rare(pair);
        break;
    default:
        run_put_back(pair, variant);
        break;
    }
    compare(pair);
    say("\n");
    if (check_failed > 0) {
        abort();
    }
}

/* What is still queued is taken, or left for the end. */
static void
end(pair_t *pair, bool take_rest)
{
    if (!pair->open) {
        return;
    }
    pair->hooks.fail_at = 0;
    if (take_rest) {
        say("%td: at the end, ", pair - pairs);
        run_claim(pair, 0);
        say(", ");
        run_take(pair, 3);
        say("\n");
        compare(pair);
    }
    close_pair(pair);
    hooks_close(&pair->hooks);
    memset(pair, 0, sizeof(*pair));
}

static void
run(const uint8_t *bytes, size_t length)
{
    bool take_rest;

    input = bytes;
    input_left = length;
    take_rest = (next_byte() & 8) == 0;
    for (unsigned calls = 0; calls < CALLS_MAX && input_left > 0; calls++) {
        run_call(next_byte());
    }
    for (size_t i = 0; i < BUFFERS; i++) {
        end(&pairs[i], take_rest);
    }
    if (check_failed > 0) {
        abort();
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    keys_set_hash(length > 0 ? (hash_mode_t)((bytes[0] & 7) % HASH_MODES) : HASH_BY_KEY);
    run(bytes, length);
    return 0;
}
