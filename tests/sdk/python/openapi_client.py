"""Uses the client that openapi-python-client makes: URL and API key are the arguments."""

import sys
import uuid

from quartet_client import AuthenticatedClient
from quartet_client.api.transactions import (
    create_transaction,
    get_transaction,
    list_transaction_events,
    list_transactions,
)
from quartet_client.models import (
    EvidenceKind,
    Metadata,
    NewTransaction,
    Problem,
    Transaction,
    TransactionEventList,
    TransactionList,
    TransactionStatus,
)

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, timeout=40)
new = NewTransaction(
    id=uuid.uuid4(),
    amount=1250,
    currency="EUR",
    reference="openapi-python-client",
    metadata=Metadata.from_dict({"order": "A-117"}),
)

posted = create_transaction.sync_detailed(client=client, body=new)
assert posted.status_code == 202, posted
assert isinstance(posted.parsed, Transaction) and posted.parsed.id == new.id, posted
assert posted.parsed.status is TransactionStatus.PENDING, posted
assert posted.headers["Location"].endswith(str(new.id)), posted

replayed = create_transaction.sync_detailed(client=client, body=new)
assert replayed.status_code == 200 and isinstance(replayed.parsed, Transaction), replayed
assert replayed.headers["Idempotent-Replayed"] == "true", replayed

changed = NewTransaction(id=new.id, amount=1251, currency="EUR")
conflict = create_transaction.sync_detailed(client=client, body=changed)
assert conflict.status_code == 409 and isinstance(conflict.parsed, Problem), conflict
assert conflict.parsed.type_ == "/docs/errors#id-conflict", conflict

ended = get_transaction.sync(new.id, client=client, wait_seconds=30)
assert isinstance(ended, Transaction) and ended.status is not TransactionStatus.PENDING, ended
assert ended.metadata and ended.metadata["order"] == "A-117", ended
assert ended.settled_by and ended.settled_at, ended

events = list_transaction_events.sync(new.id, client=client)
assert isinstance(events, TransactionEventList), events
assert events.items[0].kind is EvidenceKind.ACCEPTED, events

seen, cursor = 0, None
while True:
    more = {"cursor": cursor} if cursor else {}
    page = list_transactions.sync(client=client, status=ended.status, limit=1, **more)
    assert isinstance(page, TransactionList) and len(page.items) == 1, page
    assert page.items[0].status is ended.status, page
    seen, cursor = seen + 1, page.next_cursor
    if page.items[0].id == new.id or cursor is None:
        break
assert page.items[0].id == new.id, page

lonely = NewTransaction(id=uuid.uuid4(), amount=1250)
invalid = create_transaction.sync_detailed(client=client, body=lonely)
assert invalid.status_code == 422 and isinstance(invalid.parsed, Problem), invalid
assert [error.pointer for error in invalid.parsed.errors] == ["/currency"], invalid

missing = get_transaction.sync(uuid.uuid4(), client=client)
assert isinstance(missing, Problem) and missing.status == 404, missing

stranger = AuthenticatedClient(base_url=url, token="qk_nobody")
refused = list_transactions.sync(client=stranger)
assert isinstance(refused, Problem) and refused.type_ == "/docs/errors#unauthorized", refused

print(f"posted, replayed, conflict, {ended.status}, events, {seen} listed, 422, 404, 401")
