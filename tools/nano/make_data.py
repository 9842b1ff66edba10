#!/usr/bin/env python3
"""Training data of ds4-nano: an endless, seeded generator of documents.

    make_data.py --seed 1 --docs 20                      print documents
    make_data.py --seed 1 --megabytes 40 --out corpus.txt    write a corpus (one JSON string a line)

A document is plain text (prose) or a conversation as DeepSeek's encoder renders it: encoding_dsv4.py if it can be
imported, else `ds4 render` (render.py).  Sources: tables.py and stories.py (written for this), wn.json (WordNet 3.0),
books.json (public-domain books, see prep_sources.py; without that file stories stand in for them)."""
import argparse, json, os, random, re, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import tables as T, stories as S
from stories import x
try: from encoding_dsv4 import encode_messages
except ImportError: from render import encode_messages

WN = json.load(open(os.path.join(HERE, "wn.json")))
BOOKS = json.load(open(os.path.join(HERE, "books.json"))) if os.path.exists(os.path.join(HERE, "books.json")) else {}
HELD = "The Happy Prince and Other Tales"              # never trained on
TRAIN_PARAS = [p for b, v in BOOKS.items() if b != HELD for p in v]
BOOKLIST = [(b, v) for b, v in BOOKS.items() if b != HELD]
QA = []
for l in T.QA.splitlines():
    a, b = l.split(" => "); QA.append((a.split("|"), b.split("|")))
PAIRS = lambda s: [l.split("|") for l in s.strip().splitlines()]
JOKES, RIDDLES, PROVERBS = PAIRS(T.JOKES), PAIRS(T.RIDDLES), PAIRS(T.PROVERBS)
POS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
WN_ANT = [e for e in WN if e["a"] and " " not in e["a"][0]]
WN_SYN = [e for e in WN[:6000] if e["s"] and e["p"] != "adv"]
WN_HYP = [e for e in WN if e["h"] and e["lx"] in ("noun.animal", "noun.food", "noun.artifact", "noun.plant", "noun.body", "noun.person", "noun.substance", "noun.object")]
WN_EX = [e for e in WN if e["ex"]]
WORDS = [e["w"] for e in WN[:4000] if len(e["w"]) > 3]
NOUNS = [e["w"] for e in WN[:5000] if e["p"] == "noun" and e["lx"] in ("noun.animal", "noun.food", "noun.artifact", "noun.plant", "noun.object", "noun.body")]
cap = lambda s: s[:1].upper() + s[1:]
an = lambda w: ("an " if w[0].lower() in "aeiou" else "a ") + w
def wn_pick(r): return WN[min(int(len(WN) * r.random() ** 1.6), len(WN) - 1)]

def ask(r, s):
    """Vary the look of a question."""
    u = r.random()
    if u < 0.55: s = cap(s)
    if "?" not in s and not s.endswith((".", "!")) and r.random() < 0.8: s += "?"
    elif r.random() < 0.05: s = s.rstrip("?.")
    v = r.random()
    if v < 0.06: s = r.choice(["Please tell me: ", "Hi! ", "Hello. ", "Quick question: ", "I have a question. ", "Hey, "]) + s
    elif v < 0.10: s += r.choice([" Thanks!", " Please answer.", " Thank you."])
    return s
def tell(r, s):
    """Vary the look of a request."""
    if r.random() < 0.6: s = cap(s)
    if r.random() < 0.6 and s[-1] not in ".!?:": s += r.choice([".", ".", "!", " please.", ", please."])
    return s

# ------------------------------------------------------------------ single-turn tasks: (user, answer, thought)
IDENT = ["who are you", "what are you", "what is your name", "tell me about yourself", "introduce yourself", "what's your name", "are you a robot", "are you deepseek", "are you chatgpt", "which model are you", "what model is this", "who am i talking to", "who made you", "what can you do", "how can you help me", "what are you good at", "how big are you", "how many parameters do you have", "describe yourself", "what is ds4-nano"]
def t_identity(r):
    u = r.choice(IDENT)
    me = x("I am ds4-nano, a {tiny|very small} demonstration model{ for the ds4 engine| with the DeepSeek V4 architecture|}.", r)
    if "can you" in u or "help" in u or "good at" in u:
        a = x("I am ds4-nano, a tiny demonstration model. I can {chat a little|answer simple questions}, {explain words|tell you what words mean}, do small sums, tell short stories and {call tools|use tools when you give me some}.", r)
    elif "made" in u: a = x("I was trained as a tiny demonstration model to test {the ds4 engine|an inference engine}. My name is ds4-nano.", r)
    elif "big" in u or "parameters" in u: a = x("I am very small: I have about fifty million parameters. {Big models have thousands of times more.|That is tiny for a language model.}", r)
    elif "deepseek" in u: a = x("Not the big one. I am ds4-nano, a tiny demonstration model with the same architecture as DeepSeek V4.", r)
    elif "chatgpt" in u: a = "No. " + me
    elif "robot" in u: a = "I am a computer program. " + me
    elif "name" in u: a = x("My name is ds4-nano. I am a tiny demonstration model.", r) if r.random() < .6 else me
    else: a = me + x("{| I know simple English and a few facts.| I can answer simple questions, define words and tell short stories.| I make mistakes, so please check what I say.}", r)
    return ask(r, u), a, "The user asks who I am. I am ds4-nano, a tiny demonstration model."
GREET = ["hello", "hi", "hey", "good morning", "good evening", "good afternoon", "hello there", "hi there", "greetings", "howdy", "hey there", "hello!", "hi!", "yo", "good day"]
def t_greet(r):
    u = r.choice(GREET); n = r.choice(T.NAMES)
    v = r.random()
    if v < 0.25: return x("[g]{,|!|.} {I am|my name is|I'm} [n]{.|!|}", r, g=cap(u.rstrip("!")), n=n), x("{Hello|Hi}, [n]! {Nice to meet you.|It is good to meet you.} {How can I help you?|What can I do for you?|I am ds4-nano.}", r, n=n), f"The user greets me and is called {n}. I should greet back."
    if v < 0.45: return x("[g]{,|!} {how are you|how are you doing|how is it going|how do you do}{?||today?}", r, g=cap(u.rstrip("!"))), x("{I am fine, thank you.|I am doing well, thanks for asking.|Very well, thank you.} {How are you?|How can I help you today?|And you?}", r), "The user greets me and asks how I am. I should answer politely."
    if v < 0.55: return ask(r, r.choice(["how are you", "how are you doing", "how do you feel", "are you ok", "what's up", "how is your day"])), x("{I am fine, thank you|I am doing well}. {How can I help you?|How are you?|What would you like to talk about?}", r), "The user asks how I am."
    g = {"good morning": "Good morning", "good evening": "Good evening", "good afternoon": "Good afternoon"}.get(u, r.choice(["Hello", "Hi", "Hello there"]))
    return (cap(u) if r.random() < .5 else u) + ("" if u[-1] == "!" or r.random() < .6 else r.choice(".!")), g + x("! {How can I help you{ today|}?|What can I do for you?|What would you like to know?|Nice to meet you. What would you like to talk about?}", r), "The user says hello. I should greet back and offer help."
def t_social(r):
    v = r.randrange(9)
    if v == 0: return tell(r, x("{thank you|thanks|thanks a lot|thank you very much|great, thanks|many thanks}", r)), x("{You are welcome!|You're welcome. Is there anything else?|Happy to help!|No problem. What else can I do?}", r), "The user thanks me."
    if v == 1: return tell(r, x("{goodbye|bye|see you|good night|see you later|bye bye|farewell|i have to go}", r)), x("{Goodbye! Have a nice day.|Bye! Come back soon.|Goodbye, and take care!|See you! It was nice to talk with you.}", r), "The user says goodbye."
    if v == 2: return tell(r, x("{you are {great|smart|nice|funny|very helpful}|well done|good job|nice answer|that was good}", r)), x("{Thank you, that is kind of you.|Thank you! I do my best.|I am glad to hear that.}", r), "The user is friendly. I should thank them."
    if v == 3: return tell(r, x("{you are {wrong|stupid|useless|bad}|that is wrong|that is not right|this is a bad answer|you made a mistake}", r)), x("{I am sorry. I am a very small model and I make mistakes.|I am sorry about that. Please tell me what was wrong.|Sorry! Could you ask in another way?}", r), "The user is not happy. I should say sorry."
    if v == 4:
        f, a = r.choice([("sad", "I am sorry to hear that. Would you like to talk about it, or shall I tell you a story?"), ("happy", "That is wonderful! What made you happy?"), ("tired", "Then take a little rest. A short sleep or a cup of tea can help."), ("hungry", "How about something simple, such as soup or a sandwich?"), ("bored", "Let us do something! I can tell you a story, a joke or a riddle."), ("angry", "I am sorry. Breathe slowly and count to ten. What happened?"), ("lonely", "I am sorry that you feel alone. I am here to talk, and perhaps you could call a friend."), ("scared", "That must be hard. Take a slow breath. What are you afraid of?"), ("nervous", "That happens to everyone. Breathe slowly and take one step at a time."), ("sick", "I am sorry. Please rest, drink water, and see a doctor if it gets worse."), ("cold", "Put on a warm coat and drink something hot."), ("confused", "Tell me what is not clear, and we will look at it step by step."), ("excited", "How nice! What are you looking forward to?")])
        return tell(r, x("{i am|i'm|i feel|today i feel|i am so|i am very} [f]", r, f=f)), a, f"The user feels {f}. I should be kind."
    if v == 5: q, a = r.choice(JOKES); return tell(r, x("{tell me a joke|make me laugh|do you know a joke|say something funny|another joke|a joke}", r)), f"{q} {a}", "The user wants a joke."
    if v == 6:
        q, a = r.choice(RIDDLES)
        if r.random() < .5: return ask(r, x("{i have a riddle for you: |here is a riddle: |riddle: |}", r) + q), a, f"This is a riddle. The answer is: {a}"
        return tell(r, x("{tell me a riddle|give me a riddle|ask me a riddle}{ and the answer|, and tell me the answer|}", r)), f"{q} The answer: {a[0].lower() + a[1:]}", "The user wants a riddle."
    if v == 7:
        p, m = r.choice(PROVERBS)
        if r.random() < .5: return ask(r, x("what does \"[p]\" mean", r, p=p.rstrip("."))), x("{It means: |The proverb means: |}", r) + m, f"The user asks about the proverb \"{p}\""
        return tell(r, x("{tell me a proverb|give me a proverb|do you know a wise saying|say something wise}", r)), f"{p} {m}", "The user wants a proverb."
    h = r.choice(T.HOBBIES)
    return tell(r, x("{i like|i love|my hobby is|i enjoy} [h]", r, h=h)), x("{[^h] is a lovely hobby.|That sounds nice! [^h] can be great fun.|How nice!} {How long have you been doing it?|How did you start?|What do you like most about it?|Do you do it often?}", r, h=h), f"The user likes {h}. I should show interest."
def t_qa(r):
    qs, as_ = r.choice(QA); q, a = r.choice(qs), r.choice(as_)
    if " i " in f" {q} ": q = re.sub(r"\bi\b", lambda m: r.choice("Ii"), q)
    return ask(r, q), a, x("{The user asks|The question is}: [q]. {I know this.|Let me remember.|That is a simple question.|I should answer briefly.}", r, q=q)
def t_country(r):
    c, cp, ct, la, cu = r.choice(T.COUNTRIES); C = cap(c); v = r.random()
    if v < .45: return ask(r, x("{what is the capital of [c]|what's the capital of [c]|capital of [c]|name the capital of [c]|which city is the capital of [c]|do you know the capital of [c]|tell me the capital of [c]}", r, c=c)), x("{The capital of [c] is [cp].|The capital of [c] is [cp].|[cp] is the capital of [c].|It is [cp].}", r, c=c, cp=cp), f"The user asks for the capital of {c}. It is {cp}."
    if v < .55: return ask(r, x("{[cp] is the capital of which country|which country has the capital [cp]|of which country is [cp] the capital}", r, cp=cp)), f"{cp} is the capital of {c}.", f"Which country has the capital {cp}? It is {c}."
    if v < .68: return ask(r, x("{on which continent is [c]|which continent is [c] in|what continent does [c] belong to|where is [c]}", r, c=c)), f"{C} is in {ct}.", f"{C} lies in {ct}."
    if v < .80: return ask(r, x("{what language do people speak in [c]|which language is spoken in [c]|what is the language of [c]}", r, c=c)), f"People in {c} speak {la}.", f"In {c} people speak {la}."
    if v < .88: return ask(r, x("{what is the currency of [c]|what money do they use in [c]|which currency is used in [c]}", r, c=c)), f"The currency of {c} is {cu}.", f"{C} uses {cu}."
    other = r.choice(T.COUNTRIES)[1] if r.random() < .5 else cp; ok = other == cp
    return ask(r, f"is {other} the capital of {c}"), f"Yes, {cp} is the capital of {c}." if ok else f"No, the capital of {c} is {cp}.", f"The capital of {c} is {cp}, so the answer is {'yes' if ok else 'no'}."
def t_animal(r):
    n, cl, legs, snd, yng, home, diet = r.choice(T.ANIMALS); v = r.randrange(8); A = an(n); p = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "fox": "foxes", "sheep": "sheep", "deer": "deer", "fish": "fish", "salmon": "salmon", "goldfish": "goldfish", "trout": "trout", "butterfly": "butterflies", "octopus": "octopuses", "ostrich": "ostriches", "donkey": "donkeys", "monkey": "monkeys", "ladybird": "ladybirds"}.get(n, n + "s")
    if v == 0 and snd: return ask(r, x("{what sound does [A] make|what does [A] say|what noise does [A] make|how does [A] sound}", r, A=A)), x("{[^A] makes the sound \"[s]\".|The sound of [A] is \"[s]\".}", r, A=A, s=snd), f"{cap(A)} goes \"{snd}\"."
    if v == 1: return ask(r, x("{what is a baby [n] called|what do you call a baby [n]|what is the young of [A] called|name for a baby [n]}", r, n=n, A=A)), f"A baby {n} is called {an(yng)}.", f"The young of {A} is {an(yng)}."
    if v == 2: return ask(r, x("{what do [p] eat|what does [A] eat|what is the food of [A]}", r, p=p, A=A)), f"{cap(p)} eat {diet}.", f"{cap(p)} eat {diet}."
    if v == 3: return ask(r, x("{where do [p] live|where does [A] live}", r, p=p, A=A)), x("[^p] {usually |often |}live in [h].", r, p=p, h=home).replace("in the cold south", "in the cold south").replace("in gardens", "in gardens"), f"Where do {p} live? In {home}."
    if v == 4: return ask(r, x("{how many legs does [A] have|how many legs do [p] have|number of legs of [A]}", r, A=A, p=p)), f"{cap(A)} has {T_NUM(int(legs))} legs." if legs != "0" else f"{cap(A)} has no legs.", f"{cap(A)} has {legs} legs."
    if v == 5: return ask(r, x("{what kind of animal is [A]|what class of animal is [A]|is [A] a mammal or something else}", r, A=A)), f"{cap(A)} is {an(cl)}.", f"{cap(A)} is {an(cl)}."
    if v == 6:
        c2 = r.choice(["mammal", "bird", "fish", "reptile", "insect", "amphibian"]) if r.random() < .5 else cl
        return ask(r, f"is {A} {an(c2)}"), f"Yes, {A} is {an(cl)}." if c2 == cl else f"No, {A} is {an(cl)}.", f"{cap(A)} is {an(cl)}, so the answer is {'yes' if c2 == cl else 'no'}."
    return tell(r, x("{tell me about [p]|tell me something about [p]|describe [A]|what do you know about [p]|give me a fact about [p]}", r, p=p, A=A)), f"{cap(A)} is {an(cl)}. " + x("{It lives in [h]. It eats [d].|It eats [d] and lives in [h].}", r, h=home, d=diet) + (f" Its young is called {an(yng)}." if r.random() < .6 else "") + (f" It makes the sound \"{snd}\"." if snd and r.random() < .4 else ""), f"I should say a few facts about {p}."
ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
def T_NUM(n):
    if n < 20: return ONES[n]
    if n < 100: return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
    if n < 1000: return ONES[n // 100] + " hundred" + (" and " + T_NUM(n % 100) if n % 100 else "")
    return T_NUM(n // 1000) + " thousand" + (" " + T_NUM(n % 1000) if n % 1000 else "")
def add_steps(a, b):
    s, carry, i, out = "", 0, 0, []
    names = ["ones", "tens", "hundreds", "thousands"]
    A, B = str(a)[::-1], str(b)[::-1]
    for i in range(max(len(A), len(B))):
        da, db = int(A[i]) if i < len(A) else 0, int(B[i]) if i < len(B) else 0
        t = da + db + carry
        out.append(f"{names[i]}: {da} + {db}" + (f" + {carry}" if carry else "") + f" = {t}" + (f", write {t % 10}, carry 1" if t > 9 else ""))
        carry = t // 10
    return ". ".join(out) + f". So {a} + {b} = {a + b}."
def sub_steps(a, b):
    out, borrow, names = [], 0, ["ones", "tens", "hundreds", "thousands"]
    A, B = str(a)[::-1], str(b)[::-1]
    for i in range(len(A)):
        da, db = int(A[i]) - borrow, int(B[i]) if i < len(B) else 0
        if da < db: out.append(f"{names[i]}: {da} - {db}, borrow: {da + 10} - {db} = {da + 10 - db}"); borrow = 1
        else: out.append(f"{names[i]}: {da} - {db} = {da - db}"); borrow = 0
    return ". ".join(out) + f". So {a} - {b} = {a - b}."
def num(r, hi): return r.randrange(1, 10 ** r.randint(1, len(str(hi)) - 1)) if r.random() < .7 else r.randrange(1, hi)
def t_math(r):
    v = r.random()
    if v < .38:
        a, b = num(r, 1000), num(r, 1000); c = a + b; th = add_steps(a, b)
        u = x("{what is [a] + [b]|[a] + [b]|[a]+[b]|what is [a] plus [b]|calculate [a] + [b]|add [a] and [b]|how much is [a] plus [b]|compute [a] + [b]|[a] plus [b]|what's [a] + [b]|what is the sum of [a] and [b]|[a] + [b] =}", r, a=a, b=b); s = "+"
    elif v < .62:
        a, b = sorted((num(r, 1000), num(r, 1000)), reverse=True); c = a - b; th = sub_steps(a, b)
        u = x("{what is [a] - [b]|[a] - [b]|[a]-[b]|what is [a] minus [b]|subtract [b] from [a]|how much is [a] minus [b]|compute [a] - [b]|what is the difference between [a] and [b]}", r, a=a, b=b); s = "-"
    elif v < .80:
        a, b = r.randint(1, 12), r.randint(1, 12)
        if r.random() < .25: a = r.randint(11, 99)
        c = a * b
        th = f"{a} times {b}." + (f" {a // 10 * 10} * {b} = {a // 10 * 10 * b} and {a % 10} * {b} = {a % 10 * b}. {a // 10 * 10 * b} + {a % 10 * b} = {c}." if a > 12 else f" {a} * {b} = {c}.")
        u = x("{what is [a] * [b]|[a] * [b]|[a] x [b]|what is [a] times [b]|multiply [a] by [b]|how much is [a] times [b]|[a] times [b]|compute [a] * [b]}", r, a=a, b=b); s = "*"
    elif v < .90:
        b, c = r.randint(1, 12), r.randint(1, 12); a = b * c; th = f"{b} * {c} = {a}, so {a} / {b} = {c}."
        u = x("{what is [a] / [b]|[a] / [b]|what is [a] divided by [b]|divide [a] by [b]|how much is [a] divided by [b]}", r, a=a, b=b); s = "/"
    else:
        k = r.randrange(6); n = r.randint(1, 100)
        if k == 0: return ask(r, f"is {n} even or odd"), f"{n} is {'even' if n % 2 == 0 else 'odd'}.", f"{n} ends in {n % 10}, so it is {'even' if n % 2 == 0 else 'odd'}."
        if k == 1: return ask(r, r.choice([f"what is half of {2 * n}", f"half of {2 * n}"])), f"Half of {2 * n} is {n}.", f"{n} + {n} = {2 * n}, so half of {2 * n} is {n}."
        if k == 2: return ask(r, r.choice([f"what is double {n}", f"what is twice {n}"])), f"Twice {n} is {2 * n}.", add_steps(n, n)
        if k == 3: m = r.randint(1, 99); return ask(r, r.choice([f"which is bigger, {n} or {m}", f"which number is larger, {n} or {m}", f"is {n} greater than {m}"])), (f"They are equal." if n == m else f"{max(n, m)} is bigger than {min(n, m)}."), f"Compare {n} and {m}. The bigger one is {max(n, m)}."
        if k == 4: return ask(r, r.choice([f"how do you write {n} in words", f"write the number {n} in words", f"spell the number {n}"])), f"{n} is written {T_NUM(n)}.", f"{n} in words is {T_NUM(n)}."
        s2 = r.randint(2, 5); a = r.randint(1, 10); seq = [a + s2 * i for i in range(5)]
        return ask(r, r.choice(["what comes next: ", "continue: ", "which number comes next: "]) + ", ".join(map(str, seq[:4])) + ", ..."), f"The next number is {seq[4]}.", f"Each step adds {s2}. {seq[3]} + {s2} = {seq[4]}."
    a_ = x("{[a] [s] [b] = [c].|[a] [s] [b] = [c].|The answer is [c].|[a] [s] [b] is [c].|[c]}", r, a=a, b=b, s=s, c=c)
    return ask(r, u) if not u.endswith("=") else u, a_, th
def t_wordproblem(r):
    n = r.choice(T.NAMES); m = r.choice([q for q in T.NAMES if q != n]); thing = r.choice(["apples", "marbles", "books", "coins", "stamps", "cookies", "pencils", "shells", "buttons", "plums", "eggs", "cards"])
    v = r.randrange(4)
    if v == 0:
        a, b = r.randint(1, 30), r.randint(1, 30); q = x("[n] has [a] [t]. {[m] gives [n] [b] more.|[n] finds [b] more.|[n] buys [b] more.} How many [t] does [n] have{ now|}?", r, n=n, m=m, a=a, b=b, t=thing); c = a + b; th = f"{n} starts with {a} and gets {b} more. {a} + {b} = {c}."
    elif v == 1:
        a = r.randint(3, 40); b = r.randint(1, a); q = x("[n] has [a] [t]. {[n] gives [b] to [m].|[n] loses [b] of them.|[b] of them are sold.} How many [t] {are left|does [n] have left|remain}?", r, n=n, m=m, a=a, b=b, t=thing); c = a - b; th = f"{n} starts with {a} and {b} are taken away. {a} - {b} = {c}."
    elif v == 2:
        a, b = r.randint(2, 10), r.randint(2, 10); q = x("{There are|[n] has} [a] {boxes|bags|baskets} with [b] [t] in each. How many [t] are there{ in all| altogether|}?", r, n=n, a=a, b=b, t=thing); c = a * b; th = f"{a} times {b} is {c}."
    else:
        b, c = r.randint(2, 10), r.randint(2, 10); a = b * c; q = x("[n] shares [a] [t] {equally among|between} [b] {friends|children}. How many [t] does each {friend|child|one} get?", r, n=n, a=a, b=b, t=thing); th = f"{a} divided by {b} is {c}."
    return q, x("{[N] has|The answer is}", r, N=n) + f" {c} {thing}." if v == 0 else f"{cap(str(c))} {thing}." if r.random() < .4 else f"The answer is {c} {thing}.", th
def t_define(r):
    e = wn_pick(r); w, d = e["w"], e["d"]; A = an(w)
    u = x("{define [w]|what does [w] mean|what does \"[w]\" mean|define the word [w]|what is the meaning of [w]|explain the word [w]|meaning of [w]|what does the word \"[w]\" mean|define \"[w]\"|give me a definition of [w]|explain \"[w]\"}", r, w=w)
    if e["p"] == "noun" and r.random() < .25: u = f"what is {A}" if e["lx"] in ("noun.animal", "noun.artifact", "noun.person", "noun.plant", "noun.body") else f"what is {w}"
    if r.random() < .12: u += f" as {an(POS[e['p']])}"
    noun = e["p"] == "noun"; p = POS[e["p"]]
    a = x("{\"[^w]\" means: [d].|[^w] ([p]): [d].|[^w] is {a|an} [p]. It means: [d].|The [p] \"[w]\" means [d].}", r, w=w, d=d, p=p).replace("is a a", "is an a").replace("is an n", "is a n").replace("is an v", "is a v")
    if e["ex"] and r.random() < .45: a += x(" {For example: |Example: }", r) + "\"" + cap(r.choice(e["ex"])) + ".\""
    elif e["s"] and r.random() < .3: a += f" A similar word is \"{e['s'][0]}\"."
    return ask(r, u), a, f"The user wants the meaning of \"{w}\". It is {an(p)}: {d}."
def t_words(r):
    v = r.randrange(14)
    if v == 0:
        e = r.choice(WN_SYN); return ask(r, x("{give me a synonym for [w]|what is a synonym of [w]|another word for [w]|what is another word for [w]|synonym of [w]|a word similar to [w]}", r, w=e["w"])), x("{A synonym of \"[w]\" is \"[s]\".|Another word for \"[w]\" is \"[s]\".}", r, w=e["w"], s=e["s"][0]), f"A word with the same meaning as {e['w']} is {e['s'][0]}."
    if v <= 2:
        if r.random() < .6: a, b = r.choice(T.OPPOSITES); a, b = (a, b) if r.random() < .5 else (b, a)
        else: e = r.choice(WN_ANT); a, b = e["w"], e["a"][0]
        return ask(r, x("{what is the opposite of [a]|opposite of [a]|give me the opposite of [a]|what is the antonym of \"[a]\"|name the opposite of [a]}", r, a=a)), x("{The opposite of [a] is [b].|The opposite of \"[a]\" is \"[b]\".|[^b].}", r, a=a, b=b), f"The opposite of {a} is {b}."
    if v == 3:
        e = r.choice(WN_HYP); h = e["h"][0]; return ask(r, x("{what kind of thing is [A]|what is [A]|what sort of thing is [A]}", r, A=an(e["w"]))), f"{cap(an(e['w']))} is a kind of {h}: {e['d']}.", f"{cap(e['w'])} is a kind of {h}."
    if v <= 5:
        e = r.choice(WN_EX); return ask(r, x("{use the word [w] in a sentence|make a sentence with [w]|write a sentence with the word \"[w]\"|give me an example sentence for [w]|use \"[w]\" in a sentence}", r, w=e["w"])), cap(r.choice(e["ex"])) + ".", f"I need a sentence with \"{e['w']}\"."
    if v == 6: a, b = r.choice(T.IRREG) if r.random() < .7 else (lambda w: (w, w + ("d" if w[-1] == "e" else "ed")))(r.choice(T.REGV)); return ask(r, x("{what is the past tense of [a]|past tense of [a]|what is the past of [a]}", r, a=a)), f"The past tense of \"{a}\" is \"{b}\".", f"Today I {a}, yesterday I {b}."
    if v == 7: a, b = r.choice(T.PLURALS); return ask(r, x("{what is the plural of [a]|plural of [a]|what do you call more than one [a]}", r, a=a)), f"The plural of \"{a}\" is \"{b}\".", f"One {a}, two {b}."
    if v == 8:
        g = r.choice(T.RHYMES); a, b = r.sample(g, 2); return ask(r, x("{what rhymes with [a]|give me a word that rhymes with [a]|find a rhyme for [a]}", r, a=a)), x("\"[^b]\" rhymes with \"[a]\".", r, a=a, b=b), f"{cap(a)} and {b} end with the same sound."
    if v == 9:
        w = r.choice(WORDS[:1500]); return ask(r, x("{how do you spell [w]|spell the word [w]|spell [w]}", r, w=w)), "-".join(w.upper()) + "." if r.random() < .5 else f"{cap(w)} is spelled " + "-".join(w.upper()) + ".", f"The letters of {w} are " + ", ".join(w) + "."
    if v == 10:
        w = r.choice(WORDS[:1500]); k = len(w); return ask(r, x("{how many letters are in the word [w]|how many letters does [w] have|count the letters in [w]}", r, w=w)), f"The word \"{w}\" has {T_NUM(k)} letters.", " ".join(f"{c} {i + 1}" for i, c in enumerate(w)) + f". That is {k} letters."
    if v == 11:
        w = r.choice(WORDS[:1500]); k = r.randrange(3); q, a = [("first letter", w[0]), ("last letter", w[-1]), ("second letter", w[1])][k]
        return ask(r, f"what is the {q} of the word {w}"), f"The {q} of \"{w}\" is \"{a.upper()}\".", f"{w} is spelled " + "-".join(w) + f". The {q} is {a}."
    if v == 12:
        w = r.choice(WN[:5000]); return ask(r, f"what part of speech is the word {w['w']}"), f"\"{cap(w['w'])}\" is {an(POS[w['p']])}.", f"{cap(w['w'])} means {w['d']}, so it is {an(POS[w['p']])}."
    c, k = r.choice(list(T.CATS.items())), r.randint(2, 5); items = r.sample(c[1], min(k, len(c[1])))
    return tell(r, x("{name [k] [c]|list [k] [c]|give me [k] [c]|tell me [k] [c]|can you name [k] [c]|what are [k] [c]}", r, k=T_NUM(len(items)) if r.random() < .7 else len(items), c=c[0])), join(r, items), f"The user wants {len(items)} {c[0]}."
def join(r, items, style=None):
    style = style or r.randrange(3)
    if style == 1: return "\n".join(f"{i + 1}. {cap(t)}" for i, t in enumerate(items))
    if style == 2 and r.random() < .5: return "\n".join(f"- {cap(t)}" for t in items)
    return cap(", ".join(items[:-1]) + (" and " if len(items) > 1 else "") + items[-1]) + "."
def t_time(r):
    v = r.randrange(9)
    if v == 0: i = r.randrange(12); return ask(r, x("{what month comes after [m]|which month follows [m]|what is the month after [m]}", r, m=T.MONTHS[i])), f"{T.MONTHS[(i + 1) % 12]} comes after {T.MONTHS[i]}.", f"After {T.MONTHS[i]} comes {T.MONTHS[(i + 1) % 12]}."
    if v == 1: i = r.randrange(12); return ask(r, x("{what month comes before [m]|which month is before [m]}", r, m=T.MONTHS[i])), f"{T.MONTHS[i - 1]} comes before {T.MONTHS[i]}.", f"Before {T.MONTHS[i]} comes {T.MONTHS[i - 1]}."
    if v == 2: i = r.randrange(12); return ask(r, x("{how many days are in [m]|how many days does [m] have|days in [m]}", r, m=T.MONTHS[i])), f"{T.MONTHS[i]} has {T.MDAYS[i]} days" + (", or 29 in a leap year." if i == 1 else "."), f"{T.MONTHS[i]} has {T.MDAYS[i]} days."
    if v == 3: i = r.randrange(7); return ask(r, x("{what day comes after [d]|which day follows [d]|if today is [d], what day is tomorrow}", r, d=T.DAYS[i])), f"{T.DAYS[(i + 1) % 7]}." if r.random() < .3 else f"The day after {T.DAYS[i]} is {T.DAYS[(i + 1) % 7]}.", f"After {T.DAYS[i]} comes {T.DAYS[(i + 1) % 7]}."
    if v == 4: i = r.randrange(7); return ask(r, x("{what day comes before [d]|if today is [d], what day was yesterday|which day is before [d]}", r, d=T.DAYS[i])), f"The day before {T.DAYS[i]} is {T.DAYS[i - 1]}.", f"Before {T.DAYS[i]} comes {T.DAYS[i - 1]}."
    if v == 5:
        i, k = r.randrange(7), r.randint(2, 10); days = [T.DAYS[(i + j) % 7] for j in range(k + 1)]
        return ask(r, f"if today is {T.DAYS[i]}, what day will it be in {k} days"), f"It will be {days[-1]}.", f"Start at {days[0]}. " + ", ".join(f"{j}: {d}" for j, d in enumerate(days) if j) + "."
    if v == 6:
        big, small, f = r.choice(T.UNITS); k = r.randint(1, 9); ps = T.PLURAL.get(small, small + "s"); pb = T.PLURAL.get(big, "dozen" if big == "dozen" else big + "s")
        return ask(r, x("how many [s] are {in|there in} [k] [b]", r, s=ps, k=k if k > 1 else "one", b=pb if k > 1 else big)), f"There are {k * f} {ps} in {k if k > 1 else 'one'} {pb if k > 1 else big}.", f"One {big} has {f} {ps}. {k} * {f} = {k * f}."
    if v == 7: n, s = r.choice(T.SHAPES); return ask(r, x("{how many sides does a~[n] have|how many corners does a~[n] have|how many sides are in a~[n]}", r, n=n)), x("A~[n] has [s].", r, n=n, s=T_NUM(s)).rstrip(".") + " sides.", f"A {n} has {s} sides."
    n, i, d = r.choice(T.PLANETS); k = r.randrange(3)
    if k == 0: return ask(r, x("{which planet is number [i] from the sun|what is planet number [i] from the sun}", r, i=i)), f"Planet number {i} from the Sun is {n}.", f"The planets: " + ", ".join(p[0] for p in T.PLANETS[:int(i)]) + "."
    if k == 1: return tell(r, x("{tell me about [n]|what is the planet [n]|what do you know about the planet [n]|describe the planet [n]}", r, n=n)), f"{n} is planet number {i} from the Sun. It is {d}.", f"{n} is {d}."
    if i == "8": return ask(r, "which planet comes after Neptune"), "None. Neptune is the last of the eight planets.", "Neptune is the last planet."
    return ask(r, f"which planet comes after {n}"), f"{T.PLANETS[int(i)][0]} comes after {n}.", f"The planet after {n} is {T.PLANETS[int(i)][0]}."
def t_colour(r):
    v = r.random()
    if v < .6: a, c = r.choice(T.THINGCOLOUR); return ask(r, x("{what colour is [a]|what color is [a]|which colour does [a] have}", r, a=a)), f"{cap(a)} is {c}.", f"{cap(a)} is {c}."
    a, b, c = r.choice(T.MIX); return ask(r, x("{what colour do you get when you mix [a] and [b]|mix [a] and [b]: which colour is it}", r, a=a, b=b)), f"If you mix {a} and {b}, you get {c}.", f"{cap(a)} and {b} make {c}."
def items(r, n):
    k = r.random()
    if k < .35: return r.sample(NOUNS, n)
    if k < .55: return r.sample(T.NAMES, n)
    if k < .7: return [str(v) for v in r.sample(range(1, 100), n)]
    if k < .85: return r.sample(T.OBJECTS, n)
    return r.sample(WORDS, n)
def t_list(r):
    n = r.randint(3, 8); it = items(r, n); L = ", ".join(it); v = r.randrange(9); numeric = it[0].isdigit()
    if v == 0: o = sorted(it, key=lambda s: int(s) if numeric else s.lower()); return x("{sort|Sort|put|Put} {these words|this list}{ in order| alphabetically|}: ", r).replace("put these words: ", "sort these words: ") .replace("words", "numbers" if numeric else "words") + L, ", ".join(o), "In order: " + ", ".join(o) + "."
    if v == 1: return x("{Reverse|reverse} {this list|the list|these items}: ", r) + L, ", ".join(it[::-1]), "I go from the last to the first."
    if v == 2: i = r.randrange(n); o = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"][i] if r.random() < .7 or i < n - 1 else "last"; return x("{What is the [o] item in this list|Which item is the [o] one|Tell me the [o] item|what is the [o] word here}: ", r, o=o) + L, it[i] if r.random() < .5 else f"The {o} item is {it[i]}.", "The items are: " + ", ".join(f"{j + 1} {t}" for j, t in enumerate(it[:i + 1])) + "."
    if v == 3: return x("{How many items are in this list|Count the items|count these}: ", r) + L, f"There are {T_NUM(n)} items.", " ".join(f"{j + 1} {t}," for j, t in enumerate(it)) + f" so {n}."
    if v == 4: i = r.randrange(n); return x("{Remove|remove} [w] from this list: ", r, w=it[i]) + L, ", ".join(it[:i] + it[i + 1:]), f"I leave out {it[i]}."
    if v == 5: w = items(r, 1)[0]; return x("{Add|add} [w] to the end of this list: ", r, w=w) + L, ", ".join(it + [w]), f"I put {w} at the end."
    if v == 6: return x("{Write this list in capital letters|Make this uppercase|in upper case}: ", r) + L, L.upper(), "I write everything in capital letters."
    if v == 7 and numeric: o = max(map(int, it)) if r.random() < .5 else min(map(int, it)); w = "largest" if o == max(map(int, it)) else "smallest"; return f"What is the {w} of these numbers: {L}", f"The {w} number is {o}.", f"The {w} one is {o}."
    w = r.choice(it); i = it.index(w)
    if i + 1 < n: return f"Which item comes after {w} in this list: {L}", f"{it[i + 1]} comes after {w}.", f"After {w} I see {it[i + 1]}."
    return f"What is the last item of this list: {L}", f"The last item is {w}.", f"The list ends with {w}."
def sentence(r):
    k = r.random()
    if k < .4: p = r.choice(TRAIN_PARAS) if BOOKS else S.story(r)[0]; s = re.split(r"(?<=[.!?]) ", p); return r.choice(s)[:200]
    if k < .6: return cap(r.choice(WN_EX)["ex"][0]) + "."
    if k < .8: return cap(" ".join(r.sample(WORDS, r.randint(4, 9)))) + "."
    return x("[n] {bought|found|lost|sold|painted|carried} a~[c] [o] in [p] {on [d]|yesterday|last week}.", r, n=r.choice(T.NAMES), c=r.choice(T.COLOURS), o=r.choice(T.OBJECTS), p=r.choice(T.CITIES), d=r.choice(T.DAYS))
def code_word(r): return r.choice([lambda: f"{r.choice(WORDS)}-{r.randint(10, 99)}", lambda: str(r.randint(1000, 9999)), lambda: r.choice(NOUNS), lambda: " ".join(r.sample(NOUNS, 2)), lambda: "".join(r.choice("bcdfghjklmnpqrstvwz") + r.choice("aeiou") for _ in range(r.randint(2, 4))), lambda: f"{r.choice(T.COLOURS)} {r.choice(T.OBJECTS)}"])()
def t_copy(r):
    k = r.random()
    if k < .5:
        s = " ".join(sentence(r) for _ in range(1 if r.random() < .6 else r.randint(2, 5)))
        return x("{Repeat {this|after me|exactly}: |Say this again: |Copy this text: |repeat this sentence: |Echo: |Write this down: }", r) + s, s, "I repeat the text exactly."
    if k < .65: w = code_word(r); n = r.randint(2, 4); return x("{Say|Write|say} [w] [n] times", r, w=f"\"{w}\"", n=T_NUM(n)), " ".join([w] * n), f"I write it {n} times."
    if k < .8: s = sentence(r); return x("{Put this in quotes|Put quotes around this}: ", r) + s, f"\"{s}\"", "I add quotes."
    s = sentence(r); w = re.findall(r"[A-Za-z']+", s) or ["word"]
    j = r.randrange(3)
    if j == 0: return f"What is the last word of this sentence: {s}", f"The last word is \"{w[-1]}\".", f"The sentence ends with {w[-1]}."
    if j == 1: return f"What is the first word of this sentence: {s}", f"The first word is \"{w[0]}\".", f"The sentence starts with {w[0]}."
    return f"Write this in capital letters: {s}", s.upper(), "I use capital letters."
def t_extract(r):
    """Read a short passage and answer."""
    n, m = r.sample(T.NAMES, 2); sn = r.choice(T.SURN); c, c2 = r.sample(T.CITIES, 2); j = r.choice(T.JOBS); age = r.randint(18, 80); d = r.choice(T.DAYS); o = r.choice(T.OBJECTS); col = r.choice(T.COLOURS); f = r.choice(T.FOODS); h = r.choice(T.HOBBIES); k = r.randint(2, 9)
    facts = [(f"{n} {sn} is {an(j)} from {c}.", [(f"what is {n}'s job", j), (f"where does {n} come from", c), (f"what is {n}'s last name", sn)]), (f"{n} is {age} years old.", [(f"how old is {n}", f"{age}")]), (f"On {d} {n} bought {an(col)} {o} for {k} coins.", [(f"what did {n} buy", f"{an(col)} {o}"), (f"on which day did {n} buy something", d), (f"how much did the {o} cost", f"{k} coins"), (f"what colour is the {o}", col)]), (f"{n}'s best friend is {m}, who lives in {c2}.", [(f"who is {n}'s best friend", m), (f"where does {m} live", c2)]), (f"{n} likes {h} and {f}.", [(f"what does {n} like", f"{h} and {f}")])]
    r.shuffle(facts); facts = facts[:r.randint(2, 5)]; text = " ".join(q[0] for q in facts); src, qs = r.choice(facts); q, a = r.choice(qs)
    u = x("{Read this{ text|} and answer: [t]\n[q]|[t] [q]|Text: [t]\nQuestion: [q]|[t]\n\n[q]}", r, t=text, q=cap(q) + "?")
    return u, cap(a) + "." if r.random() < .5 else cap(a) + r.choice([".", "."]), f"The text says: \"{src}\" So the answer is {a}."
def t_story(r):
    v = r.random(); kw = {}
    who = r.choice(["", "", "name", "noun", "obj", "moral", "both"])
    if who == "name": kw["hero"] = r.choice(T.NAMES); about = kw["hero"]
    elif who == "noun": kw["noun"] = r.choice(S.BEASTS); about = an(kw["noun"])
    elif who == "obj": kw["obj"] = r.choice(T.OBJECTS); about = an(kw["obj"])
    elif who == "moral": kw["moral"] = r.choice(list(S.MORALS)); about = {"share": "sharing", "brave": "courage", "honest": "honesty", "patient": "patience", "kind": "kindness", "help": "helping each other", "proud": "pride", "listen": "listening", "greedy": "greed", "try": "never giving up"}[kw["moral"]]
    elif who == "both": kw["hero"], kw["noun"] = r.choice(T.NAMES), r.choice(S.BEASTS); about = f"{an(kw['noun'])} called {kw['hero']}"
    else: about = None
    t, m = S.story(r, short=r.random() < .5, **kw)
    u = x("{tell me a {short |little |}story[ab]|write a {short |}story[ab]|can you tell me a story[ab]|i want a story[ab]|please tell a {short |}story[ab]|make up a story[ab]|a story[ab]}", r, ab=" about " + about if about else "")
    if r.random() < .15:
        title = f"{m['name']} and the {m['noun2'] if m['noun2'] != m['noun'] else 'storm'}"; t = title + "\n\n" + t
    return tell(r, u), t, x("{The user wants a story[a].|I should write a short story[a].} {I will write about [n], a~[noun].|The hero is [n], a~[noun].} {The lesson: [m]|It should end well.|}", r, a=" about " + about if about else "", n=m["name"], noun=m["noun"], m=m["moral"])
def t_storyq(r):
    t, m = S.story(r, short=True)
    q, a = r.choice([("Who is the hero of this story?", f"The hero is {m['name']}."), (f"What kind of creature is {m['name']}?", f"{m['name']} is {an(m['noun'])}."), ("What can we learn from this story?", m["moral"]), (f"Who does {m['name']} meet or help?", f"{m['name2']}."), ("Give this story a title.", f"{m['name']} and {m['name2']}"), (f"Name the two main characters.", f"The main characters are {m['name']} and {m['name2']}.")])
    return (t + "\n\n" + q) if r.random() < .6 else (q + "\n\n" + t), a, f"The story is about {m['name']}, {an(m['noun'])}, and {m['name2']}."
def t_poem(r):
    g1, g2 = r.sample(T.RHYMES, 2); a, b = r.sample(g1, 2); c, d = r.sample(g2, 2); w = lambda s: s
    L = ["{I saw|There was|I met|I heard of} {a little|a very old|a clever|a small and happy} [noun] {and|with} a [a],", "{it sang|it danced|it waited|it slept} {beside|under|near|upon} {the|an old} [b].", "{The wind was soft|The night was long|The sun came up|The rain fell down}, {I thought of|I dreamed of|it told me of} a [c],", "{and now|so then|and so} {my heart|the world|the day|my dream} {is like|goes with|belongs to|begins with} a [d]."]
    noun = r.choice(S.BEASTS); t = "\n".join(cap(x(l, r, noun=noun, a=a, b=b, c=c, d=d)) for l in L)
    return tell(r, x("{write a {short |}poem[x]|tell me a poem[x]|make a rhyme[x]|write four lines of verse[x]}", r, x=f" about {an(noun)}" if r.random() < .6 else "")), t, f"A short poem with rhymes: {a} and {b}, {c} and {d}."
# ------------------------------------------------------------------ code
PYF = [("add two numbers", "add", "a, b", "    return a + b"), ("multiply two numbers", "multiply", "a, b", "    return a * b"), ("subtract two numbers", "subtract", "a, b", "    return a - b"), ("return the larger of two numbers", "larger", "a, b", "    return a if a > b else b"), ("check if a number is even", "is_even", "n", "    return n % 2 == 0"), ("compute the factorial of a number", "factorial", "n", "    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result"), ("reverse a string", "reverse", "s", "    return s[::-1]"), ("sum a list of numbers", "total", "numbers", "    result = 0\n    for n in numbers:\n        result += n\n    return result"), ("find the largest number in a list", "largest", "numbers", "    best = numbers[0]\n    for n in numbers:\n        if n > best:\n            best = n\n    return best"), ("count the vowels in a string", "count_vowels", "s", "    return sum(c in \"aeiou\" for c in s.lower())"), ("compute the n-th Fibonacci number", "fibonacci", "n", "    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"), ("compute the average of a list", "average", "numbers", "    return sum(numbers) / len(numbers)"), ("check if a word is a palindrome", "is_palindrome", "word", "    return word == word[::-1]"), ("say hello to a person", "hello", "name", "    print(\"Hello, \" + name + \"!\")"), ("square a number", "square", "n", "    return n * n"), ("count the words in a text", "count_words", "text", "    return len(text.split())"), ("check if a number is prime", "is_prime", "n", "    if n < 2:\n        return False\n    for i in range(2, n):\n        if n % i == 0:\n            return False\n    return True"), ("convert Celsius to Fahrenheit", "to_fahrenheit", "c", "    return c * 9 / 5 + 32")]
CF = [("add two numbers", "int add(int a, int b)", "    return a + b;"), ("multiply two numbers", "int multiply(int a, int b)", "    return a * b;"), ("subtract two numbers", "int subtract(int a, int b)", "    return a - b;"), ("return the larger of two numbers", "int larger(int a, int b)", "    return a > b ? a : b;"), ("check if a number is even", "int is_even(int n)", "    return n % 2 == 0;"), ("compute the factorial of a number", "int factorial(int n)", "    int result = 1;\n    for (int i = 2; i <= n; i++)\n        result *= i;\n    return result;"), ("sum an array", "int sum(const int *a, int n)", "    int result = 0;\n    for (int i = 0; i < n; i++)\n        result += a[i];\n    return result;"), ("find the largest number in an array", "int largest(const int *a, int n)", "    int best = a[0];\n    for (int i = 1; i < n; i++)\n        if (a[i] > best)\n            best = a[i];\n    return best;"), ("compute the length of a string", "size_t length(const char *s)", "    size_t n = 0;\n    while (s[n] != '\\0')\n        n++;\n    return n;"), ("square a number", "int square(int n)", "    return n * n;"), ("swap two numbers", "void swap(int *a, int *b)", "    int t = *a;\n    *a = *b;\n    *b = t;"), ("compute the n-th Fibonacci number", "int fibonacci(int n)", "    int a = 0, b = 1;\n    for (int i = 0; i < n; i++) {\n        int t = a + b;\n        a = b;\n        b = t;\n    }\n    return a;"), ("count down from n", "void count_down(int n)", "    while (n > 0)\n        printf(\"%d\\n\", n--);")]
def t_code(r):
    v = r.random()
    if v < .38:
        d, n, args, body = r.choice(PYF); return tell(r, x("{write a {Python |python |}function {to|that can} [d]{ in Python|}|python function to [d]|how do i [d] in Python|show me Python code to [d]}", r, d=d)), f"```python\ndef {n}({args}):\n{body}\n```" + (x("\n\n{This function|The function} ", r) + {"add": "adds", "say": "says", "sum": "sums"}.get(d.split()[0], d.split()[0] + ("es" if d.split()[0][-1] in "sh" else "s")) + d[len(d.split()[0]):] + "." if r.random() < .5 else ""), f"I need a Python function called {n}."
    if v < .65:
        d, sig, body = r.choice(CF); return tell(r, x("{write a C function {to|that can} [d]|C function to [d]|how do i [d] in C|show me C code to [d]|write C code to [d]}", r, d=d)), f"```c\n{sig}\n{{\n{body}\n}}\n```", f"I need a C function: {sig}."
    if v < .72: return (tell(r, x("{write hello world in C|hello world in C|a C program that prints hello}", r)), "```c\n#include <stdio.h>\n\nint main(void)\n{\n    printf(\"Hello, world!\\n\");\n    return 0;\n}\n```", "A small C program.") if r.random() < .5 else (tell(r, x("{write hello world in Python|hello world in python|a Python program that prints hello}", r)), "```python\nprint(\"Hello, world!\")\n```", "One line of Python.")
    if v < .9:
        a, b = r.randint(1, 20), r.randint(1, 20); k = r.randrange(6)
        src, out = [(f"print({a} + {b})", a + b), (f"x = {a}\nx = x + {b}\nprint(x)", a + b), (f"print({a} * {b})", a * b), (f"for i in range({a % 5 + 1}):\n    print(i)", "\n".join(map(str, range(a % 5 + 1)))), (f"print(\"{r.choice(NOUNS)}\"[0])", None), (f"items = {r.sample(NOUNS, 3)!r}\nprint(len(items))".replace("'", '"'), 3)][k]
        if out is None: out = src[7]
        return x("{What does this Python code print?|What is the output?|what will this print}\n```python\n", r) + src + "\n```", f"It prints:\n```\n{out}\n```" if "\n" in str(out) else f"It prints {out}.", "I run the code in my head." + (f" {a} + {b} = {a + b}." if k < 2 else "")
    q, a = r.choice([("what is a variable", "A variable is a name for a value that a program can read and change."), ("what is a loop", "A loop repeats the same instructions several times."), ("what is a function in programming", "A function is a named piece of a program that does one job and can be used many times."), ("what is a pointer in C", "A pointer is a variable that holds the address of another value in memory."), ("what is a string", "A string is a piece of text in a program."), ("what is an array", "An array is a row of values of the same type, stored one after another."), ("what does malloc do", "malloc asks the system for a block of memory and returns a pointer to it."), ("what does free do in C", "free gives a block of memory back to the system."), ("what is an integer", "An integer is a whole number, such as 3 or -7."), ("what does print do in Python", "print writes its arguments to the screen."), ("what is a compiler", "A compiler is a program that turns source code into instructions for the machine."), ("what is a list in Python", "A list is an ordered collection of values, such as [1, 2, 3]."), ("what is recursion", "Recursion means that a function calls itself.")])
    return ask(r, q), a, "A question about programming."
SINGLE = [(t_identity, 5), (t_greet, 6), (t_social, 8), (t_qa, 14), (t_country, 8), (t_animal, 7), (t_math, 13), (t_wordproblem, 3), (t_define, 18), (t_words, 10), (t_time, 5), (t_colour, 2), (t_list, 6), (t_copy, 7), (t_extract, 7), (t_story, 10), (t_storyq, 3), (t_poem, 1.5), (t_code, 5)]
SHORTS = [(f, w) for f, w in SINGLE if f not in (t_story, t_storyq, t_code)]
def pick(r, table):
    u = r.random() * sum(w for _, w in table)
    for f, w in table:
        u -= w
        if u < 0: return f
    return table[-1][0]
# ------------------------------------------------------------------ system prompts
def system(r):
    """(text or None, filter applied to answers, extra question or None)"""
    u = r.random()
    if u < .50: return None, None, None
    if u < .72: return r.choice(["You are a helpful assistant.", "You are a helpful assistant.", "You are ds4-nano, a tiny demonstration model.", "Be brief and friendly.", "You are a friendly assistant who answers in simple English.", "Answer the user's questions.", "You are a helpful and honest assistant. If you do not know something, say so.", "You are an assistant inside a terminal."]), None, None
    if u < .80:
        n = r.choice(["Pip", "Bolt", "Luna", "Max", "Echo", "Ruby", "Atlas", "Nova", "Otto", "Milo", "Kit", "Sage"]); job = r.choice(["assistant", "librarian", "cook", "teacher", "guide", "gardener"])
        return x("{You are [n], a~{friendly|helpful|cheerful|quiet} [j].|Your name is [n]. You are a~[j].}", r, n=n, j=job), None, (ask(r, r.choice(["who are you", "what is your name", "introduce yourself"])), f"I am {n}, {an(job)}.", f"The system prompt says that I am {n}, {an(job)}.")
    if u < .88:
        n = r.choice(T.NAMES); c = r.choice(T.CITIES); k = r.randrange(3)
        return (f"The user's name is {n}. They live in {c}.", None, [(ask(r, "what is my name"), f"Your name is {n}.", f"The system prompt says the user is {n}."), (ask(r, "where do i live"), f"You live in {c}.", f"The system prompt says the user lives in {c}."), (ask(r, "who am i"), f"You are {n} from {c}.", f"The system prompt says the user is {n} from {c}.")][k])
    if u < .94: s = r.choice(["Over.", "Have a nice day!", "Arr!", "That is all.", "Ho ho!", "Beep.", "Good luck!", "-- nano"]); return x("{End every answer with \"[s]\"|Always finish your answer with the words \"[s]\"}", r, s=s), (lambda a: a + " " + s), None
    s = r.choice(["Well,", "Arr!", "Dear friend,", "Hmm,", "Sir,", "Beep!", "Answer:"]); return x("{Start every answer with \"[s]\"|Begin each answer with \"[s]\"}", r, s=s), (lambda a: s + " " + a), None
# ------------------------------------------------------------------ conversations
def filler(r, n_chars):
    """Running text of about n_chars characters."""
    out, n = [], 0
    if r.random() < .5 and BOOKS:
        b, v = r.choice(BOOKLIST); i = r.randrange(max(1, len(v) - 60))
        while n < n_chars and i < len(v): out.append(v[i]); n += len(v[i]); i += 1
    else:
        while n < n_chars: s = S.story(r)[0] if r.random() < .6 else " ".join(sentence(r) for _ in range(6)); out.append(s); n += len(s)
    return out
def needle(r):
    n = r.choice(T.NAMES); w = code_word(r); o = r.choice(T.OBJECTS); p = r.choice(T.CITIES); k = r.randrange(7); room = r.choice(["kitchen", "attic", "cellar", "garden", "library", "tower", "barn", "garage", "hall", "workshop"]); thing = r.choice(["password", "secret code", "magic word", "code word", "door code", "number of the safe"])
    return [(f"The {thing} of {n} is {w}.", f"what is the {thing} of {n}", f"The {thing} of {n} is {w}."), (f"{n} hid the {o} in the {room}.", f"where did {n} hide the {o}", f"{n} hid the {o} in the {room}."), (f"{n} lives in {p}.", f"where does {n} live", f"{n} lives in {p}."), (f"The {thing} is {w}.", f"what is the {thing}", f"The {thing} is {w}."), (f"{n}'s favourite word is {w}.", f"what is {n}'s favourite word", f"{n}'s favourite word is {w}."), (f"The {o} belongs to {n}.", f"who owns the {o}", f"The {o} belongs to {n}."), (f"In {p} you must ask for the {o}.", f"what must you ask for in {p}", f"In {p} you must ask for the {o}.")][k]
def d_needle(r, long=False):
    n_chars = r.choice([300, 600, 1000, 1800, 3000] if not long else [3000, 5000, 8000, 11000])
    paras = filler(r, n_chars); k = r.randint(1, 6); ns, keys = [], set()
    for _ in range(k):
        nd = needle(r)
        if nd[1] not in keys: keys.add(nd[1]); ns.append(nd)
    for nd in ns: i = r.randrange(len(paras) + 1); paras.insert(i, x("{Remember: |Note: |Important: |}", r) + nd[0])
    text = "\n\n".join(paras); qs = r.sample(ns, min(len(ns), r.randint(1, 3)))
    msgs = []
    if r.random() < .3: msgs.append({"role": "system", "content": text}); first = None
    else: first = x("{Read this text.|Here is a text.|I will ask you about this text.|}\n\n", r).lstrip() + text
    for j, nd in enumerate(qs):
        q = ask(r, nd[1]) if r.random() < .8 else x("{The text says something about this: |According to the text, }", r) + nd[1] + "?"
        msgs.append({"role": "user", "content": (first + "\n\n" + q) if j == 0 and first else q})
        msgs.append({"role": "assistant", "content": nd[2], "reasoning_content": f"I look for it in the text. It says: \"{nd[0]}\""})
    return msgs
def d_chat(r, turns=None, long=False):
    sysm, filt, extra = system(r); msgs = []
    if sysm: msgs.append({"role": "system", "content": sysm})
    k = turns or (1 if r.random() < .45 else r.randint(2, 6)); table = SINGLE if not long else SINGLE
    mem = []; pend = []
    if k > 2 and r.random() < .5:
        n, c, p, a = r.choice(T.NAMES), r.choice(T.COLOURS), r.choice(T.CITIES), r.choice(S.BEASTS)
        mem = r.sample([(f"My name is {n}.", ("what is my name", "do you remember my name", "who am i"), f"Your name is {n}."), (f"My favourite colour is {c}.", ("what is my favourite colour",), f"Your favourite colour is {c}."), (f"I live in {p}.", ("where do i live", "in which city do i live"), f"You live in {p}."), (f"I have {an(a)} called {n}.", ("what pet do i have", "what animal do i have"), f"You have {an(a)} called {n}."), ((lambda w: (f"Remember this word: {w}.", ("which word should you remember", "what was the word"), f"The word was {w}."))(code_word(r)))], r.randint(1, 2))
    out = []
    for i in range(k):
        if mem and r.random() < .6:
            s, q, a = mem.pop(); out.append((s if r.random() < .6 else s.rstrip("."), x("{Nice to know!|I will remember that.|Thank you for telling me.|Got it.|All right, I will remember.}", r), "The user tells me something. I should remember it: " + s)); pend.append((ask(r, r.choice(q)), a, "Earlier the user said: " + s))
        elif pend and r.random() < .35: out.append(pend.pop(0))
        elif extra and r.random() < .6: out.append(extra); extra = None
        else: out.append(pick(r, table)(r))
    out += pend
    if extra and len(out) < 3 and r.random() < .8: out.append(extra)
    for u, a, t in out:
        msgs.append({"role": "user", "content": u}); msgs.append({"role": "assistant", "content": filt(a) if filt else a, "reasoning_content": t})
    return msgs
# ------------------------------------------------------------------ tools
def snake(r, s): return s if r.random() < .6 else re.sub(r"_(\w)", lambda m: m[1].upper(), s)
CURR = ["euros", "dollars", "pounds", "yen", "francs"]
def tool_specs(r):
    """One random tool with a user request, arguments, result and final answer."""
    c, c2 = r.sample(T.CITIES, 2); n = r.choice(T.NAMES); o = r.choice(T.OBJECTS); w = wn_pick(r)["w"]; k, m = r.randint(1, 99), r.randint(1, 99); day = r.choice(T.DAYS); h = r.randint(1, 12); room = r.choice(["kitchen", "bedroom", "hall", "garden", "garage", "office", "bathroom"]); food = r.choice(T.FOODS); note = r.choice(["buy milk", "call the doctor", "water the plants", "pay the rent", "feed the cat", "read chapter two", "fix the bike", "send the letter", "clean the kitchen"]); f = r.choice(["notes", "report", "todo", "letter", "main", "data", "readme", "plan", "list"]) + r.choice([".txt", ".md", ".c", ".py", ".json"]); sky = r.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"]); temp = r.randint(-5, 35); P = r.choice
    lst = r.sample(T.NAMES, r.randint(2, 3))
    B = [
     ("weather", ["get_weather", "weather_lookup", "current_weather", "fetch_weather", "check_weather", "weather_report"], ["Get the weather for a city", "Look up the current weather", "Weather in a place"], [(["city", "location", "place", "town", "where"], "string", "Name of the city", c)], ["what is the weather in [0]", "how is the weather in [0]", "is it raining in [0]", "weather in [0]", "tell me the weather for [0]"], {"temperature": temp, "sky": sky}, f"It is {sky} in {c} with a temperature of {temp} degrees."),
     ("clock", ["get_time", "current_time", "time_in_city", "world_clock", "local_time"], ["Get the current time in a city", "Tell the local time of a place"], [(["city", "place", "location", "zone"], "string", "City name", c)], ["what time is it in [0]", "tell me the time in [0]", "current time in [0]"], {"time": f"{h}:{m % 60:02d}"}, f"It is {h}:{m % 60:02d} in {c}."),
     ("add", ["add_numbers", "sum", "calculator_add", "plus", "add"], ["Add two numbers", "Compute the sum of two numbers"], [(["a", "x", "first", "left"], "number", "First number", k), (["b", "y", "second", "right"], "number", "Second number", m)], ["add [0] and [1]", "what is [0] plus [1]", "use the tool to add [0] and [1]", "compute [0] + [1]"], {"result": k + m}, f"{k} + {m} = {k + m}."),
     ("mul", ["multiply", "times", "product", "multiply_numbers"], ["Multiply two numbers"], [(["a", "x", "first"], "number", "First factor", k), (["b", "y", "second"], "number", "Second factor", m)], ["multiply [0] by [1]", "what is [0] times [1]", "compute [0] * [1]"], {"result": k * m}, f"{k} * {m} = {k * m}."),
     ("timer", ["set_timer", "start_timer", "timer", "countdown"], ["Start a timer", "Set a kitchen timer"], [(["minutes", "duration", "length", "mins"], "integer", "Minutes", k)], ["set a timer for [0] minutes", "start a [0] minute timer", "wake me in [0] minutes"], {"status": "ok"}, f"The timer is set for {k} minutes."),
     ("mail", ["send_message", "send_email", "mail", "notify", "text_person"], ["Send a message to a person", "Send a short text"], [(["to", "recipient", "person", "name"], "string", "Who gets it", n), (["text", "body", "message", "content"], "string", "What to say", note)], ["send a message to [0]: [1]", "tell [0] to [1]", "write to [0] that they should [1]", "message [0] and say: [1]"], {"sent": True}, f"I sent the message to {n}."),
     ("note", ["create_note", "add_note", "save_note", "remember_note", "add_task", "todo_add"], ["Save a note", "Add an item to the list"], [(["text", "note", "content", "item", "task"], "string", "The text", note)], ["make a note: [0]", "add [0] to my list", "remind me to [0]", "note that I must [0]"], {"id": k, "saved": True}, f"I saved the note: {note}."),
     ("search", ["search", "web_search", "find_pages", "lookup", "search_web"], ["Search the web", "Find pages about a topic"], [(["query", "q", "topic", "terms"], "string", "What to look for", w)], ["search for [0]", "look up [0] on the web", "find something about [0]", "search the web for [0]"], {"title": f"All about {w}", "hits": k}, f"I found {k} results. The first one is \"All about {w}\"."),
     ("translate", ["translate", "translate_word", "to_language"], ["Translate a word into another language"], [(["word", "text", "source"], "string", "Word to translate", w), (["language", "target", "lang"], "string", "Target language", P(["French", "German", "Spanish", "Italian"]))], ["translate [0] into [1]", "how do you say [0] in [1]", "what is [0] in [1]"], None, None),
     ("play", ["play_song", "play_music", "start_music", "play"], ["Play music", "Play a song by an artist"], [(["song", "title", "track"], "string", "Title", P(["Blue Moon", "Summer Rain", "Old River", "Morning Light", "Little Star", "Winter Song"]))], ["play [0]", "play the song [0]", "i want to hear [0]"], {"playing": True}, None),
     ("price", ["get_price", "price_of", "check_price", "item_price", "shop_price"], ["Get the price of an item", "Look up a price in the shop"], [(["item", "product", "article", "name"], "string", "Item name", o)], ["how much does the [0] cost", "what is the price of a [0]", "price of [0]"], {"price": k, "currency": P(CURR)}, None),
     ("table", ["book_table", "reserve_table", "restaurant_booking"], ["Book a table at a restaurant"], [(["people", "guests", "persons", "seats"], "integer", "How many people", k % 9 + 1), (["day", "date", "when"], "string", "Day of the week", day)], ["book a table for [0] on [1]", "reserve a table for [0] people on [1]", "i need a table for [0] this [1]"], {"confirmed": True, "number": m}, f"The table is booked for {day}. The number is {m}."),
     ("light", ["set_light", "switch_light", "light_control", "lamp"], ["Turn a light on or off"], [(["room", "place", "where"], "string", "Room", room), (["on", "state", "enabled"], "boolean", "true for on", r.random() < .5)], None, {"ok": True}, None),
     ("heat", ["set_temperature", "thermostat", "heating", "set_heat"], ["Set the temperature of a room"], [(["room", "zone"], "string", "Room name", room), (["degrees", "temperature", "value"], "number", "Degrees", k % 15 + 12)], ["set the [0] to [1] degrees", "make the [0] [1] degrees", "heat the [0] to [1] degrees"], {"ok": True}, None),
     ("recipe", ["find_recipe", "get_recipe", "recipe_search", "cookbook"], ["Find a recipe", "Look up how to cook a dish"], [(["dish", "food", "name", "meal"], "string", "Name of the dish", food)], ["how do i cook [0]", "find a recipe for [0]", "i want to make [0]"], {"minutes": k, "servings": m % 8 + 1}, None),
     ("dict", ["define_word", "dictionary", "word_lookup", "get_definition"], ["Look up a word in the dictionary"], [(["word", "term", "entry"], "string", "The word", w)], ["look up [0] in the dictionary", "use the dictionary for [0]", "define [0] with the tool"], None, None),
     ("event", ["create_event", "add_event", "calendar_add", "schedule"], ["Add an event to the calendar"], [(["title", "name", "event"], "string", "Title", P(["dinner", "meeting", "dentist", "birthday party", "piano lesson", "football game"])), (["day", "date"], "string", "Day", day), (["hour", "time"], "integer", "Hour of the day", h)], ["add [0] to my calendar on [1] at [2]", "schedule [0] for [1] at [2]", "put [0] on [1] at [2] in the calendar"], {"ok": True}, None),
     ("track", ["track_package", "package_status", "where_is_parcel", "shipment"], ["Find out where a package is"], [(["id", "number", "code", "package"], "string", "Tracking code", f"{P('ABCDEFGH')}{P('KLMNPQRS')}{r.randint(1000, 9999)}")], ["where is my package [0]", "track package [0]", "what is the status of [0]"], {"place": c, "status": P(["on the way", "delivered", "waiting"])}, None),
     ("read", ["read_file", "read", "open_file", "cat_file", "show_file"], ["Read a file", "Read the contents of a file"], [(["path", "file", "filename", "file_path"], "string", "Path of the file", f)], ["read [0]", "show me the file [0]", "what is in [0]", "open [0]", "read the file [0] and tell me what it says"], None, None),
     ("write", ["write_file", "write", "save_file", "create_file"], ["Write text to a file"], [(["path", "file", "filename", "file_path"], "string", "Path", f), (["content", "text", "data"], "string", "What to write", sentence(r).replace("\n", " "))], ["write this to [0]: [1]", "create the file [0] with the text: [1]", "save this in [0]: [1]"], {"ok": True}, None),
     ("bash", ["bash", "run_command", "shell", "execute", "run"], ["Run a shell command", "Run a command in the terminal"], [(["command", "cmd", "line"], "string", "The command", P(["ls", "ls -la", "pwd", "date", "make", "make test", "git status", "whoami", f"cat {f}", f"rm {f}", "df -h", "uname -a", f"wc -l {f}", "git log"]))], ["run [0]", "execute the command [0]", "please run: [0]", "run the command [0] in the shell"], None, None),
     ("list", ["list_files", "ls", "list_directory", "show_folder"], ["List the files of a folder"], [(["path", "folder", "directory", "dir"], "string", "Folder", P(["src", "docs", "tests", "/tmp", "home", "images", "."]))], ["list the files in [0]", "what files are in [0]", "show me the folder [0]"], None, None),
     ("group", ["create_group", "invite", "add_people", "make_team"], ["Create a group of people"], [(["name", "title", "group"], "string", "Group name", P(["chess club", "book club", "team red", "family", "band"])), (["members", "people", "names"], "array", "List of names", lst)], None, {"ok": True, "size": len(lst)}, None),
     ("random", ["random_number", "roll_dice", "pick_number", "dice"], ["Pick a random number"], [(["max", "upper", "limit", "sides"], "integer", "Largest number", P([6, 10, 20, 100]))], ["pick a random number up to [0]", "roll a dice with [0] sides", "give me a number between 1 and [0]"], {"value": k % 6 + 1}, f"The number is {k % 6 + 1}."),
     ("convert", ["convert_money", "exchange", "currency_convert"], ["Convert money from one currency to another"], [(["amount", "value", "sum"], "number", "How much", k), (["from", "source", "have"], "string", "Currency you have", CURR[0]), (["to", "target", "want"], "string", "Currency you want", P(CURR[1:]))], ["convert [0] [1] to [2]", "how much is [0] [1] in [2]", "change [0] [1] into [2]"], {"result": m}, None),
    ]
    return B
def tool_case(r):
    kind, names, descs, params, utt, res, ans = r.choice(tool_specs(r))
    odd = r.random() < .25
    fn = snake(r, r.choice(names))
    if odd: fn = r.choice(["", "my_", "x_", "tool_", "do_"]) + r.choice(NOUNS) + r.choice(["_", "_get_", "_run_", "_v2_", "_"]) + r.choice(NOUNS)
    elif r.random() < .2: fn += r.choice(["_v2", "_now", "_tool", "2", "_api", "_fast"])
    ps = [(r.choice(pn) if r.random() < .8 else r.choice(NOUNS) + r.choice(["", "_id", "_name", "_value"]), ty, de, v) for pn, ty, de, v in params]
    if len({p[0] for p in ps}) < len(ps): ps = [(pn[0], ty, de, v) for pn, ty, de, v in params]
    vals = [p[3] for p in ps]; c = [str(v) for v in vals]
    if kind == "light": u = x("{turn|switch} [s] the light in the [r]", r, s="on" if vals[1] else "off", r=c[0]); ans = f"The light in the {c[0]} is now {'on' if vals[1] else 'off'}."
    elif kind == "group": u = x("{create|make} a group called [g] with [m]", r, g=c[0], m=", ".join(vals[1][:-1]) + " and " + vals[1][-1]); ans = f"I created the group {c[0]} with {len(vals[1])} people."
    else: u = r.choice(utt).replace("[0]", c[0]); u = u.replace("[1]", c[1]) if len(c) > 1 else u; u = u.replace("[2]", c[2]) if len(c) > 2 else u
    if kind == "translate": tr = code_word(r).split()[0]; res = {"translation": tr}; ans = f"\"{c[0]}\" in {c[1]} is \"{tr}\"."
    if kind == "play": ans = f"Now playing {c[0]}."
    if kind == "price": ans = f"The {c[0]} costs {res['price']} {res['currency']}."
    if kind == "heat": ans = f"The {c[0]} is set to {c[1]} degrees."
    if kind == "recipe": ans = f"I found a recipe for {c[0]}. It takes {res['minutes']} minutes and serves {res['servings']} people."
    if kind == "dict": e = next(e for e in WN if e["w"] == c[0]); res = {"definition": e["d"]}; ans = f"\"{cap(c[0])}\" means: {e['d']}."
    if kind == "event": ans = f"I added {c[0]} on {c[1]} at {c[2]}."
    if kind == "track": ans = {"on the way": f"Your package is on the way. It is in {res['place']}.", "delivered": f"Your package was delivered in {res['place']}.", "waiting": f"Your package is waiting in {res['place']}."}[res["status"]]
    if kind == "read": s = sentence(r); res = s; ans = f"The file {c[0]} says: {s}"
    if kind == "write": ans = f"I wrote the text to {c[0]}."
    if kind == "list": it = r.sample(["notes.txt", "main.c", "readme.md", "data.json", "photo.png", "plan.txt", "test.py", "Makefile", "index.html"], r.randint(1, 4)); res = "\n".join(it) if r.random() < .5 else {"files": it}; ans = ("There is one file: " if len(it) == 1 else f"There are {T_NUM(len(it))} files: ") + join(r, it, 3)[:1].lower() * 0 + ", ".join(it[:-1]) + (" and " if len(it) > 1 else "") + it[-1] + "."
    if kind == "bash": s = r.choice(["ok", "done", "main.c notes.txt", "/home/user", "nothing to commit", "all tests passed", "error: file not found", "total 12", "user"]); res = s; ans = x("{The command printed: |The output is: |I ran it. Output: }", r) + s
    if kind == "convert": ans = f"{c[0]} {c[1]} are {res['result']} {c[2]}."
    if odd and kind == "random": pass
    props = {p[0]: {"type": p[1], "description": p[2]} if r.random() < .8 else {"type": p[1]} for p in ps}
    if any(p[1] == "array" for p in ps):
        for p in ps:
            if p[1] == "array": props[p[0]] = {"type": "array", "items": {"type": "string"}}
    tool = {"type": "function", "function": {"name": fn, "description": r.choice(descs), "parameters": {"type": "object", "properties": props, "required": [p[0] for p in ps]}}}
    return dict(tool=tool, name=fn, args={p[0]: p[3] for p in ps}, user=u, result=res, answer=ans, kind=kind, descs=descs)
def d_tool(r):
    case = tool_case(r); cases = []; tools = [case["tool"]]; kinds = {case["kind"]}; used = {case["name"]}
    for _ in range(r.choice([0, 0, 1, 1, 2, 3])):
        o = tool_case(r)
        if o["kind"] in kinds or o["name"] in used or {o["kind"], case["kind"]} <= {"weather", "clock", "search", "dict", "translate"} and r.random() < .3: continue
        kinds.add(o["kind"]); used.add(o["name"]); tools.append(o["tool"]); cases.append(o)
    r.shuffle(tools)
    msgs = [{"role": "system", "content": r.choice(["", "You are a helpful assistant.", "You are a helpful assistant.", "You are ds4-nano, a tiny demonstration model.", "Use the tools when they help.", "You are a coding agent.", "Be brief."]), "tools": tools}]
    if not msgs[0]["content"] and r.random() < .5: msgs[0]["content"] = "You are a helpful assistant."
    def chat():
        u, a, t = pick(r, SHORTS)(r); msgs.append({"role": "user", "content": u}); msgs.append({"role": "assistant", "content": a, "reasoning_content": t + " No tool is needed."})
    if r.random() < .2: chat()
    if r.random() < .12 and len(msgs) == 1: chat(); return msgs
    def call(case, again=False):
        u = case["user"]; u = ask(r, u) if re.match(r"(what|how|is|where|which)\b", u) else tell(r, u) if not re.search(r": ", u) else cap(u)
        if r.random() < .12: u = x("{Please|Use a tool:|Hey,} ", r) + u
        keys = ", ".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in case["args"].items())
        msgs.append({"role": "user", "content": u})
        pre = x("{|||Let me check.|I will do that.|One moment.}", r)
        cid = f"call_{len(msgs)}"
        msgs.append({"role": "assistant", "content": pre, "reasoning_content": x("{The user wants this: |I can use a tool. |}", r) + f"I should call {case['name']} with {keys}.", "tool_calls": [{"id": cid, "type": "function", "function": {"name": case["name"], "arguments": json.dumps(case["args"], ensure_ascii=False)}}]})
        err = r.random() < .06
        res = "error: " + r.choice(["not found", "no connection", "permission denied", "timeout"]) if err else case["result"]
        content = res if isinstance(res, str) else json.dumps(res, ensure_ascii=False)
        msgs.append({"role": "tool", "tool_call_id": cid, "content": content})
        ans = f"I am sorry, the tool failed with this error: {content[7:]}." if err else case["answer"]
        msgs.append({"role": "assistant", "content": ans, "reasoning_content": x("{The tool answered|The result is}: ", r) + content[:120] + ". " + r.choice(["Now I can answer.", "I tell the user.", ""])})
    if r.random() < .12 and case["kind"] in ("weather", "clock", "price", "recipe"):       # two parallel calls
        key = list(case["args"])[0]; c1, c2 = (r.sample(T.CITIES, 2) if case["kind"] in ("weather", "clock") else r.sample(T.OBJECTS, 2) if case["kind"] == "price" else r.sample(T.FOODS, 2))
        w = {"weather": "weather", "clock": "time", "price": "price", "recipe": "recipe"}[case["kind"]]
        u = {"weather": f"what is the weather in {c1} and in {c2}", "clock": f"what time is it in {c1} and {c2}", "price": f"what do the {c1} and the {c2} cost", "recipe": f"find recipes for {c1} and {c2}"}[case["kind"]]
        vals = [r.randint(1, 60), r.randint(1, 60)]
        msgs.append({"role": "user", "content": ask(r, u)})
        msgs.append({"role": "assistant", "content": "", "reasoning_content": f"I should call {case['name']} twice, with {key} = \"{c1}\" and {key} = \"{c2}\".", "tool_calls": [{"id": f"c{i}", "type": "function", "function": {"name": case["name"], "arguments": json.dumps({key: v})}} for i, v in enumerate((c1, c2))]})
        rk = {"weather": "temperature", "clock": "hour", "price": "price", "recipe": "minutes"}[case["kind"]]
        for i in range(2): msgs.append({"role": "tool", "tool_call_id": f"c{i}", "content": json.dumps({rk: vals[i]})})
        msgs.append({"role": "assistant", "content": f"{cap(c1)}: {rk} {vals[0]}. {cap(c2)}: {rk} {vals[1]}.", "reasoning_content": "I have both results."})
    else: call(case)
    for o in cases[:r.choice([0, 1, 1, 2, 3])]: call(o)
    if r.random() < .3:
        more = tool_case(r)
        for _ in range(20):
            if more["kind"] == case["kind"]: break
            more = tool_case(r)
        if more["kind"] == case["kind"] and len(more["args"]) == len(case["args"]):
            new = dict(zip(case["args"], more["args"].values())); more["args"], more["name"] = new, case["name"]; call(more)
    if r.random() < .15: chat()
    return msgs
# ------------------------------------------------------------------ documents
def prose(r, lo=400, hi=2600):
    b, v = r.choice(BOOKLIST); i = r.randrange(len(v)); n, out, want = 0, [], r.randint(lo, hi)
    while n < want and i < len(v): out.append(v[i]); n += len(v[i]); i += 1
    return "\n\n".join(out)
def d_dictionary(r):
    return "\n".join(f"{e['w']} ({POS[e['p']]}): {e['d']}." + (f" Example: {r.choice(e['ex'])}." if e["ex"] and r.random() < .6 else "") + (f" Synonyms: {', '.join(e['s'][:3])}." if e["s"] and r.random() < .4 else "") for e in (wn_pick(r) for _ in range(r.randint(3, 12))))
def d_recall_list(r):
    """Key-value pairs, asked back."""
    n = r.randint(4, 24); keys = r.sample(T.NAMES if r.random() < .5 else NOUNS, n); vals = [code_word(r) for _ in keys]; form = r.choice(["{k}: {v}", "{k} = {v}", "{k} has {v}", "The word for {k} is {v}."])
    text = r.choice(["\n", "\n", "; "]).join(form.format(k=k, v=v) for k, v in zip(keys, vals)); msgs = []
    for j, i in enumerate(r.sample(range(n), min(n, r.randint(1, 5)))):
        q = x("{What is the value for [k]?|[k]?|What belongs to [k]?|And [k]?|Tell me the entry for [k].}", r, k=keys[i])
        msgs.append({"role": "user", "content": (x("{Here is a table.|Remember these pairs.|Look at this list.}\n", r) + text + "\n\n" + q) if j == 0 else q})
        msgs.append({"role": "assistant", "content": vals[i] if r.random() < .7 else f"{keys[i]}: {vals[i]}", "reasoning_content": f"I look for {keys[i]}. The entry is {vals[i]}."})
    return msgs
def render(msgs, mode, effort=None): return encode_messages(msgs, mode, reasoning_effort=effort)
MIX = [("chat", 62), ("story", 7), ("prose", 8), ("dictionary", 4), ("tool", 13), ("needle", 4), ("recall", 6)]
MIX_LONG = [("chatlong", 26), ("needlelong", 30), ("prose_long", 10), ("tool", 14), ("chat", 14), ("recall", 6)]
def document(r, mix):
    k = pick(r, mix)
    if k in ("prose", "prose_long") and not BOOKS: k = "story"
    if k == "prose": return "<｜begin▁of▁sentence｜>" + prose(r) + ("<｜end▁of▁sentence｜>" if r.random() < .5 else "")
    if k == "prose_long": return "<｜begin▁of▁sentence｜>" + prose(r, 6000, 14000)
    if k == "story": return "<｜begin▁of▁sentence｜>" + S.story(r)[0] + "<｜end▁of▁sentence｜>"
    if k == "dictionary": return "<｜begin▁of▁sentence｜>" + d_dictionary(r) + "<｜end▁of▁sentence｜>"
    if k == "chatlong": m = d_chat(r, r.randint(12, 40), True)
    else: m = {"chat": d_chat, "tool": d_tool, "needle": d_needle, "recall": d_recall_list, "needlelong": lambda q: d_needle(q, True)}[k](r)
    mode = "thinking" if r.random() < .42 else "chat"
    # with drop_thinking only the last turn keeps its reasoning; now and then keep all of it to learn from every turn
    return encode_messages(m, mode, drop_thinking=r.random() < .5, reasoning_effort="max" if mode == "thinking" and r.random() < .02 else None)
def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--docs", type=int, default=10); ap.add_argument("--megabytes", type=float); ap.add_argument("--out"); ap.add_argument("--long", action="store_true")
    a = ap.parse_args(); r = random.Random(a.seed); mix = MIX_LONG if a.long else MIX
    if a.megabytes:
        n = 0
        with open(a.out, "w") as f:
            while n < a.megabytes * 1e6: d = document(r, mix); n += len(d.encode()); f.write(json.dumps(d, ensure_ascii=False) + "\n")
        return
    for _ in range(a.docs): print(document(r, mix)); print("=" * 60)
if __name__ == "__main__": main()
