// Shares a mapping of the file `mapped` with the host, which answers to what it sees.

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
    int fd = open("mapped", O_RDWR);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED)
        return 1;
    memcpy(map, "container", 9);
    if (msync(map, 4096, MS_SYNC))
        return 2;
    puts("written");
    fflush(stdout);
    for (int tries = 0; memcmp(map, "the host ", 9); tries++) {
        struct stat status;
        if (tries == 500 || fstat(fd, &status))
            return 3;
        usleep(20000);
    }
    memcpy(map, "container", 9);
    puts("again");
    fflush(stdout);
    return pause();
}
