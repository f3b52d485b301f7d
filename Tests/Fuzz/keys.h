/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of the core's target, and the hash function that the core is built with here.
 *
 * A byte of the input names a key. Keys come in rows of eight of one length, which differ only in
 * their first and last byte; the first byte also says how badly its key hashes. So keys meet others
 * with which they share a place in the directory, a cell, the whole tag or the whole hash, of their
 * own length and of others.
 */
#ifndef KEYS_H
#define KEYS_H

#include <stddef.h>
#include <stdint.h>

enum { KEYS = 256, KEY_TOO_LONG = KEYS - 1 }; /* The last key is longer than allowed. */

/* How keys hash: each its own way, or all of them the same way. */
typedef enum hash_mode {
    HASH_BY_KEY,
    HASH_WELL,
    HASH_SAME_PLACE, /* The first bits are one: one place in the directory. */
    HASH_SAME_CELL,  /* The last bits of the tag are one: one cell of a set's map. */
    HASH_SAME_TAG,   /* All bits that the index stores. */
    HASH_SAME,       /* All bits there are. */
    HASH_MODES,
} hash_mode_t;

void keys_set_hash(hash_mode_t mode);

const void *key_bytes(size_t number);
size_t key_length(size_t number);

/* The number of the key with exactly these bytes; KEYS if there is none. */
size_t key_number(const void *bytes, size_t length);

#endif /* KEYS_H */
