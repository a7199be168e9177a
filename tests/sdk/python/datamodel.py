"""Uses the models that datamodel-code-generator makes, with httpx: URL and API key are the arguments."""

import sys
import uuid

import httpx
from quartet_models import (
    NewTransaction,
    Problem,
    Transaction,
    TransactionList,
    TransactionStatus,
)

url, key = sys.argv[1:]
http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=40)


def post(new):
    body = new.model_dump_json(exclude_none=True)
    return http.post("/v1/transactions", content=body, headers={"Content-Type": "application/json"})


new = NewTransaction(
    id=uuid.uuid4(),
    amount=1250,
    currency="EUR",
    reference="datamodel-code-generator",
    metadata={"order": "A-117"},
)
posted = post(new)
assert posted.status_code == 202, posted.text
assert Transaction.model_validate_json(posted.content).status is TransactionStatus.pending

replayed = post(new)
assert replayed.status_code == 200, replayed.text
assert Transaction.model_validate_json(replayed.content).id == new.id
assert replayed.headers["Idempotent-Replayed"] == "true"

conflict = post(new.model_copy(update={"amount": 1251}))
assert conflict.status_code == 409, conflict.text
assert Problem.model_validate_json(conflict.content).type == "/docs/errors#id-conflict"

ended = http.get(f"/v1/transactions/{new.id}", params={"wait_seconds": 30})
ended = Transaction.model_validate_json(ended.content)
assert ended.status is not TransactionStatus.pending, ended

page = http.get("/v1/transactions", params={"status": ended.status.value, "limit": 200})
page = TransactionList.model_validate_json(page.content)
assert new.id in [transaction.id for transaction in page.items], page

lonely = post(NewTransaction(id=uuid.uuid4(), currency="EUR"))
assert lonely.status_code == 422, lonely.text
invalid = Problem.model_validate_json(lonely.content)
assert [error.pointer for error in invalid.errors] == ["/amount"], invalid

for body in ({"id": "117"}, {"id": str(new.id), "currency": "euro"}, {"id": str(new.id), "x": 1}):
    try:
        NewTransaction.model_validate(body)
    except ValueError:
        continue
    sys.exit(f"error: the model takes {body}")

missing = Problem.model_validate_json(http.get(f"/v1/transactions/{uuid.uuid4()}").content)
assert missing.status == 404, missing

print(f"posted, replayed, conflict, {ended.status.value}, listed, 422, 404")
