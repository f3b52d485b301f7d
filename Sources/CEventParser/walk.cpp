/* SPDX-License-Identifier: Apache-2.0 */
#include "walk.hpp"

namespace cevent {

namespace {

// The bytes of a token without the whitespace behind it.
text trimmed(const uint8_t *token, const uint8_t *next) noexcept {
    while (next > token && is_whitespace(next[-1])) {
        next--;
    }
    return {token, static_cast<size_t>(next - token)};
}

} // namespace

value_walk::value_walk(const pointer_tree &pointers, string_decoder &decoder, arena &memory)
    : pointers_(pointers), decoder_(decoder), memory_(memory) {
    stack_.reserve(CEVENT_MAX_DEPTH);
}

void value_walk::start() {
    found_.assign(pointers_.slots(), found());
    stack_.clear();
    expects_ = expects::value;
    node_ = pointer_tree::root;
    error_ = CEVENT_ERROR_NONE;
}

value_walk::outcome value_walk::run(const token_index &tokens, size_t &at,
                                    const uint8_t *base) noexcept {
    base_ = base;
    has_backslash_ = tokens.has_backslash();
    for (; at < tokens.count(); at++) {
        if (!step(tokens[at], tokens.next(at))) {
            return outcome::failed;
        }
        if (expects_ == expects::nothing) {
            at++;
            return outcome::done;
        }
    }
    return outcome::more;
}

bool value_walk::step(const uint8_t *token, const uint8_t *next) noexcept {
    switch (expects_) {
    case expects::member_end:
    case expects::element_end: return take_end(token);
    case expects::first_name:
        if (*token == '}') {
            close(token);
            return true;
        }
        return take_name(token, next);
    case expects::name: return take_name(token, next);
    case expects::colon:
        expects_ = expects::value;
        return *token == ':' || fail(CEVENT_ERROR_COLON, token);
    case expects::first_element:
        if (*token == ']') {
            close(token);
            return true;
        }
        return take_value(token, next);
    case expects::value: return take_value(token, next);
    case expects::nothing: break;
    }
    return false;
}

bool value_walk::take_value(const uint8_t *token, const uint8_t *next) noexcept {
    switch (*token) {
    case '{': return open(token, true);
    case '[': return open(token, false);
    case '"': return take_string(trimmed(token, next));
    case ',':
    case ':':
    case ']':
    case '}': return fail_value(token);
    default: return take_scalar(trimmed(token, next));
    }
}

bool value_walk::take_string(text token) noexcept {
    if (has_backslash_) {
        if (const uint8_t *bad = bad_escape({token.begin + 1, token.length - 2})) {
            return fail(CEVENT_ERROR_ESCAPE, bad);
        }
    }
    finish(kind::string, static_cast<size_t>(token.begin - base_), token.length);
    return true;
}

bool value_walk::take_scalar(text token) noexcept {
    const size_t begin = static_cast<size_t>(token.begin - base_);

    switch (*token.begin) {
    case 't':
    case 'f':
        if (!token.equals("true") && !token.equals("false")) {
            return fail(CEVENT_ERROR_LITERAL, token.begin);
        }
        finish(kind::boolean, begin, token.length);
        return true;
    case 'n':
        if (!token.equals("null")) {
            return fail(CEVENT_ERROR_LITERAL, token.begin);
        }
        finish(kind::null, begin, token.length);
        return true;
    default: break;
    }
    if (*token.begin != '-' && (*token.begin < '0' || *token.begin > '9')) {
        return fail_value(token.begin);
    }
    if (!is_number(token)) {
        return fail(CEVENT_ERROR_NUMBER, token.begin);
    }
    finish(kind::number, begin, token.length);
    return true;
}

bool value_walk::take_name(const uint8_t *token, const uint8_t *next) noexcept {
    if (*token != '"') {
        return fail(*token == '}'    ? CEVENT_ERROR_COMMA_BEFORE_BRACE
                    : *token == '\'' ? CEVENT_ERROR_SINGLE_QUOTE
                                     : CEVENT_ERROR_NAME,
                    token);
    }
    const int parent = stack_.back().node;
    expects_ = expects::colon;
    node_ = no_node;
    if (parent == no_node && !has_backslash_) {
        return true;
    }
    const text whole = trimmed(token, next);
    return match({whole.begin + 1, whole.length - 2});
}

// Finds the node of a member's name. A name that is no text matches nothing.
bool value_walk::match(text name) noexcept {
    const int parent = stack_.back().node;

    if (has_backslash_ && name.contains('\\')) {
        if (const uint8_t *bad = bad_escape(name)) {
            return fail(CEVENT_ERROR_ESCAPE, bad);
        }
        const cevent_error error =
            parent == no_node ? CEVENT_ERROR_SURROGATE : decoder_.decode(name, memory_, name);
        if (error != CEVENT_ERROR_NONE) {
            return error == CEVENT_ERROR_SURROGATE || fail(error, name.begin);
        }
    }
    if (parent != no_node) {
        enter(pointers_.member(parent, name));
    }
    return true;
}

// The value that comes next is at this node. Of duplicate members the last counts.
void value_walk::enter(int node) noexcept {
    node_ = node;
    if (node != no_node) {
        for (int slot : pointers_.node(node).slots_inside) {
            found_[slot].type = kind::missing;
        }
    }
}

bool value_walk::take_end(const uint8_t *token) noexcept {
    frame &top = stack_.back();

    if (*token == (top.is_object ? '}' : ']')) {
        close(token);
        return true;
    }
    if (*token != ',') {
        return fail(top.is_object ? CEVENT_ERROR_MEMBER_END : CEVENT_ERROR_ELEMENT_END, token);
    }
    if (top.is_object) {
        expects_ = expects::name;
        return true;
    }
    expects_ = expects::value;
    top.element++;
    node_ = top.node == no_node ? no_node : pointers_.element(top.node, top.element);
    return true;
}

bool value_walk::open(const uint8_t *token, bool is_object) noexcept {
    if (stack_.size() == CEVENT_MAX_DEPTH) {
        return fail(CEVENT_ERROR_DEPTH, token);
    }
    stack_.push_back({static_cast<size_t>(token - base_), 0, node_, is_object});
    if (is_object) {
        expects_ = expects::first_name;
        return true;
    }
    expects_ = expects::first_element;
    node_ = node_ == no_node ? no_node : pointers_.element(node_, 0);
    return true;
}

void value_walk::close(const uint8_t *token) noexcept {
    const frame closed = stack_.back();

    stack_.pop_back();
    node_ = closed.node;
    finish(closed.is_object ? kind::object : kind::array, closed.begin,
           static_cast<size_t>(token + 1 - base_) - closed.begin);
}

void value_walk::finish(kind type, size_t begin, size_t length) noexcept {
    if (node_ != no_node && pointers_.node(node_).slot != no_slot) {
        found_[pointers_.node(node_).slot] = {begin, length, type};
    }
    if (!stack_.empty()) {
        expects_ = stack_.back().is_object ? expects::member_end : expects::element_end;
        return;
    }
    expects_ = expects::nothing;
    type_ = type;
    length_ = length;
}

bool value_walk::fail(cevent_error error, const uint8_t *place) noexcept {
    error_ = error;
    error_place_ = place;
    return false;
}

// There should be a value, and there is none. A closing bracket can only stand here behind a
// comma or a colon.
bool value_walk::fail_value(const uint8_t *token) noexcept {
    const bool is_in_array = !stack_.empty() && !stack_.back().is_object;

    if (*token == ']' && is_in_array) {
        return fail(CEVENT_ERROR_COMMA_BEFORE_BRACKET, token);
    }
    if (stack_.empty() && (*token == ']' || *token == '}')) {
        return fail(CEVENT_ERROR_STRAY_BRACKET, token);
    }
    if (stack_.empty() && *token == ',') {
        return fail(CEVENT_ERROR_COMMA_BETWEEN, token);
    }
    return fail(*token == '\'' ? CEVENT_ERROR_SINGLE_QUOTE : CEVENT_ERROR_VALUE, token);
}

} // namespace cevent
