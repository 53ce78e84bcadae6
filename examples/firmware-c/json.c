#include "json.h"

json json_begin(json_write write, void *user, int lines)
{
    json j;
    j.write = write;
    j.user = user;
    j.lines = lines;
    j.depth = 0;
    j.first = 1;
    return j;
}

static size_t length(const char *text)
{
    size_t bytes = 0;
    while (text[bytes] != '\0')
        bytes++;
    return bytes;
}

void json_raw(json *j, const char *text)
{
    j->write(j->user, text, length(text));
}

static void name_of(json *j, const char *name)
{
    if (!j->first)
        json_raw(j, j->lines && j->depth == 1 ? ",\n  " : ", ");
    j->first = 0;
    if (name[0] != '\0') {
        json_raw(j, "\"");
        json_raw(j, name);
        json_raw(j, "\": ");
    }
}

void json_open(json *j, const char *name, char bracket)
{
    name_of(j, name);
    j->write(j->user, &bracket, 1);
    if (j->lines && j->depth == 0)
        json_raw(j, "\n  ");
    j->depth++;
    j->first = 1;
}

void json_close(json *j, char bracket)
{
    j->write(j->user, &bracket, 1);
    j->depth--;
    j->first = 0;
}

void json_text(json *j, const char *name, const char *text, size_t bytes)
{
    size_t n;
    name_of(j, name);
    json_raw(j, "\"");
    for (n = 0; n < bytes; n++) {
        unsigned char c = (unsigned char)text[n];
        /* One question mark a character: UTF-8's continuation bytes get none. */
        if (c >= 0x80 && c < 0xc0)
            continue;
        if (c >= ' ' && c <= '~' && c != '"' && c != '\\')
            j->write(j->user, text + n, 1);
        else
            json_raw(j, "?");
    }
    json_raw(j, "\"");
}

void json_word(json *j, const char *name, const char *text)
{
    json_text(j, name, text, length(text));
}

void json_number(json *j, const char *name, uint64_t value)
{
    json_decimal(j, name, value, 0);
}

void json_decimal(json *j, const char *name, uint64_t value, unsigned places)
{
    /* From the last digit to the first: 20 digits and a point. */
    char text[21];
    size_t at = sizeof text;
    unsigned digits = 0;
    name_of(j, name);
    do {
        if (places > 0 && digits == places)
            text[--at] = '.';
        text[--at] = (char)('0' + (int)(value % 10));
        value /= 10;
        digits++;
    } while ((value > 0 || digits <= places) && at > 1);
    j->write(j->user, text + at, sizeof text - at);
}

void json_hexadecimal(json *j, const char *name, uint32_t value)
{
    char text[8];
    int n;
    for (n = 7; n >= 0; n--, value >>= 4)
        text[n] = "0123456789abcdef"[value & 15];
    json_text(j, name, text, sizeof text);
}
