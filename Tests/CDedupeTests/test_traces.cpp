// SPDX-License-Identifier: Apache-2.0
// Recorded traces (contract, section 7), run on the buffer at the bytes level, on the buffer at the
// handle level, and on the model. Batches have at most 100 items.
//
//   test_traces FILE...     one trace per line
//
// The model runs too because the exhaustive test trusts it. Here it is compared with what was
// recorded from the original.

#include "CDedupe.h"
#include "model.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
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

class Target {
public:
    virtual ~Target() = default;
    virtual void put(const std::vector<Update> &updates) = 0;
    virtual void put_status(cdedupe_status_t status) = 0;
    virtual void restart() = 0;
    // Appends the calls of one batch; false: the queue was empty. `hints`: keys still to be
    // expected.
    virtual bool step(std::vector<Call> &calls, const std::vector<std::string> &hints) = 0;
    virtual void check() {}
};

class BytesTarget : public Target {
public:
    BytesTarget()
    {
        CHECK_EQ(cdedupe_bytes_create(nullptr, &buffer), CDEDUPE_OK);
        CHECK_EQ(cdedupe_bytes_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    }
    ~BytesTarget() override { cdedupe_bytes_destroy(buffer); }
    BytesTarget(const BytesTarget &) = delete;
    BytesTarget &operator=(const BytesTarget &) = delete;

    void put(const std::vector<Update> &updates) override
    {
        for (const Update &update : updates) {
            const std::string &key = update.key;
            if (update.value) {
                CHECK_EQ(cdedupe_bytes_put(buffer, key.data(), key.size(), update.value->data(),
                                           update.value->size(), 0, nullptr),
                         CDEDUPE_OK);
            } else {
                CHECK_EQ(cdedupe_bytes_delete(buffer, key.data(), key.size(), 0, nullptr),
                         CDEDUPE_OK);
            }
        }
    }
    void put_status(cdedupe_status_t status) override
    {
        CHECK_EQ(cdedupe_bytes_put_status(buffer, status), CDEDUPE_OK);
    }
    void restart() override { CHECK_EQ(cdedupe_bytes_restart(buffer), CDEDUPE_OK); }
    bool step(std::vector<Call> &calls, const std::vector<std::string> &) override
    {
        cdedupe_bytes_item_t items[batch_size];
        size_t count = 0;

        if (cdedupe_bytes_take(buffer, items, batch_size, &count) != CDEDUPE_OK) {
            return false;
        }
        for (size_t index = 0; index < count; index++) {
            const cdedupe_bytes_item_t &item = items[index];
            if (item.kind == CDEDUPE_ITEM_STATUS) {
                append(calls, index == 0, status_names[item.status], {});
            } else {
                append(calls, index == 0, nullptr, item_of(item));
            }
        }
        return true;
    }
    void check() override { CHECK_NO_FAULT(cdedupe_bytes_validate(buffer)); }

private:
    static Item item_of(const cdedupe_bytes_item_t &item)
    {
        Item made{std::string(static_cast<const char *>(item.key), item.key_length), std::nullopt,
                  type_names[item.kind]};
        if (item.kind != CDEDUPE_ITEM_DELETED) {
            made.value = std::string(static_cast<const char *>(item.value), item.value_length);
        }
        return made;
    }

    cdedupe_bytes_t *buffer = nullptr;
};

// The payloads are strings, constructed and destroyed in place; deletions carry none.
class HandlesTarget : public Target {
public:
    HandlesTarget()
    {
        cdedupe_options_t options = cdedupe_options();

        options.payload_size = sizeof(std::string);
        options.payload_alignment = alignof(std::string);
        CHECK_EQ(cdedupe_create(&options, &buffer), CDEDUPE_OK);
        CHECK_EQ(cdedupe_claim(buffer, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    }
    ~HandlesTarget() override
    {
        uint64_t cursor = 0;
        while (cdedupe_slot_t slot = cdedupe_drain_next(buffer, &cursor)) {
            payload(slot)->~basic_string();
            living--;
        }
        CHECK_EQ(living, 0);
        cdedupe_destroy(buffer);
    }
    HandlesTarget(const HandlesTarget &) = delete;
    HandlesTarget &operator=(const HandlesTarget &) = delete;

    void put(const std::vector<Update> &updates) override
    {
        std::vector<cdedupe_update_t> puts(updates.size());
        for (size_t index = 0; index < updates.size(); index++) {
            puts[index].key = updates[index].key.data();
            puts[index].key_length = updates[index].key.size();
            puts[index].deletion = !updates[index].value;
            puts[index].slot = updates[index].value ? make(*updates[index].value) : 0;
        }
        if (puts.empty()) {
            puts.resize(1); // So that there is an address to pass.
        }
        CHECK_EQ(cdedupe_put(buffer, puts.data(), updates.size()), CDEDUPE_OK);
        for (const cdedupe_update_t &done : puts) {
            destroy(done.slot);
            destroy(done.displaced);
        }
    }
    void put_status(cdedupe_status_t status) override
    {
        CHECK_EQ(cdedupe_put_status(buffer, status), CDEDUPE_OK);
    }
    void restart() override
    {
        CHECK_EQ(cdedupe_restart(buffer), CDEDUPE_OK);
        if (++restarts % 2 == 0) {
            collect(); // Every other time, so that both ways back are used.
        }
    }
    bool step(std::vector<Call> &calls, const std::vector<std::string> &) override
    {
        cdedupe_item_t items[batch_size];
        size_t count = 0;

        if (cdedupe_take(buffer, items, batch_size, &count) != CDEDUPE_OK) {
            return false;
        }
        for (size_t index = 0; index < count; index++) {
            const cdedupe_item_t &item = items[index];
            if (item.kind == CDEDUPE_ITEM_STATUS) {
                append(calls, index == 0, status_names[item.status], {});
            } else {
                append(calls, index == 0, nullptr, item_of(item));
            }
        }
        return true;
    }
    void check() override { CHECK_NO_FAULT(cdedupe_validate(buffer)); }

private:
    std::string *payload(cdedupe_slot_t slot)
    {
        return static_cast<std::string *>(cdedupe_payload(buffer, slot));
    }
    cdedupe_slot_t make(const std::string &value)
    {
        cdedupe_slot_t slot = 0;
        CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK);
        new (cdedupe_payload(buffer, slot)) std::string(value);
        living++;
        return slot;
    }
    void destroy(cdedupe_slot_t slot)
    {
        if (slot != 0) {
            payload(slot)->~basic_string();
            cdedupe_discard(buffer, &slot, 1);
            living--;
        }
    }
    void collect()
    {
        cdedupe_slot_t slots[7];
        size_t count = 0;
        while (cdedupe_collect(buffer, slots, 7, &count) == CDEDUPE_OK) {
            for (size_t index = 0; index < count; index++) {
                destroy(slots[index]);
            }
        }
    }
    Item item_of(const cdedupe_item_t &item)
    {
        Item made{std::string(static_cast<const char *>(item.key), item.key_length), std::nullopt,
                  type_names[item.kind]};
        if (item.slot != 0) {
            made.value = std::move(*payload(item.slot));
            destroy(item.slot);
        }
        return made;
    }

    cdedupe_t *buffer = nullptr;
    size_t living = 0;
    size_t restarts = 0;
};

// The ids of the model's updates are places in a list of values.
class ModelTarget : public Target {
public:
    ModelTarget()
    {
        model_open(&model);
        model_claim(&model, CDEDUPE_CLAIM_SINGLE_BATCH);
        names_open(&names);
    }
    ~ModelTarget() override
    {
        model_close(&model);
        names_close(&names);
    }
    ModelTarget(const ModelTarget &) = delete;
    ModelTarget &operator=(const ModelTarget &) = delete;

    void put(const std::vector<Update> &updates) override
    {
        uint64_t displaced = 0;
        for (const Update &update : updates) {
            values.push_back(update.value);
            model_put(&model, names_number(&names, update.key.data(), update.key.size()),
                      !update.value, values.size(), &displaced);
        }
    }
    void put_status(cdedupe_status_t status) override { model_status(&model, status); }
    void restart() override { model_restart(&model); }
    bool step(std::vector<Call> &calls, const std::vector<std::string> &hints) override
    {
        std::vector<size_t> keys;
        std::vector<model_item_t> items(batch_size);
        size_t count = 0;

        for (const std::string &hint : hints) {
            keys.push_back(hint.empty() ? MODEL_NO_KEY
                                        : names_number(&names, hint.data(), hint.size()));
        }
        if (model_take(&model, batch_size, keys.data(), keys.size(), items.data(), &count) !=
            CDEDUPE_OK) {
            return false;
        }
        for (size_t index = 0; index < count; index++) {
            const model_item_t &item = items[index];
            if (item.kind == CDEDUPE_ITEM_STATUS) {
                append(calls, index == 0, status_names[item.status], {});
            } else {
                append(calls, index == 0, nullptr, item_of(item));
            }
        }
        return true;
    }

private:
    Item item_of(const model_item_t &item) const
    {
        return {std::string(names.texts[item.key], names.lengths[item.key]),
                item.id == 0 ? std::nullopt : values[item.id - 1], type_names[item.kind]};
    }

    model_t model = {};
    names_t names = {};
    std::vector<std::optional<std::string>> values;
};

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

// The keys of what is expected, in order; "" for a status. They tell the model in which order the
// deletions were that were free to choose.
std::vector<std::string>
hints_of(const Calls &calls)
{
    std::vector<std::string> hints;

    for (const Call &call : calls.value_or(std::vector<Call>())) {
        if (!call.status.empty()) {
            hints.push_back("");
        }
        for (const Item &item : call.items) {
            hints.push_back(item.key);
        }
    }
    return hints;
}

Calls
deliver(Target &target, Kind kind, std::vector<std::string> hints)
{
    std::vector<Call> calls;

    if (!target.step(calls, hints)) {
        return std::nullopt;
    }
    while (kind == Kind::flush) {
        hints.erase(hints.begin(),
                    hints.begin() + static_cast<long>(std::min(hints.size(), batch_size)));
        if (!target.step(calls, hints)) {
            break;
        }
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
run(const Trace &trace, const char *name, Target &target)
{
    size_t number = 0;

    for (const Operation &operation : trace.operations) {
        switch (operation.kind) {
        case Kind::updates:
            target.put(operation.updates);
            break;
        case Kind::status:
            target.put_status(status_named(operation.status));
            break;
        case Kind::restart:
            target.restart();
            break;
        case Kind::step:
        case Kind::flush:
            Calls calls = deliver(target, operation.kind, hints_of(trace.expected.at(number)));
            if (!compare(trace, number++, name, std::move(calls))) {
                return; // All after it would differ as well.
            }
            break;
        }
        target.check();
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
            ModelTarget model;
            BytesTarget bytes;
            HandlesTarget handles;
            run(trace, "model", model);
            run(trace, "bytes", bytes);
            run(trace, "handles", handles);
        }
        std::printf("%s: %zu traces on the model and at both levels\n", argv[index], traces.size());
        total += traces.size();
    }
    CHECK(total > 0); // No traces are no success.
    return check_finish();
}
