/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser's target. Each input is read in every format, with pointers, conditions and fields
 * that words of the dictionary fit. What must hold:
 *
 *   - However the input is cut into chunks, however few events are asked for at once, and whatever
 *     is behind the chunk, the events are the same.
 *   - If every line is a JSON value of its own, as a second parser, nlohmann's, sees it, then each
 *     line gives the event that CEventParser.h makes of what that parser finds.
 *   - A line by itself gives an error, or events for values that together are the line.
 *   - The same values with a line break behind each token give the same events, except for
 *     whitespace in values.
 *   - A good value on a line of its own behind the input is read, whatever came before it.
 *   - Lines of text give what cutting them at each delimiter gives.
 *
 * Inputs are plain lines, so that they can be read, and the filter's own input can be a seed.
 */
#include "fuzz.h"

#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "CEventParser.h"

namespace {

using nlohmann::json;
using std::string;
using std::string_view;

constexpr size_t max_length = 3000; // Room for more levels than are allowed.

#define CHECK(condition) check((condition), __LINE__, #condition)

string_view input_in_work;

void
check(bool ok, int line, const char *text)
{
    if (!ok) {
        std::fprintf(stderr, "fuzz_parser.cpp:%d: %s\n  in %.*s\n", line, text,
                     static_cast<int>(input_in_work.size()), input_in_work.data());
        std::abort();
    }
}

// ---- The formats that each input is read in ----

const uint8_t delimiter = ',';

struct format {
    cevent_format shape;
    std::vector<const char *> key; // Pointers, each a part; the last is optional if there are two.
    const char *value;
    const char *revision;
    std::vector<const char *> deletions;
    std::vector<uint32_t> fields;
};

const std::vector<format> formats = {
    {CEVENT_FORMAT_EVENTS, {}, nullptr, nullptr, {}, {}},
    {CEVENT_FORMAT_JSON, {"/key"}, nullptr, "/revision", {"/value=null", "/type=\"deleted\""}, {}},
    {CEVENT_FORMAT_JSON, {"/key/0", "/value"}, "/value/key", "/key", {"/restart"}, {}},
    {CEVENT_FORMAT_JSON, {""}, nullptr, nullptr, {"=[]", "/0={\"\":1}"}, {}},
    {CEVENT_FORMAT_TEXT, {}, nullptr, nullptr, {}, {1}},
    {CEVENT_FORMAT_TEXT, {}, nullptr, nullptr, {}, {3, 1}},
};

const format &whole_values = formats[3];

struct parser_deleter {
    void operator()(cevent_parser *parser) const { cevent_parser_destroy(parser); }
};

using parser_pointer = std::unique_ptr<cevent_parser, parser_deleter>;

parser_pointer
make_parser(const format &of)
{
    parser_pointer parser(cevent_parser_create(of.shape, max_length));

    for (size_t i = 0; i < of.key.size(); i++) {
        CHECK(cevent_parser_add_key(parser.get(), &of.key[i], 1, i > 0) == CEVENT_PLACE_OK);
    }
    if (of.value != nullptr) {
        CHECK(cevent_parser_set_value(parser.get(), &of.value, 1) == CEVENT_PLACE_OK);
    }
    if (of.revision != nullptr) {
        CHECK(cevent_parser_set_revision(parser.get(), &of.revision, 1) == CEVENT_PLACE_OK);
    }
    for (const char *condition : of.deletions) {
        CHECK(cevent_parser_add_deletion(parser.get(), condition) == CEVENT_PLACE_OK);
    }
    if (!of.fields.empty()) {
        CHECK(cevent_parser_set_fields(parser.get(), delimiter, of.fields.data(), of.fields.size(),
                                       false) == CEVENT_PLACE_OK);
    }
    return parser;
}

// ---- The parser under test ----

// An event, with its bytes.
struct event {
    cevent_kind kind = CEVENT_KIND_ERROR;
    int detail = 0; // The status, the error, or the part that is missing.
    uint64_t line = 0;
    uint64_t first_line = 0;
    uint32_t column = 0;
    uint64_t revision = 0;
    string key;
    string value;

    bool operator==(const event &other) const
    {
        return kind == other.kind && detail == other.detail && line == other.line &&
               first_line == other.first_line && column == other.column &&
               revision == other.revision && key == other.key && value == other.value;
    }
};

// Memory that ends where nothing can be read: simdjson's own library is built without the
// sanitizer.
class guarded_memory {
public:
    guarded_memory()
    {
        void *const pages =
            mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) {
            std::abort();
        }
        end_ = static_cast<uint8_t *>(pages) + size;
        mprotect(end_, page, PROT_NONE);
    }

    uint8_t *last(size_t length) const
    {
        if (length > size) {
            std::abort();
        }
        return end_ - length;
    }

private:
    static constexpr size_t size = 2 << 20;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    uint8_t *end_;
};

string
bytes(const uint8_t *begin, uint32_t length)
{
    return begin == nullptr ? string() : string(reinterpret_cast<const char *>(begin), length);
}

event
copy(const cevent_event &from, bool is_text)
{
    event to;
    to.kind = from.kind;
    to.line = from.line;
    to.first_line = from.first_line;
    to.column = from.column;
    to.revision = from.revision;
    to.key = bytes(from.key, from.key_length);
    to.value = bytes(from.value, from.value_length);
    switch (from.kind) {
    case CEVENT_KIND_ERROR:
        to.detail = from.error;
        break;
    case CEVENT_KIND_STATUS:
        to.detail = from.status;
        break;
    default:
        to.detail = static_cast<int>(from.part);
    }
    CHECK((from.key != nullptr) ==
          (from.kind == CEVENT_KIND_UPDATE || from.kind == CEVENT_KIND_DELETION));
    CHECK(from.kind != CEVENT_KIND_UPDATE || from.value != nullptr);
    CHECK(is_text || to.key.empty() || static_cast<uint8_t>(to.key[0]) == CEVENT_KEY_IS_JSON ||
          json::accept(json(to.key).dump(-1, ' ', false, json::error_handler_t::strict)));
    CHECK(from.kind != CEVENT_KIND_ERROR || (from.line >= from.first_line && from.column > 0));
    CHECK(from.kind != CEVENT_KIND_SKIPPED || from.line > from.first_line);
    CHECK(to.value.find('\n') == string::npos || from.value == nullptr);
    return to;
}

// What comes to the parser, as a reader hands it over: what was not consumed stays in front.
class feeder {
public:
    explicit feeder(const format &of, size_t capacity)
        : parser_(make_parser(of)), room_(capacity), is_text_(of.shape == CEVENT_FORMAT_TEXT)
    {}

    std::vector<event> events;

    // Moves all to fresh memory, as a reader may.
    void take(string_view more, bool is_last)
    {
        size_t consumed = 0;
        rest_.append(more);
        uint8_t *const chunk = guarded_.last(rest_.size() + CEVENT_PADDING);
        std::memset(chunk + rest_.size(), rest_.size() % 2 ? '"' : '}', CEVENT_PADDING);
        std::memcpy(chunk, rest_.data(), rest_.size());
        for (;;) {
            size_t used = 0;
            const size_t count =
                cevent_parser_parse(parser_.get(), chunk + consumed, rest_.size() - consumed,
                                    is_last, room_.data(), room_.size(), &used);
            CHECK(count <= room_.size() && used <= rest_.size() - consumed);
            for (size_t i = 0; i < count; i++) {
                events.push_back(copy(room_[i], is_text_));
            }
            consumed += used;
            if (count == 0) {
                break;
            }
        }
        rest_.erase(0, consumed);
    }

    uint64_t lines() const { return cevent_parser_lines(parser_.get()); }
    bool is_done() const { return rest_.empty(); }

private:
    static const guarded_memory guarded_;
    parser_pointer parser_;
    std::vector<cevent_event> room_;
    const bool is_text_;
    string rest_;
};

const guarded_memory feeder::guarded_;

std::vector<event>
parse(const format &of, string_view text, size_t capacity, size_t chunk)
{
    feeder feeder(of, capacity);

    for (size_t at = 0; at < text.size(); at += chunk) {
        const string_view piece = text.substr(at, chunk);
        feeder.take(piece, at + piece.size() == text.size());
    }
    CHECK(feeder.is_done());
    CHECK(feeder.lines() == static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n')));
    return feeder.events;
}

// ---- What a value must come to, by nlohmann's parser ----

struct value {
    json document;
    string text;
};

// A value whose levels are counted, because nlohmann's does not bound them.
class depth_counter : public nlohmann::detail::json_sax_acceptor<json> {
public:
    size_t deepest = 0;
    // What nlohmann's cannot hold: a number, or half of a surrogate pair.
    bool is_unknown = false;

    bool parse_error(size_t, const std::string &, const nlohmann::detail::exception &error)
    {
        is_unknown = error.id == 406 || std::strstr(error.what(), "surrogate") != nullptr;
        return false;
    }
    bool start_object(size_t) { return enter(); }
    bool start_array(size_t) { return enter(); }
    bool end_object() { return leave(); }
    bool end_array() { return leave(); }

private:
    bool enter()
    {
        deepest = std::max(deepest, ++depth_);
        return true;
    }
    bool leave()
    {
        depth_--;
        return true;
    }
    size_t depth_ = 0;
};

// Whether the line is one value that both parsers accept. Nlohmann's decodes every string, and so
// it refuses what is half of a surrogate pair.
bool
read_value(string_view line, value &to)
{
    depth_counter counter;

    if (line.size() > max_length || line.find('\0') != line.npos ||
        line.substr(0, 3) == "\xEF\xBB\xBF" ||
        !json::sax_parse(line.begin(), line.end(), &counter) ||
        counter.deepest > CEVENT_MAX_DEPTH) {
        return false;
    }
    to.document = json::parse(line.begin(), line.end());
    to.text = line;
    return true;
}

const json *
find(const json &in, const char *pointer)
{
    const json *at = &in;
    string_view rest = pointer;

    while (!rest.empty()) {
        const size_t end = std::min(rest.find('/', 1), rest.size());
        const string name(rest.substr(1, end - 1));
        if (at->is_object() && at->contains(name)) {
            at = &(*at)[name];
        } else if (at->is_array() && name == "0" && !at->empty()) {
            at = &(*at)[0];
        } else {
            return nullptr;
        }
        rest.remove_prefix(end);
    }
    return at;
}

bool
is_there(const json *found)
{
    return found != nullptr && !found->is_null();
}

bool
holds(const json &document, string_view condition)
{
    const size_t equals = condition.find('=');
    const json *const found = find(document, string(condition.substr(0, equals)).c_str());

    if (equals == condition.npos) {
        return is_there(found) && *found != json(false);
    }
    return found != nullptr && *found == json::parse(condition.substr(equals + 1));
}

// The revision, or whether there is none that can be read.
bool
read_revision(const json *found, bool is_own, uint64_t &number)
{
    string digits;

    number = 0;
    if (found == nullptr || (found->is_null() && !is_own)) {
        return true;
    }
    if (found->is_number_unsigned()) {
        number = found->get<uint64_t>();
        return true;
    }
    if (is_own || !found->is_string()) {
        return false;
    }
    digits = found->get<string>();
    if (digits.empty() || digits.size() > 19 ||
        digits.find_first_not_of("0123456789") != string::npos) {
        return digits.size() > 19; // Perhaps: not decided here.
    }
    number = std::strtoull(digits.c_str(), nullptr, 10);
    return true;
}

// Whether a key says the same as JSON, whose numbers may be written in several ways.
void
check_key(const string &key, const json &wanted)
{
    if (wanted.is_string()) {
        CHECK(key == wanted.get<string>());
        return;
    }
    CHECK(static_cast<uint8_t>(key[0]) == CEVENT_KEY_IS_JSON);
    CHECK(json::parse(key.substr(1)) == wanted);
}

cevent_error
judge_own(const value &of, int &status)
{
    static const char *const names[] = {"wait-for-ready", "resync", "in-sync"};
    const json &object = of.document;
    const json *const state = find(object, "/status");

    status = -1;
    if (!object.is_object()) {
        return object.is_array() ? CEVENT_ERROR_ARRAY : CEVENT_ERROR_NOT_OBJECT;
    }
    const size_t count =
        object.contains("key") + object.contains("status") + object.contains("restart");
    if (count != 1) {
        return count > 1                                        ? CEVENT_ERROR_MIXED
               : object.value("overflow", json()) == json(true) ? CEVENT_ERROR_NONE
                                                                : CEVENT_ERROR_NO_KNOWN_FIELD;
    }
    if (object.contains("restart")) {
        return object["restart"] == json(true) ? CEVENT_ERROR_NONE : CEVENT_ERROR_RESTART;
    }
    if (state == nullptr) {
        return object["key"].is_string() ? CEVENT_ERROR_NONE : CEVENT_ERROR_KEY_TYPE;
    }
    for (int i = 0; i < 3; i++) {
        status = *state == json(names[i]) ? i : status;
    }
    return status < 0 ? CEVENT_ERROR_STATUS : CEVENT_ERROR_NONE;
}

json
wanted_key(const format &of, const json &document)
{
    json parts = json::array();

    for (const char *pointer : of.key) {
        const json *const part = find(document, pointer);
        parts.push_back(part == nullptr ? json() : *part);
    }
    return of.key.size() == 1 ? parts[0] : parts;
}

void
check_update(const format &of, const value &line, const event &got)
{
    uint64_t revision = 0;
    const bool is_own = of.shape == CEVENT_FORMAT_EVENTS;
    const json &document = line.document;
    const bool deletes =
        std::any_of(of.deletions.begin(), of.deletions.end(),
                    [&](const char *condition) { return holds(document, condition); });

    if (!is_there(find(document, of.key[0]))) {
        CHECK(got.kind == CEVENT_KIND_MISSING && got.detail == 0);
        return;
    }
    if (of.revision != nullptr && !read_revision(find(document, of.revision), is_own, revision)) {
        CHECK(got.kind == CEVENT_KIND_ERROR && got.detail == CEVENT_ERROR_REVISION);
        return;
    }
    if (got.kind == CEVENT_KIND_ERROR && got.detail == CEVENT_ERROR_REVISION) {
        return; // More digits than are looked at here.
    }
    const json *const wanted = of.value == nullptr ? &document : find(document, of.value);
    if (!deletes && wanted == nullptr) {
        CHECK(got.kind == CEVENT_KIND_ERROR && got.detail == CEVENT_ERROR_NO_VALUE);
        return;
    }
    CHECK(got.kind == (deletes ? CEVENT_KIND_DELETION : CEVENT_KIND_UPDATE));
    CHECK(got.revision == revision || revision == 0);
    check_key(got.key, wanted_key(of, document));
    if (!deletes) {
        CHECK(json::parse(got.value) == *wanted);
    }
}

// The line holds one value that both parsers accept.
void
check_line(const format &of, const value &line, const event &got)
{
    int status = -1;

    if (of.shape != CEVENT_FORMAT_EVENTS) {
        check_update(of, line, got);
        return;
    }
    if (cevent_error error = judge_own(line, status)) {
        CHECK(got.kind == CEVENT_KIND_ERROR && got.detail == error);
    } else if (status >= 0) {
        CHECK(got.kind == CEVENT_KIND_STATUS && got.detail == status);
    } else if (line.document.contains("restart")) {
        CHECK(got.kind == CEVENT_KIND_RESTART);
    } else if (!line.document.contains("key")) {
        CHECK(got.kind == CEVENT_KIND_OVERFLOW);
    } else {
        static const format own = {CEVENT_FORMAT_EVENTS,
                                   {"/key"},
                                   "/value",
                                   "/revision",
                                   {"/value=null", "/type=\"deleted\""},
                                   {}};
        check_update(own, line, got);
    }
}

// ---- The properties ----

string_view
trimmed(string_view line)
{
    const size_t begin = line.find_first_not_of(" \t\r");

    return begin == line.npos ? string_view()
                              : line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
}

// The values, one in each line; @return whether there are only such lines
bool
read_lines(string_view text, std::vector<value> &values)
{
    while (!text.empty()) {
        const size_t end = text.find('\n');
        const string_view line = trimmed(text.substr(0, end));
        text.remove_prefix(end + 1);
        if (!line.empty()) {
            values.emplace_back();
            if (!read_value(line, values.back())) {
                return false;
            }
        }
    }
    return true;
}

// JSON with each token outside strings followed by `gap`, and without other whitespace.
string
respaced(string_view text, const char *gap)
{
    string spaced;
    bool is_inside = false;

    for (size_t i = 0; i < text.size(); i++) {
        if (is_inside && text[i] == '\\') {
            spaced += text[i++];
        } else if (text[i] == '"') {
            is_inside = !is_inside;
        }
        if (is_inside || std::strchr(" \t\r\n", text[i]) == nullptr || text[i] == '\0') {
            spaced += text[i];
        }
        if (!is_inside && std::strchr("{}[],:", text[i]) != nullptr && text[i] != '\0') {
            spaced += gap;
        }
    }
    return spaced;
}

void
check_spread(const format &of, const std::vector<value> &values, const std::vector<event> &events)
{
    string spread;

    for (const value &value : values) {
        spread += respaced(value.text, "\n ") + "\n";
        if (respaced(value.text, "\n ").size() > max_length) {
            return; // It may be too long now.
        }
    }
    const std::vector<event> again = parse(of, spread, 8, spread.size() + 1);
    CHECK(again.size() == events.size());
    for (size_t i = 0; i < events.size(); i++) {
        CHECK(again[i].kind == events[i].kind && again[i].detail == events[i].detail);
        CHECK(again[i].key == events[i].key && again[i].revision == events[i].revision);
        CHECK(respaced(again[i].value, "") == respaced(events[i].value, ""));
    }
}

void
check_values(const format &of, string_view text, const std::vector<event> &events)
{
    std::vector<value> values;

    if (!read_lines(text, values)) {
        return;
    }
    CHECK(events.size() == values.size());
    for (size_t i = 0; i < values.size(); i++) {
        input_in_work = values[i].text;
        check_line(of, values[i], events[i]);
    }
    input_in_work = text;
    if (!values.empty()) {
        check_spread(of, values, events);
    }
}

bool
is_json(string_view text)
{
    depth_counter counter;
    const bool is_read = json::sax_parse(text.begin(), text.end(), &counter);

    return counter.is_unknown || (is_read && counter.deepest <= CEVENT_MAX_DEPTH);
}

// A line by itself: an error, or values that together are the line. The format has whole values.
void
check_alone(const format &of, string_view line)
{
    const string text = string(line) + "\n";
    string together;

    for (const event &event : parse(of, text, 64, text.size())) {
        if (event.kind == CEVENT_KIND_ERROR) {
            return;
        }
        CHECK(is_json(event.value));
        together += respaced(event.value, "");
    }
    CHECK(together == respaced(line.substr(line.substr(0, 3) == "\xEF\xBB\xBF" ? 3 : 0), ""));
}

void
check_lines(const format &of, string_view text)
{
    while (!text.empty()) {
        const size_t end = text.find('\n');
        input_in_work = text.substr(0, end);
        if (!trimmed(input_in_work).empty()) {
            check_alone(of, input_in_work);
        }
        text.remove_prefix(end + 1);
    }
}

bool
is_utf16(const std::vector<event> &events)
{
    return !events.empty() && events[0].kind == CEVENT_KIND_ERROR &&
           events[0].detail == CEVENT_ERROR_UTF16;
}

// Whatever came before, a good value is read.
void
check_recovery(const format &of, string_view text)
{
    const string more = string(text) + "{\"key\":[\"last\"],\"value\":{\"key\":1}}\n";
    const std::vector<event> events = parse(of, more, 4, more.size());

    CHECK(!events.empty());
    const event &last = events.back();
    CHECK(is_utf16(events) ||
          (of.shape == CEVENT_FORMAT_EVENTS
               ? last.kind == CEVENT_KIND_ERROR && last.detail == CEVENT_ERROR_KEY_TYPE
               : last.key.find("last") != string::npos || last.detail == CEVENT_ERROR_REVISION));
}

std::vector<string>
cut(string_view line)
{
    std::vector<string> fields(1);

    for (char byte : line) {
        if (byte == delimiter) {
            fields.emplace_back();
        } else {
            fields.back() += byte;
        }
    }
    return fields;
}

void
check_text_line(const format &of, string_view line, const event &got)
{
    const bool ends_in_return = !line.empty() && line.back() == '\r';
    const std::vector<string> fields = cut(line.substr(0, line.size() - ends_in_return));
    string key;

    if (line.size() > max_length) {
        CHECK(got.kind == CEVENT_KIND_ERROR && got.detail == CEVENT_ERROR_LENGTH);
        return;
    }
    CHECK(got.value == line);
    for (size_t i = 0; i < of.fields.size(); i++) {
        if (of.fields[i] > fields.size()) {
            CHECK(got.kind == CEVENT_KIND_MISSING && got.detail == static_cast<int>(i));
            return;
        }
        key += (i > 0 ? "," : "") + fields[of.fields[i] - 1];
    }
    CHECK(got.kind == CEVENT_KIND_UPDATE && got.key == key);
}

void
check_text(const format &of, string_view text, const std::vector<event> &events)
{
    size_t at = 0;

    if (is_utf16(events)) {
        return;
    }
    if (text.substr(0, 3) == "\xEF\xBB\xBF") {
        text.remove_prefix(3);
    }
    while (!text.empty()) {
        const size_t end = text.find('\n');
        const string_view line = text.substr(0, end);
        text.remove_prefix(end + 1);
        if (line.empty() || line == "\r") {
            continue;
        }
        CHECK(at < events.size());
        check_text_line(of, line, events[at++]);
    }
    CHECK(at == events.size());
}

} // namespace

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    const string text = string(reinterpret_cast<const char *>(bytes), length) + "\n";

    input_in_work = text;
    for (const format &format : formats) {
        const std::vector<event> events = parse(format, text, 64, text.size());
        CHECK(parse(format, text, length % 3 + 2, length % 61 + 1) == events);
        if (format.shape == CEVENT_FORMAT_TEXT) {
            check_text(format, text, events);
        } else {
            if (&format == &whole_values) {
                check_lines(format, text);
                input_in_work = text;
            }
            check_values(format, text, events);
            check_recovery(format, text);
        }
    }
    return 0;
}
