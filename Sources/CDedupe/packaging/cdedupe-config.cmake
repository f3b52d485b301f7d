# SPDX-License-Identifier: Apache-2.0
# find_package(cdedupe) defines two imported targets:
#
#   cdedupe::cdedupe          the shared library
#   cdedupe::cdedupe_static   the static library; a program that uses it is linked with Concurrency Kit

get_filename_component(_cdedupe_libdir "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
find_path(_cdedupe_include CDedupe.h HINTS "${_cdedupe_libdir}/../include" "${_cdedupe_libdir}/../../include"
          NO_CACHE REQUIRED)

if(NOT TARGET cdedupe::cdedupe)
    add_library(cdedupe::cdedupe SHARED IMPORTED)
    set_target_properties(cdedupe::cdedupe PROPERTIES
        IMPORTED_LOCATION "${_cdedupe_libdir}/libcdedupe.so"
        INTERFACE_INCLUDE_DIRECTORIES "${_cdedupe_include}")

    add_library(cdedupe::cdedupe_static STATIC IMPORTED)
    set_target_properties(cdedupe::cdedupe_static PROPERTIES
        IMPORTED_LOCATION "${_cdedupe_libdir}/libcdedupe.a"
        INTERFACE_INCLUDE_DIRECTORIES "${_cdedupe_include}"
        INTERFACE_LINK_LIBRARIES "ck;pthread")
endif()

unset(_cdedupe_libdir)
unset(_cdedupe_include)
