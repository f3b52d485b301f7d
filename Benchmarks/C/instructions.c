/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions per update, counted by callgrind, for a thousand keys: the figure that noise does
 * not touch.
 *
 * Run by the Makefile under `valgrind --tool=callgrind --instr-atstart=no`. Each case ends with a
 * dump that is named after the case, the side, and how many updates it had.
 */
#include <stdio.h>
#include <valgrind/callgrind.h>

#include "measure.h"
#include "subject.h"

#define KEYS ((size_t)1000)
#define REPLACEMENTS (20 * KEYS)

static void
begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

static void
end(bool counted, const char *name, const char *side, size_t updates)
{
    char title[64];

    CALLGRIND_STOP_INSTRUMENTATION;
    snprintf(title, sizeof(title), "%s %s %zu", name, side, updates);
    if (counted)
        CALLGRIND_DUMP_STATS_AT(title);
}

static void
put_range(const struct subject *subject, void *producer, const struct stream *stream, size_t count,
          size_t call)
{
    for (size_t i = 0; i < count; i += call)
        subject->put(producer, stream_keys(stream, i, call), i);
}

static void
drain(const struct subject *subject, void *consumer)
{
    while (subject->take(consumer, NULL, NULL) > 0)
        ;
}

static void
count_all(const struct subject *subject, const char *side, const struct stream *stream,
          bool counted)
{
    void *buffer = subject->create(), *producer = subject->producer_create(buffer);
    void *consumer = subject->consumer_create(buffer, false);

    begin();
    put_range(subject, producer, stream, KEYS, CALL);
    end(counted, "insert", side, KEYS);
    begin();
    put_range(subject, producer, stream, REPLACEMENTS, CALL);
    end(counted, "replace", side, REPLACEMENTS);
    begin();
    put_range(subject, producer, stream, REPLACEMENTS, 1);
    end(counted, "replace-1", side, REPLACEMENTS);
    begin();
    drain(subject, consumer);
    end(counted, "deliver", side, KEYS);
    begin();
    put_range(subject, producer, stream, KEYS, CALL);
    end(counted, "requeue", side, KEYS);
    begin();
    drain(subject, consumer);
    end(counted, "deliver-again", side, KEYS);

    subject->producer_destroy(producer);
    subject->consumer_destroy(consumer);
    subject->destroy(buffer);
}

/* Every key once, one by one, into a fresh buffer; its creation counts too. */
static void
count_fresh(const struct subject *subject, const char *side, const struct stream *stream,
            bool counted)
{
    void *buffer, *producer;

    begin();
    buffer = subject->create();
    producer = subject->producer_create(buffer);
    put_range(subject, producer, stream, KEYS, 1);
    end(counted, "insert-1", side, KEYS);
    subject->producer_destroy(producer);
    subject->destroy(buffer);
}

int
main(void)
{
    struct stream stream;

    stream_make(&stream, &(struct setting){KEYS, KEY_SIZE, CALL, 1}, REPLACEMENTS / KEYS, 1);
    /* Once without being counted: the dynamic linker looks up functions at their first call. */
    for (int counted = 0; counted < 2; counted++) {
        count_all(&ours, "ours", &stream, counted);
        count_all(&yardstick, "yardstick", &stream, counted);
        count_fresh(&ours, "ours", &stream, counted);
        count_fresh(&yardstick, "yardstick", &stream, counted);
    }
    stream_free(&stream);
    return 0;
}
