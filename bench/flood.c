/* Floods of an HTTP server over the loopback, and the probe that is sent among them (see isolation.py).
 *
 *   flood requests PORT PREFIX CONNECTIONS SECONDS        whole requests, the next one as soon as one is answered
 *   flood pieces   PORT PREFIX CONNECTIONS SECONDS        a connection for each piece of garbage, read to its end
 *   flood trickle  PORT PREFIX CONNECTIONS SECONDS        an octet of a request every ten seconds on each connection
 *   flood probe    PORT PREFIX CONNECTIONS SECONDS RATE   whole requests at a constant rate; latency from their due time
 *
 * PREFIX names the request files (bench/serve/wrk.lua tells of them). A connection that is ended is opened again. Unlike
 * bench/serve/openloop.c the probe sleeps until something is due: it shares its core with the floods. A trickle comes from
 * 127.0.0.2 and its followers, 500 connections from each. "ready" is printed once all connections are open; what there was
 * so far, a line of JSON, on SIGUSR1 and at the end, which SIGTERM brings about.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 65536, MAX_HEAD = 4096, EVENTS = 512, PER_ADDRESS = 500, OPENED_AT_ONCE = 16, LOOKED_AT_ONCE = 512, STATUSES = 600 };
enum mode { REQUESTS, PIECES, TRICKLE, PROBE };
#define SECOND 1000000000LL
static const int64_t TEND_EVERY = SECOND / 500;
static const int64_t GIVE_UP = SECOND;            /* on a piece that the server neither answers nor ends */
static const int64_t TRICKLE_EVERY = 10 * SECOND; /* an octet */
static const int64_t OPEN_AGAIN = SECOND / 2;     /* after a connection that was refused */

struct connection {
    int fd;
    int connecting;
    int busy;         /* something was asked, and its answer is not here */
    int64_t at;       /* when it was due, or its last octet sent; of one that is closed: when to open it again */
    size_t at_octet;  /* trickle: of the request */
    uint64_t octets;  /* received on this connection */
    size_t got;       /* of the head */
    size_t body_left; /* after the head */
    int in_body;
    char head[MAX_HEAD + 1];
};

static struct connection *connections;
static int mode, port, count, epoll, open_count;
static const char *requests;
static const uint32_t *offsets, *order;
static size_t order_size, next_in_order;
static int *idle, idle_count;
static uint64_t statuses[STATUSES], answered, opened, ended, unanswered_ends, refused, octets_sent, given_up;
static double *latencies;
static size_t latency_count, latency_room;
static volatile sig_atomic_t stopped, asked;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void note(int number) {
    if (number == SIGUSR1)
        asked = 1;
    else
        stopped = 1;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static const void *mapped(const char *prefix, const char *suffix, size_t *size) {
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s%s", prefix, suffix);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &info)) fail(path);
    *size = (size_t)info.st_size;
    void *address = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (address == MAP_FAILED) fail(path);
    close(fd);
    return address;
}

static const char *next_request(size_t *length) {
    uint32_t which = order[next_in_order++ % order_size];
    *length = offsets[which + 1] - offsets[which];
    return requests + offsets[which];
}

static void open_connection(int number, int64_t now) {
    struct connection *c = &connections[number];
    struct sockaddr_in server = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.u32 = (uint32_t)number};
    int one = 1;
    memset(c, 0, offsetof(struct connection, head));
    c->at = now;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (mode == TRICKLE) {
        struct sockaddr_in source = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(number / PER_ADDRESS))};
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) fail("bind");
    }
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) fail("connect");
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &wanted)) fail("epoll_ctl");
    c->connecting = 1;
    opened++;
}

/* The connection is gone; it is opened again by `tend`. */
static void end_connection(int number, int64_t now) {
    struct connection *c = &connections[number];
    int quick = c->octets == 0 && mode != PIECES;
    if (!c->connecting) open_count--;
    if (quick) refused++;
    if (c->busy && mode != PIECES) unanswered_ends++;
    close(c->fd);
    c->fd = -1;
    c->busy = c->connecting = 0;
    c->at = quick ? now + OPEN_AGAIN : now;
    ended++;
    for (int i = 0; i < idle_count; i++)
        if (idle[i] == number) idle[i--] = idle[--idle_count];
}

static void send_octets(int number, const char *octets, size_t length, int64_t now) {
    struct connection *c = &connections[number];
    ssize_t sent = send(c->fd, octets, length, MSG_NOSIGNAL);
    if (sent > 0) octets_sent += (uint64_t)sent;
    if (sent < 0 || (sent != (ssize_t)length && mode != PIECES)) end_connection(number, now);
}

static void send_request(int number, int64_t due, int64_t now) {
    struct connection *c = &connections[number];
    size_t length;
    const char *octets = next_request(&length);
    c->at = due;
    c->busy = 1;
    c->got = c->body_left = 0;
    c->in_body = 0;
    send_octets(number, octets, length, now);
}

/* A trickle goes through one request again and again; it never comes to an end before the server's patience does. */
static void send_octet(int number, int64_t now) {
    struct connection *c = &connections[number];
    size_t length = offsets[1] - offsets[0];
    c->at = now;
    c->busy = 1;
    send_octets(number, requests + c->at_octet++ % length, 1, now);
}

static void connected(int number, int64_t now) {
    struct connection *c = &connections[number];
    struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    c->connecting = 0;
    open_count++;
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &wanted)) fail("epoll_ctl");
    if (mode == PROBE)
        idle[idle_count++] = number;
    else if (mode == TRICKLE)
        send_octet(number, now);
    else
        send_request(number, now, now);
}

static void record(int64_t latency) {
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies) fail("realloc");
    }
    latencies[latency_count++] = (double)latency / 1e3;
}

static void whole_answer(int number, int64_t now) {
    struct connection *c = &connections[number];
    answered++;
    c->busy = 0;
    if (mode == PROBE) {
        record(now - c->at);
        idle[idle_count++] = number;
    } else if (mode == REQUESTS)
        send_request(number, now, now);
}

/* Takes what was received; returns 0 where it is no answer. One request at a time, hence one answer at a time. */
static int take(struct connection *c, const char *octets, size_t length, int *whole) {
    c->octets += length;
    if (!c->in_body) {
        size_t room = MAX_HEAD - c->got, used = length < room ? length : room;
        memcpy(c->head + c->got, octets, used);
        size_t before = c->got;
        c->got += used;
        c->head[c->got] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return c->got < MAX_HEAD;
        int status = atoi(c->head + 9);
        if (strncmp(c->head, "HTTP/1.1 ", 9) || status < 0 || status >= STATUSES) return 0;
        statuses[status]++;
        char *field = strcasestr(c->head, "\ncontent-length:");
        if (!field || field > end) return 0;
        c->body_left = strtoul(field + 16, NULL, 10);
        c->in_body = 1;
        size_t head_here = (size_t)(end + 4 - c->head) - before;
        octets += head_here;
        length -= head_here;
    }
    if (length > c->body_left) return 0;
    c->body_left -= length;
    *whole = c->body_left == 0;
    return 1;
}

static void receive(int number, int64_t now) {
    static char octets[65536];
    struct connection *c = &connections[number];
    int whole = 0;
    ssize_t got = recv(c->fd, octets, sizeof octets, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || !take(c, octets, (size_t)got, &whole))
        end_connection(number, now);
    else if (whole && mode != PIECES && mode != TRICKLE)
        whole_answer(number, now);
    else if (whole)
        answered++; /* it will be ended by the server */
}

/* Opens what is closed, and does what has become due, on the next so many connections; returns when to come back. */
static int64_t tend(int64_t now) {
    static int64_t looked_at;
    static int next;
    int opening = 0;
    if (now - looked_at < TEND_EVERY) return looked_at + TEND_EVERY;
    looked_at = now;
    for (int looked = 0; looked < count && looked < LOOKED_AT_ONCE; looked++, next = (next + 1) % count) {
        struct connection *c = &connections[next];
        if (c->fd < 0) {
            if (now >= c->at && opening < OPENED_AT_ONCE) {
                open_connection(next, now);
                opening++;
            }
        } else if (mode == PIECES && !c->connecting && now - c->at > GIVE_UP) {
            given_up++;
            end_connection(next, now);
        } else if (mode == TRICKLE && !c->connecting && now - c->at >= TRICKLE_EVERY)
            send_octet(next, now);
    }
    return now + TEND_EVERY;
}

static int ascending(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static double percentile(double share) {
    if (latency_count == 0) return 0;
    size_t rank = (size_t)(share * (double)latency_count + 0.999999);
    return latencies[rank == 0 ? 0 : rank > latency_count ? latency_count - 1 : rank - 1];
}

/* How long this process has waited for its core so far: what it says of a server is worth no more than that is small. */
static double waited_seconds(void) {
    unsigned long long ran = 0, waited = 0;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (!file) return 0;
    if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
    fclose(file);
    return (double)waited / 1e9;
}

static void report(double seconds, uint64_t due) {
    printf("{\"answered\": %llu, \"seconds\": %.6f, \"opened\": %llu, \"ended\": %llu, \"ended_unanswered\": %llu, "
           "\"refused\": %llu, \"given_up\": %llu, \"open\": %d, \"octets_sent\": %llu, \"waited\": %.3f, \"statuses\": {",
           (unsigned long long)answered, seconds, (unsigned long long)opened, (unsigned long long)ended,
           (unsigned long long)unanswered_ends, (unsigned long long)refused, (unsigned long long)given_up, open_count,
           (unsigned long long)octets_sent, waited_seconds());
    const char *comma = "";
    for (int status = 0; status < STATUSES; status++)
        if (statuses[status]) {
            printf("%s\"%d\": %llu", comma, status, (unsigned long long)statuses[status]);
            comma = ", ";
        }
    printf("}");
    if (mode == PROBE) {
        qsort(latencies, latency_count, sizeof *latencies, ascending);
        printf(", \"due\": %llu, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f",
               (unsigned long long)due, percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999),
               percentile(1));
    }
    printf("}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    const char *names[] = {"requests", "pieces", "trickle", "probe"};
    for (mode = 0; mode < 4 && strcmp(argv[1], names[mode]);) mode++;
    if (mode == 4 || (mode == PROBE) != (argc == 7)) return 2;
    port = atoi(argv[2]);
    count = atoi(argv[4]);
    double seconds = atof(argv[5]), rate = mode == PROBE ? atof(argv[6]) : 0;
    if (count < 1 || count > MAX_CONNECTIONS || (mode == PROBE && rate <= 0)) return 2;
    size_t size;
    requests = mapped(argv[3], ".requests", &size);
    offsets = mapped(argv[3], ".offsets", &size);
    order = mapped(argv[3], ".order", &order_size);
    order_size /= sizeof *order;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) fail("getrlimit");
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files)) fail("setrlimit");
    signal(SIGTERM, note);
    signal(SIGUSR1, note);
    connections = calloc((size_t)count, sizeof *connections);
    idle = calloc((size_t)count, sizeof *idle);
    epoll = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event timed = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (!connections || !idle || epoll < 0 || timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &timed)) fail("start");
    int64_t now = now_ns(), began = now, start = 0, last = now + (int64_t)(seconds * 1e9);
    for (int number = 0; number < count; number++)
        /* A trickle is spread evenly over its period. */
        connections[number] =
            (struct connection){.fd = -1, .at = now + (mode == TRICKLE ? TRICKLE_EVERY / count * number : 0)};
    uint64_t due_count = 0;
    while (!stopped && now < last) {
        int64_t wake = tend(now);
        if (start == 0 && open_count == count) {
            start = now;
            last = mode == PROBE ? now + (int64_t)(seconds * 1e9) : last;
            printf("ready\n");
            fflush(stdout);
        }
        if (mode == PROBE && start) {
            int64_t due;
            while ((due = start + (int64_t)((double)due_count * 1e9 / rate)) <= now && idle_count > 0) {
                due_count++;
                send_request(idle[--idle_count], due, now);
            }
            if (idle_count > 0) wake = due;
        }
        struct itimerspec at = {.it_value = {.tv_sec = wake / SECOND, .tv_nsec = wake % SECOND}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, 100);
        now = now_ns();
        if (asked) {
            asked = 0;
            report((double)(now - began) / 1e9, due_count);
        }
        for (int i = 0; i < ready; i++) {
            uint32_t number = events[i].data.u32;
            uint64_t ticks;
            if (number == UINT32_MAX) {
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) fail("timer");
                continue;
            }
            struct connection *c = &connections[number];
            if (c->fd < 0) continue;
            if (events[i].events & (EPOLLERR | EPOLLHUP) && c->connecting)
                end_connection((int)number, now);
            else if (c->connecting)
                connected((int)number, now);
            else
                receive((int)number, mode == PROBE ? now_ns() : now);
        }
    }
    report((double)(now_ns() - began) / 1e9, due_count);
    return 0;
}
