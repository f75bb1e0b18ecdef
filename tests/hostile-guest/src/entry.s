# The entry, as the 64-bit boot protocol leaves it: long mode, the first GiB mapped to itself, this
# running at its physical address, RSI with the address of the zero page. It maps the first 4 GiB to
# themselves, which is where devices and memory are, and the first GiB where this is linked.

    .section .entry, "ax"
    .global entry
entry:
    cli
    cld

    # 2048 pages of 2 MiB, in four page directories.
    lea rdi, [rip + page_directories]
    mov rax, 0x83
    mov ecx, 2048
1:  mov [rdi], rax
    add rax, 0x200000
    add rdi, 8
    dec ecx
    jnz 1b

    lea rax, [rip + page_directories + 3]
    lea rdi, [rip + pointers_low]
    mov ecx, 4
2:  mov [rdi], rax
    add rax, 0x1000
    add rdi, 8
    dec ecx
    jnz 2b
    lea rax, [rip + page_directories + 3]
    mov [rip + pointers_high + 510 * 8], rax

    lea rax, [rip + pointers_low + 3]
    mov [rip + top_table], rax
    lea rax, [rip + pointers_high + 3]
    mov [rip + top_table + 511 * 8], rax
    lea rax, [rip + top_table]
    mov cr3, rax

    # The core library uses SSE.
    mov rax, cr0
    and rax, ~4
    or rax, 2
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600
    mov cr4, rax

    movabs rax, offset mapped
    jmp rax
mapped:
    movabs rsp, offset stack_end
    xor ebp, ebp
    mov rdi, rsi
    call main
    ud2

    .bss
    .balign 4096
top_table:
    .skip 4096
pointers_low:
    .skip 4096
pointers_high:
    .skip 4096
page_directories:
    .skip 4 * 4096
stack:
    .skip 1024 * 1024
stack_end:
