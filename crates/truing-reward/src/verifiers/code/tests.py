# The side of the tests, a process that the program cannot reach. Values come over as built-in types, so comparing them
# runs nothing of the program's.
import ast


class Failed(Exception):
    """What the program raised, where it is no built-in exception."""


class BadTests(BaseException):
    """The row cannot be judged. Tests that expect an exception do not get this one."""


class Object:
    """Something that stays on the program's side."""

    def __init__(self, program, number):
        object.__setattr__(self, "_Object__at", (program, number))

    def __call__(self, *args, **kwargs):
        program, _ = self.__at
        value, *after = program.do("call", self, list(args), kwargs)
        if value is None and after:
            for mine, theirs in zip(args, after[0]):
                take_over(mine, theirs)
        return value

    def __ask(self, name, *args):
        return self.__at[0].do("ask", name, self, *args)

    def __getattr__(self, name):
        return self.__ask("getattr", name)

    def __setattr__(self, name, value):
        self.__ask("setattr", name, value)

    def __iter__(self):
        return self.__ask("iter")

    def __next__(self):
        return self.__ask("next")

    def __len__(self):
        return self.__ask("len")

    def __bool__(self):
        return self.__ask("bool")

    def __str__(self):
        return self.__ask("str")

    def __repr__(self):
        return self.__ask("repr")

    def __getitem__(self, key):
        return self.__at[0].do("operate", "getitem", self, key)

    def __setitem__(self, key, value):
        self.__at[0].do("operate", "setitem", self, key, value)

    def __contains__(self, item):
        return self.__at[0].do("operate", "contains", self, item)

    def __instancecheck__(self, value):
        return isinstance(value, Object) and self.__at[0].do("ask", "isinstance", value, self)

    def __hash__(self):
        return id(self)


def operator_of(name):
    def operate(self, other):
        # Only among the program's own: it does not say whether it equals what a test expects.
        if not isinstance(other, Object):
            return NotImplemented
        return self._Object__at[0].do("operate", name, self, other)

    return operate


for name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    setattr(Object, f"__{name}__", operator_of(name))


def take_over(mine, theirs):
    """Makes a mutable argument what the program made of it."""
    if type(mine) is not type(theirs) or mine == theirs:
        return
    if isinstance(mine, (list, bytearray)):
        mine[:] = theirs
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(theirs)


class Judge(Channel):
    def __init__(self, source, sink):
        super().__init__(source, sink)
        self.objects, self.callbacks = {}, []

    def refer(self, value):
        if isinstance(value, Object):
            return ["object", value._Object__at[1]]
        if hasattr(type(value), "__next__"):
            return ["iterator", [self.encode(item) for item in value]]
        if callable(value):
            self.callbacks.append(value)
            return ["callback", len(self.callbacks) - 1]
        raise BadTests(f"a {type(value).__name__} cannot be handed to the program")

    def resolve(self, tag, number):
        if tag != "object":
            raise ValueError(tag)
        if number not in self.objects:
            self.objects[number] = Object(self, number)
        return self.objects[number]

    def do(self, action, *args):
        message = {"do": action, "with": [self.encode(arg) for arg in args]}
        try:
            self.send(message)
            reply = self.receive()
            while "call_back" in reply:
                self.send(self.call_back(reply))
                reply = self.receive()
            if "stop" in reply:
                # Elsewhere than at the end of an iterator it would end the tests' own loops.
                value = StopIteration() if args[0] == "next" else Failed("StopIteration")
            elif "error" in reply:
                value = exception_of(self, *reply["error"])
            else:
                return self.decode(reply["value"])
        except BadTests:
            raise
        except BaseException:
            # It ended, or does not keep to the form. No test may catch that.
            os._exit(3)
        raise value

    def call_back(self, message):
        try:
            value = self.callbacks[message["call_back"]](*self.decode(message["args"]))
            return {"value": self.encode(value)}
        except BadTests:
            raise
        except Exception as error:
            return {"error": [type(error).__name__, self.encode([str(error)])]}


def exception_of(judge, name, args, text):
    kind = getattr(builtins, name, None)
    try:
        if issubclass(kind, Exception) and not issubclass(kind, (StopIteration, StopAsyncIteration)):
            error = kind(*judge.decode(args))
            error.is_the_programs = True
            return error
    except Exception:
        pass
    return Failed(name, text)


def fill(space, judge, tests, entry_point):
    """Names that the tests take from the program, and modules that they take from it only by way of imports."""
    names = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
    attributes = [node for node in ast.walk(tests) if isinstance(node, ast.Attribute)]
    before_dot = [node.value for node in attributes if isinstance(node.value, ast.Name)]
    alone = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name) and node not in before_dot}
    # A module that tests rely on is the real one, not what the program calls so.
    for name in (names - alone) & set(getattr(sys, "stdlib_module_names", ())):
        space[name] = importlib.import_module(name)
    theirs = {name for name in names if not hasattr(builtins, name)} - space.keys()
    theirs |= {entry_point} - {None}
    # Built-in functions are the real ones, unless the program's only function is called like one.
    for wanted in (theirs, names):
        found = {name: value for name, value in judge.do("names", sorted(wanted)).items() if name in wanted}
        if found:
            space.update(found)
            return


def judge_row(judge, row):
    try:
        tests = ast.parse(row["tests"], "tests")
    except SyntaxError as error:
        raise BadTests(f"the tests cannot be read: {error}") from None
    judge.do("run", row["code"])
    space = {"__name__": "tests"}
    entry_point = row["entry_point"]
    fill(space, judge, tests, entry_point)
    program = space.get(entry_point)
    try:
        # Helpers of the prompt are the prompt's, whatever the program makes of them.
        exec(compile(row["prompt"], "prompt", "exec"), space)
    except Exception:
        pass
    if entry_point is not None:
        if not isinstance(program, Object):
            raise Failed(f"no function `{entry_point}`")
        space[entry_point] = program
    before = set(space)
    exec(compile(tests, "tests", "exec"), space)
    if entry_point is not None and "check" in space:
        space["check"](program)
    for name, function in list(space.items()):
        if name.startswith("test_") and name not in before and callable(function):
            function()


def describe(error):
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}"[:300]


def main():
    row = json.loads(sys.stdin.read())
    verdict = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    judge = Judge(int(sys.argv[-2]), int(sys.argv[-1]))
    judge.receive()
    # Without these words it is no fault of the program's that nothing was found.
    os.write(verdict, b"ready\n")
    try:
        judge_row(judge, row)
        result = {"passed": True}
    except (BadTests, SystemExit) as error:
        result = {"bad_row": describe(error)}
    except BaseException as error:
        is_the_rows = isinstance(error, ImportError) and not hasattr(error, "is_the_programs")
        key = "bad_row" if is_the_rows else "failed"
        result = {key: describe(error)}
    os.write(verdict, json.dumps(result).encode())
    os._exit(0)


main()
