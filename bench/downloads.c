/* A download client that costs next to nothing: it has the kernel throw away what it receives.
 *
 *   downloads PORT PATH SIZE CONNECTIONS RATE SECONDS
 *
 * Each connection asks for PATH, whose content has SIZE octets, again and again. RATE: octets a second that each of them
 * takes; 0: as fast as they come. Prints one line of JSON: octets of content received in SECONDS, whole contents, the
 * octets of the connection that got least, and connections that were refused, closed, or answered with anything but 200.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Each slow connection takes what is due to it every STEPS milliseconds; not all at once, as they would not anywhere. */
enum { MAX_CONNECTIONS = 2048, MAX_HEAD = 4096, MOST_AT_ONCE = 1 << 20, STEP_NS = 1000000, STEPS = 20 };

struct connection {
    int fd; /* -1: over */
    int head_size;
    int64_t left; /* of the content; -1: its head is not here yet */
    uint64_t octets;
    char head[MAX_HEAD];
};

static struct connection connections[MAX_CONNECTIONS];
static uint64_t bodies, failed;
static char request[1024];
static int64_t size, began;
static double rate;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void give_up(struct connection *one) {
    close(one->fd);
    one->fd = -1;
    failed++;
}

static int ask(struct connection *one) {
    one->head_size = 0;
    one->left = -1;
    return send(one->fd, request, strlen(request), MSG_NOSIGNAL) == (ssize_t)strlen(request);
}

/* Take the head with what came along of the content; 0: there is no more for now. */
static int read_head(struct connection *one) {
    ssize_t got = recv(one->fd, one->head + one->head_size, MAX_HEAD - 1 - one->head_size, MSG_DONTWAIT);
    char *end;
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) give_up(one);
        return 0;
    }
    one->head_size += got;
    one->head[one->head_size] = 0;
    end = memmem(one->head, one->head_size, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    if (strncmp(one->head, "HTTP/1.1 200 ", 13) != 0) {
        give_up(one);
        return 0;
    }
    got = one->head + one->head_size - (end + 4);
    one->left = size - got;
    one->octets += got;
    return 1;
}

static void take(struct connection *one) {
    while (one->fd >= 0) {
        int64_t most;
        ssize_t got;
        if (one->left < 0 && !read_head(one)) return;
        most = one->left < MOST_AT_ONCE ? one->left : MOST_AT_ONCE;
        if (rate > 0) {
            int64_t due = (int64_t)(rate * (now_ns() - began) / 1e9) - (int64_t)one->octets;
            if (due < most) most = due;
            if (most <= 0) return;
        }
        got = recv(one->fd, NULL, most, MSG_TRUNC | MSG_DONTWAIT);
        if (got <= 0) {
            if (got == 0 || errno != EAGAIN) give_up(one);
            return;
        }
        one->octets += got;
        one->left -= got;
        if (one->left == 0) {
            bodies++;
            if (!ask(one)) give_up(one);
        }
        if (rate == 0) return; /* the others' turn; epoll tells again */
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    int count, epoll_fd = epoll_create1(0), index, step = 0;
    uint64_t octets = 0, least = UINT64_MAX;
    int64_t ends;
    if (argc != 7 || (count = atoi(argv[4])) < 1 || count > MAX_CONNECTIONS) return 2;
    address.sin_port = htons(atoi(argv[1]));
    size = atoll(argv[3]);
    rate = atof(argv[5]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", argv[2]);
    for (index = 0; index < count; index++) {
        struct connection *one = &connections[index];
        one->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(one->fd, (struct sockaddr *)&address, sizeof address) < 0 || !ask(one)) {
            give_up(one);
            continue;
        }
        event.data.u32 = index;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event);
    }
    began = now_ns();
    ends = began + (int64_t)(atof(argv[6]) * 1e9);
    while (now_ns() < ends) {
        if (rate > 0) {
            struct timespec pause = {0, STEP_NS};
            step = (step + 1) % STEPS;
            for (index = step; index < count; index += STEPS)
                if (connections[index].fd >= 0) take(&connections[index]);
            nanosleep(&pause, NULL);
        } else {
            int ready = epoll_wait(epoll_fd, events, 256, 100);
            for (index = 0; index < ready; index++) take(&connections[events[index].data.u32]);
        }
    }
    for (index = 0; index < count; index++) {
        octets += connections[index].octets;
        if (connections[index].octets < least) least = connections[index].octets;
    }
    printf("{\"octets\": %llu, \"bodies\": %llu, \"least\": %llu, \"failed\": %llu, \"seconds\": %.6f}\n",
           (unsigned long long)octets, (unsigned long long)bodies, (unsigned long long)least, (unsigned long long)failed,
           (now_ns() - began) / 1e9);
    return 0;
}
