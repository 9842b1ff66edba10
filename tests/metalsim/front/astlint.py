#!/usr/bin/env python3
"""astlint.py CLANG FLAGS... -- FILE - rules of MSL that need types, checked on clang's textual AST dump.

 - a pointer or reference without an address space (OpenCL mode makes it __generic; MSL refuses it)
 - recursion
 - program scope or static variables outside the constant address space"""
import re
import subprocess
import sys

DECL = re.compile(r'[|`\- ]*(ParmVarDecl|VarDecl|FieldDecl|FunctionDecl|CXXMethodDecl|CallExpr|DeclRefExpr) ')


def dump(command):
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors='replace')
    file, line = '', 0
    for text in p.stdout:
        m = re.search(r'<([^<>]*)>', text)
        for part in m.group(1).split(', ') if m else []:
            q = re.match(r'(.*):(\d+):\d+$', part)
            if q and q.group(1) != 'line' and not q.group(1).startswith('<'):
                file, line = q.group(1), int(q.group(2))
            elif part.startswith('line:'):
                line = int(part.split(':')[1])
        if '/msl_' not in file and 'msl-glue' not in file:
            yield file, line, text


def cycles(calls):
    def reaches(f, start, seen):
        for g in calls.get(f, ()):
            if g == start:
                return True
            if g not in seen:
                seen.add(g)
                if reaches(g, start, seen):
                    return True
        return False
    return [f for f in calls if reaches(f, f, set())]


def main():
    k = sys.argv.index('--')
    bad, calls, function = {}, {}, None
    for file, line, text in dump(sys.argv[1:k] + ['-Xclang', '-ast-dump', '-fno-color-diagnostics', sys.argv[k + 1]]):
        if re.match(r'[|`]-', text):
            function = None
        m = DECL.match(text)
        if not m:
            continue
        kind, at = m.group(1), '%s:%d: error: ' % (file, line)
        if kind == 'FunctionDecl':
            q = re.search(r"(\w+) '([^']*)'", text)
            function = q.group(1) if q else None
        if kind == 'DeclRefExpr':
            q = re.search(r" Function 0x[0-9a-f]+ '(\w+)'", text)
            if q and function:
                calls.setdefault(function, set()).add(q.group(1))
        if kind == 'VarDecl' and re.search(r"'(const |volatile )*__global [^*&']*'", text):
            bad[at + 'a program scope or static variable must reside in the constant address space'] = 1
        if kind in ('ParmVarDecl', 'VarDecl', 'FieldDecl') and '__generic' in text and \
                not re.search(r"implicit|'auto|:\d+ (used )?'", text):  # a parameter without a name: made by the compiler
            bad[at + 'a pointer or reference must name its address space'] = 1
    for f in cycles(calls):
        bad['error: function %s is recursive' % f] = 1
    for b in bad:
        print(b)
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
