/* SPDX-License-Identifier: Apache-2.0 */
/* What stands between the quotes of JSON strings, and JSON without its whitespace. */
#ifndef CEVENTPARSER_STRINGS_HPP
#define CEVENTPARSER_STRINGS_HPP

#include "memory.hpp"

namespace cevent {

/* @return the first escape that JSON does not have, or NULL. Half of a surrogate pair is one that
   JSON has, although it means no character. */
const uint8_t *bad_escape(text content) noexcept;

/* RFC 8259, section 6. A number that only passes through may be of any size. */
bool is_number(text token) noexcept;

class string_decoder {
public:
    string_decoder() noexcept;

    /* Decodes the content of a string into the arena, without keeping it there.
       @return CEVENT_ERROR_NONE, or CEVENT_ERROR_SURROGATE, or CEVENT_ERROR_MEMORY */
    cevent_error decode(text content, arena &memory, text &decoded) noexcept;

private:
    simdjson::ondemand::parser json_;
};

/* Appends a string with its quotes to `to`, each character in its one shortest form. It is never
   longer than the string that it was decoded from. @return behind it */
uint8_t *write_string(text decoded, uint8_t *to) noexcept;

/* Puts JSON without the whitespace between its tokens into the arena, and keeps it there. */
cevent_error minify(text json, arena &memory, text &small) noexcept;

} // namespace cevent

#endif /* CEVENTPARSER_STRINGS_HPP */
