/* An open-loop load generator: requests are due at a constant rate, whether or not the server keeps up.
 *
 *   openloop PORT PREFIX CONNECTIONS RATE SECONDS [MARK]
 *
 * Request k is due at start + k / RATE, and its latency counts from then until its last octet has come, also if no
 * connection was free to send it: a server that stalls for 10 ms is charged for every request that was due meanwhile.
 * PREFIX names the request files (see wrk.lua). The loop never sleeps, so that a due time is not missed by a wake-up.
 *
 * RATE 0: a closed loop, as many requests as are answered, like wrk. For servers that wrk cannot measure: it first opens
 * a connection and closes it without a word, and that makes a process of `openssl ocsp` spin for ever. Here a connection
 * is opened for a request, and no request is left without waiting for its answer.
 *
 * Answers that hold the octets MARK (in hex) are counted. Prints one line of JSON; latencies in microseconds, from a
 * histogram with 128 steps to each power of two (< 0.8 %).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { STEP_BITS = 7, STEPS = 1 << STEP_BITS, POWERS = 40, MAX_CONNECTIONS = 1024, MAX_RESPONSE = 65536 };
static const int64_t DRAIN_NS = 10000000000; /* for what is still due when the time is over */

struct connection {
    int fd; /* -1: not open */
    int busy;
    int closing; /* the server closes after this response */
    int64_t due; /* of the request that is on its way */
    size_t got;
    size_t wanted; /* of the whole response; 0: its head is not here yet */
    char response[MAX_RESPONSE];
};

static struct connection connections[MAX_CONNECTIONS];
static int idle[MAX_CONNECTIONS], idle_count;
static uint64_t histogram[POWERS][STEPS], answered, failed, marked, octets;
static int64_t slowest;
static int epoll_fd, port;
static char mark[256];
static size_t mark_size;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
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

/* A value of 2^7 ns or more: its power of two and the 7 bits after the highest; smaller ones stand in row 0. */
static void record(int64_t latency) {
    uint64_t value = latency < 0 ? 0 : (uint64_t)latency;
    int power = value < STEPS ? 0 : 63 - __builtin_clzll(value) - STEP_BITS + 1;
    if (power >= POWERS) power = POWERS - 1;
    histogram[power][power == 0 ? value : (value >> (power - 1)) & (STEPS - 1)]++;
    if (latency > slowest) slowest = latency;
}

/* The upper edge of the step in which that share of the answers has come. */
static double percentile_us(double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)answered + 0.5);
    for (int power = 0; power < POWERS; power++)
        for (int step = 0; step < STEPS; step++) {
            seen += histogram[power][step];
            if (seen >= wanted && seen > 0) {
                double edge = power == 0 ? step + 1 : (double)((uint64_t)(STEPS + step + 1) << (power - 1));
                return (edge < (double)slowest ? edge : (double)slowest) / 1e3;
            }
        }
    return 0;
}

static void open_connection(int number) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &wanted)) fail("epoll_ctl");
    connections[number].fd = fd;
}

/* Looks at a head that is whole; returns 0 where it is none that we asked for. */
static int read_head(struct connection *c) {
    char *end = memmem(c->response, c->got, "\r\n\r\n", 4);
    if (!end || c->got < 12) return c->got < MAX_RESPONSE;
    if (memcmp(c->response, "HTTP/1.1 200", 12) && memcmp(c->response, "HTTP/1.0 200", 12)) return 0;
    *end = 0; /* for strcasestr; the head is not looked at again */
    const char *length = strcasestr(c->response, "\ncontent-length:");
    if (!length) return 0;
    c->closing = c->response[7] == '0' || strcasestr(c->response, "\nconnection: close");
    c->wanted = (size_t)(end + 4 - c->response) + strtoul(length + 16, NULL, 10);
    return c->wanted <= MAX_RESPONSE;
}

static void receive(int number) {
    struct connection *c = &connections[number];
    ssize_t got = read(c->fd, c->response + c->got, MAX_RESPONSE - c->got);
    if (got < 0 && errno == EAGAIN) return;
    c->got += got > 0 ? (size_t)got : 0;
    if (got <= 0 || !c->busy || (c->wanted == 0 && !read_head(c)) || (c->wanted && c->got > c->wanted)) {
        /* Closed, or not 200, or more than was asked for: this connection is not used again. */
        close(c->fd);
        failed++;
    } else if (c->wanted && c->got == c->wanted) {
        record(now_ns() - c->due);
        answered++;
        octets += c->got;
        if (mark_size && memmem(c->response, c->got, mark, mark_size)) marked++;
        c->busy = 0;
        if (c->closing) {
            close(c->fd);
            c->fd = -1;
        }
        idle[idle_count++] = number;
    }
}

static void send_request(int number, const char *request, size_t length, int64_t due) {
    struct connection *c = &connections[number];
    if (c->fd < 0) open_connection(number);
    c->due = due;
    c->got = c->wanted = 0;
    c->busy = 1;
    c->closing = 0;
    if (write(c->fd, request, length) != (ssize_t)length) fail("write");
}

static void print_result(double seconds, double rate, uint64_t sent) {
    printf("{\"requests\": %llu, \"answered\": %llu, \"failed\": %llu, \"unanswered\": %llu, \"marked\": %llu, "
           "\"bytes\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"achieved\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)sent, (unsigned long long)answered, (unsigned long long)failed,
           (unsigned long long)(sent - answered - failed), (unsigned long long)marked, (unsigned long long)octets,
           seconds, rate, (double)answered / seconds, percentile_us(0.5), percentile_us(0.9), percentile_us(0.99),
           percentile_us(0.999), (double)slowest / 1e3);
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    int count = atoi(argv[3]);
    double rate = atof(argv[4]), seconds = atof(argv[5]);
    size_t size, order_size;
    const char *requests = mapped(argv[2], ".requests", &size);
    const uint32_t *offsets = mapped(argv[2], ".offsets", &size), *order = mapped(argv[2], ".order", &order_size);
    order_size /= sizeof *order;
    port = atoi(argv[1]);
    epoll_fd = epoll_create1(0);
    if (epoll_fd < 0 || count < 1 || count > MAX_CONNECTIONS || rate < 0) return 2;
    for (const char *hex = argc > 6 ? argv[6] : ""; hex[0] && hex[1] && mark_size < sizeof mark; hex += 2) {
        char digits[3] = {hex[0], hex[1], 0};
        mark[mark_size++] = (char)strtoul(digits, NULL, 16);
    }
    for (int number = 0; number < count; number++) {
        connections[number].fd = -1;
        if (rate > 0) open_connection(number);
        idle[idle_count++] = number;
    }
    uint64_t total = rate > 0 ? (uint64_t)(rate * seconds) : UINT64_MAX, next = 0;
    int64_t start = now_ns(), now = start, past = start + (int64_t)(seconds * 1e9);
    while (now < past + DRAIN_NS && failed < (uint64_t)count) {
        struct epoll_event events[MAX_CONNECTIONS];
        now = now_ns();
        if (rate == 0 && now >= past && total == UINT64_MAX) total = next; /* send no more */
        if (answered + failed >= total) break;
        while (idle_count > 0 && next < total) {
            int64_t due = rate > 0 ? start + (int64_t)((double)next * 1e9 / rate) : now;
            if (due > now) break;
            uint32_t which = order[next++ % order_size];
            send_request(idle[--idle_count], requests + offsets[which], offsets[which + 1] - offsets[which], due);
        }
        /* Without a rate there is no due time to miss. */
        int ready = epoll_wait(epoll_fd, events, MAX_CONNECTIONS, rate > 0 ? 0 : 10);
        for (int i = 0; i < ready; i++) receive((int)events[i].data.u32);
    }
    print_result((double)(now_ns() - start) / 1e9, rate, rate > 0 ? total : next);
    return 0;
}
