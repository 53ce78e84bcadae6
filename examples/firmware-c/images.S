/* Raw pixels, one image after the other, from the file that the Makefile names. */
    .syntax unified
    .section .images, "a"
    .balign 4
    .global images
images:
    .incbin IMAGES
    .global images_end
images_end:
