/* SPDX-License-Identifier: Apache-2.0 */
#include <cstring>

#include "strings.hpp"

namespace cevent {

using simdjson::SIMDJSON_PADDING;

namespace {

bool is_digit(uint8_t byte) noexcept {
    return byte >= '0' && byte <= '9';
}

bool is_hex(uint8_t byte) noexcept {
    return is_digit(byte) || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f');
}

const uint8_t *skip_digits(const uint8_t *at, const uint8_t *end) noexcept {
    while (at < end && is_digit(*at)) {
        at++;
    }
    return at;
}

} // namespace

const uint8_t *bad_escape(text content) noexcept {
    const uint8_t *at = content.begin;
    const uint8_t *const end = content.end();

    while ((at = static_cast<const uint8_t *>(
                std::memchr(at, '\\', static_cast<size_t>(end - at)))) != nullptr) {
        // The first stage has seen to it that something follows the backslash.
        if (at[1] == 'u') {
            for (int i = 2; i < 6; i++) {
                if (at + i >= end || !is_hex(at[i])) {
                    return at;
                }
            }
            at += 6;
        } else if (at[1] != '\0' && std::strchr("\"\\/bfnrt", at[1]) != nullptr) {
            at += 2;
        } else {
            return at;
        }
    }
    return nullptr;
}

bool is_number(text token) noexcept {
    const uint8_t *at = token.begin;
    const uint8_t *const end = token.end();

    at += at < end && *at == '-';
    if (at == end || !is_digit(*at)) {
        return false;
    }
    at = *at == '0' ? at + 1 : skip_digits(at, end);
    if (at < end && *at == '.') {
        const uint8_t *const fraction = at + 1;
        if ((at = skip_digits(fraction, end)) == fraction) {
            return false;
        }
    }
    if (at < end && (*at | 0x20) == 'e') {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        const uint8_t *const exponent = at;
        if ((at = skip_digits(exponent, end)) == exponent) {
            return false;
        }
    }
    return at == end;
}

string_decoder::string_decoder() noexcept {
    // simdjson decodes with the kernel that it has for this processor, which this loads.
    static_cast<void>(json_.allocate(1, 1));
}

cevent_error string_decoder::decode(text content, arena &memory, text &decoded) noexcept {
    uint8_t *const room = memory.room(content.length + SIMDJSON_PADDING);
    uint8_t *end = room;
    std::string_view view;

    if (room == nullptr || json_.capacity() == 0) {
        return CEVENT_ERROR_MEMORY;
    }
    if (json_.unescape(simdjson::ondemand::raw_json_string(content.begin), end).get(view) !=
        simdjson::SUCCESS) {
        return CEVENT_ERROR_SURROGATE;
    }
    decoded = {room, view.size()};
    return CEVENT_ERROR_NONE;
}

uint8_t *write_string(text decoded, uint8_t *to) noexcept {
    static const char short_escapes[] = "btnvfr"; // From 8 on; JSON has no \v.

    *to++ = '"';
    for (const uint8_t *at = decoded.begin; at != decoded.end(); at++) {
        if (*at == '"' || *at == '\\') {
            *to++ = '\\';
            *to++ = *at;
        } else if (*at >= 8 && *at <= 13 && *at != 11) {
            *to++ = '\\';
            *to++ = static_cast<uint8_t>(short_escapes[*at - 8]);
        } else if (*at < 0x20) {
            std::memcpy(to, "\\u00", 4);
            to[4] = static_cast<uint8_t>('0' + (*at >> 4));
            to[5] = static_cast<uint8_t>("0123456789abcdef"[*at & 15]);
            to += 6;
        } else {
            *to++ = *at;
        }
    }
    *to++ = '"';
    return to;
}

cevent_error minify(text json, arena &memory, text &small) noexcept {
    uint8_t *const room = memory.room(json.length + SIMDJSON_PADDING);
    size_t length = 0;

    if (room == nullptr) {
        return CEVENT_ERROR_MEMORY;
    }
    if (simdjson::minify(reinterpret_cast<const char *>(json.begin), json.length,
                         reinterpret_cast<char *>(room), length) != simdjson::SUCCESS) {
        return CEVENT_ERROR_SYNTAX;
    }
    memory.keep(length);
    small = {room, length};
    return CEVENT_ERROR_NONE;
}

} // namespace cevent
