/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the words of the test language; see operation.h. */
#include "operation.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CDedupe.h"

struct word {
    const char *text;
    enum op_kind kind;
    unsigned argument;
    bool number_follows; /* `argument` is what stands for the number if it may be left out. */
};

static const struct word words[] = {
    {"wait", OP_STATUS, CDEDUPE_STATUS_WAIT_FOR_DATASTORE, false},
    {"resync", OP_STATUS, CDEDUPE_STATUS_RESYNC_IN_PROGRESS, false},
    {"sync", OP_STATUS, CDEDUPE_STATUS_IN_SYNC, false},
    {"restart", OP_RESTART, 0, false},
    {"take", OP_TAKE, OP_ALL, true},
    {"flush", OP_FLUSH, 0, false},
    {"put_back", OP_PUT_BACK, OP_ALL, true},
    {"collect", OP_COLLECT, 0, false},
    {"claim", OP_CLAIM, CDEDUPE_CLAIM_SINGLE_BATCH, false},
    {"claim-loop", OP_CLAIM, CDEDUPE_CLAIM_LOOP, false},
    {"release", OP_RELEASE, 0, false},
    {"loop", OP_LOOP, 0, false},
    {"stop", OP_STOP, 0, false},
    {"finish", OP_FINISH, CDEDUPE_FINISH_WHEN_DELIVERED, false},
    {"finish-empty", OP_FINISH, CDEDUPE_FINISH_WHEN_EMPTY, false},
    {"stats", OP_STATISTICS, 0, false},
    {"slot", OP_SLOT, 0, false},
    {"fill", OP_FILL, 0, true},
    {"drop", OP_DROP, 0, true},
    {"laps", OP_LAPS, 0, true},
    {"bare", OP_BARE, 1, false},
    {"merging", OP_MERGING, 1, false},
    {"suppressing", OP_SUPPRESSING, 1, false},
    {"bound", OP_BOUND, 0, true},
    {"bytes", OP_BYTES, 0, true},
    {"batch", OP_BATCH, 0, true},
};

/* Reads all of `text` as a number. Nothing at all stands for `otherwise`, unless that is zero. */
static bool
parse_number(const char *text, unsigned otherwise, unsigned *number)
{
    char *end;

    if (*text == 0 && otherwise != 0) {
        *number = otherwise;
        return true;
    }
    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    *number = (unsigned)strtoul(text, &end, 10);
    return *end == 0 && *number <= OP_NUMBER_MAX;
}

/* "10x(" */
static bool
parse_repeat(struct op *op, const char *text)
{
    char *end;

    op->kind = OP_REPEAT;
    op->argument = (unsigned)strtoul(text, &end, 10);
    return op->argument > 0 && op->argument <= OP_NUMBER_MAX && strcmp(end, "x(") == 0;
}

static bool
parse_call(struct op *op, const char *text)
{
    if ((text[0] == '@' || text[0] == '!') && islower((unsigned char)text[1]) && text[2] == 0) {
        op->kind = text[0] == '@' ? OP_PIN : OP_UNPIN;
        op->argument = (unsigned)(text[1] - 'a');
        return true;
    }
    if (strcmp(text, ")") == 0) {
        op->kind = OP_REPEAT_END;
        return true;
    }
    if (isdigit((unsigned char)text[0])) {
        return parse_repeat(op, text);
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        size_t length = strlen(words[i].text);

        op->kind = words[i].kind;
        op->argument = words[i].argument;
        if (strcmp(text, words[i].text) == 0 &&
            (!words[i].number_follows || words[i].argument != 0)) {
            return true;
        }
        if (words[i].number_follows && strncmp(text, words[i].text, length) == 0 &&
            parse_number(text + length, words[i].argument, &op->argument)) {
            return true;
        }
    }
    return false;
}

/* Reads the key at `text`. Returns what follows it, or NULL if it is none. */
static const char *
parse_key(struct op_update *update, const char *text, op_quoted_key_t *quoted, void *context)
{
    const char *end;

    if (isalpha((unsigned char)*text)) {
        update->key = (unsigned)(tolower((unsigned char)*text) - 'a');
        update->by_pin = isupper((unsigned char)*text) != 0;
        return text + 1;
    }
    if (*text != '\'' || quoted == NULL) {
        return NULL;
    }
    for (end = text + 1; *end != '\''; end++) {
        end += *end == '\\' && end[1] != 0;
        if (*end == 0) {
            return NULL;
        }
    }
    return quoted(context, text + 1, (size_t)(end - text - 1), &update->key) ? end + 1 : NULL;
}

static const char *
parse_id(struct op_update *update, const char *text)
{
    char *end;

    if (*text == '#') {
        update->number = NUMBER_NEXT;
        return text + 1;
    }
    if (isdigit((unsigned char)*text)) {
        update->number = NUMBER_GIVEN;
        update->id = strtoull(text, &end, 10);
        return end;
    }
    update->number = update->deletion ? NUMBER_NONE : NUMBER_NEXT;
    return text;
}

/* Reads the update at `text`. Returns what follows it, or NULL if it is none. */
static const char *
parse_update(struct op_update *update, const char *text, op_quoted_key_t *quoted, void *context)
{
    bool is_first = text[0] == '=';

    if (strchr("+-=", text[0]) == NULL) {
        return NULL;
    }
    update->deletion = text[0] == '-';
    text = parse_key(update, text + 1, quoted, context);
    if (text == NULL) {
        return NULL;
    }
    text = parse_id(update, text);
    if (is_first) {
        update->number = NUMBER_FIRST;
    }
    return text;
}

static bool
parse_updates(struct op *op, const char *text, op_quoted_key_t *quoted, void *context)
{
    op->kind = OP_PUT;
    while (text != NULL && *text != 0) {
        if (op->count == OP_UPDATES_MAX) {
            return false;
        }
        text = parse_update(&op->updates[op->count++], text, quoted, context);
    }
    return text != NULL;
}

bool
op_parse(struct op *op, const char *word, op_quoted_key_t *quoted, void *context)
{
    memset(op, 0, sizeof(*op));
    snprintf(op->text, sizeof(op->text), "%s", word);
    if (strchr("+-=", word[0]) != NULL) {
        return parse_updates(op, word, quoted, context);
    }
    return parse_call(op, word);
}
