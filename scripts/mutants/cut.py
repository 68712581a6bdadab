"""Finds the places in a C++ source where a check can be taken out or flipped, and writes the source with all of them in it.

Every mutant of a file is compiled into it at once: a condition `c` becomes `(exclave_mutates(7) ? (m) : (c))`, a
statement `s;` becomes `if (exclave_mutates(8)) {} else s;`, and the program asks at run time which mutant it is. So the tree is compiled once for all mutants, and a constant expression stays
what it was. The scanner knows only as much C++ as the house style needs: clang-format has put spaces around every operator.
"""
import re

PER_FILE = 1024  # mutants that a file has room for; a file's numbers do not move when another changes

DECLARATION = re.compile(r"^\s*(?:const\s+)?[A-Za-z_][\w:]*(?:<.*>)?(?:\s*\*\s*|\s*&\s*|\s+)(?:const\s+)?\w+\s*(?:=[^=]|\{)", re.S)
FLIPS = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
COMPARISON = re.compile(r"(?<=\s)(==|!=|<=|>=|<|>)(?=\s)")
BOUND = re.compile(r"(?<=\s)([+-]) 1(?![\w.'])")
# A statement that does something: a call whose answer nobody takes, or an assignment to what is there already.
DOES = re.compile(r"(?:\(void\)\s*)?(?!return\b|throw\b|fail\b|static_assert\b|co_\w+\b|delete\b)(?:::)?[\w:]+(?:<[^;=()]*>)?"
                  r"(?:(?:\.|->)\w+|\(\)|\[[^\]]*\])*(?:\(.*\)| [-+|&^]?= (?!default\b|delete\b|0$).+)", re.S)
SCOPE = re.compile(r"\b(?:class|struct|union|enum|namespace)\b[^()]*$")
SWAP = re.compile(r"(\w+(?:->|\.))compare_exchange_strong\(\s*\w+\s*,")


def blank(text):
    """The text with comments and preprocessor lines blanked out, and strings and characters without meaning; offsets and lines
    stay."""
    def spaces(match):
        return re.sub(r"[^\n]", "_" if match[0][0] in "\"'" else " ", match[0])
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?<!\w)\'(?:\\.|[^\'\\\n])+\'|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M)
    return pattern.sub(spaces, text)


def closing(code, at):
    """The offset of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(code)):
        if code[i] in "([{":
            depth += 1
        elif code[i] in ")]}":
            depth -= 1
            if depth == 0:
                return i
    raise ValueError("a bracket is never closed")


def stop_at_depth_0(code, at, stops):
    """The offset of the first of `stops` outside brackets, or of the bracket that ends what surrounds `at`."""
    depth = 0
    for i in range(at, len(code)):
        if depth == 0 and code[i] in stops:
            return i
        if code[i] in "([{":
            depth += 1
        elif code[i] in ")]}":
            if depth == 0:
                return i
            depth -= 1
    return len(code)


def terms(code, begin, end):
    """(first, last, operator) of each operand of && and || in the expression, at every depth."""
    found = []

    def cut(first, last, operator):
        pieces = []
        at = i = first
        while i < last:
            if code[i] in "([{":
                i = closing(code, i)
            elif code.startswith(operator, i) and code[i - 1].isspace():
                pieces.append((at, i))
                at = i = i + len(operator)
                continue
            i += 1
        return pieces + [(at, last)]

    def segment(first, last):
        groups = cut(first, last, "||")
        for group in groups:
            operands = cut(*group, "&&")
            if len(operands) > 1:
                found.extend((*operand, "&&") for operand in operands)
        if len(groups) > 1:
            found.extend((*group, "||") for group in groups)

    def walk(first, last):
        at = i = first
        while i < last:
            if code[i] in "([{":
                walk(i + 1, closing(code, i))
                i = closing(code, i)
            elif code[i] in ",;?" or code[i] in ":=" and code[i - 1].isspace() and code[i + 1].isspace():
                segment(at, i)
                at = i + 1
            i += 1
        segment(at, last)

    walk(begin, end)
    trimmed = []
    for first, last, operator in found:
        while first < last and code[first].isspace():
            first += 1
        while last > first and code[last - 1].isspace():
            last -= 1
        if first < last:
            trimmed.append((first, last, operator))
    return trimmed


def one_line(text):
    return " ".join(re.sub(r"//[^\n]*", "", text).split())


def picks_one_of_two(text, unit, first, last):
    """Is it the < of `a < b ? a : b`, or of `select(a < b, a, b)`? Where both are equal, either will do, so <= there is no
    other program."""
    if text[first:last] not in ("<", "<=", ">", ">="):
        return False
    _, selects, left = text[unit[0]: first].rpartition("select(")
    comma = stop_at_depth_0(text, last, ",")
    if selects and comma < unit[1]:
        left, right, answers = one_line(left), one_line(text[last: comma]), one_line(text[comma + 1: unit[1]])
        if answers.startswith((f"{left}, {right})", f"{right}, {left})")):
            return True
    question = stop_at_depth_0(text, last, "?")
    if question >= unit[1] or text[question] != "?":
        return False
    right = one_line(text[last:question])
    left = one_line(text[unit[0]: first])
    answers = one_line(text[question + 1: unit[1]])
    # The left operand is the end of what stands before the sign.
    for start in range(len(left)):
        operand = left[start:]
        if (start == 0 or left[start - 1] in " (") and answers.startswith((f"{operand} : {right}", f"{right} : {operand}")):
            return True
    return False


class Mutant:
    """One change: in the expression [begin, end) of the file, [first, last) becomes `new`."""

    def __init__(self, path, text, unit, kind, first, last, new, shown):
        self.path, self.kind, self.new = path, kind, new
        self.begin, self.end, self.first, self.last = unit[0], unit[1], first, last
        self.boolean = unit[2] in ("if", "while", "for", "check")
        self.line = text.count("\n", 0, first) + 1
        self.change = shown
        self.unit = one_line(text[unit[0]: unit[1]])
        self.twin = 0
        self.same = kind == "compare" and picks_one_of_two(text, unit, first, last)

    def key(self):
        """Names the mutant without its line, so that it stays the same while other code moves."""
        twin = f" #{self.twin}" if self.twin else ""
        return f"{self.path} | {self.unit} | {self.change}{twin}"

    def expression(self, text):
        return text[self.begin: self.first] + self.new + text[self.last: self.end]


def ends_early(code, after):
    """What the statement after an if does when it leaves: its last jump, or None."""
    at = after
    while code[at].isspace():
        at += 1
    if code[at] == "{":
        body = code[at + 1: closing(code, at)]
    else:
        body = code[at: stop_at_depth_0(code, at, ";") + 1]
    jumps = re.findall(r"\b(return|continue|break|__builtin_trap|throw|fail(?=\())\b([^;]*);\s*$", body.rstrip() + " ")
    return jumps[-1] if jumps else None


def units(text, code):
    """(begin, end, kind, jump) of the expressions in which something can be mutated."""
    found = []
    for match in re.finditer(r"\b(if|while) \(", code):
        if code[: match.start()].rstrip().endswith("constexpr"):
            continue
        opened = match.end() - 1
        closed = closing(code, opened)
        begin = opened + 1
        while True:  # what follows the initializer
            semicolon = stop_at_depth_0(code, begin, ";")
            if semicolon >= closed:
                break
            begin = semicolon + 1
        while code[begin].isspace():
            begin += 1
        if DECLARATION.match(code[begin:closed]):
            continue
        found.append((begin, closed, match[1], ends_early(code, closed + 1) if match[1] == "if" else None))
    for match in re.finditer(r"\bfor \(", code):
        closed = closing(code, match.end() - 1)
        first = stop_at_depth_0(code, match.end(), ";")
        if first >= closed:
            continue
        second = stop_at_depth_0(code, first + 1, ";")
        if code[first + 1: second].strip():
            found.append((first + 2, second, "for", None))
    for match in re.finditer(r"\breturn (?![{;])", code):
        found.append((match.end(), stop_at_depth_0(code, match.end(), ";"), "return", None))
    for match in re.finditer(r"(?<=\s)[-+|&]?=\s+(?![{\[])", code):
        line_start = max(code.rfind(c, 0, match.start()) for c in ";{}")
        before = code[line_start + 1: match.start()]
        end = stop_at_depth_0(code, match.end(), ";")
        if end >= len(code) or code[end] != ";" or re.search(r"\b(constexpr|using|enum|template|operator)\b", before):
            continue
        if "(" in before and before.count("(") != before.count(")"):
            continue  # inside an if or a for, which are units of their own, or a default argument
        found.append((match.end(), end, "value", None))
    for match in re.finditer(r"\bEXCLAVE_CHECK(?=\()", code):
        found.append((match.end() + 1, closing(code, match.end()), "check", None))
    chosen = []
    for unit in sorted(found, key=lambda u: (u[0], -u[1])):
        inner = code[unit[0]: unit[1]]
        if ";" in inner or not inner.strip() or chosen and unit[0] < chosen[-1][1]:
            continue
        chosen.append(unit)
    return chosen


def skipped(code):
    """Ranges in which nothing is mutated: what is decided when compiling, debug checks, the books' validate()."""
    ranges = []
    for match in re.finditer(r"\b(static_assert|EXCLAVE_DCHECK|decltype|requires|noexcept)\s*\(", code):
        ranges.append((match.start(), closing(code, match.end() - 1)))
    for match in re.finditer(r"\b(?:validate|summary_holds|\w+_holds_locked)\(", code):
        after = closing(code, match.end() - 1) + 1
        body = re.compile(r"\s*(?:const\s+)?(?:noexcept\s+)?\{").match(code, after)
        if body:
            ranges.append((match.start(), closing(code, body.end() - 1)))
    return ranges


def statements(code):
    """(begin, end) of the statements in blocks, without the semicolon."""
    found, brackets, begin = [], [("class", 0)], 0
    for i, c in enumerate(code):
        if c in "([{":
            # What stands in a class or a namespace is a declaration.
            brackets.append(("class" if c == "{" and SCOPE.search(code, begin, i) else c, begin))
        elif c in ")]}":
            _, before = brackets.pop()
            if c == "}" and brackets[-1][0] in "([":
                begin = before  # a lambda in a call, which goes on
                continue
        if c == ";" and brackets[-1][0] == "{" and code[begin:i].strip():
            first = begin + len(code[begin:i]) - len(code[begin:i].lstrip())
            found.append((first, i))
        if c in "{}" or c == ";" and brackets[-1][0] == "{":
            begin = i + 1
    return found


def mutants_of(path, text, leave_out=False):
    """leave_out: statements are left out, too."""
    code = blank(text)
    out = skipped(code)
    found = []

    def add(unit, kind, first, last, new, shown):
        found.append(Mutant(path, text, unit, kind, first, last, new, shown))

    for unit in units(text, code):
        begin, end, where, jump = unit
        if any(first <= begin < last for first, last in out):
            continue
        inner = code[begin:end]
        if where == "if" and jump is not None:
            add(unit, "guard", begin, end, "false", "never")
            failure = re.search(r"Error::|\berror\(\)|\bfalse\b|nullptr|\s-k\w|\bbad\b|\b0\b|\breport\(|\bcontinue|\bbreak|throw|fail", jump[0] + jump[1])
            if not failure:
                add(unit, "guard", begin, end, "true", "always")
        if where == "check":
            add(unit, "check", begin, end, "true", "not checked")
        for first, last, operator in terms(code, begin, end):
            add(unit, "term", first, last, "true" if operator == "&&" else "false",
                f"without `{one_line(text[first:last])}`")
        for match in COMPARISON.finditer(inner):
            new = FLIPS[match[1]]
            around = one_line(text[max(begin, begin + match.start() - 24): min(end, begin + match.end() + 24)])
            add(unit, "compare", begin + match.start(), begin + match.end(), new, f"{match[1]} to {new} in `{around}`")
        for match in BOUND.finditer(inner):
            around = one_line(text[max(begin, begin + match.start() - 24): min(end, begin + match.end() + 8)])
            add(unit, "bound", begin + match.start(), begin + match.end(), match[1] + " 0", f"1 to 0 in `{around}`")
        for match in SWAP.finditer(inner):
            opened = begin + inner.index("(", match.start())
            closed = closing(code, opened)
            new_value = code[opened + 1: closed].split(",")[1].strip()
            add(unit, "state", begin + match.start(), closed + 1,
                f"({match[1]}store({new_value}, std::memory_order_relaxed), true)", "state not compared")
        for match in re.finditer(r"\b(check_outside|check_options|verify_reply)(?=\()", inner):
            opened = begin + match.end()
            closed = closing(code, opened)
            arguments = []
            at = opened + 1
            while at < closed:
                comma = min(stop_at_depth_0(code, at, ","), closed)
                arguments.append(one_line(code[at:comma]))
                at = comma + 1
            new = ("exclave::Status{}" if match[1] != "verify_reply" else
                   f"exclave::Result<exclave::Extent>(exclave::Extent{{({arguments[0]}).address, ({arguments[1]})}})")
            add(unit, "verify", begin + match.start(), closed + 1, new, f"{match[1]} says yes")
    for first, last in statements(code) if leave_out else []:
        # What is in a lambda's body is a statement of its own.
        if DOES.fullmatch(code, first, last) and not any(begin <= first < end for begin, end in out):
            add((first, last, "statement", None), "statement", first, last, "", "left out")
    seen = {}
    for mutant in found:
        key = mutant.key()
        seen[key] = seen.get(key, 0) + 1
        mutant.twin = seen[key] if seen[key] > 1 else 0
    if len(found) > PER_FILE:
        raise ValueError(f"{path}: more than {PER_FILE} mutants")
    return found


def rewritten(text, mutants, first_number):
    """The source with the mutants in it. mutants: (index in the file, mutant); lines stay where they are."""
    by_unit = {}
    for index, mutant in mutants:
        # A statement keeps its text, in which there may be other mutants.
        end = mutant.begin if mutant.kind == "statement" else mutant.end
        by_unit.setdefault((mutant.begin, end), []).append((first_number + index, mutant))
    for (begin, end), group in sorted(by_unit.items(), reverse=True):
        if begin == end:
            text = f"{text[:begin]}if (exclave_mutates({group[0][0]})) {{}} else {text[begin:]}"
            continue
        cast = "static_cast<bool>" if group[0][1].boolean else ""
        choices = "".join(f"exclave_mutates({number}) ? {cast}({one_line(mutant.expression(text))}) : "
                          for number, mutant in group)
        original = re.sub(r"//[^\n]*", "", text[begin:end])
        text = f"{text[:begin]}({choices}{cast}({original})){text[end:]}"
    return text
