"""Runs the cells of a notebook one after the other in one namespace. Standard input has a JSON object with `cells`,
`files` (name to text), `max_output_characters` and `cut`, the line after an output that was cut; standard output gets a
JSON list, an object for each cell."""
import sys

# There are no modules in the working folder.
sys.path[:] = [path for path in sys.path if path]

import ast
import builtins
import io
import json
import os
import re
import traceback
import types

ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


class Printed(io.BufferedIOBase):
    """What a cell prints, up to a number of characters. All cells share it, because a logger keeps its stream."""

    def __init__(self, limit):
        self.limit, self.kept, self.is_cut = limit, bytearray(), False

    def writable(self):
        return True

    def write(self, data):
        data = memoryview(data).cast("B")
        # A character has at most four bytes.
        room = max(4 * self.limit - len(self.kept), 0)
        self.kept += data[:room]
        if len(data) > room and not self.is_cut:
            self.is_cut = bool(bytes(data[room:]).strip(b"\n"))
        return len(data)

    def close(self):
        """Stays open for later cells."""

    def take(self, cut):
        text = self.kept.decode("utf-8", "replace").strip("\n")
        is_cut = self.is_cut or len(text) > self.limit
        self.kept, self.is_cut = bytearray(), False
        return f"{text[:self.limit]}\n{cut}" if is_cut else text


class Read(io.BytesIO):
    def __init__(self, name, content):
        super().__init__(content)
        self.name = name

    def writable(self):
        return False


class Written(io.BytesIO):
    """A file that can be written. Other readers see its content at the last open, flush or close."""

    def __init__(self, files, name, mode):
        super().__init__(files[name] if "r" in mode or "a" in mode and name in files else b"")
        self.files, self.name, self.mode = files, name, mode
        self.seek(0, os.SEEK_END if "a" in mode else os.SEEK_SET)
        self.flush()

    def readable(self):
        return "+" in self.mode

    def write(self, data):
        if "a" in self.mode:
            self.seek(0, os.SEEK_END)
        return super().write(data)

    def flush(self):
        self.files[self.name] = self.getvalue()

    def close(self):
        if not self.closed:
            self.flush()
        super().close()


def is_valid(mode):
    letters = set(mode)
    is_known = letters <= set("rwaxbt+") and len(letters) == len(mode)
    return is_known and len(letters & set("rwax")) == 1 and not letters >= set("bt")


def name_of(file):
    """The name of a file in the working folder; `None` for any other file."""
    name = None if isinstance(file, int) else os.path.normpath(os.fspath(file))
    if not isinstance(name, str) or name in (".", ".."):
        return None
    folder, last = os.path.split(name)
    return last if folder in ("", os.getcwd()) else None


def serve(files):
    """Makes `open` find the files of the notebook, which are in memory."""
    real = builtins.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        name = name_of(file)
        if name is None or not is_valid(mode) or "r" in mode and name not in files:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if "x" in mode and name in files:
            raise FileExistsError(17, "File exists", name)
        is_read = mode in ("r", "rb", "br", "rt", "tr")
        raw = io.BufferedReader(Read(name, files[name])) if is_read else Written(files, name, mode)
        if "b" in mode:
            return raw
        return io.TextIOWrapper(raw, encoding or "utf-8", errors, newline, write_through=True)

    builtins.open = io.open = opened


def described(raised, name, code):
    """The line of the cell that failed, the kind of error and its message. Addresses differ from run to run."""
    number = raised.lineno if isinstance(raised, SyntaxError) and raised.filename == name else None
    for frame, line in traceback.walk_tb(raised.__traceback__):
        if frame.f_code.co_filename == name:
            number = line
    lines = code.splitlines()
    place = f"line {number}: {lines[number - 1].strip()}\n" if number and number <= len(lines) else ""
    try:
        message = str(raised)
    except BaseException:
        message = ""
    text = place + ADDRESS.sub("0x...", f"{type(raised).__name__}: {message}")
    # A lone surrogate cannot be encoded.
    return text.encode("utf-8", "backslashreplace").decode()


def run(number, code, namespace, printed, stream):
    """Prints go to the output; the value of a last expression follows, as in a notebook. Returns the error, if any."""
    name = f"<cell {number}>"
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = stream
    try:
        tree = ast.parse(code, name)
        is_value = bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
        last = ast.Expression(tree.body.pop().value) if is_value else None
        exec(compile(tree, name, "exec"), namespace)
        value = eval(compile(last, name, "eval"), namespace) if last else None
        if value is not None:
            printed.write(f"{value!r}\n".encode("utf-8", "backslashreplace"))
    except BaseException as raised:
        return described(raised, name, code)
    finally:
        sys.stdout, sys.stderr = before


def main():
    given = json.load(sys.stdin.buffer)
    # What a cell writes to the descriptor 1 is not part of the results.
    results = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve({name: text.encode() for name, text in given["files"].items()})
    # `pickle` finds the classes of cells by this module.
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    limit, cells = given["max_output_characters"], []
    printed = Printed(limit)
    stream = io.TextIOWrapper(printed, "utf-8", write_through=True)
    for i, code in enumerate(given["cells"]):
        error = run(i + 1, code, module.__dict__, printed, stream)
        parts = printed.take(given["cut"]), (error or "")[:limit]
        cells.append({"text": "\n".join(part for part in parts if part), "is_error": error is not None})
    with os.fdopen(results, "w") as out:
        json.dump(cells, out)


main()
