// SPDX-License-Identifier: Apache-2.0
// The plain level from C++: an owner of the buffer, a source, and a delivery loop on a thread.
//
//     c++ -std=c++17 embedder.cpp $(pkg-config --cflags --libs cdedupe) -lpthread

#include <CDedupe.h>

#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

class Buffer {
public:
    Buffer()
    {
        cdedupe_bytes_t *made;
        check(cdedupe_bytes_create(nullptr, &made));
        buffer_.reset(made);
        check(cdedupe_bytes_claim(made, CDEDUPE_CLAIM_LOOP));
    }

    // Any thread.
    void put(std::string_view key, std::string_view value)
    {
        check(cdedupe_bytes_put(buffer_.get(), key.data(), key.size(), value.data(), value.size(),
                                0, nullptr));
    }

    void finish() { cdedupe_bytes_finish(buffer_.get(), CDEDUPE_FINISH_WHEN_DELIVERED); }

    // The delivery loop's thread. Returns when the buffer has finished.
    template <class Sink> void deliver(Sink sink)
    {
        std::vector<cdedupe_bytes_item_t> items(100);
        std::size_t count;
        while (cdedupe_bytes_take_wait(buffer_.get(), items.data(), items.size(), &count, -1) ==
               CDEDUPE_OK)
            for (std::size_t i = 0; i < count; i++)
                sink(items[i]);
        cdedupe_bytes_release(buffer_.get());
    }

private:
    static void check(cdedupe_result_t result)
    {
        if (result != CDEDUPE_OK)
            throw std::runtime_error(cdedupe_result_text(result));
    }

    struct Destroy {
        void operator()(cdedupe_bytes_t *buffer) const { cdedupe_bytes_destroy(buffer); }
    };
    std::unique_ptr<cdedupe_bytes_t, Destroy> buffer_;
};

int
main()
{
    Buffer buffer;
    std::thread loop([&] {
        buffer.deliver([](const cdedupe_bytes_item_t &item) {
            std::cout << std::string_view(static_cast<const char *>(item.key), item.key_length)
                      << " = "
                      << std::string_view(static_cast<const char *>(item.value), item.value_length)
                      << '\n';
        });
    });
    for (int n = 0; n <= 1000; n++)
        buffer.put("sensor/" + std::to_string(n % 3), std::to_string(n));
    buffer.finish();
    loop.join();
}
