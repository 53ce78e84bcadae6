#include "semihosting.h"

#include <stdint.h>

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026, PIECE = 64 };

/* One operation. Without a debugger the breakpoint is a fault. */
static void call(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

/* In zero-terminated pieces. */
void semihosting_write(const char *text, size_t bytes)
{
    while (bytes > 0) {
        char piece[PIECE];
        size_t n = 0;
        while (n < bytes && n < PIECE - 1) {
            piece[n] = text[n];
            n++;
        }
        piece[n] = '\0';
        call(SYS_WRITE0, piece);
        text += n;
        bytes -= n;
    }
}

void semihosting_exit(int code)
{
    uint32_t block[2];
    block[0] = APPLICATION_EXIT;
    block[1] = (uint32_t)code;
    call(SYS_EXIT_EXTENDED, block);
    for (;;)
        __asm__ volatile("wfi");
}
