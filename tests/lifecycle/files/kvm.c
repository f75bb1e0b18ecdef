/* Makes a virtual machine of one page and one processor, in real mode, which writes a byte to a
   port and halts. Says both. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int must(int outcome, const char *what)
{
    if (outcome < 0) {
        perror(what);
        exit(1);
    }
    return outcome;
}

int main(void)
{
    /* mov $0x4e, %al; add $1, %al; out %al, $0x10; hlt */
    static const unsigned char code[] = {0xb0, 0x4e, 0x04, 0x01, 0xe6, 0x10, 0xf4};
    int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = 0x1000,
        .memory_size = 4096,
        .userspace_addr = (unsigned long)page,
    };
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    int cpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    struct kvm_sregs special;
    must(ioctl(cpu, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
    special.cs.base = 0;
    special.cs.selector = 0;
    must(ioctl(cpu, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
    struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
    must(ioctl(cpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
    for (;;) {
        must(ioctl(cpu, KVM_RUN, 0), "KVM_RUN");
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            printf("port %#x: %c\n", run->io.port, ((char *)run)[run->io.data_offset]);
            break;
        case KVM_EXIT_HLT:
            puts("halted");
            return 0;
        default:
            printf("exit %u\n", run->exit_reason);
            return 1;
        }
    }
}
