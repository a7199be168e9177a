"""What schemathesis cannot know from the document: how a webhook is signed, and which values exist.

Loaded by .ci/schemathesis, which sets the environment.
"""

import base64
import hashlib
import hmac
import os
import time

import requests
import schemathesis

SECRET = base64.b64decode(os.environ["QUARTET_WEBHOOK_SECRET"].removeprefix("whsec_"))
# The client that `quartet dev` registers.
CLIENT = "sandbox"
# The one without a name of its own.
THIRD_PARTY = "third-party"

# Operation -> the last cursor that it gave.
cursors = {}


class Signed(requests.auth.AuthBase):
    """Signs the bytes that are sent, as Standard Webhooks, at the present time."""

    def __call__(self, request):
        webhook_id, sent_at = (
            value.encode("utf-8") if isinstance(value, str) else value
            for value in (request.headers.get(name) for name in ("webhook-id", "webhook-timestamp"))
        )
        # Where one is left out on purpose, it stays so.
        if webhook_id is None or sent_at is None or "webhook-signature" not in request.headers:
            return request
        # Any int64 is a time, but only the present one is good.
        if sent_at.lstrip(b"-").isdigit() and abs(int(sent_at)) < 1 << 63:
            sent_at = str(int(time.time())).encode()
            request.headers["webhook-timestamp"] = sent_at.decode()
        body = request.body or b""
        content = b".".join([webhook_id, sent_at, body.encode() if isinstance(body, str) else body])
        digest = hmac.new(SECRET, content, hashlib.sha256).digest()
        request.headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        return request


@schemathesis.hook
def before_call(ctx, case, kwargs):
    if ctx.operation.path == "/v1/webhooks/third-party":
        kwargs["auth"] = Signed()
        # Not a generated value, which must not be good: so the signature is left out, and made up,
        # to see both refused.
        case._has_explicit_auth = True
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    query = case.query
    # A cursor is one that was given; no document can say which.
    if query and "cursor" in query:
        known = cursors.get(ctx.operation.label)
        if known is None:
            del query["cursor"]
        else:
            query["cursor"] = known
    # The name of a client that is there.
    if query and "client" in query:
        query["client"] = CLIENT
    if isinstance(case.body, dict) and isinstance(case.body.get("client"), str):
        case.body["client"] = CLIENT
    # A third party that is configured.
    if isinstance(case.body, dict) and isinstance(case.body.get("third_party"), str):
        case.body["third_party"] = THIRD_PARTY
    # An amount has a currency and a currency an amount, which a document for generators says in
    # words alone; and a currency is one that exists.
    if isinstance(case.body, dict) and ctx.operation.path == "/v1/transactions":
        if case.body.get("amount") is None or case.body.get("currency") is None:
            case.body = {k: v for k, v in case.body.items() if k not in ("amount", "currency")}
        else:
            case.body["currency"] = "EUR"
    # Many are replayed only where their number is confirmed, and no document can say that.
    if ctx.operation.path == "/v1/operator/dead-letters/replay":
        body = case.body if isinstance(case.body, dict) else {}
        if not body.get("ids") and body.get("confirm") is None:
            case.media_type = "application/json"
            case.body = {**body, "dry_run": True}
    # Half a minute for each request is too long for a test.
    if query and "wait_seconds" in query:
        query["wait_seconds"] = min(int(query["wait_seconds"]), 1)


@schemathesis.hook
def after_call(ctx, case, response):
    if response.status_code == 200 and case.method.upper() == "GET":
        try:
            cursor = response.json().get("next_cursor")
        except (ValueError, AttributeError):
            return
        if cursor:
            cursors[ctx.operation.label] = cursor
