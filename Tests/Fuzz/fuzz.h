/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every fuzz target offers: the function that libFuzzer, AFL++ and replay.c call with one
 * input. It returns zero, or ends the process.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#ifdef __cplusplus
}
#endif

#endif /* FUZZ_H */
