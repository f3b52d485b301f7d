/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load for `dedupe serve`: it feeds the server through standard output, and is all of its clients.
 *
 * usage: crowd PORT CLIENTS STALLED KEYS RATE SECONDS PATH [PID]
 *
 * Writes updates for KEYS keys at RATE updates a second in the filter's own format. Opens CLIENTS
 * connections to PATH; STALLED of them never read. Each value is the time at which it was written,
 * so the clients can tell how old an update is when it arrives. Prints one line of figures about
 * the last SECONDS on standard error, with the server's processor time and memory if its PID is
 * given. When the source has stopped, every client that reads must have the newest value of each
 * key that the prefix in PATH allows; otherwise the exit status is 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/*
 * A client's beginning of a line that has not ended, and the latest value that it has of each key.
 */
struct client {
    int descriptor;
    size_t length;
    char line[256];
    uint64_t *values;
};

static struct {
    int port, clients, stalled, keys, seconds, pid;
    double rate;
    const char *path;
} options;

static uint64_t *newest; /* of each key, as the source wrote it */
static uint64_t updates, bytes;
static bool is_measuring;

/* Ages in microseconds, with six bits of precision: bucket = shift * 64 + (age >> shift). */
#define BUCKETS (64 * 40)
static uint64_t ages[BUCKETS], age_count;

static void
fail(const char *what)
{
    fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint64_t
now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static size_t
bucket_of(uint64_t age)
{
    int power = age < 64 ? 0 : 63 - __builtin_clzll(age) - 5;
    return (size_t)power * 64 + (size_t)(age >> power);
}

static double
percentile(double part)
{
    uint64_t left = (uint64_t)((double)age_count * part);
    for (size_t i = 0; i < BUCKETS; i++) {
        if (ages[i] > left)
            return (double)((uint64_t)(i % 64) << (i / 64)) / 1000;
        left -= ages[i];
    }
    return 0;
}

static void
take_line(struct client *client)
{
    /* {"type":"new","key":"k123","value":456... */
    const char *key = strstr(client->line, "\"key\":\"k");
    const char *value = key ? strstr(key, "\"value\":") : NULL;
    if (!value)
        return;
    size_t number = strtoul(key + 8, NULL, 10);
    uint64_t time = strtoull(value + 8, NULL, 10);
    client->values[number] = time;
    if (!is_measuring)
        return;
    updates++;
    uint64_t age = now_us() - time;
    size_t bucket = bucket_of(age);
    ages[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    age_count++;
}

static void
take(struct client *client, const char *text, size_t count)
{
    if (is_measuring)
        bytes += count;
    while (count > 0) {
        const char *end = memchr(text, '\n', count);
        size_t part = end ? (size_t)(end - text) : count;
        size_t room = sizeof client->line - 1 - client->length;
        size_t kept = part < room ? part : room;
        memcpy(client->line + client->length, text, kept);
        client->length += kept;
        if (!end)
            return;
        client->line[client->length] = 0;
        take_line(client);
        client->length = 0;
        text += part + 1;
        count -= part + 1;
    }
}

static void
open_client(struct client *client, int poller)
{
    client->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (client->descriptor < 0 ||
        connect(client->descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    char request[1024];
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                          options.path);
    if (write(client->descriptor, request, (size_t)length) != length)
        fail("request");
    fcntl(client->descriptor, F_SETFL, O_NONBLOCK);
    if (!client->values)
        return; /* one that never reads */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client->descriptor, &event) != 0)
        fail("epoll_ctl");
}

static void
read_clients(int poller, int timeout)
{
    static char text[1 << 16];
    struct epoll_event events[256];
    int count = epoll_wait(poller, events, 256, timeout);
    for (int i = 0; i < count; i++) {
        struct client *client = events[i].data.ptr;
        ssize_t length = read(client->descriptor, text, sizeof text);
        if (length == 0 || (length < 0 && errno != EAGAIN)) {
            fprintf(stderr, "crowd: the server has closed a connection\n");
            exit(1);
        }
        if (length > 0)
            take(client, text, (size_t)length);
    }
}

/* Writes one update of each of some keys. */
static void
feed(int count, bool is_first)
{
    static char text[1 << 20];
    static int next;
    size_t length = 0;
    uint64_t time = now_us();
    for (int i = 0; i < count; i++) {
        int key = is_first ? next++ % options.keys : rand() % options.keys;
        newest[key] = time;
        length += (size_t)snprintf(text + length, sizeof text - length,
                                   "{\"key\":\"k%d\",\"value\":%" PRIu64 "}\n", key, time);
        if (length > sizeof text - 256 || i == count - 1) {
            for (size_t written = 0; written < length;) {
                ssize_t part = write(STDOUT_FILENO, text + written, length - written);
                if (part < 0)
                    fail("standard output");
                written += (size_t)part;
            }
            length = 0;
        }
    }
}

static double
processor_seconds(void)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", options.pid);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file))
        fail(path);
    fclose(file);
    unsigned long user, system;
    /* The name may have spaces; it ends with a bracket. */
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
           &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double
memory_megabytes(const char *name)
{
    char path[64], line[1024];
    long kilobytes = 0;
    snprintf(path, sizeof path, "/proc/%d/status", options.pid);
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name)))
            kilobytes = atol(line + strlen(name) + 1);
    fclose(file);
    return (double)kilobytes / 1024;
}

/* Feeds and reads for some time. */
static void
run(int poller, double seconds)
{
    uint64_t begin = now_us(), fed = 0;
    for (;;) {
        double time = (double)(now_us() - begin) / 1e6;
        if (time >= seconds)
            return;
        uint64_t due = (uint64_t)(time * options.rate);
        if (due > fed) {
            feed((int)(due - fed), false);
            fed = due;
        }
        read_clients(poller, 1);
    }
}

/* Whether the clients get this key. */
static bool
is_wanted(int key)
{
    const char *prefix = strstr(options.path, "prefix=");
    char name[16];
    snprintf(name, sizeof name, "k%d", key);
    return !prefix || !strncmp(name, prefix + 7, strcspn(prefix + 7, "&"));
}

/* Whether every client that reads has the newest values. */
static bool
is_complete(struct client *clients)
{
    for (int key = 0; key < options.keys; key++)
        for (int i = options.stalled; i < options.clients && is_wanted(key); i++)
            if (clients[i].values[key] != newest[key])
                return false;
    return true;
}

int
main(int argc, char **argv)
{
    if (argc < 8) {
        fprintf(stderr, "usage: crowd PORT CLIENTS STALLED KEYS RATE SECONDS PATH [PID]\n");
        return 64;
    }
    options.port = atoi(argv[1]), options.clients = atoi(argv[2]), options.stalled = atoi(argv[3]);
    options.keys = atoi(argv[4]), options.rate = atof(argv[5]), options.seconds = atoi(argv[6]);
    options.path = argv[7], options.pid = argc > 8 ? atoi(argv[8]) : 0;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    newest = calloc((size_t)options.keys, sizeof *newest);
    struct client *clients = calloc((size_t)options.clients, sizeof *clients);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    feed(options.keys, true);
    for (int i = 0; i < options.clients; i++) {
        if (i >= options.stalled)
            clients[i].values = calloc((size_t)options.keys, sizeof *newest);
        open_client(&clients[i], poller);
        read_clients(poller, 0);
    }
    /* Until all clients have the state and the rates are steady. */
    run(poller, 5);
    double before = options.pid ? processor_seconds() : 0;
    is_measuring = true;
    uint64_t begin = now_us();
    run(poller, options.seconds);
    is_measuring = false;
    double seconds = (double)(now_us() - begin) / 1e6;
    fprintf(stderr,
            "%d clients, %d stalled, %d keys, %.0f updates/s in: %.0f updates/s out, %.1f MB/s, "
            "age %.1f ms median, %.1f ms 99th",
            options.clients, options.stalled, options.keys, options.rate, (double)updates / seconds,
            (double)bytes / seconds / 1e6, percentile(0.5), percentile(0.99));
    if (options.pid)
        fprintf(stderr, "; server: %.2f cores, %.1f MB resident, at most %.1f MB",
                (processor_seconds() - before) / seconds, memory_megabytes("VmRSS:"),
                memory_megabytes("VmHWM:"));
    fprintf(stderr, "\n");
    uint64_t rest = now_us();
    while (!is_complete(clients)) {
        read_clients(poller, 10);
        if (now_us() - rest > 60000000) {
            fprintf(stderr, "crowd: a client that reads lacks a value\n");
            return 1;
        }
    }
    return 0;
}
