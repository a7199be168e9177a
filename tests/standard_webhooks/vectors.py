#!/usr/bin/env python3
"""Exchanges signatures with the official Python library `standardwebhooks`; see README.md.

    vectors.py write             signs with the library and writes vectors.json
    vectors.py verify QUARTET    verifies with the library what `QUARTET sign-webhook` signs
"""

import base64
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

VECTORS = Path(__file__).with_name("vectors.json")


def secret(length: int) -> str:
    # Every byte value occurs, so that `+` and `/` occur in the text.
    key = bytes((7 * n + 251) % 256 for n in range(length))
    return "whsec_" + base64.b64encode(key).decode()


BODIES = [
    "",
    "{}",
    '{"id":"0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03","status":"completed"}',
    '{ "id" : "0195f3a2-7b1c-7e9a-8d4f-2c6b5a1e9f03",\n\t"status" : "declined" }\r\n',
    '{"reference":"Grüße, 東京, 🦀","escaped":"\\u00fc\\n"}',
    "not.json.but.with.dots",
    '{"long":"' + "0123456789" * 700 + '"}',
]
SECRETS = [secret(24), secret(32), secret(64)]
TIMESTAMPS = [1, 1614265330, 1795428000, 4102444800]


def write() -> None:
    vectors = []
    for number, body in enumerate(BODIES):
        for key in SECRETS:
            timestamp = TIMESTAMPS[len(vectors) % len(TIMESTAMPS)]
            msg_id = f"msg_{number}_{len(vectors)}"
            moment = datetime.fromtimestamp(timestamp, tz=timezone.utc)
            signature = Webhook(key).sign(msg_id, moment, body)
            vectors.append(
                {
                    "secret": key,
                    "id": msg_id,
                    "timestamp": timestamp,
                    "body": body,
                    "signature": signature,
                }
            )
    VECTORS.write_text(json.dumps(vectors, indent=2, ensure_ascii=False) + "\n")
    print(f"{len(vectors)} vectors written")


def sign_webhook(quartet: str, key: str, body: str) -> dict[str, str]:
    env = {**os.environ, "QUARTET_WEBHOOK__SECRETS": key}
    run = subprocess.run(
        [quartet, "sign-webhook"], input=body.encode(), env=env, capture_output=True, check=True
    )
    lines = run.stdout.decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    assert list(headers) == ["webhook-id", "webhook-timestamp", "webhook-signature"], lines
    return headers


def verify(quartet: str) -> None:
    count = 0
    for body in BODIES:
        for key in SECRETS:
            headers = sign_webhook(quartet, key, body)
            Webhook(key).verify(body, headers, json_parse=False)
            try:
                Webhook(key).verify(body + " ", headers, json_parse=False)
            except WebhookVerificationError:
                count += 1
            else:
                raise AssertionError("a tampered body was accepted")
    print(f"{count} signatures of sign-webhook verified")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write"]:
            write()
        case ["verify", quartet]:
            verify(quartet)
        case _:
            sys.exit(__doc__)
