"""A chat server on the loopback for tests and benchmarks: a reply is a function of the request, after a fixed time.

Runs in a thread of its own. `answer` gets the text of a request's last turn and its seed; it may be a dictionary with
one for each model. `sent` has the times of each request that was answered: its arrival, and when its reply was handed
to the operating system. `repeated` has the times of the earlier request for each request that is repeated.
"""
import asyncio
import hashlib
import json
import threading
import time


class MockChat:
    def __init__(self, answer, seconds, slots=1 << 20):
        """At most `slots` requests are worked on at once, `seconds` each; others wait."""
        self.answer, self.seconds, self.slots = answer, seconds, slots
        self.sent = {}
        self.repeated = []
        self.n_requests, self.most_at_once, self.port = 0, 0, None
        self.lock = threading.Lock()
        self._is_listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._is_listening.wait()

    async def _serve(self):
        self._free, self._at_once = asyncio.Semaphore(self.slots), 0
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        await server.serve_forever()

    async def _connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").lower().split("\r\n")[1:]
                fields = dict(line.split(":", 1) for line in lines if ":" in line)
                body, arrived = await reader.readexactly(int(fields.get("content-length", "0"))), time.monotonic()
                reply = await self._reply(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             + f"Content-Length: {len(reply)}\r\n\r\n".encode() + reply)
                await writer.drain()
                with self.lock:
                    self.sent[hashlib.sha256(body).hexdigest()] = arrived, time.monotonic()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, body):
        request, key = json.loads(body), hashlib.sha256(body).hexdigest()
        with self.lock:
            self.n_requests += 1
            if key in self.sent:
                self.repeated.append(self.sent[key])
        async with self._free:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            await asyncio.sleep(self.seconds)
            self._at_once -= 1
        answer = self.answer[request["model"]] if isinstance(self.answer, dict) else self.answer
        text = answer(request["messages"][-1]["content"], request.get("seed", 0))
        return json.dumps({
            "id": "m", "object": "chat.completion", "created": 0, "model": request["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}}).encode()


def drawn(*parts):
    """A pseudorandom number that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")
