//! How fast one client may call: a token bucket for each client, in the memory of this process.
//!
//! A limit shared by all processes would cost each request a round trip, and would fail with its
//! store. So the limit is per process: a client may send that much to each of them. Only clients
//! that are known by their key have a bucket: wrong keys fill no memory.
//!
//! What is left stands in the header fields `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-11).

use std::num::NonZeroU32;

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};
use poem::http::{HeaderMap, HeaderValue, header};
use uuid::Uuid;

use crate::config;

/// What a policy is, and what is left of it.
const POLICY: &str = "ratelimit-policy";
const LEFT: &str = "ratelimit";
/// The name of the only policy.
const NAME: &str = "client";

type Buckets = RateLimiter<Uuid, HashMapStateStore<Uuid>, DefaultClock, StateInformationMiddleware>;

/// The buckets of all clients.
#[derive(Debug)]
pub struct RateLimits {
    buckets: Buckets,
    /// The value of `RateLimit-Policy`.
    policy: HeaderValue,
}

/// What a client may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Whether this request is within the limit.
    pub is_allowed: bool,
    /// Requests that may follow at once.
    pub left: u32,
    /// Seconds until there is more.
    pub more_after_secs: u64,
}

impl RateLimits {
    /// None where there is no limit.
    pub fn new(limits: &config::Limits) -> Option<Self> {
        let rate = NonZeroU32::new(limits.rate)?;
        let burst = limits.burst.and_then(NonZeroU32::new).unwrap_or(rate);
        let quota = Quota::per_second(rate).allow_burst(burst);
        // Seconds after its last request until a client has the whole quota again.
        let window = burst.get().div_ceil(rate.get());
        let policy = HeaderValue::try_from(format!("\"{NAME}\";q={burst};w={window}")).ok()?;
        let buckets = RateLimiter::hashmap(quota).with_middleware();
        Some(Self { buckets, policy })
    }

    /// Counts a request of this client.
    pub fn count(&self, client_id: Uuid) -> Allowance {
        match self.buckets.check_key(&client_id) {
            // A bucket gets at least one more in every second.
            Ok(state) => Allowance {
                is_allowed: true,
                left: state.remaining_burst_capacity(),
                more_after_secs: 1,
            },
            Err(until) => {
                let wait = until.wait_time_from(self.buckets.clock().now());
                let more_after_secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Allowance { is_allowed: false, left: 0, more_after_secs: more_after_secs.max(1) }
            }
        }
    }

    /// Writes what is left into the headers of the answer.
    pub fn write_headers(&self, allowance: Allowance, headers: &mut HeaderMap) {
        let Allowance { is_allowed, left, more_after_secs } = allowance;
        headers.insert(POLICY, self.policy.clone());
        // Digits and plain ASCII: always a valid value.
        if let Ok(value) = HeaderValue::try_from(format!("\"{NAME}\";r={left};t={more_after_secs}"))
        {
            headers.insert(LEFT, value);
        }
        if !is_allowed {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(more_after_secs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: u32, burst: Option<u32>) -> Option<RateLimits> {
        RateLimits::new(&config::Limits { rate, burst })
    }

    #[test]
    fn a_client_that_used_up_its_burst_waits_and_others_do_not() {
        let limits = limits(1, Some(3)).unwrap();
        let (busy, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let left: Vec<u32> = (0..3).map(|_| limits.count(busy).left).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = limits.count(busy);
        assert_eq!(refused, Allowance { is_allowed: false, left: 0, more_after_secs: 1 });
        assert!(limits.count(other).is_allowed);
        let mut headers = HeaderMap::new();
        limits.write_headers(refused, &mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"client\";q=3;w=3");
        assert_eq!(headers["ratelimit"], "\"client\";r=0;t=1");
        assert_eq!(headers["retry-after"], "1");
    }

    #[test]
    fn no_rate_is_no_limit_and_no_burst_is_a_second() {
        assert!(limits(0, Some(5)).is_none());
        let limits = limits(50, None).unwrap();
        assert_eq!(limits.policy, "\"client\";q=50;w=1");
        assert!((0..50).all(|_| limits.count(Uuid::nil()).is_allowed));
    }
}
