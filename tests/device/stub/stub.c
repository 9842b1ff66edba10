#include <setjmp.h>
extern jmp_buf *stub_jump;
jmp_buf *stub_jump;
