/* Fuzz target: the whole cache protocol over a small table, fed by a client who sends anything and cuts it
 * anywhere (the first byte), while another one is subscribed and tracks every key. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz_main.h"
#include "naru/cache_server.h"

#define TABLE_BYTES (2u << 20)

static int table_file(void)
{
    struct nr_table_settings settings = {.size_bytes = TABLE_BYTES, .shards = 1, .seed = {1, 2}};
    struct nr_table *table;
    int fd = nr_os_memfd("fuzz_cache");

    FUZZ_REQUIRE(fd >= 0);
    FUZZ_REQUIRE(nr_table_create(fd, &settings, &table) == 0);
    nr_table_close(table);
    return fd;
}

static struct nr_service *make_service(struct nr_engine *engine, int file, int page)
{
    struct nr_cache_server_settings settings = {.processes = 1, .page = page, .inbox = -1,
                                                .name = "fuzz"};
    struct nr_service_settings service_settings = {.protocol = &nr_protocol_cache};
    struct nr_cache_server *server;
    struct nr_service *service;

    FUZZ_REQUIRE(nr_table_open(file, &settings.table) == 0);
    FUZZ_REQUIRE(nr_cache_server_create(&settings, &server) == 0);
    service_settings.context = server;
    FUZZ_REQUIRE(nr_service_create(engine, &service_settings, &service) == 0);
    return service;
}

static int connect_one(struct nr_service *service)
{
    struct nr_connection *connection;
    int fds[2];

    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    FUZZ_REQUIRE(nr_service_adopt(service, fds[0], NULL, &connection) == 0);
    return fds[1];
}

static void turn(struct nr_engine *engine, const int *clients, int count)
{
    uint8_t answers[8192];

    FUZZ_REQUIRE(nr_engine_run_once(engine, 0) >= 0);
    for (int i = 0; i < count; i++)
        while (recv(clients[i], answers, sizeof answers, 0) > 0)
            continue;
}

static void feed(struct nr_engine *engine, const int *clients, const uint8_t *data, size_t size,
                 size_t piece)
{
    for (size_t sent = 0; sent < size;) {
        size_t now = size - sent < piece ? size - sent : piece;

        if (send(clients[0], data + sent, now, MSG_NOSIGNAL) < 0)
            break;
        sent += now;
        turn(engine, clients, 2);
    }
    (void)shutdown(clients[0], SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char watcher[] = "HELLO 3\r\nSUBSCRIBE c\r\nPSUBSCRIBE *\r\nCLIENT TRACKING ON BCAST\r\n";
    static int file = -1;
    struct nr_service_statistics counts;
    struct nr_engine *engine;
    struct nr_service *service;
    int page = nr_os_memfd("fuzz_page"), clients[2];

    if (size == 0)
        return nr_os_close(page);
    if (file < 0)
        file = table_file();
    FUZZ_REQUIRE(page >= 0 && ftruncate(page, NR_SERVER_PAGE_BYTES) == 0);
    FUZZ_REQUIRE(nr_engine_create(NULL, &engine) == 0);
    service = make_service(engine, file, page);
    clients[0] = connect_one(service);
    clients[1] = connect_one(service);
    FUZZ_REQUIRE(send(clients[1], watcher, sizeof watcher - 1, 0) > 0);
    turn(engine, clients, 2);
    feed(engine, clients, data + 1, size - 1, data[0] ? data[0] : 65536);
    for (int i = 0; i < 5000; i++) {
        turn(engine, clients, 2);
        nr_service_read_statistics(service, &counts);
        if (counts.open <= 1)
            break;
    }
    FUZZ_REQUIRE(counts.open <= 1); /* the one that ended its stream is gone, whatever it sent */
    nr_service_destroy(service);
    nr_engine_destroy(engine);
    close(clients[0]);
    close(clients[1]);
    close(page);
    return 0;
}
