/* The parser and the writers of RESP: what Redis answers to broken input, and every way to cut a stream. */
#include "check.h"
#include "naru/resp.h"

static const struct nr_resp_limits usual = {.arguments_most = 1u << 20, .bulk_bytes_most = 512u << 20};

static enum nr_resp_result parse(struct nr_resp *resp, const char *text)
{
    nr_resp_reset(resp);
    return nr_resp_parse(resp, &usual, (const uint8_t *)text, strlen(text));
}

static bool has(const struct nr_resp *resp, const char *text, uint32_t index, const char *expected)
{
    struct nr_bytes found = nr_resp_argument(resp, (const uint8_t *)text, index);

    return found.size == strlen(expected) && memcmp(found.bytes, expected, found.size) == 0;
}

static void broken_input_gets_the_text_of_redis(void)
{
    static const struct {
        const char *input, *error;
    } rows[] = {
        {"*3000000000\r\n", "Protocol error: invalid multibulk length"},
        {"*abc\r\n", "Protocol error: invalid multibulk length"},
        {"*1\r\n$-10\r\n", "Protocol error: invalid bulk length"},
        {"*1\r\n$629145600\r\n", "Protocol error: invalid bulk length"},
        {"*1\r\n$blabla\r\n", "Protocol error: invalid bulk length"},
        {"*1\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"},
        {"*1\r\n\r\n\r\n", "Protocol error: expected '$', got ' '"},
        {"*1\r\n\xff\r\n", "Protocol error: expected '$', got '\xff'"},
        {"*2\r\n$3\r\nGET\r\n:1\r\n", "Protocol error: expected '$', got ':'"},
        {"SET k \"abc\r\n", "Protocol error: unbalanced quotes in request"},
        {"SET k 'abc\n", "Protocol error: unbalanced quotes in request"},
        {"SET k \"a\"b\r\n", "Protocol error: unbalanced quotes in request"},
    };
    struct nr_resp resp;

    nr_resp_init(&resp);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK(parse(&resp, rows[i].input) == NR_RESP_WRONG);
        CHECK(strcmp(resp.error, rows[i].error) == 0);
    }
    nr_resp_free(&resp);
}

static void a_line_without_an_end_is_not_kept_for_ever(void)
{
    static const char starts[] = {'a', '*', '$'};
    static char text[NR_RESP_LINE_MOST + 8];
    struct nr_resp resp;

    nr_resp_init(&resp);
    for (size_t i = 0; i < 2; i++) {
        memset(text, starts[i] == 'a' ? 'a' : '1', sizeof text - 1);
        text[0] = starts[i];
        CHECK(parse(&resp, text) == NR_RESP_WRONG);
        text[1000] = 0;
        CHECK(parse(&resp, text) == NR_RESP_PARTIAL);
    }
    nr_resp_free(&resp);
}

static void what_is_nothing_is_skipped(void)
{
    struct nr_resp resp;

    nr_resp_init(&resp);
    CHECK(parse(&resp, "\r\nPING\r\n") == NR_RESP_NOTHING && resp.position == 2);
    CHECK(parse(&resp, "*-10\r\nPING\r\n") == NR_RESP_NOTHING && resp.position == 6);
    CHECK(parse(&resp, "*0\r\n") == NR_RESP_NOTHING && resp.position == 4);
    CHECK(parse(&resp, "   \r\n") == NR_RESP_NOTHING && resp.position == 5);
    CHECK(parse(&resp, "\v ge\vt\fb c\r\n") == NR_RESP_COMMAND && resp.count == 2);
    nr_resp_free(&resp);
}

static void a_glance_sees_the_keys_of_whole_commands(void)
{
    static const char text[] = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*3\r\n$3\r\nSET\r\n$2\r\nbc\r\n$0\r\n\r\n"
                               "*2\r\n$3\r\nGET\r\n$3\r\nabc\r\n*2\r\n$3\r\nGET\r\n$3\r\nab";
    struct nr_bytes found[8];
    size_t end;

    CHECK_EQUAL(nr_resp_glance((const uint8_t *)text, sizeof text - 1, found, 8, &end), 3);
    CHECK_EQUAL(found[0].size, 1);
    CHECK(found[1].size == 2 && memcmp(found[1].bytes, "bc", 2) == 0);
    CHECK(found[2].size == 3 && memcmp(found[2].bytes, "abc", 3) == 0);
    CHECK_EQUAL(sizeof text - 1 - end, 19);
    CHECK_EQUAL(nr_resp_glance((const uint8_t *)text, sizeof text - 1, found, 2, &end), 2);
    CHECK_EQUAL(nr_resp_glance((const uint8_t *)"*1\r\n$4\r\nPING\r\n", 14, found, 8, &end), 0);
    CHECK_EQUAL(nr_resp_glance((const uint8_t *)"GET a\r\n", 7, found, 8, &end), 0);
    CHECK_EQUAL(nr_resp_glance((const uint8_t *)"", 0, found, 8, &end), 0);
}

static void the_length_wins(void)
{
    static const char text[] = "*1\r\n$4\r\nPINGPONG\r\n";
    struct nr_resp resp;

    nr_resp_init(&resp);
    CHECK(parse(&resp, text) == NR_RESP_COMMAND && resp.count == 1 && has(&resp, text, 0, "PING"));
    CHECK(resp.position == 14); /* "NG\r\n" is the next command */
    nr_resp_free(&resp);
}

static void quotes(void)
{
    static const char text[] = "set \"a b\" \"\\x41\\n\\\"\" 'it\\'s' \"\" x\"y\"\r\n";
    struct nr_resp resp;

    nr_resp_init(&resp);
    CHECK(parse(&resp, text) == NR_RESP_COMMAND && resp.count == 6);
    CHECK(has(&resp, text, 1, "a b") && has(&resp, text, 2, "A\n\"") && has(&resp, text, 3, "it's"));
    CHECK(has(&resp, text, 4, "") && has(&resp, text, 5, "xy"));
    nr_resp_free(&resp);
}

static void every_cut_gives_the_same(void)
{
    static const char text[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6\r\na\r\nb\0c\r\n";
    static const char line[] = "set key \"a value\"\r\n";
    const struct {
        const char *text;
        size_t size;
    } inputs[] = {{text, sizeof text - 1}, {line, sizeof line - 1}};

    for (int input = 0; input < 2; input++)
        for (size_t cut = 0; cut < inputs[input].size; cut++) {
            const uint8_t *bytes = (const uint8_t *)inputs[input].text;
            struct nr_resp resp;

            nr_resp_init(&resp);
            CHECK(nr_resp_parse(&resp, &usual, bytes, cut) == NR_RESP_PARTIAL);
            CHECK(nr_resp_parse(&resp, &usual, bytes, inputs[input].size) == NR_RESP_COMMAND);
            CHECK(resp.count == 3 && resp.position == inputs[input].size);
            nr_resp_free(&resp);
        }
}

static void a_stranger_gets_little(void)
{
    const struct nr_resp_limits limits = {.arguments_most = 100, .bulk_bytes_most = 1 << 20,
                                          .stranger = true};
    static const char many[] = "*11\r\n", large[] = "*1\r\n$16385\r\n";
    struct nr_resp resp;

    nr_resp_init(&resp);
    CHECK(nr_resp_parse(&resp, &limits, (const uint8_t *)many, sizeof many - 1) == NR_RESP_WRONG);
    CHECK(strcmp(resp.error, "Protocol error: unauthenticated multibulk length") == 0);
    nr_resp_reset(&resp);
    CHECK(nr_resp_parse(&resp, &limits, (const uint8_t *)large, sizeof large - 1) == NR_RESP_WRONG);
    CHECK(strcmp(resp.error, "Protocol error: unauthenticated bulk length") == 0);
    nr_resp_free(&resp);
}

static void replies(void)
{
    static const char expected2[] = ":-9223372036854775808\r\n$-1\r\n*-1\r\n*4\r\n*2\r\n$3\r\nabc\r\n";
    static const char expected3[] = ":-9223372036854775808\r\n_\r\n_\r\n%2\r\n~2\r\n=7\r\ntxt:abc\r\n";

    for (uint8_t version = 2; version <= 3; version++) {
        const char *expected = version == 2 ? expected2 : expected3;
        struct nr_reply reply = {.version = version};

        nr_reply_integer(&reply, INT64_MIN);
        nr_reply_null(&reply);
        nr_reply_null_array(&reply);
        nr_reply_map(&reply, 2);
        nr_reply_set(&reply, 2);
        nr_reply_verbatim(&reply, "abc", 3);
        CHECK(reply.size == strlen(expected) && memcmp(reply.bytes, expected, reply.size) == 0);
        nr_reply_free(&reply);
    }
}

static void an_error_is_one_line(void)
{
    struct nr_reply reply = {.version = 2};

    nr_reply_error(&reply, "ERR no '%s'", "a\r\n+OK");
    CHECK(reply.size == 18 && memcmp(reply.bytes, "-ERR no 'a  +OK'\r\n", 18) == 0);
    reply.size = 0;
    nr_reply_text(&reply, "x");
    nr_reply_integer(&reply, 7);
    nr_reply_array_around(&reply, 4, 1);
    CHECK(reply.size == 12 && memcmp(reply.bytes, "+x\r\n*1\r\n:7\r\n", 12) == 0);
    nr_reply_free(&reply);
}

int main(void)
{
    RUN(broken_input_gets_the_text_of_redis);
    RUN(a_line_without_an_end_is_not_kept_for_ever);
    RUN(what_is_nothing_is_skipped);
    RUN(a_glance_sees_the_keys_of_whole_commands);
    RUN(the_length_wins);
    RUN(quotes);
    RUN(every_cut_gives_the_same);
    RUN(a_stranger_gets_little);
    RUN(replies);
    RUN(an_error_is_one_line);
    return check_finish();
}
