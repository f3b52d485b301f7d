// SPDX-License-Identifier: Apache-2.0
// Recorded traces (contract, section 7), run at both levels of the core, with the model beside it.
// Batches have at most 100 items.
//
//   test_traces FILE...     one trace per line
//
// The model runs too because the exhaustive test trusts it. Here it is compared with what was
// recorded from the original.

extern "C" {
#include "beside_model.h"
}

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <simdjson.h>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"

namespace {

constexpr size_t batch_size = 100;

// ----------------------------------------------------------------------------------------------------
// What traces are made of

struct Update {
    std::string key;
    std::optional<std::string> value; // None: a deletion.
};

// One call of the sink: a status, or a run of updates.
struct Item {
    std::string key;
    std::optional<std::string> value;
    std::string type;

    bool operator==(const Item &other) const
    {
        return key == other.key && value == other.value && type == other.type;
    }
};

struct Call {
    std::string status; // Empty: updates.
    std::vector<Item> items;

    bool operator==(const Call &other) const
    {
        return status == other.status && items == other.items;
    }
};

// What a step or flush came to: the calls, or none where the queue was empty.
using Calls = std::optional<std::vector<Call>>;

enum class Kind { updates, status, restart, step, flush };

struct Operation {
    Kind kind;
    std::vector<Update> updates;
    std::string status;
};

struct Trace {
    std::string name;
    std::vector<Operation> operations;
    std::vector<Calls> expected;
};

const char *const status_names[] = {"wait-for-ready", "resync", "in-sync"};
const char *const type_names[] = {"new", "updated", "deleted"};

cdedupe_status_t
status_named(const std::string &name)
{
    for (int status = CDEDUPE_STATUS_WAIT_FOR_DATASTORE; status <= CDEDUPE_STATUS_IN_SYNC;
         status++) {
        if (name == status_names[status]) {
            return static_cast<cdedupe_status_t>(status);
        }
    }
    std::fprintf(stderr, "no such status: %s\n", name.c_str());
    std::exit(2);
}

// ----------------------------------------------------------------------------------------------------
// Reading

namespace json = simdjson::dom;

std::string
text_of(json::element element)
{
    return std::string(std::string_view(element));
}

std::optional<std::string>
value_of(json::element element)
{
    if (element.is_null()) {
        return std::nullopt;
    }
    return text_of(element);
}

Operation
read_operation(json::array array)
{
    const std::string what = text_of(array.at(0));

    if (what == "updates") {
        Operation operation{Kind::updates, {}, ""};
        for (json::array update : json::array(array.at(1))) {
            operation.updates.push_back({text_of(update.at(0)), value_of(update.at(1))});
        }
        return operation;
    }
    if (what == "status") {
        return {Kind::status, {}, text_of(array.at(1))};
    }
    if (what == "restart") {
        return {Kind::restart, {}, ""};
    }
    if (what == "step" || what == "flush") {
        return {what == "step" ? Kind::step : Kind::flush, {}, ""};
    }
    std::fprintf(stderr, "no such operation: %s\n", what.c_str());
    std::exit(2);
}

Call
read_call(json::array array)
{
    Call call;

    if (text_of(array.at(0)) == "status") {
        call.status = text_of(array.at(1));
        return call;
    }
    for (json::array item : json::array(array.at(1))) {
        call.items.push_back({text_of(item.at(0)), value_of(item.at(1)), text_of(item.at(2))});
    }
    return call;
}

Calls
read_expected(json::element element)
{
    std::vector<Call> calls;

    if (element.is_string()) {
        return std::nullopt; // "empty"
    }
    for (json::array call : json::array(element)) {
        calls.push_back(read_call(call));
    }
    return calls;
}

Trace
read_trace(json::parser &parser, const std::string &line)
{
    json::element document = parser.parse(line);
    Trace trace;

    trace.name = text_of(document["name"]);
    for (json::array operation : json::array(document["ops"])) {
        trace.operations.push_back(read_operation(operation));
    }
    for (json::element expected : json::array(document["expect"])) {
        trace.expected.push_back(read_expected(expected));
    }
    return trace;
}

std::vector<Trace>
read_traces(const char *path)
{
    std::ifstream file(path);
    std::vector<Trace> traces;
    json::parser parser;
    std::string line;

    if (!file) {
        std::fprintf(stderr, "cannot read %s\n", path);
        std::exit(2);
    }
    while (std::getline(file, line)) {
        if (!line.empty()) {
            traces.push_back(read_trace(parser, line));
        }
    }
    return traces;
}

// ----------------------------------------------------------------------------------------------------
// What they are run on

// Appends one item of a batch: runs of updates are one call, a status is one.
void
append(std::vector<Call> &calls, bool first_of_batch, const char *status, Item item)
{
    if (status != nullptr) {
        calls.push_back({status, {}});
        return;
    }
    if (first_of_batch || !calls.back().status.empty()) {
        calls.push_back({"", {}});
    }
    calls.back().items.push_back(std::move(item));
}

// A buffer at one of the levels, with the model beside it, which must do the same. The ids of
// updates are places in a list of values.
class Pair {
public:
    explicit Pair(subject_level_t level)
    {
        const subject_options_t options = subject_defaults(level);

        CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
        CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
        subject.paranoid = false; // Every step is compared with the model, and validated.
        model_open(&model);
        model_claim(&model, CDEDUPE_CLAIM_SINGLE_BATCH);
        names_open(&names);
        current = this;
    }
    ~Pair()
    {
        subject_close(&subject);
        model_close(&model);
        names_close(&names);
    }
    Pair(const Pair &) = delete;
    Pair &operator=(const Pair &) = delete;

    void put(const std::vector<Update> &updates)
    {
        std::vector<subject_update_t> puts(updates.size() + 1);
        for (size_t index = 0; index < updates.size(); index++) {
            values.push_back(updates[index].value.value_or(""));
            puts[index].key = updates[index].key.data();
            puts[index].length = updates[index].key.size();
            puts[index].deletion = !updates[index].value;
            puts[index].id = updates[index].value ? values.size() : 0;
        }
        CHECK_EQ(subject_put(&subject, puts.data(), updates.size()), CDEDUPE_OK);
        for (size_t index = 0; index < updates.size(); index++) {
            uint64_t displaced = 0;
            const subject_update_t &put = puts[index];
            CHECK_EQ(put.outcome, model_put(&model, names_number(&names, put.key, put.length),
                                            put.deletion, put.id, &displaced));
        }
    }
    void put_status(cdedupe_status_t status)
    {
        CHECK_EQ(subject_status(&subject, status), model_status(&model, status));
    }
    void restart()
    {
        CHECK_EQ(subject_restart(&subject), model_restart(&model));
        if (++restarts % 2 == 0) {
            subject_collect(&subject, 7); // Every other time, so that both ways back are used.
        }
    }
    // Appends the calls of one batch; false: the queue was empty.
    bool step(std::vector<Call> &calls)
    {
        if (beside_take(&subject, &model, batch_size, number_of) != CDEDUPE_OK) {
            return false;
        }
        for (size_t index = 0; index < subject.count; index++) {
            const subject_item_t &item = subject.items[index];
            append(calls, index == 0,
                   item.kind == CDEDUPE_ITEM_STATUS ? status_names[item.status] : nullptr,
                   item_of(item));
        }
        return true;
    }
    void check() { beside_state(&subject, &model); }

private:
    static size_t number_of(const subject_item_t *item)
    {
        return names_number(&current->names, item->key, item->length);
    }
    Item item_of(const subject_item_t &item) const
    {
        if (item.kind == CDEDUPE_ITEM_STATUS) {
            return {};
        }
        return {std::string(item.key, item.length),
                item.id == 0 ? std::nullopt : std::optional<std::string>(values[item.id - 1]),
                type_names[item.kind]};
    }

    static Pair *current; // Of number_of(), which has no context.
    subject_t subject = {};
    model_t model = {};
    names_t names = {};
    std::vector<std::string> values;
    size_t restarts = 0;
};

Pair *Pair::current;

// ----------------------------------------------------------------------------------------------------
// Running and comparing

// The order among the deletions that an in-sync owes is free: on both sides, runs of them are
// sorted.
void
sort_deletions(std::vector<Call> &calls)
{
    for (Call &call : calls) {
        for (auto begin = call.items.begin(); begin != call.items.end();) {
            auto end = begin;
            while (end != call.items.end() && end->type == "deleted") {
                ++end;
            }
            std::sort(begin, end, [](const Item &a, const Item &b) { return a.key < b.key; });
            begin = end == begin ? begin + 1 : end;
        }
    }
}

std::string
text_of(const Calls &calls)
{
    std::string text;

    if (!calls) {
        return "empty";
    }
    for (const Call &call : *calls) {
        text += text.empty() ? "" : " | ";
        if (!call.status.empty()) {
            text += "<" + call.status + ">";
        }
        for (const Item &item : call.items) {
            text += item.type + " " + item.key + "=" + item.value.value_or("null") + " ";
        }
    }
    return text;
}

Calls
deliver(Pair &pair, Kind kind)
{
    std::vector<Call> calls;

    if (!pair.step(calls)) {
        return std::nullopt;
    }
    while (kind == Kind::flush && pair.step(calls)) {
    }
    return calls;
}

// False at the first difference.
bool
compare(const Trace &trace, size_t number, const char *target, Calls got)
{
    Calls wanted = number < trace.expected.size() ? trace.expected[number] : Calls();

    if (got) {
        sort_deletions(*got);
    }
    if (wanted) {
        sort_deletions(*wanted);
    }
    if (CHECK(got == wanted)) {
        return true;
    }
    std::printf("  trace %s, %s, step or flush %zu:\n  got    %s\n  wanted %s\n",
                trace.name.c_str(), target, number, text_of(got).c_str(), text_of(wanted).c_str());
    return false;
}

void
run(const Trace &trace, const char *name, Pair &pair)
{
    size_t number = 0;

    for (const Operation &operation : trace.operations) {
        switch (operation.kind) {
        case Kind::updates:
            pair.put(operation.updates);
            break;
        case Kind::status:
            pair.put_status(status_named(operation.status));
            break;
        case Kind::restart:
            pair.restart();
            break;
        case Kind::step:
        case Kind::flush:
            Calls calls = deliver(pair, operation.kind);
            if (!compare(trace, number++, name, std::move(calls))) {
                return; // All after it would differ as well.
            }
            break;
        }
        pair.check();
    }
    CHECK_EQ(number, trace.expected.size());
}

} // namespace

int
main(int argc, char **argv)
{
    size_t total = 0;

    for (int index = 1; index < argc; index++) {
        const std::vector<Trace> traces = read_traces(argv[index]);

        check_test = argv[index];
        for (const Trace &trace : traces) {
            Pair bytes(SUBJECT_BYTES);
            run(trace, "bytes", bytes);
            Pair handles(SUBJECT_HANDLES);
            run(trace, "handles", handles);
        }
        std::printf("%s: %zu traces at both levels, beside the model\n", argv[index],
                    traces.size());
        total += traces.size();
    }
    CHECK(total > 0); // No traces are no success.
    return check_finish();
}
