/* A disk that can be full or broken, and that remembers what was written and synced: for LD_PRELOAD.
 *
 * What is written below the folder DISK_FOLDER goes into the file DISK_TRACE, each record with one
 * write: operation, length of the name, offset, length of the data, name, data. W is a write, T a
 * truncation, S a sync (of a folder, when the name is empty), U an unlink.
 *
 * disk_fail(n, error, sticky): the n-th write from now fails; all after it, too, when sticky.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, and the order of the trace */
static int trace = -1, countdown = 0, failing = 0, sticky = 0;
static long failures = 0;

void disk_fail(int n, int error, int forever) {
    pthread_mutex_lock(&lock);
    countdown = n, failing = error, sticky = forever;
    pthread_mutex_unlock(&lock);
}

long disk_failures(void) { return failures; }

/* The name below the folder, NULL when the file is elsewhere. */
static const char *below(const char *path) {
    const char *folder = getenv("DISK_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return NULL;
    return path[length] ? path + length + 1 : path + length;
}

static const char *name_of(int file, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return below(path);
}

/* The error with which this write fails; 0 when it doesn't. */
static int refused(const char *name) {
    int error = 0;
    pthread_mutex_lock(&lock);
    if (name && failing && (countdown <= 1 ? (sticky || countdown == 1) : 0)) error = failing, failures++;
    if (name && countdown > 0) countdown--;
    pthread_mutex_unlock(&lock);
    return error;
}

static void note(char operation, const char *name, uint64_t offset, uint64_t length, const void *data) {
    const char *path = getenv("DISK_TRACE");
    if (!path || !name) return;
    pthread_mutex_lock(&lock);
    if (trace < 0) trace = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    uint64_t head[4] = {(uint64_t)operation, strlen(name), offset, length};
    struct iovec parts[3] = {{head, sizeof head}, {(void *)name, strlen(name)}, {(void *)data, data ? length : 0}};
    if (writev(trace, parts, 3) < 0) abort();
    pthread_mutex_unlock(&lock);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
    char path[4096];
    const char *name = name_of(file, path, sizeof path);
    int error = refused(name);
    if (error) {
        if (error == ENOSPC && length > 1) REAL(pwrite64)(file, data, length / 2, offset); /* as full disks do */
        errno = error;
        return -1;
    }
    ssize_t written = REAL(pwrite64)(file, data, length, offset);
    if (written > 0) note('W', name, offset, written, data);
    return written;
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

#define SYNC(function)                                       \
    int function(int file) {                                 \
        char path[4096];                                     \
        const char *name = name_of(file, path, sizeof path); \
        int error = refused(name);                           \
        if (error) {                                         \
            errno = error;                                   \
            return -1;                                       \
        }                                                    \
        int result = REAL(function)(file);                   \
        if (!result) note('S', name, 0, 0, NULL);            \
        return result;                                       \
    }
SYNC(fsync)
SYNC(fdatasync)

int ftruncate64(int file, off64_t length) {
    char path[4096];
    const char *name = name_of(file, path, sizeof path);
    int error = refused(name);
    if (error) {
        errno = error;
        return -1;
    }
    int result = REAL(ftruncate64)(file, length);
    if (!result) note('T', name, length, 0, NULL);
    return result;
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

int unlink(const char *path) {
    int result = REAL(unlink)(path);
    if (!result) note('U', below(path), 0, 0, NULL);
    return result;
}
