/* SPDX-License-Identifier: Apache-2.0 */
/* Reads scenarios and judges what came of them; see scenario.h. */
#include "scenario.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_LENGTH = 4000, KEY_TEXT = 8 };

static void *
must_resize(void *memory, size_t size)
{
    void *moved = realloc(memory, size);

    if (moved == NULL) {
        fprintf(stderr, "the test program itself is out of memory\n");
        abort();
    }
    return moved;
}

static char *
must_copy(const char *text, size_t length)
{
    char *copy = must_resize(NULL, length + 1);

    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

/* ---------------------------------------------------------------------------------------------- */
/* Words                                                                                          */

static const char *const outcome_words[] = {"untouched", "queued",   "replaced",   "cancelled",
                                            "dropped",   "rejected", "suppressed", "overflowed"};
static const char *const status_words[] = {"wait", "resync", "sync"};

/* A result, and its word. */
static const struct {
    cdedupe_result_t result;
    const char *word;
} result_words[] = {
    {CDEDUPE_OK, "ok"},
    {CDEDUPE_EMPTY, "empty"},
    {CDEDUPE_BUSY, "busy"},
    {CDEDUPE_STOPPED, "stopped"},
    {CDEDUPE_OVERFLOWED, "overflowed"},
    {CDEDUPE_INVALID_ARGUMENT, "refused"},
};

#define COUNTER(word, field)                        \
    {                                               \
        word, offsetof(cdedupe_statistics_t, field) \
    }

static const struct {
    const char *word;
    size_t offset;
} counter_words[] = {
    COUNTER("pending", pending_keys),
    COUNTER("statuses", pending_statuses),
    COUNTER("peak", peak_pending_keys),
    COUNTER("live", live_keys),
    COUNTER("received", received),
    COUNTER("delivered", delivered),
    COUNTER("replaced", replaced),
    COUNTER("cancelled", cancelled),
    COUNTER("suppressed", suppressed),
    COUNTER("dropped", dropped),
    COUNTER("synthesized", synthesized_deletions),
    COUNTER("statuses-in", statuses_received),
    COUNTER("statuses-out", statuses_delivered),
    COUNTER("batches", batches),
    COUNTER("overflows", overflows),
    COUNTER("overflowed", overflowed),
    COUNTER("bytes", pending_bytes),
    COUNTER("stopped", stopped),
};

const char *
scenario_outcome_word(cdedupe_outcome_t outcome)
{
    size_t count = sizeof(outcome_words) / sizeof(outcome_words[0]);

    return (size_t)outcome < count ? outcome_words[outcome] : "?";
}

const char *
scenario_result_word(cdedupe_result_t result)
{
    for (size_t i = 0; i < sizeof(result_words) / sizeof(result_words[0]); i++) {
        if (result_words[i].result == result) {
            return result_words[i].word;
        }
    }
    return "?";
}

const char *
scenario_status_word(cdedupe_status_t status)
{
    return (unsigned)status <= CDEDUPE_STATUS_IN_SYNC ? status_words[status] : "?";
}

uint64_t
scenario_counter(const char *name, size_t length, const cdedupe_statistics_t *statistics,
                 uint64_t wakes)
{
    uint64_t value;

    if (length == strlen("wakes") && strncmp(name, "wakes", length) == 0) {
        return wakes;
    }
    for (size_t i = 0; i < sizeof(counter_words) / sizeof(counter_words[0]); i++) {
        if (strlen(counter_words[i].word) == length &&
            strncmp(counter_words[i].word, name, length) == 0) {
            memcpy(&value, (const char *)statistics + counter_words[i].offset, sizeof(value));
            return value;
        }
    }
    return UINT64_MAX;
}

const struct op_update *
op_update_at(const struct op *op, size_t index)
{
    return &op->updates[index];
}

/* ---------------------------------------------------------------------------------------------- */
/* Keys                                                                                           */

/* The texts of the keys without quotes. */
static char *
make_key_texts(void)
{
    char *texts = must_resize(NULL, (size_t)KEYS_MAX * KEY_TEXT);

    for (unsigned key = 0; key < KEYS_MAX; key++) {
        char *text = texts + (size_t)key * KEY_TEXT;

        if (key < KEYS_LETTERS) {
            snprintf(text, KEY_TEXT, "%c", (char)('a' + key));
        } else {
            snprintf(text, KEY_TEXT, "f%u", key - KEYS_LETTERS);
        }
    }
    return texts;
}

size_t
scenario_key_limit(const scenario_t *scenario)
{
    return KEYS_MAX + scenario->key_count;
}

bool
scenario_is_fill_key(unsigned key)
{
    return key >= KEYS_LETTERS && key < KEYS_MAX;
}

size_t
scenario_key_bytes(const scenario_t *scenario, unsigned key, const char **bytes)
{
    if (key >= KEYS_MAX) {
        *bytes = scenario->keys[key - KEYS_MAX].bytes;
        return scenario->keys[key - KEYS_MAX].length;
    }
    *bytes = scenario->key_texts + (size_t)key * KEY_TEXT;
    return strlen(*bytes);
}

size_t
scenario_key_name(const scenario_t *scenario, unsigned key, char *name, size_t size)
{
    const char *bytes = key < scenario_key_limit(scenario) ? "" : "?";

    if (key >= KEYS_MAX && key < scenario_key_limit(scenario)) {
        bytes = scenario->keys[key - KEYS_MAX].text;
    } else if (key < KEYS_MAX) {
        scenario_key_bytes(scenario, key, &bytes);
    }
    return (size_t)snprintf(name, size, "%s", bytes);
}

unsigned
scenario_key_number(const scenario_t *scenario, const void *bytes, size_t length)
{
    const char *text = bytes;
    unsigned number = 0;

    if (length == 1 && islower((unsigned char)text[0])) {
        return (unsigned)(text[0] - 'a');
    }
    for (size_t i = 0; i < scenario->key_count; i++) {
        if (scenario->keys[i].length == length &&
            (length == 0 || memcmp(scenario->keys[i].bytes, bytes, length) == 0)) {
            return KEYS_MAX + (unsigned)i;
        }
    }
    for (size_t i = 1; i < length && i < 6; i++) {
        number = number * 10 + (unsigned)(text[i] - '0');
    }
    return length > 1 && text[0] == 'f' && number < KEYS_FILL
               ? KEYS_LETTERS + number
               : (unsigned)scenario_key_limit(scenario);
}

static size_t
hexadecimal(const char *text, char *byte)
{
    char digits[3] = {text[0], text[0] != 0 ? text[1] : (char)0, 0};
    char *end;

    *byte = (char)strtoul(digits, &end, 16);
    return isxdigit((unsigned char)digits[0]) && *end == 0 && end == digits + 2 ? 2 : 0;
}

/* Reads one byte of a key in quotes. Returns how many characters it has, or zero. */
static size_t
read_byte(const char *text, size_t length, char *byte)
{
    *byte = text[0];
    if (text[0] != '\\') {
        return 1;
    }
    if (length < 2) {
        return 0;
    }
    *byte = text[1] == '0' ? 0 : text[1];
    if (text[1] == 'x') {
        return length >= 4 && hexadecimal(text + 2, byte) > 0 ? 4 : 0;
    }
    return strchr("0'\\*", text[1]) != NULL ? 2 : 0;
}

/* Repeats the last byte of a key. Returns how many characters that has, or zero. */
static size_t
repeat_byte(scenario_key_t *key, const char *text)
{
    char *end;
    size_t times = strtoul(text + 1, &end, 10);

    if (key->length == 0 || times == 0 || times > CDEDUPE_KEY_MAX) {
        return 0;
    }
    key->bytes = must_resize(key->bytes, key->length + times);
    memset(key->bytes + key->length, key->bytes[key->length - 1], times - 1);
    key->length += times - 1;
    return (size_t)(end - text);
}

/* Reads what is in quotes. */
static bool
read_key(scenario_key_t *key, const char *text, size_t length)
{
    size_t used;

    for (size_t i = 0; i < length; i += used) {
        if (text[i] == '*') {
            used = repeat_byte(key, text + i);
        } else {
            key->bytes = must_resize(key->bytes, key->length + 1);
            used = read_byte(text + i, length - i, &key->bytes[key->length]);
            key->length++;
        }
        if (used == 0) {
            return false;
        }
    }
    return key->length <= CDEDUPE_KEY_MAX;
}

/* Numbers a key in quotes; see op_quoted_key_t. */
static bool
quoted_key(void *context, const char *text, size_t length, unsigned *number)
{
    scenario_t *scenario = context;
    scenario_key_t key = {.text = must_copy(text - 1, length + 2)};
    unsigned known;

    if (!read_key(&key, text, length)) {
        free(key.text);
        free(key.bytes);
        return false;
    }
    known = scenario_key_number(scenario, key.bytes, key.length);
    if (known < scenario_key_limit(scenario)) {
        *number = known;
        free(key.text);
        free(key.bytes);
        return true;
    }
    *number = known;
    scenario->keys =
        must_resize(scenario->keys, (scenario->key_count + 1) * sizeof(*scenario->keys));
    scenario->keys[scenario->key_count++] = key;
    return true;
}

/* ---------------------------------------------------------------------------------------------- */
/* Reading                                                                                        */

typedef struct reader {
    scenarios_t *scenarios;
    const char *file;
    unsigned line;
    scenario_options_t options;
    scenario_t *scenario; /* NULL: none has begun. */
    char *text;           /* Of the scenario that has begun, after its name. */
} reader_t;

/* Notes the first error. Always returns false. */
__attribute__((format(printf, 3, 4))) static bool
fail(reader_t *reader, unsigned line, const char *format, ...)
{
    char *error = reader->scenarios->error;
    size_t size = sizeof(reader->scenarios->error);
    va_list arguments;
    int length;

    if (error[0] == 0) {
        length = snprintf(error, size, "%s:%u: ", reader->file, line);
        va_start(arguments, format);
        vsnprintf(error + length, size - (size_t)length, format, arguments);
        va_end(arguments);
    }
    return false;
}

/* Returns whether the operation was an option. */
static bool
choose(scenario_options_t *options, const struct op *op)
{
    switch (op->kind) {
    case OP_MERGING:
        options->merging = true;
        return true;
    case OP_SUPPRESSING:
        options->suppressing = true;
        return true;
    case OP_BOUND:
        options->maximum_keys = op->argument;
        return true;
    case OP_BYTES:
        options->maximum_bytes = op->argument;
        return true;
    case OP_BATCH:
        options->batch_size = op->argument;
        return true;
    default:
        return false;
    }
}

static bool
is_one_of(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(word, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool
is_result(const char *word)
{
    for (size_t i = 0; i < sizeof(result_words) / sizeof(result_words[0]); i++) {
        if (strcmp(word, result_words[i].word) == 0) {
            return true;
        }
    }
    return false;
}

/* "fill5", "refill5", "drop5": how many, or zero. `word` is one of these without the number. */
static size_t
count_of(const char *text, const char *word)
{
    size_t length = strlen(word);

    return strncmp(text, word, length) == 0 ? strtoul(text + length, NULL, 10) : 0;
}

/* "+a5", "~a5", "-a", a status, "fill5", "refill5" or "drop5". */
static bool
is_item(scenario_t *scenario, const char *word)
{
    struct op op;
    char copy[LINE_MAX_LENGTH];

    if (is_one_of(word, status_words, 3) || count_of(word, "fill") > 0 ||
        count_of(word, "refill") > 0 || count_of(word, "drop") > 0) {
        return true;
    }
    if (strchr("+~-", word[0]) == NULL) {
        return false;
    }
    snprintf(copy, sizeof(copy), "%s", word);
    copy[0] = copy[0] == '~' ? '+' : copy[0];
    return op_parse(&op, copy, quoted_key, scenario) && op.count == 1 && !op.updates[0].by_pin &&
           (op.updates[0].number == NUMBER_GIVEN || op.updates[0].number == NUMBER_NONE);
}

static bool
is_counter(const char *word)
{
    static const cdedupe_statistics_t none;
    const char *sign = strchr(word, '=');

    return sign != NULL && isdigit((unsigned char)sign[1]) &&
           scenario_counter(word, (size_t)(sign - word), &none, 0) != UINT64_MAX;
}

/* Whether a word may be in what an operation is expected to come to. */
static bool
is_expectation_of(scenario_t *scenario, const struct op *op, const char *word, size_t place)
{
    bool is_sign = strcmp(word, "{") == 0 || strcmp(word, "}") == 0;

    switch (op->kind) {
    case OP_PUT:
        return place < op->count && is_one_of(word, outcome_words, 8);
    case OP_STATUS:
    case OP_RESTART:
    case OP_CLAIM:
    case OP_FINISH:
    case OP_PUT_BACK:
        return place == 0 && is_result(word);
    case OP_TAKE:
    case OP_FLUSH:
        return is_sign || is_item(scenario, word) || (place == 0 && is_result(word)) ||
               (op->kind == OP_FLUSH && strcmp(word, "|") == 0);
    case OP_STATISTICS:
        return is_counter(word);
    default:
        return false;
    }
}

/* Cuts the first word off a text. NULL: there is none. */
static char *
next_word(char **text)
{
    char *word;

    *text += strspn(*text, " \t\n");
    if (**text == 0) {
        return NULL;
    }
    word = *text;
    *text += strcspn(*text, " \t\n");
    if (**text != 0) {
        *(*text)++ = 0;
    }
    return word;
}

static bool
read_expectation(reader_t *reader, scenario_step_t *step, char *text)
{
    size_t length = 0, place = 0, size = strlen(text) + 2;
    char *word;

    step->expected = must_resize(NULL, size);
    step->expected[0] = 0;
    for (; (word = next_word(&text)) != NULL; place++) {
        if (!is_expectation_of(reader->scenario, &step->op, word, place)) {
            return fail(reader, reader->scenario->line, "\"%s\" cannot come of \"%s\"", word,
                        step->op.text);
        }
        length += (size_t)snprintf(step->expected + length, size - length, "%s%s",
                                   place > 0 ? " " : "", word);
    }
    if (place == 0 || (step->op.kind == OP_PUT && place != step->op.count)) {
        return fail(reader, reader->scenario->line, "\"->\" after \"%s\" names %zu results",
                    step->op.text, place);
    }
    return true;
}

/* Gives the updates without a number the next ones. */
static void
number_updates(scenario_t *scenario, struct op *op)
{
    for (size_t i = 0; i < op->count; i++) {
        if (op->updates[i].number == NUMBER_NEXT) {
            op->updates[i].id = ++scenario->ids;
        }
    }
}

static bool
is_allowed(const struct op *op)
{
    for (size_t i = 0; i < op->count; i++) {
        if (op->updates[i].number == NUMBER_FIRST) {
            return false;
        }
    }
    switch (op->kind) {
    case OP_LOOP:
    case OP_SLOT:
    case OP_BARE:
        return false;
    case OP_FILL:
    case OP_DROP:
        return op->argument <= KEYS_FILL;
    default:
        return true;
    }
}

static bool
read_word(reader_t *reader, const char *word)
{
    scenario_t *scenario = reader->scenario;
    struct op op;

    if (!op_parse(&op, word, quoted_key, scenario) || !is_allowed(&op)) {
        return fail(reader, scenario->line, "\"%s\" is no word", word);
    }
    if (choose(&scenario->options, &op)) {
        return scenario->step_count == 0 ||
               fail(reader, scenario->line, "\"%s\" must be before all other words", word);
    }
    number_updates(scenario, &op);
    scenario->steps =
        must_resize(scenario->steps, (scenario->step_count + 1) * sizeof(*scenario->steps));
    scenario->steps[scenario->step_count++] = (scenario_step_t){.op = op};
    return true;
}

/* Reads the words up to a ";", and what the last of them is expected to come to. */
static bool
read_part(reader_t *reader, char *text)
{
    scenario_t *scenario = reader->scenario;
    char *arrow = strstr(text, "->");
    size_t before = scenario->step_count;
    char *word;

    if (arrow != NULL) {
        *arrow = 0;
    }
    while ((word = next_word(&text)) != NULL) {
        if (!read_word(reader, word)) {
            return false;
        }
    }
    if (arrow == NULL) {
        return true;
    }
    if (scenario->step_count == before) {
        return fail(reader, scenario->line, "nothing is before \"->\"");
    }
    return read_expectation(reader, &scenario->steps[scenario->step_count - 1], arrow + 2);
}

/* Ties the two ends of each repetition together. */
static bool
tie_repeats(reader_t *reader)
{
    scenario_t *scenario = reader->scenario;
    size_t open[8], depth = 0;

    for (size_t i = 0; i < scenario->step_count; i++) {
        if (scenario->steps[i].op.kind == OP_REPEAT) {
            if (depth == 8) {
                return fail(reader, scenario->line, "too many \"(\" in each other");
            }
            open[depth++] = i;
        } else if (scenario->steps[i].op.kind == OP_REPEAT_END) {
            if (depth == 0) {
                return fail(reader, scenario->line, "\")\" without \"(\"");
            }
            scenario->steps[i].jump = open[--depth];
            scenario->steps[open[depth]].jump = i;
        }
    }
    return depth == 0 || fail(reader, scenario->line, "\"(\" without \")\"");
}

/* Reads the scenario whose last line was read. */
static bool
end_scenario(reader_t *reader)
{
    scenario_t *scenario = reader->scenario;
    char *part, *rest = reader->text;
    bool is_right = true, has_expectation = false;

    if (scenario == NULL) {
        return true;
    }
    while (is_right && (part = strsep(&rest, ";")) != NULL) {
        is_right = read_part(reader, part);
    }
    for (size_t i = 0; i < scenario->step_count; i++) {
        has_expectation |= scenario->steps[i].expected != NULL;
    }
    if (is_right && !has_expectation) {
        is_right = fail(reader, scenario->line, "it expects nothing");
    }
    is_right = is_right && tie_repeats(reader);
    free(reader->text);
    reader->text = NULL;
    reader->scenario = NULL;
    return is_right;
}

static bool
read_levels(reader_t *reader, scenario_t *scenario, char *text)
{
    static const struct {
        const char *word;
        unsigned levels;
    } words[] = {{"C", SCENARIO_BYTES | SCENARIO_HANDLES},
                 {"bytes", SCENARIO_BYTES},
                 {"handles", SCENARIO_HANDLES},
                 {"Swift", SCENARIO_SWIFT}};
    char *word;

    scenario->levels = 0;
    while ((word = next_word(&text)) != NULL) {
        unsigned levels = 0;

        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
            levels |= strcmp(word, words[i].word) == 0 ? words[i].levels : 0;
        }
        if (levels == 0) {
            return fail(reader, reader->line, "\"%s\" is no level", word);
        }
        scenario->levels |= levels;
    }
    return scenario->levels != 0 || fail(reader, reader->line, "no level is in brackets");
}

/* Reads "NAME [LEVELS]". */
static bool
read_name(reader_t *reader, scenario_t *scenario, char *text)
{
    char *bracket = strchr(text, '['), *end = strchr(text, ']');

    scenario->levels = SCENARIO_ALL;
    if (bracket != NULL) {
        if (end == NULL || end[1] != 0) {
            return fail(reader, reader->line, "the levels must end with \"]:\"");
        }
        *end = 0;
        if (!read_levels(reader, scenario, bracket + 1)) {
            return false;
        }
        *bracket = 0;
    }
    for (end = text + strlen(text); end > text && end[-1] == ' '; end--) {
        end[-1] = 0;
    }
    scenario->name = must_copy(text, strlen(text));
    for (size_t i = 0; i + 1 < reader->scenarios->count; i++) {
        if (strcmp(reader->scenarios->list[i].name, text) == 0) {
            return fail(reader, reader->line, "a second scenario \"%s\"", text);
        }
    }
    return *text != 0 || fail(reader, reader->line, "a scenario without a name");
}

static bool
begin_scenario(reader_t *reader, char *text)
{
    scenarios_t *scenarios = reader->scenarios;
    char *colon = strchr(text, ':');

    if (colon == NULL) {
        return fail(reader, reader->line, "no \":\" after the name of a scenario");
    }
    *colon = 0;
    scenarios->list =
        must_resize(scenarios->list, (scenarios->count + 1) * sizeof(*scenarios->list));
    reader->scenario = &scenarios->list[scenarios->count++];
    *reader->scenario = (scenario_t){.file = reader->file,
                                     .line = reader->line,
                                     .options = reader->options,
                                     .key_texts = scenarios->key_texts};
    reader->text = must_copy(colon + 1, strlen(colon + 1));
    return read_name(reader, reader->scenario, text);
}

/* "options WORDS": for all scenarios that follow. */
static bool
read_options(reader_t *reader, char *text)
{
    struct op op;
    char *word;

    reader->options = (scenario_options_t){.batch_size = 100};
    while ((word = next_word(&text)) != NULL) {
        if (!op_parse(&op, word, NULL, NULL) || !choose(&reader->options, &op)) {
            return fail(reader, reader->line, "\"%s\" is no option", word);
        }
    }
    return true;
}

static bool
read_line(reader_t *reader, char *text)
{
    size_t length = strcspn(text, "\n");

    if (text[length] == 0 && length + 1 >= LINE_MAX_LENGTH) {
        return fail(reader, reader->line, "a line that is too long");
    }
    text[length] = 0;
    if (text[0] == ' ' && text[strspn(text, " ")] != 0) {
        if (reader->scenario == NULL) {
            return fail(reader, reader->line, "a line that continues no scenario");
        }
        reader->text = must_resize(reader->text, strlen(reader->text) + length + 2);
        strcat(strcat(reader->text, ";"), text);
        return true;
    }
    if (!end_scenario(reader)) {
        return false;
    }
    if (text[0] == 0 || text[0] == '#') {
        return true;
    }
    if (strncmp(text, "options", strlen("options")) == 0 && strchr(text, ':') == NULL) {
        return read_options(reader, text + strlen("options"));
    }
    return begin_scenario(reader, text);
}

void
scenarios_open(scenarios_t *scenarios, const char *path)
{
    reader_t reader = {.scenarios = scenarios, .options.batch_size = 100};
    char line[LINE_MAX_LENGTH];
    FILE *file = fopen(path, "r");
    bool is_right = true;

    memset(scenarios, 0, sizeof(*scenarios));
    scenarios->path = must_copy(path, strlen(path));
    scenarios->key_texts = make_key_texts();
    reader.file =
        strrchr(scenarios->path, '/') != NULL ? strrchr(scenarios->path, '/') + 1 : scenarios->path;
    if (file == NULL) {
        fail(&reader, 0, "it cannot be read");
        return;
    }
    while (is_right && fgets(line, sizeof(line), file) != NULL) {
        reader.line++;
        is_right = read_line(&reader, line);
    }
    if (is_right) {
        end_scenario(&reader);
    }
    if (scenarios->error[0] == 0 && scenarios->count == 0) {
        fail(&reader, reader.line, "it has no scenario");
    }
    free(reader.text);
    fclose(file);
}

static void
close_scenario(scenario_t *scenario)
{
    for (size_t i = 0; i < scenario->step_count; i++) {
        free(scenario->steps[i].expected);
    }
    for (size_t i = 0; i < scenario->key_count; i++) {
        free(scenario->keys[i].text);
        free(scenario->keys[i].bytes);
    }
    free(scenario->steps);
    free(scenario->keys);
    free(scenario->name);
}

void
scenarios_close(scenarios_t *scenarios)
{
    for (size_t i = 0; i < scenarios->count; i++) {
        close_scenario(&scenarios->list[i]);
    }
    free(scenarios->list);
    free(scenarios->path);
    free(scenarios->key_texts);
}

/* ---------------------------------------------------------------------------------------------- */
/* Judging                                                                                        */

/* The words of a text. */
typedef struct words {
    char *copy;
    char **list;
    size_t count;
} words_t;

static words_t
split(const char *text)
{
    words_t words = {.copy = must_copy(text, strlen(text))};
    char *rest = words.copy, *word;

    words.list = must_resize(NULL, (strlen(text) + 1) * sizeof(*words.list));
    while ((word = next_word(&rest)) != NULL) {
        words.list[words.count++] = word;
    }
    return words;
}

static void
free_words(words_t *words)
{
    free(words->copy);
    free(words->list);
}

/* Which of the fill keys come next. */
typedef struct fills {
    unsigned next, next_again;
    bool dropped[KEYS_FILL];
} fills_t;

/* Whether an actual word is a value of the fill key with this number. */
static bool
is_fill(const char *word, char sign, unsigned key)
{
    char wanted[16];

    snprintf(wanted, sizeof(wanted), "%cf%u", sign, key);
    return strcmp(word, wanted) == 0;
}

/* Whether an actual word is the deletion of a fill key that was not deleted before. */
static bool
is_other_drop(fills_t *fills, const char *word)
{
    unsigned long key = word[0] == '-' && word[1] == 'f' ? strtoul(word + 2, NULL, 10) : KEYS_FILL;

    if (key >= KEYS_FILL || fills->dropped[key]) {
        return false;
    }
    fills->dropped[key] = true;
    return true;
}

/* Compares one word of an expectation. Returns how many actual words it stands for; zero: none. */
static size_t
match_word(fills_t *fills, const char *expected, char *const *actual, size_t count)
{
    size_t filled = count_of(expected, "fill"), again = count_of(expected, "refill");
    size_t dropped = count_of(expected, "drop"), all = filled + again + dropped;
    size_t wanted = all == 0 ? 1 : all;

    if (count < wanted) {
        return 0;
    }
    for (size_t i = 0; i < wanted; i++) {
        if (!(filled > 0    ? is_fill(actual[i], '+', fills->next++)
              : again > 0   ? is_fill(actual[i], '~', fills->next_again++)
              : dropped > 0 ? is_other_drop(fills, actual[i])
                            : strcmp(expected, actual[i]) == 0)) {
            return 0;
        }
    }
    return wanted;
}

/* Moves the first of the actual words that is `expected` to the front. */
static void
bring_to_front(const char *expected, char **actual, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(actual[i], expected) == 0) {
            char *found = actual[i];

            memmove(actual + 1, actual, i * sizeof(*actual));
            actual[0] = found;
            return;
        }
    }
}

/* How many words are before the "}". */
static size_t
words_in_braces(const words_t *expected, size_t from)
{
    size_t end = from;

    while (end < expected->count && strcmp(expected->list[end], "}") != 0) {
        end++;
    }
    return end - from;
}

static bool
match_words(const words_t *expected, words_t *actual)
{
    fills_t fills = {0};
    size_t place = 0, unordered = 0;

    for (size_t i = 0; i < expected->count; i++) {
        size_t left = actual->count - place, matched;

        if (strcmp(expected->list[i], "{") == 0) {
            unordered = words_in_braces(expected, i + 1);
            continue;
        }
        if (strcmp(expected->list[i], "}") == 0) {
            continue;
        }
        if (unordered > 0) {
            bring_to_front(expected->list[i], actual->list + place,
                           unordered < left ? unordered : left);
            unordered--;
        }
        matched = match_word(&fills, expected->list[i], actual->list + place, left);
        if (matched == 0) {
            return false;
        }
        place += matched;
    }
    return place == actual->count;
}

bool
scenario_matches(const scenario_step_t *step, const char *actual)
{
    words_t expected = split(step->expected), words = split(actual);
    bool matches = match_words(&expected, &words);

    free_words(&expected);
    free_words(&words);
    return matches;
}

bool
scenario_check_counters(const scenario_step_t *step, const cdedupe_statistics_t *statistics,
                        uint64_t wakes, char *fault, size_t size)
{
    words_t expected = split(step->expected);
    size_t length = 0;

    fault[0] = 0;
    for (size_t i = 0; i < expected.count; i++) {
        const char *word = expected.list[i], *sign = strchr(word, '=');
        uint64_t value = scenario_counter(word, (size_t)(sign - word), statistics, wakes);

        if (value != strtoull(sign + 1, NULL, 10) && length < size) {
            length +=
                (size_t)snprintf(fault + length, size - length, "%s is %" PRIu64 "; ", word, value);
        }
    }
    free_words(&expected);
    return length == 0;
}
