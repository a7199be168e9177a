"""Runs the receivers of docs/clients.md against callbacks of a running quartet.

Each receiver whose runtime is here is started, registered as a client and posted for. Between
quartet and the receiver stands a proxy that keeps the callbacks, so that they can be sent again:
as they were, tampered with, and too old. The arguments: the URL, the command of quartet, the
directory to work in.
"""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from urllib.request import Request, urlopen

from quartet_models import StatusNotification

BOUND = 60
GO_IMPORTS = (
    "crypto/hmac crypto/sha256 encoding/base64 encoding/json fmt io net/http os strconv "
    "strings sync time"
)

url, quartet, work = sys.argv[1], sys.argv[2], Path(sys.argv[3])


def go(code):
    imports = "\n".join(f'import "{name}"' for name in GO_IMPORTS.split())
    return f"package main\n{imports}\nfunc main() {{\n{code}\n}}\n"


def typescript(file, port):
    project = ["--rootDir", str(work), "--outDir", str(work / "dist")]
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--types", "node"]
    tsc = str(work / "node_modules/.bin/tsc")
    subprocess.run([tsc, *options, *project, str(file)], check=True, cwd=work)
    return ["node", str(work / "dist" / file.with_suffix(".js").name)]


# Fence of the page -> runtime, file, what is around the code, command.
LANGUAGES = {
    "python": ("python3", "receiver.py", str, lambda file, port: [sys.executable, str(file)]),
    "typescript": ("node", "receiver.ts", str, typescript),
    "go": ("go", "receiver.go", go, lambda file, port: ["go", "run", str(file)]),
    "ruby": ("ruby", "receiver.rb", str, lambda file, port: ["ruby", str(file)]),
    "php": (
        "php", "receiver.php", str,
        lambda file, port: ["php", "-S", f"127.0.0.1:{port}", str(file)],
    ),
}


def wait_until(what, condition):
    until = time.monotonic() + BOUND
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    sys.exit(f"error: {what}: not within {BOUND} s")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def send(port, headers, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", "/callback", body=body, headers=headers)
    return connection.getresponse().status


class Proxy(http.server.ThreadingHTTPServer):
    """Hands callbacks on to the receiver and keeps them with its answers."""

    def __init__(self, receiver_port):
        self.receiver_port, self.callbacks = receiver_port, []
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        names = [name for name in self.headers if name.startswith("webhook-")] + ["content-type"]
        headers = {name: self.headers[name] for name in names}
        status = send(self.server.receiver_port, headers, body)
        self.server.callbacks.append((status, headers, body))
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


def call(key, method, path, body=None):
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(url + path, data, headers, method=method), timeout=40) as answer:
        return json.load(answer)


def sign(secret, headers, body, sent):
    """The headers with another time, correctly signed."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{sent}.".encode() + body
    mac = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {**headers, "webhook-timestamp": str(sent), "webhook-signature": f"v1,{mac}"}


def check(language, code):
    runtime, name, wrap, command = LANGUAGES[language]
    file, port, said = work / name, free_port(), work / f"{language}.out"
    file.write_text(wrap(code))
    proxy = Proxy(port)
    add = ["clients", "add", f"{language}-{uuid.uuid4().hex[:8]}", "--json"]
    callback = f"http://127.0.0.1:{proxy.server_port}/callback"
    added = subprocess.run(
        [quartet, *add, "--callback-url", callback], check=True, stdout=subprocess.PIPE
    )
    client = json.loads(added.stdout)
    key, secret = client["api_key"], client["signing_secret"]
    settings = {**os.environ, "SIGNING_SECRET": secret, "PORT": str(port), "TMPDIR": str(work)}
    log = work / f"{language}.log"
    with open(said, "wb") as output, open(log, "wb") as errors:
        receiver = subprocess.Popen(
            command(file, port), env=settings, stdout=output, stderr=errors, cwd=work
        )
    try:
        def listening():
            if receiver.poll() is not None:
                sys.exit(f"error: the receiver in {language} ended: {log.read_text()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(f"the receiver in {language} listens", listening)
        new = {"id": str(uuid.uuid4()), "amount": 1250, "currency": "EUR"}
        call(key, "POST", "/v1/transactions", new)
        path = f"/v1/transactions/{new['id']}"

        def told():
            transaction = call(key, "GET", f"{path}?wait_seconds=10")
            is_told = transaction["notified_version"] == transaction["version"]
            return transaction["status"] != "pending" and is_told and transaction

        ended = wait_until(f"the receiver in {language} was notified", told)
        lines = lambda: said.read_text().splitlines()
        last = f"{new['id']} {ended['status']}"
        wait_until(f"{last} is printed", lambda: last in lines())
        applied = lines()

        status, headers, body = proxy.callbacks[-1]
        notification = StatusNotification.model_validate_json(body)
        assert status == 204 and notification.version == ended["version"], proxy.callbacks
        assert str(notification.id) == new["id"], body
        now = int(time.time())
        tampered = body.replace(b'"version":', b'"version":9')
        other = {**headers, "webhook-signature": "v1," + base64.b64encode(bytes(32)).decode()}
        unsigned = {name: value for name, value in headers.items() if "signature" not in name}
        for what, sent_headers, sent_body in [
            ("tampered with", headers, tampered),
            ("of another time", {**headers, "webhook-timestamp": str(now - 7)}, body),
            ("of another id", {**headers, "webhook-id": headers["webhook-id"] + "0"}, body),
            ("with another signature", other, body),
            ("without a signature", unsigned, body),
            ("too old", sign(secret, headers, tampered, now - 400), tampered),
            ("too new", sign(secret, headers, tampered, now + 400), tampered),
        ]:
            answer = send(port, sent_headers, sent_body)
            assert answer == 401, f"{language}: a callback {what} was answered {answer}"
        # A repeat, one that was signed anew and an older version are acknowledged and not applied.
        older = body.replace(f'"version":{ended["version"]}'.encode(), b'"version":0')
        two = sign(secret, headers, body, now)
        two["webhook-signature"] = f"v1,AAAA {two['webhook-signature']}"
        repeats = [(headers, body), (two, body), (sign(secret, headers, older, now), older)]
        for sent_headers, sent_body in repeats:
            assert send(port, sent_headers, sent_body) == 204, f"{language}: a repeat is refused"
        assert lines() == applied, f"{language}: a repeat was applied: {lines()}"
        print(f"receiver in {language}: {len(proxy.callbacks)} callbacks verified, 7 forged ones "
              "refused, 3 repeats acknowledged and not applied")
    finally:
        receiver.terminate()
        receiver.wait()
        proxy.shutdown()


blocks = dict(re.findall(r"```(\w+)\n(.*?)```", Path("docs/clients.md").read_text(), re.DOTALL))
checked = 0
for language, (runtime, *_) in LANGUAGES.items():
    code = blocks[language]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) < 20, f"the receiver in {language} has {len(lines)} lines"
    if shutil.which(runtime) is None:
        print(f"receiver in {language}: not run, there is no {runtime}")
        continue
    check(language, code)
    checked += 1
assert checked >= 2, "Python and Node.js are always here"
