#!/bin/sh
# Bytes of code and constants that a linker map attributes to the runtime's static library.
#   runtime-size.sh FILE.map
awk '
    # After the sections that were dropped and the memory map come the sections that were kept.
    /^Linker script and memory map/ { kept = 1 }
    !kept { next }
    # A long name has a line of its own; address, size and file follow on the next one.
    NF == 1 && $1 ~ /^\.(text|rodata)/ { name = $1; next }
    NF >= 4 && $1 ~ /^\.(text|rodata)/ { name = $1; $1 = ""; $0 = $0 }
    name != "" && $1 ~ /^0x/ && /libride_capi\.a/ {
        size = 0
        digits = tolower(substr($2, 3))
        for (i = 1; i <= length(digits); i++) size = 16 * size + index("0123456789abcdef", substr(digits, i, 1)) - 1
        kind = name ~ /^\.text/ ? "text" : "rodata"
        bytes[kind] += size
    }
    { name = "" }
    END { printf "runtime: text %d, rodata %d, together %d\n", bytes["text"], bytes["rodata"], bytes["text"] + bytes["rodata"] }
' "$1"
