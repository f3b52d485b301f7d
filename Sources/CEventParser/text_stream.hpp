/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of lines of delimited text. */
#ifndef CEVENTPARSER_TEXT_STREAM_HPP
#define CEVENTPARSER_TEXT_STREAM_HPP

#include "stream.hpp"

namespace cevent {

class text_stream : public stream {
public:
    explicit text_stream(size_t max_length) : stream(max_length) {}

    void set_fields(uint8_t delimiter, const uint32_t *fields, size_t count, bool has_header);

protected:
    void parse() noexcept override;

private:
    void take_line(text line) noexcept;
    bool find_fields(text line, uint32_t &missing) noexcept;
    cevent_error make_key(text &key) noexcept;

    uint8_t delimiter_ = '\t';
    bool has_header_ = false;
    std::vector<uint32_t> fields_;
    uint32_t last_field_ = 0;
    std::vector<text> parts_; // Of the key in work.
};

} // namespace cevent

#endif /* CEVENTPARSER_TEXT_STREAM_HPP */
