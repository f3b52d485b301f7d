/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CEventParser: a stream of JSON values, or lines of delimited text, to events.
 *
 * Overview
 * --------
 * A parser reads one of three formats:
 *
 *     CEVENT_FORMAT_EVENTS   objects of the filter's own format
 *         {"key":"…","value":…}       an update; null deletes, and so does "type":"deleted";
 *                                     "revision":N
 *         {"status":"wait-for-ready"|"resync"|"in-sync"}
 *         {"restart":true}
 *         {"overflow":true}           what a filter writes where it dropped updates
 *     CEVENT_FORMAT_JSON     any JSON values; pointers say where the key and the rest are
 *     CEVENT_FORMAT_TEXT     lines of fields; the key is one field or several
 *
 * JSON may be any sequence of values: one on each line, several on a line, or one over many lines.
 * One call fills an array of events, because crossing from Swift once for each value would cost
 * more than the value.
 *
 * Errors
 * ------
 * A value that is not JSON costs itself, and the parser goes on at the next line that begins a
 * value. If the wrong place is in a line that leaves a container open, or in a later line than the
 * value's first, then such a line begins with a bracket that is indented no deeper than the value
 * was. Otherwise it is simply the next line. The lines that are passed over are reported.
 *
 * Words
 * -----
 * chunk   bytes that hold zero or more complete lines, each with its '\n', and perhaps the
 *         beginning of another
 * line    bytes up to and without '\n'
 * event   what a value or a line says, or what is wrong with it
 *
 * Ownership and threads
 * ---------------------
 * A parser belongs to one thread at a time. The pointers of an event lead into the chunk, or into
 * memory of the parser. Both hold until the next call with this parser, provided that the chunk
 * stays as it is. No function throws. Where there is no memory, CEVENT_ERROR_MEMORY stands on the
 * value that needed it.
 */
#ifndef CEVENTPARSER_H
#define CEVENTPARSER_H

#include <stdbool.h>
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

/* Keys are compared as bytes, and no longer than this. */
#define CEVENT_MAX_KEY_LENGTH 65536

/* Containers in containers, the outermost one included. */
#define CEVENT_MAX_DEPTH 1024

/*
 * The first byte of a key that is no string: JSON follows, in its one shortest form. No string of
 * UTF-8 begins with this byte. Keys of text are the bytes of their fields, without a mark.
 */
#define CEVENT_KEY_IS_JSON 0xFF

enum CEVENT_CLOSED_ENUM cevent_format {
    CEVENT_FORMAT_EVENTS = 0,
    CEVENT_FORMAT_JSON,
    CEVENT_FORMAT_TEXT,
};
typedef enum cevent_format cevent_format;

enum CEVENT_CLOSED_ENUM cevent_kind {
    CEVENT_KIND_ERROR = 0, /* error, line, column and first_line are set */
    CEVENT_KIND_SKIPPED,   /* lines from first_line to line were passed over */
    CEVENT_KIND_UPDATE,    /* key and value are set */
    CEVENT_KIND_DELETION,  /* key is set; value is the line, if values are whole lines */
    CEVENT_KIND_STATUS,    /* status is set */
    CEVENT_KIND_RESTART,
    CEVENT_KIND_OVERFLOW,
    CEVENT_KIND_MISSING, /* there is no key: value is the line; line and part are set */
    CEVENT_KIND_HEADER,  /* the first line of text: value is set */
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

    /* The input is not JSON. */
    CEVENT_ERROR_SYNTAX,
    CEVENT_ERROR_INCOMPLETE,
    CEVENT_ERROR_TRAILING,
    CEVENT_ERROR_VALUE,
    CEVENT_ERROR_NAME,
    CEVENT_ERROR_COLON,
    CEVENT_ERROR_MEMBER_END,
    CEVENT_ERROR_ELEMENT_END,
    CEVENT_ERROR_COMMA_BEFORE_BRACE,
    CEVENT_ERROR_COMMA_BEFORE_BRACKET,
    CEVENT_ERROR_COMMA_BETWEEN,
    CEVENT_ERROR_STRAY_BRACKET,
    CEVENT_ERROR_SINGLE_QUOTE,
    CEVENT_ERROR_LITERAL,
    CEVENT_ERROR_NUMBER,
    CEVENT_ERROR_ESCAPE,
    CEVENT_ERROR_OPEN_STRING,
    CEVENT_ERROR_CONTROL_CHARACTER,
    CEVENT_ERROR_UTF8,
    CEVENT_ERROR_UTF16, /* of the whole stream: nothing comes after it */
    CEVENT_ERROR_BYTE_ORDER_MARK,

    /* It is JSON, and no event. */
    CEVENT_ERROR_NOT_OBJECT,
    CEVENT_ERROR_ARRAY,
    CEVENT_ERROR_NO_KNOWN_FIELD,
    CEVENT_ERROR_MIXED,
    CEVENT_ERROR_NO_VALUE,
    CEVENT_ERROR_KEY_TYPE,
    CEVENT_ERROR_SURROGATE,
    CEVENT_ERROR_REVISION,
    CEVENT_ERROR_STATUS,
    CEVENT_ERROR_RESTART,

    /* It is more than is accepted, or than there is memory for. */
    CEVENT_ERROR_DEPTH,
    CEVENT_ERROR_KEY_LENGTH,
    CEVENT_ERROR_LENGTH,
    CEVENT_ERROR_MEMORY,
};
typedef enum cevent_error cevent_error;

/*
 * What one value or one line says. Lengths fit 32 bits because no value is longer than 4 GiB (see
 * cevent_parser_create).
 */
struct cevent_event {
    const uint8_t *_Nullable key;   /* not terminated; may hold NUL; see CEVENT_KEY_IS_JSON */
    const uint8_t *_Nullable value; /* as it came, without line breaks */
    uint64_t revision;              /* 0: none */
    uint64_t line;                  /* number of the line, from 1 */
    uint64_t first_line;            /* the line that the value begins in */
    uint32_t column;                /* byte of the line, from 1 */
    uint32_t key_length;
    uint32_t value_length;
    uint32_t part; /* the part of the key that is missing, from 0 */
    cevent_kind kind;
    union {
        cevent_status status;
        cevent_error error;
    };
};
typedef struct cevent_event cevent_event;

typedef struct cevent_parser cevent_parser;

/*
 * Makes a parser that stands before line 1. Of the own format all places are known; of the other
 * formats the calls that follow say them, before the first call of cevent_parser_parse.
 *
 * @param max_length  longer values and lines are bad; at most 4 GiB - 128 is heeded
 * @return the parser, to be destroyed by cevent_parser_destroy, or NULL if there is no memory
 */
cevent_parser *_Nullable cevent_parser_create(cevent_format format,
                                              size_t max_length) CEVENT_NOEXCEPT;

/* Frees the parser and what its events point to. */
void cevent_parser_destroy(cevent_parser *_Nullable parser) CEVENT_NOEXCEPT;

/* What a call that says a place comes to. */
enum CEVENT_CLOSED_ENUM cevent_place {
    CEVENT_PLACE_OK = 0,
    CEVENT_PLACE_NO_POINTER, /* a JSON pointer is empty or begins with a slash; ~0, ~1 */
    CEVENT_PLACE_NO_JSON,    /* what a condition compares with is not JSON */
    CEVENT_PLACE_NO_MEMORY,
};
typedef enum cevent_place cevent_place;

/*
 * Adds a part of the key: what the first of these pointers that leads to something other than null
 * leads to. A key of one part is the text of its string, or other JSON behind CEVENT_KEY_IS_JSON.
 * A key of several parts is an array of them, as JSON.
 *
 * @param is_optional  whether null stands for a part that is missing
 */
cevent_place cevent_parser_add_key(cevent_parser *_Nonnull parser,
                                   const char *_Nonnull const *_Nonnull pointers, size_t count,
                                   bool is_optional) CEVENT_NOEXCEPT;

/* Says where the value is; otherwise it is the whole line, or the whole of a value that shares its
   lines or spans several. */
cevent_place cevent_parser_set_value(cevent_parser *_Nonnull parser,
                                     const char *_Nonnull const *_Nonnull pointers,
                                     size_t count) CEVENT_NOEXCEPT;

/* Says where the revision is: a number, or a string of digits. */
cevent_place cevent_parser_set_revision(cevent_parser *_Nonnull parser,
                                        const char *_Nonnull const *_Nonnull pointers,
                                        size_t count) CEVENT_NOEXCEPT;

/*
 * Adds a condition under which a value is a deletion, POINTER or POINTER=JSON. Without JSON it
 * holds if the pointer leads to something other than null and false. Strings are compared as the
 * text that they mean, and everything else as it is written, without whitespace.
 */
cevent_place cevent_parser_add_deletion(cevent_parser *_Nonnull parser,
                                        const char *_Nonnull condition) CEVENT_NOEXCEPT;

/*
 * Says which fields of a line of text are the key. The key of several fields has the delimiter
 * between them, which no field holds.
 *
 * @param fields      numbers from 1
 * @param has_header  whether the first line is no data
 */
cevent_place cevent_parser_set_fields(cevent_parser *_Nonnull parser, uint8_t delimiter,
                                      const uint32_t *_Nonnull fields, size_t count,
                                      bool has_header) CEVENT_NOEXCEPT;

/*
 * Parses complete lines until there are events, or no complete line is left.
 *
 * The caller calls again, with what was not consumed, until 0 is returned; then with more input
 * behind it. What a value that has not ended yet consists of stays in the chunk, and it is not
 * looked at a second time.
 *
 * @pre CEVENT_PADDING bytes behind chunk + length are readable
 * @param is_last   whether no more input comes; the last line must end with '\n' nevertheless
 * @param events    where to put the events
 * @param capacity  room in events, at least 2
 * @param consumed  set to the number of bytes done with
 * @return the number of events
 *
 * Complexity: linear in the bytes consumed, plus the incomplete line that is looked at in vain.
 */
size_t cevent_parser_parse(cevent_parser *_Nonnull parser, const uint8_t *_Nonnull chunk,
                           size_t length, bool is_last, cevent_event *_Nonnull events,
                           size_t capacity, size_t *_Nonnull consumed) CEVENT_NOEXCEPT;

/*
 * Gives up what parse has not consumed, because it is too long and has not ended. The rest of its
 * last line, up to and with the next '\n', is the caller's to leave out.
 *
 * @return the event that says so
 */
cevent_event cevent_parser_give_up(cevent_parser *_Nonnull parser, const uint8_t *_Nonnull chunk,
                                   size_t length) CEVENT_NOEXCEPT;

/* @return the number of lines done with, blank and bad ones included */
uint64_t cevent_parser_lines(const cevent_parser *_Nonnull parser) CEVENT_NOEXCEPT;

/* @return what is wrong, in a few English words, for a person who looks at the line */
const char *_Nonnull cevent_error_message(cevent_error error) CEVENT_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* CEVENTPARSER_H */
