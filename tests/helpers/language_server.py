"""A client of a language server, as an editor is one: JSON messages behind a `Content-Length` line, over two pipes.

Protocol: https://microsoft.github.io/language-server-protocol, version 3.17; only what the tests of the editors need.
"""

import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Message = dict[str, Any]
TIMEOUT_SECONDS = 60


class LanguageServer:
    """A running server. It is asked one thing at a time.

    Args:
        command: How to start it, so that it speaks over its standard input and output.
        root: The folder that is open in the editor.
        settings: Settings by section, such as `yaml`; the server asks for them.
        environment: Further environment variables.
    """

    def __init__(
        self,
        command: Sequence[str],
        root: Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._sent = 0
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        hover = {"contentFormat": ["markdown"]}
        item = {"snippetSupport": True, "documentationFormat": ["markdown"]}
        text = {"hover": hover, "completion": {"completionItem": item}, "publishDiagnostics": {}}
        capabilities = {"workspace": {"configuration": True}, "textDocument": text}
        folders = [{"uri": root.as_uri(), "name": root.name}]
        options = {"processId": os.getpid(), "rootUri": root.as_uri(), "workspaceFolders": folders}
        self.request("initialize", {**options, "capabilities": capabilities})
        self.notify("initialized", {})
        self.notify("workspace/didChangeConfiguration", {"settings": dict(settings)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._reader.join()  # which sees the end of the output
        with self._process:
            pass  # closes the pipes

    def request(self, method: str, parameters: Mapping[str, Any]) -> Any:
        """Sends a request and returns its result; raises if the server reports an error."""
        self._sent += 1
        self._send({"id": self._sent, "method": method, "params": parameters})
        while True:
            message = self._next(method)
            if message.get("id") == self._sent and "method" not in message:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message.get("result")

    def notify(self, method: str, parameters: Mapping[str, Any]) -> None:
        """Sends a notification, which has no answer."""
        self._send({"method": method, "params": parameters})

    def open(self, path: Path, text: str) -> list[Message]:
        """Opens a document and returns what the server finds wrong in it.

        It need not exist as a file. Each has a path of its own: of one that is opened again, old faults may come first.
        """
        document = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})
        while True:
            message = self._next("textDocument/publishDiagnostics")
            if message.get("method") == "textDocument/publishDiagnostics":
                found: Message = message["params"]
                if found["uri"] == path.as_uri():
                    diagnostics: list[Message] = found["diagnostics"]
                    return diagnostics

    def completions(self, path: Path, line: int, character: int) -> list[Message]:
        """Returns what the server offers at a place of an open document; lines and characters count from 0."""
        found = self.request("textDocument/completion", _place(path, line, character))
        items: list[Message] = found["items"] if isinstance(found, dict) else found or []
        return items

    def hover(self, path: Path, line: int, character: int) -> str:
        """Returns what the server says of the text at a place, in Markdown; empty if nothing."""
        found = self.request("textDocument/hover", _place(path, line, character))
        return str(found["contents"]["value"]) if found else ""

    def _send(self, message: Message) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        pipe.flush()

    def _read(self) -> None:
        """Puts every message of the server into the queue, and None at the end of its output."""
        pipe = self._process.stdout
        assert pipe is not None
        length = 0
        while line := pipe.readline():
            name, _, value = line.decode("ascii").partition(":")
            if name.lower() == "content-length":
                length = int(value)
            elif not line.strip():
                self._messages.put(json.loads(pipe.read(length)))
        self._messages.put(None)

    def _next(self, waiting_for: str) -> Message:
        """Returns the next message, after an answer to it if it is a request of the server's own."""
        try:
            message = self._messages.get(timeout=TIMEOUT_SECONDS)
        except queue.Empty:
            raise TimeoutError(f"no {waiting_for} from the server within {TIMEOUT_SECONDS} s") from None
        if message is None:
            raise RuntimeError(f"the server ended while it was asked for {waiting_for}")
        if "id" in message and "method" in message:
            self._send({"id": message["id"], "result": self._answer(message)})
        return message

    def _answer(self, message: Message) -> Any:
        if message["method"] != "workspace/configuration":
            return None
        return [self._settings.get(item.get("section")) for item in message["params"]["items"]]


def _place(path: Path, line: int, character: int) -> Message:
    return {"textDocument": {"uri": path.as_uri()}, "position": {"line": line, "character": character}}
