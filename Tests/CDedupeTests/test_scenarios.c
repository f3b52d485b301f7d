/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the scenarios of Tests/Scenarios at both levels of the C core, and on the model.
 *
 *     test_scenarios FILE...           every scenario
 *     test_scenarios --only NAME FILE...   those whose names contain NAME, with their steps
 *
 * Each scenario runs several times at each level: with dropped payloads collected after every
 * step, with long values, and with keys that the subject pins. The model does every step beside the
 * buffer, and all results, items and counters must agree. Then the scenario's own expectations must
 * hold. Because the two agree, an expectation checks the model too.
 */
#include <stdlib.h>
#include <unistd.h>

#include "beside_model.h"
#include "check.h"
#include "hooks.h"
#include "scenario.h"

/* One way to run a scenario. */
typedef struct way {
    const char *name;
    subject_level_t level;
    bool collects;
    bool long_values;
    bool pins; /* The subject's own; see subject_pin(). */
} way_t;

static const way_t ways[] = {
    {"bytes", SUBJECT_BYTES, false, false, false},
    {"bytes, long values", SUBJECT_BYTES, false, true, false},
    {"bytes, pins", SUBJECT_BYTES, false, false, true},
    {"handles", SUBJECT_HANDLES, false, false, false},
    {"handles, collecting", SUBJECT_HANDLES, true, false, false},
    {"handles, pins", SUBJECT_HANDLES, false, false, true},
};

enum { ITEMS_MAX = 1000, TEXT_MAX = 100000, UPDATES_MAX = KEYS_FILL };

static const scenario_t *scenario;
static const way_t *way;
static size_t step_number; /* Counted from one, for messages. */
static const char *only;
static hooks_t hooks;
static subject_t subject;
static model_t model;
static cdedupe_pin_t pins[KEYS_LETTERS];
static unsigned pin_counts[KEYS_LETTERS];
static char text[TEXT_MAX];
static size_t text_length;

static void
describe(FILE *out)
{
    fprintf(out, "  %s:%u: %s (%s)", scenario->file, scenario->line, scenario->name, way->name);
    if (step_number > 0 && step_number <= scenario->step_count) {
        fprintf(out, ", word %zu, \"%s\"", step_number, scenario->steps[step_number - 1].op.text);
    }
    fprintf(out, "\n");
}

/* ---------------------------------------------------------------------------------------------- */
/* Telling what happened                                                                          */

static void
say(const char *word)
{
    text_length += (size_t)snprintf(text + text_length, sizeof(text) - text_length, "%s%s",
                                    text_length > 0 ? " " : "", word);
}

static size_t
number_of(const subject_item_t *item)
{
    return scenario_key_number(scenario, item->key, item->length);
}

static void
say_item(const subject_item_t *item)
{
    static const char signs[] = {'+', '~', '-'};
    static char word[TEXT_MAX];
    size_t length;
    unsigned key;

    if (item->kind == CDEDUPE_ITEM_STATUS) {
        say(scenario_status_word(item->status));
        return;
    }
    key = (unsigned)number_of(item);
    word[0] = (unsigned)item->kind <= CDEDUPE_ITEM_DELETED ? signs[item->kind] : '?';
    length = 1 + scenario_key_name(scenario, key, word + 1, sizeof(word) - 1);
    if (item->id != 0 && !scenario_is_fill_key(key)) {
        snprintf(word + length, sizeof(word) - length, "%" PRIu64, item->id);
    }
    say(word);
}

/* Compares what was said with what the step expects. */
static void
judge(const scenario_step_t *step)
{
    if (only != NULL) {
        printf("    %-24s %s\n", step->op.text, text);
    }
    if (step->expected != NULL && !CHECK(scenario_matches(step, text))) {
        printf("  got    %s\n  wanted %s\n", text, step->expected);
    }
}

static void
judge_result(const scenario_step_t *step, cdedupe_result_t result)
{
    say(scenario_result_word(result));
    judge(step);
}

/* ---------------------------------------------------------------------------------------------- */
/* Steps                                                                                          */

/* Puts updates in both, and says the outcomes. `keys` are their numbers. */
static void
put_updates(subject_update_t *updates, const unsigned *keys, size_t count)
{
    cdedupe_outcome_t wanted;
    uint64_t displaced;

    CHECK_EQ(subject_put(&subject, updates, count), CDEDUPE_OK);
    for (size_t i = 0; i < count; i++) {
        wanted = model_put(&model, keys[i], updates[i].deletion, updates[i].id, &displaced);
        CHECK_EQ(updates[i].outcome, wanted);
        if (subject.core != NULL && wanted != CDEDUPE_OUTCOME_QUEUED) {
            CHECK_EQ(updates[i].displaced, displaced);
        }
        say(scenario_outcome_word(updates[i].outcome));
    }
}

/* By a pin of the scenario's own. The subject has its own way to put by pins. */
static void
name_key(subject_update_t *update, unsigned key)
{
    const char *bytes;

    update->length = scenario_key_bytes(scenario, key, &bytes);
    update->key = bytes;
}

static void
do_put(const scenario_step_t *step)
{
    subject_update_t updates[OP_UPDATES_MAX];
    unsigned keys[OP_UPDATES_MAX];

    memset(updates, 0, sizeof(updates));
    for (size_t i = 0; i < step->op.count; i++) {
        const struct op_update *update = &step->op.updates[i];

        keys[i] = update->key;
        name_key(&updates[i], update->key);
        updates[i].deletion = update->deletion;
        updates[i].id = update->id;
        updates[i].pin = update->by_pin ? pins[update->key] : 0;
        CHECK(!update->by_pin || updates[i].pin != 0);
    }
    put_updates(updates, keys, step->op.count);
    judge(step);
}

static void
do_fill(const scenario_step_t *step)
{
    static subject_update_t updates[UPDATES_MAX];
    static unsigned keys[UPDATES_MAX];

    memset(updates, 0, sizeof(updates));
    for (unsigned i = 0; i < step->op.argument; i++) {
        keys[i] = KEYS_LETTERS + i;
        name_key(&updates[i], keys[i]);
        updates[i].deletion = step->op.kind == OP_DROP;
        updates[i].id = updates[i].deletion ? 0 : i + 1;
    }
    put_updates(updates, keys, step->op.argument);
}

static void
do_pin(unsigned key)
{
    const char *bytes;
    size_t length = scenario_key_bytes(scenario, key, &bytes);

    CHECK_EQ(subject.bytes != NULL ? cdedupe_bytes_pin(subject.bytes, bytes, length, &pins[key])
                                   : cdedupe_pin(subject.core, bytes, length, &pins[key]),
             CDEDUPE_OK);
    pin_counts[key]++;
}

static void
do_unpin(unsigned key)
{
    CHECK_EQ(subject.bytes != NULL ? cdedupe_bytes_unpin(subject.bytes, pins[key])
                                   : cdedupe_unpin(subject.core, pins[key]),
             CDEDUPE_OK);
    pin_counts[key]--;
}

static cdedupe_result_t
put_status(unsigned argument)
{
    cdedupe_status_t status = (cdedupe_status_t)argument;
    cdedupe_result_t result = subject_status(&subject, status);

    CHECK_EQ(result, model_status(&model, status));
    return result;
}

static cdedupe_result_t
restart(void)
{
    cdedupe_result_t result = subject_restart(&subject);

    CHECK_EQ(result, model_restart(&model));
    return result;
}

static void
do_laps(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        put_status(CDEDUPE_STATUS_RESYNC_IN_PROGRESS);
        restart();
    }
}

static cdedupe_result_t
take(size_t capacity)
{
    cdedupe_result_t result = beside_take(&subject, &model, capacity, number_of);

    for (size_t i = 0; i < subject.count; i++) {
        say_item(&subject.items[i]);
    }
    return result;
}

static void
do_take(const scenario_step_t *step)
{
    size_t capacity =
        step->op.argument == OP_ALL ? scenario->options.batch_size : step->op.argument;
    cdedupe_result_t result = take(capacity);

    if (result != CDEDUPE_OK) {
        say(scenario_result_word(result));
    }
    judge(step);
}

static void
do_flush(const scenario_step_t *step)
{
    bool is_first = true;
    cdedupe_result_t result;

    while (model.count > 0 || is_first) {
        if (!is_first) {
            say("|");
        }
        result = take(scenario->options.batch_size);
        if (result != CDEDUPE_OK) {
            say(scenario_result_word(result));
            break;
        }
        is_first = false;
    }
    judge(step);
}

static void
do_put_back(const scenario_step_t *step)
{
    size_t count = step->op.argument == OP_ALL ? model.batch_count : step->op.argument;

    judge_result(step, beside_put_back(&subject, &model, count));
}

static void
do_claim(const scenario_step_t *step)
{
    cdedupe_claim_t kind = (cdedupe_claim_t)step->op.argument;
    cdedupe_result_t result = subject_claim(&subject, kind);

    CHECK_EQ(result, model_claim(&model, kind));
    judge_result(step, result);
}

static void
do_statistics(const scenario_step_t *step)
{
    cdedupe_statistics_t statistics = subject_statistics(&subject);
    char fault[400];

    if (step->expected != NULL &&
        !scenario_check_counters(step, &statistics, subject.wakes, fault, sizeof(fault))) {
        CHECK(false);
        printf("  wrong: %s\n", fault);
    }
}

static void
do_step(const scenario_step_t *step)
{
    switch (step->op.kind) {
    case OP_PUT:
        do_put(step);
        break;
    case OP_FILL:
    case OP_DROP:
        do_fill(step);
        break;
    case OP_PIN:
        do_pin(step->op.argument);
        break;
    case OP_UNPIN:
        do_unpin(step->op.argument);
        break;
    case OP_STATUS:
        judge_result(step, put_status(step->op.argument));
        break;
    case OP_RESTART:
        judge_result(step, restart());
        break;
    case OP_LAPS:
        do_laps(step->op.argument);
        break;
    case OP_TAKE:
        do_take(step);
        break;
    case OP_FLUSH:
        do_flush(step);
        break;
    case OP_PUT_BACK:
        do_put_back(step);
        break;
    case OP_COLLECT:
        subject_collect(&subject, 1);
        break;
    case OP_CLAIM:
        do_claim(step);
        break;
    case OP_RELEASE:
        subject_release(&subject);
        model_release(&model);
        break;
    case OP_STOP:
        subject_stop(&subject);
        model_stop(&model);
        break;
    case OP_FINISH:
        judge_result(step, beside_finish(&subject, &model, (cdedupe_finish_t)step->op.argument));
        break;
    case OP_STATISTICS:
        do_statistics(step);
        break;
    default:
        CHECK(false);
        break;
    }
}

/* ---------------------------------------------------------------------------------------------- */
/* Scenarios                                                                                      */

/* A scenario that says how the buffer is claimed is not claimed before. */
static bool
claims_by_itself(void)
{
    for (size_t i = 0; i < scenario->step_count; i++) {
        if (scenario->steps[i].op.kind == OP_CLAIM) {
            return true;
        }
    }
    return false;
}

static void
open_both(void)
{
    subject_options_t options = subject_defaults(way->level);

    memset(&hooks, 0, sizeof(hooks));
    options.hooks = &hooks;
    options.batch_size = scenario->options.batch_size;
    options.long_values = way->long_values;
    options.suppress = scenario->options.suppressing;
    options.merging = scenario->options.merging;
    options.maximum_keys = scenario->options.maximum_keys;
    options.maximum_bytes = scenario->options.maximum_bytes;
    CHECK_EQ(subject_open(&subject, &options), CDEDUPE_OK);
    subject.keeps_batch = true;
    if (way->pins) {
        subject_pin(&subject, 1);
    }
    model_open(&model);
    beside_rules(&options, &model.rules);
    if (!claims_by_itself()) {
        CHECK_EQ(subject_claim(&subject, CDEDUPE_CLAIM_LOOP), CDEDUPE_OK);
        model_claim(&model, CDEDUPE_CLAIM_LOOP);
    }
}

static void
close_both(void)
{
    for (unsigned key = 0; key < KEYS_LETTERS; key++) {
        while (pin_counts[key] > 0) {
            do_unpin(key);
        }
    }
    subject_collect(&subject, 10);
    subject_close(&subject);
    model_close(&model);
    hooks_close(&hooks);
}

static void
run_steps(void)
{
    size_t rounds[OP_UPDATES_MAX], depth = 0;

    for (size_t i = 0; i < scenario->step_count; i++) {
        const scenario_step_t *step = &scenario->steps[i];

        step_number = i + 1;
        if (step->op.kind == OP_REPEAT) {
            rounds[depth++] = step->op.argument;
            continue;
        }
        if (step->op.kind == OP_REPEAT_END) {
            if (--rounds[depth - 1] > 0) {
                i = step->jump;
            } else {
                depth--;
            }
            continue;
        }
        text[0] = 0;
        text_length = 0;
        do_step(step);
        beside_state(&subject, &model);
        if (way->collects) {
            subject_collect(&subject, 1);
        }
    }
}

static bool
has_pins(void)
{
    for (size_t i = 0; i < scenario->step_count; i++) {
        if (scenario->steps[i].op.kind == OP_PIN) {
            return true;
        }
    }
    return false;
}

/* Whether a scenario can run in this way. */
static bool
is_possible(const way_t *candidate)
{
    unsigned level = candidate->level == SUBJECT_BYTES ? SCENARIO_BYTES : SCENARIO_HANDLES;

    return (scenario->levels & level) != 0 &&
           !(candidate->level == SUBJECT_BYTES && scenario->options.merging) &&
           !(candidate->long_values && scenario->options.maximum_bytes > 0) &&
           !(candidate->pins && has_pins());
}

static void
run_scenario(const scenario_t *wanted)
{
    scenario = wanted;
    check_test = wanted->name;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (!is_possible(&ways[i])) {
            continue;
        }
        way = &ways[i];
        step_number = 0;
        if (only != NULL) {
            printf("%s (%s)\n", scenario->name, way->name);
        }
        open_both();
        run_steps();
        close_both();
    }
}

/* Returns how many of a file's scenarios were run. */
static size_t
run_file(const char *path)
{
    scenarios_t scenarios;
    size_t count = 0;

    scenarios_open(&scenarios, path);
    if (scenarios.error[0] != 0) {
        printf("%s\n", scenarios.error);
        check_failed++;
    }
    for (size_t i = 0; i < scenarios.count && scenarios.error[0] == 0; i++) {
        if (only == NULL || strstr(scenarios.list[i].name, only) != NULL) {
            run_scenario(&scenarios.list[i]);
            count++;
        }
    }
    scenarios_close(&scenarios);
    return count;
}

/* ---------------------------------------------------------------------------------------------- */
/* The language itself                                                                            */

/* Reads a text as a file of scenarios. */
static void
read_text(scenarios_t *scenarios, const char *content)
{
    char path[] = "/tmp/scenarios.XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");

    fputs(content, file);
    fclose(file);
    scenarios_open(scenarios, path);
    unlink(path);
}

/* An error names the line, and ends with these words. */
static void
expect_error(const char *content, unsigned line, const char *wanted)
{
    scenarios_t scenarios;
    char place[24];
    const char *error = scenarios.error;

    read_text(&scenarios, content);
    snprintf(place, sizeof(place), ":%u: ", line);
    if (!CHECK(strstr(error, place) != NULL && strlen(error) > strlen(wanted) &&
               strcmp(error + strlen(error) - strlen(wanted), wanted) == 0)) {
        printf("  got    %s\n  wanted %s%s\n", error, place, wanted);
    }
    scenarios_close(&scenarios);
}

static void
a_text_that_is_no_scenario_is_an_error_with_its_line(void)
{
    expect_error("", 0, "it has no scenario");
    expect_error("a: +a1; take -> +a1\nb +a1\n", 2, "no \":\" after the name of a scenario");
    expect_error("a: +a1; take -> +a1\na: take -> empty\n", 2, "a second scenario \"a\"");
    expect_error("# a\n\na: +a1 tale\n", 3, "\"tale\" is no word");
    expect_error("a: +a1 take\n", 1, "it expects nothing");
    expect_error("a: +a1; take -> 5\n", 1, "\"5\" cannot come of \"take\"");
    expect_error("a: +a1; take -> +a\n", 1, "\"+a\" cannot come of \"take\"");
    expect_error("a: +a1+b2 -> queued\n", 1, "\"->\" after \"+a1+b2\" names 1 results");
    expect_error("a: +a1; stats -> pendig=1\n", 1, "\"pendig=1\" cannot come of \"stats\"");
    expect_error("a: stop -> ok\n", 1, "\"ok\" cannot come of \"stop\"");
    expect_error("a: 2x( +a1; take -> +a1\n", 1, "\"(\" without \")\"");
    expect_error("a: +a1 ); take -> +a1\n", 1, "\")\" without \"(\"");
    expect_error("a: +a1 bound2; take -> +a1\n", 1, "\"bound2\" must be before all other words");
    expect_error("a [D]: take -> empty\n", 1, "\"D\" is no level");
    expect_error("options bound\na: take -> empty\n", 1, "\"bound\" is no option");
    expect_error("  +a1\n", 1, "a line that continues no scenario");
    expect_error("a: +'\\q'1; take -> empty\n", 1, "\"+'\\q'1\" is no word");
}

/* Whether a take that came to `actual` is what a scenario expects. */
static bool
is_expected(const char *expected, const char *actual)
{
    scenarios_t scenarios;
    char content[200];
    bool matches;

    snprintf(content, sizeof(content), "a: flush -> %s\n", expected);
    read_text(&scenarios, content);
    CHECK_TEXT(scenarios.error, "");
    matches = scenario_matches(&scenarios.list[0].steps[0], actual);
    scenarios_close(&scenarios);
    return matches;
}

static void
an_expectation_is_met_by_nothing_else(void)
{
    CHECK(is_expected("+a1 sync | -b", "+a1 sync | -b"));
    CHECK(!is_expected("+a1 sync | -b", "+a1 sync -b"));
    CHECK(!is_expected("+a1", "+a2"));
    CHECK(!is_expected("+a1", "~a1"));
    CHECK(!is_expected("+a1", "+a1 +b1"));
    CHECK(!is_expected("+a1 +b1", "+a1"));
    CHECK(!is_expected("+a1 +b2", "+b2 +a1"));
    CHECK(!is_expected("+a1", "empty"));
    CHECK(is_expected("{ -a -b } sync", "-b -a sync"));
    CHECK(!is_expected("{ -a -b } sync", "-b sync -a"));
    CHECK(!is_expected("{ -a -b } sync", "-b -b sync"));
    CHECK(is_expected("fill2 refill1 drop2", "+f0 +f1 ~f0 -f5 -f3"));
    CHECK(!is_expected("fill2", "+f1 +f0"));
    CHECK(!is_expected("drop2", "-f3 -f3"));
    CHECK(!is_expected("drop2", "-f3 ~f4"));
}

int
main(int argc, char **argv)
{
    size_t count = 0;
    int first = 1;

    if (argc > 2 && strcmp(argv[1], "--only") == 0) {
        only = argv[2];
        first = 3;
    }
    RUN(a_text_that_is_no_scenario_is_an_error_with_its_line);
    RUN(an_expectation_is_met_by_nothing_else);
    check_describe = describe;
    for (int i = first; i < argc; i++) {
        count += run_file(argv[i]);
    }
    check_describe = NULL;
    CHECK(count > 0);
    printf("%zu scenarios\n", count);
    return check_finish();
}
