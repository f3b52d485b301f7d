/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CEVENTPARSER_ERRORS_HPP
#define CEVENTPARSER_ERRORS_HPP

#include "tokens.hpp"

namespace cevent {

/* @return the place in a line that the first stage of simdjson refuses, given what it says */
const uint8_t *bad_place(text line, cevent_error error) noexcept;

} // namespace cevent

#endif /* CEVENTPARSER_ERRORS_HPP */
