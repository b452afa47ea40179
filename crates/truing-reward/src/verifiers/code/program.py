# The side of the program under test: runs it, then does what the tests ask of it. It is told no test, so whatever the
# program does here, it can only give answers.
import operator, types


class Program(Channel):
    def __init__(self):
        super().__init__(os.dup(0), os.dup(1))
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        self.module = types.ModuleType("program")
        sys.modules["program"] = self.module
        self.objects, self.numbers = [], {}
        self.send("ready")

    def refer(self, value):
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return ["object", number]

    def resolve(self, tag, number):
        if tag == "object":
            return self.objects[number]
        if tag == "iterator":
            return iter([self.decode(item) for item in number])
        return lambda *args: self.call_back(number, args)

    def call_back(self, number, args):
        self.send({"call_back": number, "args": self.encode(list(args))})
        reply = self.receive()
        while "do" in reply:
            self.answer(reply)
            reply = self.receive()
        if "error" in reply:
            kind, args = reply["error"]
            raise getattr(builtins, kind, Exception)(*self.decode(args))
        return self.decode(reply["value"])

    def run(self, code):
        exec(compile(code, "program", "exec"), self.module.__dict__)

    def names(self, names):
        found = {name: self.module.__dict__[name] for name in names if name in self.module.__dict__}
        return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}

    def call(self, target, args, kwargs):
        value = target(*args, **kwargs)
        # What works in place gives nothing, and its arguments are what it did.
        return (value, args) if value is None else (value,)

    def ask(self, name, *args):
        return getattr(builtins, name)(*args)

    def operate(self, name, *args):
        return getattr(operator, name)(*args)

    def answer(self, message):
        try:
            action = getattr(self, message["do"])
            reply = {"value": self.encode(action(*(self.decode(item) for item in message["with"])))}
        except StopIteration:
            reply = {"stop": True}
        except BaseException as error:
            try:
                reply = {"error": [type(error).__name__, self.encode(list(error.args)), str(error)]}
            except BaseException:
                reply = {"error": [type(error).__name__, ["list", []], ""]}
        self.send(reply)

    def serve(self):
        while True:
            try:
                message = self.receive()
            except EOFError:
                return
            self.answer(message)


Program().serve()
