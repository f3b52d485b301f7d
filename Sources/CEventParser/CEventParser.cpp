/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See CEventParser.h for what this does. How:
 *
 * simdjson's first stage looks at a whole line with vector instructions, chosen at run time for
 * this processor: it checks UTF-8, finds control characters in strings and strings that do not end,
 * and writes down where each token begins. The on-demand second stage then walks over the tokens,
 * but by design only over those that it is asked for: a field that nobody asks for is skipped, not
 * checked. What passes through here ends up in somebody's output, so every token is asked for. The
 * walk notes on its way where the value begins and ends, so the line is walked over once.
 *
 * A string without a backslash needs no decoding: the first stage has said all there is to say
 * about it. One search for a backslash in the line tells whether any string of it has to be
 * decoded. Most lines have none.
 *
 * The on-demand parser reads one token past the last one if containers are left open. That token is
 * the byte behind the line, which is always '\n' here and continues nothing.
 */
#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#include <cstring>
#include <memory>
#include <new>

#include "CEventParser.h"

namespace {

using namespace simdjson;

static_assert(CEVENT_PADDING >= SIMDJSON_PADDING,
              "the padding that callers promise is what simdjson reads");

// Depth as simdjson counts: one more for the value inside the innermost container, and it sizes
// arrays by this.
constexpr size_t parser_max_depth = CEVENT_MAX_DEPTH + 8;

constexpr size_t smallest_capacity = 4096;

struct text {
    const uint8_t *begin = nullptr;
    size_t length = 0;

    bool equals(const char *other, size_t other_length) const noexcept {
        return length == other_length && std::memcmp(begin, other, other_length) == 0;
    }
    template <size_t n> bool equals(const char (&other)[n]) const noexcept {
        return equals(other, n - 1);
    }
};

bool is_whitespace(uint8_t byte) noexcept {
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

// A token as simdjson gives it reaches to the next one.
text without_whitespace_behind(const char *begin, size_t length) noexcept {
    const auto *bytes = reinterpret_cast<const uint8_t *>(begin);
    while (length > 0 && is_whitespace(bytes[length - 1])) {
        length--;
    }
    return {bytes, length};
}

bool is_digit(uint8_t byte) noexcept {
    return byte >= '0' && byte <= '9';
}

// RFC 8259, section 6. simdjson's own number functions also refuse what does not fit their types; a
// number that only passes through here may be of any size.
bool is_number(text token) noexcept {
    const uint8_t *at = token.begin;
    const uint8_t *const end = at + token.length;

    at += at < end && *at == '-';
    if (at == end || !is_digit(*at)) {
        return false;
    }
    if (*at++ != '0') {
        while (at < end && is_digit(*at)) {
            at++;
        }
    }
    if (at < end && *at == '.') {
        at++;
        if (at == end || !is_digit(*at)) {
            return false;
        }
        while (at < end && is_digit(*at)) {
            at++;
        }
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        if (at == end || !is_digit(*at)) {
            return false;
        }
        while (at < end && is_digit(*at)) {
            at++;
        }
    }
    return at == end;
}

cevent_error translated(error_code error) noexcept {
    switch (error) {
    case SUCCESS: return CEVENT_ERROR_NONE;
    case UTF8_ERROR: return CEVENT_ERROR_UTF8;
    case UNESCAPED_CHARS: return CEVENT_ERROR_CONTROL_CHARACTER;
    case UNCLOSED_STRING: return CEVENT_ERROR_OPEN_STRING;
    case STRING_ERROR: return CEVENT_ERROR_ESCAPE;
    case INCOMPLETE_ARRAY_OR_OBJECT: return CEVENT_ERROR_INCOMPLETE;
    case DEPTH_ERROR: return CEVENT_ERROR_DEPTH;
    case CAPACITY: return CEVENT_ERROR_LINE_LENGTH;
    case MEMALLOC: return CEVENT_ERROR_MEMORY;
    default: return CEVENT_ERROR_SYNTAX;
    }
}

// Where decoded strings go. It is as large as the chunk, and decoding makes no string longer, so
// what is kept of a chunk always fits.
class arena {
public:
    void reset(size_t chunk_length) noexcept {
        used_ = 0;
        wanted_ = chunk_length + SIMDJSON_PADDING;
    }

    // Where to decode the next string, or null. Most chunks never ask, and then there is nothing to
    // allocate.
    uint8_t *position() noexcept {
        if (capacity_ < wanted_) {
            capacity_ = 0;
            bytes_.reset(new (std::nothrow) uint8_t[wanted_]);
            if (!bytes_) {
                return nullptr;
            }
            capacity_ = wanted_;
        }
        return bytes_.get() + used_;
    }

    // Keeps the string that was decoded last, if it was decoded here at all.
    void keep_if_inside(const uint8_t *begin, size_t length) noexcept {
        if (capacity_ > 0 && begin == bytes_.get() + used_) {
            used_ += length;
        }
    }

private:
    std::unique_ptr<uint8_t[]> bytes_;
    size_t capacity_ = 0;
    size_t used_ = 0;
    size_t wanted_ = 0;
};

// The known fields, as bits.
constexpr unsigned field_key = 1;
constexpr unsigned field_value = 2;
constexpr unsigned field_revision = 4;
constexpr unsigned field_status = 8;
constexpr unsigned field_restart = 16;

unsigned known_field(text name) noexcept {
    switch (name.length) {
    case 3: return name.equals("key") ? field_key : 0;
    case 5: return name.equals("value") ? field_value : 0;
    case 6: return name.equals("status") ? field_status : 0;
    case 7: return name.equals("restart") ? field_restart : 0;
    case 8: return name.equals("revision") ? field_revision : 0;
    default: return 0;
    }
}

} // namespace

struct cevent_parser {
    explicit cevent_parser(size_t max_length) noexcept : max_line_length(max_length) {}

    // Returns whether there is an event: a blank line is none.
    bool parse_line(const uint8_t *line, size_t length, cevent_event &event) noexcept;

    const size_t max_line_length;
    uint64_t lines = 0;
    arena strings;

private:
    cevent_error parse_object(const uint8_t *line, size_t length, cevent_event &event) noexcept;
    cevent_error parse_field(unsigned field, ondemand::document &document, ondemand::value &value,
                             cevent_event &event) noexcept;
    cevent_error judge(cevent_event &event) const noexcept;
    cevent_error walk(ondemand::value &value, ondemand::json_type type, unsigned depth) noexcept;
    cevent_error read_string(ondemand::value &value, text &content) noexcept;
    cevent_error read_name(ondemand::field &field, text &name) noexcept;
    cevent_error decode(ondemand::raw_json_string string, text &decoded) noexcept;

    void complain(cevent_error error) noexcept {
        if (complaint_ == CEVENT_ERROR_NONE) {
            complaint_ = error;
        }
    }

    ondemand::parser json_;

    // About the line in work.
    const uint8_t *line_end_ = nullptr;
    bool has_escapes_ = false;
    unsigned seen_ = 0;
    // What is wrong with what the line means. That it is not JSON goes before.
    cevent_error complaint_ = CEVENT_ERROR_NONE;
};

// Decodes a string into the arena, without keeping it there.
cevent_error cevent_parser::decode(ondemand::raw_json_string string, text &decoded) noexcept {
    uint8_t *const begin = strings.position();
    if (begin == nullptr) {
        return CEVENT_ERROR_MEMORY;
    }

    uint8_t *end = begin;
    std::string_view view;
    if (json_.unescape(string, end).get(view) != SUCCESS) {
        return CEVENT_ERROR_ESCAPE;
    }

    // Half of a surrogate pair, the second, gets through as three bytes that are not UTF-8.
    if (!validate_utf8(view.data(), view.size())) {
        return CEVENT_ERROR_ESCAPE;
    }
    decoded = {begin, view.size()};
    return CEVENT_ERROR_NONE;
}

cevent_error cevent_parser::read_name(ondemand::field &field, text &name) noexcept {
    if (has_escapes_) {
        return decode(field.key(), name);
    }

    // The first stage has seen the closing quote.
    const auto *begin = reinterpret_cast<const uint8_t *>(field.key().raw());
    const auto *end = static_cast<const uint8_t *>(
        std::memchr(begin, '"', static_cast<size_t>(line_end_ - begin)));
    if (end == nullptr) {
        return CEVENT_ERROR_SYNTAX;
    }
    name = {begin, static_cast<size_t>(end - begin)};
    return CEVENT_ERROR_NONE;
}

// Reads a value that is a string. The content is in the line if it can be, else in the arena, not
// kept.
cevent_error cevent_parser::read_string(ondemand::value &value, text &content) noexcept {
    const std::string_view view = value.raw_json_token();
    ondemand::raw_json_string raw;
    if (value.get_raw_json_string().get(raw) != SUCCESS) {
        return CEVENT_ERROR_SYNTAX;
    }
    if (has_escapes_ && std::memchr(view.data(), '\\', view.size()) != nullptr) {
        return decode(raw, content);
    }

    const text token = without_whitespace_behind(view.data(), view.size());
    if (token.length < 2) {
        return CEVENT_ERROR_SYNTAX;
    }
    content = {token.begin + 1, token.length - 2};
    return CEVENT_ERROR_NONE;
}

// Checks a value and all that is in it. Recursion is as deep as the containers, so it is bounded by
// CEVENT_MAX_DEPTH.
cevent_error cevent_parser::walk(ondemand::value &value, ondemand::json_type type,
                                 unsigned depth) noexcept {
    switch (type) {
    case ondemand::json_type::object: {
        if (depth > CEVENT_MAX_DEPTH) {
            return CEVENT_ERROR_DEPTH;
        }
        ondemand::object object;
        if (error_code error = value.get_object().get(object)) {
            return translated(error);
        }
        for (auto result : object) {
            ondemand::field field;
            if (error_code error = std::move(result).get(field)) {
                return translated(error);
            }
            if (has_escapes_) {
                text ignored;
                if (cevent_error error = decode(field.key(), ignored)) {
                    return error;
                }
            }
            ondemand::json_type child;
            if (error_code error = field.value().type().get(child)) {
                return translated(error);
            }
            if (cevent_error error = walk(field.value(), child, depth + 1)) {
                return error;
            }
        }
        return CEVENT_ERROR_NONE;
    }

    case ondemand::json_type::array: {
        if (depth > CEVENT_MAX_DEPTH) {
            return CEVENT_ERROR_DEPTH;
        }
        ondemand::array array;
        if (error_code error = value.get_array().get(array)) {
            return translated(error);
        }
        for (auto result : array) {
            ondemand::value element;
            if (error_code error = std::move(result).get(element)) {
                return translated(error);
            }
            ondemand::json_type child;
            if (error_code error = element.type().get(child)) {
                return translated(error);
            }
            if (cevent_error error = walk(element, child, depth + 1)) {
                return error;
            }
        }
        return CEVENT_ERROR_NONE;
    }

    case ondemand::json_type::string: {
        text ignored;
        return read_string(value, ignored);
    }

    case ondemand::json_type::number: {
        // The value stays unread here; going on to the next one skips a number.
        const std::string_view token = value.raw_json_token();
        return is_number(without_whitespace_behind(token.data(), token.size()))
                   ? CEVENT_ERROR_NONE
                   : CEVENT_ERROR_NUMBER;
    }

    case ondemand::json_type::boolean:
        return value.get_bool().error() ? CEVENT_ERROR_LITERAL : CEVENT_ERROR_NONE;

    case ondemand::json_type::null:
        return value.is_null().error() ? CEVENT_ERROR_LITERAL : CEVENT_ERROR_NONE;
    }
    return CEVENT_ERROR_SYNTAX;
}

cevent_error cevent_parser::parse_field(unsigned field, ondemand::document &document,
                                        ondemand::value &value, cevent_event &event) noexcept {
    ondemand::json_type type;
    if (error_code error = value.type().get(type)) {
        return translated(error);
    }

    if (seen_ & field) {
        switch (field) {
        case field_key: complain(CEVENT_ERROR_DUPLICATE_KEY); break;
        case field_value: complain(CEVENT_ERROR_DUPLICATE_VALUE); break;
        case field_revision: complain(CEVENT_ERROR_DUPLICATE_REVISION); break;
        case field_status: complain(CEVENT_ERROR_DUPLICATE_STATUS); break;
        case field_restart: complain(CEVENT_ERROR_DUPLICATE_RESTART); break;
        }
        return walk(value, type, 2);
    }
    seen_ |= field;

    switch (field) {
    case field_key: {
        if (type != ondemand::json_type::string) {
            complain(CEVENT_ERROR_KEY_TYPE);
            break;
        }
        text key;
        if (cevent_error error = read_string(value, key)) {
            return error;
        }
        if (key.length > CEVENT_MAX_KEY_LENGTH) {
            complain(CEVENT_ERROR_KEY_LENGTH);
            return CEVENT_ERROR_NONE;
        }
        strings.keep_if_inside(key.begin, key.length);
        event.key = key.begin;
        event.key_length = static_cast<uint32_t>(key.length);
        return CEVENT_ERROR_NONE;
    }

    case field_value: {
        if (type == ondemand::json_type::null) {
            break;
        }
        const std::string_view first = value.raw_json_token();
        size_t length = first.size();
        if (cevent_error error = walk(value, type, 2)) {
            return error;
        }
        if (type == ondemand::json_type::object || type == ondemand::json_type::array) {
            // The walk is through; the next token is the comma or the brace behind the value.
            const char *next = nullptr;
            if (document.current_location().get(next) != SUCCESS) {
                return CEVENT_ERROR_INCOMPLETE;
            }
            length = static_cast<size_t>(next - first.data());
        }
        const text whole = without_whitespace_behind(first.data(), length);
        event.value = whole.begin;
        event.value_length = static_cast<uint32_t>(whole.length);
        return CEVENT_ERROR_NONE;
    }

    case field_revision: {
        if (cevent_error error = walk(value, type, 2)) {
            return error;
        }
        if (type != ondemand::json_type::number ||
            value.get_uint64().get(event.revision) != SUCCESS) {
            complain(CEVENT_ERROR_REVISION);
        }
        return CEVENT_ERROR_NONE;
    }

    case field_status: {
        if (type != ondemand::json_type::string) {
            complain(CEVENT_ERROR_STATUS);
            break;
        }
        text status;
        if (cevent_error error = read_string(value, status)) {
            return error;
        }
        if (status.equals("in-sync")) {
            event.status = CEVENT_STATUS_IN_SYNC;
        } else if (status.equals("resync")) {
            event.status = CEVENT_STATUS_RESYNC;
        } else if (status.equals("wait-for-ready")) {
            event.status = CEVENT_STATUS_WAIT_FOR_READY;
        } else {
            complain(CEVENT_ERROR_STATUS);
        }
        return CEVENT_ERROR_NONE;
    }

    case field_restart: {
        if (type != ondemand::json_type::boolean) {
            complain(CEVENT_ERROR_RESTART);
            break;
        }
        bool restart = false;
        if (value.get_bool().get(restart) != SUCCESS) {
            return CEVENT_ERROR_LITERAL;
        }
        if (!restart) {
            complain(CEVENT_ERROR_RESTART);
        }
        return CEVENT_ERROR_NONE;
    }
    }
    return walk(value, type, 2);
}

// What the fields of a line come to, all of them read.
cevent_error cevent_parser::judge(cevent_event &event) const noexcept {
    if (complaint_ != CEVENT_ERROR_NONE) {
        return complaint_;
    }
    switch (seen_ & (field_key | field_status | field_restart)) {
    case field_key:
        if (!(seen_ & field_value)) {
            return CEVENT_ERROR_NO_VALUE;
        }
        event.kind = event.value != nullptr ? CEVENT_KIND_UPDATE : CEVENT_KIND_DELETION;
        return CEVENT_ERROR_NONE;

    case field_status:
    case field_restart:
        if (seen_ & (field_value | field_revision)) {
            return CEVENT_ERROR_STRAY_FIELD;
        }
        event.kind = seen_ & field_status ? CEVENT_KIND_STATUS : CEVENT_KIND_RESTART;
        return CEVENT_ERROR_NONE;

    case 0: return CEVENT_ERROR_NO_KNOWN_FIELD;
    default: return CEVENT_ERROR_MIXED;
    }
}

cevent_error cevent_parser::parse_object(const uint8_t *line, size_t length,
                                         cevent_event &event) noexcept {
    if (length > max_line_length) {
        return CEVENT_ERROR_LINE_LENGTH;
    }
    if (length > json_.capacity()) {
        // By doubling, so that lines that get longer bit by bit do not allocate each time.
        size_t capacity =
            json_.capacity() < smallest_capacity ? smallest_capacity : json_.capacity();
        while (capacity < length) {
            capacity *= 2;
        }
        if (json_.allocate(capacity, parser_max_depth) != SUCCESS) {
            return CEVENT_ERROR_MEMORY;
        }
    }

    line_end_ = line + length;
    has_escapes_ = std::memchr(line, '\\', length) != nullptr;
    seen_ = 0;
    complaint_ = CEVENT_ERROR_NONE;

    ondemand::document document;
    if (error_code error = json_.iterate(line, length, length + SIMDJSON_PADDING).get(document)) {
        return translated(error);
    }
    ondemand::object object;
    if (error_code error = document.get_object().get(object)) {
        return error == INCORRECT_TYPE ? CEVENT_ERROR_NOT_OBJECT : translated(error);
    }

    for (auto result : object) {
        ondemand::field field;
        if (error_code error = std::move(result).get(field)) {
            return translated(error);
        }
        text name;
        if (cevent_error error = read_name(field, name)) {
            return error;
        }
        const unsigned known = known_field(name);
        if (known != 0) {
            if (cevent_error error = parse_field(known, document, field.value(), event)) {
                return error;
            }
        } else {
            ondemand::json_type type;
            if (error_code error = field.value().type().get(type)) {
                return translated(error);
            }
            if (cevent_error error = walk(field.value(), type, 2)) {
                return error;
            }
        }
    }
    if (document.current_location().error() != OUT_OF_BOUNDS) {
        return CEVENT_ERROR_TRAILING;
    }
    return judge(event);
}

bool cevent_parser::parse_line(const uint8_t *line, size_t length, cevent_event &event) noexcept {
    if (lines == 1 && length >= 3 && std::memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        length -= 3;
    }
    while (length > 0 && is_whitespace(*line)) {
        line++;
        length--;
    }
    if (length == 0) {
        return false;
    }

    event = cevent_event();
    event.line = lines;
    const cevent_error error = parse_object(line, length, event);
    if (error != CEVENT_ERROR_NONE) {
        event = cevent_event();
        event.line = lines;
        event.kind = CEVENT_KIND_ERROR;
        event.error = error;
    }
    return true;
}

cevent_parser *cevent_parser_create(size_t max_line_length) noexcept {
    // simdjson counts bytes in 32 bits, and vectors reach behind the end.
    constexpr size_t limit = SIMDJSON_MAXSIZE_BYTES - 128;
    return new (std::nothrow) cevent_parser(max_line_length < limit ? max_line_length : limit);
}

void cevent_parser_destroy(cevent_parser *parser) noexcept {
    delete parser;
}

size_t cevent_parser_parse(cevent_parser *parser, const uint8_t *chunk, size_t length,
                           cevent_event *events, size_t capacity, size_t *consumed) noexcept {
    size_t count = 0;
    size_t at = 0;

    parser->strings.reset(length);
    while (count < capacity) {
        const auto *newline =
            static_cast<const uint8_t *>(std::memchr(chunk + at, '\n', length - at));
        if (newline == nullptr) {
            break;
        }
        const size_t end = static_cast<size_t>(newline - chunk);
        parser->lines++;
        count += parser->parse_line(chunk + at, end - at, events[count]);
        at = end + 1;
    }
    *consumed = at;
    return count;
}

uint64_t cevent_parser_skip_line(cevent_parser *parser) noexcept {
    return ++parser->lines;
}

uint64_t cevent_parser_lines(const cevent_parser *parser) noexcept {
    return parser->lines;
}

const char *cevent_error_message(cevent_error error) noexcept {
    switch (error) {
    case CEVENT_ERROR_NONE: return "nothing is wrong";
    case CEVENT_ERROR_SYNTAX: return "not valid JSON";
    case CEVENT_ERROR_INCOMPLETE: return "not valid JSON: the object does not end with the line";
    case CEVENT_ERROR_TRAILING: return "not valid JSON: the line goes on after the object";
    case CEVENT_ERROR_UTF8: return "not valid UTF-8";
    case CEVENT_ERROR_CONTROL_CHARACTER: return "not valid JSON: a control character in a string";
    case CEVENT_ERROR_OPEN_STRING: return "not valid JSON: a string does not end";
    case CEVENT_ERROR_ESCAPE: return "not valid JSON: a bad escape in a string";
    case CEVENT_ERROR_NUMBER: return "not valid JSON: a bad number";
    case CEVENT_ERROR_LITERAL: return "not valid JSON: a bad literal";
    case CEVENT_ERROR_NOT_OBJECT: return "not an object";
    case CEVENT_ERROR_NO_KNOWN_FIELD: return "neither \"key\" nor \"status\" nor \"restart\"";
    case CEVENT_ERROR_MIXED: return "more than one of \"key\", \"status\" and \"restart\"";
    case CEVENT_ERROR_DUPLICATE_KEY: return "\"key\" twice";
    case CEVENT_ERROR_DUPLICATE_VALUE: return "\"value\" twice";
    case CEVENT_ERROR_DUPLICATE_REVISION: return "\"revision\" twice";
    case CEVENT_ERROR_DUPLICATE_STATUS: return "\"status\" twice";
    case CEVENT_ERROR_DUPLICATE_RESTART: return "\"restart\" twice";
    case CEVENT_ERROR_NO_VALUE: return "\"key\" without \"value\"";
    case CEVENT_ERROR_STRAY_FIELD: return "\"value\" or \"revision\" without \"key\"";
    case CEVENT_ERROR_KEY_TYPE: return "\"key\" is not a string";
    case CEVENT_ERROR_REVISION:
        return "\"revision\" is not an integer from 0 to 18446744073709551615";
    case CEVENT_ERROR_STATUS:
        return "\"status\" is not \"wait-for-ready\", \"resync\" or \"in-sync\"";
    case CEVENT_ERROR_RESTART: return "\"restart\" is not true";
    case CEVENT_ERROR_DEPTH: return "nested deeper than 1024 levels";
    case CEVENT_ERROR_KEY_LENGTH: return "\"key\" is longer than 65536 bytes";
    case CEVENT_ERROR_LINE_LENGTH: return "too long a line";
    case CEVENT_ERROR_MEMORY: return "not enough memory for this line";
    }
    return "unknown error";
}

const char *cevent_kernel(void) noexcept {
    return get_active_implementation()->name().c_str();
}
