"""Runs the cells of a notebook one after the other in one namespace. Standard input has a JSON object with `cells`,
`files` (name to text) and `max_output_characters`; standard output gets a JSON list, an object for each cell."""
import ast
import builtins
import io
import json
import os
import re
import sys
import traceback

ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
CUT = "\n[the output was cut here]"


class Written(io.BytesIO):
    """A file that is kept for later cells when it is closed."""

    def __init__(self, files, name, beginning):
        super().__init__()
        self.files, self.name = files, name
        self.write(beginning)

    def close(self):
        if not self.closed:
            self.files[self.name] = self.getvalue()
        super().close()


def serve(files):
    """Makes `open` find the files of the notebook, which are in memory."""
    real = builtins.open

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        name = None if isinstance(file, int) else os.path.normpath(os.fspath(file))
        is_written = any(letter in mode for letter in "wax")
        is_here = isinstance(name, str) and (name in files or is_written and not os.path.dirname(name))
        if not is_here:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if is_written and "x" in mode and name in files:
            raise FileExistsError(f"File exists: {name!r}")
        raw = Written(files, name, files.get(name, b"") if "a" in mode else b"") if is_written else io.BytesIO(files[name])
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
    except Exception:
        message = ""
    return place + ADDRESS.sub("0x...", f"{type(raised).__name__}: {message}")


def run(number, code, namespace, limit):
    """Prints go to the output; the value of a last expression follows, as in a notebook."""
    name, out, error = f"<cell {number}>", io.StringIO(), None
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = out
    try:
        tree = ast.parse(code, name)
        is_value = bool(tree.body) and isinstance(tree.body[-1], ast.Expr)
        last = ast.Expression(tree.body.pop().value) if is_value else None
        exec(compile(tree, name, "exec"), namespace)
        value = eval(compile(last, name, "eval"), namespace) if last else None
        if value is not None:
            print(repr(value))
    except BaseException as raised:
        error = described(raised, name, code)[:limit]
    finally:
        sys.stdout, sys.stderr = before
    text = out.getvalue().strip("\n")
    text = text[:limit] + CUT if len(text) > limit else text
    return {"text": "\n".join(part for part in (text, error) if part), "is_error": error is not None}


def main():
    given = json.load(sys.stdin.buffer)
    # What a cell writes past `sys.stdout` is no result.
    results = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve({name: text.encode() for name, text in given["files"].items()})
    namespace, limit = {"__name__": "__main__"}, given["max_output_characters"]
    cells = [run(i + 1, code, namespace, limit) for i, code in enumerate(given["cells"])]
    with os.fdopen(results, "w") as out:
        json.dump(cells, out)


main()
