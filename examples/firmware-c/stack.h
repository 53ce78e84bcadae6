/* How deep the stack grows: what lies below it is painted, and later looked at. */
#ifndef STACK_H
#define STACK_H

#include <stdint.h>

void stack_paint(void *unused, const void *top);
/* Bytes below `top` down to the last word that has lost its paint. */
uint64_t stack_used(void *unused, const void *top);

#endif
