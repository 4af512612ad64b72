/* Names, and who waits for news of them: channels, patterns, tracked keys, prefixes. */
#include "parts.h"

#define FIRST_BUCKETS 64u

/* By the table's secret key: nobody can choose names that fall into one bucket. */
static uint64_t hash_of(const struct nr_cache_server *server, struct nr_bytes name)
{
    return nr_table_key(server->table, name.bytes, name.size).hash;
}

static struct topic *find(const struct topics *topics, struct nr_bytes name, uint64_t hash)
{
    struct topic *topic = topics->buckets ? topics->buckets[hash & topics->mask] : NULL;

    while (topic && (topic->hash != hash || topic->size != name.size ||
                     (name.size && memcmp(topic->name, name.bytes, name.size) != 0)))
        topic = topic->next;
    return topic;
}

struct topic *nr_topic_find(const struct nr_cache_server *server, const struct topics *topics,
                            struct nr_bytes name)
{
    return topics->count ? find(topics, name, hash_of(server, name)) : NULL;
}

/* Twice as many buckets; without memory it goes on with those that it has. */
static void grow(struct topics *topics)
{
    uint32_t count = topics->buckets ? (topics->mask + 1) * 2 : FIRST_BUCKETS;
    struct topic **buckets = calloc(count, sizeof *buckets);

    if (!buckets)
        return;
    for (uint32_t i = 0; topics->buckets && i <= topics->mask; i++)
        while (topics->buckets[i]) {
            struct topic *topic = topics->buckets[i];

            topics->buckets[i] = topic->next;
            topic->next = buckets[topic->hash & (count - 1)];
            buckets[topic->hash & (count - 1)] = topic;
        }
    free(topics->buckets);
    topics->buckets = buckets;
    topics->mask = count - 1;
}

static void hash_again(struct nr_cache_server *server, struct topics *topics)
{
    struct topic *all = NULL;

    for (uint32_t i = 0; topics->buckets && i <= topics->mask; i++)
        while (topics->buckets[i]) {
            struct topic *topic = topics->buckets[i];

            topics->buckets[i] = topic->next;
            topic->next = all;
            all = topic;
        }
    while (all) {
        struct topic *topic = all;

        all = topic->next;
        topic->hash = hash_of(server, nr_topic_name(topic));
        topic->next = topics->buckets[topic->hash & topics->mask];
        topics->buckets[topic->hash & topics->mask] = topic;
    }
}

void nr_topics_hash_again(struct nr_cache_server *server)
{
    hash_again(server, &server->channels);
    hash_again(server, &server->patterns);
    hash_again(server, &server->tracked);
    hash_again(server, &server->prefixes);
}

struct topic *nr_topic_make(struct nr_cache_server *server, struct topics *topics, struct nr_bytes name)
{
    uint64_t hash = hash_of(server, name);
    struct topic *topic = find(topics, name, hash);

    if (topic)
        return topic;
    if (!topics->buckets || topics->count > topics->mask)
        grow(topics);
    topic = topics->buckets ? calloc(1, sizeof *topic + name.size) : NULL;
    if (!topic)
        return NULL;
    topic->hash = hash;
    topic->size = (uint32_t)name.size;
    if (name.size)
        memcpy(topic->name, name.bytes, name.size);
    topic->next = topics->buckets[hash & topics->mask];
    topics->buckets[hash & topics->mask] = topic;
    topics->count++;
    return topic;
}

bool nr_topic_has(const struct topic *topic, uint64_t id)
{
    for (uint32_t i = 0; i < topic->count; i++)
        if (topic->clients[i] == id)
            return true;
    return false;
}

bool nr_topic_add(struct topic *topic, uint64_t id)
{
    if (topic->count == topic->room) {
        uint32_t room = topic->room ? topic->room * 2 : 2;
        uint64_t *clients = realloc(topic->clients, room * sizeof *clients);

        if (!clients)
            return false;
        topic->clients = clients;
        topic->room = room;
    }
    topic->clients[topic->count++] = id;
    return true;
}

bool nr_topic_remove(struct topic *topic, uint64_t id)
{
    for (uint32_t i = 0; i < topic->count; i++)
        if (topic->clients[i] == id) {
            memmove(topic->clients + i, topic->clients + i + 1,
                    (topic->count - i - 1) * sizeof *topic->clients);
            topic->count--;
            return true;
        }
    return false;
}

void nr_topic_free(struct topic *topic)
{
    free(topic->clients);
    free(topic->remote);
    free(topic);
}

void nr_topic_detach(struct topics *topics, struct topic *topic)
{
    struct topic **at = &topics->buckets[topic->hash & topics->mask];

    while (*at != topic)
        at = &(*at)->next;
    *at = topic->next;
    topics->count--;
}

void nr_topic_drop_empty(struct nr_cache_server *server, struct topics *topics, struct topic *topic)
{
    if (topic->count || topic->remote_total)
        return;
    if (server->telling) {
        server->stale_topics = true;
        return;
    }
    nr_topic_detach(topics, topic);
    nr_topic_free(topic);
}

void nr_topics_begin(struct nr_cache_server *server) { server->telling++; }

static void sweep(struct nr_cache_server *server, struct topics *topics)
{
    for (struct topic *topic = nr_topic_after(topics, NULL), *next; topic; topic = next) {
        next = nr_topic_after(topics, topic);
        nr_topic_drop_empty(server, topics, topic);
    }
}

void nr_topics_end(struct nr_cache_server *server)
{
    if (--server->telling || !server->stale_topics)
        return;
    server->stale_topics = false;
    sweep(server, &server->channels);
    sweep(server, &server->patterns);
    sweep(server, &server->prefixes);
    if (!server->tracking_clients)
        nr_topics_free(&server->tracked);
}

struct topic *nr_topic_after(const struct topics *topics, const struct topic *topic)
{
    uint32_t bucket = 0;

    if (!topics->buckets)
        return NULL;
    if (topic) {
        if (topic->next)
            return topic->next;
        bucket = (uint32_t)(topic->hash & topics->mask) + 1;
    }
    for (; bucket <= topics->mask; bucket++)
        if (topics->buckets[bucket])
            return topics->buckets[bucket];
    return NULL;
}

void nr_topics_free(struct topics *topics)
{
    for (uint32_t i = 0; topics->buckets && i <= topics->mask; i++)
        while (topics->buckets[i]) {
            struct topic *topic = topics->buckets[i];

            topics->buckets[i] = topic->next;
            nr_topic_free(topic);
        }
    free(topics->buckets);
    memset(topics, 0, sizeof *topics);
}
