/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the tokens of some lines begin: the first stage of simdjson, which looks at the text with
 * vector instructions that it chooses at run time for this processor.
 *
 * The first stage also checks UTF-8, and it finds control characters in strings and strings that
 * do not end. A newline in a string is a control character. So a string never reaches from one
 * line into the next, and lines can be indexed together or one by one with the same result.
 *
 * A token reaches up to the beginning of the next token, with the whitespace between them. The
 * first stage says nothing about what a number, a literal or an escape looks like.
 */
#ifndef CEVENTPARSER_TOKENS_HPP
#define CEVENTPARSER_TOKENS_HPP

#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#include <memory>

#include "CEventParser.h"

namespace cevent {

static_assert(CEVENT_PADDING >= simdjson::SIMDJSON_PADDING,
              "the padding that callers promise is what simdjson reads");

// Bytes of the input, or of the parser's own memory.
struct text {
    const uint8_t *begin = nullptr;
    size_t length = 0;

    const uint8_t *end() const noexcept { return begin + length; }
    bool equals(text other) const noexcept {
        return length == other.length && (length == 0 || !memcmp(begin, other.begin, length));
    }
    template <size_t n> bool equals(const char (&other)[n]) const noexcept {
        return length == n - 1 && std::memcmp(begin, other, n - 1) == 0;
    }
    bool contains(char byte) const noexcept {
        return length > 0 && std::memchr(begin, byte, length) != nullptr;
    }
};

inline bool is_blank(uint8_t byte) noexcept {
    return byte == ' ' || byte == '\t' || byte == '\r';
}

inline bool is_whitespace(uint8_t byte) noexcept {
    return is_blank(byte) || byte == '\n';
}

class token_index {
public:
    /* Finds the tokens of complete lines. @return CEVENT_ERROR_NONE, or what simdjson says */
    cevent_error build(const uint8_t *begin, size_t length) noexcept;

    size_t count() const noexcept { return count_; }
    const uint8_t *operator[](size_t token) const noexcept { return begin_ + indexes_[token]; }
    /* The token and the whitespace behind it. */
    const uint8_t *next(size_t token) const noexcept {
        return token + 1 < count_ ? begin_ + indexes_[token + 1] : begin_ + length_;
    }
    /* Whether any string may have an escape. */
    bool has_backslash() const noexcept { return has_backslash_; }

private:
    cevent_error reserve(size_t length) noexcept;

    std::unique_ptr<simdjson::internal::dom_parser_implementation> stage_;
    const uint32_t *indexes_ = nullptr;
    const uint8_t *begin_ = nullptr;
    size_t length_ = 0;
    size_t count_ = 0;
    bool has_backslash_ = false;
};

} // namespace cevent

#endif /* CEVENTPARSER_TOKENS_HPP */
