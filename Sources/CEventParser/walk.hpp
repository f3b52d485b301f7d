/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One walk over the tokens of a value: it checks all that the first stage of simdjson does not,
 * and notes what the pointers of a tree point to.
 *
 * A value may reach over many lines, of which only some have come. So the walk is a machine of
 * states: where the tokens end it keeps its state, and it goes on with the next ones. It notes
 * places as distances from the value's begin, because the bytes may be moved in between.
 */
#ifndef CEVENTPARSER_WALK_HPP
#define CEVENTPARSER_WALK_HPP

#include "pointers.hpp"
#include "strings.hpp"

namespace cevent {

enum class kind : uint8_t { missing, null, boolean, number, string, object, array };

// What is at a pointer, from the value's begin on.
struct found {
    size_t begin = 0;
    size_t length = 0;
    kind type = kind::missing;
};

class value_walk {
public:
    enum class outcome { done, more, failed };

    value_walk(const pointer_tree &pointers, string_decoder &decoder, arena &memory);

    /* Begins a value, and finds nothing yet. */
    void start();

    /*
     * Goes on with the tokens from `at` on, up to the end of the value.
     *
     * @param base  where the value begins
     * @param at    moved behind the value, or to the token that is wrong
     */
    outcome run(const token_index &tokens, size_t &at, const uint8_t *base) noexcept;

    const found &operator[](int slot) const noexcept { return found_[slot]; }
    kind type() const noexcept { return type_; }
    size_t length() const noexcept { return length_; } // Of a value that is done.

    cevent_error error() const noexcept { return error_; }
    const uint8_t *error_place() const noexcept { return error_place_; }
    /* Containers that are open. */
    size_t depth() const noexcept { return stack_.size(); }

private:
    enum class expects : uint8_t {
        value,
        first_element, // Or the end of an array.
        first_name,    // Or the end of an object.
        name,
        colon,
        member_end, // A comma, or the end of an object.
        element_end,
        nothing,
    };

    struct frame {
        size_t begin;
        int64_t element;
        int node;
        bool is_object;
    };

    bool step(const uint8_t *token, const uint8_t *next) noexcept;
    bool take_value(const uint8_t *token, const uint8_t *next) noexcept;
    bool take_string(text token) noexcept;
    bool take_scalar(text token) noexcept;
    bool take_name(const uint8_t *token, const uint8_t *next) noexcept;
    bool take_end(const uint8_t *token) noexcept;
    bool open(const uint8_t *token, bool is_object) noexcept;
    void close(const uint8_t *token) noexcept;
    void finish(kind type, size_t begin, size_t length) noexcept;
    void enter(int node) noexcept;
    bool match(text name) noexcept;
    bool fail(cevent_error error, const uint8_t *place) noexcept;
    bool fail_value(const uint8_t *token) noexcept;

    const pointer_tree &pointers_;
    string_decoder &decoder_;
    arena &memory_;
    std::vector<found> found_;
    std::vector<frame> stack_;

    // About the value in work.
    const uint8_t *base_ = nullptr;
    bool has_backslash_ = false;
    expects expects_ = expects::value;
    int node_ = pointer_tree::root; // Of the value that comes next.
    kind type_ = kind::missing;
    size_t length_ = 0;
    cevent_error error_ = CEVENT_ERROR_NONE;
    const uint8_t *error_place_ = nullptr;
};

} // namespace cevent

#endif /* CEVENTPARSER_WALK_HPP */
