/* SPDX-License-Identifier: Apache-2.0 */
/* The resident memory of the process. */
#ifndef RESIDENT_H
#define RESIDENT_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

static inline uint64_t
resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long size = 0, resident = 0;

    if (file == NULL || fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

#endif
