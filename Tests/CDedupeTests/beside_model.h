/* SPDX-License-Identifier: Apache-2.0 */
/* A subject and the model side by side: both do the same call, and each difference is a failure. */
#ifndef BESIDE_MODEL_H
#define BESIDE_MODEL_H

#include "model.h"
#include "subject.h"

/* The rules by which the model does what a buffer with these options does. */
void beside_rules(const subject_options_t *options, model_rules_t *rules);

/* Returns the model's number of an item's key. */
typedef size_t beside_number_t(const subject_item_t *item);

/* Takes up to `capacity` items from both. Returns the result. */
cdedupe_result_t beside_take(subject_t *subject, model_t *model, size_t capacity,
                             beside_number_t *number);

/* Compares one item, whose key has the number `got_key`. */
void beside_item(const subject_item_t *got, size_t got_key, const model_item_t *wanted);

/* Puts the last `count` items of the batch back in both. */
cdedupe_result_t beside_put_back(subject_t *subject, model_t *model, size_t count);

cdedupe_result_t beside_finish(subject_t *subject, model_t *model, cdedupe_finish_t when);

/* Compares all counters. */
void beside_statistics(subject_t *subject, const model_t *model);

/* Compares counters and wake-ups, and validates the buffer. */
void beside_state(subject_t *subject, const model_t *model);

#endif /* BESIDE_MODEL_H */
