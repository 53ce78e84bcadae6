/* JSON without formatted output: names, whole and decimal numbers, and text that needs few escapes. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>

/* Takes the next piece of text. */
typedef void (*json_write)(void *user, const char *text, size_t bytes);

typedef struct json {
    json_write write;
    void *user;
    int lines; /* whether each member of the outermost object gets a line */
    int depth; /* brackets that are open */
    int first; /* whether nothing stands before the next member */
} json;

/* Members without a name (elements of an array) have the name "". */
json json_begin(json_write write, void *user, int lines);
void json_raw(json *j, const char *text);
void json_open(json *j, const char *name, char bracket);
void json_close(json *j, char bracket);
/* What is not printable ASCII becomes a question mark. */
void json_text(json *j, const char *name, const char *text, size_t bytes);
void json_word(json *j, const char *name, const char *text);
void json_number(json *j, const char *name, uint64_t value);
/* value / 10^places */
void json_decimal(json *j, const char *name, uint64_t value, unsigned places);
/* Eight hexadecimal digits as a string. */
void json_hexadecimal(json *j, const char *name, uint32_t value);

#endif
