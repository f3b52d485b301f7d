// SPDX-License-Identifier: Apache-2.0
// The public header in C++: it compiles as C++11, and its functions link.

#include "CDedupe.h"

#include <memory>
#include <string>

#include "check.h"

namespace {

struct Destroy {
    void operator()(cdedupe_bytes_t *buffer) const { cdedupe_bytes_destroy(buffer); }
};

void
test_bytes_from_cpp()
{
    cdedupe_options_t options = cdedupe_options();
    cdedupe_bytes_t *made = nullptr;

    options.batch_size = 10;
    CHECK_EQ(cdedupe_bytes_create(&options, &made), CDEDUPE_OK);
    std::unique_ptr<cdedupe_bytes_t, Destroy> buffer(made);
    const std::string key = "key";
    const std::string value = "value";
    cdedupe_outcome_t outcome = CDEDUPE_OUTCOME_UNTOUCHED;
    CHECK_EQ(
        cdedupe_bytes_put(made, key.data(), key.size(), value.data(), value.size(), 7, &outcome),
        CDEDUPE_OK);
    CHECK_EQ(outcome, CDEDUPE_OUTCOME_QUEUED);

    cdedupe_bytes_item_t items[10];
    size_t count = 0;
    CHECK_EQ(cdedupe_bytes_claim(made, CDEDUPE_CLAIM_SINGLE_BATCH), CDEDUPE_OK);
    CHECK_EQ(cdedupe_bytes_take(made, items, 10, &count), CDEDUPE_OK);
    CHECK_EQ(count, 1);
    CHECK(std::string(static_cast<const char *>(items[0].value), items[0].value_length) == value);
    CHECK_EQ(items[0].revision, 7);
    cdedupe_bytes_release(made);
}

void
test_handles_from_cpp()
{
    cdedupe_t *buffer = nullptr;

    CHECK_EQ(cdedupe_create(nullptr, &buffer), CDEDUPE_OK);
    cdedupe_slot_t slot = 0;
    CHECK_EQ(cdedupe_acquire(buffer, &slot, 1), CDEDUPE_OK);
    CHECK(slot != 0);
    cdedupe_discard(buffer, &slot, 1);
    CHECK(cdedupe_validate(buffer) == nullptr);
    CHECK(std::string(cdedupe_result_text(CDEDUPE_OK)) != "");
    cdedupe_destroy(buffer);
}

} // namespace

int
main()
{
    RUN(test_bytes_from_cpp);
    RUN(test_handles_from_cpp);
    return check_finish();
}
