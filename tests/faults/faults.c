/* Numbers the calls that change files below a folder, and disturbs one of them: LD_PRELOAD=faults.so.

   arm() starts it in a process; until then every call passes through. Each counted call is a line of the trace:
   number, call, path, second path (of a rename or link), bytes. Paths are absolute.

   It sees what goes through the C library's dynamic symbols, so Python's, C++'s and Rust's calls. It cannot see writes
   to mapped memory, nor those of Go programs, which make system calls of their own. Standard output and error are
   not counted, whatever file they go to: a program that cannot print cannot say so. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, KILL_BEFORE, KILL_AFTER, TORN, NO_SPACE, NO_SPACE_EVER, BROKEN, BROKEN_EVER };
enum change { ADDS, KEEPS }; /* whether the call needs space */
enum verdict { PASS, PASS_AND_DIE, HALF_AND_DIE, FAIL };

static char folder[PATH_MAX];
static size_t folder_length;
static int trace = -1;
static long target, calls;
static enum kind armed;

static long (*real_syscall)(long, ...);

#define REAL(type, name, ...)                                     \
    static type (*real)(__VA_ARGS__);                             \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
}

static void die(void) {
    real_syscall(SYS_kill, real_syscall(SYS_getpid), SIGKILL);
    _exit(1); /* not reached */
}

/* Count changes below `below` from now on, trace them to the file `to`, and disturb number `number` (from 1). */
void arm(const char *below, const char *to, long number, int kind) {
    snprintf(folder, sizeof folder, "%s", below);
    target = number;
    armed = kind;
    calls = 0;
    long opened = real_syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    trace = (int)real_syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 800);
    real_syscall(SYS_close, opened);
    folder_length = strlen(folder);
}

static int is_below(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int of_descriptor(int descriptor, char *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = real_syscall(SYS_readlinkat, AT_FDCWD, link, found, PATH_MAX - 1);
    if (length < 0) return 0;
    found[length] = 0;
    return 1;
}

static int of_path(int at, const char *path, char *found) {
    char base[PATH_MAX];
    if (!path) return 0;
    if (path[0] == '/') return snprintf(found, PATH_MAX, "%s", path) > 0;
    if (at == AT_FDCWD ? real_syscall(SYS_getcwd, base, sizeof base) <= 0 : !of_descriptor(at, base)) return 0;
    while (!strncmp(path, "./", 2)) path += 2;
    return snprintf(found, PATH_MAX, "%s/%s", base, path) > 0;
}

static enum verdict judge(const char *call, enum change change, const char *path, const char *second, size_t bytes) {
    char line[2 * PATH_MAX + 128];
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    int length = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\t%zu\n", number, call, path, second, bytes);
    real_syscall(SYS_write, trace, line, length);
    if (armed == NO_SPACE_EVER && number >= target && change == ADDS) return errno = ENOSPC, FAIL;
    if (armed == BROKEN_EVER && number >= target) return errno = EIO, FAIL;
    if (number != target) return PASS;
    switch (armed) {
        case KILL_BEFORE: die(); return PASS;
        case KILL_AFTER: return PASS_AND_DIE;
        case TORN: return HALF_AND_DIE;
        case NO_SPACE: return errno = ENOSPC, FAIL;
        case BROKEN: return errno = EIO, FAIL;
        default: return PASS;
    }
}

static enum verdict on_path(const char *call, enum change change, int at, const char *path) {
    char found[PATH_MAX];
    if (!folder_length || !of_path(at, path, found) || !is_below(found)) return PASS;
    return judge(call, change, found, "", 0);
}

static enum verdict on_pair(const char *call, enum change change, int at, const char *path, int to, const char *second) {
    char found[PATH_MAX], other[PATH_MAX];
    if (!folder_length || !of_path(at, path, found) || !of_path(to, second, other)) return PASS;
    return is_below(found) || is_below(other) ? judge(call, change, found, other, 0) : PASS;
}

static enum verdict on_descriptor(const char *call, enum change change, int descriptor, size_t bytes) {
    char found[PATH_MAX];
    if (!folder_length || descriptor == 1 || descriptor == 2) return PASS;
    return of_descriptor(descriptor, found) && is_below(found) ? judge(call, change, found, "", bytes) : PASS;
}

/* DO: the call itself, with its result. PART: the same with half of the bytes. */
#define DISTURB(type, failed, judged, DO, PART)        \
    do {                                               \
        enum verdict said = (judged);                  \
        if (said == FAIL) return failed;               \
        if (said == HALF_AND_DIE) { PART; die(); }     \
        type result = DO;                              \
        if (said == PASS_AND_DIE) die();               \
        return result;                                 \
    } while (0)

#define MODE(flags)                                    \
    mode_t mode = 0;                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {           \
        va_list rest;                                  \
        va_start(rest, flags);                         \
        mode = va_arg(rest, mode_t);                   \
        va_end(rest);                                  \
    }

static int exists(int at, const char *path) {
    struct stat status;
    return !real_syscall(SYS_newfstatat, at, path, &status, AT_SYMLINK_NOFOLLOW);
}

/* What changes nothing, since the folder is there or the file is not, does not count. */
static enum verdict on_mkdir(int at, const char *path) {
    return folder_length && exists(at, path) ? PASS : on_path("mkdir", ADDS, at, path);
}

static enum verdict on_removal(const char *call, int at, const char *path) {
    return folder_length && !exists(at, path) ? PASS : on_path(call, KEEPS, at, path);
}

static enum verdict on_open(int at, const char *path, int flags) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) return PASS;
    return on_path("open", flags & O_CREAT ? ADDS : KEEPS, at, path);
}

#define OPEN(name)                                                                                     \
    int name(const char *path, int flags, ...) {                                                       \
        REAL(int, name, const char *, int, ...);                                                       \
        MODE(flags)                                                                                    \
        DISTURB(int, -1, on_open(AT_FDCWD, path, flags), real(path, flags, mode), real(path, flags, mode)); \
    }
#define OPENAT(name)                                                                                   \
    int name(int at, const char *path, int flags, ...) {                                               \
        REAL(int, name, int, const char *, int, ...);                                                  \
        MODE(flags)                                                                                    \
        DISTURB(int, -1, on_open(at, path, flags), real(at, path, flags, mode), real(at, path, flags, mode)); \
    }
#define CREAT(name)                                                                                    \
    int name(const char *path, mode_t mode) {                                                          \
        REAL(int, name, const char *, mode_t);                                                         \
        DISTURB(int, -1, on_path("open", ADDS, AT_FDCWD, path), real(path, mode), real(path, mode));   \
    }
#define FOPEN(name)                                                                                    \
    FILE *name(const char *path, const char *how) {                                                    \
        REAL(FILE *, name, const char *, const char *);                                                \
        enum verdict writes = strpbrk(how, "wa+") ? on_path("open", ADDS, AT_FDCWD, path) : PASS;      \
        DISTURB(FILE *, NULL, writes, real(path, how), real(path, how));                               \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CREAT(creat)
CREAT(creat64)
FOPEN(fopen)
FOPEN(fopen64)

int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat64(at, path, flags); }

ssize_t write(int descriptor, const void *from, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    DISTURB(ssize_t, -1, on_descriptor("write", ADDS, descriptor, size), real(descriptor, from, size),
            real(descriptor, from, size / 2));
}

#define PWRITE(name, offset_t)                                                                         \
    ssize_t name(int descriptor, const void *from, size_t size, offset_t at) {                         \
        REAL(ssize_t, name, int, const void *, size_t, offset_t);                                      \
        DISTURB(ssize_t, -1, on_descriptor("write", ADDS, descriptor, size),                           \
                real(descriptor, from, size, at), real(descriptor, from, size / 2, at));               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static size_t all_bytes(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int part = 0; part < count; part++) sum += parts[part].iov_len;
    return sum;
}

static size_t half_part(const struct iovec *parts) { return parts[0].iov_len / 2; }

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    DISTURB(ssize_t, -1, on_descriptor("write", ADDS, descriptor, all_bytes(parts, count)),
            real(descriptor, parts, count), real_syscall(SYS_write, descriptor, parts[0].iov_base, half_part(parts)));
}

#define PWRITEV(name, offset_t)                                                                        \
    ssize_t name(int descriptor, const struct iovec *parts, int count, offset_t at) {                  \
        REAL(ssize_t, name, int, const struct iovec *, int, offset_t);                                 \
        DISTURB(ssize_t, -1, on_descriptor("write", ADDS, descriptor, all_bytes(parts, count)),        \
                real(descriptor, parts, count, at),                                                    \
                real_syscall(SYS_pwrite64, descriptor, parts[0].iov_base, half_part(parts), at));      \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

size_t fwrite(const void *from, size_t size, size_t count, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    DISTURB(size_t, 0, folder_length ? on_descriptor("write", ADDS, fileno(file), size * count) : PASS,
            real(from, size, count, file), (real(from, 1, size * count / 2, file), fflush(file)));
}

#define SENDFILE(name, offset_t)                                                                       \
    ssize_t name(int to, int from, offset_t *at, size_t size) {                                        \
        REAL(ssize_t, name, int, int, offset_t *, size_t);                                             \
        DISTURB(ssize_t, -1, on_descriptor("write", ADDS, to, size), real(to, from, at, size),         \
                real(to, from, at, size / 2));                                                         \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *place, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    DISTURB(ssize_t, -1, on_descriptor("write", ADDS, to, size), real(from, at, to, place, size, flags),
            real(from, at, to, place, size / 2, flags));
}

#define ON_DESCRIPTOR(name, change)                                                                    \
    int name(int descriptor) {                                                                         \
        REAL(int, name, int);                                                                          \
        DISTURB(int, -1, on_descriptor("fsync", change, descriptor, 0), real(descriptor), (void)0);    \
    }
ON_DESCRIPTOR(fsync, ADDS)
ON_DESCRIPTOR(fdatasync, ADDS)

#define FTRUNCATE(name, offset_t)                                                                      \
    int name(int descriptor, offset_t size) {                                                          \
        REAL(int, name, int, offset_t);                                                                \
        DISTURB(int, -1, on_descriptor("truncate", ADDS, descriptor, size), real(descriptor, size), (void)0); \
    }
#define TRUNCATE(name, offset_t)                                                                       \
    int name(const char *path, offset_t size) {                                                        \
        REAL(int, name, const char *, offset_t);                                                       \
        DISTURB(int, -1, on_path("truncate", ADDS, AT_FDCWD, path), real(path, size), (void)0);        \
    }
#define FALLOCATE(name, offset_t)                                                                      \
    int name(int descriptor, offset_t at, offset_t size) {                                             \
        REAL(int, name, int, offset_t, offset_t);                                                      \
        DISTURB(int, errno, on_descriptor("truncate", ADDS, descriptor, size), real(descriptor, at, size), (void)0); \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)
TRUNCATE(truncate, off_t)
TRUNCATE(truncate64, off64_t)
FALLOCATE(posix_fallocate, off_t)
FALLOCATE(posix_fallocate64, off64_t)

#define REMOVAL(name)                                                                                  \
    int name(const char *path) {                                                                       \
        REAL(int, name, const char *);                                                                 \
        DISTURB(int, -1, on_removal(#name, AT_FDCWD, path), real(path), (void)0);                      \
    }
REMOVAL(unlink)
REMOVAL(rmdir)
REMOVAL(remove)

int unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    DISTURB(int, -1, on_removal(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, path), real(at, path, flags), (void)0);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    DISTURB(int, -1, on_mkdir(AT_FDCWD, path), real(path, mode), (void)0);
}

int mkdirat(int at, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    DISTURB(int, -1, on_mkdir(at, path), real(at, path, mode), (void)0);
}

int rename(const char *path, const char *second) {
    REAL(int, rename, const char *, const char *);
    DISTURB(int, -1, on_pair("rename", KEEPS, AT_FDCWD, path, AT_FDCWD, second), real(path, second), (void)0);
}

int renameat(int at, const char *path, int to, const char *second) {
    REAL(int, renameat, int, const char *, int, const char *);
    DISTURB(int, -1, on_pair("rename", KEEPS, at, path, to, second), real(at, path, to, second), (void)0);
}

int renameat2(int at, const char *path, int to, const char *second, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    DISTURB(int, -1, on_pair("rename", KEEPS, at, path, to, second), real(at, path, to, second, flags), (void)0);
}

int link(const char *path, const char *second) {
    REAL(int, link, const char *, const char *);
    DISTURB(int, -1, on_pair("link", ADDS, AT_FDCWD, path, AT_FDCWD, second), real(path, second), (void)0);
}

int linkat(int at, const char *path, int to, const char *second, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    DISTURB(int, -1, on_pair("link", ADDS, at, path, to, second), real(at, path, to, second, flags), (void)0);
}

int symlink(const char *path, const char *second) {
    REAL(int, symlink, const char *, const char *);
    DISTURB(int, -1, on_path("symlink", ADDS, AT_FDCWD, second), real(path, second), (void)0);
}

int symlinkat(const char *path, int to, const char *second) {
    REAL(int, symlinkat, const char *, int, const char *);
    DISTURB(int, -1, on_path("symlink", ADDS, to, second), real(path, to, second), (void)0);
}

/* Rust's standard library makes some calls in this way where the C library may be too old to have them. */
long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int place = 0; place < 6; place++) a[place] = va_arg(rest, long);
    va_end(rest);
    if (folder_length) switch (number) {
        case SYS_openat:
            return openat((int)a[0], (const char *)a[1], (int)a[2], (mode_t)a[3]);
        case SYS_write:
            return write((int)a[0], (const void *)a[1], (size_t)a[2]);
        case SYS_copy_file_range:
            return copy_file_range((int)a[0], (off64_t *)a[1], (int)a[2], (off64_t *)a[3], (size_t)a[4], (unsigned)a[5]);
        case SYS_renameat2:
            return renameat2((int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3], (unsigned)a[4]);
        case SYS_fsync:
            return fsync((int)a[0]);
        case SYS_unlinkat:
            return unlinkat((int)a[0], (const char *)a[1], (int)a[2]);
        case SYS_ftruncate:
            return ftruncate((int)a[0], (off_t)a[1]);
    }
    if (!real_syscall) begin();
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
