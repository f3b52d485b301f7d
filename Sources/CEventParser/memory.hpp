/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the bytes that events point to and that are not in the input as they are. */
#ifndef CEVENTPARSER_MEMORY_HPP
#define CEVENTPARSER_MEMORY_HPP

#include <memory>
#include <new>
#include <vector>

#include "tokens.hpp"

namespace cevent {

/* Pieces that stay where they are until all are given up together. The largest block is kept for
   the next round, so a stream that needs memory soon allocates none. */
class arena {
public:
    void clear() noexcept {
        full_.clear();
        used_ = 0;
    }

    /* @return room for `length` bytes, the next call's too unless it is kept; NULL: no memory */
    uint8_t *room(size_t length) noexcept {
        return capacity_ - used_ >= length || grow(length) ? block_.get() + used_ : nullptr;
    }

    /* Keeps the first bytes of the room that was given last. */
    void keep(size_t length) noexcept { used_ += length; }

    /* The same for bytes that may be elsewhere, and then stay there anyway. */
    void keep_if_inside(const uint8_t *begin, size_t length) noexcept {
        if (block_ && begin == block_.get() + used_) {
            used_ += length;
        }
    }

private:
    bool grow(size_t length) noexcept {
        constexpr size_t smallest = 1 << 14;
        size_t capacity = 2 * capacity_ > smallest ? 2 * capacity_ : smallest;
        while (capacity < length) {
            capacity *= 2;
        }
        std::unique_ptr<uint8_t[]> block(new (std::nothrow) uint8_t[capacity]);
        if (!block) {
            return false;
        }
        try {
            full_.push_back(std::move(block_));
        } catch (...) {
            return false;
        }
        block_ = std::move(block);
        capacity_ = capacity;
        used_ = 0;
        return true;
    }

    std::vector<std::unique_ptr<uint8_t[]>> full_;
    std::unique_ptr<uint8_t[]> block_;
    size_t capacity_ = 0;
    size_t used_ = 0;
};

} // namespace cevent

#endif /* CEVENTPARSER_MEMORY_HPP */
