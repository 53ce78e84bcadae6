/* What the test programs share. They are compiled as C and as C++. */
#ifndef COMMON_H
#define COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ride.h"

typedef struct file {
    uint8_t *bytes;
    size_t length;
} file;

/*
 * Memory at a multiple of RIDE_ALIGN, plus `shift`; never freed. Cleared, because kernels multiply what lies between rows
 * of an arena by zero weights, which tools that follow uninitialised memory take for a use.
 */
static uint8_t *aligned(size_t bytes, size_t shift)
{
    uint8_t *memory = (uint8_t *)calloc(bytes + shift + RIDE_ALIGN, 1);
    if (memory == NULL)
        exit(9);
    return memory + (RIDE_ALIGN - (uintptr_t)memory % RIDE_ALIGN) + shift;
}

static file read_file(const char *path)
{
    file f;
    FILE *in = fopen(path, "rb");
    long length;
    if (in == NULL || fseek(in, 0, SEEK_END) != 0 || (length = ftell(in)) < 0) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(9);
    }
    rewind(in);
    f.length = (size_t)length;
    f.bytes = aligned(f.length, 0);
    if (fread(f.bytes, 1, f.length, in) != f.length)
        exit(9);
    fclose(in);
    return f;
}

#endif
