/* The floor: one thread, one epoll, one response. Reads whatever has come and writes the same octets for it.
 *
 *   floor BODY_FILE [close]      prints the port it chose, then serves until it is ended
 *
 * It parses nothing: the generator sends a request in one piece, so a read that returns something is a request. What a
 * server spends above this it spends on HTTP, on OCSP and on its language. With "close" it closes after each response.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_BODY = 65536, MAX_HEAD = 256, MAX_EVENTS = 128, BACKLOG = 1024 };

static char response[MAX_HEAD + MAX_BODY];
static size_t response_size;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void load_response(const char *path, int closing) {
    static char body[MAX_BODY];
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    size_t size = fread(body, 1, sizeof body, file);
    fclose(file);
    int head = snprintf(response, MAX_HEAD,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
                        "Connection: %s\r\nContent-Length: %zu\r\n\r\n",
                        closing ? "close" : "keep-alive", size);
    memcpy(response + head, body, size);
    response_size = (size_t)head + size;
}

static int listen_on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, BACKLOG)) fail("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int epoll, int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted)) fail("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    int closing = argc > 2 && strcmp(argv[2], "close") == 0;
    load_response(argv[1], closing);
    int listener = listen_on_loopback(), epoll = epoll_create1(0);
    struct epoll_event events[MAX_EVENTS], wanted = {.events = EPOLLIN, .data.fd = listener};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted)) fail("epoll");
    for (;;) {
        int count = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < count; i++) {
            static char request[16384];
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(epoll, listener);
                continue;
            }
            ssize_t got = read(fd, request, sizeof request);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0 || write(fd, response, response_size) != (ssize_t)response_size || closing) close(fd);
        }
    }
}
