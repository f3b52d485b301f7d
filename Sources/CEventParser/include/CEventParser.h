/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CEventParser: lines of JSON to events, by simdjson's on-demand parser.
 *
 * Overview
 * --------
 * The input is newline-delimited JSON, one event on each line:
 *
 *     {"key":"…","value":…}                       an update; null deletes; "revision":N
 *     {"status":"wait-for-ready"|"resync"|"in-sync"}
 *     {"restart":true}
 *
 * Every line is a document of its own, so a bad line costs itself and never its neighbours. One
 * call takes a whole chunk of lines and fills an array of events, because crossing from Swift once
 * for each line would cost more than the line.
 *
 * Words
 * -----
 * chunk   bytes that hold zero or more complete lines, each with its '\n', and perhaps the
 *         beginning of another
 * line    bytes up to and without '\n'; blank lines are counted and give no event
 * event   what a line says, or what is wrong with it
 *
 * Ownership and threads
 * ---------------------
 * A parser belongs to one thread at a time. The pointers of an event lead into the chunk, or, for a
 * key with escapes, into memory of the parser: both hold until the next call with this parser,
 * provided that the chunk stays as it is. No function throws; memory that cannot be had becomes
 * CEVENT_ERROR_MEMORY on the line that needed it.
 */
#ifndef CEVENTPARSER_H
#define CEVENTPARSER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__clang__)
#define CEVENT_CLOSED_ENUM __attribute__((enum_extensibility(closed)))
#else
#define CEVENT_CLOSED_ENUM
#define _Nonnull
#define _Nullable
#endif

#ifdef __cplusplus
#define CEVENT_NOEXCEPT noexcept
extern "C" {
#else
#define CEVENT_NOEXCEPT
#endif

/*
 * Bytes that must be readable behind the end of a chunk: the parser reads whole vectors. What they
 * hold is of no consequence.
 */
#define CEVENT_PADDING 64

/* Keys are compared as decoded bytes, and no longer than this. */
#define CEVENT_MAX_KEY_LENGTH 65536

/* Containers in containers, the object of the line itself included. */
#define CEVENT_MAX_DEPTH 1024

enum CEVENT_CLOSED_ENUM cevent_kind {
    CEVENT_KIND_ERROR = 0,
    CEVENT_KIND_UPDATE,   /* key and value are set */
    CEVENT_KIND_DELETION, /* key is set */
    CEVENT_KIND_STATUS,   /* status is set */
    CEVENT_KIND_RESTART,
};
typedef enum cevent_kind cevent_kind;

enum CEVENT_CLOSED_ENUM cevent_status {
    CEVENT_STATUS_WAIT_FOR_READY = 0,
    CEVENT_STATUS_RESYNC,
    CEVENT_STATUS_IN_SYNC,
};
typedef enum cevent_status cevent_status;

enum CEVENT_CLOSED_ENUM cevent_error {
    CEVENT_ERROR_NONE = 0,

    /* The line is not JSON. */
    CEVENT_ERROR_SYNTAX,
    CEVENT_ERROR_INCOMPLETE,
    CEVENT_ERROR_TRAILING,
    CEVENT_ERROR_UTF8,
    CEVENT_ERROR_CONTROL_CHARACTER,
    CEVENT_ERROR_OPEN_STRING,
    CEVENT_ERROR_ESCAPE,
    CEVENT_ERROR_NUMBER,
    CEVENT_ERROR_LITERAL,

    /* It is JSON, but no event. */
    CEVENT_ERROR_NOT_OBJECT,
    CEVENT_ERROR_NO_KNOWN_FIELD,
    CEVENT_ERROR_MIXED,
    CEVENT_ERROR_DUPLICATE_KEY,
    CEVENT_ERROR_DUPLICATE_VALUE,
    CEVENT_ERROR_DUPLICATE_REVISION,
    CEVENT_ERROR_DUPLICATE_STATUS,
    CEVENT_ERROR_DUPLICATE_RESTART,
    CEVENT_ERROR_NO_VALUE,
    CEVENT_ERROR_STRAY_FIELD,
    CEVENT_ERROR_KEY_TYPE,
    CEVENT_ERROR_REVISION,
    CEVENT_ERROR_STATUS,
    CEVENT_ERROR_RESTART,

    /* It is more than is accepted, or than there is memory for. */
    CEVENT_ERROR_DEPTH,
    CEVENT_ERROR_KEY_LENGTH,
    CEVENT_ERROR_LINE_LENGTH,
    CEVENT_ERROR_MEMORY,
};
typedef enum cevent_error cevent_error;

/*
 * What one line says. Lengths fit 32 bits because no line is longer than 4 GiB (see
 * cevent_parser_create).
 */
struct cevent_event {
    const uint8_t *_Nullable key; /* decoded UTF-8, not terminated; may hold NUL */
    const uint8_t
        *_Nullable value; /* the value as it stands in the line, whitespace around it left off */
    uint64_t revision;    /* 0: none */
    uint64_t line;        /* number of the line, from 1 */
    uint32_t key_length;
    uint32_t value_length;
    cevent_kind kind;
    union {
        cevent_status status;
        cevent_error error;
    };
};
typedef struct cevent_event cevent_event;

typedef struct cevent_parser cevent_parser;

/*
 * Makes a parser that stands before line 1.
 *
 * @param max_line_length  longer lines are bad; at most 4 GiB - 128 is heeded
 * @return the parser, to be destroyed by cevent_parser_destroy, or NULL if there is no memory
 */
cevent_parser *_Nullable cevent_parser_create(size_t max_line_length) CEVENT_NOEXCEPT;

/* Frees the parser and what its events point to. */
void cevent_parser_destroy(cevent_parser *_Nullable parser) CEVENT_NOEXCEPT;

/*
 * Parses complete lines until the array is full or no complete line is left. A byte order mark
 * before the first line is skipped.
 *
 * @pre CEVENT_PADDING bytes behind chunk + length are readable
 * @param events    where to put the events; blank lines give none
 * @param capacity  room in events, at least 1
 * @param consumed  set to the number of bytes done with: always whole lines
 * @return the number of events; less than capacity if no complete line is left
 *
 * Complexity: linear in the bytes consumed, plus the incomplete line that is looked at in vain.
 */
size_t cevent_parser_parse(cevent_parser *_Nonnull parser, const uint8_t *_Nonnull chunk,
                           size_t length, cevent_event *_Nonnull events, size_t capacity,
                           size_t *_Nonnull consumed) CEVENT_NOEXCEPT;

/* Counts a line that the caller did not keep, for being too long. @return its number */
uint64_t cevent_parser_skip_line(cevent_parser *_Nonnull parser) CEVENT_NOEXCEPT;

/* @return the number of lines done with, blank and bad ones included */
uint64_t cevent_parser_lines(const cevent_parser *_Nonnull parser) CEVENT_NOEXCEPT;

/* @return what is wrong, in a few English words, for a person who looks at the line */
const char *_Nonnull cevent_error_message(cevent_error error) CEVENT_NOEXCEPT;

/* @return the name of simdjson's kernel for this processor, such as "haswell" */
const char *_Nonnull cevent_kernel(void) CEVENT_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* CEVENTPARSER_H */
