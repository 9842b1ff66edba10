#!/usr/bin/env python3
"""msl2host.py SRC -o OUT - turns one .metal source into a C++-for-OpenCL unit that clang compiles for the host.

What  Expands macros, takes the [[attributes]] out, and appends one thunk and one parameter descriptor per kernel.
Why   Upstream clang has no Metal mode, but its C++ for OpenCL has the same address spaces as types; only the
      attributes, threadgroup locals and function constants need rewriting.
How   1. `clang -E` with empty Metal headers expands the user's macros.
      2. A tokenizer folds [[...]] into one token, records kernels, and rewrites `threadgroup T x[N];` and
         `[[function_constant(n)]]`.
      3. Names, counts and attributes come from the tokens; every fact about a type (address space, const, size,
         alignment) comes from the compiler, by template deduction in the appended code.
Careful
      - Bare floating literals get an f: MSL has no double.
      - -E leaves macros in `#pragma unroll(N)` unexpanded, so the argument is dropped."""
import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN = re.compile(
    r'(?P<pp>^[ \t]*\#[^\n]*)|(?P<ws>\s+)|(?P<str>"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\')|(?P<id>[A-Za-z_]\w*)'
    r'|(?P<num>\.?\d(?:[eEpP][+-]|[\w.])*)'
    r'|(?P<p>::|->|<<=|>>=|&&|\|\||[-+*/%&|^!=<>]=|<<|[][(){};:,<>=+\-*/%&|^~!?.\\@#$`])', re.M)

GRID = {  # attribute: field of struct msl_ctx; & marks a scalar field
    'threadgroup_position_in_grid': 'tgpig', 'thread_position_in_threadgroup': 'tpitg',
    'thread_position_in_grid': 'tpig', 'threads_per_threadgroup': 'ntg', 'threadgroups_per_grid': 'tgpg',
    'threads_per_grid': 'tpg', 'dispatch_threads_per_threadgroup': 'ntg',
    'thread_index_in_threadgroup': '&tiitg', 'thread_index_in_simdgroup': '&tiisg',
    'simdgroup_index_in_threadgroup': '&sgitg', 'threads_per_simdgroup': '&simdw',
    'thread_execution_width': '&simdw', 'simdgroups_per_threadgroup': '&nsg',
}
BANNED = {'goto', 'virtual', 'throw', 'try', 'catch', 'new', 'delete', 'dynamic_cast', 'typeid', 'thread_local',
          'asm', '__asm__', 'double', 'register', 'std', 'is_function_constant_defined'}
SPACES = ('device', 'constant', 'threadgroup', 'thread')


class Refused(Exception):
    pass


def preprocess(path, defines, includes, clang):
    cmd = [clang, '-E', '-x', 'c++', '-nostdinc', '-undef', '-D__METAL__=1', '-D__METAL_VERSION__=310',
           '-D__METAL_MACOS__=1', '-I' + HERE + '/../include/pp']
    cmd += ['-I' + i for i in includes] + ['-D' + d for d in defines] + [path]
    r = subprocess.run(cmd, capture_output=True, text=True)
    if r.returncode:
        raise Refused('preprocessing failed:\n' + r.stderr)
    return re.sub(r'^[ \t]*#pragma[ \t]+unroll[ \t]*\(.*\)[ \t]*$', '#pragma unroll', r.stdout, flags=re.M)


def tokenize(s):
    out, i = [], 0
    while i < len(s):
        m = TOKEN.match(s, i)
        if not m:
            raise Refused('unexpected character %r' % s[i])
        kind, text, i = m.lastgroup, m.group(), m.end()
        if kind == 'num' and re.fullmatch(r'(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?', text) and re.search(r'[.eE]', text):
            text += 'f'
        out.append((kind, text))
    return out


def text_of(tokens):
    return ''.join(t for _, t in tokens)


def significant(tokens):
    return [t for t in tokens if t[0] not in ('ws', 'pp')]


def closer(ts, i, opens, closes):
    """Index behind the bracket that closes ts[i]."""
    depth = 0
    while i < len(ts):
        if ts[i][1] == opens:
            depth += 1
        elif ts[i][1] == closes:
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    raise Refused('unbalanced ' + opens)


def angle_closer(ts, i):
    """Index behind the > that closes the < at ts[i]; comparisons inside parentheses do not count."""
    depth = paren = 0
    while True:
        kind, t = ts[i]
        if kind == 'p' and t in '([{':
            paren += 1
        elif kind == 'p' and t in ')]}':
            paren -= 1
        elif paren == 0 and t == '<':
            depth += 1
        elif paren == 0 and t == '>':
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1


def attributes(text):
    """"a(1), b" -> [("a", "1"), ("b", "")]"""
    found = re.finditer(r'([A-Za-z_][\w:]*)\s*(?:\(((?:[^()]|\([^()]*\))*)\))?', text)
    return [(m.group(1), (m.group(2) or '').strip()) for m in found]


def host_name_of(attribute):
    """The string of host_name("a" "b"), literals joined."""
    return ''.join(re.findall(r'"([^"]*)"', attribute))


def split_commas(ts):
    parts, cur, depth, angle = [], [], 0, 0
    for t in ts:
        if t[0] == 'p' and t[1] in '([{':
            depth += 1
        elif t[0] == 'p' and t[1] in ')]}':
            depth -= 1
        elif depth == 0 and t[1] == '<':
            angle += 1
        elif depth == 0 and t[1] == '>' and angle:
            angle -= 1
        if t[1] == ',' and depth == 0 and angle == 0:
            parts.append(cur)
            cur = []
        else:
            cur.append(t)
    if any(t[0] not in ('ws', 'pp', 'attr') for t in cur):
        parts.append(cur)
    return parts


def fold_attributes(ts):
    """[[...]] becomes one token of kind attr."""
    out, i = [], 0
    while i < len(ts):
        if ts[i][1] == '[':
            j = i + 1
            while j < len(ts) and ts[j][0] == 'ws':
                j += 1
            if j < len(ts) and ts[j][1] == '[':
                end = closer(ts, i, '[', ']')
                out.append(('attr', text_of(ts[j + 1:end]).rstrip()[:-1].rstrip()[:-1]))
                i = end
                continue
        out.append(ts[i])
        i += 1
    return out


def parameters(ts):
    """One dict per kernel parameter: name, space, and one of grid, buf, tg."""
    params, used = [], set()
    for part in split_commas(ts):
        words = [t[1] for t in part if t[0] not in ('ws', 'pp', 'attr')]
        d = {'name': next((w for w in reversed(words) if re.match(r'[A-Za-z_]\w*$', w)), '?'),
             'as': next((w for w in words if w in SPACES), None)}
        for name, value in [a for t in part if t[0] == 'attr' for a in attributes(t[1])]:
            if name in GRID:
                d['grid'] = GRID[name]
            elif name == 'buffer':
                d['buf'] = int(value)
                if d['buf'] > 30:
                    raise Refused('buffer index %d of parameter %s is above 30' % (d['buf'], d['name']))
                if d['buf'] in used:
                    raise Refused('buffer index %d is used twice' % d['buf'])
                used.add(d['buf'])
            elif name == 'threadgroup':
                d['tg'] = int(value)
            else:
                raise Refused('parameter %s: attribute %s is not supported' % (d['name'], name))
        if not d.keys() & {'grid', 'buf', 'tg'}:
            raise Refused('kernel parameter %s has no attribute that says what it is' % d['name'])
        params.append(d)
    return params


class Unit:
    """The rewriting pass: body (text), insts [(host name, expression)], defs {kernel: parameters}."""

    def __init__(self, src, nvptx=False):
        self.nvptx, self.tg_last = nvptx, None  # tg_last: the threadgroup variable before, in this kernel
        self.ts = fold_attributes(tokenize(src))
        self.defs, self.constants, self.insts, self.tg_vars = {}, [], [], 0
        self.out, self.header = [], []  # header: tokens of the declaration being read, at namespace scope
        self.depth, self.kernel_depth, self.namespaces, self.decl0 = 0, -1, [0], 0

    def run(self):
        i = 0
        while i < len(self.ts):
            i = self.step(i)
        self.body = text_of(self.out)
        return self

    def at_namespace(self):
        return self.depth == self.namespaces[-1]

    def step(self, i):
        kind, t = self.ts[i]
        if kind == 'id' and t in BANNED:
            raise Refused("'%s' is not part of the MSL subset that kernels here may use" % t)
        if kind == 'p' and t == '{':
            words = [x[1] for x in significant(self.header)]
            if self.at_namespace() and self.header and self.header[-1][0] == 'kern':
                self.kernel_depth = self.depth
            if self.at_namespace() and ('namespace' in words or words[:1] == ['extern']):
                self.namespaces.append(self.depth + 1)
            self.depth += 1
            self.header = []
        elif kind == 'p' and t == '}':
            if self.namespaces[-1] == self.depth and len(self.namespaces) > 1:
                self.namespaces.pop()
            self.depth -= 1
            self.header = []
            if self.depth == self.kernel_depth:
                self.kernel_depth = -1
        elif kind == 'p' and t == ';':
            self.header = []
        else:
            return self.declaration(i, kind, t)
        self.out.append((kind, t))
        return i + 1

    def declaration(self, i, kind, t):
        scope = self.at_namespace()
        if scope and not self.header and kind not in ('ws', 'pp'):
            self.decl0 = len(self.out)
        if scope and kind == 'attr' and 'function_constant' in t:
            return self.function_constant(i, t)
        if scope and ((kind == 'id' and t == 'kernel') or
                      (kind == 'attr' and (re.match(r'\s*kernel\b', t) or 'host_name' in t))):
            return self.kernel(i, kind, t)
        if kind == 'id' and t == 'threadgroup' and not scope and self.starts_statement():
            end = self.threadgroup_variable(i)
            if end:
                return end
        if kind == 'attr':
            self.header.append(self.ts[i])
            return i + 1
        if kind not in ('ws', 'pp'):
            self.header.append(self.ts[i])
        self.out.append((kind, t))
        return i + 1

    def starts_statement(self):
        before = significant(self.out[-6:])
        return before and (before[-1][0] == 'x' or before[-1][1] in ('{', '}', ';', ')'))

    def function_constant(self, i, t):
        number = int(dict(attributes(t))['function_constant'])
        words = [x for x in significant(self.header) if x[0] != 'attr']
        name = words[-1][1]
        ctype = ' '.join(x[1] for x in words[:-1] if x[1] not in ('constant', 'static', 'const'))
        self.constants.append((number, ctype))
        del self.out[self.decl0:]
        self.out.append(('x', 'extern constant %s %s __asm__("msl_fc_%d")' % (ctype, name, number)))
        return i + 1

    def kernel(self, i, kind, t):
        ts, j, pre, host_name, is_kernel = self.ts, i, [], None, False
        for x in self.header:
            if x[0] == 'attr' and 'host_name' in x[1]:
                host_name = host_name_of(x[1])
        while True:  # to the parameter list or the semicolon
            x = ts[j]
            if x[0] == 'attr':
                if 'host_name' in x[1]:
                    host_name = host_name_of(x[1])
                is_kernel |= bool(re.match(r'\s*kernel\b', x[1]))
            elif x[1] == 'kernel':
                is_kernel = True
            elif x[1] == '<':
                end = angle_closer(ts, j)
                pre += ts[j:end]
                j = end
                continue
            elif x[1] == 'decltype':
                end = closer(ts, j + (1 if ts[j + 1][1] == '(' else 2), '(', ')')
                pre += ts[j:end]
                j = end
                continue
            elif x[1] in ('(', ';'):
                break
            else:
                pre.append(x)
            j += 1
        if not is_kernel:
            self.out.append((kind, '' if kind == 'attr' else t))
            self.header.append(ts[i])
            return i + 1
        words = [x[1] for x in significant(self.header) if x[0] != 'attr']
        if words[:1] == ['template'] and (len(words) < 2 or words[1] != '<'):
            return self.instantiation(j, pre, host_name)
        return self.definition(j, pre, host_name, words)

    def instantiation(self, j, pre, host_name):
        tail = significant(pre)
        b = len(tail) - 1
        if tail[b][1] == '>':
            depth = 0
            while True:
                depth += (tail[b][1] == '>') - (tail[b][1] == '<')
                if depth == 0:
                    break
                b -= 1
            b -= 1
        end = j
        while self.ts[end][1] != ';':
            end += 1
        self.insts.append((host_name, ' '.join(x[1] for x in tail[b:])))
        self.out += [x for x in pre + self.ts[j:end] if x[0] != 'attr']
        self.header = []
        return end

    def definition(self, j, pre, host_name, words):
        s = significant(pre)
        name = s[-1][1]
        if 'void' not in [x[1] for x in s]:
            raise Refused('kernel %s must return void' % name)
        end = closer(self.ts, j, '(', ')')
        self.defs[name] = parameters(self.ts[j + 1:end - 1])
        self.tg_last = None
        if words[:1] != ['template']:
            self.insts.append((host_name or name, name))
        self.out += [x for x in pre + self.ts[j:end] if x[0] != 'attr']
        self.header.append(('kern', name))
        return end

    def threadgroup_variable(self, i):
        """`threadgroup T a[N], b;` in a kernel becomes references into the arena; None when it is no variable."""
        ts, end, depth = self.ts, i, 0
        while depth or ts[end][1] not in (';', '=', ')'):
            depth += (ts[end][1] == '[') - (ts[end][1] == ']')
            end += 1
        body = [x for x in ts[i + 1:end] if x[0] != 'attr']
        s, flat, depth = significant(body), [], 0
        for x in s:
            depth -= x[1] == ']'
            if depth == 0:
                flat.append(x)
            depth += x[1] == '['
        if ts[end][1] != ';' or any(x[1] in ('*', '&', '(') for x in flat):
            return None
        if self.kernel_depth < 0:
            raise Refused('threadgroup variable %s is declared outside a kernel function' % s[-1][1])
        parts = split_commas(body)
        first = significant(parts[0])
        b = len(first) - 1
        while first[b][1] == ']':
            while first[b][1] != '[':
                b -= 1
            b -= 1
        ctype = ' '.join(x[1] for x in first[:b])
        for q in [first[b:]] + [significant(p) for p in parts[1:]]:
            self.tg_vars += 1
            name, dims = q[0][1], ''.join(x[1] for x in q[1:])
            where = 'msl_glue::tgv<msl_tgT_%s>(%d)' % (name, self.tg_vars)
            self.out.append(('x', 'typedef %s msl_tgT_%s%s; ' % (ctype, name, dims)))
            if self.nvptx:  # offsets in the block's shared memory, one behind the other
                begin = 'msl_tgE_' + self.tg_last if self.tg_last else '0'
                self.out.append(('x', 'enum : unsigned { msl_tgB_%s = %s, msl_tgE_%s = (msl_tgB_%s + sizeof(msl_tgT_%s) + 15) & ~15 }; '
                                 % (name, begin, name, name, name)))
                where = '*(threadgroup msl_tgT_%s *)(msl_rt_shared() + msl_tgB_%s)' % (name, name)
                self.tg_last = name
            self.out.append(('x', 'threadgroup msl_tgT_%s &%s = %s;' % (name, name, where)))
        self.header = []
        return end + 1

    def glue(self):
        g = ['\n# 1 "<msl-glue>"\n#pragma clang diagnostic ignored "-Weverything"']
        for number, ctype in self.constants:
            g.append('__asm__(".pushsection .bss\\n.globl msl_fc_%d\\n.balign 16\\nmsl_fc_%d: .zero 16\\n.popsection\\n");'
                     % (number, number))
            g.append('extern "C" __constant unsigned msl_fcsize_%d = sizeof(%s);' % (number, ctype))
        names = []
        for host_name, expr in self.insts:
            base = re.sub(r'\s*<.*', '', expr, flags=re.S).strip()
            if base not in self.defs:
                raise Refused('no definition of kernel ' + base)
            if (host_name or base) in names:
                raise Refused('two kernels are named ' + (host_name or base))
            g += self.thunk(len(names), expr, self.defs[base])
            if self.nvptx:
                g.append(self.entry(len(names)))
            names.append(host_name or base)
        g.append('#ifdef MSL_CHECK\nextern "C" __constant unsigned msl_checked = 1;\n#endif')
        g.append('extern "C" __constant unsigned msl_nkernels = %d;' % len(names))
        g.append('extern "C" __constant unsigned msl_constants[] = {%s ~0u};' % ''.join('%d,' % c[0] for c in self.constants))
        g.append('extern "C" __constant char msl_names[] = "%s";' % '\\0'.join(names))
        return '\n'.join(g) + '\n'

    @staticmethod
    def entry(k):
        """The kernel that a GPU launches: buffer addresses as parameters, positions from its registers."""
        fill = ''.join('c.buf[%d] = b%d; ' % (i, i) for i in range(22))
        for field, reg in (('tgpig', 'ctaid'), ('tpitg', 'tid'), ('ntg', 'ntid'), ('tgpg', 'nctaid')):
            fill += ''.join('c.%s[%d] = __nvvm_read_ptx_sreg_%s_%s(); ' % (field, i, reg, 'xyz'[i]) for i in range(3))
        fill += ''.join('c.tpig[%d] = c.tgpig[%d] * c.ntg[%d] + c.tpitg[%d]; c.tpg[%d] = c.tgpg[%d] * c.ntg[%d]; '
                        % ((i,) * 7) for i in range(3))
        fill += 'c.tiitg = c.tpitg[0]; c.tiisg = c.tiitg % 32; c.sgitg = c.tiitg / 32; c.simdw = 32; c.nsg = c.ntg[0] / 32; '
        return ('extern "C" __kernel void msl_entry_%d(%s) { msl_ctx c; %smsl_thunk_%d(&c); }'
                % (k, ', '.join('ulong b%d' % i for i in range(22)), fill, k))

    @staticmethod
    def thunk(k, expr, params):
        args, info = [], []
        for n, p in enumerate(params):
            raw = 'p<%d>::raw' % n
            if 'grid' in p:
                field = '&c->' + p['grid'][1:] if p['grid'][0] == '&' else 'c->' + p['grid']
                args.append('msl_glue::gv<typename F::template %s>::get(%s)' % (raw, field))
                info.append('0,0,0,0,0,0,0')
                continue
            kind, index, array = (1, p['buf'], 'buf') if 'buf' in p else (2, p['tg'], 'tg')
            args.append('msl_glue::par<typename F::template %s>::get(c->%s[%d])' % (raw, array, index))
            of = 'msl_glue::par<typename msl_F_%d::template %s>::' % (k, raw)
            space = {'device': 1, 'constant': 2, 'threadgroup': 3}.get(p['as'])
            if not space:
                raise Refused('kernel parameter %s needs an address space' % p['name'])
            info.append('%d,%d,%d,%sref,%scst,%ssize,%sal' % (kind, index, space, of, of, of, of))
        return ['extern "C" void msl_thunk_%d(thread msl_ctx *c) { typedef msl_glue::fn<decltype(%s)> F; %s(%s); }'
                % (k, expr, expr, ',\n  '.join(args)),
                'namespace { typedef msl_glue::fn<decltype(%s)> msl_F_%d; }' % (expr, k),
                'extern "C" __constant unsigned long msl_info_%d[] = { %d, %s };' % (k, len(params), ',\n  '.join(info))]


def main():
    a = argparse.ArgumentParser()
    a.add_argument('src')
    a.add_argument('-o', required=True)
    a.add_argument('-D', action='append', default=[])
    a.add_argument('-I', action='append', default=[])
    a.add_argument('--clang', default='clang')
    a.add_argument('--nvptx', action='store_true', help='add entries for an NVIDIA GPU; threads of a threadgroup along x only')
    a = a.parse_args()
    try:
        unit = Unit(preprocess(a.src, a.D, a.I, a.clang), a.nvptx).run()
        result = '#include <msl_sim.h>\n' + unit.body + unit.glue()
    except Refused as e:
        print('%s: error: %s' % (a.src, e), file=sys.stderr)
        sys.exit(1)
    with open(a.o, 'w') as f:
        f.write(result)


if __name__ == '__main__':
    main()
