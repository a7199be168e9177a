//! The words that stand in metrics for what happened.

use crate::domain::string_enum;

string_enum! {
    /// How a `POST /v1/transactions` was answered.
    AcceptResult {
        /// 202: stored with its four jobs.
        Accepted = "accepted",
        /// 200: it was posted before.
        Replayed = "replayed",
        /// 409: posted before with other content, or by another client.
        Conflict = "conflict",
        /// 400, 408, 413, 415 or 422.
        Invalid = "invalid",
        /// 401.
        Unauthorized = "unauthorized",
        /// 429: the client sends too many requests.
        RateLimited = "rate_limited",
        /// 503: the database was away, or there was too much to do.
        Unavailable = "unavailable",
        /// Anything else.
        Failed = "failed",
    }
}

impl AcceptResult {
    /// What an answer's status says.
    pub fn of_status(status: u16) -> Self {
        match status {
            202 => Self::Accepted,
            200 => Self::Replayed,
            409 => Self::Conflict,
            400 | 408 | 413 | 415 | 422 => Self::Invalid,
            401 => Self::Unauthorized,
            429 => Self::RateLimited,
            503 => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

string_enum! {
    /// What became of a webhook.
    WebhookResult {
        /// It settled the transaction.
        Settled = "settled",
        /// It said what was known.
        Unchanged = "unchanged",
        /// It contradicts the present status.
        Conflict = "conflict",
        /// It names an id that is not here.
        UnknownTransaction = "unknown_transaction",
        /// It was received before.
        Duplicate = "duplicate",
        /// It proves nothing, or says nothing final: its transaction is polled.
        Hint = "hint",
        /// It names an id of the third party that no transaction has yet, and waits.
        Waiting = "waiting",
        /// 401: its signature is wrong, missing or too old.
        BadSignature = "bad_signature",
        /// 400, 408, 413, 415 or 422.
        Invalid = "invalid",
        /// 503: the database was away, or there was too much to do.
        Unavailable = "unavailable",
        /// Anything else.
        Failed = "failed",
    }
}

impl WebhookResult {
    /// What the status of an answer other than 200 says.
    pub fn of_refusal(status: u16) -> Self {
        match status {
            400 | 408 | 413 | 415 | 422 => Self::Invalid,
            401 => Self::BadSignature,
            503 => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}

string_enum! {
    /// Why a request or a connection was refused before it was looked at closely.
    RejectReason {
        /// 429: its client sends too many.
        RateLimit = "rate_limit",
        /// 429: its client waits for as many transactions at the same time as are its share.
        WaitingShare = "waiting_share",
        /// 503: too many of its kind are under way.
        InFlight = "in_flight",
        /// 503: those before it have waited for a writer for too long.
        Queue = "queue",
        /// There are too many connections.
        Connections = "connections",
        /// The head of a request did not come in time.
        SlowHead = "slow_head",
        /// 408: the body of a request did not come in time.
        SlowBody = "slow_body",
        /// 400: where a request ends can be read in two ways.
        Framing = "framing",
    }
}

string_enum! {
    /// How the third party answered a create.
    CreateResult {
        /// 2xx.
        Created = "created",
        /// 409.
        Exists = "exists",
        /// It may have gone through.
        Ambiguous = "ambiguous",
        /// No connection.
        Unreachable = "unreachable",
        /// 429 or 503.
        Busy = "busy",
        /// Another 4xx.
        Rejected = "rejected",
        /// 401 or 403.
        Unauthorized = "unauthorized",
        /// Not sent, because the worker's lease was lost.
        Stale = "stale",
        /// Not sent, because it found no place on a connection.
        NotSent = "not_sent",
    }
}

string_enum! {
    /// How the third party answered a lookup.
    LookupResult {
        /// It is there.
        Found = "found",
        /// It is not there, or lookups are not offered.
        Absent = "absent",
        /// No usable answer.
        NoAnswer = "no_answer",
        /// 401 or 403.
        Unauthorized = "unauthorized",
        /// Not sent, because it found no place on a connection.
        Queued = "queued",
    }
}

string_enum! {
    /// Whom this process calls.
    CalledPeer {
        /// The third party.
        ThirdParty = "third_party",
        /// A client's callback host.
        Client = "client",
    }
}

string_enum! {
    /// Why a request was sent again at once.
    SentAgain {
        /// A used connection broke instead of answering.
        ConnectionBroke = "connection_broke",
        /// The peer said that it had not processed it.
        NotProcessed = "not_processed",
    }
}

string_enum! {
    /// How a client answered a notification.
    NotifyResult {
        /// 2xx.
        Delivered = "delivered",
        /// 410: it wants no more.
        Gone = "gone",
        /// Another answer.
        Refused = "refused",
        /// No answer.
        Unreachable = "unreachable",
        /// Not called: its callback URL leads where none may.
        Blocked = "blocked",
        /// Not sent: the worker's lease was lost.
        Stale = "stale",
        /// Not sent: it found no place on a connection.
        NotSent = "not_sent",
    }
}

string_enum! {
    /// Why the database did not serve this process.
    DatabaseErrorCause {
        /// No connection, a lost one, a restart.
        Connection = "connection",
        /// No answer in time.
        Timeout = "timeout",
        /// It takes no writes: a standby, or set so by an administrator.
        ReadOnly = "read_only",
        /// It takes no more connections.
        TooManyConnections = "too_many_connections",
        /// No space is left on its disk.
        DiskFull = "disk_full",
        /// Another resource is used up, or its system failed.
        Other = "other",
    }
}
