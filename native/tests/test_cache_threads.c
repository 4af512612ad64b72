/* Two processes of a cache server as two threads of one: each with its own engine, on one table, one page
 * and one mesh, so that ThreadSanitizer sees what they share. Clients send all kinds of commands to both;
 * one client of each is subscribed and tracks every key.
 *
 *     test_cache_threads [commands of each client] */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../memory/table_parts.h" /* NR_TABLE_TSAN */
#include "naru/cache_server.h"
#include "naru/engine.h"
#include "tables.h"

#define SERVERS 2
#define CLIENTS 4 /* of all servers */
#define KEYS 50u
#define ROOM 65536

struct side {
    struct nr_engine *engine;
    struct nr_service *service;
    pthread_t thread;
    int subscriber;
    pthread_t listener;
};

struct client {
    int fd;
    uint64_t seed, counted;
    pthread_t thread;
    size_t kept;
    char bytes[ROOM + 1]; /* replies; ends with a zero */
};

static struct side sides[SERVERS];
static struct client clients[CLIENTS];
static uint64_t commands = 3000;
static _Atomic uint64_t told; /* bytes to the subscribers */

/* ---- a client ---- */

/* Of the reply that begins here; 0: it is not all there. */
static size_t reply_bytes(const char *at, size_t size)
{
    const char *end = memchr(at, '\n', size);
    size_t bytes;
    long count;

    if (!end)
        return 0;
    bytes = (size_t)(end - at) + 1;
    count = strtol(at + 1, NULL, 10);
    if (at[0] == '$' && count >= 0)
        return size >= bytes + (size_t)count + 2 ? bytes + (size_t)count + 2 : 0;
    if (at[0] != '*')
        return bytes;
    for (; count > 0; count--) {
        size_t one = reply_bytes(at + bytes, size - bytes);

        if (one == 0)
            return 0;
        bytes += one;
    }
    return bytes;
}

static void send_all(int fd, const void *bytes, size_t size)
{
    for (const char *at = bytes; size > 0;) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);

        REQUIRE(sent > 0);
        at += sent;
        size -= (size_t)sent;
    }
}

/* Forgets the reply before, and waits for one whole one, which begins at `bytes`. */
static size_t receive_one(struct client *client, size_t before)
{
    size_t bytes;

    client->kept -= before;
    memmove(client->bytes, client->bytes + before, client->kept);
    while ((bytes = reply_bytes(client->bytes, client->kept)) == 0) {
        ssize_t got = recv(client->fd, client->bytes + client->kept, ROOM - client->kept, 0);

        REQUIRE(got > 0);
        client->kept += (size_t)got;
        client->bytes[client->kept] = 0;
    }
    return bytes;
}

static size_t ask(struct client *client, size_t before, const char *text)
{
    send_all(client->fd, text, strlen(text));
    return receive_one(client, before);
}

/* A value that says whose it is: "<key>:<number>:" again and again. */
static size_t set_one(struct client *client, size_t before, unsigned key, uint64_t number)
{
    char value[3000], head[64], word[40];
    size_t size = 0, most = number % sizeof value + 1, length;

    length = (size_t)snprintf(word, sizeof word, "%u:%llu:", key, (unsigned long long)number);
    while (size + length < most) {
        memcpy(value + size, word, length);
        size += length;
    }
    length = (size_t)snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$%d\r\nk%u\r\n$%zu\r\n",
                              key > 9 ? 3 : 2, key, size);
    send_all(client->fd, head, length);
    send_all(client->fd, value, size);
    send_all(client->fd, "\r\n", 2);
    return receive_one(client, before);
}

static bool is_whole(const char *value, size_t size, unsigned key)
{
    const char *end = memchr(value, ':', size);
    size_t word;

    if (size == 0)
        return true;
    if (!end || strtoul(value, NULL, 10) != key)
        return false;
    end = memchr(end + 1, ':', size - (size_t)(end + 1 - value));
    if (!end)
        return false;
    word = (size_t)(end - value) + 1;
    for (size_t i = word; i < size; i++)
        if (value[i] != value[i - word])
            return false;
    return true;
}

static size_t get_one(struct client *client, size_t before, unsigned key)
{
    char text[40];
    size_t bytes;

    snprintf(text, sizeof text, "GET k%u\r\n", key);
    bytes = ask(client, before, text);
    CHECK(client->bytes[0] == '$');
    if (client->bytes[1] != '-') {
        size_t head = (size_t)((char *)memchr(client->bytes, '\n', bytes) - client->bytes) + 1;

        CHECK(is_whole(client->bytes + head, bytes - head - 2, key));
    }
    return bytes;
}

/* What else there is; each with one reply. */
static const char *const others[] = {
    "PUBLISH c message\r\n", "SADD s a b c\r\n", "SPOP s\r\n", "SMEMBERS s\r\n", "EXPIRE k1 100\r\n",
    "TTL k1\r\n", "MGET k1 k2 k3\r\n", "DEL k7\r\n", "APPEND a x\r\n", "STRLEN a\r\n", "DBSIZE\r\n",
    "SCAN 0 COUNT 5\r\n", "INFO\r\n", "CLIENT LIST\r\n", "PUBSUB CHANNELS\r\n", "NOSUCH\r\n", "DEL a\r\n",
};

static size_t count_in_a_transaction(struct client *client, size_t before)
{
    size_t bytes;

    bytes = ask(client, before, "MULTI\r\nINCR n\r\nINCR m\r\nEXEC\r\n");
    for (int i = 0; i < 3; i++)
        bytes = receive_one(client, bytes);
    CHECK(strncmp(client->bytes, "*2\r\n:", 5) == 0);
    client->counted++;
    return bytes;
}

static void *be_a_client(void *context)
{
    struct client *client = context;
    uint64_t dice = client->seed;
    size_t before = 0;

    for (uint64_t i = 0; i < commands; i++) {
        unsigned key = (unsigned)(tables_random(&dice) % KEYS), what = tables_random(&dice) % 10;

        if (what < 3)
            before = set_one(client, before, key, tables_random(&dice) % 1000000);
        else if (what < 6)
            before = get_one(client, before, key);
        else if (what < 8)
            before = count_in_a_transaction(client, before);
        else
            before = ask(client, before, others[tables_random(&dice) % (sizeof others / sizeof *others)]);
    }
    return NULL;
}

static void *listen_to_all(void *context)
{
    struct side *side = context;
    char bytes[4096];
    ssize_t got;

    while ((got = recv(side->subscriber, bytes, sizeof bytes, 0)) > 0)
        atomic_fetch_add(&told, (uint64_t)got);
    return NULL;
}

/* ---- the servers ---- */

static void *run(void *context)
{
    struct side *side = context;
    int result;

    do
        result = nr_engine_run(side->engine, NR_FOREVER);
    while (result == -EINTR);
    CHECK_EQUAL(result, 1); /* it was stopped */
    return NULL;
}

static int connect_to(struct side *side)
{
    struct nr_connection *connection;
    int fds[2];

    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    REQUIRE(nr_os_set_nonblocking(fds[0]) == 0);
    REQUIRE(nr_service_adopt(side->service, fds[0], NULL, &connection) == 0);
    return fds[1];
}

/* ThreadSanitizer sees what is at one address: then both have one mapping, which only the first closes. */
#ifdef NR_TABLE_TSAN
#define SHARED 1
#else
#define SHARED 0
#endif

static void start_servers(int table_fd, int page, struct nr_table *table)
{
    int pairs[SERVERS][2];

    for (int i = 0; i < SERVERS; i++)
        REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pairs[i]) == 0);
    for (uint32_t i = 0; i < SERVERS; i++) {
        int outboxes[SERVERS];
        struct nr_cache_server_settings settings = {.table = table, .process = i, .processes = SERVERS,
                                                    .page = page, .inbox = pairs[i][0],
                                                    .outboxes = outboxes, .name = "threads"};
        struct nr_service_settings service_settings = {.protocol = &nr_protocol_cache};
        struct nr_cache_server *server;

        for (int j = 0; j < SERVERS; j++)
            REQUIRE((outboxes[j] = dup(pairs[j][1])) >= 0);
        if (i > 0 && !SHARED)
            REQUIRE(nr_table_open(table_fd, &settings.table) == 0);
        REQUIRE(nr_engine_create(NULL, &sides[i].engine) == 0);
        REQUIRE(nr_cache_server_create(&settings, &server) == 0);
        service_settings.context = server;
        REQUIRE(nr_service_create(sides[i].engine, &service_settings, &sides[i].service) == 0);
    }
    for (int i = 0; i < SERVERS; i++)
        close(pairs[i][1]);
}

static void join_clients(void)
{
    static const char watcher[] = "HELLO 3\r\nCLIENT TRACKING ON BCAST\r\nSUBSCRIBE c\r\nPSUBSCRIBE *\r\n";

    for (int i = 0; i < SERVERS; i++) {
        sides[i].subscriber = connect_to(&sides[i]);
        send_all(sides[i].subscriber, watcher, sizeof watcher - 1);
    }
    for (int i = 0; i < CLIENTS; i++) {
        clients[i].fd = connect_to(&sides[i % SERVERS]);
        clients[i].seed = (uint64_t)i + 1;
    }
    for (int i = 0; i < SERVERS; i++) {
        REQUIRE(pthread_create(&sides[i].thread, NULL, run, &sides[i]) == 0);
        REQUIRE(pthread_create(&sides[i].listener, NULL, listen_to_all, &sides[i]) == 0);
    }
    for (int i = 0; i < CLIENTS; i++)
        REQUIRE(pthread_create(&clients[i].thread, NULL, be_a_client, &clients[i]) == 0);
}

static void end_servers(void)
{
    for (int i = 0; i < SERVERS; i++) {
        nr_engine_stop(sides[i].engine);
        pthread_join(sides[i].thread, NULL);
        shutdown(sides[i].subscriber, SHUT_RDWR);
        pthread_join(sides[i].listener, NULL);
        close(sides[i].subscriber);
    }
    for (int i = 0; i < SERVERS; i++)
        if (i == 0 || !SHARED) {
            nr_service_destroy(sides[i].service);
            nr_engine_destroy(sides[i].engine);
        }
}

static void two_servers_on_one_table_agree(void)
{
    struct nr_table *table;
    int table_fd = tables_fd(4u << 20, 2, 500, &table), page = nr_os_memfd("naru-test-page");
    char due[64];
    uint64_t counted = 0;

    REQUIRE(page >= 0 && ftruncate(page, NR_SERVER_PAGE_BYTES) == 0);
    start_servers(table_fd, page, table);
    join_clients();
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        counted += clients[i].counted;
    }
    snprintf(due, sizeof due, "%llu", (unsigned long long)counted);
    for (int i = 0; i < SERVERS; i++) { /* both say the same, and no transaction was lost */
        struct client *client = &clients[i];

        client->kept = 0;
        ask(client, 0, "MGET n m\r\n");
        CHECK(strstr(client->bytes, due) != NULL);
        CHECK(strstr(strstr(client->bytes, due) + 1, due) != NULL);
    }
    for (int i = 0; i < CLIENTS; i++)
        close(clients[i].fd);
    CHECK_EQUAL(tables_faults(table), 0);
    end_servers();
    CHECK(atomic_load(&told) > 1000);
    printf("%llu transactions, %llu bytes told\n", (unsigned long long)counted,
           (unsigned long long)atomic_load(&told));
    close(page);
    nr_os_close(table_fd);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        commands = strtoull(argv[1], NULL, 10);
    RUN(two_servers_on_one_table_agree);
    return check_finish();
}
