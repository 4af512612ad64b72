/* SUBSCRIBE, PUBLISH: each process knows its own subscribers, and how many the others have. */
#include "parts.h"

enum shape { MESSAGE, PATTERN_MESSAGE };

/* ---- delivering ---- */

static void write_message(struct nr_reply *reply, enum shape shape, struct nr_bytes pattern,
                          struct nr_bytes channel, struct nr_bytes message)
{
    nr_reply_push(reply, shape == MESSAGE ? 3 : 4);
    nr_reply_string(reply, shape == MESSAGE ? "message" : "pmessage");
    if (shape == PATTERN_MESSAGE)
        nr_reply_bulk(reply, pattern.bytes, pattern.size);
    nr_reply_bulk(reply, channel.bytes, channel.size);
    nr_reply_bulk(reply, message.bytes, message.size);
}

/* Sending may cut a client, which changes the topic: its list is copied before. */
static uint64_t deliver(struct nr_cache_server *server, const struct topic *topic, enum shape shape,
                        struct nr_bytes channel, struct nr_bytes message)
{
    uint32_t count = topic->count;
    uint64_t *ids = malloc(count * sizeof *ids + 1), delivered = 0;
    struct nr_reply *texts = server->pushes;

    if (!ids)
        return 0;
    memcpy(ids, topic->clients, count * sizeof *ids);
    for (int i = 0; i < 2; i++) {
        texts[i].version = (uint8_t)(2 + i);
        texts[i].size = 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct client *client = nr_client_find(server, ids[i]);
        struct nr_reply *text;

        if (!client)
            continue;
        text = &texts[client->resp == 3];
        if (text->size == 0)
            write_message(text, shape, nr_topic_name(topic), channel, message);
        nr_client_send(server, client, text);
        delivered++;
    }
    free(ids);
    for (int i = 0; i < 2; i++)
        if (texts[i].room > 1u << 20)
            nr_reply_free(&texts[i]);
    return delivered;
}

uint64_t nr_publish_here(struct nr_cache_server *server, struct nr_bytes channel,
                         struct nr_bytes message)
{
    const struct topic *topic = nr_topic_find(server, &server->channels, channel);
    uint64_t delivered = 0;

    nr_topics_begin(server);
    if (topic && topic->count)
        delivered = deliver(server, topic, MESSAGE, channel, message);
    for (topic = nr_topic_after(&server->patterns, NULL); topic;
         topic = nr_topic_after(&server->patterns, topic))
        if (topic->count && nr_glob(nr_topic_name(topic), channel))
            delivered += deliver(server, topic, PATTERN_MESSAGE, channel, message);
    nr_topics_end(server);
    return delivered;
}

/* Adds up subscribers elsewhere, and marks the processes that have any. */
static uint64_t count_elsewhere(const struct nr_cache_server *server, const struct topic *topic,
                                uint64_t *processes)
{
    if (!topic || !topic->remote_total)
        return 0;
    for (uint32_t i = 0; i < server->settings.processes; i++)
        if (topic->remote[i])
            *processes |= UINT64_C(1) << i;
    return topic->remote_total;
}

void nr_run_publish(struct call *call)
{
    struct nr_cache_server *server = call->server;
    struct nr_bytes channel = call->arguments[1], message = call->arguments[2];
    const uint32_t size = (uint32_t)channel.size;
    const struct iovec parts[3] = {{(void *)&size, sizeof size},
                                   {(void *)channel.bytes, channel.size},
                                   {(void *)message.bytes, message.size}};
    uint64_t processes = 0, receivers;

    nr_mesh_read(server); /* whoever was told "subscribed" before this PUBLISH came, gets it */
    receivers = count_elsewhere(server, nr_topic_find(server, &server->channels, channel), &processes);
    for (const struct topic *topic = nr_topic_after(&server->patterns, NULL); topic;
         topic = nr_topic_after(&server->patterns, topic))
        if (topic->remote_total && nr_glob(nr_topic_name(topic), channel))
            receivers += count_elsewhere(server, topic, &processes);
    for (uint32_t i = 0; processes; i++, processes >>= 1)
        if (processes & 1u)
            nr_mesh_send(server, i, NR_MESH_PUBLISH, parts, 3);
    receivers += nr_publish_here(server, channel, message);
    nr_server_count(&server->statistics.published);
    nr_reply_integer(call->reply, (int64_t)receivers);
}

/* ---- who is subscribed ---- */

struct side { /* channels or patterns: the same twice */
    struct topics *topics;
    struct topic ***list;
    uint32_t *count;
    enum mesh_kind kind;
    const char *subscribe, *unsubscribe;
};

static struct side side_of(struct nr_cache_server *server, struct client_extra *extra, bool pattern)
{
    if (pattern)
        return (struct side){&server->patterns, &extra->patterns, &extra->pattern_count,
                             NR_MESH_PATTERN, "psubscribe", "punsubscribe"};
    return (struct side){&server->channels, &extra->channels, &extra->channel_count, NR_MESH_CHANNEL,
                         "subscribe", "unsubscribe"};
}

static void tell_others(struct nr_cache_server *server, const struct topic *topic, enum mesh_kind kind)
{
    const struct iovec parts[2] = {{(void *)&topic->count, sizeof topic->count},
                                   {(void *)topic->name, topic->size}};

    nr_mesh_send_all(server, kind, parts, 2);
}

static bool subscribe(struct nr_cache_server *server, struct client *client, const struct side *side,
                      struct nr_bytes name)
{
    struct topic *topic = nr_topic_make(server, side->topics, name);
    struct topic **list;

    if (!topic)
        return false;
    if (nr_topic_has(topic, client->id))
        return true;
    list = realloc(*side->list, (*side->count + 1) * sizeof *list);
    if (list)
        *side->list = list;
    if (!list || !nr_topic_add(topic, client->id)) {
        nr_topic_drop_empty(server, side->topics, topic);
        return false;
    }
    list[(*side->count)++] = topic;
    tell_others(server, topic, side->kind);
    return true;
}

static void unsubscribe(struct nr_cache_server *server, struct client *client, const struct side *side,
                        struct topic *topic)
{
    if (!nr_topic_remove(topic, client->id))
        return;
    for (uint32_t i = 0; i < *side->count; i++)
        if ((*side->list)[i] == topic) {
            (*side->list)[i] = (*side->list)[--*side->count];
            break;
        }
    tell_others(server, topic, side->kind);
    nr_topic_drop_empty(server, side->topics, topic);
}

static void reply_change(struct call *call, const char *what, const struct nr_bytes *name)
{
    const struct client_extra *extra = call->client->extra;

    nr_reply_push(call->reply, 3);
    nr_reply_string(call->reply, what);
    if (name)
        nr_reply_bulk(call->reply, name->bytes, name->size);
    else
        nr_reply_null(call->reply);
    nr_reply_integer(call->reply, extra ? extra->channel_count + extra->pattern_count : 0);
}

static void subscribe_all(struct call *call, bool pattern)
{
    struct client_extra *extra = nr_client_extra(call->client);
    struct side side;

    if (!extra) {
        nr_server_fail(call, -ENOMEM, NULL);
        return;
    }
    side = side_of(call->server, extra, pattern);
    for (uint32_t i = 1; i < call->count; i++) {
        if (!subscribe(call->server, call->client, &side, call->arguments[i])) {
            nr_server_fail(call, -ENOMEM, NULL);
            return;
        }
        reply_change(call, side.subscribe, &call->arguments[i]);
    }
}

static void unsubscribe_all(struct call *call, bool pattern)
{
    struct client_extra *extra = nr_client_extra(call->client);
    struct side side;

    if (!extra) {
        nr_server_fail(call, -ENOMEM, NULL);
        return;
    }
    side = side_of(call->server, extra, pattern);
    for (uint32_t i = 1; i < call->count; i++) {
        struct topic *topic = nr_topic_find(call->server, side.topics, call->arguments[i]);

        if (topic)
            unsubscribe(call->server, call->client, &side, topic);
        reply_change(call, side.unsubscribe, &call->arguments[i]);
    }
    if (call->count > 1)
        return;
    if (*side.count == 0)
        reply_change(call, side.unsubscribe, NULL);
    while (*side.count) {
        struct topic *topic = (*side.list)[*side.count - 1];

        nr_reply_push(call->reply, 3);
        nr_reply_string(call->reply, side.unsubscribe);
        nr_reply_bulk(call->reply, topic->name, topic->size);
        unsubscribe(call->server, call->client, &side, topic); /* its name may go with it */
        nr_reply_integer(call->reply, extra->channel_count + extra->pattern_count);
    }
}

void nr_run_subscribe(struct call *call) { subscribe_all(call, false); }
void nr_run_psubscribe(struct call *call) { subscribe_all(call, true); }
void nr_run_unsubscribe(struct call *call) { unsubscribe_all(call, false); }
void nr_run_punsubscribe(struct call *call) { unsubscribe_all(call, true); }

void nr_subscriptions_end(struct nr_cache_server *server, struct client *client)
{
    if (!client->extra)
        return;
    for (int pattern = 0; pattern < 2; pattern++) {
        struct side side = side_of(server, client->extra, pattern);

        while (*side.count)
            unsubscribe(server, client, &side, (*side.list)[*side.count - 1]);
    }
}

/* ---- the other processes ---- */

void nr_subscriptions_learn(struct nr_cache_server *server, uint32_t process, bool pattern,
                            struct nr_bytes name, uint32_t count)
{
    struct topics *topics = pattern ? &server->patterns : &server->channels;
    struct topic *topic = count ? nr_topic_make(server, topics, name) : nr_topic_find(server, topics, name);

    if (!topic)
        return;
    if (!topic->remote)
        topic->remote = calloc(server->settings.processes, sizeof *topic->remote);
    if (topic->remote) {
        topic->remote_total += count - topic->remote[process];
        topic->remote[process] = count;
    }
    nr_topic_drop_empty(server, topics, topic);
}

void nr_subscriptions_forget(struct nr_cache_server *server, uint32_t process)
{
    struct topics *both[2] = {&server->channels, &server->patterns};

    for (int i = 0; i < 2; i++)
        for (struct topic *topic = nr_topic_after(both[i], NULL), *next; topic; topic = next) {
            next = nr_topic_after(both[i], topic);
            if (!topic->remote)
                continue;
            topic->remote_total -= topic->remote[process];
            topic->remote[process] = 0;
            nr_topic_drop_empty(server, both[i], topic);
        }
}

void nr_subscriptions_tell_all(struct nr_cache_server *server, uint32_t process)
{
    const struct topics *both[2] = {&server->channels, &server->patterns};

    for (int i = 0; i < 2; i++)
        for (const struct topic *topic = nr_topic_after(both[i], NULL); topic;
             topic = nr_topic_after(both[i], topic)) {
            const struct iovec parts[2] = {{(void *)&topic->count, sizeof topic->count},
                                           {(void *)topic->name, topic->size}};

            if (topic->count)
                nr_mesh_send(server, process, i ? NR_MESH_PATTERN : NR_MESH_CHANNEL, parts, 2);
        }
}

/* ---- PUBSUB ---- */

static void pubsub_channels(struct call *call)
{
    const struct topics *topics = &call->server->channels;
    size_t at = call->reply->size, count = 0;

    if (call->count > 3) {
        nr_fail_subcommand(call);
        return;
    }
    for (const struct topic *topic = nr_topic_after(topics, NULL); topic;
         topic = nr_topic_after(topics, topic)) {
        if (call->count == 3 && !nr_glob(call->arguments[2], nr_topic_name(topic)))
            continue;
        nr_reply_bulk(call->reply, topic->name, topic->size);
        count++;
    }
    nr_reply_array_around(call->reply, at, count);
}

static void pubsub_numsub(struct call *call)
{
    nr_reply_array(call->reply, (call->count - 2) * 2);
    for (uint32_t i = 2; i < call->count; i++) {
        const struct topic *topic =
            nr_topic_find(call->server, &call->server->channels, call->arguments[i]);

        nr_reply_bulk(call->reply, call->arguments[i].bytes, call->arguments[i].size);
        nr_reply_integer(call->reply, topic ? topic->count + topic->remote_total : 0);
    }
}

static void pubsub_numpat(struct call *call)
{
    nr_reply_integer(call->reply, call->server->patterns.count);
}

static void pubsub_none(struct call *call) { nr_reply_array(call->reply, 0); }

void nr_run_pubsub(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "channels", .arity = -2, .run = pubsub_channels},
        {.name = "numsub", .arity = -2, .run = pubsub_numsub},
        {.name = "numpat", .arity = 2, .run = pubsub_numpat},
        {.name = "shardchannels", .arity = -2, .run = pubsub_none},
        {.name = "shardnumsub", .arity = -2, .run = pubsub_none},
    };

    nr_mesh_read(call->server);
    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}
