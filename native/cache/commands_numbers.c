/* INCR and its relatives: a number is decimal text; INCR makes it an integer for Python, too. */
#include <math.h>
#include <stdio.h>

#include "editing.h"

static int write_text(struct editing *editing, uint8_t kind, const struct nr_entry *entry,
                      struct nr_change *change)
{
    editing->parts[0] = (struct iovec){editing->text, strlen(editing->text)};
    change->parts = editing->parts;
    change->count = 1;
    change->kind = kind;
    change->expires_ms = entry ? NR_KEEP_EXPIRY : 0;
    return 0;
}

static int add_integer(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                       struct nr_change *change)
{
    struct editing *editing = context;
    int64_t number = 0;

    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    if (entry && !nr_read_integer((struct nr_bytes){bytes, entry->size_bytes}, &number))
        return -EILSEQ;
    if (__builtin_add_overflow(number, editing->number, &number))
        return -ERANGE;
    editing->number = number;
    snprintf(editing->text, sizeof editing->text, "%lld", (long long)number);
    return write_text(editing, NR_KIND_INTEGER, entry, change);
}

static void add_to_number(struct call *call, int64_t delta)
{
    struct nr_key key = nr_call_key(call, 1);
    struct editing editing;
    int result;

    editing.number = delta;
    result = nr_string_update(call, &key, add_integer, &editing);
    if (result == -EILSEQ)
        nr_reply_error(call->reply, NR_NOT_INTEGER);
    else if (result == -ERANGE)
        nr_reply_error(call->reply, "ERR increment or decrement would overflow");
    else if (result < 0)
        nr_string_fail(call, result, &key);
    else
        nr_reply_integer(call->reply, editing.number);
}

void nr_run_incr(struct call *call) { add_to_number(call, 1); }
void nr_run_decr(struct call *call) { add_to_number(call, -1); }

void nr_run_incrby(struct call *call)
{
    int64_t delta;

    if (nr_call_integer(call, 2, &delta))
        add_to_number(call, delta);
}

void nr_run_decrby(struct call *call)
{
    int64_t delta;

    if (!nr_call_integer(call, 2, &delta))
        return;
    if (delta == INT64_MIN)
        nr_reply_error(call->reply, "ERR decrement would overflow");
    else
        add_to_number(call, -delta);
}

/* As Redis: 17 digits behind the point, without the zeroes at the end. */
static void print_double(long double number, char *text, size_t room)
{
    char *end;

    snprintf(text, room, "%.17Lf", number);
    end = text + strlen(text);
    if (strchr(text, '.')) {
        while (end[-1] == '0')
            *--end = 0;
        if (end[-1] == '.')
            *--end = 0;
    }
    if (strcmp(text, "-0") == 0)
        strcpy(text, "0");
}

static int add_double(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                      struct nr_change *change)
{
    struct editing *editing = context;
    long double number = 0, delta = 0;

    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    if (entry && !nr_read_double((struct nr_bytes){bytes, entry->size_bytes}, &number))
        return -EILSEQ;
    if (!nr_read_double(editing->argument, &delta))
        return -EILSEQ;
    number += delta;
    if (isnan(number) || isinf(number))
        return -ERANGE;
    print_double(number, editing->text, sizeof editing->text);
    return write_text(editing, NR_KIND_BYTES, entry, change);
}

void nr_run_incrbyfloat(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    struct editing editing;
    int result;

    editing.argument = call->arguments[2];
    result = nr_string_update(call, &key, add_double, &editing);
    if (result == -EILSEQ)
        nr_reply_error(call->reply, "ERR value is not a valid float");
    else if (result == -ERANGE)
        nr_reply_error(call->reply, "ERR increment would produce NaN or Infinity");
    else if (result < 0)
        nr_string_fail(call, result, &key);
    else
        nr_reply_string(call->reply, editing.text);
}
