# Values as JSON, the same on both sides. What is built on a built-in type travels as that type; anything else stays
# where it is, and the other side gets a reference to it.
import builtins, collections, importlib, json, os, sys

if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)

SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
WRITTEN = {
    "decimal.Decimal": str,
    "fractions.Fraction": str,
    "datetime.date": lambda value: value.isoformat(),
    "datetime.datetime": lambda value: value.isoformat(),
    "datetime.time": lambda value: value.isoformat(),
    "datetime.timedelta": lambda value: [value.days, value.seconds, value.microseconds],
}
# Longest message, in bytes.
LONGEST = 32 << 20


class Channel:
    def __init__(self, source, sink):
        self.source, self.sink = os.fdopen(source, "rb"), os.fdopen(sink, "wb")

    def send(self, message):
        self.sink.write(json.dumps(message).encode() + b"\n")
        self.sink.flush()

    def receive(self):
        line = self.source.readline(LONGEST)
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line)

    def encode(self, value):
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in WRITTEN:
            return ["written", name, WRITTEN[name](value)]
        if kind is type and getattr(builtins, value.__name__, None) is value:
            return ["type", value.__name__]
        if kind.__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", None):
            return self.encode(value.item())
        for base in (int, float):
            if isinstance(value, base):
                return base(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ["namedtuple", kind.__name__, list(kind._fields), [self.encode(item) for item in value]]
        for tag, base in SEQUENCES.items():
            if isinstance(value, base):
                return [tag, [self.encode(item) for item in value]]
        if isinstance(value, dict):
            return ["dict", [[self.encode(key), self.encode(item)] for key, item in value.items()]]
        if isinstance(value, (bytes, bytearray)):
            return [kind.__name__, value.hex()]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is range:
            return ["range", value.start, value.stop, value.step]
        return self.refer(value)

    def decode(self, value):
        if not isinstance(value, list):
            return value
        tag, *rest = value
        if tag in SEQUENCES:
            return SEQUENCES[tag](self.decode(item) for item in rest[0])
        if tag == "namedtuple":
            return collections.namedtuple(rest[0], rest[1])(*(self.decode(item) for item in rest[2]))
        if tag == "dict":
            return {self.decode(key): self.decode(item) for key, item in rest[0]}
        if tag in ("bytes", "bytearray"):
            return getattr(builtins, tag).fromhex(rest[0])
        if tag in ("complex", "range"):
            return getattr(builtins, tag)(*rest)
        if tag == "type" and isinstance(getattr(builtins, rest[0], None), type):
            return getattr(builtins, rest[0])
        if tag == "written" and rest[0] in WRITTEN:
            module, name = rest[0].split(".")
            kind = getattr(importlib.import_module(module), name)
            if isinstance(rest[1], list):
                return kind(*rest[1])
            return kind.fromisoformat(rest[1]) if module == "datetime" else kind(rest[1])
        return self.resolve(tag, *rest)
