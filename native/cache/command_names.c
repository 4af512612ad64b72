/* Commands by their names. */
#include "parts.h"

/* Names of the commands: a hash of their letters, without case. */
static uint32_t bucket_of(struct nr_bytes name)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < name.size; i++)
        hash = (hash ^ (name.bytes[i] | 0x20u)) * 16777619u;
    return (hash ^ hash >> 15) % NR_COMMAND_BUCKETS;
}

const struct nr_command *nr_command_find(const struct nr_cache_server *server, struct nr_bytes name)
{
    uint32_t bucket = bucket_of(name);

    for (; server->command_buckets[bucket]; bucket = (bucket + 1) % NR_COMMAND_BUCKETS) {
        const struct nr_command *command = &nr_commands[server->command_buckets[bucket] - 1];

        if (nr_bytes_are(name, command->name))
            return command;
    }
    return NULL;
}

void nr_commands_index(struct nr_cache_server *server)
{
    for (size_t i = 0; i < nr_command_count; i++) {
        const char *name = nr_commands[i].name;
        uint32_t bucket = bucket_of((struct nr_bytes){(const uint8_t *)name, strlen(name)});

        while (server->command_buckets[bucket])
            bucket = (bucket + 1) % NR_COMMAND_BUCKETS;
        server->command_buckets[bucket] = (uint16_t)(i + 1);
    }
}
