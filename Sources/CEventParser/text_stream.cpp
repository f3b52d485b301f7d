/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "text_stream.hpp"

namespace cevent {

void text_stream::set_fields(uint8_t delimiter, const uint32_t *fields, size_t count,
                             bool has_header) {
    delimiter_ = delimiter;
    has_header_ = has_header;
    fields_.assign(fields, fields + count);
    parts_.resize(count);
    last_field_ = *std::max_element(fields, fields + count);
}

void text_stream::parse() noexcept {
    while (!is_over_ && !is_full()) {
        const uint8_t *end = find_newline(rest());
        if (end == chunk_.end()) {
            break;
        }
        check_encoding();
        if (!is_over_) {
            take_line({cursor_, static_cast<size_t>(end - cursor_)});
            cursor_ = end + 1;
        }
    }
}

// A carriage return before the newline belongs to the line, and to no field.
void text_stream::take_line(text line) noexcept {
    text content = line;
    text key;

    if (content.length > 0 && content.end()[-1] == '\r') {
        content.length--;
    }
    if (content.length == 0) {
        return;
    }
    if (line.length > max_length_) {
        add_error(CEVENT_ERROR_LENGTH, line.begin, line.begin);
        return;
    }
    cevent_event &event = add_event();
    event.value = line.begin;
    event.value_length = static_cast<uint32_t>(line.length);
    if (has_header_) {
        has_header_ = false;
        event.kind = CEVENT_KIND_HEADER;
    } else if (!find_fields(content, event.part)) {
        event.kind = CEVENT_KIND_MISSING;
        event.line = event.first_line = line_of(line.begin);
    } else if (cevent_error error = make_key(key)) {
        count_--;
        add_error(error, line.begin, line.begin);
    } else {
        event.kind = CEVENT_KIND_UPDATE;
        event.key = key.begin;
        event.key_length = static_cast<uint32_t>(key.length);
    }
}

// Finds the fields of the key. @param missing  set to the first that is not there
bool text_stream::find_fields(text line, uint32_t &missing) noexcept {
    const uint8_t *at = line.begin;

    for (uint32_t number = 1; number <= last_field_; number++) {
        const size_t left = static_cast<size_t>(line.end() - at);
        const void *const found = left == 0 ? nullptr : std::memchr(at, delimiter_, left);
        const uint8_t *const end =
            found == nullptr ? line.end() : static_cast<const uint8_t *>(found);
        for (size_t i = 0; i < fields_.size(); i++) {
            if (fields_[i] == number) {
                parts_[i] = {at, static_cast<size_t>(end - at)};
            }
        }
        if (found == nullptr && number < last_field_) {
            missing = 0;
            while (fields_[missing] <= number) {
                missing++;
            }
            return false;
        }
        at = end + 1;
    }
    return true;
}

cevent_error text_stream::make_key(text &key) noexcept {
    size_t length = parts_.size() - 1;

    key = parts_[0];
    for (const text &part : parts_) {
        length += part.length;
    }
    if (length > CEVENT_MAX_KEY_LENGTH) {
        return CEVENT_ERROR_KEY_LENGTH;
    }
    if (parts_.size() == 1) {
        return CEVENT_ERROR_NONE;
    }
    uint8_t *to = memory_.room(length);
    if (to == nullptr) {
        return CEVENT_ERROR_MEMORY;
    }
    key = {to, length};
    for (const text &part : parts_) {
        to = std::copy(part.begin, part.end(), to);
        if (&part != &parts_.back()) {
            *to++ = delimiter_;
        }
    }
    memory_.keep(length);
    return CEVENT_ERROR_NONE;
}

} // namespace cevent
