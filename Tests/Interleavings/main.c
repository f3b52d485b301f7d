/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goes through the schedules of programs. See README.md.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "linear.h"
#include "run.h"

struct options {
    unsigned least;       /* Preemptions: from, */
    unsigned preemptions; /* to. */
    uint64_t limit;       /* Schedules per program and bound; zero: all. */
    unsigned randoms;
    uint64_t seed;
    const char *only;  /* The number or the name of one program. */
    const char *match; /* How names begin. */
    const char *schedule;
    bool list;
    bool quiet;
    bool no_stops;
    bool first; /* End at the first failure. */
};

static struct {
    uint64_t schedules;
    uint64_t freezes;
    unsigned programs;
    unsigned cut; /* Programs that the limit cut short. */
    unsigned failed;
} totals;

static const struct program_text *current;

/* ---------------------------------------------------------------------------------------------- */
/* One schedule                                                                                   */

/* NULL: right. */
static const char *
run_once(const struct program_text *text)
{
    const char *fault;

    run_begin();
    if (!scheduler_run())
        return scheduler_failure();
    run_end();
    fault = scheduler_failure();
    if (fault == NULL)
        fault = text->weak ? linear_check_weakly(run_history()) : linear_check(run_history());
    return fault;
}

static void
print_schedule(const struct schedule *schedule)
{
    for (size_t i = 0; i < schedule->count; i++)
        printf("%s%" PRIu64 ":%u", i == 0 ? "" : ",", schedule->switches[i].step,
               schedule->switches[i].thread);
}

static void
print_threads(const struct program_text *text)
{
    printf("  set-up: %s\n", text->setup);
    for (unsigned i = 0; i < THREADS_MAX && text->threads[i] != NULL; i++)
        printf("  thread %u: %s\n", i, text->threads[i]);
}

static bool
parse_schedule(struct schedule *schedule, const char *text)
{
    char *end;

    for (schedule->count = 0; schedule->count < SWITCHES_MAX; text = end + 1) {
        struct schedule_switch *next = &schedule->switches[schedule->count++];

        next->step = strtoull(text, &end, 10);
        if (*end != ':')
            return false;
        next->thread = (unsigned)strtoul(end + 1, &end, 10);
        if (*end == 0)
            return true;
        if (*end != ',')
            return false;
    }
    return false;
}

/* ---------------------------------------------------------------------------------------------- */
/* One program                                                                                    */

static void
report(const struct program_text *text, const char *fault, const char *how)
{
    static struct schedule schedule;

    schedule = *scheduler_schedule();
    totals.failed++;
    printf("FAILED: %s: %s\n", text->name, fault);
    print_threads(text);
    run_print_history(stdout);
    printf("  %s\n", how);
    printf("  again: --program \"%s\" --schedule ", text->name);
    print_schedule(&schedule);
    printf("\n");
    fflush(stdout);
}

/* Says at least where. */
static void
crash(int number)
{
    report(current, number == SIGABRT ? "aborted" : "crashed", "ended here");
    _exit(1);
}

/* All schedules with at most so many preemptions. False: one failed. */
static bool
search(const struct options *options, const struct program_text *text, unsigned preemptions,
       uint64_t *schedules)
{
    uint64_t count = 0;
    char how[96];

    scheduler_begin_search(preemptions);
    while (scheduler_next()) {
        const char *fault = run_once(text);

        count++;
        if (fault != NULL) {
            *schedules += count;
            snprintf(how, sizeof(how), "found with %u preemptions, after %" PRIu64 " schedules",
                     preemptions, *schedules);
            report(text, fault, how);
            return false;
        }
        if (count == options->limit) {
            totals.cut++;
            break;
        }
    }
    *schedules += count;
    return true;
}

/*
 * Thread 0 is stopped at each step at which it does not have the lock. The other threads must end
 * all the same. Then thread 0 goes on, and everything must be right.
 */
static bool
freeze_everywhere(const struct program_text *text, uint64_t *freezes)
{
    char how[64];

    for (uint64_t step = 1;; step++) {
        scheduler_begin_search(0);
        scheduler_freeze(step);
        while (scheduler_next()) {
            const char *fault = run_once(text);

            if (fault != NULL) {
                snprintf(how, sizeof(how), "thread 0 stopped before its step %" PRIu64, step);
                report(text, fault, how);
                return false;
            }
            *freezes += scheduler_freeze_reached() && !scheduler_freeze_held_lock();
        }
        if (!scheduler_freeze_reached())
            return true;
    }
}

static bool
prepare(struct program *program, const struct program_text *text)
{
    current = text;
    if (!program_parse(program, text)) {
        printf("%s: not a program\n", text->name);
        exit(2);
    }
    scheduler_begin_program(program->threads_count, run_thread);
    linear_begin_program();
    if (run_prepare(program))
        return true;
    totals.failed++;
    printf("FAILED: %s: in the set-up: %s\n", text->name, scheduler_failure());
    return false;
}

static void
check_program(const struct options *options, const struct program_text *text)
{
    unsigned preemptions = options->preemptions;
    uint64_t schedules = 0, freezes = 0;
    static struct program program;
    bool right = true;

    if (!prepare(&program, text))
        return;
    if (text->preemptions != 0 && text->preemptions < preemptions)
        preemptions = text->preemptions;
    for (unsigned bound = options->least; bound <= preemptions && right; bound++)
        right = search(options, text, bound, &schedules);
    if (right && !options->no_stops && !text->waits)
        freeze_everywhere(text, &freezes);
    totals.programs++;
    totals.schedules += schedules;
    totals.freezes += freezes;
    if (!options->quiet)
        printf("%-56s %u: %9" PRIu64 " schedules, %5u histories, %5" PRIu64 " stops\n", text->name,
               preemptions, schedules, linear_histories(), freezes);
    fflush(stdout);
}

static void
replay(const struct options *options, const struct program_text *text)
{
    static struct schedule schedule;
    static struct program program;
    const char *fault;

    if (!parse_schedule(&schedule, options->schedule)) {
        printf("a schedule is STEP:THREAD,STEP:THREAD,...\n");
        exit(2);
    }
    if (!prepare(&program, text))
        return;
    print_threads(text);
    scheduler_follow(&schedule, stdout);
    fault = run_once(text);
    run_print_history(stdout);
    printf("%s\n", fault == NULL ? "nothing wrong" : fault);
    totals.failed += fault != NULL;
}

/* ---------------------------------------------------------------------------------------------- */

static bool
is_chosen(const struct options *options, size_t number, const char *name)
{
    char *end;

    if (options->match != NULL && strncmp(name, options->match, strlen(options->match)) != 0)
        return false;
    if (options->only == NULL || strcmp(options->only, name) == 0)
        return true;
    return strtoul(options->only, &end, 10) == number && *end == 0 && end != options->only;
}

static void
treat(const struct options *options, size_t number, const struct program_text *text)
{
    if (!is_chosen(options, number, text->name) || (options->first && totals.failed > 0))
        return;
    if (options->list)
        printf("%3zu  %s\n", number, text->name);
    if (options->list)
        print_threads(text);
    else if (options->schedule != NULL)
        replay(options, text);
    else
        check_program(options, text);
}

static void
treat_all(const struct options *options)
{
    struct program_storage storage;

    for (size_t i = 0; i < program_list_count; i++)
        treat(options, i, &program_list[i]);
    for (unsigned i = 0; i < options->randoms; i++) {
        struct program_text text = program_random(options->seed + i, &storage);

        treat(options, program_list_count + i, &text);
    }
}

/* The shallowest failure first: all programs without preemptions, then with one, and so on. */
static void
treat_step_by_step(const struct options *options)
{
    struct options step = *options;

    for (step.least = 0; step.least <= options->preemptions; step.least++) {
        step.preemptions = step.least;
        treat_all(&step);
    }
}

static const char *
value_of(int argc, char **argv, int *i)
{
    if (*i + 1 == argc) {
        printf("%s wants a value\n", argv[*i]);
        exit(2);
    }
    return argv[++*i];
}

static void
parse_options(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--preemptions") == 0)
            options->preemptions = (unsigned)strtoul(value_of(argc, argv, &i), NULL, 10);
        else if (strcmp(argv[i], "--limit") == 0)
            options->limit = strtoull(value_of(argc, argv, &i), NULL, 10);
        else if (strcmp(argv[i], "--random") == 0)
            options->randoms = (unsigned)strtoul(value_of(argc, argv, &i), NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            options->seed = strtoull(value_of(argc, argv, &i), NULL, 10);
        else if (strcmp(argv[i], "--program") == 0)
            options->only = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--match") == 0)
            options->match = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--no-stops") == 0)
            options->no_stops = true;
        else if (strcmp(argv[i], "--first") == 0)
            options->first = true;
        else if (strcmp(argv[i], "--schedule") == 0)
            options->schedule = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--list") == 0)
            options->list = true;
        else if (strcmp(argv[i], "--quiet") == 0)
            options->quiet = true;
        else {
            printf("%s: see README.md for the options\n", argv[i]);
            exit(2);
        }
    }
}

int
main(int argc, char **argv)
{
    struct options options = {.preemptions = 2, .seed = 1};

    parse_options(&options, argc, argv);
    scheduler_label = run_label;
    scheduler_at_switch = run_validate_at_switch;
    signal(SIGSEGV, crash);
    signal(SIGBUS, crash);
    signal(SIGABRT, crash);
    if (options.first)
        treat_step_by_step(&options);
    else
        treat_all(&options);
    if (options.list || options.schedule != NULL)
        return totals.failed != 0;
    printf("%u programs, %" PRIu64 " schedules, %" PRIu64
           " stops, %u searches cut short, %u failed\n",
           totals.programs, totals.schedules, totals.freezes, totals.cut, totals.failed);
    /* A selection that matches no program has shown nothing. */
    return totals.failed != 0 || totals.programs == 0;
}
