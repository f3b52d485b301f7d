/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a target once for every file that is named, and for every file in the folders that are
 * named.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned long inputs;
static unsigned long bytes;

static void
fail(const char *path)
{
    perror(path);
    exit(2);
}

/* Of exactly its size, so that reading past the end is noticed. */
static void
replay_file(const char *path, size_t size)
{
    uint8_t *input = malloc(size > 0 ? size : 1);
    FILE *file = fopen(path, "rb");

    if (file == NULL || input == NULL || fread(input, 1, size, file) != size) {
        fail(path);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(input, size);
    free(input);
    inputs++;
    bytes += size;
}

static void replay(const char *path);

static void
replay_folder(const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    char *inside;

    if (count < 0) {
        fail(path);
    }
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.' &&
            asprintf(&inside, "%s/%s", path, entries[i]->d_name) > 0) {
            replay(inside);
            free(inside);
        }
        free(entries[i]);
    }
    free(entries);
}

static void
replay(const char *path)
{
    struct stat status;

    if (stat(path, &status) != 0) {
        fail(path);
    }
    if (S_ISDIR(status.st_mode)) {
        replay_folder(path);
    } else {
        replay_file(path, (size_t)status.st_size);
    }
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        replay(argv[i]);
    }
    printf("%s: %lu inputs of %lu bytes\n", argv[0], inputs, bytes);
    return inputs > 0 ? 0 : 2; /* A corpus that was not found is no success. */
}
