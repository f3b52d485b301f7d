/* SPDX-License-Identifier: Apache-2.0 */
/* Where the key and the rest are in a value, and the event that a value makes. */
#ifndef CEVENTPARSER_PLAN_HPP
#define CEVENTPARSER_PLAN_HPP

#include "walk.hpp"

namespace cevent {

// The slots of pointers of which the first that leads somewhere counts.
using choice = std::vector<int>;

struct key_part {
    choice slots;
    bool is_optional;
};

struct condition {
    int slot;
    bool compares;
    kind type;
    std::string operand; // The text of a string, or else JSON without whitespace.
};

// A value that the walk has found to be JSON.
struct record {
    const value_walk &walk;
    text value;
    text line; // With the whitespace around the value, if nothing else is in its lines.
};

class plan {
public:
    explicit plan(cevent_format format);

    bool add_pointers(const char *const *pointers, size_t count, choice &slots);
    cevent_place add_key(const char *const *pointers, size_t count, bool is_optional);
    cevent_place set_value(const char *const *pointers, size_t count);
    cevent_place set_revision(const char *const *pointers, size_t count);
    cevent_place add_deletion(const char *text, string_decoder &decoder, arena &memory);

    const pointer_tree &pointers() const noexcept { return pointers_; }

    /* What a value says. The kind of an event that is wrong is CEVENT_KIND_ERROR, and `place` is
       set to where. */
    cevent_error judge(const record &of, string_decoder &decoder, arena &memory,
                       cevent_event &event, const uint8_t *&place) noexcept;

private:
    struct work; // All that judging a value takes.

    bool is_own() const noexcept { return format_ == CEVENT_FORMAT_EVENTS; }
    cevent_error judge_event(work &work) noexcept;
    cevent_error judge_update(work &work) noexcept;
    cevent_error judge_status(work &work) const noexcept;
    cevent_error set_line(work &work) const noexcept;
    cevent_error set_value(work &work, bool deletes) const noexcept;
    bool is_missing_part(work &work) const noexcept;
    cevent_error read_parts(work &work) noexcept;
    size_t room_for_key() const noexcept;
    cevent_error make_key(work &work, text &key) noexcept;
    cevent_error read_revision(work &work) const noexcept;
    cevent_error holds(work &work, const condition &of, bool &result) const noexcept;
    cevent_error is_deletion(work &work, bool &deletes) const noexcept;

    const cevent_format format_;
    pointer_tree pointers_;
    std::vector<key_part> key_;
    std::vector<text> parts_; // Of the key in work.
    choice value_;
    choice revision_;
    std::vector<condition> deletions_;
    int status_ = no_slot;
    int restart_ = no_slot;
    int overflow_ = no_slot;
};

} // namespace cevent

#endif /* CEVENTPARSER_PLAN_HPP */
