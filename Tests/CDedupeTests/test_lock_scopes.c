/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events between two lock scopes of one call. A call yields the lock there if another thread waits
 * for it. On a buffer that merges, a put also yields to a sink that found a merge running. There a
 * put also allocates what it lacks, and leaves the merge lock to others meanwhile.
 *
 * This program replaces sched_yield(), so that its one thread can do at that very place what other
 * threads might do. It uses the core's internal headers, for contexts, and in order to tell the
 * lock that a thread is waiting.
 */
#include "calls/put.h"
#include "calls/status.c" /* Whose sweeps no public call can come between. */

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "subject.h"

/*
 * Called at each yield of this thread, except those inside this function, with the number of yields
 * before it.
 */
static _Thread_local void (*at_yield)(unsigned number);
static _Thread_local unsigned yields;
static _Thread_local bool yielding;

/* Whoever waits for itself never ends. */
static void
give_up(void)
{
    CHECK(false);
    exit(check_finish());
}

int
sched_yield(void)
{
    if (at_yield == NULL || yielding)
        return (int)syscall(SYS_sched_yield);
    yielding = true;
    at_yield(yields++);
    yielding = false;
    return 0;
}

static void
watch_yields(void (*function)(unsigned number))
{
    at_yield = function;
    yields = 0;
}

/* ---------------------------------------------------------------------------------------------- */
/* A batch has no key twice                                                                       */

static subject_t subject;

static void
with_a_subject(bool suppress, void (*test)(void))
{
    subject_options_t options = subject_defaults(SUBJECT_HANDLES);

    options.suppress = suppress;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
    test();
    subject_collect(&subject, 10);
    subject_close(&subject);
}

/*
 * So many keys that with one before them they fill a hold: what is queued behind them is taken in
 * the next one.
 */
static void
put_fillers(void)
{
    char key[8];

    for (unsigned i = 1; i < TAKES_PER_LOCK; i++) {
        snprintf(key, sizeof(key), "f%u", i);
        put(&subject, key, 9);
    }
}

static void (*meanwhile)(void);

/* The first yield of a take is before its first hold. */
static void
in_the_middle(unsigned number)
{
    if (number == 1)
        meanwhile();
}

/* Takes all, in two holds; between them something happens. */
static void
take_while(void (*something)(void))
{
    meanwhile = something;
    subject.core->lock.waiting++;
    watch_yields(in_the_middle);
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    at_yield = NULL;
    subject.core->lock.waiting--;
    CHECK_EQ(yields, 2);
}

static void
put_back_all(void)
{
    uint64_t back[100];

    CHECK_EQ(subject_put_back(&subject, subject.count, back), CDEDUPE_OK);
}

/* What was taken, as text, but for the fillers; valid until the next such call. */
static const char *
taken(void)
{
    static const char kinds[] = {'+', '~', '-'};
    static char text[200];
    size_t length = 0;

    text[0] = '\0';
    for (size_t i = 0; i < subject.count; i++) {
        const subject_item_t *item = &subject.items[i];
        const char *space = length > 0 ? " " : "";

        if (length + 60 > sizeof(text))
            break;
        if (item->kind == CDEDUPE_ITEM_STATUS)
            length += (size_t)snprintf(text + length, sizeof(text) - length, "%s<%d>", space,
                                       item->status);
        else if (item->key[0] != 'f')
            length +=
                (size_t)snprintf(text + length, sizeof(text) - length, "%s%c%.*s=%" PRIx64, space,
                                 kinds[item->kind], (int)item->length, item->key, item->id);
    }
    return text;
}

static const char *
take(void)
{
    CHECK_EQ(subject_take(&subject, 100), CDEDUPE_OK);
    return taken();
}

static void
put_again(void)
{
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(put(&subject, "b", 3), CDEDUPE_OUTCOME_QUEUED);
}

static void
what_is_put_meanwhile_comes_in_the_next_batch(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "z", 8);
    take_while(put_again);
    CHECK_TEXT(taken(), "+a=1 +z=8");
    CHECK_TEXT(take(), "~a=2 +b=3");
}

static void
an_put_back_batch_leaves_the_newer_value(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "z", 8);
    take_while(put_again);
    put_back_all();
    CHECK_EQ(subject_statistics(&subject).live_keys, 0);
    CHECK_TEXT(take(), "+a=2 +z=8 +b=3");
}

static void
put_after_the_deletion(void)
{
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
}

/* The key was live, so with its deletion put back it is again. */
static void
an_put_back_deletion_leaves_what_came_after_it(void)
{
    put(&subject, "a", 1);
    take();
    del_id(&subject, "a", 4);
    put_fillers();
    put(&subject, "z", 8);
    take_while(put_after_the_deletion);
    CHECK_TEXT(taken(), "-a=4 +z=8");
    put_back_all();
    CHECK_EQ(subject_statistics(&subject).live_keys, 1);
    CHECK_TEXT(take(), "~a=2 +z=8");
}

static void
put_a_change(void)
{
    CHECK_EQ(put(&subject, "a", 2), CDEDUPE_OUTCOME_QUEUED);
}

/*
 * The snapshot after a restart has a whole of the second value's revision. Were that suppressed,
 * because the batch had both, an putting back would leave the second value alone, or nothing.
 */
static void
what_a_snapshots_value_stands_for_is_not_lost(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "z", 8);
    take_while(put_a_change);
    subject_restart(&subject);
    put(&subject, "a", 1002);
    put_back_all();
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_TEXT(take(), "+a=3ea <2>"); /* 1002 */
}

static void
the_last_one_is_cancelled(void)
{
    CHECK_EQ(del(&subject, "z"), CDEDUPE_OUTCOME_CANCELLED);
    put_again();
}

/*
 * There is nothing left of the batch; and what was put may have the place in memory that its end
 * had.
 */
static void
a_batch_ends_before_a_last_one_that_is_cancelled_meanwhile(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "z", 8);
    take_while(the_last_one_is_cancelled);
    CHECK_TEXT(taken(), "+a=1");
    CHECK_TEXT(take(), "~a=2 +b=3");
}

static void
a_batch_ends_before_the_last_of_several_that_is_cancelled_meanwhile(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "x", 6);
    put(&subject, "y", 7);
    put(&subject, "z", 8);
    take_while(the_last_one_is_cancelled);
    CHECK_TEXT(taken(), "+a=1 +x=6 +y=7");
    CHECK_TEXT(take(), "~a=2 +b=3");
}

static void
all_are_cancelled(void)
{
    CHECK_EQ(del(&subject, "z"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(del(&subject, "x"), CDEDUPE_OUTCOME_CANCELLED);
    CHECK_EQ(del(&subject, "y"), CDEDUPE_OUTCOME_CANCELLED);
    put_again();
}

static void
a_batch_ends_before_several_that_are_cancelled_meanwhile(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "x", 6);
    put(&subject, "y", 7);
    put(&subject, "z", 8);
    take_while(all_are_cancelled);
    CHECK_TEXT(taken(), "+a=1");
    CHECK_TEXT(take(), "~a=2 +b=3");
}

static void
put_a_status_and_more(void)
{
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    put_again();
}

static void
a_status_behind_the_batch_is_not_in_it(void)
{
    put(&subject, "a", 1);
    put_fillers();
    put(&subject, "z", 8);
    take_while(put_a_status_and_more);
    CHECK_TEXT(taken(), "+a=1 +z=8");
    CHECK_TEXT(take(), "<2> ~a=2 +b=3");
}

static void
a_batch_ends_with_its_last_status_whichever_that_is_by_then(void)
{
    put(&subject, "a", 1);
    put_fillers();
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    take_while(put_a_status_and_more);
    CHECK_TEXT(taken(), "+a=1 <2>");
    CHECK_TEXT(take(), "~a=2 +b=3");
}

static void
cancel_between_statuses(void)
{
    subject_status(&subject, CDEDUPE_STATUS_IN_SYNC);
    CHECK_EQ(del(&subject, "z"), CDEDUPE_OUTCOME_CANCELLED);
    put_again();
}

/* The later one of the two is behind the batch. */
static void
a_batch_ends_before_a_status_that_meets_a_later_one(void)
{
    put(&subject, "a", 1);
    put_fillers();
    subject_status(&subject, CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
    put(&subject, "z", 8);
    take_while(cancel_between_statuses);
    CHECK_TEXT(taken(), "+a=1");
    CHECK_TEXT(take(), "<2> ~a=2 +b=3");
}

/* ---------------------------------------------------------------------------------------------- */
/* A key that is merged all the time                                                              */

/* Its payloads are decimal digits: which values were merged, in which order. */
static cdedupe_t *buffer;
static unsigned wakes;
static void (*in_merge)(void);

static void
wake(void *context)
{
    (void)context;
    wakes++;
}

static uint64_t
clock_that_stands(void *context)
{
    (void)context;
    return 0;
}

/* User callbacks hold nobody up: no spinlock is held meanwhile, and no read section open. */
static void
check_nothing_is_held(void)
{
    CHECK(!lock_is_held(&buffer->lock));
    for (uint64_t i = 0; i < buffer->contexts.count; i++)
        CHECK_EQ(buffer->contexts.contexts[i]->record.active, 0);
}

static void
merge_digits(void *context, void *older, void *newer)
{
    uint64_t *into = newer;

    (void)context;
    check_nothing_is_held();
    *into += *(const uint64_t *)older * 10;
    if (in_merge != NULL)
        in_merge();
}

static void
create_and_claim(const cdedupe_options_t *options, cdedupe_claim_t claim)
{
    CHECK_EQ(cdedupe_create(options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_claim(buffer, claim), CDEDUPE_OK);
}

static void
open_merging(cdedupe_claim_t claim)
{
    cdedupe_options_t options = cdedupe_options();

    options.payload_size = sizeof(uint64_t);
    options.merge = merge_digits;
    options.wake = wake;
    options.clock = clock_that_stands;
    create_and_claim(&options, claim);
    wakes = 0;
    in_merge = NULL;
}

static void
close_buffer(void)
{
    at_yield = NULL;
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

static uint64_t *
digits(cdedupe_slot_t slot)
{
    return cdedupe_payload(buffer, slot);
}

/* A value; zero: a deletion. */
static cdedupe_outcome_t
put_value(const char *key, uint64_t value)
{
    cdedupe_update_t update = {.key = key, .key_length = strlen(key), .deletion = value == 0};

    if (value != 0) {
        CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        *digits(update.slot) = value;
    }
    CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    cdedupe_discard(buffer, &update.slot, 1);
    cdedupe_discard(buffer, &update.displaced, 1);
    return (cdedupe_outcome_t)update.outcome;
}

/* What is taken, as the sum of its digits; zero: nothing. */
static uint64_t
take_values(void)
{
    cdedupe_item_t items[10];
    uint64_t sum = 0;
    size_t count;

    if (cdedupe_take(buffer, items, 10, &count) != CDEDUPE_OK)
        return 0;
    for (size_t i = 0; i < count; i++) {
        sum += items[i].slot != 0 ? *digits(items[i].slot) : 0;
        cdedupe_discard(buffer, &items[i].slot, 1);
    }
    return sum;
}

static void *
take_in_vain(void *unused)
{
    (void)unused;
    CHECK_EQ(take_values(), 0);
    return NULL;
}

/* The loop is another thread. */
static void
let_the_loop_come(void)
{
    pthread_t thread;

    in_merge = NULL;
    pthread_create(&thread, NULL, take_in_vain, NULL);
    pthread_join(thread, NULL);
}

/* The loop comes while the callback runs, finds nothing, and is woken when the merge has ended. */
static void
let_the_loop_come_too_early(void)
{
    put_value("a", 1);
    put_value("b", 5);
    in_merge = let_the_loop_come;
    put_value("a", 2);
    CHECK_EQ(wakes, 1);
}

static void
nothing(unsigned number)
{
    (void)number;
}

enum { YIELDS_TO_LOOP = 100 };

static void
the_next_put_yields_a_bounded_number_of_times_to_the_loop(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    watch_yields(nothing);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(yields, YIELDS_TO_LOOP);
    CHECK_EQ(take_values(), 123 + 5);
    close_buffer();
}

static void
only_the_next_put_yields(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    watch_yields(nothing);
    put_value("c", 3);
    watch_yields(nothing);
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(yields, 0);
    CHECK_EQ(take_values(), 124 + 5 + 3);
    close_buffer();
}

static void
take_in_the_first(unsigned number)
{
    if (number == 0)
        CHECK_EQ(take_values(), 12 + 5);
}

static void
a_loop_that_comes_at_the_yield_takes_the_merged_value(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    watch_yields(take_in_the_first);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
    CHECK_EQ(yields, 1);
    /* Now it waits for nothing. */
    CHECK_EQ(put_value("a", 4), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(yields, 1);
    close_buffer();
}

static void
a_loop_that_was_there_meanwhile_is_not_waited_for(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    CHECK_EQ(take_values(), 12 + 5);
    CHECK_EQ(take_values(), 0);
    put_value("a", 1);
    watch_yields(nothing);
    CHECK_EQ(put_value("a", 2), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(yields, 0);
    close_buffer();
}

static void
a_loop_that_has_gone_is_not_waited_for(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    cdedupe_release(buffer);
    watch_yields(nothing);
    CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(yields, 0);
    close_buffer();
}

static void
what_is_no_put_of_an_update_does_not_yield(void)
{
    open_merging(CDEDUPE_CLAIM_LOOP);
    let_the_loop_come_too_early();
    watch_yields(nothing);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(yields, 0);
    close_buffer();
}

/* Puts that are to be merged with what it takes, until it has been taken. */
static void *
take_one_batch(void *taken)
{
    CHECK(take_values() != 0);
    *(volatile bool *)taken = true;
    return NULL;
}

static volatile bool batch_was_taken;
static pthread_t taking;

static void
let_a_single_batch_come(void)
{
    in_merge = NULL;
    pthread_create(&taking, NULL, take_one_batch, (void *)&batch_was_taken);
    /* It waits for the mutex by now, or will. */
    while (sync_load_relaxed_32(&buffer->merge_lock.sink) != SINK_WAITS)
        ;
}

/* A sink that waits gets what it waits for before the next put of this thread. */
static void
a_single_batch_goes_first(void)
{
    for (unsigned i = 0; i < 200; i++) {
        open_merging(CDEDUPE_CLAIM_SINGLE_BATCH);
        put_value("a", 1);
        in_merge = let_a_single_batch_come;
        put_value("a", 2);
        CHECK_EQ(put_value("a", 3), CDEDUPE_OUTCOME_QUEUED);
        pthread_join(taking, NULL);
        CHECK(batch_was_taken);
        close_buffer();
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* A put on a buffer that merges, when memory runs out                                            */

static hooks_t hooks;
static void (*in_allocate)(void);
static unsigned allocations;
static bool no_memory;

static bool
merge_lock_is_free(void)
{
    bool is_free = pthread_mutex_trylock(&buffer->merge_lock.mutex) == 0;

    if (is_free)
        pthread_mutex_unlock(&buffer->merge_lock.mutex);
    return is_free;
}

/* The next call would wait for this thread itself. */
static void
merge_lock_must_be_free(void)
{
    if (!merge_lock_is_free())
        give_up();
}

/* The allocator is a user callback: it may take long, and it holds up nobody. */
static void *
allocate_and_look(void *context, size_t size, size_t alignment)
{
    allocations++;
    if (buffer != NULL) {
        check_nothing_is_held();
        merge_lock_must_be_free();
    }
    if (in_allocate != NULL)
        in_allocate();
    return no_memory ? NULL : hooks_allocate(context, size, alignment);
}

/* Every reading during a put is in the put's hands, also those after memory came. */
static uint64_t
clock_under_the_merge_lock(void *context)
{
    (void)context;
    CHECK(!merge_lock_is_free());
    return 0;
}

static void
open_merging_with_allocator(cdedupe_claim_t claim)
{
    cdedupe_options_t options = cdedupe_options();

    buffer = NULL;
    in_merge = in_allocate = NULL;
    no_memory = false;
    wakes = 0;
    memset(&hooks, 0, sizeof(hooks));
    hooks_use(&hooks, &options);
    options.allocate = allocate_and_look;
    options.payload_size = sizeof(uint64_t);
    options.merge = merge_digits;
    options.wake = wake;
    options.clock = clock_that_stands;
    create_and_claim(&options, claim);
    allocations = 0;
}

static void
close_with_allocator(void)
{
    merge_lock_must_be_free();
    close_buffer();
    hooks_close(&hooks);
    buffer = NULL;
}

/* Enough new keys for slabs and sets that are not there yet. Then comes a value to merge. */
enum { LACKING = TEST_SIZED(99, 3) };

static char lacking_keys[LACKING][8];
static cdedupe_update_t lacking[LACKING + 1];

/* A chunk of so many new keys, which are deletions, so that slots are wanted only for "a". */
static void
make_chunk_that_lacks_memory(uint64_t value)
{
    cdedupe_slot_t slot;

    for (unsigned i = 0; i < LACKING; i++) {
        snprintf(lacking_keys[i], sizeof(lacking_keys[i]), "k%u", i);
        lacking[i] = (cdedupe_update_t){
            .key = lacking_keys[i], .key_length = strlen(lacking_keys[i]), .deletion = true};
    }
    CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK);
    *digits(slot) = value;
    lacking[LACKING] = (cdedupe_update_t){.key = "a", .key_length = 1, .slot = slot};
}

static cdedupe_outcome_t
put_chunk_that_lacks_memory(cdedupe_result_t wanted)
{
    cdedupe_update_t *last = &lacking[LACKING];

    CHECK_EQ(cdedupe_put(buffer, lacking, LACKING + 1), wanted);
    cdedupe_discard(buffer, &last->slot, 1);
    cdedupe_discard(buffer, &last->displaced, 1);
    return (cdedupe_outcome_t)last->outcome;
}

static void
check_the_merge_lock_is_held(void)
{
    CHECK(!merge_lock_is_free());
}

/* It leaves the lock to others while it allocates, and has it again for every step after that. */
static void
put_onABufferThatMerges_holdsTheMergeLockExceptWhileItAllocates(void)
{
    open_merging_with_allocator(CDEDUPE_CLAIM_LOOP);
    put_value("a", 1);
    make_chunk_that_lacks_memory(2);
    allocations = 0;
    in_merge = check_the_merge_lock_is_held;
    buffer->clock.read = clock_under_the_merge_lock;
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_OK), CDEDUPE_OUTCOME_REPLACED);
    buffer->clock.read = clock_that_stands;
    CHECK(allocations > 0);
    CHECK_EQ(take_values(), 12);
    close_with_allocator();
}

static void
refuse_from_now_on(void)
{
    no_memory = true;
}

static void
put_onABufferThatMerges_withoutMemory_releasesTheMergeLock(void)
{
    open_merging_with_allocator(CDEDUPE_CLAIM_LOOP);
    put_value("a", 1);
    make_chunk_that_lacks_memory(2);
    in_allocate = refuse_from_now_on;
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_NO_MEMORY), CDEDUPE_OUTCOME_UNTOUCHED);
    merge_lock_must_be_free();
    in_allocate = NULL;
    no_memory = false;
    make_chunk_that_lacks_memory(3);
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_OK), CDEDUPE_OUTCOME_REPLACED);
    CHECK_EQ(take_values(), 13);
    close_with_allocator();
}

static void
take_what_is_there(void)
{
    in_allocate = NULL;
    CHECK_EQ(take_values(), 1);
}

/* What the put found before is out of date then: the key is live, and has nothing to merge with. */
static void
takeWhileAPutAllocates_onABufferThatMerges_takesTheOlderValue(void)
{
    open_merging_with_allocator(CDEDUPE_CLAIM_LOOP);
    put_value("a", 1);
    make_chunk_that_lacks_memory(2);
    in_allocate = take_what_is_there;
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_OK), CDEDUPE_OUTCOME_QUEUED);
    CHECK(in_allocate == NULL);
    close_with_allocator();
}

static unsigned looks_at_the_loop;

static void
look_whether_the_loop_is_awake(void)
{
    if (buffer->statistics.pending_keys > 0) {
        CHECK_EQ(wakes, 1);
        looks_at_the_loop++;
    }
}

/* The loop can take meanwhile what was queued before memory was missing. */
static void
putThatQueuedSomething_wakesTheLoopBeforeItAllocates(void)
{
    open_merging_with_allocator(CDEDUPE_CLAIM_LOOP);
    make_chunk_that_lacks_memory(2);
    CHECK_EQ(take_values(), 0);
    looks_at_the_loop = 0;
    in_allocate = look_whether_the_loop_is_awake;
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_OK), CDEDUPE_OUTCOME_QUEUED);
    CHECK(looks_at_the_loop > 0);
    close_with_allocator();
}

static uint32_t
entry_number(const char *key)
{
    uint64_t hash = hash_key(&buffer->secret, key, strlen(key));

    return index_find(&buffer->index, &buffer->entries, hash, key, strlen(key));
}

/* The key "a" goes, and "b" gets the memory that its entry had. */
static void
let_another_key_have_the_entry(void)
{
    uint32_t number = entry_number("a");

    in_allocate = NULL;
    CHECK_EQ(put_value("a", 0), CDEDUPE_OUTCOME_CANCELLED);
    put_value("b", 5);
    for (unsigned i = 0; i < 10000 && entry_number("b") != number; i++) {
        put_value("b", 0);
        put_value("b", 5);
    }
    CHECK_EQ(entry_number("b"), number);
}

static void
entryThatAnotherKeyGotWhileAPutAllocates_isNotMergedWith(void)
{
    open_merging_with_allocator(CDEDUPE_CLAIM_LOOP);
    put_value("a", 1);
    make_chunk_that_lacks_memory(2);
    in_allocate = let_another_key_have_the_entry;
    CHECK_EQ(put_chunk_that_lacks_memory(CDEDUPE_OK), CDEDUPE_OUTCOME_QUEUED);
    CHECK(in_allocate == NULL);
    CHECK_EQ(put_value("b", 0), CDEDUPE_OUTCOME_CANCELLED);
    close_with_allocator();
}

/* ---------------------------------------------------------------------------------------------- */
/* A lock scope copies a bounded number of bytes of keys                                          */

enum {
    KEY_BYTES = TEST_SIZED(64 * 1024, 256),
    KEYS_TO_THE_LIMIT = TEST_SIZED(64, 2),
    LONG_KEY = KEY_BYTES / KEYS_TO_THE_LIMIT
};

static char long_keys[PUTS_PER_LOCK][LONG_KEY];

/* A chunk of new keys, as its look-ups leave it. They are deletions, so they need no slots. */
static void
begin_long_keys(struct put *put, cdedupe_update_t *updates, size_t first_length)
{
    memset(put, 0, sizeof(*put));
    scope_init(&put->scope, buffer);
    put->updates = updates;
    put->count = PUTS_PER_LOCK;
    for (size_t i = 0; i < PUTS_PER_LOCK; i++) {
        updates[i] = (cdedupe_update_t){
            .key = long_keys[i], .key_length = i == 0 ? first_length : LONG_KEY, .deletion = true};
        snprintf(long_keys[i], LONG_KEY, "%zu", i);
        put->hashes[i] = hash_key(&buffer->secret, updates[i].key, updates[i].key_length);
    }
}

static size_t
key_bytes(const struct put *put, size_t from, size_t to)
{
    size_t sum = 0;

    for (size_t i = from; i < to; i++)
        sum += put->updates[i].key_length;
    return sum;
}

/*
 * Puts the whole chunk, and checks each lock scope: it ends after the key with which it reaches the
 * limit, or before it for want of memory. Returns how many reached the limit.
 */
static unsigned
put_scope_by_scope(struct put *put)
{
    unsigned reached = 0;

    while (put->done < put->count) {
        size_t before = put->done;
        bool more = put_locked(put);

        CHECK(put->done > before || put->step == STEP_NO_MEMORY);
        CHECK(put->done == before || key_bytes(put, before, put->done - 1) < KEY_BYTES);
        if (put->step == STEP_NO_MEMORY)
            CHECK(!more && scope_refill(&put->scope));
        else
            CHECK_EQ(more, put->done < put->count);
        if (more) {
            CHECK(key_bytes(put, before, put->done) >= KEY_BYTES);
            reached++;
        }
    }
    scope_finish(&put->scope);
    return reached;
}

static void
take_long_keys(void)
{
    cdedupe_item_t items[PUTS_PER_LOCK];
    size_t count;

    CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    while (cdedupe_take(buffer, items, PUTS_PER_LOCK, &count) == CDEDUPE_OK)
        continue;
    cdedupe_release(buffer);
    /* The entries that died wait for readers, and these puts free them. */
    for (unsigned i = 0; i < 10; i++) {
        put_value("short", 1);
        put_value("short", 0);
    }
}

/* Keys that stay, so that the index has room for as many again and keeps it. */
static void
put_keys_that_stay(void)
{
    char key[8];

    for (unsigned i = 0; i < TEST_SIZED(140, 9); i++) {
        snprintf(key, sizeof(key), "s%u", i);
        put_value(key, 1);
    }
    take_long_keys();
}

/* Copying long keys takes time, in which other threads wait for the lock. */
static void
lockScope_thatCopiesLongKeys_endsAtItsLimitOfBytes(void)
{
    static cdedupe_update_t updates[PUTS_PER_LOCK];
    static struct put put;
    unsigned reached[2] = {0, 0};

    CHECK_EQ(cdedupe_create(NULL, &buffer), CDEDUPE_OK);
    put_keys_that_stay();
    /* At first memory ends most lock scopes. Later there is memory from the rounds before. */
    buffer->entries.empty_bytes_max = buffer->links.empty_bytes_max = SIZE_MAX;
    for (unsigned i = 0; i < 8; i++) {
        begin_long_keys(&put, updates, LONG_KEY - i % 2);
        reached[i % 2] += put_scope_by_scope(&put);
        take_long_keys();
    }
    CHECK(reached[0] > 0 && reached[1] > 0);
    close_buffer();
}

static void
lockScope_ofLongKeysThatAreThere_copiesNone_andGoesOn(void)
{
    static cdedupe_update_t updates[PUTS_PER_LOCK];
    static struct put put;

    CHECK_EQ(cdedupe_create(NULL, &buffer), CDEDUPE_OK);
    begin_long_keys(&put, updates, LONG_KEY);
    put_scope_by_scope(&put);
    begin_long_keys(&put, updates, LONG_KEY);
    CHECK(!put_locked(&put));
    CHECK_EQ(put.done, PUTS_PER_LOCK);
    scope_finish(&put.scope);
    take_long_keys();
    close_buffer();
}

/* ---------------------------------------------------------------------------------------------- */
/* Calls with many items do a bounded number of them in a lock scope                              */

enum { MANY = 4 * SWEEPS_PER_LOCK + 1, PAYLOADS = 4 * SLOTS_PER_LOCK + 1 };

static cdedupe_item_t many_items[MANY];
static cdedupe_slot_t many_slots[PAYLOADS];
static size_t many_count;

/* Another thread seems to wait for the lock, so a call yields after each lock scope. */
static unsigned
yields_of(void (*call)(void))
{
    unsigned sum;

    buffer->lock.waiting++;
    watch_yields(nothing);
    call();
    sum = yields;
    at_yield = NULL;
    buffer->lock.waiting--;
    return sum;
}

static void
put_many(bool deletion)
{
    for (uint32_t key = 0; key < MANY; key++) {
        cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = deletion};

        if (!deletion)
            CHECK_EQ(cdedupe_acquire(buffer, &update.slot, 1), CDEDUPE_OK);
        CHECK_EQ(cdedupe_put(buffer, &update, 1), CDEDUPE_OK);
    }
}

static void
take_many(void)
{
    CHECK_EQ(cdedupe_take(buffer, many_items, MANY, &many_count), CDEDUPE_OK);
    CHECK_EQ(many_count, MANY);
}

static void
open_for_many(void)
{
    cdedupe_options_t options = cdedupe_options();

    options.batch_size = MANY;
    create_and_claim(&options, CDEDUPE_CLAIM_SINGLE_BATCH);
}

static void
release_many(void)
{
    cdedupe_release(buffer);
}

static void
release_afterManyDeletions_retiresTheirEntriesInSteps(void)
{
    open_for_many();
    put_many(true);
    take_many();
    CHECK_EQ(yields_of(release_many), MANY / SWEEPS_PER_LOCK);
    CHECK_EQ(buffer->batch.borrowed, 0);
    close_buffer();
}

static void
collect_many(void)
{
    CHECK_EQ(cdedupe_collect(buffer, many_slots, MANY, &many_count), CDEDUPE_OK);
    CHECK_EQ(many_count, MANY);
}

static void
collect_ofManyDroppedUpdates_clearsThemInSteps(void)
{
    open_for_many();
    put_many(false);
    take_many();
    put_many(false);
    CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
    /* The keys are live and stay in the index, so the call does not tidy it. */
    CHECK_EQ(yields_of(collect_many), (MANY - 1) / SWEEPS_PER_LOCK + 1);
    close_buffer();
}

static void
discard_many(void)
{
    cdedupe_discard(buffer, many_slots, PAYLOADS);
}

/* The first of them fill the magazine. If the arena becomes sparse, that is emptied again. */
static void
discard_ofManySlots_goesInSteps(void)
{
    open_for_many();
    CHECK_EQ(cdedupe_acquire(buffer, many_slots, PAYLOADS), CDEDUPE_OK);
    CHECK(yields_of(discard_many) >= (PAYLOADS - MAGAZINE_SIZE - 1) / SLOTS_PER_LOCK + 1);
    close_buffer();
}

static void
tidy(void)
{
    tidy_index(buffer);
}

/* Other calls may have removed the many keys. This one goes on with its own work soon. */
static void
tidying_afterVeryManyRemovals_goesInAFewSteps_andIsNotFinished(void)
{
    enum { TIDY_HOLDS = 4 };

    open_for_many();
    put_many(true);
    buffer->index.removed = 1000 * 1000;
    CHECK_EQ(yields_of(tidy), TIDY_HOLDS);
    CHECK(index_is_untidy(&buffer->index));
    close_buffer();
}

static void
put_back_many(void)
{
    size_t count = MANY;

    CHECK_EQ(cdedupe_put_back(buffer, many_items, &count), CDEDUPE_OK);
}

static void
putBack_ofManyItems_goesInSteps(void)
{
    open_for_many();
    put_many(false);
    take_many();
    put_back_many();
    take_many();
    CHECK_EQ(yields_of(put_back_many), (MANY - 1) / PUT_BACKS_PER_LOCK);
    close_buffer();
}

/* ---------------------------------------------------------------------------------------------- */
/* The clock                                                                                      */

static unsigned readings;
static sem_t clock_entered, clock_go;
static _Thread_local unsigned
    until_slow; /* Readings of this thread to the one that is slow; zero: none is. */

static uint64_t
look_around(void *context)
{
    (void)context;
    readings++;
    check_nothing_is_held();
    return 0;
}

/* There was a reading since the last time. */
static void
clock_was_read(unsigned *from)
{
    CHECK(readings > *from);
    *from = readings;
}

static void
open_with_clock(uint64_t (*clock)(void *context))
{
    cdedupe_options_t options = cdedupe_options();

    options.clock = clock;
    create_and_claim(&options, CDEDUPE_CLAIM_SINGLE_BATCH);
}

/* A call with several updates looks all keys up in one section. */
static void
delete_two_new_keys(void)
{
    cdedupe_update_t updates[] = {
        {.key = "c", .key_length = 1, .deletion = true},
        {.key = "d", .key_length = 1, .deletion = true},
    };

    CHECK_EQ(cdedupe_put(buffer, updates, 2), CDEDUPE_OK);
}

static void
the_clock_is_read_with_no_lock_held_and_in_no_section(void)
{
    cdedupe_statistics_t statistics;
    cdedupe_item_t items[10];
    unsigned from = 0;
    size_t count;

    readings = 0;
    open_with_clock(look_around);
    put_value("a", 1);
    clock_was_read(&from);
    put_value("b", 1);
    put_value("a", 2);
    put_value("a", 0);
    delete_two_new_keys();
    clock_was_read(&from);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    clock_was_read(&from);
    CHECK_EQ(cdedupe_take(buffer, items, 10, &count), CDEDUPE_OK);
    cdedupe_age(buffer, &items[0]);
    clock_was_read(&from);
    CHECK_EQ(cdedupe_put_back(buffer, items, &count), CDEDUPE_OK);
    clock_was_read(&from);
    cdedupe_statistics(buffer, &statistics, sizeof(statistics));
    clock_was_read(&from);
    close_buffer();
}

static uint64_t
look_at_the_merge_lock(void *context)
{
    bool is_held = pthread_mutex_trylock(&buffer->merge_lock.mutex) == EBUSY;

    (void)context;
    readings++;
    CHECK(is_held);
    if (!is_held)
        pthread_mutex_unlock(&buffer->merge_lock.mutex);
    return 0;
}

/* So the wait for another call's merge is no part of the age of what a status queues. */
static void
status_onABufferThatMerges_readsTheClockAfterItHasTheMergeLock(void)
{
    cdedupe_options_t options = cdedupe_options();

    options.clock = look_at_the_merge_lock;
    options.merge = merge_digits;
    readings = 0;
    CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(readings, 1);
    cdedupe_destroy(buffer);
}

static uint64_t
slow_clock(void *context)
{
    (void)context;
    if (until_slow > 0 && --until_slow == 0) {
        sem_post(&clock_entered);
        sem_wait(&clock_go);
    }
    return 0;
}

static void *
put_with_a_slow_clock(void *argument)
{
    until_slow = *(const unsigned *)argument;
    put_value("slow", 1);
    sem_post(&clock_entered); /* If it had not so many readings. */
    return NULL;
}

static void
not_for_ever(unsigned number)
{
    if (number > 100000)
        give_up();
}

/* More keys come and go than may wait for somebody who is in a section. */
static void
put_and_delete_many(void)
{
    char key[16];

    for (unsigned i = 0; i < 40000; i++) {
        snprintf(key, sizeof(key), "%u", i);
        put_value(key, 1);
        put_value(key, 0);
    }
}

/* Whichever reading of a call it is. */
static void
a_slow_clock_in_one_call_stops_no_other(void)
{
    for (unsigned slow = 1; slow <= 3; slow++) {
        pthread_t thread;

        open_with_clock(slow_clock);
        sem_init(&clock_entered, 0, 0);
        sem_init(&clock_go, 0, 0);
        pthread_create(&thread, NULL, put_with_a_slow_clock, &slow);
        sem_wait(&clock_entered);
        watch_yields(not_for_ever);
        put_and_delete_many();
        at_yield = NULL;
        sem_post(&clock_go);
        pthread_join(thread, NULL);
        sem_destroy(&clock_entered);
        sem_destroy(&clock_go);
        close_buffer();
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Sweeps, lock scope by lock scope                                                               */

enum { SWEPT = 3 * SWEEPS_PER_LOCK, SWEPT_BATCH = 2 * SWEPT };

static cdedupe_item_t swept_items[SWEPT_BATCH];

static void
put_number(cdedupe_t *buffer, uint32_t key, bool deletion)
{
    cdedupe_update_t update = {.key = &key, .key_length = sizeof(key), .deletion = deletion};

    if (!deletion)
        CHECK(cdedupe_acquire(buffer, &update.slot, 1) == CDEDUPE_OK);
    CHECK(cdedupe_put(buffer, &update, 1) == CDEDUPE_OK);
}

/* Says how many of the swept_items are deletions. */
static size_t
take_deletions(cdedupe_t *buffer)
{
    size_t count, deletions = 0;

    cdedupe_take(buffer, swept_items, SWEPT_BATCH, &count);
    for (size_t i = 0; i < count; i++)
        deletions += swept_items[i].kind == CDEDUPE_ITEM_DELETED;
    return deletions;
}

/*
 * Opens a buffer after a restart. Every key is live and was sent again, except the first. The sink
 * has taken the deletion of the first key, and can put it back.
 */
static cdedupe_t *
open_for_sweeps(void)
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_t *buffer = NULL;

    options.batch_size = SWEPT_BATCH;
    CHECK(cdedupe_create(&options, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    for (uint32_t key = 0; key < SWEPT; key++)
        put_number(buffer, key, false);
    take_deletions(buffer);
    put_number(buffer, 0, true);
    CHECK_EQ(take_deletions(buffer), 1);
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    for (uint32_t key = 1; key < SWEPT; key++)
        put_number(buffer, key, false);
    return buffer;
}

static struct sweep
begin_sweep(cdedupe_t *buffer)
{
    struct sweep sweep = {.restarts = 0};

    scope_init(&sweep.scope, buffer);
    return sweep;
}

static enum progress
sweep_hold(struct sweep *sweep)
{
    enum progress progress;

    scope_lock(&sweep->scope);
    progress = put_status_some(sweep, CDEDUPE_STATUS_IN_SYNC);
    scope_unlock(&sweep->scope);
    return progress;
}

static void
sweep_to_end(struct sweep *sweep)
{
    while (sweep_hold(sweep) == PROGRESS_MORE)
        continue;
}

/* Each of two sweeps must come back for it: the one that is done first ends the resync for both. */
static void
a_deletion_put_back_behind_two_sweeps_is_owed(void)
{
    cdedupe_t *buffer = open_for_sweeps();
    struct sweep one = begin_sweep(buffer), other = begin_sweep(buffer);
    size_t count = 1;

    CHECK_EQ(sweep_hold(&one), PROGRESS_MORE);
    CHECK_EQ(sweep_hold(&other), PROGRESS_MORE);
    CHECK(cdedupe_put_back(buffer, swept_items, &count) == CDEDUPE_OK);
    while (one.next != 0)
        CHECK_EQ(sweep_hold(&one), PROGRESS_MORE);
    sweep_to_end(&other);
    sweep_to_end(&one);
    CHECK_EQ(take_deletions(buffer), 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* The restart number is the same again, if numbers wrap after seven. */
static void
a_sweep_ends_at_restarts_that_use_up_the_numbers(void)
{
    const uint32_t restarts = WORD_RESTART_MAX < 1000 ? WORD_RESTART_MAX : 1000;
    cdedupe_t *buffer = open_for_sweeps();
    struct sweep sweep = begin_sweep(buffer);

    CHECK_EQ(sweep_hold(&sweep), PROGRESS_MORE);
    for (uint32_t i = 0; i < restarts; i++) {
        CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
        put_number(buffer, 1, false);
    }
    CHECK_EQ(sweep_hold(&sweep), PROGRESS_DONE);
    CHECK_EQ(buffer->statistics.synthesized_deletions, 0);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/*
 * The key has a value again, which the restart dropped. The sweep passes it, because the key is not
 * live then.
 */
static void
deletion_putBackOverADroppedValueBehindASweep_isOwed(void)
{
    cdedupe_t *buffer = NULL;
    struct sweep sweep;
    size_t count = 1;

    CHECK(cdedupe_create(NULL, &buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH) == CDEDUPE_OK);
    put_number(buffer, 0, false);
    take_deletions(buffer);
    put_number(buffer, 0, true);
    CHECK_EQ(take_deletions(buffer), 1);
    for (uint32_t key = 0; key < SWEPT; key++)
        put_number(buffer, key, false);
    CHECK(cdedupe_restart(buffer) == CDEDUPE_OK);
    sweep = begin_sweep(buffer);
    CHECK_EQ(sweep_hold(&sweep), PROGRESS_MORE);
    CHECK(cdedupe_put_back(buffer, swept_items, &count) == CDEDUPE_OK);
    sweep_to_end(&sweep);
    CHECK_EQ(take_deletions(buffer), 1);
    CHECK_NO_FAULT(cdedupe_validate(buffer));
    cdedupe_destroy(buffer);
}

/* Put back before the sweep began, it costs no second round. */
static void
a_deletion_put_back_before_a_sweep_is_owed_at_once(void)
{
    cdedupe_t *buffer = open_for_sweeps();
    struct sweep sweep = begin_sweep(buffer);
    size_t count = 1;
    unsigned holds = 1;

    CHECK(cdedupe_put_back(buffer, swept_items, &count) == CDEDUPE_OK);
    while (sweep_hold(&sweep) == PROGRESS_MORE)
        holds++;
    CHECK(holds <= SWEPT / SWEEPS_PER_LOCK + 1);
    CHECK_EQ(take_deletions(buffer), 1);
    cdedupe_destroy(buffer);
}

static cdedupe_statistics_t
counters_of(cdedupe_t *of)
{
    cdedupe_statistics_t counters;

    cdedupe_statistics(of, &counters, sizeof(counters));
    return counters;
}

static size_t
take_swept(cdedupe_t *from)
{
    size_t count;

    cdedupe_take(from, swept_items, SWEPT_BATCH, &count);
    return count;
}

/* So many that a sweep takes several lock scopes, and so few that it needs no memory in between. */
enum { WOKEN = 300 };

struct woken_sweep {
    cdedupe_t *buffer;
    bool restart; /* The hook restarts. */
    unsigned wakes;
    uint64_t pending; /* At the first wake-up. */
};

static void
on_wake_in_sweep(void *context)
{
    struct woken_sweep *sweep = context;

    if (sweep->wakes++ == 0)
        sweep->pending = counters_of(sweep->buffer).pending_keys;
    if (sweep->restart)
        CHECK(cdedupe_restart(sweep->buffer) == CDEDUPE_OK);
    sweep->restart = false;
}

/* A loop that sleeps, and many keys that a restart has made unseen. */
static void
open_woken_sweep(struct woken_sweep *sweep)
{
    cdedupe_options_t options = cdedupe_options();

    options.wake = on_wake_in_sweep;
    options.wake_context = sweep;
    CHECK(cdedupe_create(&options, &sweep->buffer) == CDEDUPE_OK);
    CHECK(cdedupe_claim(sweep->buffer, CDEDUPE_CLAIM_LOOP) == CDEDUPE_OK);
    for (uint32_t key = 0; key < WOKEN; key++)
        put_number(sweep->buffer, key, false);
    while (take_swept(sweep->buffer) > 0)
        continue;
    CHECK(cdedupe_restart(sweep->buffer) == CDEDUPE_OK);
    CHECK_EQ(sweep->wakes, 0);
}

static void
a_sweep_wakes_the_loop_after_its_first_lock_scope(void)
{
    struct woken_sweep sweep = {0};

    open_woken_sweep(&sweep);
    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(sweep.wakes, 1);
    CHECK(sweep.pending > 0 && sweep.pending <= WOKEN / 2);
    cdedupe_destroy(sweep.buffer);
}

/*
 * The restart drops what was swept so far, and with it the in-sync that was on its way: it belongs
 * to the time before.
 */
static void
a_restart_during_a_sweep_drops_its_in_sync(void)
{
    struct woken_sweep sweep = {.restart = true};

    open_woken_sweep(&sweep);
    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(sweep.wakes, 1);
    CHECK_EQ(counters_of(sweep.buffer).pending_keys, 0);
    CHECK_EQ(counters_of(sweep.buffer).pending_statuses, 0);
    CHECK_EQ(counters_of(sweep.buffer).live_keys, WOKEN);
    CHECK_EQ(counters_of(sweep.buffer).statuses_received, 1);
    CHECK_NO_FAULT(cdedupe_validate(sweep.buffer));

    CHECK(cdedupe_put_status(sweep.buffer, CDEDUPE_STATUS_IN_SYNC) == CDEDUPE_OK);
    CHECK_EQ(counters_of(sweep.buffer).pending_keys, WOKEN);
    CHECK_EQ(counters_of(sweep.buffer).pending_statuses, 1);
    cdedupe_destroy(sweep.buffer);
}

/* ---------------------------------------------------------------------------------------------- */

#define RUN_WITH_A_SUBJECT(test) (check_test = #test, with_a_subject(false, test))

static void
run_batches(void)
{
    RUN_WITH_A_SUBJECT(what_is_put_meanwhile_comes_in_the_next_batch);
    RUN_WITH_A_SUBJECT(an_put_back_batch_leaves_the_newer_value);
    RUN_WITH_A_SUBJECT(an_put_back_deletion_leaves_what_came_after_it);
    check_test = "what_a_snapshots_value_stands_for_is_not_lost";
    with_a_subject(true, what_a_snapshots_value_stands_for_is_not_lost);
    RUN_WITH_A_SUBJECT(a_batch_ends_before_a_last_one_that_is_cancelled_meanwhile);
    RUN_WITH_A_SUBJECT(a_batch_ends_before_the_last_of_several_that_is_cancelled_meanwhile);
    RUN_WITH_A_SUBJECT(a_batch_ends_before_several_that_are_cancelled_meanwhile);
    RUN_WITH_A_SUBJECT(a_status_behind_the_batch_is_not_in_it);
    RUN_WITH_A_SUBJECT(a_batch_ends_with_its_last_status_whichever_that_is_by_then);
    RUN_WITH_A_SUBJECT(a_batch_ends_before_a_status_that_meets_a_later_one);
}

static void
run_merges(void)
{
    RUN(the_next_put_yields_a_bounded_number_of_times_to_the_loop);
    RUN(only_the_next_put_yields);
    RUN(a_loop_that_comes_at_the_yield_takes_the_merged_value);
    RUN(a_loop_that_was_there_meanwhile_is_not_waited_for);
    RUN(a_loop_that_has_gone_is_not_waited_for);
    RUN(what_is_no_put_of_an_update_does_not_yield);
    RUN(a_single_batch_goes_first);
}

int
main(void)
{
    run_batches();
    run_merges();
    RUN(put_onABufferThatMerges_holdsTheMergeLockExceptWhileItAllocates);
    RUN(put_onABufferThatMerges_withoutMemory_releasesTheMergeLock);
    RUN(takeWhileAPutAllocates_onABufferThatMerges_takesTheOlderValue);
    RUN(putThatQueuedSomething_wakesTheLoopBeforeItAllocates);
    RUN(entryThatAnotherKeyGotWhileAPutAllocates_isNotMergedWith);
    RUN(lockScope_thatCopiesLongKeys_endsAtItsLimitOfBytes);
    RUN(lockScope_ofLongKeysThatAreThere_copiesNone_andGoesOn);
    RUN(release_afterManyDeletions_retiresTheirEntriesInSteps);
    RUN(collect_ofManyDroppedUpdates_clearsThemInSteps);
    RUN(discard_ofManySlots_goesInSteps);
    RUN(tidying_afterVeryManyRemovals_goesInAFewSteps_andIsNotFinished);
    RUN(putBack_ofManyItems_goesInSteps);
    RUN(a_deletion_put_back_behind_two_sweeps_is_owed);
    RUN(a_sweep_ends_at_restarts_that_use_up_the_numbers);
    RUN(deletion_putBackOverADroppedValueBehindASweep_isOwed);
    RUN(a_deletion_put_back_before_a_sweep_is_owed_at_once);
    RUN(a_sweep_wakes_the_loop_after_its_first_lock_scope);
    RUN(a_restart_during_a_sweep_drops_its_in_sync);
    RUN(the_clock_is_read_with_no_lock_held_and_in_no_section);
    RUN(status_onABufferThatMerges_readsTheClockAfterItHasTheMergeLock);
    RUN(a_slow_clock_in_one_call_stops_no_other);
    return check_finish();
}
