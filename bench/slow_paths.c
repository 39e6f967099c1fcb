/* A shared file system's latency, for benchmarks: every call that names a path below SLOW_ROOT first waits SLOW_US
 * microseconds (1000 by default), and adds a byte to the file SLOW_COUNT if that is named. bench/slow_paths.py
 * compiles it (cc -shared -fPIC -O2) and puts it into LD_PRELOAD. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;
static int root_length, wait_us = 1000, counter = -1;

__attribute__((constructor)) static void settings(void) {
    root = getenv("SLOW_ROOT");
    root_length = root ? strlen(root) : 0;
    if (getenv("SLOW_US")) wait_us = atoi(getenv("SLOW_US"));
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    if (getenv("SLOW_COUNT")) counter = real(getenv("SLOW_COUNT"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void slow(const char *path) {
    char absolute[4096];
    if (root == NULL || path == NULL || path[0] == 0) return;
    if (path[0] != '/' && getcwd(absolute, sizeof absolute) != NULL) path = absolute; /* of the directory, near enough */
    if (strncmp(path, root, root_length) != 0) return;
    if (counter >= 0 && write(counter, ".", 1) != 1) abort(); /* one byte a call: their number is the file's size */
    usleep(wait_us);
}

#define REAL(type, name, parameters) static type (*real) parameters; if (real == NULL) real = dlsym(RTLD_NEXT, #name)
#define AT_PATH(type, name, parameters, path, arguments) \
    type name parameters { REAL(type, name, parameters); slow(path); return real arguments; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, (const char *, int, ...)); va_list more; va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); va_end(more); slow(path); return real(path, flags, mode); }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, name, (int, const char *, int, ...)); va_list more; va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); va_end(more); slow(path); return real(at, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)
AT_PATH(FILE *, fopen, (const char *path, const char *mode), path, (path, mode))
AT_PATH(FILE *, fopen64, (const char *path, const char *mode), path, (path, mode))
AT_PATH(int, stat, (const char *path, struct stat *out), path, (path, out))
AT_PATH(int, stat64, (const char *path, struct stat64 *out), path, (path, out))
AT_PATH(int, lstat, (const char *path, struct stat *out), path, (path, out))
AT_PATH(int, lstat64, (const char *path, struct stat64 *out), path, (path, out))
AT_PATH(int, fstatat, (int at, const char *path, struct stat *out, int flags), path, (at, path, out, flags))
AT_PATH(int, fstatat64, (int at, const char *path, struct stat64 *out, int flags), path, (at, path, out, flags))
AT_PATH(int, access, (const char *path, int mode), path, (path, mode))
AT_PATH(int, faccessat, (int at, const char *path, int mode, int flags), path, (at, path, mode, flags))
AT_PATH(DIR *, opendir, (const char *path), path, (path))
AT_PATH(int, mkdir, (const char *path, mode_t mode), path, (path, mode))
AT_PATH(int, rmdir, (const char *path), path, (path))
AT_PATH(int, unlink, (const char *path), path, (path))
AT_PATH(int, rename, (const char *from, const char *to), from, (from, to))
AT_PATH(int, link, (const char *from, const char *to), from, (from, to))
AT_PATH(ssize_t, readlink, (const char *path, char *out, size_t size), path, (path, out, size))
AT_PATH(char *, realpath, (const char *path, char *out), path, (path, out))
