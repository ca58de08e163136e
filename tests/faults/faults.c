// Makes writes and syncs of the audit log's files fail, as a disk that is full or broken does.
// Loaded with LD_PRELOAD into the server. FAULTS_FILE names a file with the number of calls in a
// thousand that fail; it is read at each call, so that a test can change it. With "database syncs" or
// "database writes" behind the number, only those fail, and of the database itself alone.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int per_mille;
    int database_syncs;
    int database_writes;
};

static struct faults faults(void) {
    struct faults none = {0};
    const char *path = getenv("FAULTS_FILE");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return none;
    char text[32] = {0};
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return none;
    return (struct faults){
        atoi(text),
        strstr(text, "database syncs") != NULL,
        strstr(text, "database writes") != NULL,
    };
}

static const char *file(int fd, char *path, size_t size) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length > 0 ? length : 0] = 0;
    const char *name = strrchr(path, '/');
    return name ? name : "";
}

static unsigned random_number(void) {
    static __thread unsigned seed;
    if (!seed)
        seed = (unsigned)time(NULL) ^ (unsigned)syscall(SYS_gettid);
    return (unsigned)rand_r(&seed);
}

static int fails(int fd, int sync) {
    char path[4096];
    const char *name = file(fd, path, sizeof path);
    if (strncmp(name, "/hallpass.db", 12) != 0)
        return 0;
    struct faults now = faults();
    if (now.database_syncs || now.database_writes) {
        int meant = sync ? now.database_syncs : now.database_writes;
        if (!meant || strcmp(name, "/hallpass.db") != 0)
            return 0;
    }
    if ((int)(random_number() % 1000) >= now.per_mille)
        return 0;
    errno = random_number() % 2 ? EIO : ENOSPC;
    return 1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

// A write that fails may have written a part.
static size_t part(size_t length) {
    return random_number() % 2 ? random_number() % (length + 1) : 0;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (fails(fd, 0)) {
        int error = errno;
        REAL(write)(fd, bytes, part(length));
        errno = error;
        return -1;
    }
    return REAL(write)(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    if (fails(fd, 0)) {
        int error = errno;
        REAL(pwrite64)(fd, bytes, part(length), offset);
        errno = error;
        return -1;
    }
    return REAL(pwrite64)(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

int fsync(int fd) {
    return fails(fd, 1) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    return fails(fd, 1) ? -1 : REAL(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t length) {
    return fails(fd, 0) ? -1 : REAL(ftruncate64)(fd, length);
}

int ftruncate(int fd, off_t length) {
    return ftruncate64(fd, length);
}
