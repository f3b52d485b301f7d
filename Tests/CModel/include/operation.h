/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of the test language: one call of a buffer each. Tests/Scenarios/README.md explains
 * the language to a reader of scenarios; Tests/Interleavings/program.h says what its programs add.
 *
 *   +a +a5 -a -a5       puts a value of key a, or its deletion. The number is the update's id,
 *                       which stands for its value and its revision. A value without a number, and
 *                       an update with # in its place, has the next number that is free. A
 *                       deletion without a number carries none. Several in one word are one call.
 *   +A -A               the same by a pin of the key
 *   +'a key' -'a key'   another key; \0, \x2f, \' and \\ are single bytes, and * repeats the byte
 *                       before it: 'ab*300'. \x20 stands for a blank.
 *   =a                  puts the first value of key a once more; only in Interleavings
 *   @a !a               pins key a, and unpins it
 *   wait resync sync    puts a status: wait-for-ready, resync, in-sync
 *   restart
 *   take take1          takes a batch; one of at most one item
 *   flush               takes batches until there are no more
 *   put_back put_back1  puts back what is left of the last batch; its last item
 *   collect             collects what restarts dropped
 *   claim claim-loop release
 *   loop                takes until the buffer has stopped, and sleeps until it is woken
 *   stop finish finish-empty
 *   stats slot          the counters; acquires a slot and discards it
 *   fill16 drop16       puts values of 16 other keys in one call, or their deletions
 *   laps5               a status and a restart, five times: uses up five restart numbers
 *   10x( )              the words between, ten times
 *
 * Options, before all other words:
 *
 *   merging suppressing the buffer merges values; it suppresses those that the sink has
 *   bound2 bytes20      more than two pending keys overflow; more than twenty bytes
 *   batch3              batches of at most three entries
 *   bare                the buffer has one context instead of one for each thread
 */
#ifndef OPERATION_H
#define OPERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OP_UPDATES_MAX = 8 };

/* Keys by number: letters, then those of fill, then those in quotes. */
enum { KEYS_LETTERS = 26, KEYS_FILL = 1024, KEYS_MAX = KEYS_LETTERS + KEYS_FILL };

enum op_kind {
    OP_PUT,
    OP_PIN,
    OP_UNPIN,
    OP_STATUS,
    OP_RESTART,
    OP_TAKE,
    OP_FLUSH,
    OP_PUT_BACK,
    OP_COLLECT,
    OP_CLAIM,
    OP_RELEASE,
    OP_LOOP,
    OP_STOP,
    OP_FINISH,
    OP_STATISTICS,
    OP_SLOT,
    OP_FILL,
    OP_DROP,
    OP_LAPS,
    OP_REPEAT,
    OP_REPEAT_END,
    /* Options. */
    OP_BARE,
    OP_MERGING,
    OP_SUPPRESSING,
    OP_BOUND,
    OP_BYTES,
    OP_BATCH,
};

enum op_number {
    NUMBER_NONE,  /* The update carries no id. */
    NUMBER_GIVEN, /* `id` is given. */
    NUMBER_NEXT,  /* The reader of the word gives the next number that is free. */
    NUMBER_FIRST, /* As NUMBER_NEXT, with the revision of the key's first value. */
};

struct op_update {
    unsigned key;
    bool deletion;
    bool by_pin;
    enum op_number number;
    uint64_t id; /* Zero: none. */
};

struct op {
    enum op_kind kind;
    unsigned argument; /* A status, a capacity, a kind of claim or of finish, a number. */
    struct op_update updates[OP_UPDATES_MAX];
    unsigned count;
    char text[24]; /* The beginning of the word. */
};

/* The argument of `take` and `put_back` without a number: a whole batch. */
enum { OP_ALL = 100, OP_NUMBER_MAX = 100000 };

/*
 * Numbers a key in quotes, which begins at `text` and has `length` characters without the quotes.
 * Returns false if the text is no key, or quotes are not allowed.
 */
typedef bool op_quoted_key_t(void *context, const char *text, size_t length, unsigned *key);

/* Reads one word. Returns false if it is none. `quoted` may be NULL. */
bool op_parse(struct op *op, const char *word, op_quoted_key_t *quoted, void *context);

#ifdef __cplusplus
}
#endif

#endif /* OPERATION_H */
