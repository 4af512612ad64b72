/* CLIENT TRACKING, CACHING, TRACKINGINFO. */
#include "parts.h"

struct wish {
    uint8_t mode;
    uint64_t redirect;
    uint32_t prefixes;
};

static bool read_redirect(struct call *call, uint32_t index, struct wish *wish)
{
    int64_t id;
    uint32_t process;

    if (!nr_call_integer(call, index, &id))
        return false;
    process = nr_client_process((uint64_t)id);
    if (process == call->server->settings.process ? !nr_client_find(call->server, (uint64_t)id)
                                                   : process >= call->server->settings.processes) {
        nr_reply_error(call->reply, "ERR The client ID you want redirect to does not exist");
        return false;
    }
    wish->redirect = (uint64_t)id;
    return true;
}

static bool read_options(struct call *call, struct wish *wish)
{
    static const struct {
        const char *name;
        uint8_t mode;
    } modes[] = {{"bcast", NR_TRACKING_BROADCAST}, {"optin", NR_TRACKING_OPTIN},
                 {"optout", NR_TRACKING_OPTOUT}, {"noloop", NR_TRACKING_NOLOOP}};

    *wish = (struct wish){.mode = NR_TRACKING};
    for (uint32_t i = 3; i < call->count; i++) {
        uint8_t mode = 0;

        for (size_t m = 0; m < 4; m++)
            if (nr_bytes_are(call->arguments[i], modes[m].name))
                mode = modes[m].mode;
        wish->mode |= mode;
        if (mode)
            continue;
        if (i + 1 < call->count && nr_bytes_are(call->arguments[i], "redirect")) {
            if (!read_redirect(call, ++i, wish))
                return false;
        } else if (i + 1 < call->count && nr_bytes_are(call->arguments[i], "prefix")) {
            wish->prefixes++;
            i++;
        } else {
            nr_fail_syntax(call);
            return false;
        }
    }
    return true;
}

static const char *objection(const struct client *client, const struct wish *wish)
{
    bool broadcast = wish->mode & NR_TRACKING_BROADCAST;
    uint8_t options = wish->mode & (NR_TRACKING_OPTIN | NR_TRACKING_OPTOUT);

    if (wish->prefixes && !broadcast)
        return "ERR PREFIX option requires BCAST mode to be enabled";
    if (client->tracking & NR_TRACKING && broadcast != !!(client->tracking & NR_TRACKING_BROADCAST))
        return "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then "
               "re-enabling it with a different mode.";
    if (broadcast && options)
        return "ERR OPTIN and OPTOUT are not compatible with BCAST";
    if (options == (NR_TRACKING_OPTIN | NR_TRACKING_OPTOUT))
        return "ERR You can't specify both OPTIN mode and OPTOUT mode";
    return NULL;
}

static bool add_prefix(struct call *call, struct nr_bytes prefix)
{
    struct client_extra *extra = call->client->extra;
    struct topic *topic = nr_topic_make(call->server, &call->server->prefixes, prefix);
    struct topic **list;

    if (!topic || nr_topic_has(topic, call->client->id))
        return topic != NULL;
    list = realloc(extra->prefixes, (extra->prefix_count + 1) * sizeof *list);
    if (list)
        extra->prefixes = list;
    if (!list || !nr_topic_add(topic, call->client->id)) {
        nr_topic_drop_empty(call->server, &call->server->prefixes, topic);
        return false;
    }
    list[extra->prefix_count++] = topic;
    return true;
}

static bool add_prefixes(struct call *call, const struct wish *wish)
{
    static const struct nr_bytes every = {(const uint8_t *)"", 0};

    if (!(wish->mode & NR_TRACKING_BROADCAST))
        return true;
    if (!wish->prefixes)
        return add_prefix(call, every);
    for (uint32_t i = 3; i + 1 < call->count; i++)
        if (nr_bytes_are(call->arguments[i], "prefix") && !add_prefix(call, call->arguments[++i]))
            return false;
    return true;
}

void nr_client_tracking(struct call *call)
{
    struct client *client = call->client;
    const char *why;
    struct wish wish;
    int result;

    if (nr_bytes_are(call->arguments[2], "off")) {
        nr_tracking_end(call->server, client);
        nr_reply_ok(call->reply);
        return;
    }
    if (!nr_bytes_are(call->arguments[2], "on")) {
        nr_fail_syntax(call);
        return;
    }
    if (!read_options(call, &wish))
        return;
    why = objection(client, &wish);
    if (why) {
        nr_reply_error(call->reply, "%s", why);
        return;
    }
    result = nr_client_extra(client) ? 0 : -ENOMEM;
    if (result == 0 && !(client->tracking & NR_TRACKING)) {
        result = nr_tracking_begin(call->server);
        if (result == 0)
            client->tracking = NR_TRACKING;
    }
    if (result == 0 && !add_prefixes(call, &wish))
        result = -ENOMEM;
    if (result < 0) {
        nr_server_fail(call, result, NULL);
        return;
    }
    client->tracking = wish.mode;
    client->extra->redirect = wish.redirect;
    nr_reply_ok(call->reply);
}

void nr_client_caching(struct call *call)
{
    struct client *client = call->client;
    bool yes = nr_bytes_are(call->arguments[2], "yes");

    if (!(client->tracking & NR_TRACKING))
        nr_reply_error(call->reply, "ERR CLIENT CACHING can be called only when the client is in tracking "
                                    "mode with OPTIN or OPTOUT mode enabled");
    else if (!yes && !nr_bytes_are(call->arguments[2], "no"))
        nr_fail_syntax(call);
    else if (!(client->tracking & (yes ? NR_TRACKING_OPTIN : NR_TRACKING_OPTOUT)))
        nr_reply_error(call->reply,
                       yes ? "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
                           : "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
    else {
        client->tracking |= NR_TRACKING_CACHING;
        nr_reply_ok(call->reply);
    }
}

void nr_client_trackinginfo(struct call *call)
{
    static const struct {
        uint8_t mode;
        const char *name;
    } names[] = {{NR_TRACKING, "on"},           {NR_TRACKING_BROADCAST, "bcast"},
                 {NR_TRACKING_OPTIN, "optin"},  {NR_TRACKING_OPTOUT, "optout"},
                 {NR_TRACKING_NOLOOP, "noloop"}, {NR_TRACKING_BROKEN, "broken_redirect"}};
    const struct client *client = call->client;
    const struct client_extra *extra = client->extra;
    bool on = client->tracking & NR_TRACKING;
    size_t count = !on;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        count += (client->tracking & names[i].mode) != 0;
    nr_reply_map(call->reply, 3);
    nr_reply_string(call->reply, "flags");
    nr_reply_set(call->reply, count);
    if (!on)
        nr_reply_string(call->reply, "off");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (client->tracking & names[i].mode)
            nr_reply_string(call->reply, names[i].name);
    nr_reply_string(call->reply, "redirect");
    nr_reply_integer(call->reply, on ? (int64_t)extra->redirect : -1);
    nr_reply_string(call->reply, "prefixes");
    nr_reply_array(call->reply, extra ? extra->prefix_count : 0);
    for (uint32_t i = 0; extra && i < extra->prefix_count; i++)
        nr_reply_bulk(call->reply, extra->prefixes[i]->name, extra->prefixes[i]->size);
}
