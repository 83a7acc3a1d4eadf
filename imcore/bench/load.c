/* load: many clients of one comet in one thread, and one JSON object that says what happened to them.
 *
 * A run has five phases: connect all clients and authenticate them; send without counting (warm-up); the measured
 * window; drain (no new sends, what is still under way may arrive); report. Rates and CPU are of the window alone.
 * Totals are of the whole run, so that "acknowledged" and "delivered" can be compared to the last message.
 *
 * With --devices the clients are devices that do not give up: each has a key, keeps the cursor of its acks, comes back
 * when its connection ends, and counts what it missed and what it got twice by the room's seq. With --stall some of
 * them stop reading in the window, until SIGUSR1.
 *
 * Rules: a reply is an ack only if it holds a position; whatever else arrives as a reply is counted as an error under
 * its code. Latency is taken from the moment the bytes were handed to the kernel. Every phase has a deadline. Only
 * 127.0.0.1 is ever connected to.
 *
 * The trap: this program shares the machine with what it measures. So it does little per message, never builds a tree
 * from JSON, and reports its own CPU beside the figures.
 *
 * Built and started by imcore.bench; by hand: cc -O2 -o load load.c && ./load --help
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    OP_HEARTBEAT = 2, OP_HEARTBEAT_REPLY = 3, OP_SEND = 4, OP_SEND_REPLY = 5, OP_DISCONNECT = 6,
    OP_AUTH = 7, OP_AUTH_REPLY = 8, OP_RAW = 9, OP_ROOM_REPLY = 13, OP_SUB_REPLY = 15, OP_UNSUB_REPLY = 17,
    OP_ERROR = 20, OP_EVENT = 21, OP_ACK = 34, OP_ACK_REPLY = 35,
};
enum { WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };
enum { FIN = 0x80, MASKED = 0x80 };

enum {
    HEADER_BYTES = 16,              /* goim's header: length, header length, version, op, seq; big-endian */
    BODY_BYTES_MAX = 64 << 10,      /* of what we send */
    FRAME_BYTES_MAX = 4 << 20,      /* of what we take: pages of a client that catches up are large */
    READ_BYTES_MAX = 256 << 10,
    WINDOW_MAX = 1024,
    PER_ADDRESS = 15000,            /* connections from one source address: the kernel has some 28,000 ports for each */
    CONNECTS_PER_TURN = 128,        /* so that replies are read while thousands connect */
    EVENTS_PER_TURN = 64,           /* few, so that a paced send is late by no more than their reading takes */
};
#define SECOND_US 1000000ull
#define HEARTBEAT_US (100 * SECOND_US)  /* goim closes after 2 x 240 s of silence; runs are mostly shorter than this */
#define QUIET_US (SECOND_US / 2)        /* a drain is over when nothing has arrived for so long */
/* Of devices: between two acks; what a wait before coming back begins at and ends at, and after how long open it begins
 * anew (docs/protocol.md, "Reconnecting"); between two tries of a device without patience. */
#define ACK_US SECOND_US
#define AWAY_US_MIN SECOND_US
#define AWAY_US_MAX (60 * SECOND_US)
#define SETTLED_US (60 * SECOND_US)
#define IMPATIENT_US (SECOND_US / 2)
#define LOOK_US (SECOND_US / 50)        /* between looks at what is due */
enum { CURSOR_BYTES = 256 + 1 };

static void die(const char *form, ...)
{
    va_list args;
    va_start(args, form);
    fputs("load: ", stderr);
    vfprintf(stderr, form, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* --- clock, randomness ------------------------------------------------------------------------ */

/* 1970 by the monotonic clock, fixed at the start, so that steps of the wall clock do no harm. */
static uint64_t epoch_us;

static uint64_t clock_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND_US + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t now_us(void) { return clock_us(CLOCK_MONOTONIC) + epoch_us; }

static uint64_t random_state;

static uint64_t random_u64(void)                /* splitmix64 */
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void random_uuid(char out[37])
{
    uint64_t a = random_u64(), b = random_u64();
    snprintf(out, 37, "%08x-%04x-4%03x-%04x-%012llx",
             (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff, (unsigned)a & 0xfff,
             ((unsigned)(b >> 48) & 0x3fff) | 0x8000, (unsigned long long)b & 0xffffffffffffull);
}

/* --- counting --------------------------------------------------------------------------------- */

/* Times in microseconds, in buckets 1/64 wide: a percentile is at most 1.6 % too high, never too low. */
enum { SUB_BITS = 6, SUBS = 1 << SUB_BITS, BUCKETS = SUBS * (64 - SUB_BITS) };
struct histogram { uint64_t count, max, bucket[BUCKETS]; };

static unsigned bucket_of(uint64_t us)
{
    if (us < SUBS)
        return (unsigned)us;
    unsigned shift = 63 - (unsigned)__builtin_clzll(us) - SUB_BITS;
    return (shift + 1) * SUBS + ((us >> shift) & (SUBS - 1));
}

static uint64_t bucket_top(unsigned bucket)
{
    if (bucket < SUBS)
        return bucket;
    unsigned shift = bucket / SUBS - 1;
    return (((uint64_t)(SUBS + bucket % SUBS) + 1) << shift) - 1;
}

static void record(struct histogram *h, uint64_t us)
{
    h->count++;
    h->bucket[bucket_of(us)]++;
    if (us > h->max)
        h->max = us;
}

static double percentile_ms(const struct histogram *h, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)h->count + 0.999999), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((seen += h->bucket[i]) >= wanted && seen)
            return (double)(bucket_top(i) < h->max ? bucket_top(i) : h->max) / 1000;
    return 0;
}

/* How often each text was seen. Texts come from the peer: they are cut, and made harmless for the JSON we print. */
enum { TALLY_TEXTS = 16, TALLY_TEXT_BYTES = 64 };
struct tally { unsigned texts; struct { char text[TALLY_TEXT_BYTES]; uint64_t count; } row[TALLY_TEXTS]; };

static void copy_clean(char *to, size_t room, const char *text, size_t n)
{
    size_t length = n < room - 1 ? n : room - 1;
    for (size_t i = 0; i < length; i++)
        to[i] = text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\' ? '?' : text[i];
    to[length] = 0;
}

static void count_text(struct tally *tally, const char *text, size_t n)
{
    char clean[TALLY_TEXT_BYTES];
    copy_clean(clean, sizeof clean, text, n);
    unsigned i = 0;
    while (i < tally->texts && strcmp(tally->row[i].text, clean))
        i++;
    if (i == TALLY_TEXTS)
        i--;                                            /* no row is left: the last one is called "other" */
    else if (i == tally->texts)
        strcpy(tally->row[tally->texts++].text, i < TALLY_TEXTS - 1 ? clean : "other");
    tally->row[i].count++;
}

/* --- what was asked for, and what came of it -------------------------------------------------- */

enum carrier { TCP, WS, JSON };

static struct {
    enum carrier carrier;
    const char *carrier_name, *room, *tokens_path, *auth_extra, *devices;
    long port, clients, rooms, senders, window, body_bytes, source, stall, receive_bytes;
    long long first_mid, until, sends;
    double connect_rate, rate, rate_each, seconds, warm_up_s, drain_s, ready_within_s;
    uint64_t seed;
    bool enter, at_once;
} opt = {
    .room = "", .clients = 1, .body_bytes = 100, .source = 2, .first_mid = 1, .drain_s = 10, .ready_within_s = 60,
    .enter = true,
};

static enum { CONNECTING_ALL, WARMING_UP, MEASURING, DRAINING, DONE } phase;

/* Of the whole run; as it stood at the window's two ends. */
static struct counts { uint64_t acked, delivered, bytes, reads; } total, at_begin, at_end;

static uint64_t started_us, phase_us, ready_us, begin_us, end_us, first_delivery_us, last_delivery_us, last_bytes_us;
static double begin_cpu_s, end_cpu_s;
static uint64_t ready, failed, sent, errors, unexpected, events, closes, in_flight, disordered;
static uint64_t repeated, missing, tries, unrecovered, lost_us; /* of devices; lost_us: when the first one was cut off */
static long here;                                               /* devices that are connected */
static bool told_back;
static long made, open_now;
static struct tally failures, error_codes, close_codes;
static struct histogram connect_times, ack_times, delivery_times, send_lags;
static struct histogram away_times;             /* of devices, from being cut off to having what was said until then */
static volatile sig_atomic_t asked_to_stop, asked_to_read;

static char **tokens;
static char *padding;
static char cursor[CURSOR_BYTES];              /* of the client that was the last to be ready */

/* --- connections ------------------------------------------------------------------------------ */

struct flight { uint32_t seq; uint64_t sent_us; };      /* sent_us 0: free */

struct conn {
    enum { UNMADE, CONNECTING, UPGRADING, AUTHENTICATING, READY, CLOSED, AWAY } state;
    int fd;
    long index;
    uint64_t began_us, delivered, last_n;
    uint8_t *kept, *unsent;                     /* the tail of an unfinished frame; what the socket did not take */
    size_t kept_bytes, kept_room, unsent_bytes, unsent_room;
    struct flight *flights;                     /* senders only: a ring of ring_size, found by seq */
    uint32_t next_seq;
    long in_flight;
    /* Devices only. `position` is of the last event of this connection, `acked` of the last ack. */
    char *cursor;
    uint64_t position, acked, ack_due_us, come_at_us, cut_off_us, back_us, caught_up_us, delay_us;
    unsigned attempts;
    bool was_ready, is_stalled;
};

static struct conn *conns;
static int epoll_fd, timer_fd;
static uint32_t ring_size;

static void watch(struct conn *c, bool for_writing)
{
    struct epoll_event e = { .events = EPOLLIN | (for_writing ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void grow(uint8_t **at, size_t *room, size_t needed)
{
    if (needed <= *room)
        return;
    *room = needed * 2;
    if (!(*at = realloc(*at, *room)))
        die("out of memory");
}

/* When a device comes back: after the delay that it was told, or, so that not all come at once, after a random time of
 * up to twice as much after each failure. One without patience comes at once, and again and again. */
static void go_away(struct conn *c, bool was_ready)
{
    uint64_t now = now_us();
    if (was_ready) {
        c->cut_off_us = now;
        if (!lost_us)
            lost_us = now;
        told_back = false;
        if (now >= c->back_us + SETTLED_US)
            c->attempts = 0;
    }
    uint64_t most = AWAY_US_MIN << (c->attempts < 6 ? c->attempts : 6);
    most = most < AWAY_US_MAX ? most : AWAY_US_MAX;
    if (opt.at_once)
        c->come_at_us = was_ready ? now : now + IMPATIENT_US;
    else if (c->delay_us)
        c->come_at_us = now + c->delay_us;
    else {
        c->come_at_us = now + random_u64() % most;
        c->attempts++;
    }
    c->delay_us = 0;
    c->state = AWAY;
}

/* The connection is over: before its auth was answered a failed connect, later a close; both count by reason. */
static void end(struct conn *c, const char *reason, size_t n)
{
    if (c->state == CLOSED || c->state == AWAY)
        return;
    bool was_ready = c->state == READY;
    if (was_ready) {
        closes++;
        count_text(&close_codes, reason, n);
    } else {
        failed++;
        count_text(&failures, reason, n);
    }
    c->state = CLOSED;
    open_now--;
    close(c->fd);
    free(c->kept);
    free(c->unsent);
    c->kept = c->unsent = NULL;
    c->kept_bytes = c->kept_room = c->unsent_bytes = c->unsent_room = 0;
    if (opt.devices) {
        here -= was_ready;
        go_away(c, was_ready);
    }
}

static void end_text(struct conn *c, const char *reason) { end(c, reason, strlen(reason)); }

static void put(struct conn *c, const uint8_t *bytes, size_t n)
{
    if (!c->unsent_bytes) {
        ssize_t taken = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (taken == (ssize_t)n)
            return;
        if (taken < 0 && errno != EAGAIN)
            return;                                     /* the connection broke: the next read says so, and counts it */
        if (taken > 0)
            bytes += taken, n -= (size_t)taken;
        watch(c, true);
    }
    grow(&c->unsent, &c->unsent_room, c->unsent_bytes + n);
    memcpy(c->unsent + c->unsent_bytes, bytes, n);
    c->unsent_bytes += n;
}

static void flush_unsent(struct conn *c)
{
    ssize_t taken = send(c->fd, c->unsent, c->unsent_bytes, MSG_NOSIGNAL);
    if (taken <= 0)
        return;
    c->unsent_bytes -= (size_t)taken;
    memmove(c->unsent, c->unsent + taken, c->unsent_bytes);
    if (!c->unsent_bytes)
        watch(c, false);
}

/* --- frames out ------------------------------------------------------------------------------- */

/* A body is written in place; headers go before it, from the inside out, so that a packet leaves in one write. */
enum { HEADROOM = 128, TAILROOM = 8 };
static uint8_t frame[HEADROOM + BODY_BYTES_MAX + TAILROOM];
static char *const body = (char *)frame + HEADROOM;

static void put_u32(uint8_t *p, uint32_t v)
{
    v = htonl(v);
    memcpy(p, &v, sizeof v);
}

static uint8_t *before_goim(uint8_t *at, int op, uint32_t seq, size_t body_bytes)
{
    at -= HEADER_BYTES;
    put_u32(at, (uint32_t)(HEADER_BYTES + body_bytes));
    put_u32(at + 4, HEADER_BYTES << 16 | 1);            /* header length and version, an int16 each */
    put_u32(at + 8, (uint32_t)op);
    put_u32(at + 12, seq);
    return at;
}

static uint8_t *before_json(uint8_t *at, int op, uint32_t seq, size_t *body_bytes)
{
    char head[64];
    int n = snprintf(head, sizeof head, "{\"op\":%d,\"seq\":%u%s", op, seq, *body_bytes ? ",\"body\":" : "");
    at[(*body_bytes)++] = '}';
    memcpy(at - n, head, (size_t)n);
    return at - n;
}

/* A client's frames are masked (RFC 6455 section 5.3); the key is four zeros, so that the bytes stay as they are. */
static uint8_t *before_ws(uint8_t *at, int opcode, size_t payload_bytes)
{
    memset(at -= 4, 0, 4);
    if (payload_bytes < 126) {
        *--at = MASKED | (uint8_t)payload_bytes;
    } else if (payload_bytes < 65536) {
        *--at = (uint8_t)payload_bytes;
        *--at = (uint8_t)(payload_bytes >> 8);
        *--at = MASKED | 126;
    } else {
        put_u32(at -= 4, (uint32_t)payload_bytes);
        memset(at -= 4, 0, 4);
        *--at = MASKED | 127;
    }
    *--at = FIN | (uint8_t)opcode;
    return at;
}

/* Sends the packet whose body stands in `body`. */
static void put_packet(struct conn *c, int op, uint32_t seq, size_t body_bytes)
{
    uint8_t *at = (uint8_t *)body, *stop;
    if (opt.carrier == JSON) {
        size_t n = body_bytes;
        at = before_json(at, op, seq, &n);
        stop = (uint8_t *)body + n;
        at = before_ws(at, WS_TEXT, (size_t)(stop - at));
    } else {
        at = before_goim(at, op, seq, body_bytes);
        stop = (uint8_t *)body + body_bytes;
        if (opt.carrier == WS)
            at = before_ws(at, WS_BINARY, (size_t)(stop - at));
    }
    put(c, at, (size_t)(stop - at));
}

static size_t write_body(size_t at, const char *form, ...)
{
    va_list args;
    va_start(args, form);
    int n = vsnprintf(body + at, BODY_BYTES_MAX - at, form, args);
    va_end(args);
    if (n < 0 || at + (size_t)n >= BODY_BYTES_MAX)
        die("a packet would be larger than %d bytes", BODY_BYTES_MAX);
    return at + (size_t)n;
}

static size_t write_room(size_t at, const struct conn *c)
{
    if (opt.rooms)
        return write_body(at, "%s%ld", opt.room, c->index % opt.rooms);
    return write_body(at, "%s", opt.room);
}

static void put_auth(struct conn *c)
{
    size_t n = write_body(0, "{\"mid\":%lld,\"key\":\"", opt.first_mid + c->index);
    if (opt.devices)
        n = write_body(n, "%s%ld", opt.devices, c->index);
    if (c->cursor && *c->cursor)
        n = write_body(n, "\",\"cursor\":\"%s", c->cursor);
    n = write_body(n, "\",\"room_id\":\"");
    if (opt.enter)
        n = write_room(n, c);
    n = write_body(n, "\",\"platform\":\"web\",\"accepts\":[1000,1001,1002]");
    if (tokens)
        n = write_body(n, ",\"token\":\"%s\"", tokens[c->index]);
    if (opt.auth_extra)
        n = write_body(n, ",%s", opt.auth_extra);
    n = write_body(n, "}");
    c->state = AUTHENTICATING;
    put_packet(c, OP_AUTH, 1, n);
}

/* Sends one message into the client's room. Its body carries, for who receives it, the time and a number that grows. */
static void put_message(struct conn *c)
{
    char id[37];
    random_uuid(id);
    while (c->flights[c->next_seq % ring_size].sent_us)
        c->next_seq++;                                  /* there is a free one: fewer than ring_size are in flight */
    size_t n = write_room(write_body(0, "{\"room\":\""), c);
    uint64_t now = now_us();
    n = write_body(n, "\",\"id\":\"%s\",\"body\":{\"t\":%llu,\"n\":%llu,\"text\":\"%s\"}}", id, (unsigned long long)now,
                   (unsigned long long)++sent, padding);
    c->flights[c->next_seq % ring_size] = (struct flight){ .seq = c->next_seq, .sent_us = now };
    c->in_flight++, in_flight++;
    put_packet(c, OP_SEND, c->next_seq++, n);
}

static void put_hello(struct conn *c)
{
    if (opt.carrier == TCP) {
        put_auth(c);
        return;
    }
    char hello[256];
    int n = snprintf(hello, sizeof hello,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                     opt.carrier == WS ? "/sub" : "/ws", opt.port);
    c->state = UPGRADING;
    put(c, (uint8_t *)hello, (size_t)n);
}

/* --- JSON: just enough to find a member's value, without copying; what the server wrote is taken as well-formed --- */

struct span { const char *at, *end; };

static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end)
{
    int depth = 0;
    while (p < end) {
        if (*p == '"') {
            p = skip_string(p, end);
            if (!depth)
                return p;
            continue;
        }
        if (*p == '{' || *p == '[')
            depth++;
        else if ((*p == '}' || *p == ']') && --depth <= 0)
            return depth ? p : p + 1;                   /* -1: it closes what holds this value */
        else if (*p == ',' && !depth)
            return p;
        p++;
    }
    return end;
}

static const char *skip_blank(const char *p, const char *end)
{
    while (p < end && (isspace((unsigned char)*p) || *p == ',' || *p == ':'))
        p++;
    return p;
}

/* The value of `key` in this object, or an empty span. */
static struct span member(struct span object, const char *key)
{
    const char *p = skip_blank(object.at, object.end), *end = object.end;
    size_t key_bytes = strlen(key);
    if (p < end && *p == '{')
        for (p = skip_blank(p + 1, end); p < end && *p == '"'; p = skip_blank(p, end)) {
            const char *name = p + 1;
            p = skip_blank(skip_string(p, end), end);
            bool found = (size_t)(end - name) > key_bytes && !memcmp(name, key, key_bytes) && name[key_bytes] == '"';
            const char *value = p;
            p = skip_value(p, end);
            if (found)
                return (struct span){ value, p };
        }
    return (struct span){ end, end };
}

static bool is_empty(struct span s) { return s.at == s.end; }

static long long as_number(struct span s) { return is_empty(s) ? 0 : strtoll(s.at, NULL, 10); }

/* What a reply says went wrong, or an empty span: {"error":…} or the error itself, which has a code. */
static struct span error_of(struct span b)
{
    struct span error = member(b, "error");
    return is_empty(error) && !is_empty(member(b, "code")) ? b : error;
}

/* The code of an error, whether it is told as a text or as an object with a code. */
static struct span error_code(struct span error)
{
    struct span code = member(error, "code");
    if (is_empty(code))
        code = error;
    if (code.end - code.at >= 2 && *code.at == '"')
        code.at++, code.end--;
    return code;
}

/* --- packets in ------------------------------------------------------------------------------- */

static void on_authenticated(struct conn *c, struct span b)
{
    struct span error = error_of(b);
    if (!is_empty(error)) {
        struct span code = error_code(error);
        c->delay_us = (uint64_t)as_number(member(error, "retry_after_ms")) * 1000;
        end(c, code.at, (size_t)(code.end - code.at));
        return;
    }
    if (c->state != AUTHENTICATING) {
        unexpected++;
        return;
    }
    uint64_t now = now_us();
    struct span told = member(b, "cursor");
    if (told.end - told.at > 2)
        copy_clean(cursor, sizeof cursor, told.at + 1, (size_t)(told.end - told.at - 2));
    c->state = READY;
    ready += !c->was_ready;
    record(&connect_times, now - c->began_us);
    if (!opt.devices)
        return;
    struct span recovered = member(b, "recovered");
    unrecovered += c->was_ready && (is_empty(recovered) || *recovered.at != 't');
    strcpy(c->cursor, cursor);
    c->was_ready = true;
    c->position = c->acked = 0;
    c->back_us = now;
    here++;
    /* All are connected again, since the last one was cut off. */
    if (lost_us && !told_back && here == opt.clients) {
        told_back = true;
        fputs("back\n", stderr);
    }
}

static void on_ack_reply(struct conn *c, struct span b)
{
    struct span told = member(b, "cursor");
    if (c->cursor && told.end - told.at > 2)
        copy_clean(c->cursor, CURSOR_BYTES, told.at + 1, (size_t)(told.end - told.at - 2));
    else
        unexpected++;
}

static bool may_send(void)
{
    return (phase == WARMING_UP || phase == MEASURING) && (!opt.sends || sent < (uint64_t)opt.sends);
}

static bool is_in_flight(const struct conn *c, uint32_t seq)
{
    return c->flights && c->flights[seq % ring_size].sent_us && c->flights[seq % ring_size].seq == seq;
}

static void on_reply(struct conn *c, uint32_t seq, struct span b)
{
    if (!is_in_flight(c, seq)) {
        unexpected++;
        return;
    }
    uint64_t sent_us = c->flights[seq % ring_size].sent_us;
    c->flights[seq % ring_size].sent_us = 0;
    c->in_flight--, in_flight--;
    struct span error = error_of(b);
    if (!is_empty(error)) {
        struct span code = error_code(error);
        errors++;
        count_text(&error_codes, code.at, (size_t)(code.end - code.at));
    } else if (is_empty(member(b, "position"))) {
        errors++;
        count_text(&error_codes, "reply without position", 22);
    } else {
        total.acked++;
        if (begin_us && sent_us >= begin_us)
            record(&ack_times, now_us() - sent_us);
    }
    if (!opt.rate && may_send())
        put_message(c);
}

/* The number after the first "name": that has one, or 0. A search and no parse: the body may be of any form, and lie
 * at any depth. */
static uint64_t number_in(struct span b, const char *quoted_name)
{
    size_t name_bytes = strlen(quoted_name);
    for (const char *p = b.at; (p = memmem(p, (size_t)(b.end - p), quoted_name, name_bytes));) {
        p += name_bytes;
        if (p < b.end && isdigit((unsigned char)*p))
            return strtoull(p, NULL, 10);
    }
    return 0;
}

/* What a device makes of an event: is it new? Its room's seq has no hole, as everything in it is delivered to members.
 * On one connection the position grows; over several an event may be repeated. */
static bool is_new(struct conn *c, struct span b)
{
    uint64_t position = number_in(b, "\"position\":"), seq = number_in(b, "\"seq\":");
    if (position <= c->position)
        disordered++;
    c->position = position;
    if (seq <= c->last_n) {
        repeated++;
        return false;
    }
    if (c->last_n)
        missing += seq - c->last_n - 1;
    c->last_n = seq;
    return true;
}

static void on_delivery(struct conn *c, struct span b)
{
    if (opt.devices && !is_new(c, b))
        return;
    uint64_t t = number_in(b, "\"t\":"), n = number_in(b, "\"n\":");
    if (!t) {
        events++;                                       /* a join or another fact, not one of our messages */
        return;
    }
    uint64_t now = now_us();
    if (!first_delivery_us)
        first_delivery_us = now;
    last_delivery_us = now;
    total.delivered++;
    c->delivered++;
    if (opt.devices) {
        /* Said before it was connected: it was not back before it had this. */
        if (c->cut_off_us && t < c->back_us)
            c->caught_up_us = now;
    } else {
        if (n <= c->last_n)
            disordered++;
        c->last_n = n;
    }
    if (begin_us && t >= begin_us)
        record(&delivery_times, now > t ? now - t : 0);
}

static void on_json_packet(struct conn *c, struct span packet);

static void on_goim_packets(struct conn *c, struct span *bytes);

static void on_packet(struct conn *c, int op, uint32_t seq, struct span b)
{
    switch (op) {
    case OP_AUTH_REPLY:
        on_authenticated(c, b);
        return;
    case OP_SEND_REPLY:
        on_reply(c, seq, b);
        return;
    case OP_ERROR:                              /* its body is the error itself, of a send or of something else */
        if (is_in_flight(c, seq))
            on_reply(c, seq, b);
        else
            unexpected++;
        return;
    case OP_ACK_REPLY:
        on_ack_reply(c, b);
        return;
    case OP_DISCONNECT: {
        struct span code = error_code(b);
        c->delay_us = (uint64_t)as_number(member(b, "delay_ms")) * 1000;
        end(c, code.at, (size_t)(code.end - code.at));
        return;
    }
    case OP_HEARTBEAT_REPLY: case OP_ROOM_REPLY: case OP_SUB_REPLY: case OP_UNSUB_REPLY:
        return;
    case OP_RAW:
        if (opt.carrier != JSON) {
            on_goim_packets(c, &b);
            if (!is_empty(b))
                end_text(c, "a batch holds half a packet");
            return;
        }
        for (const char *p = skip_blank(b.at + 1, b.end); p < b.end && *p == '{'; p = skip_blank(p, b.end)) {
            const char *next = skip_value(p, b.end);
            on_json_packet(c, (struct span){ p, next });
            p = next;
        }
        return;
    default:
        on_delivery(c, b);
    }
}

static void on_json_packet(struct conn *c, struct span packet)
{
    struct span op = member(packet, "op");
    if (is_empty(op))
        end_text(c, "a JSON frame without op");
    else
        on_packet(c, (int)as_number(op), (uint32_t)as_number(member(packet, "seq")), member(packet, "body"));
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return ntohl(v);
}

/* Takes whole packets from the front of `bytes`. */
static void on_goim_packets(struct conn *c, struct span *bytes)
{
    while (c->state != CLOSED && bytes->end - bytes->at >= HEADER_BYTES) {
        const uint8_t *p = (const uint8_t *)bytes->at;
        uint32_t length = get_u32(p);
        if (length < HEADER_BYTES || length > FRAME_BYTES_MAX || get_u32(p + 4) >> 16 != HEADER_BYTES) {
            end_text(c, "bad goim header");
            return;
        }
        if (bytes->end - bytes->at < (ptrdiff_t)length)
            return;
        struct span b = { bytes->at + HEADER_BYTES, bytes->at + length };
        bytes->at += length;
        on_packet(c, (int)get_u32(p + 8), get_u32(p + 12), b);
    }
}

static void on_ws_close(struct conn *c, struct span payload)
{
    char code[16] = "no code";
    if (payload.end - payload.at >= 2)
        snprintf(code, sizeof code, "%d", (uint8_t)payload.at[0] << 8 | (uint8_t)payload.at[1]);
    end_text(c, code);
}

static void on_ws_frame(struct conn *c, int opcode, struct span payload)
{
    switch (opcode) {
    case WS_BINARY:
        on_goim_packets(c, &payload);
        if (!is_empty(payload))
            end_text(c, "a frame holds half a packet");
        return;
    case WS_TEXT:
        on_json_packet(c, payload);
        return;
    case WS_CLOSE:
        on_ws_close(c, payload);
        return;
    case WS_PING: {
        size_t n = (size_t)(payload.end - payload.at);
        memcpy(body, payload.at, n);
        uint8_t *at = before_ws((uint8_t *)body, WS_PONG, n);
        put(c, at, (size_t)((uint8_t *)body + n - at));
        return;
    }
    case WS_PONG:
        return;
    default:
        end_text(c, "fragmented or unknown WebSocket frame");
    }
}

/* Takes whole frames from the front of `bytes`. */
static void on_ws_frames(struct conn *c, struct span *bytes)
{
    while (c->state != CLOSED && bytes->end - bytes->at >= 2) {
        const uint8_t *p = (const uint8_t *)bytes->at;
        size_t have = (size_t)(bytes->end - bytes->at), head = 2;
        uint64_t length = p[1];
        if (p[1] == 126)
            head = 4;
        else if (p[1] == 127)
            head = 10;
        if (have < head)
            return;
        if (head == 4)
            length = (uint64_t)p[2] << 8 | p[3];
        else if (head == 10)
            length = (uint64_t)get_u32(p + 2) << 32 | get_u32(p + 6);
        bool is_control = p[0] & 8;
        bool is_masked = p[1] & MASKED;                 /* a server's frame never is */
        if (length > FRAME_BYTES_MAX - 16 || is_masked || !(p[0] & FIN) || (is_control && length > 125)) {
            end_text(c, "bad WebSocket frame");
            return;
        }
        if (have < head + length)
            return;
        struct span payload = { bytes->at + head, bytes->at + head + length };
        bytes->at = payload.end;
        on_ws_frame(c, p[0] & 15, payload);
    }
}

static void on_upgrade(struct conn *c, struct span *bytes)
{
    const char *stop = memmem(bytes->at, (size_t)(bytes->end - bytes->at), "\r\n\r\n", 4);
    if (!stop)
        return;
    if (memcmp(bytes->at, "HTTP/1.1 101", 12)) {
        const char *eol = memchr(bytes->at, '\r', (size_t)(stop - bytes->at) + 1);
        const char *after = memmem(bytes->at, (size_t)(stop - bytes->at), "\r\nRetry-After: ", 15);
        if (after)
            c->delay_us = strtoull(after + 15, NULL, 10) * SECOND_US;
        end(c, bytes->at, (size_t)(eol - bytes->at));
        return;
    }
    bytes->at = stop + 4;
    put_auth(c);
}

static void on_bytes(struct conn *c, struct span *bytes)
{
    if (c->state == UPGRADING)
        on_upgrade(c, bytes);
    if (c->state == AUTHENTICATING || c->state == READY) {
        if (opt.carrier == TCP)
            on_goim_packets(c, bytes);
        else
            on_ws_frames(c, bytes);
    }
}

static void on_readable(struct conn *c)
{
    static char input[FRAME_BYTES_MAX + READ_BYTES_MAX];
    if (c->kept_bytes)
        memcpy(input, c->kept, c->kept_bytes);
    ssize_t n = read(c->fd, input + c->kept_bytes, READ_BYTES_MAX);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return;
        end_text(c, n ? strerror(errno) : "closed without a code");
        return;
    }
    total.bytes += (uint64_t)n;
    total.reads++;
    last_bytes_us = now_us();
    struct span bytes = { input, input + c->kept_bytes + n };
    on_bytes(c, &bytes);
    if (c->state == CLOSED)
        return;
    c->kept_bytes = (size_t)(bytes.end - bytes.at);
    if (c->kept_bytes > FRAME_BYTES_MAX) {
        end_text(c, "an answer without an end");
        return;
    }
    grow(&c->kept, &c->kept_room, c->kept_bytes);
    if (c->kept_bytes)
        memcpy(c->kept, bytes.at, c->kept_bytes);
}

static void on_writable(struct conn *c)
{
    if (c->state != CONNECTING) {
        flush_unsent(c);
        return;
    }
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        end_text(c, strerror(error));
        return;
    }
    watch(c, false);
    put_hello(c);
}

/* --- connecting, sending, phases -------------------------------------------------------------- */

static void start_connect(struct conn *c)
{
    int one = 1, receive_bytes = (int)opt.receive_bytes;
    c->began_us = now_us();
    c->state = CONNECTING;
    c->next_seq = 2;                                    /* auth was 1 */
    open_now++;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (receive_bytes)                                  /* before connecting: it bounds the window */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    struct sockaddr_in from = { .sin_family = AF_INET }, to = { .sin_family = AF_INET };
    from.sin_addr.s_addr = htonl((INADDR_LOOPBACK & ~255u) + (uint32_t)(opt.source + c->index / PER_ADDRESS));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)opt.port);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0)
        die("bind: %s", strerror(errno));
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        end_text(c, strerror(errno));
}

static void connect_more(uint64_t now)
{
    for (int i = 0; i < CONNECTS_PER_TURN && made < opt.clients; i++) {
        if (opt.connect_rate && (double)made > opt.connect_rate * (double)(now - started_us) / SECOND_US)
            return;
        start_connect(&conns[made++]);
    }
}

static bool can_send(const struct conn *c) { return c->state == READY && c->in_flight < opt.window; }

static void start_sending(void)
{
    for (long i = 0; i < opt.senders; i++) {
        struct conn *c = &conns[i];
        if (!(c->flights = calloc(ring_size, sizeof *c->flights)))
            die("out of memory");
        while (!opt.rate && may_send() && can_send(c))
            put_message(c);
    }
}

/* Paced: message k is due k / rate after the start, whatever came of those before it; the senders take turns. */
static void send_due(uint64_t now)
{
    static uint64_t paced;
    static long turn;
    while (opt.rate && may_send()) {
        uint64_t due = ready_us + (uint64_t)((double)paced * SECOND_US / opt.rate);
        if (due > now) {
            uint64_t at = due - epoch_us;
            struct itimerspec t = { 0 };
            t.it_value.tv_sec = (time_t)(at / SECOND_US);
            t.it_value.tv_nsec = (long)(at % SECOND_US) * 1000;
            timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
            return;
        }
        long tried = 0;
        while (tried < opt.senders && !can_send(&conns[turn])) {
            turn = (turn + 1) % opt.senders;
            tried++;
        }
        if (tried == opt.senders)
            return;                                     /* every window is full: it stays due, and its lag will tell */
        record(&send_lags, now - due);
        put_message(&conns[turn]);
        turn = (turn + 1) % opt.senders;
        paced++;
    }
}

/* Devices that are due come back, and say how far they have come. */
static void look_after_devices(uint64_t now)
{
    static uint64_t next_us;
    if (!opt.devices || now < next_us)
        return;
    next_us = now + LOOK_US;
    int connects = 0;
    for (long i = 0; i < made; i++) {
        struct conn *c = &conns[i];
        if (c->state == AWAY && now >= c->come_at_us && phase < DRAINING && connects < CONNECTS_PER_TURN) {
            connects++, tries++;
            start_connect(c);
        } else if (c->state == READY && !c->is_stalled && c->position > c->acked && now >= c->ack_due_us) {
            put_packet(c, OP_ACK, c->next_seq++, write_body(0, "{\"position\":%llu}", (unsigned long long)c->position));
            c->acked = c->position;
            c->ack_due_us = now + ACK_US;
        }
    }
    if (connects == CONNECTS_PER_TURN)
        next_us = now;                                  /* more are due; replies are read in between */
}

/* The last devices stop reading, as a process that was stopped; later all read again. */
static void stall(bool is_stalled)
{
    for (long i = opt.clients - opt.stall; i < opt.clients; i++) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = &conns[i] };
        if (conns[i].is_stalled == is_stalled || conns[i].state != READY)
            continue;
        conns[i].is_stalled = is_stalled;
        epoll_ctl(epoll_fd, is_stalled ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, conns[i].fd, &e);
    }
}

static void heartbeat(uint64_t now)
{
    static uint64_t next_us;
    if (!next_us)
        next_us = now + HEARTBEAT_US;
    if (now < next_us)
        return;
    next_us = now + HEARTBEAT_US;
    for (long i = 0; i < made; i++)
        if (conns[i].state == READY && !conns[i].is_stalled)
            put_packet(&conns[i], OP_HEARTBEAT, 1, 0);
}

static double cpu_s(void) { return (double)clock_us(CLOCK_PROCESS_CPUTIME_ID) / SECOND_US; }

static void enter(int next, uint64_t now, const char *word)
{
    phase = next;
    phase_us = now;
    if (word)
        fprintf(stderr, "%s\n", word);                  /* whoever started us measures the server between these words */
}

static uint64_t seconds_us(double s) { return (uint64_t)(s * SECOND_US); }

static bool window_is_over(uint64_t now)
{
    if (opt.until && (long long)total.delivered >= opt.until)
        return true;
    if (opt.sends && sent >= (uint64_t)opt.sends && !in_flight)
        return true;
    return asked_to_stop || (!open_now && !opt.devices) || now >= phase_us + seconds_us(opt.seconds);
}

static bool drained(uint64_t now)
{
    if (opt.devices)                                    /* what is on its way to them is theirs, whoever ends the run */
        return now >= last_bytes_us + QUIET_US || now >= phase_us + seconds_us(opt.drain_s);
    if (!sent || asked_to_stop || !open_now || now >= phase_us + seconds_us(opt.drain_s))
        return true;
    return !in_flight && now >= last_bytes_us + QUIET_US;
}

static void step(uint64_t now)
{
    switch (phase) {
    case CONNECTING_ALL:
        if (ready + (opt.devices ? 0 : failed) < (uint64_t)opt.clients && now < phase_us + seconds_us(opt.ready_within_s) && !asked_to_stop)
            return;
        for (long i = 0; i < made; i++)
            if (conns[i].state != READY && !conns[i].was_ready)
                end_text(&conns[i], "not ready in time");
        for (long i = made; i < opt.clients; i++, failed++)
            count_text(&failures, "not begun in time", 17);
        ready_us = now;
        enter(WARMING_UP, now, "ready");
        step(now);                              /* without a warm-up, the first send belongs to the window */
        start_sending();
        return;
    case WARMING_UP:
        if (now < phase_us + seconds_us(opt.warm_up_s) && !asked_to_stop)
            return;
        begin_us = now, begin_cpu_s = cpu_s(), at_begin = total;
        stall(true);
        enter(MEASURING, now, "measuring");
        return;
    case MEASURING:
        if (asked_to_read) {
            asked_to_read = 0;
            stall(false);
        }
        if (!window_is_over(now))
            return;
        end_us = now, end_cpu_s = cpu_s(), at_end = total;
        stall(false);
        enter(DRAINING, now, "measured");
        return;
    case DRAINING:
        if (drained(now))
            enter(DONE, now, NULL);
        return;
    case DONE:
        return;
    }
}

static bool is_open(const struct conn *c) { return c->state != CLOSED && c->state != AWAY; }

static void run(void)
{
    struct epoll_event ready_fds[EVENTS_PER_TURN];
    while (phase != DONE) {
        uint64_t now = now_us();
        if (phase == CONNECTING_ALL)
            connect_more(now);
        step(now);
        send_due(now);
        heartbeat(now);
        look_after_devices(now);
        int wait_ms = phase == CONNECTING_ALL && made < opt.clients ? opt.connect_rate != 0 : 5;
        int n = epoll_wait(epoll_fd, ready_fds, EVENTS_PER_TURN, wait_ms);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready_fds[i].data.ptr;
            if (!c) {                                   /* the timer of paced sends */
                uint64_t expirations;
                if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    die("timer: %s", strerror(errno));
                continue;
            }
            if (ready_fds[i].events & (EPOLLOUT | EPOLLERR) && is_open(c))
                on_writable(c);
            if (ready_fds[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && is_open(c) && c->state != CONNECTING)
                on_readable(c);
        }
    }
}

/* --- report ----------------------------------------------------------------------------------- */

static void print_times(const char *name, const struct histogram *h)
{
    printf("\"%s\":{\"count\":%llu,", name, (unsigned long long)h->count);
    printf("\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p99_9\":%.3f,\"max\":%.3f},", percentile_ms(h, .5),
           percentile_ms(h, .9), percentile_ms(h, .99), percentile_ms(h, .999), (double)h->max / 1000);
}

static void print_tally(const char *name, const struct tally *tally)
{
    printf("\"%s\":{", name);
    for (unsigned i = 0; i < tally->texts; i++)
        printf("%s\"%s\":%llu", i ? "," : "", tally->row[i].text, (unsigned long long)tally->row[i].count);
    printf("},");
}

static void print_count(const char *name, uint64_t n) { printf("\"%s\":%llu,", name, (unsigned long long)n); }

static void print_seconds(const char *name, uint64_t from_us, uint64_t to_us)
{
    printf("\"%s\":%.6f,", name, to_us > from_us ? (double)(to_us - from_us) / SECOND_US : 0.0);
}

static void report(void)
{
    uint64_t least = UINT64_MAX, most = 0;              /* deliveries to a client that does not send */
    for (long i = opt.senders; i < opt.clients; i++) {
        least = conns[i].delivered < least ? conns[i].delivered : least;
        most = conns[i].delivered > most ? conns[i].delivered : most;
    }
    double window_s = (double)(end_us - begin_us) / SECOND_US;
    uint64_t back_us = 0, seqs = 0;
    for (long i = 0; opt.devices && i < opt.clients; i++) {
        const struct conn *c = &conns[i];
        uint64_t at = c->back_us > c->caught_up_us ? c->back_us : c->caught_up_us;
        seqs += c->last_n;
        if (!c->cut_off_us || c->state != READY)
            continue;
        record(&away_times, at - c->cut_off_us);
        back_us = at > back_us ? at : back_us;
    }
    printf("{\"carrier\":\"%s\",", opt.carrier_name);
    print_count("seed", opt.seed);
    print_count("clients", (uint64_t)opt.clients);
    print_count("ready", ready);
    print_count("failed", failed);
    print_tally("failures", &failures);
    print_seconds("ready_s", started_us, ready_us);
    print_times("connect_ms", &connect_times);
    printf("\"cursor\":\"%s\",", cursor);
    printf("\"window_s\":%.6f,", window_s);
    print_count("window_acked", at_end.acked - at_begin.acked);
    print_count("window_delivered", at_end.delivered - at_begin.delivered);
    print_count("window_bytes", at_end.bytes - at_begin.bytes);
    print_count("window_reads", at_end.reads - at_begin.reads);
    printf("\"acked_per_s\":%.1f,", window_s > 0 ? (double)(at_end.acked - at_begin.acked) / window_s : 0);
    printf("\"delivered_per_s\":%.1f,", window_s > 0 ? (double)(at_end.delivered - at_begin.delivered) / window_s : 0);
    print_count("sent", sent);
    print_count("acked", total.acked);
    print_count("errors", errors);
    print_tally("error_codes", &error_codes);
    print_count("unanswered", in_flight);
    print_count("unexpected", unexpected);
    print_count("delivered", total.delivered);
    print_count("delivered_each_min", least == UINT64_MAX ? 0 : least);
    print_count("delivered_each_max", most);
    print_count("disordered", disordered);
    print_count("other_events", events);
    print_seconds("first_delivery_s", started_us, first_delivery_us);
    print_seconds("last_delivery_s", started_us, last_delivery_us);
    print_count("bytes", total.bytes);
    print_count("reads", total.reads);
    print_count("closes", closes);
    print_tally("close_codes", &close_codes);
    print_times("ack_ms", &ack_times);
    print_times("delivery_ms", &delivery_times);
    print_times("send_lag_ms", &send_lags);
    print_count("connected", (uint64_t)(opt.devices ? here : open_now));
    print_count("tries", tries);
    print_count("unrecovered", unrecovered);
    print_count("repeated", repeated);
    print_count("missing", missing);
    print_count("seqs", seqs);
    print_seconds("all_back_s", lost_us, back_us);
    print_times("away_ms", &away_times);
    printf("\"window_cpu_s\":%.3f,\"cpu_s\":%.3f}\n", end_cpu_s - begin_cpu_s, cpu_s());
    fflush(stdout);
}

/* --- options ---------------------------------------------------------------------------------- */

static const char HELP[] =
    "load CARRIER --port PORT [options]      opens clients to 127.0.0.1:PORT and prints one JSON object\n"
    "  CARRIER           tcp (goim frames), ws (goim frames on /sub), json (text frames on /ws)\n"
    "  --clients N       how many connections (1)\n"
    "  --connect-rate R  connections begun a second; 0: all at once (0)\n"
    "  --ready-within S  clients that are not authenticated by then have failed (60)\n"
    "  --room ROOM       the room entered at auth and sent to\n"
    "  --rooms R         client i has the room ROOM followed by i % R; 0: all have ROOM itself (0)\n"
    "  --no-enter        authenticate with an empty room_id\n"
    "  --senders S       the first S clients send (0)\n"
    "  --window W        sends in flight a sender, at most (1; with a rate 1024); with no rate a reply starts a send\n"
    "  --rate R          messages a second in total, on schedule whatever is answered; the senders take turns\n"
    "  --rate-each R     the same, a second and a sender\n"
    "  --warm-up S       seconds of sending before the measured window (0)\n"
    "  --seconds S       length of the measured window (0)\n"
    "  --until N         the window is also over when N messages were delivered in the whole run\n"
    "  --sends N         N sends in all, and no more; the window is also over when all are answered\n"
    "  --drain S         seconds at most for what is under way after the window (10)\n"
    "  --body BYTES      size of a message's body, about (100)\n"
    "  --first-mid M     client i is member M + i (1)\n"
    "  --seed N          of the messages' ids; without it a new one, so that ids never repeat between runs\n"
    "  --tokens FILE     one token a line, client i takes line i, sent as \"token\" in auth\n"
    "  --auth-extra TEXT members added to the auth object, as in '\"cursor\":\"x\"'\n"
    "  --devices PREFIX  json only: client i is the device PREFIXi, with that key and a cursor of its own; it acks, and\n"
    "                    when its connection ends it comes back as docs/protocol.md says; room events are held together\n"
    "                    by their seq\n"
    "  --at-once         devices come back at once instead, all together, and try again every half second\n"
    "  --stall N         the last N devices stop reading when the window begins, until SIGUSR1 or its end\n"
    "  --receive-bytes N size of the sockets' receive buffers; 0: as the kernel likes (0)\n"
    "  --source N        source address 127.0.0.N, the next one after each 15,000 clients (2)\n"
    "SIGTERM ends the run early, with its report. Words on stderr, a line each: ready, measuring, measured; and of\n"
    "devices each time that all are connected again: back.\n";

enum {
    O_PORT = 256, O_CLIENTS, O_CONNECT_RATE, O_READY, O_ROOM, O_ROOMS, O_NO_ENTER, O_SENDERS, O_WINDOW, O_RATE,
    O_RATE_EACH, O_WARM_UP, O_SECONDS, O_UNTIL, O_SENDS, O_DRAIN, O_BODY, O_FIRST_MID, O_SEED, O_TOKENS, O_AUTH_EXTRA,
    O_SOURCE, O_DEVICES, O_AT_ONCE, O_STALL, O_RECEIVE, O_HELP,
};

static const struct option OPTIONS[] = {
    { "port", 1, 0, O_PORT }, { "clients", 1, 0, O_CLIENTS }, { "connect-rate", 1, 0, O_CONNECT_RATE },
    { "ready-within", 1, 0, O_READY }, { "room", 1, 0, O_ROOM }, { "rooms", 1, 0, O_ROOMS },
    { "no-enter", 0, 0, O_NO_ENTER }, { "senders", 1, 0, O_SENDERS }, { "window", 1, 0, O_WINDOW },
    { "rate", 1, 0, O_RATE }, { "rate-each", 1, 0, O_RATE_EACH }, { "warm-up", 1, 0, O_WARM_UP },
    { "seconds", 1, 0, O_SECONDS }, { "until", 1, 0, O_UNTIL }, { "sends", 1, 0, O_SENDS }, { "drain", 1, 0, O_DRAIN },
    { "body", 1, 0, O_BODY }, { "first-mid", 1, 0, O_FIRST_MID }, { "seed", 1, 0, O_SEED }, { "tokens", 1, 0, O_TOKENS },
    { "auth-extra", 1, 0, O_AUTH_EXTRA }, { "source", 1, 0, O_SOURCE },
    { "devices", 1, 0, O_DEVICES }, { "at-once", 0, 0, O_AT_ONCE }, { "stall", 1, 0, O_STALL }, { "receive-bytes", 1, 0, O_RECEIVE }, { "help", 0, 0, O_HELP }, { 0 },
};

static double number(const char *text, double least, double most)
{
    char *rest;
    double value = strtod(text, &rest);
    if (*rest || rest == text || !(value >= least && value <= most))
        die("%s is not a number from %.0f to %.0f", text, least, most);
    return value;
}

static void read_options(int argc, char **argv)
{
    const double MANY = 1e15, LONG_S = 24 * 3600;
    for (int o; (o = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1;)
        switch (o) {
        case O_PORT: opt.port = (long)number(optarg, 1, 65535); break;
        case O_CLIENTS: opt.clients = (long)number(optarg, 1, 1e6); break;
        case O_CONNECT_RATE: opt.connect_rate = number(optarg, 0, 1e6); break;
        case O_READY: opt.ready_within_s = number(optarg, 0.1, LONG_S); break;
        case O_ROOM: opt.room = optarg; break;
        case O_ROOMS: opt.rooms = (long)number(optarg, 0, 1e6); break;
        case O_NO_ENTER: opt.enter = false; break;
        case O_SENDERS: opt.senders = (long)number(optarg, 0, 1e6); break;
        case O_WINDOW: opt.window = (long)number(optarg, 1, WINDOW_MAX); break;
        case O_RATE: opt.rate = number(optarg, 0.001, 1e6); break;
        case O_RATE_EACH: opt.rate_each = number(optarg, 0.001, 1e6); break;
        case O_WARM_UP: opt.warm_up_s = number(optarg, 0, LONG_S); break;
        case O_SECONDS: opt.seconds = number(optarg, 0, LONG_S); break;
        case O_UNTIL: opt.until = (long long)number(optarg, 1, MANY); break;
        case O_SENDS: opt.sends = (long long)number(optarg, 1, MANY); break;
        case O_DRAIN: opt.drain_s = number(optarg, 0, LONG_S); break;
        case O_BODY: opt.body_bytes = (long)number(optarg, 0, BODY_BYTES_MAX - 4096); break;
        case O_FIRST_MID: opt.first_mid = (long long)number(optarg, 0, MANY); break;
        case O_SEED: opt.seed = strtoull(optarg, NULL, 10); break;
        case O_TOKENS: opt.tokens_path = optarg; break;
        case O_AUTH_EXTRA: opt.auth_extra = optarg; break;
        case O_SOURCE: opt.source = (long)number(optarg, 1, 200); break;
        case O_DEVICES: opt.devices = optarg; break;
        case O_AT_ONCE: opt.at_once = true; break;
        case O_STALL: opt.stall = (long)number(optarg, 0, 1e6); break;
        case O_RECEIVE: opt.receive_bytes = (long)number(optarg, 0, 1 << 30); break;
        case O_HELP: fputs(HELP, stdout); exit(0);
        default: exit(2);
        }
    if (optind != argc - 1 || !opt.port) {
        fputs(HELP, stderr);
        exit(2);
    }
    opt.carrier_name = argv[optind];
    if (!strcmp(opt.carrier_name, "tcp"))
        opt.carrier = TCP;
    else if (!strcmp(opt.carrier_name, "ws"))
        opt.carrier = WS;
    else if (!strcmp(opt.carrier_name, "json"))
        opt.carrier = JSON;
    else
        die("%s is not tcp, ws or json", opt.carrier_name);
    if (opt.devices && (opt.carrier != JSON || opt.senders || strpbrk(opt.devices, "\"\\")))
        die("--devices is for json clients that do not send, and has neither quotes nor backslashes");
    if ((opt.at_once || opt.stall) && !opt.devices)
        die("--at-once and --stall are for --devices");
    if (opt.stall > opt.clients)
        die("%ld stalled are more than %ld clients", opt.stall, opt.clients);
    if (strpbrk(opt.room, "\"\\"))
        die("a room's name has neither quotes nor backslashes");
    if (opt.senders > opt.clients)
        die("%ld senders are more than %ld clients", opt.senders, opt.clients);
    if (opt.senders && !*opt.room)
        die("senders need a --room");
    if ((opt.rate || opt.rate_each) && !opt.senders)
        die("a rate needs --senders");
    if (opt.rate_each)
        opt.rate = opt.rate_each * (double)opt.senders;
    if (!opt.window)
        opt.window = opt.rate ? WINDOW_MAX : 1;
    for (ring_size = 2; ring_size < (uint32_t)opt.window * 2; ring_size *= 2) {
    }
    if (!opt.seed && getrandom(&opt.seed, sizeof opt.seed, 0) != sizeof opt.seed)
        die("getrandom: %s", strerror(errno));
    random_state = opt.seed;
}

static void read_tokens(void)
{
    FILE *file = fopen(opt.tokens_path, "r");
    if (!file)
        die("%s: %s", opt.tokens_path, strerror(errno));
    tokens = calloc((size_t)opt.clients, sizeof *tokens);
    for (long i = 0; i < opt.clients; i++) {
        size_t room = 0;
        if (getline(&tokens[i], &room, file) < 1)
            die("%s holds %ld tokens for %ld clients", opt.tokens_path, i, opt.clients);
        tokens[i][strcspn(tokens[i], "\r\n")] = 0;
    }
    fclose(file);
}

static void make_padding(void)
{
    static const char WORDS[] = "hello, this is a message of ordinary length for a chat. ";
    const long FRAME = 50;                              /* about what t, n and the braces take */
    long n = opt.body_bytes > FRAME ? opt.body_bytes - FRAME : 0;
    padding = malloc((size_t)n + 1);
    for (long i = 0; i < n; i++)
        padding[i] = WORDS[i % (long)(sizeof WORDS - 1)];
    padding[n] = 0;
}

static void allow_many_files(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if ((uint64_t)opt.clients + 16 > limit.rlim_cur)
        die("%ld clients need more open files than the %llu allowed; start more than one load", opt.clients,
            (unsigned long long)limit.rlim_cur);
}

static void on_signal(int signal_number) { *(signal_number == SIGUSR1 ? &asked_to_read : &asked_to_stop) = 1; }

int main(int argc, char **argv)
{
    read_options(argc, argv);
    if (opt.tokens_path)
        read_tokens();
    make_padding();
    allow_many_files();
    sigaction(SIGTERM, &(struct sigaction){ .sa_handler = on_signal }, NULL);
    sigaction(SIGINT, &(struct sigaction){ .sa_handler = on_signal }, NULL);
    sigaction(SIGUSR1, &(struct sigaction){ .sa_handler = on_signal }, NULL);
    /* No phase can hang; should one do so, this ends the program. */
    alarm((unsigned)(opt.ready_within_s + opt.warm_up_s + opt.seconds + opt.drain_s) + 30);

    epoch_us = clock_us(CLOCK_REALTIME) - clock_us(CLOCK_MONOTONIC);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    if (!(conns = calloc((size_t)opt.clients, sizeof *conns)))
        die("out of memory");
    for (long i = 0; i < opt.clients; i++) {
        conns[i].index = i;
        if (opt.devices && !(conns[i].cursor = calloc(1, CURSOR_BYTES)))
            die("out of memory");
    }

    started_us = phase_us = now_us();
    run();
    report();
    return 0;
}
