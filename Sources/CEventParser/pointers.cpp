/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "pointers.hpp"

namespace cevent {

namespace {

// A step with its escapes decoded: ~1 is a slash, ~0 is a tilde.
bool decode_step(std::string_view step, std::string &name) {
    name.clear();
    for (size_t i = 0; i < step.size(); i++) {
        if (step[i] != '~') {
            name += step[i];
            continue;
        }
        i++;
        if (i == step.size() || (step[i] != '0' && step[i] != '1')) {
            return false;
        }
        name += step[i] == '0' ? '~' : '/';
    }
    return true;
}

// RFC 6901 gives an index no leading zeros.
int64_t index_of(const std::string &name) {
    constexpr size_t most_digits = 18;
    const bool is_index = !name.empty() && name.size() <= most_digits &&
                          name.find_first_not_of("0123456789") == name.npos &&
                          (name[0] != '0' || name.size() == 1);

    return is_index ? std::stoll(name) : -1;
}

} // namespace

int pointer_tree::child(int parent, const std::string &name) {
    for (int number : nodes_[parent].children) {
        if (nodes_[number].name == name) {
            return number;
        }
    }
    const int number = static_cast<int>(nodes_.size());
    pointer_node node;
    node.name = name;
    node.index = index_of(name);
    nodes_.push_back(std::move(node));
    nodes_[parent].children.push_back(number);
    return number;
}

int pointer_tree::add(std::string_view pointer) {
    std::vector<int> path = {root};
    std::string name;

    if (!pointer.empty() && pointer[0] != '/') {
        return no_slot;
    }
    while (!pointer.empty()) {
        const size_t end = std::min(pointer.find('/', 1), pointer.size());
        if (!decode_step(pointer.substr(1, end - 1), name)) {
            return no_slot;
        }
        path.push_back(child(path.back(), name));
        pointer.remove_prefix(end);
    }
    int &slot = nodes_[path.back()].slot;
    if (slot == no_slot) {
        slot = static_cast<int>(slots_++);
        for (int number : path) {
            nodes_[number].slots_inside.push_back(slot);
        }
    }
    return slot;
}

int pointer_tree::member(int parent, text name) const noexcept {
    for (int number : nodes_[parent].children) {
        const std::string &wanted = nodes_[number].name;
        if (wanted.size() == name.length &&
            std::memcmp(wanted.data(), name.begin, name.length) == 0) {
            return number;
        }
    }
    return no_node;
}

int pointer_tree::element(int parent, int64_t index) const noexcept {
    for (int number : nodes_[parent].children) {
        if (nodes_[number].index == index) {
            return number;
        }
    }
    return no_node;
}

} // namespace cevent
