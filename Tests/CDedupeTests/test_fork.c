/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork(): the child has a copy of the buffer. If no other thread was inside a call at the time of
 * the fork, the child may use and destroy its copy. Parent and child do not see each other's
 * changes.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "CDedupe.h"
#include "check.h"

enum { KEYS = 5000 };

static void
put_range(cdedupe_bytes_t *buffer, uint32_t from, uint32_t to)
{
    char value[300];

    for (uint32_t key = from; key < to; key++) {
        memset(value, (int)key, sizeof(value));
        CHECK_EQ(cdedupe_bytes_put(buffer, &key, sizeof(key), value, key % sizeof(value), 0, NULL),
                 CDEDUPE_OK);
    }
}

static size_t
take_all(cdedupe_bytes_t *buffer)
{
    cdedupe_bytes_item_t items[100];
    size_t count, taken = 0;

    CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    while (cdedupe_bytes_take(buffer, items, 100, &count) == CDEDUPE_OK)
        taken += count;
    cdedupe_bytes_release(buffer);
    return taken;
}

/* Uses the copy in every way, and says by its exit status whether all checks passed. */
static void
be_the_child(cdedupe_bytes_t *buffer)
{
    put_range(buffer, KEYS, 2 * KEYS);
    CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    CHECK_EQ(take_all(buffer), 2 * KEYS);
    CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_put_status(buffer, CDEDUPE_STATUS_IN_SYNC), CDEDUPE_OK);
    CHECK_EQ(take_all(buffer), 2 * KEYS + 1);
    CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    cdedupe_bytes_destroy(buffer);
    _exit(check_failed == 0 ? 0 : 1);
}

static void
fork_whileNoCallRuns_givesTheChildACopy(void)
{
    cdedupe_bytes_t *buffer;
    int status;
    pid_t child;

    CHECK_EQ(cdedupe_bytes_create(NULL, &buffer), CDEDUPE_OK);
    put_range(buffer, 0, KEYS);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        be_the_child(buffer);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_NO_FAULT(cdedupe_bytes_validate(buffer));
    CHECK_EQ(take_all(buffer), KEYS);
    cdedupe_bytes_destroy(buffer);
}

int
main(void)
{
    RUN(fork_whileNoCallRuns_givesTheChildACopy);
    return check_finish();
}
