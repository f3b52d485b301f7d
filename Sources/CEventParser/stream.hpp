/* SPDX-License-Identifier: Apache-2.0 */
/* A stream that comes in chunks: where the parser stands in it, and the events it has for it. */
#ifndef CEVENTPARSER_STREAM_HPP
#define CEVENTPARSER_STREAM_HPP

#include "plan.hpp"

namespace cevent {

// Behind the last newline, or at the begin if there is none.
const uint8_t *behind_last_newline(text bytes) noexcept;

// The first newline, or the end if there is none.
const uint8_t *find_newline(text bytes) noexcept;

class stream {
public:
    explicit stream(size_t max_length) : max_length_(max_length) {}
    virtual ~stream() = default;

    size_t take(text chunk, bool is_last, cevent_event *events, size_t capacity,
                size_t &consumed) noexcept;
    cevent_event give_up(text chunk) noexcept;
    uint64_t lines() const noexcept { return lines_; }

protected:
    /* Parses what is behind the cursor until there are events, or no complete line is left. */
    virtual void parse() noexcept = 0;
    /* Forgets the value in work, which is too long and has not ended. */
    virtual void give_up_value() noexcept {}

    text rest() const noexcept { return {cursor_, static_cast<size_t>(chunk_.end() - cursor_)}; }
    bool is_full() const noexcept { return count_ + 2 > capacity_; }
    bool is_at_line_begin() const noexcept {
        return cursor_ == chunk_.begin ? column_ == 0 : cursor_[-1] == '\n';
    }
    cevent_event &add_event() noexcept;
    /* Reports what is wrong at `place`, in a value that begins before it. */
    void add_error(cevent_error error, const uint8_t *place, const uint8_t *value) noexcept;
    uint64_t line_of(const uint8_t *place) noexcept;
    uint32_t column_of(const uint8_t *place) const noexcept;
    /* Sees to a byte order mark and to UTF-16, once, when a complete line is there. */
    void check_encoding() noexcept;

    const size_t max_length_;
    arena memory_;

    // The call in work. Everything before the cursor is done with.
    text chunk_;
    const uint8_t *cursor_ = nullptr;
    bool is_last_ = false;
    cevent_event *events_ = nullptr;
    size_t capacity_ = 0;
    size_t count_ = 0;

    bool is_over_ = false; // Nothing that comes is of use.

private:
    // What is before the chunk: complete lines, and bytes of the line that the chunk begins in.
    uint64_t lines_ = 0;
    uint32_t column_ = 0;
    bool is_checked_ = false;

    // A place whose line is known, and the newlines before it.
    const uint8_t *counted_ = nullptr;
    uint64_t counted_lines_ = 0;
};

} // namespace cevent

#endif /* CEVENTPARSER_STREAM_HPP */
