/* SPDX-License-Identifier: Apache-2.0 */
/* The C interface: see CEventParser.h. */
#include <algorithm>

#include "json_stream.hpp"
#include "text_stream.hpp"

struct cevent_parser {
    std::unique_ptr<cevent::json_stream> json;
    std::unique_ptr<cevent::text_stream> text;

    cevent::stream &stream() noexcept {
        return json ? static_cast<cevent::stream &>(*json) : *text;
    }
};

namespace {

using simdjson::SIMDJSON_MAXSIZE_BYTES;

// Setting up may run out of memory. Nothing else throws.
template <typename action> cevent_place guarded(action set) noexcept {
    try {
        return set();
    } catch (...) {
        return CEVENT_PLACE_NO_MEMORY;
    }
}

} // namespace

cevent_parser *cevent_parser_create(cevent_format format, size_t max_length) noexcept {
    // simdjson counts bytes in 32 bits, and vectors reach behind the end.
    const size_t longest = std::min<size_t>(max_length, SIMDJSON_MAXSIZE_BYTES - 128);

    try {
        auto parser = std::make_unique<cevent_parser>();
        if (format == CEVENT_FORMAT_TEXT) {
            parser->text = std::make_unique<cevent::text_stream>(longest);
        } else {
            parser->json = std::make_unique<cevent::json_stream>(format, longest);
        }
        return parser.release();
    } catch (...) {
        return nullptr;
    }
}

void cevent_parser_destroy(cevent_parser *parser) noexcept {
    delete parser;
}

cevent_place cevent_parser_add_key(cevent_parser *parser, const char *const *pointers, size_t count,
                                   bool is_optional) noexcept {
    return guarded([=] { return parser->json->plan_.add_key(pointers, count, is_optional); });
}

cevent_place cevent_parser_set_value(cevent_parser *parser, const char *const *pointers,
                                     size_t count) noexcept {
    return guarded([=] { return parser->json->plan_.set_value(pointers, count); });
}

cevent_place cevent_parser_set_revision(cevent_parser *parser, const char *const *pointers,
                                        size_t count) noexcept {
    return guarded([=] { return parser->json->plan_.set_revision(pointers, count); });
}

cevent_place cevent_parser_add_deletion(cevent_parser *parser, const char *condition) noexcept {
    cevent::json_stream &json = *parser->json;

    return guarded(
        [&] { return json.plan_.add_deletion(condition, json.decoder_, json.memory()); });
}

cevent_place cevent_parser_set_fields(cevent_parser *parser, uint8_t delimiter,
                                      const uint32_t *fields, size_t count,
                                      bool has_header) noexcept {
    return guarded([=] {
        parser->text->set_fields(delimiter, fields, count, has_header);
        return CEVENT_PLACE_OK;
    });
}

size_t cevent_parser_parse(cevent_parser *parser, const uint8_t *chunk, size_t length, bool is_last,
                           cevent_event *events, size_t capacity, size_t *consumed) noexcept {
    return parser->stream().take({chunk, length}, is_last, events, capacity, *consumed);
}

cevent_event cevent_parser_give_up(cevent_parser *parser, const uint8_t *chunk,
                                   size_t length) noexcept {
    return parser->stream().give_up({chunk, length});
}

uint64_t cevent_parser_lines(const cevent_parser *parser) noexcept {
    return const_cast<cevent_parser *>(parser)->stream().lines();
}
