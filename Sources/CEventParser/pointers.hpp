/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON pointers (RFC 6901), compiled once into a tree, so that one walk over a value finds all of
 * them. Each pointer has a slot, which is the place of what is found; equal pointers share one.
 */
#ifndef CEVENTPARSER_POINTERS_HPP
#define CEVENTPARSER_POINTERS_HPP

#include <string>
#include <string_view>
#include <vector>

#include "tokens.hpp"

namespace cevent {

constexpr int no_slot = -1;
constexpr int no_node = -1;

// One step of a pointer: a member of this name, or an element of this index.
struct pointer_node {
    std::string name;
    int64_t index = -1; // -1: the name is no index
    int slot = no_slot;
    std::vector<int> children;
    std::vector<int> slots_inside; // Its own slot, and those of all nodes below.
};

class pointer_tree {
public:
    pointer_tree() : nodes_(1) {}

    /* Compiles a pointer. @return its slot, or no_slot if it is no JSON pointer; throws if there
       is no memory */
    int add(std::string_view pointer);

    size_t slots() const noexcept { return slots_; }
    const pointer_node &node(int number) const noexcept { return nodes_[number]; }

    /* @return the node of a member or of an element of a container at `parent`, or no_node */
    int member(int parent, text name) const noexcept;
    int element(int parent, int64_t index) const noexcept;

    static constexpr int root = 0;

private:
    int child(int parent, const std::string &name);

    std::vector<pointer_node> nodes_;
    size_t slots_ = 0;
};

} // namespace cevent

#endif /* CEVENTPARSER_POINTERS_HPP */
