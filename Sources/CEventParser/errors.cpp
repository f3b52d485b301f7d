/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with a line, in words, and where. Only bad lines get here. */
#include "errors.hpp"

namespace cevent {

namespace {

bool is_valid(const uint8_t *begin, const uint8_t *end) noexcept {
    return simdjson::validate_utf8(reinterpret_cast<const char *>(begin),
                                   static_cast<size_t>(end - begin));
}

// The end of the character that a byte belongs to, as far as the bytes say.
const uint8_t *character_end(const uint8_t *at, const uint8_t *end) noexcept {
    while (at < end && (*at & 0xC0) == 0x80) {
        at++;
    }
    return at;
}

// The first byte of the first bad character. Whole blocks are looked at first.
const uint8_t *bad_character(text line) noexcept {
    size_t step = 4096;
    const uint8_t *at = line.begin;

    while (at < line.end()) {
        const size_t rest = static_cast<size_t>(line.end() - at);
        const uint8_t *const next = character_end(at + (step < rest ? step : rest), line.end());
        if (is_valid(at, next)) {
            at = next;
        } else if (step == 1) {
            break;
        } else {
            step = 1;
        }
    }
    return at;
}

// The first control character in a string, or else the quote of the string that does not end.
const uint8_t *bad_string(text line) noexcept {
    const uint8_t *quote = nullptr;

    for (const uint8_t *at = line.begin; at < line.end(); at++) {
        if (*at == '\\') {
            at++;
        } else if (*at == '"') {
            quote = quote == nullptr ? at : nullptr;
        } else if (quote != nullptr && *at < 0x20) {
            return at;
        }
    }
    return quote == nullptr ? line.begin : quote;
}

} // namespace

const uint8_t *bad_place(text line, cevent_error error) noexcept {
    switch (error) {
    case CEVENT_ERROR_UTF8: return bad_character(line);
    case CEVENT_ERROR_CONTROL_CHARACTER:
    case CEVENT_ERROR_OPEN_STRING: return bad_string(line);
    default: return line.begin;
    }
}

} // namespace cevent

const char *cevent_error_message(cevent_error error) noexcept {
    switch (error) {
    case CEVENT_ERROR_NONE: return "nothing is wrong";
    case CEVENT_ERROR_SYNTAX: return "this is not JSON";
    case CEVENT_ERROR_INCOMPLETE: return "the input ends inside a value";
    case CEVENT_ERROR_TRAILING: return "only another value may follow a value";
    case CEVENT_ERROR_VALUE: return "a value is expected here";
    case CEVENT_ERROR_NAME: return "a member's name in double quotes is expected here";
    case CEVENT_ERROR_COLON: return "a colon is expected behind a member's name";
    case CEVENT_ERROR_MEMBER_END: return "a comma or } is expected behind a member";
    case CEVENT_ERROR_ELEMENT_END: return "a comma or ] is expected behind an element";
    case CEVENT_ERROR_COMMA_BEFORE_BRACE: return "a comma before }";
    case CEVENT_ERROR_COMMA_BEFORE_BRACKET: return "a comma before ]";
    case CEVENT_ERROR_COMMA_BETWEEN: return "a comma between values; a stream of values has none";
    case CEVENT_ERROR_STRAY_BRACKET: return "a closing bracket that nothing opens";
    case CEVENT_ERROR_SINGLE_QUOTE: return "JSON has double quotes only";
    case CEVENT_ERROR_LITERAL: return "a bad literal; JSON has true, false and null";
    case CEVENT_ERROR_NUMBER: return "a bad number";
    case CEVENT_ERROR_ESCAPE: return "a bad escape in a string";
    case CEVENT_ERROR_OPEN_STRING: return "a string that does not end in its line";
    case CEVENT_ERROR_CONTROL_CHARACTER:
        return "a control character in a string; JSON needs it escaped";
    case CEVENT_ERROR_UTF8: return "bytes that are not UTF-8";
    case CEVENT_ERROR_UTF16:
        return "the input looks like UTF-16; convert it with iconv -f UTF-16 -t UTF-8";
    case CEVENT_ERROR_BYTE_ORDER_MARK:
        return "a byte order mark inside the stream; only the beginning may have one";
    case CEVENT_ERROR_NOT_OBJECT: return "a value that is no object";
    case CEVENT_ERROR_ARRAY:
        return "an array of updates is no stream of updates; use: jq -c '.[]' | dedupe";
    case CEVENT_ERROR_NO_KNOWN_FIELD:
        return "neither \"key\" nor \"status\" nor \"restart\"; "
               "--key says where the key of another format is";
    case CEVENT_ERROR_MIXED: return "more than one of \"key\", \"status\" and \"restart\"";
    case CEVENT_ERROR_NO_VALUE: return "there is a key and no value";
    case CEVENT_ERROR_KEY_TYPE: return "\"key\" is not a string; --key /key takes any JSON";
    case CEVENT_ERROR_SURROGATE: return "half of a surrogate pair in a key";
    case CEVENT_ERROR_REVISION:
        return "the revision is not an integer from 0 to 18446744073709551615";
    case CEVENT_ERROR_STATUS:
        return "\"status\" is not \"wait-for-ready\", \"resync\" or \"in-sync\"";
    case CEVENT_ERROR_RESTART: return "\"restart\" is not true";
    case CEVENT_ERROR_DEPTH: return "nested deeper than 1024 levels";
    case CEVENT_ERROR_KEY_LENGTH: return "the key is longer than 65536 bytes";
    case CEVENT_ERROR_LENGTH: return "too long a value";
    case CEVENT_ERROR_MEMORY: return "not enough memory for this value";
    }
    return "unknown error";
}
