/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser's target: bytes are lines of JSON, and every event is compared with what a second
 * parser, nlohmann's, finds in the line and what CEventParser.h makes of that. Besides, the same
 * lines must give the same events wherever they lie, whatever is behind them, however many are
 * asked for at once, and one by one.
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
using std::string_view;

constexpr size_t max_line_length = 3000; // Room for more levels than are allowed.

#define CHECK(condition) check((condition), __LINE__, #condition)

string_view line_in_work;

void
check(bool ok, int line, const char *text)
{
    if (!ok) {
        std::fprintf(stderr, "fuzz_parser.cpp:%d: %s\n  in %.*s\n", line, text,
                     static_cast<int>(line_in_work.size()), line_in_work.data());
        std::abort();
    }
}

// An event, with its bytes.
struct event {
    cevent_kind kind = CEVENT_KIND_ERROR;
    int detail = 0; // The status, or the error.
    uint64_t line = 0;
    uint64_t revision = 0;
    std::string key;
    std::string value;

    bool operator==(const event &other) const
    {
        return kind == other.kind && detail == other.detail && line == other.line &&
               revision == other.revision && key == other.key && value == other.value;
    }
};

// ---- The parser under test ----

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

struct parser_deleter {
    void operator()(cevent_parser *parser) const { cevent_parser_destroy(parser); }
};

using parser_pointer = std::unique_ptr<cevent_parser, parser_deleter>;

event
copy(const cevent_event &from, const uint8_t *chunk, size_t length)
{
    event to;
    to.kind = from.kind;
    to.detail = from.kind == CEVENT_KIND_ERROR ? static_cast<int>(from.error)
                                               : static_cast<int>(from.status);
    to.line = from.line;
    to.revision = from.revision;
    if (from.key != nullptr) {
        to.key.assign(reinterpret_cast<const char *>(from.key), from.key_length);
    }
    if (from.value != nullptr) {
        CHECK(from.value >= chunk && from.value + from.value_length <= chunk + length);
        to.value.assign(reinterpret_cast<const char *>(from.value), from.value_length);
    }
    CHECK((from.key != nullptr) ==
          (from.kind == CEVENT_KIND_UPDATE || from.kind == CEVENT_KIND_DELETION));
    CHECK((from.value != nullptr) == (from.kind == CEVENT_KIND_UPDATE));
    CHECK(cevent_error_message(from.kind == CEVENT_KIND_ERROR ? from.error
                                                              : CEVENT_ERROR_NONE)[0] != '\0');
    return to;
}

// All complete lines of a chunk that lies in `memory`, which has the padding behind it.
std::vector<event>
parse(cevent_parser *parser, const uint8_t *memory, size_t length, size_t capacity)
{
    std::vector<cevent_event> events(capacity);
    std::vector<event> all;
    size_t at = 0;
    size_t count;

    do {
        size_t consumed = 0;
        count = cevent_parser_parse(parser, memory + at, length - at, events.data(), capacity,
                                    &consumed);
        CHECK(count <= capacity && consumed <= length - at);
        CHECK(consumed == 0 || memory[at + consumed - 1] == '\n');
        for (size_t i = 0; i < count; i++) {
            all.push_back(copy(events[i], memory + at, consumed));
        }
        at += consumed;
    } while (count == capacity);
    CHECK(std::memchr(memory + at, '\n', length - at) == nullptr);
    return all;
}

std::vector<event>
parse_anew(const uint8_t *memory, size_t length, size_t capacity)
{
    const parser_pointer parser(cevent_parser_create(max_line_length));
    std::vector<event> events = parse(parser.get(), memory, length, capacity);

    CHECK(cevent_parser_lines(parser.get()) ==
          static_cast<uint64_t>(std::count(memory, memory + length, static_cast<uint8_t>('\n'))));
    return events;
}

// ---- The second parser ----

// What a line holds, by nlohmann's, which calls the functions with lower-case names.
class reading {
public:
    enum type { null_type, boolean_type, revision_type, number_type, string_type, container_type };

    struct field {
        std::string name;
        type kind;
        std::string text; // Of a scalar.
        size_t begin;     // Its value in the tokens.
        size_t end;
    };

    explicit reading(string_view line)
    {
        // It takes a NUL for the end, and passes over a byte order mark.
        is_json = line.find('\0') == line.npos && line.substr(0, 3) != "\xEF\xBB\xBF" &&
                  json::sax_parse(line.begin(), line.end(), this);
        is_object = !line.empty() && line[0] == '{';
    }

    bool is_json = false;
    bool is_object = false;
    bool is_unknown = false; // A number that nlohmann's cannot hold: it reads no further.
    size_t deepest = 0;
    std::vector<field> fields; // Of the outermost object.
    std::string tokens;        // Everything, in order.

    bool null() { return add(null_type, ""); }
    bool boolean(bool value) { return add(boolean_type, value ? "true" : "false"); }
    bool number_integer(int64_t value) { return add(number_type, std::to_string(value)); }
    bool number_unsigned(uint64_t value) { return add(revision_type, std::to_string(value)); }
    bool number_float(double, const std::string &text) { return add(number_type, text); }
    bool string(const std::string &value) { return add(string_type, value); }
    bool binary(const json::binary_t &) { return false; }
    bool start_object(size_t) { return enter('{'); }
    bool start_array(size_t) { return enter('['); }
    bool end_object() { return leave('}'); }
    bool end_array() { return leave(']'); }
    bool key(const std::string &name)
    {
        name_ = name;
        note('k', name);
        return true;
    }
    bool parse_error(size_t, const std::string &, const nlohmann::detail::exception &error)
    {
        is_unknown = error.id == 406;
        return false;
    }

private:
    void note(char kind, const std::string &text)
    {
        tokens += kind + std::to_string(text.size()) + ":" + text;
    }

    void begin(type kind, const std::string &text)
    {
        if (depth_ == 1) {
            fields.push_back({name_, kind, text, tokens.size(), 0});
        }
    }
    void end()
    {
        if (depth_ == 1) {
            fields.back().end = tokens.size();
        }
    }
    bool add(type kind, const std::string &text)
    {
        begin(kind, text);
        note(static_cast<char>('0' + kind), text);
        end();
        return true;
    }
    bool enter(char bracket)
    {
        begin(container_type, "");
        note(bracket, "");
        deepest = std::max(deepest, ++depth_);
        return true;
    }
    bool leave(char bracket)
    {
        depth_--;
        note(bracket, "");
        end();
        return true;
    }

    size_t depth_ = 0;
    std::string name_;
};

// ---- What CEventParser.h makes of a line that is JSON ----

cevent_error
judge_status(const reading::field &field, event &wanted)
{
    static const char *const names[] = {"wait-for-ready", "resync", "in-sync"};

    for (int status = 0; status < 3; status++) {
        if (field.kind == reading::string_type && field.text == names[status]) {
            wanted.detail = status;
            return CEVENT_ERROR_NONE;
        }
    }
    return CEVENT_ERROR_STATUS;
}

cevent_error
judge_field(const reading::field &field, event &wanted)
{
    if (field.name == "key") {
        wanted.key = field.text;
        return field.kind != reading::string_type          ? CEVENT_ERROR_KEY_TYPE
               : field.text.size() > CEVENT_MAX_KEY_LENGTH ? CEVENT_ERROR_KEY_LENGTH
                                                           : CEVENT_ERROR_NONE;
    }
    if (field.name == "revision") {
        if (field.kind != reading::revision_type) {
            return CEVENT_ERROR_REVISION;
        }
        wanted.revision = std::strtoull(field.text.c_str(), nullptr, 10);
        return CEVENT_ERROR_NONE;
    }
    if (field.name == "status") {
        return judge_status(field, wanted);
    }
    if (field.name == "restart") {
        return field.kind == reading::boolean_type && field.text == "true" ? CEVENT_ERROR_NONE
                                                                           : CEVENT_ERROR_RESTART;
    }
    return CEVENT_ERROR_NONE;
}

struct known_fields {
    size_t key = 0, value = 0, revision = 0, status = 0, restart = 0;
    bool value_is_null = false;

    // Counts the field; what is wrong if it comes a second time.
    cevent_error count(const reading::field &field)
    {
        if (field.name == "key") {
            return key++ ? CEVENT_ERROR_DUPLICATE_KEY : CEVENT_ERROR_NONE;
        }
        if (field.name == "value") {
            value_is_null |= field.kind == reading::null_type;
            return value++ ? CEVENT_ERROR_DUPLICATE_VALUE : CEVENT_ERROR_NONE;
        }
        if (field.name == "revision") {
            return revision++ ? CEVENT_ERROR_DUPLICATE_REVISION : CEVENT_ERROR_NONE;
        }
        if (field.name == "status") {
            return status++ ? CEVENT_ERROR_DUPLICATE_STATUS : CEVENT_ERROR_NONE;
        }
        if (field.name == "restart") {
            return restart++ ? CEVENT_ERROR_DUPLICATE_RESTART : CEVENT_ERROR_NONE;
        }
        return CEVENT_ERROR_NONE;
    }
};

// The first thing that is wrong with one field; else what is wrong with all of them together.
cevent_error
judge(const reading &read, event &wanted)
{
    known_fields seen;

    for (const reading::field &field : read.fields) {
        cevent_error error = seen.count(field);
        if (error == CEVENT_ERROR_NONE) {
            error = judge_field(field, wanted);
        }
        if (error != CEVENT_ERROR_NONE) {
            return error;
        }
    }
    if (seen.key + seen.status + seen.restart != 1) {
        return seen.key + seen.status + seen.restart == 0 ? CEVENT_ERROR_NO_KNOWN_FIELD
                                                          : CEVENT_ERROR_MIXED;
    }
    if (seen.key == 0) {
        wanted.kind = seen.status ? CEVENT_KIND_STATUS : CEVENT_KIND_RESTART;
        return seen.value + seen.revision > 0 ? CEVENT_ERROR_STRAY_FIELD : CEVENT_ERROR_NONE;
    }
    wanted.kind = seen.value_is_null ? CEVENT_KIND_DELETION : CEVENT_KIND_UPDATE;
    return seen.value == 0 ? CEVENT_ERROR_NO_VALUE : CEVENT_ERROR_NONE;
}

// The value as it stands in the line: the tokens of the line's value, and nothing around them.
void
check_value(const reading &read, const std::string &value)
{
    const reading alone(value);

    CHECK(alone.is_json && std::strchr(" \t\r\n", value.front()) == nullptr &&
          std::strchr(" \t\r\n", value.back()) == nullptr);
    for (const reading::field &field : read.fields) {
        CHECK(field.name != "value" ||
              read.tokens.substr(field.begin, field.end - field.begin) == alone.tokens);
    }
}

bool
is_about_json(int error)
{
    return (error >= CEVENT_ERROR_SYNTAX && error <= CEVENT_ERROR_NOT_OBJECT) ||
           error == CEVENT_ERROR_DEPTH;
}

// `line` without the whitespace around it.
void
check_event(string_view line, const event &got)
{
    const reading read(line);
    event wanted;
    cevent_error error;

    if (line.size() > max_line_length) {
        CHECK(got.kind == CEVENT_KIND_ERROR && got.detail == CEVENT_ERROR_LINE_LENGTH);
        return;
    }
    if (read.is_unknown) {
        return;
    }
    if (!read.is_json) {
        CHECK(got.kind == CEVENT_KIND_ERROR && is_about_json(got.detail));
        return;
    }
    error = !read.is_object                   ? CEVENT_ERROR_NOT_OBJECT
            : read.deepest > CEVENT_MAX_DEPTH ? CEVENT_ERROR_DEPTH
                                              : judge(read, wanted);
    if (error != CEVENT_ERROR_NONE) {
        CHECK(got.kind == CEVENT_KIND_ERROR);
        CHECK(got.detail == error);
        return;
    }
    CHECK(got.kind == wanted.kind && got.detail == wanted.detail);
    CHECK(got.key == wanted.key && got.revision == wanted.revision);
    if (got.kind == CEVENT_KIND_UPDATE) {
        check_value(read, got.value);
    }
}

// ---- One input ----

string_view
trimmed(string_view line, uint64_t number)
{
    if (number == 1 && line.substr(0, 3) == "\xEF\xBB\xBF") {
        line.remove_prefix(3);
    }
    while (!line.empty() && std::strchr(" \t\r\n", line.front()) != nullptr &&
           line.front() != '\0') {
        line.remove_prefix(1);
    }
    while (!line.empty() && std::strchr(" \t\r\n", line.back()) != nullptr && line.back() != '\0') {
        line.remove_suffix(1);
    }
    return line;
}

// A line as a chunk of its own gives the same event or, if it is blank, none.
void
check_alone(cevent_parser *parser, string_view line, const std::vector<event> &together, size_t &at)
{
    std::string memory(line);

    memory += '\n';
    memory.append(CEVENT_PADDING, '\xff');
    const auto alone =
        parse(parser, reinterpret_cast<const uint8_t *>(memory.data()), line.size() + 1, 2);
    const string_view inside = trimmed(line, cevent_parser_lines(parser));
    CHECK(alone.size() == (inside.empty() ? 0U : 1U));
    if (!alone.empty()) {
        CHECK(at < together.size() && alone[0] == together[at]);
        check_event(inside, alone[0]);
        at++;
    }
}

void
check_lines(string_view text, const std::vector<event> &events)
{
    const parser_pointer parser(cevent_parser_create(max_line_length));
    size_t at = 0;

    while (!text.empty()) {
        const size_t end = text.find('\n');
        line_in_work = text.substr(0, end);
        check_alone(parser.get(), line_in_work, events, at);
        text.remove_prefix(end + 1);
    }
    CHECK(at == events.size());
}

} // namespace

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const guarded_memory guarded;
    const std::string text = std::string(reinterpret_cast<const char *>(bytes), length) + "\n";
    // Of exactly the size that the parser may read.
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[text.size() + CEVENT_PADDING]);
    uint8_t *const last = guarded.last(text.size() + CEVENT_PADDING);

    line_in_work = text;
    std::memcpy(exact.get(), text.data(), text.size());
    std::memset(exact.get() + text.size(), 0, CEVENT_PADDING);
    const std::vector<event> events = parse_anew(exact.get(), text.size(), 64);

    std::memcpy(last, text.data(), text.size());
    std::memset(last + text.size(), length % 2 ? '"' : '}', CEVENT_PADDING);
    CHECK(parse_anew(last, text.size(), length % 3 + 1) == events);

    check_lines(text, events);
    return 0;
}
