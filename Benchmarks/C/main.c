/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmarks of the C core. Writes a list of results in JSON; what they mean is in
 * ../README.md.
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "measure.h"

static void
usage(const char *program)
{
    fprintf(stderr,
            "usage: %s [--output FILE] [--quick] [--only CASE,...] [--keys N,...]\n"
            "          [--repetitions N] [--seconds S] [--seed N] [--check]\n"
            "cases: replace bytes pinned fresh rounds together allocations create grow wake;\n"
            "names of others are ignored\n",
            program);
    exit(2);
}

static double
number(const char *program, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value > 0))
        usage(program);
    return value;
}

/* Whether a list separated by commas names a case; no list names all. */
static bool
chosen(const char *list, const char *name)
{
    size_t length = strlen(name);

    if (list == NULL)
        return true;
    for (const char *at = list; at != NULL;
         at = strchr(at, ',') == NULL ? NULL : strchr(at, ',') + 1) {
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

/*
 * Replacing, for all kinds of calls. Calls of 10 lie between those of 1 and of 100, so one number
 * of keys is enough to show them; and the number of producers matters for the lock and the caches,
 * not for the sizes of keys.
 */
static void
measure_replacing(const struct parameters *parameters, size_t keys)
{
    static const size_t key_sizes[] = {SHORT_KEY_SIZE, KEY_SIZE}, calls[] = {1, 10, CALL};

    for (size_t i = 0; i < sizeof(key_sizes) / sizeof(key_sizes[0]); i++)
        for (size_t j = 0; j < sizeof(calls) / sizeof(calls[0]); j++)
            if (calls[j] != 10 || keys == 1000)
                measure_replace(parameters, &(struct setting){keys, key_sizes[i], calls[j], 1});
    for (unsigned threads = 2; keys >= 1000 && threads <= 8; threads *= 2) {
        measure_replace(parameters, &(struct setting){keys, KEY_SIZE, 1, threads});
        measure_replace(parameters, &(struct setting){keys, KEY_SIZE, CALL, threads});
    }
}

/* The cases that depend on the number of keys. */
static void
measure_keys(const struct parameters *parameters, const char *only, size_t keys)
{
    static const size_t key_sizes[] = {SHORT_KEY_SIZE, KEY_SIZE};
    struct setting long_keys = {keys, KEY_SIZE, CALL, 1}, together = {keys, KEY_SIZE, CALL, 2};

    if (chosen(only, "replace"))
        measure_replacing(parameters, keys);
    for (size_t i = 0; i < 2; i++) {
        if (chosen(only, "bytes") && keys >= 1000 && keys <= 100000)
            measure_replace_bytes(parameters, &(struct setting){keys, key_sizes[i], 1, 1});
        if (chosen(only, "pinned") && keys >= 1000 && keys <= 100000) {
            measure_replace_pinned(parameters, &(struct setting){keys, key_sizes[i], 1, 1});
            measure_replace_pinned(parameters, &(struct setting){keys, key_sizes[i], CALL, 1});
        }
        if (chosen(only, "fresh") && keys <= 1000)
            measure_fresh(parameters, &(struct setting){keys, key_sizes[i], 1, 1});
    }
    if (keys < 1000)
        return;
    if (chosen(only, "rounds"))
        measure_rounds(parameters, &long_keys);
    if (chosen(only, "together"))
        measure_together(parameters, &together);
    if (chosen(only, "allocations"))
        measure_allocations(parameters, &long_keys);
}

int
main(int argc, char **argv)
{
    static const struct option names[] = {
        {"output", required_argument, NULL, 'o'},
        {"quick", no_argument, NULL, 'q'},
        {"only", required_argument, NULL, 'c'},
        {"keys", required_argument, NULL, 'k'},
        {"repetitions", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'},
        {"seed", required_argument, NULL, 'e'},
        {"check", no_argument, NULL, 'x'},
        {NULL, 0, NULL, 0},
    };
    struct parameters parameters = {.repetitions = 5,
                                    .seconds = 0.25,
                                    .small_updates = 100000,
                                    .grow_rounds = 20,
                                    .wakes = 2000,
                                    .seed = 1};
    size_t keys[8] = {10, 100, 1000, 100000, 1000000}, key_counts = 5;
    const char *output = "bench-c.json", *only = NULL;
    bool check = false;
    int option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 'o':
            output = optarg;
            break;
        case 'q':
            parameters.repetitions = 3;
            parameters.seconds = 0.06;
            parameters.small_updates = 30000;
            parameters.wakes = 500;
            key_counts = 4;
            break;
        case 'c':
            only = optarg;
            break;
        case 'k':
            key_counts = 0;
            for (char *at = strtok(optarg, ","); at != NULL && key_counts < 8;
                 at = strtok(NULL, ",")) {
                /* Streams have whole calls, and indices of 32 bits. */
                size_t count = (size_t)number(argv[0], at);

                if (count < 10 || (count % 100 != 0 && 100 % count != 0) || count > 10000000)
                    usage(argv[0]);
                keys[key_counts++] = count;
            }
            break;
        case 'r':
            parameters.repetitions = (unsigned)number(argv[0], optarg);
            break;
        case 's':
            parameters.seconds = number(argv[0], optarg);
            break;
        case 'e':
            parameters.seed = (uint64_t)number(argv[0], optarg);
            break;
        case 'x':
            check = true;
            break;
        default:
            usage(argv[0]);
        }
    }
    if (optind != argc || key_counts == 0)
        usage(argv[0]);
    if (check) {
        check_yardstick(&parameters);
        return 0;
    }

    report_open(output);
    for (size_t i = 0; i < key_counts; i++)
        measure_keys(&parameters, only, keys[i]);
    if (chosen(only, "create"))
        measure_create(&parameters);
    if (chosen(only, "grow"))
        measure_growth(&parameters, &(struct setting){keys[key_counts - 1], KEY_SIZE, CALL, 1});
    if (chosen(only, "wake"))
        measure_wake(&parameters);
    report_close();
    return 0;
}
