/* SPDX-License-Identifier: Apache-2.0 */
#include "plan.hpp"

namespace cevent {

struct plan::work {
    const record &of;
    string_decoder &decoder;
    arena &memory;
    cevent_event &event;
    const uint8_t *&place;

    const found &at(int slot) const noexcept { return of.walk[slot]; }
    text bytes(const found &what) const noexcept {
        return {of.value.begin + what.begin, what.length};
    }
    cevent_error wrong(cevent_error error, const found &what) noexcept {
        place = of.value.begin + what.begin;
        return error;
    }

    // The first that leads to something other than null; else the last.
    const found &choose(const choice &slots) const noexcept {
        for (int slot : slots) {
            if (at(slot).type > kind::null) {
                return at(slot);
            }
        }
        return at(slots.back());
    }

    // The text of a string. Without escapes it is in the input; otherwise it is in the arena, not
    // kept.
    cevent_error read_string(const found &what, text &content) noexcept {
        content = {of.value.begin + what.begin + 1, what.length - 2};
        if (!content.contains('\\')) {
            return CEVENT_ERROR_NONE;
        }
        const cevent_error error = decoder.decode(content, memory, content);
        return error ? wrong(error, what) : CEVENT_ERROR_NONE;
    }

    // JSON without whitespace.
    cevent_error read_json(const found &what, text &json) noexcept {
        json = bytes(what);
        return what.type < kind::object ? CEVENT_ERROR_NONE : minify(json, memory, json);
    }
};

namespace {

uint8_t *write_part(text part, kind type, uint8_t *to) noexcept {
    if (type == kind::string) {
        return write_string(part, to);
    }
    if (type <= kind::null) {
        part = {reinterpret_cast<const uint8_t *>("null"), 4};
    }
    std::memcpy(to, part.begin, part.length);
    return to + part.length;
}

} // namespace

plan::plan(cevent_format format) : format_(format) {
    static const char *const key = "/key", *const value = "/value", *const revision = "/revision";
    string_decoder decoder;
    arena memory;

    if (format == CEVENT_FORMAT_EVENTS) {
        add_key(&key, 1, false);
        set_value(&value, 1);
        set_revision(&revision, 1);
        add_deletion("/value=null", decoder, memory);
        add_deletion("/type=\"deleted\"", decoder, memory);
        status_ = pointers_.add("/status");
        restart_ = pointers_.add("/restart");
        overflow_ = pointers_.add("/overflow");
    }
}

bool plan::add_pointers(const char *const *pointers, size_t count, choice &slots) {
    choice added;

    for (size_t i = 0; i < count; i++) {
        added.push_back(pointers_.add(pointers[i]));
        if (added.back() == no_slot) {
            return false;
        }
    }
    slots = std::move(added);
    return true;
}

cevent_place plan::add_key(const char *const *pointers, size_t count, bool is_optional) {
    key_part part = {{}, is_optional};

    if (!add_pointers(pointers, count, part.slots)) {
        return CEVENT_PLACE_NO_POINTER;
    }
    key_.push_back(std::move(part));
    parts_.resize(key_.size());
    return CEVENT_PLACE_OK;
}

cevent_place plan::set_value(const char *const *pointers, size_t count) {
    return add_pointers(pointers, count, value_) ? CEVENT_PLACE_OK : CEVENT_PLACE_NO_POINTER;
}

cevent_place plan::set_revision(const char *const *pointers, size_t count) {
    return add_pointers(pointers, count, revision_) ? CEVENT_PLACE_OK : CEVENT_PLACE_NO_POINTER;
}

namespace {

// Reads JSON that stands alone, if that is what it is.
bool read_operand(std::string_view json, string_decoder &decoder, arena &memory, condition &to) {
    const std::string padded = std::string(json) + '\n' + std::string(CEVENT_PADDING, ' ');
    const auto *begin = reinterpret_cast<const uint8_t *>(padded.data());
    const pointer_tree none;
    token_index tokens;
    value_walk walk(none, decoder, memory);
    size_t at = 0;
    text content;

    if (tokens.build(begin, json.size() + 1) != CEVENT_ERROR_NONE || tokens.count() == 0) {
        return false;
    }
    walk.start();
    if (walk.run(tokens, at, tokens[0]) != value_walk::outcome::done || at != tokens.count()) {
        return false;
    }
    to.type = walk.type();
    content = {tokens[0], walk.length()};
    const cevent_error error =
        to.type == kind::string
            ? decoder.decode({content.begin + 1, content.length - 2}, memory, content)
            : minify(content, memory, content);
    to.operand.assign(reinterpret_cast<const char *>(content.begin), content.length);
    return error == CEVENT_ERROR_NONE;
}

} // namespace

// The pointer may have equals signs in it. The first one that JSON follows ends the pointer.
cevent_place plan::add_deletion(const char *given, string_decoder &decoder, arena &memory) {
    const std::string_view text = given;
    condition added = {no_slot, false, kind::missing, {}};
    size_t equals = text.find('=');

    while (equals != text.npos && !read_operand(text.substr(equals + 1), decoder, memory, added)) {
        equals = text.find('=', equals + 1);
    }
    added.compares = equals != text.npos;
    if (!added.compares && text.find('=') != text.npos) {
        return CEVENT_PLACE_NO_JSON;
    }
    added.slot = pointers_.add(text.substr(0, equals));
    if (added.slot == no_slot) {
        return CEVENT_PLACE_NO_POINTER;
    }
    deletions_.push_back(std::move(added));
    return CEVENT_PLACE_OK;
}

cevent_error plan::judge(const record &of, string_decoder &decoder, arena &memory,
                         cevent_event &event, const uint8_t *&place) noexcept {
    work work = {of, decoder, memory, event, place};

    place = of.value.begin;
    return is_own() ? judge_event(work) : judge_update(work);
}

cevent_error plan::judge_event(work &work) noexcept {
    if (work.of.walk.type() != kind::object) {
        return work.of.walk.type() == kind::array ? CEVENT_ERROR_ARRAY : CEVENT_ERROR_NOT_OBJECT;
    }
    const found &key = work.at(key_[0].slots[0]);
    const bool is_update = key.type != kind::missing;
    const bool is_status = work.at(status_).type != kind::missing;
    const bool is_restart = work.at(restart_).type != kind::missing;

    if (is_update + is_status + is_restart > 1) {
        return CEVENT_ERROR_MIXED;
    }
    if (!is_update && !is_status && !is_restart) {
        const bool is_overflow = work.at(overflow_).type != kind::missing &&
                                 work.bytes(work.at(overflow_)).equals("true");
        work.event.kind = is_overflow ? CEVENT_KIND_OVERFLOW : CEVENT_KIND_ERROR;
        return is_overflow ? CEVENT_ERROR_NONE : CEVENT_ERROR_NO_KNOWN_FIELD;
    }
    if (is_status) {
        return judge_status(work);
    }
    if (is_restart) {
        work.event.kind = CEVENT_KIND_RESTART;
        return work.bytes(work.at(restart_)).equals("true")
                   ? CEVENT_ERROR_NONE
                   : work.wrong(CEVENT_ERROR_RESTART, work.at(restart_));
    }
    return key.type == kind::string ? judge_update(work) : work.wrong(CEVENT_ERROR_KEY_TYPE, key);
}

cevent_error plan::judge_status(work &work) const noexcept {
    const found &status = work.at(status_);
    text name;

    if (status.type == kind::string) {
        if (cevent_error error = work.read_string(status, name)) {
            return error == CEVENT_ERROR_SURROGATE ? CEVENT_ERROR_STATUS : error;
        }
    }
    work.event.kind = CEVENT_KIND_STATUS;
    if (name.equals("in-sync")) {
        work.event.status = CEVENT_STATUS_IN_SYNC;
    } else if (name.equals("resync")) {
        work.event.status = CEVENT_STATUS_RESYNC;
    } else if (name.equals("wait-for-ready")) {
        work.event.status = CEVENT_STATUS_WAIT_FOR_READY;
    } else {
        return work.wrong(CEVENT_ERROR_STATUS, status);
    }
    return CEVENT_ERROR_NONE;
}

bool plan::is_missing_part(work &work) const noexcept {
    for (size_t i = 0; i < key_.size(); i++) {
        if (!key_[i].is_optional && work.choose(key_[i].slots).type <= kind::null) {
            work.event.kind = CEVENT_KIND_MISSING;
            work.event.part = static_cast<uint32_t>(i);
            return true;
        }
    }
    return false;
}

namespace {

void set_value_of(cevent_event &event, text value) noexcept {
    event.value = value.begin;
    event.value_length = static_cast<uint32_t>(value.length);
}

// A value that spans lines is written on one.
cevent_error on_one_line(arena &memory, text &value) noexcept {
    return value.contains('\n') ? minify(value, memory, value) : CEVENT_ERROR_NONE;
}

} // namespace

// The whole line: of a value that spans lines only the value.
cevent_error plan::set_line(work &work) const noexcept {
    text line = work.of.value;

    if (!line.contains('\n')) {
        line = work.of.line;
    } else if (cevent_error error = minify(line, work.memory, line)) {
        return error;
    }
    set_value_of(work.event, line);
    return CEVENT_ERROR_NONE;
}

cevent_error plan::judge_update(work &work) noexcept {
    cevent_event &event = work.event;
    text key;
    bool deletes = false;

    if (is_missing_part(work)) {
        return set_line(work);
    }
    if (cevent_error error = make_key(work, key)) {
        return error;
    }
    event.key = key.begin;
    event.key_length = static_cast<uint32_t>(key.length);
    if (cevent_error error = is_deletion(work, deletes)) {
        return error;
    }
    if (cevent_error error = read_revision(work)) {
        return error;
    }
    event.kind = deletes ? CEVENT_KIND_DELETION : CEVENT_KIND_UPDATE;
    return value_.empty() ? set_line(work) : set_value(work, deletes);
}

cevent_error plan::set_value(work &work, bool deletes) const noexcept {
    const found &chosen = work.choose(value_);
    text value = work.bytes(chosen);

    if (deletes) {
        return CEVENT_ERROR_NONE;
    }
    if (chosen.type == kind::missing) {
        return CEVENT_ERROR_NO_VALUE;
    }
    if (cevent_error error = on_one_line(work.memory, value)) {
        return error;
    }
    set_value_of(work.event, value);
    return CEVENT_ERROR_NONE;
}

// ---- The key ----

// The texts of strings, decoded, and other JSON without whitespace.
cevent_error plan::read_parts(work &work) noexcept {
    for (size_t i = 0; i < key_.size(); i++) {
        const found &part = work.choose(key_[i].slots);
        if (part.type <= kind::null) {
            parts_[i] = {nullptr, 0};
            continue;
        }
        text &to = parts_[i];
        if (part.type != kind::string) {
            if (cevent_error error = work.read_json(part, to)) {
                return error;
            }
            continue;
        }
        if (cevent_error error = work.read_string(part, to)) {
            return error;
        }
        work.memory.keep_if_inside(to.begin, to.length);
    }
    return CEVENT_ERROR_NONE;
}

// Room for the parts as an array, and for the mark in front.
size_t plan::room_for_key() const noexcept {
    constexpr size_t longest_escape = 6;
    size_t room = 1 + 2;

    for (const text &part : parts_) {
        room += longest_escape * part.length + sizeof "\"\"null,";
    }
    return room;
}

// A string alone is its text. Everything else is JSON behind a mark.
cevent_error plan::make_key(work &work, text &key) noexcept {
    if (cevent_error error = read_parts(work)) {
        return error;
    }
    const bool is_array = key_.size() != 1;
    key = parts_[0];
    if (is_array || work.choose(key_[0].slots).type != kind::string) {
        uint8_t *const begin = work.memory.room(room_for_key());
        if (begin == nullptr) {
            return CEVENT_ERROR_MEMORY;
        }
        uint8_t *to = begin;
        *to++ = CEVENT_KEY_IS_JSON;
        for (size_t i = 0; i < key_.size(); i++) {
            if (is_array) {
                *to++ = i == 0 ? '[' : ',';
            }
            to = write_part(parts_[i], work.choose(key_[i].slots).type, to);
        }
        if (is_array) {
            *to++ = ']';
        }
        key = {begin, static_cast<size_t>(to - begin)};
        work.memory.keep(key.length);
    }
    return key.length > CEVENT_MAX_KEY_LENGTH
               ? work.wrong(CEVENT_ERROR_KEY_LENGTH, work.choose(key_[0].slots))
               : CEVENT_ERROR_NONE;
}

// ---- Revision and deletion ----

namespace {

bool read_digits(text digits, uint64_t &number) noexcept {
    number = 0;
    for (const uint8_t *at = digits.begin; at != digits.end(); at++) {
        const unsigned digit = *at - '0';
        if (digit > 9 || number > (UINT64_MAX - digit) / 10) {
            return false;
        }
        number = number * 10 + digit;
    }
    return digits.length > 0;
}

} // namespace

cevent_error plan::read_revision(work &work) const noexcept {
    if (revision_.empty()) {
        return CEVENT_ERROR_NONE;
    }
    const found &revision = work.choose(revision_);
    const bool is_string = revision.type == kind::string;
    text digits = work.bytes(revision);

    if (revision.type == kind::missing || (revision.type == kind::null && !is_own())) {
        return CEVENT_ERROR_NONE;
    }
    if (is_string && !is_own()) {
        digits = {digits.begin + 1, digits.length - 2};
    }
    return read_digits(digits, work.event.revision) ? CEVENT_ERROR_NONE
                                                    : work.wrong(CEVENT_ERROR_REVISION, revision);
}

cevent_error plan::holds(work &work, const condition &of, bool &result) const noexcept {
    const found &what = work.at(of.slot);
    text operand;

    result = false;
    if (what.type == kind::missing) {
        return CEVENT_ERROR_NONE;
    }
    if (!of.compares) {
        result = what.type != kind::null && !work.bytes(what).equals("false");
        return CEVENT_ERROR_NONE;
    }
    if (what.type != of.type) {
        return CEVENT_ERROR_NONE;
    }
    const cevent_error error =
        what.type == kind::string ? work.read_string(what, operand) : work.read_json(what, operand);
    result =
        error == CEVENT_ERROR_NONE &&
        operand.equals({reinterpret_cast<const uint8_t *>(of.operand.data()), of.operand.size()});
    // Half a surrogate pair equals nothing.
    return error == CEVENT_ERROR_SURROGATE ? CEVENT_ERROR_NONE : error;
}

cevent_error plan::is_deletion(work &work, bool &deletes) const noexcept {
    for (const condition &condition : deletions_) {
        if (cevent_error error = holds(work, condition, deletes)) {
            return error;
        }
        if (deletes) {
            break;
        }
    }
    return CEVENT_ERROR_NONE;
}

} // namespace cevent
