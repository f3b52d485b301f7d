/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A minimal test framework: checks that count, and that print where they failed and what they saw.
 * A program ends with check_finish(), which prints "N passed, N failed".
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Weak symbols let all files of a program share one set of counters without a file of its own for
 * them.
 */
__attribute__((weak)) unsigned long check_passed;
__attribute__((weak)) unsigned long check_failed;
/*
 * The running test, and a function that prints more about its state. Both are printed with a
 * failure.
 */
__attribute__((weak)) const char *check_test;
__attribute__((weak)) void (*check_describe)(FILE *out);

/*
 * After this many failures, checks only count, so that one fault does not bury the others in
 * output.
 */
#define CHECK_PRINTED_MAX 40

/*
 * Counts one check. Returns whether the caller must print its failure. Atomic, because several
 * threads may check.
 */
static inline bool
check_count(bool ok, const char *file, int line, const char *text)
{
    if (ok) {
        __atomic_fetch_add(&check_passed, 1UL, __ATOMIC_RELAXED);
        return false;
    }
    if (__atomic_fetch_add(&check_failed, 1UL, __ATOMIC_RELAXED) >= CHECK_PRINTED_MAX) {
        return false;
    }
    printf("%s:%d: %s: %s", file, line, check_test != NULL ? check_test : "", text);
    return true;
}

static inline void
check_more(void)
{
    printf("\n");
    if (check_describe != NULL) {
        check_describe(stdout);
    }
    fflush(stdout);
}

static inline bool
check_true(bool ok, const char *file, int line, const char *text)
{
    if (check_count(ok, file, line, text)) {
        check_more();
    }
    return ok;
}

static inline bool
check_equal(uint64_t got, uint64_t wanted, const char *file, int line, const char *text)
{
    if (check_count(got == wanted, file, line, text)) {
        printf(": got %" PRIu64 ", wanted %" PRIu64, got, wanted);
        check_more();
    }
    return got == wanted;
}

static inline bool
check_text(const char *got, const char *wanted, const char *file, int line, const char *text)
{
    bool ok = got != NULL && strcmp(got, wanted) == 0;

    if (check_count(ok, file, line, text)) {
        printf(":\n  got    %s\n  wanted %s", got != NULL ? got : "(null)", wanted);
        check_more();
    }
    return ok;
}

/* Checks the result of a function that returns NULL or the text of a fault. */
static inline bool
check_no_fault(const char *fault, const char *file, int line, const char *text)
{
    if (check_count(fault == NULL, file, line, text)) {
        printf(": %s", fault);
        check_more();
    }
    return fault == NULL;
}

#define CHECK(condition) check_true((condition), __FILE__, __LINE__, #condition)
#define CHECK_EQ(got, wanted) \
    check_equal((uint64_t)(got), (uint64_t)(wanted), __FILE__, __LINE__, #got)
#define CHECK_TEXT(got, wanted) check_text((got), (wanted), __FILE__, __LINE__, #got)
#define CHECK_NO_FAULT(call) check_no_fault((call), __FILE__, __LINE__, #call)

static inline void
check_hangs(int number)
{
    (void)number;
    printf("%s hangs\n", check_test != NULL ? check_test : "a test");
    fflush(stdout);
    _exit(1);
}

/* Ends the program, and names the running test, if that has not ended after so many seconds. */
static inline void
check_hangs_after(unsigned seconds)
{
    signal(SIGALRM, check_hangs);
    alarm(seconds);
}

/* Runs a test function under its name. */
#define RUN(test)           \
    do {                    \
        check_test = #test; \
        test();             \
    } while (0)

/* The last line of a program. Returns its exit status. */
static inline int
check_finish(void)
{
    printf("%lu passed, %lu failed\n", check_passed, check_failed);
    return check_failed == 0 ? 0 : 1;
}

#ifdef __cplusplus
}
#endif

#endif /* CHECK_H */
