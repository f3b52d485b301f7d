/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "errors.hpp"
#include "json_stream.hpp"

namespace cevent {

namespace {

size_t indentation(const uint8_t *line) noexcept {
    size_t length = 0;

    while (is_blank(line[length])) {
        length++;
    }
    return length;
}

bool may_begin_value(uint8_t byte) noexcept {
    return byte != '\0' && std::strchr("{[\"-0123456789tfn", byte) != nullptr;
}

bool is_byte_order_mark(const uint8_t *at) noexcept {
    return std::memcmp(at, "\xEF\xBB\xBF", 3) == 0;
}

// What is wrong with what follows a value in its line.
cevent_error trailing_error(const uint8_t *at) noexcept {
    switch (*at) {
    case ',': return CEVENT_ERROR_COMMA_BETWEEN;
    case '}':
    case ']': return CEVENT_ERROR_STRAY_BRACKET;
    default: return CEVENT_ERROR_TRAILING;
    }
}

} // namespace

// ---- Windows ----

void json_stream::parse() noexcept {
    while (count_ == 0 && !is_over_) {
        if (is_recovering_ ? !recover() : !parse_window()) {
            break;
        }
    }
}

// The last line end in the window, or the next one behind it; NULL: there is none.
const uint8_t *json_stream::window_end(const uint8_t *begin) const noexcept {
    const size_t left = static_cast<size_t>(chunk_.end() - begin);
    const size_t length = std::min(left, window_);
    const uint8_t *const last = behind_last_newline({begin, length});

    if (last != begin) {
        return last;
    }
    const uint8_t *const next = find_newline({begin + length, left - length});
    return next == chunk_.end() ? nullptr : next + 1;
}

bool json_stream::parse_window() noexcept {
    if (window_end(cursor_ + scanned_) == nullptr) {
        return end_of_input();
    }
    check_encoding();
    const uint8_t *const begin = cursor_ + scanned_;
    const uint8_t *const end = window_end(begin);
    const size_t length = static_cast<size_t>(end - begin);
    const bool is_line = find_newline({begin, length}) + 1 == end;
    const cevent_error error =
        is_line && length - 1 > max_length_ ? CEVENT_ERROR_LENGTH : tokens_.build(begin, length);

    if (is_over_) {
        return false;
    }
    if (error == CEVENT_ERROR_NONE) {
        window_ = std::min(2 * std::max(window_, length), largest_window);
        take_tokens(end);
    } else if (is_line) {
        refuse_line({begin, length - 1}, error);
    } else {
        window_ = 1;
    }
    return true;
}

// No complete line is left. @return whether to go on
bool json_stream::end_of_input() noexcept {
    if (!is_last_ || !is_open_) {
        return false;
    }
    leave_value(CEVENT_ERROR_INCOMPLETE, value_begin());
    return true;
}

void json_stream::take_tokens(const uint8_t *end) noexcept {
    size_t at = 0;

    while (!is_recovering_ && !is_full()) {
        while (at < tokens_.count() && tokens_[at] < cursor_) {
            at++; // Of a line that was refused.
        }
        if (!is_open_ && at == tokens_.count()) {
            cursor_ = end;
            return;
        }
        if (!is_open_) {
            begin_value(tokens_[at]);
        }
        switch (walk_.run(tokens_, at, value_begin())) {
        case value_walk::outcome::done: end_value(); break;
        case value_walk::outcome::failed: refuse(walk_.error(), walk_.error_place(), at); break;
        case value_walk::outcome::more:
            scanned_ = static_cast<size_t>(end - cursor_);
            if (scanned_ > max_length_) {
                leave_value(CEVENT_ERROR_LENGTH, value_begin());
            }
            return;
        }
    }
}

// ---- Values ----

void json_stream::begin_value(const uint8_t *token) noexcept {
    const uint8_t *line = token;

    while (line > cursor_ && is_blank(line[-1])) {
        line--;
    }
    cursor_ = line;
    begins_line_ = is_at_line_begin();
    value_offset_ = static_cast<size_t>(token - line);
    walk_.start();
    is_open_ = true;
}

void json_stream::end_value() noexcept {
    const text value = {value_begin(), walk_.length()};
    const uint8_t *behind = value.end();

    while (is_blank(*behind)) {
        behind++;
    }
    const bool ends_line = *behind == '\n';
    if (!ends_line && !may_begin_value(*behind)) {
        refuse(trailing_error(behind), behind, tokens_.count());
        return;
    }
    if (value.length > max_length_) {
        add_error(CEVENT_ERROR_LENGTH, value.begin, value.begin);
    } else {
        const bool is_alone = begins_line_ && ends_line;
        judge_value(value, is_alone ? text{cursor_, static_cast<size_t>(behind - cursor_)} : value);
    }
    cursor_ = behind + ends_line;
    forget();
}

void json_stream::judge_value(text value, text line) noexcept {
    cevent_event &event = add_event();
    const uint8_t *place = value.begin;
    const cevent_error error = plan_.judge({walk_, value, line}, decoder_, memory_, event, place);

    if (error != CEVENT_ERROR_NONE) {
        count_--;
        add_error(error, place, value.begin);
    } else if (event.kind == CEVENT_KIND_MISSING) {
        event.line = event.first_line = line_of(value.begin);
        event.column = column_of(value.begin);
    }
}

void json_stream::forget() noexcept {
    is_open_ = false;
    scanned_ = 0;
}

// ---- Errors, and how to go on ----

// Containers that a line leaves open, given the token that is wrong.
size_t json_stream::open_containers(size_t token, const uint8_t *line_end) const noexcept {
    size_t depth = walk_.depth();

    for (; token < tokens_.count() && tokens_[token] < line_end; token++) {
        switch (*tokens_[token]) {
        case '{':
        case '[': depth++; break;
        case '}':
        case ']': depth -= depth > 0; break;
        default: break;
        }
    }
    return depth;
}

// A value is wrong at `place`, which is in the token, or behind the value if there is none.
void json_stream::refuse(cevent_error error, const uint8_t *place, size_t token) noexcept {
    const text before = {value_begin(), static_cast<size_t>(place - value_begin())};
    const uint8_t *const line_end =
        find_newline({place, static_cast<size_t>(chunk_.end() - place)});

    if (error == CEVENT_ERROR_VALUE && is_byte_order_mark(place)) {
        error = CEVENT_ERROR_BYTE_ORDER_MARK;
    }
    if (before.contains('\n')) {
        leave_value(error, place);
        return;
    }
    add_error(error, place, value_begin());
    if (token < tokens_.count() && open_containers(token, line_end) > 0) {
        begin_recovery(line_end + 1, line_of(place));
    } else {
        cursor_ = line_end + 1;
        forget();
    }
}

// The first stage of simdjson refuses a line.
void json_stream::refuse_line(text line, cevent_error error) noexcept {
    const uint8_t *const place = bad_place(line, error);

    if (is_open_) {
        leave_value(error, place);
    } else {
        add_error(error, place, line.begin);
        cursor_ = line.end() + 1;
    }
}

// Any line behind the value's first line may begin the next value.
void json_stream::leave_value(cevent_error error, const uint8_t *place) noexcept {
    const text behind = {value_begin(), static_cast<size_t>(chunk_.end() - value_begin())};

    add_error(error, place, value_begin());
    begin_recovery(find_newline(behind) + 1, line_of(value_begin()));
}

void json_stream::begin_recovery(const uint8_t *at, uint64_t first_skipped) noexcept {
    first_skipped_ = first_skipped;
    deepest_indent_ = begins_line_ ? value_offset_ : 0;
    is_recovering_ = true;
    cursor_ = at;
    forget();
}

void json_stream::give_up_value() noexcept {
    if (is_open_) {
        first_skipped_ = UINT64_MAX; // Which lines, the error has said.
        deepest_indent_ = begins_line_ ? value_offset_ : 0;
        is_recovering_ = true;
    }
    forget();
}

void json_stream::end_recovery() noexcept {
    const uint64_t last = line_of(cursor_) - 1;

    is_recovering_ = false;
    if (last > first_skipped_) {
        cevent_event &event = add_event();
        event.kind = CEVENT_KIND_SKIPPED;
        event.first_line = first_skipped_;
        event.line = last;
    }
}

// Passes over lines. @return whether to go on
bool json_stream::recover() noexcept {
    for (;;) {
        const uint8_t *const line_end = find_newline(rest());
        if (line_end == chunk_.end()) {
            break;
        }
        const size_t indent = indentation(cursor_);
        const uint8_t first = cursor_[indent];
        if ((first == '{' || first == '[') && indent <= deepest_indent_) {
            end_recovery();
            return true;
        }
        cursor_ = line_end + 1;
    }
    if (is_last_) {
        end_recovery();
    }
    return false;
}

} // namespace cevent
