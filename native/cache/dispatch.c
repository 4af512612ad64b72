/* One command: who may run it, and what it is told when not. */
#include <stdio.h>

#include "parts.h"

#define NAMES_BEHIND_WRONG_COMMAND 128
#define RESIZED_MOST 8 /* while one command runs */

/* ---- refusals in Redis' words ---- */

void nr_fail_arity(struct call *call)
{
    nr_reply_error(call->reply, "ERR wrong number of arguments for '%s' command", call->command->name);
}

void nr_fail_syntax(struct call *call) { nr_reply_error(call->reply, NR_SYNTAX); }

void nr_fail_subcommand(struct call *call)
{
    char upper[32];
    size_t i;

    for (i = 0; call->command->name[i] && i + 1 < sizeof upper; i++)
        upper[i] = (char)(call->command->name[i] & ~0x20);
    upper[i] = 0;
    nr_reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                   (int)(call->arguments[1].size < 128 ? call->arguments[1].size : 128),
                   (const char *)call->arguments[1].bytes, upper);
}

static bool fits_arity(const struct nr_command *command, uint32_t count)
{
    return command->arity < 0 ? count >= (uint32_t)-command->arity : count == (uint32_t)command->arity;
}

void nr_run_subcommand(struct call *call, const struct nr_command *subcommands, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!nr_bytes_are(call->arguments[1], subcommands[i].name))
            continue;
        if (fits_arity(&subcommands[i], call->count)) {
            if (!call->probing)
                subcommands[i].run(call);
        } else
            nr_reply_error(call->reply, "ERR wrong number of arguments for '%s|%s' command",
                           call->command->name, subcommands[i].name);
        return;
    }
    nr_fail_subcommand(call);
}

static void fail_unknown(struct call *call)
{
    char text[NAMES_BEHIND_WRONG_COMMAND * 2 + 8];
    size_t size = 0;
    struct nr_bytes name = call->arguments[0];

    text[0] = 0;
    for (uint32_t i = 1; i < call->count && size < NAMES_BEHIND_WRONG_COMMAND; i++) {
        size_t room = NAMES_BEHIND_WRONG_COMMAND - size;
        struct nr_bytes word = call->arguments[i];

        size += (size_t)snprintf(text + size, sizeof text - size, "'%.*s' ",
                                 (int)(word.size < room ? word.size : room), (const char *)word.bytes);
        if (size >= sizeof text)
            break;
    }
    nr_reply_error(call->reply, "ERR unknown command '%.*s', with args beginning with: %s",
                   (int)(name.size < 128 ? name.size : 128), (const char *)name.bytes, text);
}

/* ---- one command ---- */

/* As Redis: a wrong subcommand is not queued. */
static bool may_be_queued(const struct call *call)
{
    size_t before = call->reply->size;
    struct call probe = *call;

    if (!(call->command->flags & NR_CONTAINER))
        return true;
    probe.probing = true;
    call->command->run(&probe);
    return call->reply->size == before;
}

/* False: it was refused, with a reply. */
static bool is_allowed(struct call *call)
{
    const struct nr_command *command = call->command;
    struct client *client = call->client;

    if (!command)
        fail_unknown(call);
    else if (!fits_arity(command, call->count))
        nr_fail_arity(call);
    else if (!client->admitted && !(command->flags & NR_NO_AUTH))
        nr_reply_error(call->reply, "NOAUTH Authentication required.");
    else if (client->resp == 2 && !(command->flags & NR_SUBSCRIBED) && nr_client_is_subscribed(client))
        nr_reply_error(call->reply,
                       "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
                       "RESET are allowed in this context",
                       command->name);
    else if (nr_client_in_multi(client) && command->flags & NR_NO_MULTI)
        nr_reply_error(call->reply, "ERR Command not allowed inside a transaction");
    else if (!nr_client_in_multi(client) || may_be_queued(call))
        return !call->server->cluster_host || nr_cluster_admits(call);
    return false;
}

static void run_once(struct call *call)
{
    struct nr_cache_server *server = call->server;

    server->retry = NR_RETRY_NOT;
    server->only_tried = server->was_patient = false;
    if (nr_table_successor(server->table) != 0)
        nr_server_follow(server);
    call->command->run(call);
    if (server->changed_bytes || server->changed_everything)
        nr_tracking_flush(server, call->client);
}

static void run(struct call *call)
{
    size_t before = call->reply->size;

    run_once(call);
    for (int i = 0; i < RESIZED_MOST && call->server->retry == NR_RETRY_NOW; i++) {
        call->reply->size = before;
        run_once(call);
    }
    if (call->server->retry == NR_RETRY_LATER) {
        call->reply->size = before;
        return;
    }
    call->client->held_since_ns = 0;
    if (call->server->retry == NR_RETRY_NOW && call->command->run == nr_run_exec)
        nr_transaction_free(call->client); /* it has been answered: the successor is not to be had */
}

void nr_server_handle(struct call *call)
{
    struct client *client = call->client;
    size_t before = call->reply->size;
    bool skipped = client->skip_next, was_off = client->replies_off;

    client->skip_next = false;
    call->server->retry = NR_RETRY_NOT;
    call->command = nr_command_find(call->server, call->arguments[0]);
    if (!is_allowed(call))
        nr_transaction_refuse(client);
    else {
        client->last = call->command;
        if (nr_client_in_multi(client) && !(call->command->flags & NR_NO_QUEUE))
            nr_transaction_queue(call);
        else {
            run(call);
            if (call->server->retry == NR_RETRY_LATER) {
                client->skip_next = skipped;
                return;
            }
            if (client->tracking & NR_TRACKING_CACHING && call->command->run != nr_run_client)
                client->tracking &= (uint8_t)~NR_TRACKING_CACHING;
        }
    }
    if (call->reply->size > before && call->reply->bytes[before] == '-')
        nr_server_count(&call->server->statistics.errors);
    if (skipped || (was_off && client->replies_off)) /* CLIENT REPLY ON is answered */
        call->reply->size = before;
}
