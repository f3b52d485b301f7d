/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of JSON values.
 *
 * The first stage of simdjson indexes a window of complete lines at once, and one walk over the
 * tokens checks each value and finds what the plan wants of it. Where the window ends inside a
 * value, the walk goes on in the next window.
 *
 * If simdjson refuses a window, the window shrinks to one line. If it refuses one line, that line
 * is bad. With each success the window doubles, so a bad line costs little more than itself.
 */
#ifndef CEVENTPARSER_JSON_STREAM_HPP
#define CEVENTPARSER_JSON_STREAM_HPP

#include "stream.hpp"

namespace cevent {

class json_stream : public stream {
public:
    json_stream(cevent_format format, size_t max_length)
        : stream(max_length), plan_(format), walk_(plan_.pointers(), decoder_, memory_) {}

    // What the plan's calls need.
    plan plan_;
    string_decoder decoder_;
    arena &memory() noexcept { return memory_; }

protected:
    void parse() noexcept override;
    void give_up_value() noexcept override;

private:
    bool parse_window() noexcept;
    const uint8_t *window_end(const uint8_t *begin) const noexcept;
    bool end_of_input() noexcept;
    void take_tokens(const uint8_t *end) noexcept;
    void begin_value(const uint8_t *token) noexcept;
    void end_value() noexcept;
    void judge_value(text value, text line) noexcept;
    void refuse(cevent_error error, const uint8_t *place, size_t token) noexcept;
    void refuse_line(text line, cevent_error error) noexcept;
    void leave_value(cevent_error error, const uint8_t *place) noexcept;
    void forget() noexcept;
    size_t open_containers(size_t token, const uint8_t *line_end) const noexcept;
    void begin_recovery(const uint8_t *at, uint64_t first_skipped) noexcept;
    void end_recovery() noexcept;
    bool recover() noexcept;
    const uint8_t *value_begin() const noexcept { return cursor_ + value_offset_; }

    static constexpr size_t largest_window = 1 << 15;

    value_walk walk_;
    token_index tokens_;
    size_t window_ = largest_window;

    // The value in work. The cursor stays where it, or the line that it begins, begins.
    bool is_open_ = false;
    bool begins_line_ = false;
    size_t value_offset_ = 0; // From the cursor.
    size_t scanned_ = 0;      // Bytes from the cursor on whose tokens are used up.

    // After an error: lines are passed over up to one that begins a value.
    bool is_recovering_ = false;
    size_t deepest_indent_ = 0;
    uint64_t first_skipped_ = 0;
};

} // namespace cevent

#endif /* CEVENTPARSER_JSON_STREAM_HPP */
