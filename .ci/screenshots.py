"""Makes the README's pictures of the console; see .ci/screenshots.

It runs `quartet dev`, posts for a while, sends a webhook about an unknown transaction, signs in to the
console with a headless Chromium and saves two pages: the overview, and a transaction whose create the
third party answered 504 and stored all the same.
"""

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

QUARTET, DIRECTORY = os.path.abspath(sys.argv[1]), "docs/images"
POST_FOR_SECONDS = 150
BOUND_SECONDS = 180
MAX_BYTES = 150_000
WIDTH, MAX_HEIGHT = 1180, 1400
AMBIGUOUS = """
    SELECT id FROM transactions
    WHERE reference LIKE 'Invoice %' AND status = 'completed' AND notified_version = version AND EXISTS (
        SELECT FROM transaction_events AS event
        WHERE event.transaction_id = transactions.id AND event.kind = 'create_ambiguous')
        AND NOT EXISTS (
        SELECT FROM transaction_events AS event
        WHERE event.transaction_id = transactions.id AND event.kind = 'created_at_third_party')
    ORDER BY created_at LIMIT 1"""


def call(method, url, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def start(command, pattern):
    """Starts a program; returns it, and what it printed until `pattern` stood there."""
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "QUARTET_HTTP__LISTEN": "127.0.0.1:0"},
    )
    printed = ""
    for line in program.stdout:
        printed += line
        if re.search(pattern, line):
            # What it prints later must not fill the pipe.
            threading.Thread(target=program.stdout.read, daemon=True).start()
            return program, printed
    raise SystemExit(f"{command[0]} ended: {printed}")


class Browser:
    """A headless Chromium, by the WebDriver protocol."""

    def __init__(self):
        self.driver, printed = start(["chromedriver", "--port=0"], r"started successfully on port")
        port = re.search(r"successfully on port (\d+)", printed).group(1)
        options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-color-profile=srgb"]
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": options}}
        base = f"http://127.0.0.1:{port}/session"
        session = call("POST", base, {"capabilities": {"alwaysMatch": wanted}})
        self.url = f"{base}/{session['value']['sessionId']}"

    def command(self, path, body):
        return call("POST", f"{self.url}/{path}", body)["value"]

    def open(self, url):
        self.command("url", {"url": url})

    def run(self, script):
        return self.command("execute/sync", {"script": script, "args": []})

    def save(self, name):
        """Saves the whole page, up to a height."""
        self.command("window/rect", {"width": WIDTH, "height": 600})
        window, page = self.run("return [outerHeight - innerHeight, document.body.scrollHeight]")
        self.command("window/rect", {"width": WIDTH, "height": window + min(page, MAX_HEIGHT)})
        picture = base64.b64decode(call("GET", f"{self.url}/screenshot")["value"])
        path = f"{DIRECTORY}/{name}.png"
        with open(path, "wb") as file:
            file.write(picture)
        print(f"{path}: {len(picture)} bytes")
        if len(picture) > MAX_BYTES:
            raise SystemExit(f"{path} is larger than {MAX_BYTES} bytes: make MAX_HEIGHT smaller")

    def end(self):
        try:
            call("DELETE", self.url)
        finally:
            self.driver.terminate()


def post_for_a_while(url, key):
    end, number = time.monotonic() + POST_FOR_SECONDS, 0
    while time.monotonic() < end:
        number += 1
        body = {"id": str(uuid.uuid4()), "amount": 100 + number * 7 % 9_000, "currency": "EUR",
                "reference": f"Invoice {number}"}
        headers = {"Authorization": f"Bearer {key}"}
        try:
            call("POST", f"{url}/v1/transactions", body, headers)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.3)


def send_unknown(url, secret):
    """A webhook about a transaction that does not exist, which opens a dead letter."""
    body = json.dumps({"id": str(uuid.uuid4()), "status": "completed"})
    signed = subprocess.run([QUARTET, "sign-webhook", "--secret", secret], input=body, check=True,
                            capture_output=True, text=True).stdout
    headers = dict(line.split(": ", 1) for line in signed.splitlines())
    headers["Content-Type"] = "application/json"
    request = urllib.request.Request(f"{url}/v1/webhooks/third-party", body.encode(), headers)
    urllib.request.urlopen(request, timeout=60).close()


def ambiguous(database):
    end = time.monotonic() + BOUND_SECONDS
    while time.monotonic() < end:
        found = subprocess.run(["psql", "-XAt", "-c", AMBIGUOUS, database], check=True,
                               capture_output=True, text=True).stdout.strip()
        if found:
            return found
        time.sleep(1)
    raise SystemExit("no create that was answered 504 was stored all the same")


def main():
    os.makedirs(DIRECTORY, exist_ok=True)
    dev, printed = start([QUARTET, "dev", "--speed", "10"], r"Ctrl-C ends it\.")
    browser = None
    try:
        values = dict(re.findall(r"(\w+)='([^']*)'", printed))
        url, token = values["QUARTET"], values["OPERATOR"].removeprefix("Authorization: Bearer ")
        post_for_a_while(url, values["KEY"])
        send_unknown(url, values["SECRET"])
        transaction = ambiguous(values["DATABASE"])
        browser = Browser()
        browser.open(f"{url}/console")
        browser.run(f"""
            const form = document.querySelector('form');
            form.querySelector('input[type=password]').value = {json.dumps(token)};
            const name = form.querySelector('input[type=text]');
            if (name) name.value = 'grace';
            form.requestSubmit();""")
        time.sleep(2)
        browser.open(f"{url}/console")
        browser.save("console-overview")
        browser.open(f"{url}/console/transactions/{transaction}")
        browser.save("console-transaction")
    finally:
        if browser:
            browser.end()
        dev.terminate()
        dev.wait(timeout=60)


main()
