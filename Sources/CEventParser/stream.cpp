/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "stream.hpp"

namespace cevent {

const uint8_t *behind_last_newline(text bytes) noexcept {
    const uint8_t *at = bytes.end();

    while (at > bytes.begin && at[-1] != '\n') {
        at--;
    }
    return at;
}

const uint8_t *find_newline(text bytes) noexcept {
    const void *const found =
        bytes.length == 0 ? nullptr : std::memchr(bytes.begin, '\n', bytes.length);
    return found == nullptr ? bytes.end() : static_cast<const uint8_t *>(found);
}

namespace {

// In pieces whose counts fit a byte each, which compilers turn into vectors.
uint64_t count_newlines(const uint8_t *at, const uint8_t *end) noexcept {
    uint64_t count = 0;

    while (at != end) {
        const uint8_t *const piece = at + std::min<ptrdiff_t>(end - at, UINT8_MAX);
        uint8_t in_piece = 0;
        for (; at != piece; at++) {
            in_piece = static_cast<uint8_t>(in_piece + (*at == '\n'));
        }
        count += in_piece;
    }
    return count;
}

} // namespace

size_t stream::take(text chunk, bool is_last, cevent_event *events, size_t capacity,
                    size_t &consumed) noexcept {
    chunk_ = chunk;
    cursor_ = chunk.begin;
    is_last_ = is_last;
    events_ = events;
    capacity_ = capacity;
    count_ = 0;
    counted_ = chunk.begin;
    counted_lines_ = lines_;
    memory_.clear();

    // A newline that comes alone may be half of a character of UTF-16.
    if (is_checked_ || is_last || chunk.length > 1) {
        parse();
    }
    if (is_over_) {
        cursor_ = behind_last_newline(chunk);
    }
    const uint8_t *const line =
        behind_last_newline({chunk.begin, static_cast<size_t>(cursor_ - chunk.begin)});
    const bool is_same_line = line == chunk.begin;
    lines_ = line_of(cursor_) - 1;
    column_ = static_cast<uint32_t>(cursor_ - line) + (is_same_line ? column_ : 0);
    consumed = static_cast<size_t>(cursor_ - chunk.begin);
    return count_;
}

cevent_event stream::give_up(text chunk) noexcept {
    cevent_event event = cevent_event();

    event.kind = CEVENT_KIND_ERROR;
    event.error = CEVENT_ERROR_LENGTH;
    event.line = event.first_line = lines_ + 1;
    event.column = column_ + 1;
    lines_ += count_newlines(chunk.begin, chunk.end()) + 1;
    column_ = 0;
    give_up_value();
    return event;
}

cevent_event &stream::add_event() noexcept {
    events_[count_] = cevent_event();
    return events_[count_++];
}

void stream::add_error(cevent_error error, const uint8_t *place, const uint8_t *value) noexcept {
    cevent_event &event = add_event();

    event.kind = CEVENT_KIND_ERROR;
    event.error = error;
    event.first_line = line_of(value);
    event.line = line_of(place);
    event.column = column_of(place);
}

// Places come mostly in order, so that no newline is counted twice.
uint64_t stream::line_of(const uint8_t *place) noexcept {
    if (place < counted_) {
        counted_ = chunk_.begin;
        counted_lines_ = lines_;
    }
    counted_lines_ += count_newlines(counted_, place);
    counted_ = place;
    return counted_lines_ + 1;
}

uint32_t stream::column_of(const uint8_t *place) const noexcept {
    const uint8_t *const line =
        behind_last_newline({chunk_.begin, static_cast<size_t>(place - chunk_.begin)});

    return static_cast<uint32_t>(place - line) + 1 + (line == chunk_.begin ? column_ : 0);
}

void stream::check_encoding() noexcept {
    const uint8_t *const bytes = chunk_.begin;

    if (is_checked_) {
        return;
    }
    is_checked_ = true;
    if (chunk_.length >= 3 && std::memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) {
        cursor_ += 3;
    } else if (chunk_.length >= 2 &&
               (std::memcmp(bytes, "\xFF\xFE", 2) == 0 || std::memcmp(bytes, "\xFE\xFF", 2) == 0 ||
                (bytes[0] == 0) != (bytes[1] == 0))) {
        // Of two bytes of UTF-16 one is NUL, where JSON begins.
        add_error(CEVENT_ERROR_UTF16, bytes, bytes);
        is_over_ = true;
    }
}

} // namespace cevent
