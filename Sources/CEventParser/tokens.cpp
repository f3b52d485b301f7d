/* SPDX-License-Identifier: Apache-2.0 */
#include <cstring>

#include "tokens.hpp"

namespace cevent {

// The capacity grows by doubling, because simdjson does not grow it.
cevent_error token_index::reserve(size_t length) noexcept {
    constexpr size_t smallest = 1 << 12;
    constexpr size_t depth = 1; // Only the second stage needs depth.
    size_t capacity = smallest;

    if (stage_ && stage_->capacity() >= length) {
        return CEVENT_ERROR_NONE;
    }
    while (capacity < length) {
        capacity *= 2;
    }
    return simdjson::get_active_implementation()->create_dom_parser_implementation(
               capacity, depth, stage_) == simdjson::SUCCESS
               ? CEVENT_ERROR_NONE
               : CEVENT_ERROR_MEMORY;
}

cevent_error token_index::build(const uint8_t *begin, size_t length) noexcept {
    count_ = 0;
    begin_ = begin;
    length_ = length;
    has_backslash_ = std::memchr(begin, '\\', length) != nullptr;
    if (cevent_error error = reserve(length)) {
        return error;
    }
    const simdjson::error_code error =
        stage_->stage1(begin, length, simdjson::stage1_mode::regular);
    switch (error) {
    case simdjson::SUCCESS: break;
    case simdjson::EMPTY: return CEVENT_ERROR_NONE;
    case simdjson::UTF8_ERROR: return CEVENT_ERROR_UTF8;
    case simdjson::UNESCAPED_CHARS: return CEVENT_ERROR_CONTROL_CHARACTER;
    case simdjson::UNCLOSED_STRING: return CEVENT_ERROR_OPEN_STRING;
    case simdjson::MEMALLOC: return CEVENT_ERROR_MEMORY;
    default: return CEVENT_ERROR_SYNTAX;
    }
    indexes_ = stage_->structural_indexes.get();
    count_ = stage_->n_structural_indexes;
    return CEVENT_ERROR_NONE;
}

} // namespace cevent
