/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "region.h"
#include "steps.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SCHEDULER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SCHEDULER_ASAN 1
#endif
#ifdef SCHEDULER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* Nobody runs: what happens is preparation or a check, and no step. */
#define NOBODY THREADS_MAX

enum { STACK_SIZE = 256 * 1024, CHOICES_MAX = 65536 };

/* A run of more steps is a livelock; so many rounds in which all wait in vain are a deadlock. */
enum { STEPS_MAX = 200 * 1000, VAIN_MAX = 1000 };

/*
 * How often yielding threads may pass over a thread that can run. Otherwise polling threads would
 * wake each other forever.
 */
enum { PASSED_MAX = 2 };

/* A waiting thread looks again and again. A sleeping thread is woken or sleeps forever. */
enum state { READY, WAITING, ASLEEP, FROZEN, ENDED };

struct thread {
    ucontext_t context;
    enum state state;
    const volatile void *waits_for; /* NULL: anything. */
    const volatile void *last_read;
    unsigned passed; /* How often others went first though it could have run. */
};

struct choice {
    uint8_t options;
    uint8_t taken;
};

/*
 * By address, as far as the region goes: who read it, who wrote it, as bits; and whether it is a
 * point of choice.
 */
struct use {
    uint8_t readers;
    uint8_t writers;
    bool contended;
};

enum { USES = REGION_SIZE / 4 };

static struct {
    thread_body_t *body;
    unsigned threads_count;
    struct thread threads[THREADS_MAX];
    ucontext_t main;

    /* The search. */
    unsigned bound;
    struct choice choices[CHOICES_MAX];
    size_t length;
    size_t depth;
    bool begun;
    bool grown; /* An address became contended during this search. */
    struct use uses[USES];

    const struct schedule *followed;
    size_t followed_count;
    FILE *trace;

    uint64_t freeze_at; /* Zero: not at all. */
    uint64_t freeze_steps;
    bool freeze_reached;
    bool freeze_held_lock;

    /* The run. */
    unsigned running;
    unsigned lock_owner;
    unsigned preemptions;
    unsigned vain;
    uint64_t steps;
    struct schedule schedule;
    bool failed;
    char failure[512];
} scheduler = {.running = NOBODY, .lock_owner = NOBODY};

#ifdef SCHEDULER_ASAN
static const void *main_stack;
static size_t main_size;
#endif

static unsigned char stacks[THREADS_MAX][STACK_SIZE] __attribute__((aligned(64)));

const char *(*scheduler_label)(const volatile void *address);
void (*scheduler_at_switch)(void);

/* ---------------------------------------------------------------------------------------------- */
/* Coroutines                                                                                     */

static void
swap(ucontext_t *from, ucontext_t *to, const void *stack, size_t size)
{
#ifdef SCHEDULER_ASAN
    void *fake = NULL;

    __sanitizer_start_switch_fiber(&fake, stack == NULL ? main_stack : stack,
                                   stack == NULL ? main_size : size);
    swapcontext(from, to);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#else
    (void)stack, (void)size;
    swapcontext(from, to);
#endif
}

static void
swap_to_thread(ucontext_t *from, unsigned thread)
{
    scheduler.running = thread;
    swap(from, &scheduler.threads[thread].context, stacks[thread], STACK_SIZE);
}

static void
swap_to_main(void)
{
    unsigned thread = scheduler.running;

    scheduler.running = NOBODY;
    swap(&scheduler.threads[thread].context, &scheduler.main, NULL, 0);
}

void
scheduler_fail(const char *format, ...)
{
    va_list arguments;

    if (!scheduler.failed) {
        scheduler.failed = true;
        va_start(arguments, format);
        vsnprintf(scheduler.failure, sizeof(scheduler.failure), format, arguments);
        va_end(arguments);
    }
    if (scheduler.running != NOBODY)
        swap_to_main();
}

const char *
scheduler_failure(void)
{
    return scheduler.failed ? scheduler.failure : NULL;
}

void
scheduler_clear_failure(void)
{
    scheduler.failed = false;
}

/* ---------------------------------------------------------------------------------------------- */
/* Choices                                                                                        */

/*
 * One of so many: the first when it is met for the first time, then, search by search, the others.
 */
static unsigned
choose(unsigned options)
{
    struct choice *choice = &scheduler.choices[scheduler.depth];

    if (options == 1)
        return 0;
    if (scheduler.depth == CHOICES_MAX) {
        scheduler_fail("too many choices");
        return 0;
    }
    if (scheduler.depth == scheduler.length) {
        *choice = (struct choice){.options = (uint8_t)options, .taken = 0};
        scheduler.length++;
    }
    if (choice->options != options)
        scheduler_fail("the same schedule led elsewhere: the test is not deterministic");
    scheduler.depth++;
    return choice->taken;
}

/* The threads that can run, except one. */
static unsigned
find_ready(unsigned ready[THREADS_MAX], unsigned except)
{
    unsigned count = 0;

    for (unsigned i = 0; i < scheduler.threads_count; i++)
        if (i != except && scheduler.threads[i].state == READY)
            ready[count++] = i;
    return count;
}

static bool
is_followed_switch(void)
{
    const struct schedule *schedule = scheduler.followed;

    return schedule != NULL && scheduler.followed_count < schedule->count &&
           schedule->switches[scheduler.followed_count].step == scheduler.steps;
}

static unsigned
follow_switch(unsigned otherwise)
{
    unsigned thread;

    if (!is_followed_switch())
        return otherwise;
    thread = scheduler.followed->switches[scheduler.followed_count++].thread;
    if (thread >= scheduler.threads_count || scheduler.threads[thread].state != READY)
        scheduler_fail("the schedule names a thread that cannot run");
    return thread;
}

static void
note_switch(unsigned thread)
{
    struct schedule *schedule = &scheduler.schedule;

    if (schedule->count == SWITCHES_MAX)
        scheduler_fail("livelock: too many switches");
    else
        schedule->switches[schedule->count++] =
            (struct schedule_switch){.step = scheduler.steps, .thread = thread};
}

static void
check_at_switch(void)
{
    unsigned running = scheduler.running;

    if (scheduler_at_switch == NULL || scheduler.lock_owner != NOBODY)
        return;
    scheduler.running = NOBODY;
    scheduler_at_switch();
    scheduler.running = running;
    if (scheduler.failed)
        swap_to_main();
}

static void
switch_to(unsigned thread)
{
    unsigned from = scheduler.running;

    if (from == thread)
        return;
    check_at_switch();
    if (scheduler.trace != NULL)
        fprintf(scheduler.trace, "      ---- thread %u\n", thread);
    swap_to_thread(&scheduler.threads[from].context, thread);
}

/* The running thread could go on. */
static void
maybe_preempt(void)
{
    unsigned ready[THREADS_MAX], count, thread = scheduler.running;

    if (scheduler.followed != NULL) {
        thread = follow_switch(thread);
    } else if (scheduler.preemptions < scheduler.bound && scheduler.freeze_at == 0) {
        unsigned taken;

        count = find_ready(ready, scheduler.running);
        taken = choose(1 + count);
        if (taken > 0)
            thread = ready[taken - 1];
    }
    if (thread == scheduler.running)
        return;
    scheduler.preemptions++;
    note_switch(thread);
    switch_to(thread);
}

static void
wake_all(enum state state)
{
    for (unsigned i = 0; i < scheduler.threads_count; i++)
        if (scheduler.threads[i].state == state)
            scheduler.threads[i].state = READY;
}

static bool
is_any(enum state state)
{
    for (unsigned i = 0; i < scheduler.threads_count; i++)
        if (scheduler.threads[i].state == state)
            return true;
    return false;
}

/* No thread is ready: waiting threads look once more. If none waits, thread 0 is released. */
static void
make_ready(void)
{
    if (is_any(WAITING)) {
        if (++scheduler.vain > VAIN_MAX)
            scheduler_fail("deadlock: all threads wait");
        wake_all(WAITING);
    } else {
        wake_all(FROZEN);
    }
}

/* Any of those that can run, except one that has waited for its turn too long. */
static unsigned
choose_fairly(const unsigned ready[THREADS_MAX], unsigned count, bool yields)
{
    unsigned thread = ready[0];

    for (unsigned i = 0; i < count; i++)
        if (scheduler.threads[ready[i]].passed > scheduler.threads[thread].passed)
            thread = ready[i];
    if (scheduler.threads[thread].passed < PASSED_MAX)
        thread = ready[choose(count)];
    for (unsigned i = 0; i < count; i++)
        scheduler.threads[ready[i]].passed += yields;
    scheduler.threads[thread].passed = 0;
    return thread;
}

/* The running thread cannot go on: another must. */
static void
run_another(bool yields)
{
    unsigned ready[THREADS_MAX], count, thread;

    if (find_ready(ready, NOBODY) == 0)
        make_ready();
    count = find_ready(ready, NOBODY);
    if (count == 0) {
        if (is_any(ASLEEP))
            scheduler_fail("a thread sleeps, and nobody wakes it");
        swap_to_main();
    }
    if (scheduler.followed != NULL)
        thread = follow_switch(ready[0]);
    else
        thread = choose_fairly(ready, count, yields);
    note_switch(thread);
    switch_to(thread);
}

/* ---------------------------------------------------------------------------------------------- */
/* Steps                                                                                          */

static bool
is_shared(const struct use *use)
{
    unsigned all = use->readers | use->writers;

    return use->writers != 0 && (all & (all - 1)) != 0;
}

/* Notes that the thread uses the address. True: it is a point of choice. */
static bool
note_use(const volatile void *address, bool writes)
{
    struct use *use;
    uint8_t bit = (uint8_t)(1u << scheduler.running);

    if (!region_contains(address))
        return false;
    use = &scheduler.uses[((uintptr_t)address - (uintptr_t)region) / 4];
    if (writes)
        use->writers |= bit;
    else
        use->readers |= bit;
    if (!use->contended && is_shared(use))
        scheduler.grown = true;
    return use->contended;
}

/* Stops thread 0 forever, or at least until the others have ended. */
static void
maybe_freeze(void)
{
    if (scheduler.running != 0 || scheduler.freeze_at == 0 ||
        ++scheduler.freeze_steps != scheduler.freeze_at)
        return;
    scheduler.freeze_reached = true;
    scheduler.freeze_held_lock = scheduler.lock_owner == 0;
    if (scheduler.freeze_held_lock)
        return;
    scheduler.threads[0].state = FROZEN;
    run_another(false);
}

/*
 * Where in the core a step is, as addr2line knows: the innermost function outside the files of
 * steps.
 */
static const char *
describe_caller(const void *caller)
{
    static char line[256];
    char command[512], path[256];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    FILE *pipe;

    if (caller == NULL || length < 0)
        return "";
    path[length] = 0;
    snprintf(command, sizeof(command), "addr2line -fips -e '%s' %p", path,
             (const void *)((const unsigned char *)caller - 1));
    pipe = popen(command, "r");
    line[0] = 0;
    while (pipe != NULL && fgets(line, sizeof(line), pipe) != NULL)
        if (strstr(line, " steps.h:") == NULL && strstr(line, " sync.h:") == NULL)
            break;
    if (pipe != NULL)
        pclose(pipe);
    line[strcspn(line, "\n")] = 0;
    return strncmp(line, " (inlined by) ", 14) == 0 ? line + 14 : line;
}

static void
trace_step(const volatile void *address, const char *what, const void *caller)
{
    if (scheduler.trace == NULL)
        return;
    fprintf(scheduler.trace, "%5llu %u  %-17s %-24s %s\n", (unsigned long long)scheduler.steps,
            scheduler.running, what, address == NULL ? "" : scheduler_label(address),
            describe_caller(caller));
}

void
step_before(const volatile void *address, bool writes, const char *what)
{
    bool contended;

    if (scheduler.running == NOBODY)
        return;
    if (++scheduler.steps > STEPS_MAX)
        scheduler_fail("livelock: too many steps");
    maybe_freeze();
    contended = note_use(address, writes);
    if (contended || is_followed_switch())
        maybe_preempt();
    trace_step(address, what, __builtin_return_address(0));
    scheduler.threads[scheduler.running].last_read = address;
#ifdef SCHEDULER_ASAN
    if (__asan_address_is_poisoned(address))
        scheduler_fail("%s of freed memory: %s", what, scheduler_label(address));
#endif
}

void
step_changed(const volatile void *address)
{
    if (scheduler.running == NOBODY)
        return;
    scheduler.vain = 0;
    for (unsigned i = 0; i < scheduler.threads_count; i++) {
        struct thread *thread = &scheduler.threads[i];

        if ((thread->state == WAITING || thread->state == ASLEEP) &&
            (thread->waits_for == NULL || thread->waits_for == address))
            thread->state = READY;
    }
}

static void
wait_for(const volatile void *address, enum state state, const char *what)
{
    if (scheduler.running == NOBODY) {
        /* In the set-up or a check: a few rounds until retired memory is free are right. */
        if (++scheduler.vain <= VAIN_MAX)
            return;
        printf("FAILED: waits forever, with no thread running\n");
        exit(1);
    }
    scheduler.steps++;
    trace_step(address, what, NULL);
    scheduler.threads[scheduler.running].state = state;
    scheduler.threads[scheduler.running].waits_for = address;
    run_another(address == NULL);
}

void
step_spin(void)
{
    wait_for(scheduler.running == NOBODY ? NULL : scheduler.threads[scheduler.running].last_read,
             WAITING, "waits");
}

void
step_sleep(const volatile void *address)
{
    wait_for(address, ASLEEP, "sleeps");
}

void
step_yield(void)
{
    wait_for(NULL, WAITING, "yields");
}

uint64_t
step_thread(void)
{
    return scheduler.running + 1;
}

void
step_locked(void)
{
    scheduler.lock_owner = scheduler.running;
}

void
step_unlocked(void)
{
    scheduler.lock_owner = NOBODY;
}

void
scheduler_boundary(const char *what)
{
    scheduler.steps++;
    maybe_freeze();
    maybe_preempt();
    trace_step(NULL, what, NULL);
}

void
scheduler_wait(const volatile void *address)
{
    wait_for(address, ASLEEP, "sleeps");
}

void
scheduler_changed(const volatile void *address)
{
    step_changed(address);
}

/* ---------------------------------------------------------------------------------------------- */
/* Runs and searches                                                                              */

static void
run_body(int thread)
{
#ifdef SCHEDULER_ASAN
    const void *old;
    size_t old_size;

    __sanitizer_finish_switch_fiber(NULL, &old, &old_size);
    /* The first coroutine ever is begun from the main stack. */
    if (main_stack == NULL) {
        main_stack = old;
        main_size = old_size;
    }
#endif
    scheduler.body((unsigned)thread);
    scheduler.threads[thread].state = ENDED;
    run_another(false);
}

static void
prepare_threads(void)
{
    for (unsigned i = 0; i < scheduler.threads_count; i++) {
        struct thread *thread = &scheduler.threads[i];

        getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = stacks[i];
        thread->context.uc_stack.ss_size = STACK_SIZE;
        thread->context.uc_link = NULL;
        makecontext(&thread->context, (void (*)(void))run_body, 1, (int)i);
        thread->state = READY;
        thread->last_read = NULL;
        thread->passed = 0;
#ifdef SCHEDULER_ASAN
        ASAN_UNPOISON_MEMORY_REGION(stacks[i], STACK_SIZE);
#endif
    }
}

bool
scheduler_run(void)
{
    unsigned ready[THREADS_MAX], count;

    prepare_threads();
    scheduler.depth = 0;
    scheduler.followed_count = 0;
    scheduler.freeze_steps = 0;
    scheduler.freeze_reached = false;
    scheduler.lock_owner = NOBODY;
    scheduler.preemptions = 0;
    scheduler.vain = 0;
    scheduler.steps = 0;
    scheduler.schedule.count = 0;
    scheduler.failed = false;

    count = find_ready(ready, NOBODY);
    if (scheduler.followed != NULL || scheduler.freeze_at != 0)
        ready[0] = follow_switch(0);
    else
        ready[0] = ready[choose(count)];
    note_switch(ready[0]);
    swap_to_thread(&scheduler.main, ready[0]);
    return !scheduler.failed;
}

void
scheduler_begin_program(unsigned threads, thread_body_t *body)
{
    scheduler.threads_count = threads;
    scheduler.body = body;
    scheduler.followed = NULL;
    scheduler.trace = NULL;
    scheduler.freeze_at = 0;
    scheduler.vain = 0;
    memset(scheduler.uses, 0, sizeof(scheduler.uses));
}

void
scheduler_begin_search(unsigned preemptions)
{
    scheduler.followed = NULL;
    scheduler.trace = NULL;
    scheduler.freeze_at = 0;
    scheduler.bound = preemptions;
    scheduler.begun = false;
    scheduler.grown = false;
    scheduler.length = 0;
}

/* Whatever is shared by now is a point of choice. */
static void
begin_again(void)
{
    for (size_t i = 0; i < USES; i++)
        scheduler.uses[i].contended = is_shared(&scheduler.uses[i]);
    scheduler.grown = false;
    scheduler.length = 0;
}

/* To the last choice that has an option left. False: none has. */
static bool
advance(void)
{
    while (scheduler.length > 0) {
        struct choice *choice = &scheduler.choices[scheduler.length - 1];

        if (++choice->taken < choice->options)
            return true;
        scheduler.length--;
    }
    return false;
}

bool
scheduler_next(void)
{
    if (!scheduler.begun) {
        scheduler.begun = true;
        return true;
    }
    if (scheduler.grown) {
        begin_again();
        return true;
    }
    return advance();
}

void
scheduler_follow(const struct schedule *schedule, FILE *trace)
{
    scheduler.followed = schedule;
    scheduler.trace = trace;
    scheduler.freeze_at = 0;
}

void
scheduler_freeze(uint64_t step)
{
    scheduler.followed = NULL;
    scheduler.trace = NULL;
    scheduler.freeze_at = step;
}

bool
scheduler_freeze_reached(void)
{
    return scheduler.freeze_reached;
}

bool
scheduler_freeze_held_lock(void)
{
    return scheduler.freeze_held_lock;
}

const struct schedule *
scheduler_schedule(void)
{
    return &scheduler.schedule;
}

uint64_t
scheduler_steps(void)
{
    return scheduler.steps;
}
