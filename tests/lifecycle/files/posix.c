// What programs rely on files to do, tried in the current directory. Prints the name of each
// subject, or where it failed. As root, with the capabilities that the subjects need.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHECK(what)                                                                     \
    do {                                                                                \
        if (!(what)) {                                                                  \
            printf("posix.c:%d: %s: %s\n", __LINE__, #what, strerror(errno));           \
            fflush(stdout);                                                             \
            _exit(1);                                                                   \
        }                                                                               \
    } while (0)
#define FAILS(error, what) CHECK((what) == -1 && errno == (error))

static int file(const char *name, const char *content) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
    return fd;
}

static int holds(int fd, off_t offset, const char *expected) {
    char found[64] = "";
    ssize_t length = pread(fd, found, sizeof found - 1, offset);
    return length == (ssize_t)strlen(expected) && !memcmp(found, expected, length);
}

static struct stat look(const char *name) {
    struct stat status;
    CHECK(!lstat(name, &status));
    return status;
}

/// Runs `body` as another user in a child.
#define AS(uid, gid, group_count, group_list, body)                                     \
    do {                                                                                \
        pid_t child = fork();                                                           \
        CHECK(child >= 0);                                                              \
        if (!child) {                                                                   \
            CHECK(!setgroups(group_count, group_list));                                 \
            CHECK(!setresgid(gid, gid, gid) && !setresuid(uid, uid, uid));              \
            body;                                                                       \
            _exit(0);                                                                   \
        }                                                                               \
        int ended;                                                                      \
        CHECK(waitpid(child, &ended, 0) == child && ended == 0);                        \
    } while (0)

static void attributes(void) {
    int fd = file("a", "x");
    char value[64];
    CHECK(!setxattr("a", "user.colour", "blue", 4, XATTR_CREATE));
    FAILS(EEXIST, setxattr("a", "user.colour", "red", 3, XATTR_CREATE));
    CHECK(fgetxattr(fd, "user.colour", value, sizeof value) == 4 && !memcmp(value, "blue", 4));
    FAILS(ERANGE, getxattr("a", "user.colour", value, 2));
    CHECK(!setxattr("a", "trusted.nacre", "t", 1, 0));
    struct vfs_cap_data caps = {.magic_etc = VFS_CAP_REVISION_2};
    caps.data[0].permitted = 1 << CAP_CHOWN;
    CHECK(!setxattr("a", "security.capability", &caps, XATTR_CAPS_SZ_2, 0));
    CHECK(getxattr("a", "security.capability", value, sizeof value) == XATTR_CAPS_SZ_2);
    char names[256];
    ssize_t length = listxattr("a", names, sizeof names);
    CHECK(length > 0 && memmem(names, length, "user.colour", 12));
    CHECK(memmem(names, length, "trusted.nacre", 14));
    CHECK(!removexattr("a", "user.colour"));
    FAILS(ENODATA, getxattr("a", "user.colour", value, sizeof value));
    // A write takes the capabilities away.
    CHECK(pwrite(fd, "y", 1, 0) == 1);
    FAILS(ENODATA, getxattr("a", "security.capability", value, sizeof value));
    CHECK(!symlink("a", "link"));
    FAILS(EPERM, lsetxattr("link", "user.x", "y", 1, 0));
    AS(1000, 1000, 0, NULL, FAILS(EACCES, setxattr("a", "user.x", "y", 1, 0)));
}

static void access_lists(void) {
    // version 2; user::rwx user:1000:rw- group::r-- mask::rw- other::---
    struct { uint16_t tag, perm; uint32_t id; } acl[5] = {
        {1, 7, -1}, {2, 6, 1000}, {4, 4, -1}, {16, 6, -1}, {32, 0, -1}};
    char value[4 + sizeof acl] = {2};
    memcpy(value + 4, acl, sizeof acl);
    CHECK(!chmod(".", 0755));
    close(file("listed", "x"));
    if (setxattr("listed", "system.posix_acl_access", value, sizeof value, 0)) {
        CHECK(errno == EOPNOTSUPP && printf("not supported; "));
        fflush(stdout);
        return;
    }
    CHECK((look("listed").st_mode & 0777) == 0760);
    AS(1000, 1000, 0, NULL, CHECK(open("listed", O_RDWR) >= 0));
    AS(1001, 1001, 0, NULL, FAILS(EACCES, open("listed", O_RDONLY)));
    // One that is inherited takes the place of the umask.
    CHECK(!mkdir("heirs", 0755));
    CHECK(!setxattr("heirs", "system.posix_acl_default", value, sizeof value, 0));
    umask(077);
    CHECK(open("heirs/one", O_CREAT | O_WRONLY, 0666) >= 0);
    umask(022);
    CHECK((look("heirs/one").st_mode & 0777) == 0660);
    CHECK(getxattr("heirs/one", "system.posix_acl_access", NULL, 0) == sizeof value);
}

static void modes(void) {
    umask(027);
    close(open("masked", O_CREAT | O_WRONLY, 0777));
    CHECK((look("masked").st_mode & 07777) == 0750);
    umask(022);
    CHECK(!mkdir("grouped", 0755) && !chown("grouped", 0, 7) && !chmod("grouped", 02777));
    CHECK(!mkdir("grouped/below", 0755));
    CHECK(look("grouped/below").st_gid == 7 && look("grouped/below").st_mode & S_ISGID);
    gid_t seven = 7;
    AS(1000, 1000, 1, &seven, close(open("grouped/file", O_CREAT | O_WRONLY, 02755)));
    CHECK(look("grouped/file").st_gid == 7 && look("grouped/file").st_uid == 1000);
    CHECK(look("grouped/file").st_mode & S_ISGID);
    AS(1000, 1000, 0, NULL, close(open("grouped/other", O_CREAT | O_WRONLY, 02755)));
    CHECK(!(look("grouped/other").st_mode & S_ISGID));
    CHECK(!mkdir("sticky", 0755) && !chmod("sticky", 01777));
    close(file("sticky/roots", ""));
    AS(1000, 1000, 0, NULL, {
        FAILS(EPERM, unlink("sticky/roots"));
        FAILS(EPERM, rename("sticky/roots", "sticky/mine"));
        close(open("sticky/mine", O_CREAT | O_WRONLY, 0600));
        CHECK(!unlink("sticky/mine"));
    });
}

static void users(void) {
    close(file("roots", "x"));
    close(file("theirs", "x"));
    CHECK(!chown("theirs", 1000, 1000) && !chmod("theirs", 06777));
    gid_t groups[2] = {7, 8};
    AS(1000, 1000, 2, groups, {
        FAILS(EPERM, chown("roots", 1000, -1));
        FAILS(EPERM, chown("theirs", 0, -1));
        FAILS(EPERM, chown("theirs", -1, 9));
        FAILS(EPERM, chmod("roots", 0777));
        FAILS(EACCES, open("roots", O_WRONLY));
        FAILS(EACCES, truncate("roots", 0));
        FAILS(EACCES, utimensat(AT_FDCWD, "roots", NULL, 0));
        CHECK(!chown("theirs", -1, 8));
    });
    // Whoever changes the owner or writes takes the set-id bits away.
    CHECK(look("theirs").st_gid == 8 && (look("theirs").st_mode & 07777) == 0777);
    CHECK(!chmod("theirs", 04777));
    AS(1001, 1001, 0, NULL, CHECK(write(open("theirs", O_WRONLY), "y", 1) == 1));
    CHECK((look("theirs").st_mode & 07777) == 0777);
    // Only a further group gives the right.
    close(file("groups", "x"));
    CHECK(!chown("groups", 0, 8) && !chmod("groups", 0060));
    AS(1000, 1000, 2, groups, CHECK(open("groups", O_RDWR) >= 0));
    AS(1000, 1000, 1, groups, FAILS(EACCES, open("groups", O_RDWR)));
    CHECK(!mkdir("room", 0700) && !chown("room", 0, 8) && !chmod("room", 0770));
    AS(1000, 1000, 2, groups, {
        close(open("room/made", O_CREAT | O_WRONLY, 0600));
        CHECK(!mkdir("room/directory", 0700));
    });
    CHECK(look("room/made").st_uid == 1000 && look("room/made").st_gid == 1000);
    AS(1000, 1000, 1, groups, FAILS(EACCES, open("room/made", O_RDONLY)));
    // A file that is made may be used as it was opened, whatever its mode.
    CHECK(!chmod(".", 0777));
    AS(1000, 1000, 0, NULL, {
        int fd = open("locked", O_CREAT | O_EXCL | O_RDWR, 0);
        CHECK(fd >= 0 && write(fd, "x", 1) == 1 && holds(fd, 0, "x"));
        FAILS(EACCES, open("locked", O_RDONLY));
    });
}

static void times(void) {
    int fd = file("timed", "x");
    struct timespec given[2] = {{1000000000, 123456789}, {2000000000, 987654321}};
    CHECK(!futimens(fd, given));
    struct stat status = look("timed");
    CHECK(status.st_atim.tv_sec == 1000000000 && status.st_atim.tv_nsec == 123456789);
    CHECK(status.st_mtim.tv_sec == 2000000000 && status.st_mtim.tv_nsec == 987654321);
    struct timespec one[2] = {{0, UTIME_OMIT}, {5, 0}};
    CHECK(!utimensat(AT_FDCWD, "timed", one, 0));
    CHECK(look("timed").st_atim.tv_sec == 1000000000 && look("timed").st_mtim.tv_sec == 5);
    CHECK(pwrite(fd, "y", 1, 0) == 1);
    CHECK(look("timed").st_mtim.tv_sec > 1700000000);
    CHECK(look("timed").st_ctim.tv_sec > 1700000000);
}

static void links(void) {
    int fd = file("one", "content");
    CHECK(!link("one", "two"));
    FAILS(EEXIST, link("one", "two"));
    CHECK(look("two").st_nlink == 2 && look("two").st_ino == look("one").st_ino);
    CHECK(pwrite(fd, "C", 1, 0) == 1 && holds(open("two", O_RDONLY), 0, "Content"));
    CHECK(!unlink("one") && look("two").st_nlink == 1);
    char target[1024], found[1025];
    memset(target, 'x', sizeof target - 1);
    target[sizeof target - 1] = 0;
    CHECK(!symlink(target, "long") && !symlink("nowhere", "dangling"));
    CHECK(readlink("long", found, sizeof found) == sizeof target - 1);
    CHECK(look("dangling").st_size == 7 && S_ISLNK(look("dangling").st_mode));
    FAILS(ENOENT, open("dangling", O_RDONLY));
    FAILS(ELOOP, open("dangling", O_RDONLY | O_NOFOLLOW));
    CHECK(!lchown("dangling", 5, 6) && look("dangling").st_uid == 5);
}

static void holes(void) {
    int fd = open("sparse", O_CREAT | O_RDWR, 0644);
    const off_t mib = 1 << 20;
    CHECK(!ftruncate(fd, 100 * mib) && pwrite(fd, "data", 4, 50 * mib) == 4);
    CHECK(look("sparse").st_blocks < 1024 && look("sparse").st_size == 100 * mib);
    CHECK(lseek(fd, 0, SEEK_DATA) == 50 * mib && lseek(fd, 0, SEEK_HOLE) == 0);
    off_t hole = lseek(fd, 50 * mib, SEEK_HOLE);
    CHECK(hole > 50 * mib && hole <= 51 * mib);
    FAILS(ENXIO, lseek(fd, hole, SEEK_DATA));
    CHECK(!fallocate(fd, 0, 0, mib) && look("sparse").st_blocks >= 2048);
    CHECK(!fallocate(fd, FALLOC_FL_KEEP_SIZE, 100 * mib, mib));
    CHECK(look("sparse").st_size == 100 * mib);
    int both = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 50 * mib);
    CHECK(map != MAP_FAILED && !memcmp(map, "data", 4));
    CHECK(!fallocate(fd, both, 50 * mib, mib) && !memcmp(map, "\0\0\0\0", 4));
    CHECK(!fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, mib) && !posix_fallocate(fd, 200 * mib, 1));
    CHECK(look("sparse").st_size == 200 * mib + 1);
    // Beyond what 32 bits can say.
    CHECK(pwrite(fd, "far", 3, 5000 * mib) == 3 && holds(fd, 5000 * mib, "far"));
    CHECK(!truncate("sparse", 3) && !ftruncate(fd, 6) && pread(fd, (char[6]){}, 6, 0) == 6);
}

static void renames(void) {
    int one = file("one", "1");
    int two = file("two", "2");
    FAILS(EEXIST, renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE));
    CHECK(!renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE));
    CHECK(holds(open("one", O_RDONLY), 0, "2") && holds(open("two", O_RDONLY), 0, "1"));
    // Over a file that somebody has open.
    CHECK(!rename("two", "one") && holds(open("one", O_RDONLY), 0, "1"));
    CHECK(holds(two, 0, "2") && holds(one, 0, "1"));
    struct stat gone;
    CHECK(!fstat(two, &gone) && gone.st_nlink == 0);
    CHECK(!renameat2(AT_FDCWD, "one", AT_FDCWD, "three", RENAME_NOREPLACE));
    CHECK(!mkdir("d", 0755) && !mkdir("e", 0755) && !mkdir("e/f", 0755));
    FAILS(ENOTEMPTY, rename("d", "e"));
    FAILS(EINVAL, rename("e", "e/f/g"));
    FAILS(EISDIR, rename("three", "d"));
    CHECK(!chdir("e/f") && !rename("../../e", "../../moved"));
    char path[4096];
    CHECK(getcwd(path, sizeof path) && strstr(path, "/moved/f") && !chdir("../.."));
    FAILS(ENOTEMPTY, rmdir("moved"));
}

static void unlinked(void) {
    int fd = file("gone", "before");
    CHECK(!unlink("gone"));
    FAILS(ENOENT, open("gone", O_RDONLY));
    struct stat status;
    CHECK(pwrite(fd, "after!", 6, 6) == 6 && holds(fd, 0, "beforeafter!"));
    CHECK(!ftruncate(fd, 3) && !fchmod(fd, 0600) && !fchown(fd, 3, 4) && !fstat(fd, &status));
    CHECK(status.st_size == 3 && status.st_nlink == 0 && status.st_uid == 3);
    CHECK(!fsetxattr(fd, "user.x", "y", 1, 0));
    char *map = mmap(NULL, 3, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED && (map[0] = 'B') && !msync(map, 3, MS_SYNC) && holds(fd, 0, "Bef"));
    int again = open("gone", O_CREAT | O_EXCL | O_RDWR, 0644);
    CHECK(again >= 0 && !fstat(again, &status) && status.st_size == 0);
    CHECK(!mkdir("directory", 0755));
    int directory = open("directory", O_RDONLY | O_DIRECTORY);
    CHECK(!rmdir("directory"));
    FAILS(ENOENT, openat(directory, "x", O_CREAT | O_WRONLY, 0644));
}

static void mappings(void) {
    int fd = file("mapped", "");
    CHECK(!ftruncate(fd, 1 << 20));
    char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *other = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, open("mapped", O_RDONLY), 0);
    char *private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(map != MAP_FAILED && other != MAP_FAILED && private != MAP_FAILED);
    strcpy(map + 700000, "through the mapping");
    char found[7];
    CHECK(pread(fd, found, 7, 700000) == 7 && !memcmp(found, "through", 7));
    CHECK(!memcmp(other + 700000, "through", 7));
    CHECK(pwrite(fd, "by a write", 10, 0) == 10 && !memcmp(map, "by a write", 10));
    private[0] = 'B';
    CHECK(map[0] == 'b' && !msync(map, 1 << 20, MS_SYNC));
    pid_t child = fork();
    if (!child) {
        map[1] = 'Y';
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child && map[1] == 'Y' && !munmap(map, 1 << 20));
    CHECK(pread(fd, (char[2]){}, 2, 0) == 2 && other[1] == 'Y');
}

static void synced(void) {
    int fd = file("synced", "x");
    int directory = open(".", O_RDONLY | O_DIRECTORY);
    CHECK(!fsync(fd) && !fdatasync(fd) && !syncfs(fd) && !fsync(directory));
    CHECK(!sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WRITE));
    CHECK(write(open("synced", O_WRONLY | O_SYNC), "y", 1) == 1 && holds(fd, 0, "y"));
}

/// Whether another process can have a lock of this kind (`F_SETLK` or `F_OFD_SETLK`, or 0 for
/// `flock`) on the file now.
static int free_for_others(int command) {
    pid_t child = fork();
    if (!child) {
        int fd = open("locked", O_RDWR);
        struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
        _exit(command ? fcntl(fd, command, &lock) != 0 : flock(fd, LOCK_EX | LOCK_NB) != 0);
    }
    int ended;
    CHECK(waitpid(child, &ended, 0) == child);
    return ended == 0;
}

static void locks(void) {
    int fd = file("locked", "x");
    for (int kind = 0; kind < 3; kind++) {
        int commands[3] = {0, F_SETLK, F_OFD_SETLK}, command = commands[kind];
        struct flock lock = {.l_type = F_WRLCK, .l_len = 10};
        CHECK(free_for_others(command));
        CHECK(!(command ? fcntl(fd, command, &lock) : flock(fd, LOCK_EX)));
        CHECK(!free_for_others(command));
        lock.l_type = F_UNLCK;
        CHECK(!(command ? fcntl(fd, command, &lock) : flock(fd, LOCK_UN)));
        CHECK(free_for_others(command));
    }
    // One that is waited for.
    int ready[2];
    CHECK(!pipe(ready));
    pid_t child = fork();
    if (!child) {
        CHECK(!flock(open("locked", O_RDWR), LOCK_EX) && write(ready[1], "x", 1) == 1);
        usleep(200000);
        _exit(pwrite(fd, "done", 4, 0) != 4);
    }
    CHECK(read(ready[0], (char[1]){}, 1) == 1 && !flock(open("locked", O_RDWR), LOCK_EX));
    CHECK(holds(fd, 0, "done") && waitpid(child, NULL, 0) == child);
}

static void direct(void) {
    int fd = open("direct", O_CREAT | O_RDWR | O_DIRECT, 0644);
    CHECK(fd >= 0);
    char *page = aligned_alloc(4096, 8192);
    memset(page, 'd', 8192);
    CHECK(pwrite(fd, page, 8192, 0) == 8192);
    int buffered = open("direct", O_RDWR);
    CHECK(pread(buffered, page, 4096, 4096) == 4096 && page[4095] == 'd');
    CHECK(pwrite(buffered, "b", 1, 4096) == 1 && pread(fd, page, 4096, 4096) == 4096);
    CHECK(page[0] == 'b' && page[1] == 'd');
}

static void appended(void) {
    int writers[4];
    for (int i = 0; i < 4; i++) {
        int fd = open("log", O_CREAT | O_WRONLY | O_APPEND, 0644);
        CHECK(fd >= 0 && (writers[i] = fork()) >= 0);
        if (!writers[i]) {
            for (int n = 0; n < 100; n++)
                CHECK(write(fd, "0123456789abcde\n", 16) == 16);
            _exit(0);
        }
    }
    for (int i = 0, ended; i < 4; i++)
        CHECK(waitpid(writers[i], &ended, 0) == writers[i] && ended == 0);
    CHECK(look("log").st_size == 6400);
    int fd = open("log", O_RDONLY);
    for (int n = 0; n < 400; n++) {
        char line[16];
        CHECK(read(fd, line, 16) == 16 && !memcmp(line, "0123456789abcde\n", 16));
    }
}

static void copies(void) {
    int from = file("from", "0123456789"), to = file("to", "");
    off_t start = 2, end = 0;
    CHECK(copy_file_range(from, &start, to, &end, 5, 0) == 5 && holds(to, 0, "23456"));
    start = 7;
    CHECK(sendfile(to, from, &start, 3) == 3 && holds(to, 0, "78956"));
    int line[2];
    CHECK(!pipe(line) && lseek(from, 0, SEEK_SET) == 0);
    CHECK(splice(from, NULL, line[1], NULL, 4, 0) == 4);
    CHECK(splice(line[0], NULL, to, NULL, 4, 0) == 4 && holds(to, 3, "0123"));
}

static void special(void) {
    CHECK(!mkfifo("fifo", 0600));
    pid_t child = fork();
    if (!child)
        _exit(write(open("fifo", O_WRONLY), "through", 7) != 7);
    char found[8] = "";
    CHECK(read(open("fifo", O_RDONLY), found, 7) == 7 && !strcmp(found, "through"));
    CHECK(waitpid(child, NULL, 0) == child);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(!bind(listener, (void *)&address, sizeof address) && !listen(listener, 1));
    CHECK(S_ISSOCK(look("socket").st_mode));
    CHECK(!connect(client, (void *)&address, sizeof address) && write(client, "x", 1) == 1);
    CHECK(read(accept(listener, NULL, NULL), found, 1) == 1);
    FAILS(ENXIO, open("socket", O_RDWR));
    FAILS(EADDRINUSE, bind(client, (void *)&address, sizeof address));
    CHECK(!mknod("null", S_IFCHR | 0666, (1 << 8) | 3) && look("null").st_rdev == 0x103);
}

static void names(void) {
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    close(file(name, "long"));
    CHECK(!unlink(name));
    name[255] = 'n', name[256] = 0;
    FAILS(ENAMETOOLONG, open(name, O_CREAT | O_WRONLY, 0644));
    close(file("\xff\xfe \n*'\"", "no text"));
    CHECK(!unlink("\xff\xfe \n*'\""));
    int top = open(".", O_RDONLY);
    for (int depth = 0; depth < 300; depth++)
        CHECK(!mkdir("some-directory", 0755) && !chdir("some-directory"));
    close(file("bottom", "x"));
    CHECK(!unlink("bottom"));
    for (int depth = 0; depth < 300; depth++)
        CHECK(!chdir("..") && !rmdir("some-directory"));
    struct stat here, there;
    CHECK(!stat(".", &here) && !fstat(top, &there) && here.st_ino == there.st_ino);
}

static void many(void) {
    const int count = 1000;
    char name[32], *seen = calloc(count, 1);
    CHECK(!mkdir("many", 0755) && !chdir("many"));
    for (int n = 0; n < count; n++) {
        sprintf(name, "file-%05d", n);
        CHECK(!mknod(name, S_IFREG | 0644, 0));
    }
    // Each is listed once, even as those that were listed are removed.
    DIR *directory = opendir(".");
    struct dirent *entry;
    int n, found = 0;
    while ((entry = readdir(directory)))
        if (sscanf(entry->d_name, "file-%d", &n) == 1) {
            CHECK(!seen[n]++ && entry->d_type == DT_REG);
            found++;
            CHECK(!unlink(entry->d_name));
        }
    CHECK(found == count);
    closedir(directory);
    CHECK(!chdir("..") && !rmdir("many"));
}

static void figures(void) {
    struct statvfs figures;
    CHECK(!statvfs(".", &figures) && figures.f_namemax == 255);
    CHECK(figures.f_blocks > 0 && figures.f_bfree <= figures.f_blocks && figures.f_bsize >= 512);
    int fd = file("counted", "");
    CHECK(!fallocate(fd, 0, 0, 1 << 20) && look("counted").st_blocks >= 2048);
}

static void busy(void) {
    int fd = file("script", "#!/bin/true\n");
    CHECK(!fchmod(fd, 0755));
    close(fd);
    char buffer[65536];
    int from = open("/proc/self/exe", O_RDONLY), to = open("program", O_CREAT | O_WRONLY, 0755);
    ssize_t length;
    while ((length = read(from, buffer, sizeof buffer)) > 0)
        CHECK(write(to, buffer, length) == length);
    char *arguments[] = {"program", "nothing", NULL};
    FAILS(ETXTBSY, execv("./program", arguments));
    close(to);
    pid_t child = fork();
    if (!child) {
        execv("./program", arguments);
        _exit(1);
    }
    int ended;
    CHECK(waitpid(child, &ended, 0) == child && ended == 0);
}

static void watched(void) {
    int watch = inotify_init1(IN_NONBLOCK);
    CHECK(inotify_add_watch(watch, ".", IN_CREATE | IN_MOVED_TO | IN_DELETE) >= 0);
    close(file("new", "x"));
    CHECK(!rename("new", "newer") && !unlink("newer"));
    char events[1024];
    CHECK(read(watch, events, sizeof events) == 3 * (sizeof(struct inotify_event) + 16));
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } subjects[] = {
        {"attributes", attributes}, {"access lists", access_lists}, {"modes", modes},
        {"users", users}, {"times", times}, {"links", links}, {"holes", holes},
        {"renames", renames}, {"unlinked", unlinked}, {"mappings", mappings},
        {"synced", synced}, {"locks", locks}, {"direct", direct}, {"appended", appended},
        {"copies", copies}, {"special", special}, {"names", names}, {"many", many},
        {"figures", figures}, {"busy", busy}, {"watched", watched},
    };
    if (argc > 1 && !strcmp(argv[1], "nothing"))
        return 0;
    umask(022);
    for (size_t n = 0; n < sizeof subjects / sizeof *subjects; n++) {
        CHECK(!mkdir(subjects[n].name, 0777) && !chmod(subjects[n].name, 0777));
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            CHECK(!chdir(subjects[n].name));
            subjects[n].run();
            _exit(0);
        }
        int ended;
        CHECK(waitpid(child, &ended, 0) == child);
        printf("%s: %s\n", subjects[n].name, ended ? "failed" : "ok");
    }
    return 0;
}
